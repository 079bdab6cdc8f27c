"""The steps of a release; `steps` says what goes for all.

Why this order
    Every site that can be reached has the new state beside the old one, checked and on its disk,
    before the first of them shows it: so what can fail has failed before, and the time during
    which some show the old and some the new is as short as a rename. The point of no return is the
    first site that shows it. The entry follows: its numbers send clients to sites that show the
    newest state. A release that is cut short anywhere is simply run again: a site that has the
    state already is sent nothing.
"""

from __future__ import annotations

from volserverd.core.step import Role, Step, StepKind, step


def _clone() -> list[Step]:
    """The state to release is that of a temporary clone, with the volume back in service."""
    return [
        step(StepKind.TAKE),
        step(StepKind.CLONE_TEMPORARY),
        step(StepKind.GIVE_BACK),
    ]


def release_steps() -> list[Step]:
    """All read-only sites show the read-write volume's present state."""
    return [
        step(StepKind.LOCK_ENTRY),
        step(StepKind.OPEN_SITES, interruptible=True),
        *_clone(),
        step(StepKind.STAGE_AT_SITES, interruptible=True),
        step(StepKind.SHOW_AT_SITES, no_return=True),
        step(StepKind.NOTE_RELEASE),
        step(StepKind.CLOSE_SITES),
        step(StepKind.DELETE_TEMPORARY, Role.TEMPORARY),
        step(StepKind.SETTLE_ENTRY),
    ]


def release_plan_steps() -> list[Step]:
    """What a release would send is found out; nothing is sent or changed."""
    return [
        step(StepKind.OPEN_SITES, interruptible=True),
        *_clone(),
        step(StepKind.STAGE_AT_SITES, interruptible=True),
        step(StepKind.CLOSE_SITES),
        step(StepKind.DELETE_TEMPORARY, Role.TEMPORARY),
    ]
