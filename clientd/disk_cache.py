"""The disk cache: pieces of files, bounded in bytes, least recently used out first.

Theory of operation
    A piece is one file, named by its key, written without syncing. What there is, is known in
    memory (`_pieces`, in order of use); the index on disk follows behind and serves the next start.
    Memory is changed in the event loop, files in threads, in this order:
        put: room is made in memory; in a thread the victims' files are unlinked and the new file is
            written under a temporary name and renamed; only then the piece is in memory.
        take: the piece is in memory; a thread reads the file and hashes it. What does not match, or
            is not there (it was evicted meanwhile, or somebody removed it), is dropped: the
            caller fetches it.
    So a crash at any moment leaves files without a row (removed at the next start), rows without a
    file (dropped at the next start), or both right.

    A disk that cannot be written is not an error: `put` says False, and for a while nothing more is
    tried. The client then serves without caching.

Invariant: `used_bytes` is the sum over all pieces in memory and in flight, and never above the
limit.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar, TypeVarTuple, Unpack

import structlog
from blake3 import blake3

from afs.errors import AfsCode, AfsError
from afs.runtime.clock import Clock
from afs.types import Fid
from clientd.disk_index import DiskIndex
from clientd.journal import Journal
from clientd.piece import PieceKey, StoredPiece, disk_bytes_of

# After a failed write the disk is left alone this long.
WRITE_PAUSE_S: Final = 1.0
# The index follows this long behind.
INDEX_DELAY_S: Final = 0.5
_THREADS: Final = 4

_log = structlog.get_logger(__name__)

Arguments = TypeVarTuple("Arguments")
T = TypeVar("T")


class DiskCache:
    """Pieces on disk. Made by `open`; used in the event loop only.

    Args:
        folder: the cache directory, exists.
        limit_bytes: what pieces and index together may take on disk.
        index: the table of pieces.
        lock: descriptor of the lock file; closed with the cache.
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
        self.limit_bytes = limit_bytes
        self.folder = folder
        self._data = folder / "data"
        self._index = index
        self._lock = lock
        self._clock = clock
        self._journal = journal
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="cache")
        # One thread for the index: sqlite3 connections take turns anyway.
        self._index_thread = ThreadPoolExecutor(1, thread_name_prefix="cache-index")
        self._pieces: OrderedDict[tuple[Fid, int], tuple[int, StoredPiece]] = OrderedDict()
        self._by_fid: dict[Fid, set[int]] = {}
        self._incarnations: dict[int, str] = {}
        self._index_bytes = 0
        self._write_again_at = -1.0
        self._uses = 0
        self._changed: set[tuple[Fid, int]] = set()
        self._index_timer: asyncio.TimerHandle | None = None
        self._index_task: asyncio.Task[None] | None = None
        self._putting: set[asyncio.Task[bool]] = set()
        self._reserved = 0
        self.used_bytes = 0

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
                _log.warning("cache_index.replaced", folder=str(folder))
            cache = cls(folder, limit_bytes, index, lock, clock=clock, journal=journal)
            cache._recover()
        except BaseException:
            os.close(lock)
            raise
        return cache

    async def close(self) -> None:
        """Brings the index up to date and lets go of the directory."""
        if self._index_timer is not None:
            self._index_timer.cancel()
        if self._index_task is not None:
            await asyncio.gather(self._index_task, return_exceptions=True)
        await asyncio.gather(*self._putting, return_exceptions=True)
        await self._write_index()
        await asyncio.to_thread(self._let_go)

    def _let_go(self) -> None:
        self._threads.shutdown()
        self._index_thread.shutdown()
        self._index.close()
        os.close(self._lock)

    # --- asking ---

    def has(self, key: PieceKey) -> bool:
        """True if the piece is there; it may yet turn out damaged."""
        held = self._pieces.get((key.fid, key.number))
        return held is not None and held[0] == key.data_version

    def has_any(self, fid: Fid) -> bool:
        """True if there is any piece of the vnode, of whatever DataVersion."""
        return fid in self._by_fid

    def cached_bytes(self, fid: Fid, data_version: int) -> int:
        """Bytes of the vnode's data at that DataVersion that are here."""
        held = (self._pieces[fid, index] for index in self._by_fid.get(fid, ()))
        return sum(piece.length for version, piece in held if version == data_version)

    def file_count(self) -> int:
        """Vnodes with data here."""
        return len(self._by_fid)

    async def take(self, key: PieceKey) -> bytes | None:
        """The piece's bytes, checked; None if it is not here (any more)."""
        held = self._pieces.get((key.fid, key.number))
        if held is None or held[0] != key.data_version:
            return None
        self._pieces.move_to_end((key.fid, key.number))
        data = await self._in_thread(_read_checked, self._path(key), held[1])
        if data is not None:
            return data
        if self._pieces.get((key.fid, key.number)) == held:
            self._journal.count("pieces_damaged")
            self._journal.tell("piece.damaged", fids=(key.fid,))
            _log.warning("piece.damaged", file=key.file_name)
            await self._unlink(self._forget(key.fid, key.number))
        return None

    # --- changing ---

    async def put(self, key: PieceKey, data: bytes) -> bool:
        """Keeps a piece; an older DataVersion's one goes.

        Returns:
            False if it could not be kept: the disk is full or broken, or the piece is too large.
        """
        if self.has(key):
            return True
        # Whoever waits may go away; what was begun is finished, so that the books balance.
        task = asyncio.create_task(self._put(key, data))
        self._putting.add(task)
        task.add_done_callback(self._putting.discard)
        return await asyncio.shield(task)

    async def _put(self, key: PieceKey, data: bytes) -> bool:
        place = (key.fid, key.number)
        room = self.limit_bytes - self._index_bytes
        disk_bytes = disk_bytes_of(len(data))
        if disk_bytes > room or not self.can_write():
            return False
        held = self._pieces.get(place)
        if held is not None and held[0] > key.data_version:
            # Brought by a reader of the version before.
            return False
        victims = self._forget(*place)
        self.used_bytes += disk_bytes
        victims += self._make_room(room)
        try:
            digest = await self._in_thread(_replace_file, self._path(key), data, victims)
        except OSError as error:
            self.used_bytes -= disk_bytes
            self._write_failed(error)
            return False
        # Another one may have brought this piece, or another version of it, meanwhile.
        path = self._path(key)
        await self._unlink([other for other in self._forget(*place) if other != path])
        self._pieces[place] = (key.data_version, StoredPiece(len(data), digest))
        self._by_fid.setdefault(key.fid, set()).add(key.number)
        self._note_changed(place)
        return True

    async def reserve(self, size: int) -> bool:
        """Takes room for something else in the cache directory; False if there is none."""
        room = self.limit_bytes - self._index_bytes
        if self._reserved + size > room // 2:
            return False
        self._reserved += size
        self.used_bytes += size
        await self._unlink(self._make_room(room))
        return True

    def release(self, size: int) -> None:
        """Gives reserved room back."""
        self._reserved -= size
        self.used_bytes -= size

    async def keep_only(self, fid: Fid, data_version: int) -> None:
        """The vnode's data is of this version now: pieces of other versions go."""
        indexes = [
            index
            for index in self._by_fid.get(fid, ())
            if self._pieces[fid, index][0] != data_version
        ]
        if indexes:
            await self._unlink(self._forget(fid, *indexes))

    async def be_of(self, volume: int, incarnation: str) -> bool:
        """The volume is of this incarnation: data of any other goes.

        Returns:
            True if it was known as another one.
        """
        before = self._incarnations.get(volume)
        if before == incarnation:
            return False
        await self.forget([fid for fid in self._by_fid if fid.volume == volume])
        # On disk before any of the data is.
        with suppress(sqlite3.Error):
            await asyncio.get_running_loop().run_in_executor(
                self._index_thread, self._index.note_incarnation, volume, incarnation
            )
        self._incarnations[volume] = incarnation
        return before is not None

    async def forget(self, fids: Iterable[Fid]) -> int:
        """Removes all data of these vnodes; returns of how many there was any."""
        paths: list[Path] = []
        forgotten = 0
        for fid in fids:
            if fid in self._by_fid:
                forgotten += 1
                paths += self._forget(fid, *self._by_fid[fid])
        await self._unlink(paths)
        return forgotten

    def can_write(self) -> bool:
        """False for a while after a write failed."""
        return self._clock.now() >= self._write_again_at

    def fids(self) -> list[Fid]:
        """All vnodes with data here."""
        return list(self._by_fid)

    # --- within ---

    def _path(self, key: PieceKey) -> Path:
        return self._data / key.folder / key.file_name

    def _forget(self, fid: Fid, *indexes: int) -> list[Path]:
        """Takes pieces out of memory; returns the files to unlink."""
        paths = []
        for index in indexes:
            held = self._pieces.pop((fid, index), None)
            if held is None:
                continue
            data_version, piece = held
            self.used_bytes -= piece.disk_bytes
            paths.append(self._path(PieceKey(fid, data_version, index)))
            held_indexes = self._by_fid[fid]
            held_indexes.discard(index)
            if not held_indexes:
                del self._by_fid[fid]
            self._note_changed((fid, index))
        return paths

    def _make_room(self, room: int) -> list[Path]:
        """Evicts until what is used fits; returns the files to unlink."""
        paths: list[Path] = []
        while self.used_bytes > room and self._pieces:
            fid, index = next(iter(self._pieces))
            paths += self._forget(fid, index)
            self._journal.count("pieces_evicted")
        return paths

    def _write_failed(self, error: OSError) -> None:
        self._write_again_at = self._clock.now() + WRITE_PAUSE_S
        self._journal.count("cache_write_failures")
        self._journal.tell("cache.write_failed")
        _log.warning("cache.write_failed", error=str(error))

    async def _unlink(self, paths: list[Path]) -> None:
        if paths:
            await self._in_thread(_unlink_all, paths)

    def _in_thread(
        self, work: Callable[[Unpack[Arguments]], T], *arguments: *Arguments
    ) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    # --- the index ---

    def _note_changed(self, place: tuple[Fid, int]) -> None:
        """The index has to follow, soon."""
        self._changed.add(place)
        busy = self._index_task is not None and not self._index_task.done()
        if self._index_timer is None and not busy:
            loop = asyncio.get_running_loop()
            self._index_timer = loop.call_later(INDEX_DELAY_S, self._begin_index)

    def _begin_index(self) -> None:
        self._index_timer = None
        self._index_task = asyncio.create_task(self._write_index())
        self._index_task.add_done_callback(self._index_written)

    def _index_written(self, task: asyncio.Task[None]) -> None:
        if self._changed and not task.cancelled() and self._index_timer is None:
            loop = asyncio.get_running_loop()
            self._index_timer = loop.call_later(INDEX_DELAY_S, self._begin_index)

    async def _write_index(self) -> None:
        """Writes what has changed to the index; what cannot be written is tried again later."""
        changed, self._changed = self._changed, set()
        puts: list[tuple[PieceKey, StoredPiece, int]] = []
        deletes: list[tuple[Fid, int]] = []
        for fid, index in changed:
            held = self._pieces.get((fid, index))
            if held is None:
                deletes.append((fid, index))
            else:
                self._uses += 1
                puts.append((PieceKey(fid, held[0], index), held[1], self._uses))
        try:
            self._index_bytes = await asyncio.get_running_loop().run_in_executor(
                self._index_thread, self._update_index, puts, deletes
            )
        except (sqlite3.Error, OSError) as error:
            self._changed |= changed
            self._journal.count("cache_write_failures")
            _log.warning("cache_index.write_failed", error=str(error))

    def _update_index(
        self, puts: list[tuple[PieceKey, StoredPiece, int]], deletes: list[tuple[Fid, int]]
    ) -> int:
        """In the index's thread: updates; returns what the index takes on disk."""
        self._index.update(puts, deletes)
        return self._index.size_bytes()

    # --- starting ---

    def _recover(self) -> None:
        """Makes memory, index and files agree; blocks on the disk."""
        for number in range(256):
            (self._data / f"{number:02x}").mkdir(parents=True, exist_ok=True)
        files = {
            entry.name: entry
            for folder in os.scandir(self._data)
            if folder.is_dir(follow_symlinks=False)
            for entry in os.scandir(folder)
        }
        self._incarnations = self._index.incarnations()
        lost: list[tuple[Fid, int]] = []
        for key, piece in self._index.load():
            entry = files.pop(key.file_name, None)
            self._uses += 1
            if (
                entry is None
                or entry.path != str(self._path(key))
                or entry.stat(follow_symlinks=False).st_size != piece.length
            ):
                lost.append((key.fid, key.number))
                if entry is not None:
                    files[entry.name] = entry
                continue
            self._pieces[key.fid, key.number] = (key.data_version, piece)
            self._by_fid.setdefault(key.fid, set()).add(key.number)
            self.used_bytes += piece.disk_bytes
        _unlink_all([Path(entry.path) for entry in files.values()])
        self._changed.update(lost)
        self._index_bytes = self._index.size_bytes()

    async def fit(self) -> None:
        """Evicts what is over the limit, as after a start with a smaller one."""
        await self._unlink(self._make_room(self.limit_bytes - self._index_bytes))


_temporary_names = itertools.count()


def _read_checked(path: Path, stored: StoredPiece) -> bytes | None:
    """In a thread: the file's bytes if they are what was stored."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    return data if len(data) == stored.length and blake3(data).digest() == stored.digest else None


def _replace_file(path: Path, data: bytes, victims: list[Path]) -> bytes:
    """In a thread: unlinks the victims, then makes the file; returns its BLAKE3.

    Raises:
        OSError: there is no file.
    """
    _unlink_all(victims)
    temporary = path.with_name(f".{next(_temporary_names)}.tmp")
    try:
        temporary.write_bytes(data)
        temporary.rename(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return blake3(data).digest()


def _unlink_all(paths: Iterable[Path]) -> None:
    """In a thread: removes files; one that cannot be removed is left to the next start."""
    for path in paths:
        with suppress(OSError):
            path.unlink(missing_ok=True)
