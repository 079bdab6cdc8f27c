"""The steps of a salvage.

The volume is taken from the fileserver, which hands out for this a damaged one too. The salvage
itself is one renaming on disk, so there is nothing to undo; given back, the fileserver breaks the
callbacks if anything changed.
"""

from __future__ import annotations

from volserverd.core.step import Step, StepKind, step


def salvage_steps() -> list[Step]:
    """A volume is checked, and repaired."""
    return [
        step(StepKind.TAKE),
        step(StepKind.SALVAGE, interruptible=True),
        step(StepKind.GIVE_BACK),
    ]
