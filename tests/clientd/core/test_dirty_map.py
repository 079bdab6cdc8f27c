"""What is dirty of a file, against a model that keeps every byte."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from clientd.core.dirty_map import MAX_FILLED_BYTES, DirtyMap, Kind, Part, Segment

SMALL = st.integers(0, 40)


def here(start: int, end: int) -> bool:
    """All of the fileserver's file is at hand."""
    return True


def absent(start: int, end: int) -> bool:
    """Nothing of the fileserver's file is at hand."""
    return False


def test_runs_that_touch_are_one() -> None:
    """Written side by side, over each other, or in between: one range."""
    dirty = DirtyMap()
    for start, end in ((10, 20), (30, 40), (20, 25), (24, 30), (5, 12)):
        dirty.write(start, end)
    assert dirty.ranges() == [(5, 40)]
    assert (dirty.dirty_bytes, dirty.reach) == (35, 40)
    assert dirty.covers(5, 40)
    assert not dirty.covers(4, 6)
    assert not dirty.covers(39, 41)
    assert dirty.covers(50, 50)
    assert dirty.touches(0, 6)
    assert not dirty.touches(0, 5)
    assert not dirty.touches(40, 50)


def test_what_a_view_is_made_of() -> None:
    """Dirty bytes over the fileserver's, and zeroes between its end and what is dirty beyond."""
    dirty = DirtyMap()
    dirty.write(2, 4)
    dirty.write(9, 12)
    assert list(dirty.segments(0, 100, 6)) == [
        Segment(Kind.BASE, 0, 2),
        Segment(Kind.DIRTY, 2, 4),
        Segment(Kind.BASE, 4, 6),
        Segment(Kind.ZERO, 6, 9),
        Segment(Kind.DIRTY, 9, 12),
    ]
    assert dirty.length(6) == 12
    assert dirty.length(20) == 20


def test_holes_go_along_if_they_are_at_hand() -> None:
    """One store, all or nothing, then; else one for each run, the first of which truncates."""
    dirty = DirtyMap()
    dirty.truncate(100)
    dirty.write(0, 10)
    dirty.write(20, 30)
    assert dirty.parts(100, here) == [Part(0, 30, 100, needs_base=True)]
    assert dirty.parts(5, here) == [Part(0, 30, 100, needs_base=False)]
    assert dirty.parts(5, absent) == [Part(0, 30, 100, needs_base=False)]
    apart = [Part(0, 10, 100, needs_base=False), Part(20, 30, None, needs_base=False)]
    assert dirty.parts(100, absent) == apart
    dirty.write(30 + MAX_FILLED_BYTES, 40 + MAX_FILLED_BYTES)
    assert len(dirty.parts(5, here)) == 3
    for part in dirty.parts(5, here):
        assert not dirty.is_clean
        dirty.stored(part)
    assert dirty.is_clean
    assert dirty.reach == 0


def test_truncation_alone_is_a_part() -> None:
    """Without bytes; nothing dirty is no part at all."""
    dirty = DirtyMap()
    assert dirty.parts(10, here) == []
    assert not dirty.truncate(4)
    assert dirty.parts(10, here) == [Part(0, 0, 4, needs_base=False)]
    assert dirty.truncate(8)
    assert dirty.parts(10, here) == [Part(7, 8, 4, needs_base=False)]
    assert not dirty.truncate(8)
    dirty.stored(Part(7, 8, 4, needs_base=False))
    assert dirty.is_clean


def test_map_of_another_life_is_the_same() -> None:
    """Made of its ranges, cut and reach."""
    dirty = DirtyMap()
    dirty.truncate(30)
    dirty.write(3, 5)
    dirty.write(40, 50)
    again = DirtyMap.of(dirty.ranges(), dirty.cut, dirty.reach)
    assert again.parts(10, here) == dirty.parts(10, here)
    assert list(again.segments(0, 99, 10)) == list(dirty.segments(0, 99, 10))


