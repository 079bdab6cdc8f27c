"""The disk cache: bounds, restarts, kills, damage, a disk that takes nothing."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import MIB
from afs.types import Fid
from clientd.core.piece import PieceKey
from clientd.disk_cache import DiskCache
from clientd.disk_files import DiskFiles
from clientd.journal import Journal
from tests.fakes import FakeClock


def key(vnode: int, number: int = 0, data_version: int = 1) -> PieceKey:
    """A piece's key."""
    return PieceKey(Fid(100, vnode, 1), data_version, number)


class Opened:
    """A disk cache and what it counts."""

    def __init__(self, folder: Path, limit_bytes: int = 64 * MIB) -> None:
        self.clock = FakeClock()
        self.journal = Journal(self.clock)
        self.cache = DiskCache.open(folder, limit_bytes, clock=self.clock, journal=self.journal)


@asynccontextmanager
async def opened(folder: Path, limit_bytes: int = 64 * MIB) -> AsyncIterator[Opened]:
    """A disk cache, closed in the end."""
    opened = await asyncio.to_thread(Opened, folder, limit_bytes)
    try:
        await opened.cache.fit()
        yield opened
    finally:
        await opened.cache.close()


def bytes_on_disk(folder: Path) -> int:
    """What a directory takes, as `du` counts files."""
    return sum(
        (Path(where) / name).stat().st_size for where, _, names in os.walk(folder) for name in names
    )


async def test_pieces_come_back_and_survive_a_restart(tmp_path: Path) -> None:
    """What was put is taken, now and by the next process."""
    async with opened(tmp_path) as one:
        assert await one.cache.put(key(2), b"small")
        assert await one.cache.put(key(2, 1), b"x" * MIB)
        assert await one.cache.take(key(2)) == b"small"
        assert await one.cache.take(key(2, data_version=2)) is None
        assert await one.cache.take(key(4)) is None
        assert one.cache.cached_bytes(key(2).fid, 1) == MIB + 5
    async with opened(tmp_path) as two:
        assert await two.cache.take(key(2, 1)) == b"x" * MIB
        assert two.cache.used_bytes == MIB + 4096
        assert two.cache.file_count() == 1


async def test_size_on_disk_stays_within_the_limit(tmp_path: Path) -> None:
    """Whatever is put, in whatever order: least recently used goes first."""
    limit = 2 * MIB
    choose = random.Random(1)
    async with opened(tmp_path, limit) as one:
        for number in range(300):
            size = choose.choice([1, 4096, 50_000, MIB])
            assert await one.cache.put(key(2 * number + 2), bytes(size))
            assert one.cache.used_bytes <= limit
            assert await asyncio.to_thread(bytes_on_disk, tmp_path / "data") <= limit
        assert one.journal.counters()["pieces_evicted"] > 0
        assert await one.cache.take(key(600)) is not None
        assert not await one.cache.put(key(9998), bytes(3 * MIB)), "larger than the limit"


async def test_smaller_limit_at_the_next_start(tmp_path: Path) -> None:
    """What is over the limit goes at once."""
    async with opened(tmp_path) as one:
        for number in range(8):
            await one.cache.put(key(2 * number + 2), bytes(MIB))
    async with opened(tmp_path, 3 * MIB) as two:
        assert two.cache.used_bytes <= 3 * MIB
        assert await asyncio.to_thread(bytes_on_disk, tmp_path / "data") <= 3 * MIB


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
async def test_damaged_piece_is_dropped(tmp_path: Path, damage: str) -> None:
    """It is never handed out; who wants it fetches it again."""
    async with opened(tmp_path) as one:
        await one.cache.put(key(2), b"precious")
        (path,) = (tmp_path / "data").glob("*/100.2.1.1.0")
        if damage == "flip":
            path.write_bytes(b"Precious")
        elif damage == "truncate":
            path.write_bytes(b"prec")
        else:
            path.unlink()
        assert await one.cache.take(key(2)) is None
        assert not one.cache.has(key(2))
        assert one.cache.used_bytes == 0
        assert one.journal.counters()["pieces_damaged"] == 1
        assert await one.cache.put(key(2), b"precious")
        assert await one.cache.take(key(2)) == b"precious"


