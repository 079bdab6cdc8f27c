"""What a stored part tells of a file's pieces."""

from __future__ import annotations

from afs.limits import MIB
from clientd.core.dirty_map import Kind, Part, Segment
from clientd.core.stored_part import StoredPart


def part(start: int, end: int, cut: int | None = None) -> Part:
    """A part."""
    return Part(start, end, cut, needs_base=False)


def test_pieces_around_what_was_sent() -> None:
    """Old bytes before it and after it, as far as the file reached; then zeroes."""
    stored = StoredPart(part(MIB + 10, MIB + 20), MIB + 15, MIB + 20)
    assert stored.touched == range(1, 2)
    assert stored.sent(1) == (MIB + 10, MIB + 20)
    assert stored.around(1) == ([Segment(Kind.BASE, MIB, MIB + 10)], [])
    stored = StoredPart(part(10, 20), 5, 30)
    assert stored.around(0) == (
        [Segment(Kind.BASE, 0, 5), Segment(Kind.ZERO, 5, 10)],
        [Segment(Kind.ZERO, 20, 30)],
    )


def test_a_truncation_makes_the_rest_known() -> None:
    """Beyond it there are zeroes, whatever the file was; without it nothing is known."""
    assert StoredPart(part(10, 20), None, 30).around(0) is None
    assert StoredPart(part(10, 20, 0), None, 30).around(0) == (
        [Segment(Kind.ZERO, 0, 10)],
        [Segment(Kind.ZERO, 20, 30)],
    )
    assert StoredPart(part(0, 20), None, 20).around(0) == ([], [])
    assert StoredPart(part(10, 20, 4), 50, 20).around(0) == (
        [Segment(Kind.BASE, 0, 4), Segment(Kind.ZERO, 4, 10)],
        [],
    )


def test_which_pieces_are_as_they_were() -> None:
    """Those that nothing was sent of, that were not cut, and that are as long as before."""
    stored = StoredPart(part(MIB, MIB + 1), 3 * MIB + 5, 3 * MIB + 5)
    assert [stored.is_same(number) for number in range(4)] == [True, False, True, True]
    assert not StoredPart(part(MIB, MIB + 1), None, 3 * MIB).is_same(0)
    grown = StoredPart(part(5 * MIB, 5 * MIB + 1), 3 * MIB + 5, 5 * MIB + 1)
    assert [grown.is_same(number) for number in (2, 3)] == [True, False]
    cut = StoredPart(part(4 * MIB, 5 * MIB, 2 * MIB + 7), 4 * MIB, 5 * MIB)
    assert [cut.is_same(number) for number in (1, 2, 3)] == [True, False, False]
