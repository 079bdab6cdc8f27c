"""Which copy of a volume is the volume at the start."""

from __future__ import annotations

import pytest

from afs.errors import AfsCode
from afsd.core.volume_copies import (
    IN_TRANSIT_DETAIL,
    Copy,
    copy_that_failed,
    record_without_attachment,
)
from afsd.core.volume_rules import FsyncCommand, FsyncReason, Step, VolumeState
from afsd.core.volume_state import VolumeRecord, decide


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (Copy.ATTACHED, Copy.TAKEN),
        (Copy.TAKEN, Copy.DAMAGED),
        (Copy.DAMAGED, Copy.IN_TRANSIT),
        (Copy.IN_TRANSIT, Copy.GONE),
    ],
)
def test_the_better_copy_is_the_volume(better: Copy, worse: Copy) -> None:
    """R7: a half of a move is the volume only where there is nothing else."""
    assert better > worse


@pytest.mark.parametrize(
    ("code", "is_there", "expected"),
    [
        (AfsCode.VBUSY, True, Copy.TAKEN),
        (AfsCode.VSALVAGE, True, Copy.DAMAGED),
        (AfsCode.VIO, True, Copy.DAMAGED),
        (AfsCode.VNOVOL, False, Copy.GONE),
        (AfsCode.VSALVAGE, False, Copy.GONE),
        (AfsCode.VBUSY, False, Copy.GONE),
    ],
)
def test_what_a_copy_is_that_cannot_be_attached(
    code: AfsCode, expected: Copy, *, is_there: bool
) -> None:
    """What was deleted meanwhile is gone, whatever opening it met."""
    assert copy_that_failed(code, is_there=is_there) is expected


@pytest.mark.parametrize(
    ("copy", "expected"),
    [
        (Copy.GONE, None),
        (Copy.TAKEN, VolumeRecord(VolumeState.CHECKED_OUT, detail="why")),
        (Copy.DAMAGED, VolumeRecord(VolumeState.ERROR, detail="why")),
        (Copy.IN_TRANSIT, VolumeRecord(VolumeState.CHECKED_OUT, detail=IN_TRANSIT_DETAIL)),
    ],
)
def test_the_record_of_a_volume_that_is_not_attached(
    copy: Copy, expected: VolumeRecord | None
) -> None:
    """A volume that was deleted leaves none, so it is in no error state."""
    assert record_without_attachment(copy, "why") == expected


def test_a_half_of_a_move_is_put_on_line_by_any_volserver() -> None:
    """V5: nobody is known to have it; and without a mark it counts as changed (V2)."""
    half = record_without_attachment(Copy.IN_TRANSIT, "")
    decision = decide(half, FsyncCommand.VOL_ON, FsyncReason.FOR_MOVE, "volserver@run")
    assert decision.step is Step.ATTACH
    assert decision.rule.elsewhere
    assert decision.breaks is not None