async def test_start_cleans_up_after_a_crash(tmp_path: Path) -> None:
    """Files without a row, rows without a file, half a file, and foreign files."""
    async with opened(tmp_path) as one:
        for vnode in (2, 4, 6):
            await one.cache.put(key(vnode), b"data")
    paths = {path.name: path for path in (tmp_path / "data").glob("*/*")}
    paths["100.2.1.1.0"].unlink()
    paths["100.4.1.1.0"].write_bytes(b"dat")
    paths["100.6.1.1.0"].with_name("100.8.1.1.0").write_bytes(b"orphan")
    paths["100.6.1.1.0"].with_name(".7.tmp").write_bytes(b"half")
    async with opened(tmp_path) as two:
        assert [two.cache.has(key(vnode)) for vnode in (2, 4, 6, 8)] == [False, False, True, False]
        assert await two.cache.take(key(6)) == b"data"
    assert [path.name for path in (tmp_path / "data").glob("*/*")] == ["100.6.1.1.0"]


@pytest.mark.parametrize("content", [b"", b"not a database", b"SQLite format 3\0" + b"x" * 5000])
async def test_damaged_index_is_replaced(tmp_path: Path, content: bytes) -> None:
    """The cache starts empty, and says so in the log."""
    async with opened(tmp_path) as one:
        await one.cache.put(key(2), b"data")
    for path in tmp_path.glob("index.sqlite3*"):
        path.write_bytes(content)
    async with opened(tmp_path) as two:
        assert two.cache.file_count() == 0
        assert await two.cache.put(key(2), b"data")
    assert len(list((tmp_path / "data").glob("*/*"))) == 1


async def test_index_of_another_schema_is_replaced(tmp_path: Path) -> None:
    """A newer program's index is not guessed at."""
    async with opened(tmp_path) as one:
        await one.cache.put(key(2), b"data")
    with sqlite3.connect(tmp_path / "index.sqlite3") as database:
        database.execute("PRAGMA user_version = 99")
    database.close()
    async with opened(tmp_path) as two:
        assert two.cache.file_count() == 0


async def test_directory_has_one_user(tmp_path: Path) -> None:
    """A second clientd on the same cache is refused in one line."""
    async with opened(tmp_path):
        with pytest.raises(AfsError) as caught:
            await asyncio.to_thread(Opened, tmp_path)
        assert caught.value.code is AfsCode.VBUSY


async def test_disk_that_takes_nothing_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed write is counted, what was there stays, and later it is tried again."""
    async with opened(tmp_path) as one:
        await one.cache.put(key(2), b"data")
        used = one.cache.used_bytes
        with monkeypatch.context() as patch:
            patch.setattr(DiskFiles, "write", no_space)
            assert not await one.cache.put(key(4), b"more")
            assert not await one.cache.put(key(6), b"more")
        assert one.journal.counters()["cache_write_failures"] == 1
        assert one.cache.used_bytes == used
        assert not await one.cache.put(key(4), b"more"), "not tried again yet"
        one.clock.advance(2.0)
        assert await one.cache.put(key(4), b"more")
        assert await one.cache.take(key(2)) == b"data"


def no_space(*_: object) -> bytes:
    """A full disk."""
    raise OSError(28, "No space left on device")


async def test_newer_version_replaces_and_is_not_replaced_by_older(tmp_path: Path) -> None:
    """One version of a file at a time; a late reader of the old one does not bring it back."""
    async with opened(tmp_path) as one:
        await one.cache.put(key(2, data_version=1), b"old")
        await one.cache.put(key(2, 1, data_version=1), b"old")
        await one.cache.put(key(2, data_version=2), b"new")
        assert not await one.cache.put(key(2, data_version=1), b"old")
        await one.cache.keep_only(key(2).fid, 2)
        assert not one.cache.has(key(2, 1, data_version=1))
        assert await one.cache.take(key(2, data_version=2)) == b"new"
        assert await one.cache.forget([key(2).fid, key(4).fid]) == 1
        assert one.cache.used_bytes == 0
    assert list((tmp_path / "data").glob("*/*")) == []


async def test_same_piece_brought_twice_counts_once(tmp_path: Path) -> None:
    """Two fetches may bring the same piece at the same time."""
    async with opened(tmp_path) as one:
        await asyncio.gather(*(one.cache.put(key(2), b"data") for _ in range(5)))
        assert one.cache.used_bytes == 4096
        assert await one.cache.take(key(2)) == b"data"


async def test_reserved_room_is_within_the_limit(tmp_path: Path) -> None:
    """What writers spool is accounted for, and never takes more than half."""
    async with opened(tmp_path, 4 * MIB) as one:
        for number in range(4):
            await one.cache.put(key(2 * number + 2), bytes(MIB - 40_000))
        assert await one.cache.reserve(MIB)
        assert one.cache.used_bytes <= 4 * MIB
        assert not await one.cache.reserve(2 * MIB)
        one.cache.release(MIB)
