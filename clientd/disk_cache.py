"""The disk cache: pieces of files, bounded in bytes, least recently used out first.

Theory of operation
    A piece is one file, named by its key, written without syncing (`disk_files`). What there is, is
    known in memory (`core.piece_table`); the index on disk follows behind (`index_follower`) and
    serves the next start. Memory is changed in the event loop, files in threads, in this order:
        put: room is made in memory; in a thread the victims' files are unlinked and the new file is
            written under a temporary name and renamed; only then the piece is in memory.
        take: the piece is in memory; a thread reads the file and hashes it. What does not match, or
            is not there (it was evicted meanwhile, or somebody removed it), is dropped: the
            caller fetches it.
    So a crash at any moment leaves files without a row (removed at the next start), rows without a
    file (dropped at the next start), or both right.

    A disk that cannot be written is not an error: `put` says False, and for a while nothing more is
    tried. The client then serves without caching.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple

import structlog

from afs.errors import AfsCode, AfsError
from afs.runtime.clock import Clock
from afs.types import Fid
from clientd.core.piece import PieceKey, StoredPiece, disk_bytes_of
from clientd.core.piece_table import PieceTable
from clientd.disk_files import DiskFiles, unlink
from clientd.disk_index import DiskIndex
from clientd.index_follower import IndexFollower
from clientd.journal import Journal
from clientd.recent_pieces import RecentPieces

# After a failed write the disk is left alone this long.
WRITE_PAUSE_S: Final = 1.0
# Pieces that may be on their way to the disk without anybody waiting for it, up to 1 MiB each.
PUTS_BEHIND: Final = 16
# Threads that wait for the disk.
_THREADS: Final = 4

_log = structlog.get_logger(__name__)

Arguments = TypeVarTuple("Arguments")
T = TypeVar("T")


class DiskCache:
    """Pieces on disk. Made by `open`; used in the event loop only.

    Args:
        folder: the cache directory.
        limit_bytes: what pieces, spools and index together may take on disk.
        index: the table of pieces, as it was left.
        lock: descriptor of the lock file; closed with the cache.

    Attributes:
        recent: pieces in memory.
    """

    def __init__(
        self,
        folder: Path,
        limit_bytes: int,
        index: DiskIndex,
        lock: int,
        *,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._lock = lock
        self._clock = clock
        self._journal = journal
        self._table = PieceTable()
        self._files = DiskFiles(folder / "data")
        self._files.recover(index, self._table)
        self._incarnations = index.incarnations()
        self._follower = IndexFollower(index, self._table, journal)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cache")
        self._write_again_at = -1.0
        self.recent = RecentPieces()
        self._putting: set[asyncio.Task[bool]] = set()

    @classmethod
    def open(cls, folder: Path, limit_bytes: int, *, clock: Clock, journal: Journal) -> DiskCache:
        """Opens the cache in a directory, made if need be; blocks on the disk.

        Raises:
            AfsError: VBUSY if another process uses the directory.
            OSError: the directory cannot be used.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise AfsError(
                    AfsCode.VBUSY, f"cache directory {folder} is in use by another clientd"
                ) from None
            index = DiskIndex(folder / "index.sqlite3")
            if index.replaced:
                _log.warning("cache_index.replaced", folder=str(folder), why=index.replaced)
            return cls(folder, limit_bytes, index, lock, clock=clock, journal=journal)
        except BaseException:
            os.close(lock)
            raise

    async def close(self) -> None:
        """Brings the index up to date and lets go of the directory."""
        await asyncio.gather(*self._putting, return_exceptions=True)
        await self._follower.close()
        await asyncio.to_thread(self._threads.shutdown)
        os.close(self._lock)

    # --- asking ---

    @property
    def used_bytes(self) -> int:
        """What pieces and spools take on disk."""
        return self._table.used_bytes

    def has(self, key: PieceKey) -> bool:
        """True if the piece is there; it may yet turn out damaged."""
        return self._table.has(key)

    def has_any(self, fid: Fid) -> bool:
        """True if there is any piece of the vnode, of whatever DataVersion."""
        return self._table.has_any(fid)

    def cached_bytes(self, fid: Fid, data_version: int) -> int:
        """Bytes of the vnode's data at that DataVersion that are here."""
        return self._table.cached_bytes(fid, data_version)

    def file_count(self) -> int:
        """Vnodes with data here."""
        return self._table.file_count()

    def fids(self) -> list[Fid]:
        """All vnodes with data here."""
        return self._table.fids()

    def can_write(self) -> bool:
        """False for a while after a write failed."""
        return self._clock.now() >= self._write_again_at

    async def take(self, key: PieceKey) -> bytes | None:
        """The piece's bytes, checked; None if it is not here (any more)."""
        stored = self._table.find(key)
        if stored is None:
            return None
        data = await self._in_thread(self._files.read, key, stored)
        if data is None and self._table.has(key):
            self._journal.count("pieces_damaged")
            self._journal.tell("piece.damaged", fids=(key.fid,))
            _log.warning("piece.damaged", file=key.file_name)
            await self._unlink(self._table.drop(key))
        return data

    # --- changing ---

    async def put(self, key: PieceKey, data: bytes) -> bool:
        """Keeps a piece; those of an older DataVersion go.

        Returns:
            False if it could not be kept: the disk is full or broken, the piece is too large, or
            the file has a newer DataVersion by now.
        """
        if self._table.has(key):
            return True
        # Whoever waits may go away; what was begun is finished, so that the books balance.
        task = asyncio.create_task(self._put(key, data))
        self._putting.add(task)
        task.add_done_callback(self._putting.discard)
        return await asyncio.shield(task)

    async def put_behind(self, key: PieceKey, data: bytes) -> None:
        """As `put`, mostly without waiting: who wants the piece soon has it in memory."""
        task = asyncio.create_task(self._put(key, data))
        self._putting.add(task)
        task.add_done_callback(self._putting.discard)
        if len(self._putting) > PUTS_BEHIND:
            await asyncio.shield(task)

    async def _put(self, key: PieceKey, data: bytes) -> bool:
        size = disk_bytes_of(len(data))
        if size > self._room or not self.can_write() or self._table.is_outdated(key):
            return False
        self._table.reserve(size)
        victims = self._evict()
        try:
            stored = await self._in_thread(self._files.write, key, data, victims)
        except OSError as error:
            self._write_failed(error)
            return False
        finally:
            self._table.release(size)
        return await self._add(key, stored)

    async def put_all(self, pieces: Iterable[tuple[PieceKey, bytes]]) -> None:
        """Keeps small pieces in one go, as far as they can be kept; see `put`."""
        task = asyncio.create_task(self._put_all(pieces))
        self._putting.add(task)
        task.add_done_callback(self._putting.discard)
        await asyncio.shield(task)

    async def _put_all(self, pieces: Iterable[tuple[PieceKey, bytes]]) -> bool:
        new = [
            (key, data)
            for key, data in pieces
            if not self._table.has(key) and not self._table.is_outdated(key)
        ]
        size = sum(disk_bytes_of(len(data)) for _, data in new)
        if not new or size > self._room or not self.can_write():
            return False
        self._table.reserve(size)
        try:
            stored, error = await self._in_thread(self._files.write_all, new, self._evict())
        finally:
            self._table.release(size)
        if error is not None:
            self._write_failed(error)
        for (key, _), piece in zip(new, stored, strict=False):
            await self._add(key, piece)
        return error is None

    async def _add(self, key: PieceKey, stored: StoredPiece) -> bool:
        """The piece's file is there; False if it is of no use any more."""
        if self._table.is_outdated(key):
            # A newer version came meanwhile.
            await self._unlink([key])
            return False
        await self._unlink(self._table.add(key, stored))
        return True

    async def adopt(self, key: PieceKey, path: Path, stored: StoredPiece) -> bool:
        """Makes a file in the cache directory, for which room is reserved, a piece of the cache.

        Returns:
            False if it could not be; the file is gone, or of no use, in any case.
        """
        task = asyncio.create_task(self._adopt(key, path, stored))
        self._putting.add(task)
        task.add_done_callback(self._putting.discard)
        return await asyncio.shield(task)

    async def _adopt(self, key: PieceKey, path: Path, stored: StoredPiece) -> bool:
        try:
            await self._in_thread(self._files.adopt, key, path)
        except OSError as error:
            self._write_failed(error)
            return False
        finally:
            self._table.release(stored.disk_bytes)
        return await self._add(key, stored)

    async def carry_over(
        self, fid: Fid, data_version: int, new_version: int, keep: Callable[[int], bool]
    ) -> None:
        """The vnode has a new DataVersion, by a change of ours that left some pieces as they were.

        Args:
            fid: the vnode.
            data_version: what it was.
            new_version: what it is.
            keep: tells by its number whether a piece is as it was; the others go.
        """
        if not self._table.has_any(fid):
            return
        task = asyncio.create_task(self._carry_over(fid, data_version, new_version, keep))
        self._putting.add(task)
        task.add_done_callback(self._putting.discard)
        await asyncio.shield(task)

    async def _carry_over(
        self, fid: Fid, data_version: int, new_version: int, keep: Callable[[int], bool]
    ) -> bool:
        before = [
            PieceKey(fid, data_version, number)
            for number in self._table.numbers(fid, data_version)
            if keep(number)
        ]
        # Linked under the new names, then known by them, then unlinked under the old ones: whoever
        # reads a piece meanwhile finds it.
        linked = await self._in_thread(self._files.link, before, new_version)
        gone = self._table.carry_over(fid, data_version, new_version, linked)
        kept = set(self._table.numbers(fid, new_version))
        await self._unlink(gone + [PieceKey(fid, new_version, number) for number in linked - kept])
        return True

    async def reserve(self, size: int, *, at_any_cost: bool = False) -> bool:
        """Takes room for something else in the cache directory; False if there is none.

        Args:
            size: in bytes.
            at_any_cost: True for what must not be lost: pieces of the cache go for it, and it may
                be over the limit, if the disk has the room.
        """
        room = self._table.reserved_bytes + size <= self._room // 2 and self.can_write()
        if not room and not at_any_cost:
            return False
        self._table.reserve(size)
        await self._unlink(self._evict())
        return True

    def release(self, size: int) -> None:
        """Gives reserved room back."""
        self._table.release(size)

    async def fit(self) -> None:
        """Evicts what is over the limit, as after a start with a smaller one."""
        await self._unlink(self._evict())

    async def keep_only(self, fid: Fid, data_version: int) -> None:
        """The vnode's data is of this version now: pieces of other versions go."""
        await self._unlink(self._table.keep_only(fid, data_version))

    async def settle(self) -> None:
        """Waits for what is being written now, so that what is removed next does not come back."""
        if self._putting:
            await asyncio.wait(list(self._putting))

    def incarnation(self, volume: int) -> str:
        """Which incarnation of the volume its data here is of; "" if that is not known."""
        return self._incarnations.get(volume, "")

    async def be_of(self, volume: int, incarnation: str) -> bool:
        """The volume is of this incarnation: data of any other goes.

        Returns:
            True if it was known as another one.
        """
        before = self._incarnations.get(volume)
        if before == incarnation:
            return False
        await self.settle()
        self.recent.forget_volume(volume)
        await self.forget([fid for fid in self._table.fids() if fid.volume == volume])
        await self._follower.note_incarnation(volume, incarnation)
        self._incarnations[volume] = incarnation
        return before is not None

    async def forget(self, fids: Iterable[Fid]) -> int:
        """Removes all data of these vnodes; returns of how many there was any."""
        gone = []
        for fid in fids:
            self.recent.forget(fid)
            gone.append(self._table.forget(fid))
        await self._unlink([key for keys in gone for key in keys])
        return sum(map(bool, gone))

    def unlink_behind(self, path: Path) -> None:
        """Removes a file of ours in the cache directory; nobody waits for that."""
        self._threads.submit(unlink, path)

    # --- within ---

    @property
    def _room(self) -> int:
        return self.limit_bytes - self._follower.size_bytes

    def _evict(self) -> list[PieceKey]:
        victims = self._table.evict(self._room)
        self._journal.count("pieces_evicted", len(victims))
        return victims

    def _write_failed(self, error: OSError) -> None:
        self._write_again_at = self._clock.now() + WRITE_PAUSE_S
        self._journal.count("cache_write_failures")
        self._journal.tell("cache.write_failed")
        _log.warning("cache.write_failed", error=str(error))

    async def _unlink(self, keys: list[PieceKey]) -> None:
        """Removes the files of pieces that are in the table no more; the index follows."""
        self._follower.poke()
        if keys:
            await self._in_thread(self._files.unlink, keys)

    def _in_thread(
        self, work: Callable[[*Arguments], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
