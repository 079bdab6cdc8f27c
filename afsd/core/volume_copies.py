"""Which copy of a volume is the volume, when a fileserver starts and finds one or more on disk.

Theory of operation
    A move within a fileserver, or between two, leaves two copies for a while. At most one of them
    is served: what is half of a move that has not ended says so (`in_transit`), and the volserver,
    who knows the location database, ends the move or undoes it. So of several copies the one that
    can be attached is the volume. Without one, the record tells what is wrong with the copy that is
    most likely the volume: one that another program has open, then a damaged one, and a half only
    where there is nothing else.

    A volume that was deleted between being listed and being opened leaves no record.

Source: OpenAFS `src/vol/volume.c`, `attach2`, which leaves volumes alone that are `destroyMe` or
not `inService`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from afs.errors import AfsCode
from afsd.core.volume_rules import VolumeState
from afsd.core.volume_state import VolumeRecord

IN_TRANSIT_DETAIL: Final = "half of a move that has not ended: its volserver clears that up"


class Copy(IntEnum):
    """What one copy on disk turned out to be; of two copies the larger one is the volume."""

    GONE = 0
    IN_TRANSIT = 1
    DAMAGED = 2
    TAKEN = 3
    ATTACHED = 4


def copy_that_failed(code: AfsCode, *, is_there: bool) -> Copy:
    """What a copy is that could not be attached.

    Args:
        code: why not.
        is_there: whether it is on disk now.
    """
    if not is_there:
        return Copy.GONE
    # Another process has had it since before we started: the program that took it from our
    # predecessor.
    return Copy.TAKEN if code is AfsCode.VBUSY else Copy.DAMAGED


def record_without_attachment(copy: Copy, detail: str) -> VolumeRecord | None:
    """The record of a volume of which this is the best copy; None if there is no volume."""
    match copy:
        case Copy.GONE:
            return None
        case Copy.IN_TRANSIT:
            return VolumeRecord(VolumeState.CHECKED_OUT, detail=IN_TRANSIT_DETAIL)
        case Copy.TAKEN:
            return VolumeRecord(VolumeState.CHECKED_OUT, detail=detail)
        case _:
            assert copy is Copy.DAMAGED, "what is attached has its record from that"
            return VolumeRecord(VolumeState.ERROR, detail=detail)
