"""The books of the disk cache."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from afs.types import Fid
from clientd.core.piece import (
    BLOCK_BYTES,
    PieceKey,
    StoredPiece,
    disk_bytes_of,
    piece_count,
    piece_length,
)
from clientd.core.piece_table import PieceTable

MIB = 1024 * 1024
FIDS = [Fid(1, number, 1) for number in (2, 4, 6)]


def stored(length: int) -> StoredPiece:
    """A piece."""
    return StoredPiece(length, b"digest")


def test_sizes_of_pieces() -> None:
    """Whole blocks on disk; the last piece of a file is shorter."""
    assert [disk_bytes_of(size) for size in (0, 1, BLOCK_BYTES, BLOCK_BYTES + 1)] == [
        0,
        BLOCK_BYTES,
        BLOCK_BYTES,
        2 * BLOCK_BYTES,
    ]
    assert [piece_count(size) for size in (0, 1, MIB, MIB + 1)] == [0, 1, 1, 2]
    assert [piece_length(MIB + 5, number) for number in (0, 1, 2)] == [MIB, 5, 0]
    key = PieceKey(FIDS[0], 7, 3)
    assert (key.file_name, len(key.folder)) == ("1.2.1.7.3", 2)


def test_newer_version_drops_the_older() -> None:
    """And an older one is outdated from then on."""
    table = PieceTable()
    old, new = PieceKey(FIDS[0], 1, 0), PieceKey(FIDS[0], 2, 1)
    assert table.add(old, stored(10)) == []
    assert not table.is_outdated(new)
    assert table.add(new, stored(20)) == [old]
    assert table.is_outdated(old)
    assert not table.has(old)
    assert table.find(old) is None
    assert table.find(new) == stored(20)
    assert (table.cached_bytes(FIDS[0], 2), table.cached_bytes(FIDS[0], 1)) == (20, 0)
    assert table.keep_only(FIDS[0], 2) == []
    assert table.keep_only(FIDS[0], 1) == [new]
    assert (table.used_bytes, table.file_count(), table.fids()) == (0, 0, [])


def test_a_change_of_ours_carries_pieces_over() -> None:
    """Those that it left alone are of the new version; the index hears of all of them."""
    table = PieceTable()
    for number in range(3):
        table.add(PieceKey(FIDS[0], 1, number), stored(10))
    table.take_changes()
    assert table.carry_over(FIDS[0], 7, 8, {0}) == []
    assert table.carry_over(FIDS[1], 1, 2, {0}) == []
    assert sorted(table.numbers(FIDS[0], 1)) == [0, 1, 2]
    assert table.numbers(FIDS[0], 2) == []
    gone = table.carry_over(FIDS[0], 1, 2, {0, 2})
    assert sorted(gone) == [PieceKey(FIDS[0], 1, number) for number in range(3)]
    assert sorted(table.numbers(FIDS[0], 2)) == [0, 2]
    assert table.has(PieceKey(FIDS[0], 2, 2))
    assert table.used_bytes == 2 * BLOCK_BYTES
    added, removed = table.take_changes()
    assert sorted(key for key, _ in added) == [PieceKey(FIDS[0], 2, number) for number in (0, 2)]
    assert removed == [(FIDS[0], 1)]
    assert len(table.carry_over(FIDS[0], 2, 3, set())) == 2
    assert not table.has_any(FIDS[0])


def test_least_recently_used_goes_first() -> None:
    """By bytes and by number; a find counts as a use."""
    table = PieceTable(max_pieces=3)
    keys = [PieceKey(FIDS[0], 1, number) for number in range(4)]
    for key in keys[:3]:
        table.add(key, stored(BLOCK_BYTES))
    table.find(keys[0])
    assert table.evict(2 * BLOCK_BYTES) == [keys[1]]
    table.add(keys[1], stored(BLOCK_BYTES))
    table.add(keys[3], stored(BLOCK_BYTES))
    assert table.evict(100 * BLOCK_BYTES) == [keys[2]]
    table.reserve(10 * BLOCK_BYTES)
    assert len(table.evict(5 * BLOCK_BYTES)) == 3
    assert table.reserved_bytes == table.used_bytes == 10 * BLOCK_BYTES
    table.release(10 * BLOCK_BYTES)
    assert table.drop(keys[0]) == []
    assert table.forget(FIDS[0]) == []


def test_changes_are_told_once_and_again_if_asked() -> None:
    """What the index has to follow."""
    table = PieceTable()
    key = PieceKey(FIDS[0], 1, 0)
    assert table.take_changes() == ([], [])
    table.add(key, stored(5))
    table.note_changed([PieceKey(FIDS[1], 1, 9).slot])
    assert table.take_changes() == ([(key, stored(5))], [PieceKey(FIDS[1], 1, 9).slot])
    assert table.take_changes() == ([], [])
    assert table.drop(key) == [key]
    assert table.has_changes
    assert table.take_changes() == ([], [key.slot])


class Books(RuleBasedStateMachine):
    """Against a plain dictionary of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.table = PieceTable(max_pieces=6)
        self.model: dict[PieceKey, StoredPiece] = {}
        self.index: dict[tuple[Fid, int], tuple[PieceKey, StoredPiece]] = {}

    def gone(self, keys: list[PieceKey]) -> None:
        """What the table says is gone was there."""
        for key in keys:
            del self.model[key]

    @rule(
        fid=st.sampled_from(FIDS),
        version=st.integers(1, 3),
        number=st.integers(0, 3),
        length=st.integers(1, 3 * BLOCK_BYTES),
    )
    def add(self, fid: Fid, version: int, number: int, length: int) -> None:
        """A piece arrives."""
        key = PieceKey(fid, version, number)
        newest = max((each.data_version for each in self.model if each.fid == fid), default=0)
        assert self.table.is_outdated(key) == (version < newest)
        if version >= newest:
            self.gone(self.table.add(key, stored(length)))
            self.model[key] = stored(length)

    @rule(blocks=st.integers(0, 12))
    def evict(self, blocks: int) -> None:
        """Room is made."""
        self.gone(self.table.evict(blocks * BLOCK_BYTES))
        assert self.table.used_bytes <= blocks * BLOCK_BYTES
        assert len(self.table) <= 6

    @rule(fid=st.sampled_from(FIDS), version=st.integers(1, 3))
    def keep_only(self, fid: Fid, version: int) -> None:
        """A status tells the version."""
        self.gone(self.table.keep_only(fid, version))
        assert all(key.data_version == version for key in self.model if key.fid == fid)

    @rule(fid=st.sampled_from(FIDS))
    def forget(self, fid: Fid) -> None:
        """A file is removed."""
        self.gone(self.table.forget(fid))
        assert not self.table.has_any(fid)

    @rule()
    def follow(self) -> None:
        """The index follows."""
        added, removed = self.table.take_changes()
        for slot in removed:
            self.index.pop(slot, None)
        for key, piece in added:
            self.index[key.slot] = (key, piece)
        assert dict(self.index.values()) == self.model

    @invariant()
    def agrees(self) -> None:
        """Table and model hold the same."""
        assert len(self.table) == len(self.model)
        assert all(self.table.has(key) for key in self.model)
        assert self.table.used_bytes == sum(piece.disk_bytes for piece in self.model.values())
        assert set(self.table.fids()) == {key.fid for key in self.model}


Books.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestBooks = Books.TestCase
