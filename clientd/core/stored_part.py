"""What a stored part tells of the file's pieces: which are as they were, and what others are."""

from __future__ import annotations

from dataclasses import dataclass

from afs.limits import DATA_PIECE_BYTES
from clientd.core.dirty_map import Kind, Part, Segment
from clientd.core.piece import piece_count, piece_length


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part that the fileserver took.

    Args:
        part: what was sent.
        base_length: the file's length before; None if the store before this one is not known, so
            that nothing is known of the bytes that were not sent.
        length: the file's length after.
    """

    part: Part
    base_length: int | None
    length: int

    @property
    def touched(self) -> range:
        """The pieces that bytes were sent of."""
        return range(self.part.start // DATA_PIECE_BYTES, piece_count(self.part.end))

    def span(self, number: int) -> tuple[int, int]:
        """Where a piece of the file, as it is now, starts and ends."""
        start = number * DATA_PIECE_BYTES
        return start, start + piece_length(self.length, number)

    def sent(self, number: int) -> tuple[int, int]:
        """Which bytes of a touched piece were sent."""
        start, end = self.span(number)
        return max(start, self.part.start), min(end, self.part.end)

    def around(self, number: int) -> tuple[list[Segment], list[Segment]] | None:
        """What a touched piece is made of before and after the bytes that were sent.

        Returns:
            BASE and ZERO segments; None if that is not known.
        """
        start, end = self.span(number)
        sent_start, sent_end = self.sent(number)
        before, after = self._unsent(start, sent_start), self._unsent(sent_end, end)
        return None if before is None or after is None else (before, after)

    def is_same(self, number: int) -> bool:
        """True if a piece that was not touched is what it was before."""
        if self.base_length is None or number in self.touched:
            return False
        cut = self.part.truncate_to
        end = number * DATA_PIECE_BYTES + piece_length(self.base_length, number)
        return piece_length(self.base_length, number) == piece_length(self.length, number) and (
            cut is None or end <= cut
        )

    def _unsent(self, start: int, end: int) -> list[Segment] | None:
        cut = self.part.truncate_to
        if self.base_length is not None:
            kept = self.base_length if cut is None else min(cut, self.base_length)
        elif cut is not None and cut <= start:
            kept = start
        elif start < end:
            return None
        else:
            return []
        middle = min(max(start, kept), end)
        segments = [Segment(Kind.BASE, start, middle), Segment(Kind.ZERO, middle, end)]
        return [segment for segment in segments if segment.start < segment.end]
