"""Pieces in memory: bounded, one version of each, forgotten with their files."""

from __future__ import annotations

from afs.types import Fid
from clientd.core.piece import PieceKey
from clientd.recent_pieces import RecentPieces

ONE, TWO, OTHER = Fid(1, 2, 1), Fid(1, 4, 1), Fid(9, 2, 1)


def test_least_recently_used_goes_first() -> None:
    """Beyond the bound; a single piece is kept whatever its size."""
    recent = RecentPieces(memory_bytes=10)
    keys = [PieceKey(ONE, 1, number) for number in range(3)]
    recent.keep(keys[0], b"x" * 5)
    recent.keep(keys[1], b"y" * 5)
    assert recent.peek(keys[0]) == b"x" * 5
    recent.keep(keys[2], b"z")
    assert [recent.has(key) for key in keys] == [True, False, True]
    recent.keep(keys[1], b"y" * 50)
    assert [recent.has(key) for key in keys] == [False, True, False]


def test_newer_version_replaces_the_older() -> None:
    """Only one of each place in a file is kept."""
    recent = RecentPieces()
    recent.keep(PieceKey(ONE, 1, 0), b"old")
    recent.keep(PieceKey(ONE, 2, 0), b"new")
    assert recent.peek(PieceKey(ONE, 1, 0)) is None
    assert recent.peek(PieceKey(ONE, 2, 0)) == b"new"


def test_files_and_volumes_are_forgotten() -> None:
    """And nothing else is."""
    recent = RecentPieces()
    keys = [PieceKey(fid, 1, 0) for fid in (ONE, TWO, OTHER)]
    for key in keys:
        recent.keep(key, b"data")
    recent.forget(ONE)
    assert [recent.has(key) for key in keys] == [False, True, True]
    recent.forget_volume(1)
    assert [recent.has(key) for key in keys] == [False, False, True]