def test_a_length_that_was_stored_is_not_ours_any_more() -> None:
    """The part that truncates has arrived, another has not: from now on others may shorten it."""
    dirty = DirtyMap()
    dirty.write(2, 3)
    dirty.truncate(4)
    dirty.write(0, 1)
    first, _ = dirty.parts(20, absent)
    dirty.stored(first)
    assert dirty.ranges() == [(2, 3)]
    assert dirty.reach == 3
    assert dirty.length(4) == 4


class Server:
    """A fileserver's file, as StoreData changes it."""

    def __init__(self) -> None:
        self.data = bytearray(range(100, 120))

    def store(self, part: Part, data: bytes) -> None:
        """One StoreData."""
        if part.truncate_to is not None:
            self.resize(part.truncate_to)
        if data:
            if len(self.data) < part.start:
                self.resize(part.start)
            self.data[part.start : part.start + len(data)] = data

    def resize(self, length: int) -> None:
        """Truncates or extends with zeroes."""
        del self.data[length:]
        self.data += bytes(length - len(self.data))


class DirtyFileMachine(RuleBasedStateMachine):
    """Writes, truncations and stores, and a map that has to know what each byte is.

    `view` is what the local program must see while nobody else changes the file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.map = DirtyMap()
        self.server = Server()
        self.written = bytearray(200)
        self.view = bytearray(self.server.data)
        self.next = 0

    @rule(start=SMALL, length=st.integers(1, 20))
    def write(self, start: int, length: int) -> None:
        """New bytes somewhere."""
        self.next = self.next % 90 + 1
        data = bytes([self.next]) * length
        self.map.write(start, start + length)
        self.written[start : start + length] = data
        self.view += bytes(max(0, start - len(self.view)))
        self.view[start : start + length] = data

    @rule(length=SMALL)
    def truncate(self, length: int) -> None:
        """Shorter or longer."""
        if self.map.truncate(length):
            self.written[length - 1] = 0
        del self.view[length:]
        self.view += bytes(length - len(self.view))

    @rule(at_hand=st.booleans(), parts=st.integers(1, 5))
    def store(self, *, at_hand: bool, parts: int) -> None:
        """Some parts arrive, then the connection is gone."""
        is_here = here if at_hand else absent
        base = bytes(self.server.data)
        for part in self.map.parts(len(base), is_here)[:parts]:
            if not part.needs_base:
                base = bytes(self.server.data)
            data = self.composed(part.start, part.end, base)
            assert len(data) == part.end - part.start
            self.server.store(part, data)
            self.map.stored(part)
        assert self.map.parts(len(self.server.data), here) or self.server.data == self.view

    @rule(length=SMALL)
    def others_change_it(self, length: int) -> None:
        """Nothing of ours is dirty: the view is theirs."""
        if self.map.is_clean:
            self.server.data = bytearray([200]) * length
            self.view = bytearray(self.server.data)

    def composed(self, start: int, end: int, base: bytes) -> bytes:
        """Bytes as the map says."""
        sources = {Kind.DIRTY: bytes(self.written), Kind.BASE: base, Kind.ZERO: bytes(200)}
        return b"".join(
            sources[kind][at:stop] for kind, at, stop in self.map.segments(start, end, len(base))
        )

    @invariant()
    def shows_the_view(self) -> None:
        """Every byte, and the length."""
        assert self.map.length(len(self.server.data)) == len(self.view)
        assert self.composed(0, 200, bytes(self.server.data)) == self.view

    @invariant()
    def ranges_are_in_order(self) -> None:
        """And do not touch."""
        bounds = [bound for run in self.map.ranges() for bound in run]
        assert bounds == sorted(set(bounds))
        ends = [end for _, end in self.map.ranges()]
        assert self.map.reach == max([*ends, self.map.cut or 0], default=0)


TestDirtyFile = DirtyFileMachine.TestCase
