"""Locks of this machine's programs on one file: ranges of bytes, for reading or writing.

Theory of operation
    fcntl(2) and flock(2) locks are two families that know nothing of each other, as on a local
    disk; flock's range is the whole file. An owner is what the kernel calls one: for fcntl(2) the
    open files of a process, for flock(2) the open file. Within its own ranges an owner replaces,
    splits and merges as it likes; a range of one owner stands in the way of another owner of its
    family if they overlap and one of them writes.

Invariant: each owner's ranges are in order, do not overlap, and two that touch are of different
types.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, unique
from typing import Final, NamedTuple

from afs.types import LockType

# The last byte that a range can name. Source: OFFSET_MAX, linux/fs.h.
LAST_BYTE: Final = 2**63 - 1


@unique
class LockFamily(Enum):
    """By which system call a lock was made."""

    FCNTL = "fcntl"
    FLOCK = "flock"


class LockOwner(NamedTuple):
    """Whose a lock is; `number` is the kernel's."""

    family: LockFamily
    number: int


class RangeLock(NamedTuple):
    """One range, from byte `start` to byte `end`, both included; `pid` for F_GETLK."""

    type: LockType
    start: int
    end: int
    pid: int


class RangeLocks:
    """All ranges of one file, by owner."""

    def __init__(self) -> None:
        self._ranges: dict[LockOwner, list[RangeLock]] = {}

    def __len__(self) -> int:
        """How many ranges there are."""
        return sum(map(len, self._ranges.values()))

    def __contains__(self, owner: LockOwner) -> bool:
        """True if the owner has any."""
        return owner in self._ranges

    @property
    def mode(self) -> LockType | None:
        """What the machine needs the file for: the most that any range wants; None for nothing."""
        return max((each.type for _, each in self.all()), default=None)

    def all(self) -> Iterator[tuple[LockOwner, RangeLock]]:
        """Every range, with its owner."""
        for owner, ranges in self._ranges.items():
            for each in ranges:
                yield owner, each

    def in_the_way(
        self, owner: LockOwner, wanted: LockType, start: int, end: int
    ) -> list[tuple[LockOwner, RangeLock]]:
        """Ranges of others that exclude this one."""
        return [
            (other, each)
            for other, each in self.all()
            if other != owner
            and other.family is owner.family
            and each.start <= end
            and each.end >= start
            and LockType.WRITE in (wanted, each.type)
        ]

    def set(
        self, owner: LockOwner, wanted: LockType | None, start: int, end: int, pid: int = 0
    ) -> None:
        """The owner has this range now, and nothing else of it; with None it has nothing of it."""
        assert 0 <= start <= end <= LAST_BYTE
        ranges: list[RangeLock] = []
        for each in self._ranges.get(owner, ()):
            if each.start < start:
                ranges.append(each._replace(end=min(each.end, start - 1)))
            if each.end > end:
                ranges.append(each._replace(start=max(each.start, end + 1)))
        if wanted is not None:
            ranges.append(RangeLock(wanted, start, end, pid))
        ranges.sort(key=lambda each: each.start)
        merged: list[RangeLock] = []
        for each in ranges:
            if merged and merged[-1].type is each.type and merged[-1].end + 1 == each.start:
                merged[-1] = each._replace(start=merged[-1].start)
            else:
                merged.append(each)
        if merged:
            self._ranges[owner] = merged
        else:
            self._ranges.pop(owner, None)

    def take_all(self) -> list[tuple[LockOwner, RangeLock]]:
        """Takes all ranges away; what they were."""
        taken = list(self.all())
        self._ranges.clear()
        return taken
