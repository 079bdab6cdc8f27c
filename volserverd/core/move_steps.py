"""The steps of moves and copies, in order.

Why these orders
    move   Until the site is switched in the location entry nothing has happened that is not undone:
           the volume is in service but for short moments, and the target has nothing in its place.
           The mark `in_transit` comes before the last round: from then on no crash can put the
           source into service while the target has newer contents. The switch is the point of no
           return, and after a crash the entry says whether it was reached. Promises on the source
           are broken before it: from the switch on the target may serve, though we die, and its
           fileserver knows nobody who holds them. That the volume has moved, clients are told last,
           when there is a place to send them to.
    copy   The same with a new entry that names no site until the copy is in its place: so what
           became of a copy that was cut short is told in the same way.
"""

from __future__ import annotations

from volserverd.core.step import Role, Step, StepKind, step


def _first_round() -> list[Step]:
    """The volume is sent from a temporary clone, while it is in service."""
    return [
        step(StepKind.TAKE),
        step(StepKind.CLONE_TEMPORARY),
        step(StepKind.GIVE_BACK),
        step(StepKind.SEND_ROUND, Role.TEMPORARY, interruptible=True),
        step(StepKind.DELETE_TEMPORARY, Role.TEMPORARY),
    ]


def move_steps(*, has_backup: bool) -> list[Step]:
    """A volume goes to another server or partition; its backup volume does not come along."""
    backup = [
        step(StepKind.TAKE, Role.BACKUP),
        step(StepKind.DELETE_ON_DISK, Role.BACKUP),
        step(StepKind.FORGET, Role.BACKUP),
    ]
    return [
        step(StepKind.LOCK_ENTRY),
        step(StepKind.OPEN_TRANSFER),
        *_first_round(),
        step(StepKind.CATCH_UP, interruptible=True),
        step(StepKind.TAKE),
        step(StepKind.MARK_IN_TRANSIT),
        step(StepKind.SEND_LAST_ROUND, interruptible=True),
        step(StepKind.PUT_IN_PLACE_THERE),
        step(StepKind.BREAK_PROMISES),
        step(StepKind.SWITCH_SITE, no_return=True),
        step(StepKind.PUT_ON_THERE),
        step(StepKind.TELL_MOVED),
        step(StepKind.CLOSE_TRANSFER),
        *(backup if has_backup else []),
        step(StepKind.SET_ASIDE),
        step(StepKind.SETTLE_ENTRY),
    ]


def copy_steps() -> list[Step]:
    """A new volume, perhaps elsewhere, with the contents of one of ours."""
    return [
        step(StepKind.CREATE_COPY_ENTRY),
        step(StepKind.OPEN_TRANSFER),
        *_first_round(),
        step(StepKind.PUT_IN_PLACE_THERE),
        step(StepKind.SWITCH_SITE, no_return=True),
        step(StepKind.PUT_ON_THERE),
        step(StepKind.CLOSE_TRANSFER),
        step(StepKind.SETTLE_ENTRY),
    ]


def plan_steps() -> list[Step]:
    """What a move or a copy would send is found out; nothing is sent."""
    return [
        step(StepKind.OPEN_TRANSFER),
        *_first_round(),
        step(StepKind.CLOSE_TRANSFER),
    ]
