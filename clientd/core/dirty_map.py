"""What of a file local programs have changed and the fileserver does not have yet.

Theory of operation
    The map knows ranges and lengths, no data. The file that local programs see is made of three
    kinds of bytes: DIRTY ones (what was written), BASE ones (the fileserver's file, of whatever
    DataVersion it has at the moment) and ZERO ones (where the file was cut off and has grown again,
    or was written beyond its end).

    `cut` is the shortest length that the file was truncated to: no byte of the fileserver's file
    beyond it belongs to our view any more. Without a cut the file is as long as the fileserver's,
    or as far as we wrote; with one, it is as long as we made it, whatever others do.

    A store is made of parts, each one StoreData: a length to truncate to first, and one run of
    bytes. Holes between dirty ranges go along where they are zeroes, or few and at hand, because
    one part is all or nothing and two are not; else each run is a part of its own.

Invariants
    - Ranges are not empty, in order, and do not touch.
    - `reach` is where the last range ends, or the cut, whichever is later; 0 without either.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Final, NamedTuple

from afs.limits import DATA_PIECE_BYTES

# Bytes of holes that go along with a store in one part: what a second StoreData costs, in bytes.
MAX_FILLED_BYTES: Final = DATA_PIECE_BYTES


class Kind(Enum):
    """Where bytes of the local view come from."""

    DIRTY = "dirty"
    BASE = "base"
    ZERO = "zero"


class Segment(NamedTuple):
    """Bytes from `start` to `end` (exclusive) of one kind."""

    kind: Kind
    start: int
    end: int


class Part(NamedTuple):
    """One StoreData: bytes `start` to `end` (exclusive), after truncating to `truncate_to`.

    `needs_base` says that there are BASE bytes among them: they must be of the DataVersion that the
    fileserver still has when it takes the part.
    """

    start: int
    end: int
    truncate_to: int | None
    needs_base: bool


class DirtyMap:
    """The changes of one file; empty at first."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.cut: int | None = None
        self.reach = 0

    @classmethod
    def of(cls, ranges: Sequence[tuple[int, int]], cut: int | None, reach: int) -> DirtyMap:
        """A map as it was: `ranges`, `cut` and `reach` of another one."""
        made = cls()
        made._starts = [start for start, _ in ranges]
        made._ends = [end for _, end in ranges]
        made.cut = cut
        made.reach = reach
        return made

    # --- asking ---

    @property
    def is_clean(self) -> bool:
        """True if there is nothing to store."""
        return not self._starts and self.cut is None

    def ranges(self) -> list[tuple[int, int]]:
        """The dirty ranges, start and end (exclusive), in order."""
        return list(zip(self._starts, self._ends, strict=True))

    @property
    def dirty_bytes(self) -> int:
        """How many bytes are dirty."""
        return sum(self._ends) - sum(self._starts)

    def length(self, base_length: int) -> int:
        """The file's length as local programs see it."""
        return max(base_length, self.reach) if self.cut is None else self.reach

    def covers(self, start: int, end: int) -> bool:
        """True if every byte from `start` to `end` (exclusive) is dirty; also if there are none."""
        at = bisect_right(self._starts, start) - 1
        return start >= end or (at >= 0 and end <= self._ends[at])

    def touches(self, start: int, end: int) -> bool:
        """True if any byte from `start` to `end` (exclusive) is dirty."""
        at = bisect_right(self._ends, start)
        return at < len(self._starts) and self._starts[at] < end

    def segments(self, start: int, end: int, base_length: int) -> Iterator[Segment]:
        """What the bytes from `start` to `end` are made of; ends at the end of the file."""
        end = min(end, self.length(base_length))
        kept = base_length if self.cut is None else min(base_length, self.cut)
        number = bisect_right(self._ends, start)
        while start < end:
            dirty_start = self._starts[number] if number < len(self._starts) else end
            if start >= dirty_start:
                stop = min(end, self._ends[number])
                yield Segment(Kind.DIRTY, start, stop)
                number += 1
            elif start < kept:
                stop = min(end, dirty_start, kept)
                yield Segment(Kind.BASE, start, stop)
            else:
                stop = min(end, dirty_start)
                yield Segment(Kind.ZERO, start, stop)
            start = stop

    # --- changing ---

    def write(self, start: int, end: int) -> None:
        """Bytes from `start` to `end` (exclusive; at least one) were written."""
        assert 0 <= start < end
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]
        self.reach = max(self.reach, end)

    def truncate(self, length: int) -> bool:
        """The file was made this long.

        Returns:
            True if the last byte is dirty now, and a zero: the file was shorter in between, and
            truncating it at the fileserver to what it was at its shortest does not make it grow.
        """
        assert length >= 0
        grows = self.cut is not None and length > self.cut
        self.cut = length if self.cut is None else min(self.cut, length)
        first = bisect_left(self._ends, length + 1)
        if first < len(self._starts) and self._starts[first] < length:
            self._ends[first] = length
            first += 1
        del self._starts[first:], self._ends[first:]
        self.reach = length
        if not grows or self.covers(length - 1, length):
            return False
        self.write(length - 1, length)
        return True

    # --- storing ---

    def parts(self, base_length: int, is_here: Callable[[int, int], bool]) -> list[Part]:
        """What to send, in order, so that the fileserver's file is ours.

        Args:
            base_length: the fileserver's file's length as far as is known.
            is_here: whether the fileserver's bytes from `start` to `end` are at hand.
        """
        runs = self.ranges()
        if not runs:
            return [] if self.cut is None else [Part(0, 0, self.cut, needs_base=False)]
        whole = Part(runs[0][0], runs[-1][1], self.cut, needs_base=False)
        filled = [
            segment
            for segment in self.segments(whole.start, whole.end, base_length)
            if segment.kind is not Kind.DIRTY
        ]
        base = [segment for segment in filled if segment.kind is Kind.BASE]
        if sum(end - start for _, start, end in filled) <= MAX_FILLED_BYTES and all(
            is_here(start, end) for _, start, end in base
        ):
            return [whole._replace(needs_base=bool(base))]
        return [
            Part(start, end, self.cut if number == 0 else None, needs_base=False)
            for number, (start, end) in enumerate(runs)
        ]

    def stored(self, part: Part) -> None:
        """The fileserver has this part."""
        if part.truncate_to is not None:
            self.cut = None
        first = bisect_left(self._starts, part.start)
        last = bisect_right(self._ends, part.end)
        del self._starts[first:last], self._ends[first:last]
        self.reach = max(self._ends[-1] if self._ends else 0, self.cut or 0)
