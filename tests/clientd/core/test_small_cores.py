"""Break marks, stall detection, listings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from afs.types import DirectoryEntry, Fid, VnodeType, whole_volume_fid
from clientd.core.listing import UNKNOWN, AddName, Listing, RemoveName
from clientd.core.marks import BreakMarks
from clientd.core.stall import StallDetector

FIDS = st.builds(Fid, st.integers(1, 3), st.integers(1, 3), st.just(1))
TARGETS = st.one_of(FIDS, st.builds(whole_volume_fid, st.integers(1, 3)))


@given(st.lists(st.tuples(TARGETS, st.integers(0, 50)), max_size=40), st.integers(1, 5), FIDS)
def test_marks_never_forget_a_break(
    breaks: list[tuple[Fid, int]], max_marks: int, fid: Fid
) -> None:
    """However few are kept, the mark of a Fid is at or above every break that covers it (R10)."""
    marks = BreakMarks(max_marks)
    for target, through in breaks:
        marks.note(target, through)
    covering = [
        through for target, through in breaks if target in (fid, whole_volume_fid(fid.volume))
    ]
    assert marks.high_water(fid) >= max(covering, default=-1)
    assert len(marks) <= max_marks


def test_marks_cover_only_what_was_broken() -> None:
    """With room enough, a break reaches its target and nothing else."""
    marks = BreakMarks()
    marks.note(Fid(1, 2, 3), 10)
    marks.note(whole_volume_fid(2), 20)
    marks.note(Fid(1, 2, 3), 5)
    assert marks.high_water(Fid(1, 2, 3)) == 10
    assert marks.high_water(Fid(1, 2, 4)) == -1
    assert marks.high_water(Fid(2, 9, 9)) == 20
    marks.clear()
    assert marks.high_water(Fid(2, 9, 9)) == -1


def test_stall_is_seen_by_whoever_looks_first() -> None:
    """The timer, or a read that comes up before it; each stall once."""
    stall = StallDetector(100.0, stall_s=0.5)
    assert not stall.turn(100.1)
    assert not stall.look(100.6)
    assert stall.look(100.61)
    assert not stall.look(100.7)
    assert not stall.turn(100.7)
    assert stall.turn(101.3)
    assert not stall.look(101.4)


def entry(name: str, number: int = 2) -> DirectoryEntry:
    """A directory entry."""
    return DirectoryEntry(name, Fid(1, number, 1), VnodeType.FILE)


def test_complete_listing_knows_what_is_not_there() -> None:
    """None for a name that is certainly missing."""
    listing = Listing([entry("b"), entry("a")], 3, complete=True)
    assert listing.find("a") == entry("a")
    assert listing.find("c") is None
    assert listing.in_order() is listing.in_order()
    assert [each.name for each in listing.in_order()] == ["a", "b"]
    assert len(listing) == 2


def test_listing_finds_the_name_of_a_vnode() -> None:
    """Any one it has; none for a stranger."""
    listing = Listing([entry("b"), entry("a")], 3, complete=False)
    assert listing.name_of(entry("a").fid) in {"a", "b"}
    assert listing.name_of(Fid(9, 9, 9)) == ""


def test_incomplete_listing_does_not_guess() -> None:
    """UNKNOWN for a name that was not looked up."""
    listing = Listing([entry("a")], 3, complete=False)
    assert listing.find("a") == entry("a")
    assert listing.find("b") is UNKNOWN
    listing.note(entry("b"))
    assert listing.find("b") == entry("b")


def test_edits_lead_to_the_next_version() -> None:
    """Edits are idempotent, and leave what was handed out alone."""
    listing = Listing([entry("a")], 3, complete=True)
    before = listing.in_order()
    listing.edit([RemoveName("a"), RemoveName("a"), AddName(entry("z")), AddName(entry("z", 9))], 4)
    assert [each.fid.vnode for each in listing.in_order()] == [9]
    assert listing.data_version == 4
    assert [each.name for each in before] == ["a"]
