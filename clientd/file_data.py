"""Data of files: from the disk cache, or fetched once for all who read it, in bounded memory.

Theory of operation
    A file is read in pieces of 1 MiB, all of one DataVersion. A piece that is on disk is taken from
    there. Otherwise a `DataFetch` brings a run of pieces, from the one wanted to the last one the
    reader wants or the first that is on disk already; readers nearby join it.

    A fetch hands each piece to the readers that wait for it, then keeps it on disk, then goes on.
    It holds one piece in memory. It does not run further ahead of its readers than
    RUN_AHEAD_PIECES, and where the disk takes nothing (full, or broken) not at all; when nobody
    follows it for PAUSE_S it ends, so that a slow reader holds no stream of the fileserver open,
    and the reader begins another one. Nobody left: it ends.

    If the file turns out to have another DataVersion than the reader began with, the reader
    gets EAGAIN: what it was given so far and what would follow do not belong together.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from afs.limits import DATA_PIECE_BYTES, MAX_BULK_FILE_BYTES, MAX_FILE_BYTES
from afs.types import Fid, Vnode
from clientd.ahead import Ahead
from clientd.core.piece import PieceKey, piece_count
from clientd.data_fetch import DataFetch
from clientd.disk_cache import DiskCache
from clientd.journal import Journal
from clientd.statuses import Known, Source, Statuses
from clientd.volume_calls import VolumeCalls

# A reader joins a fetch that will be where it wants within so many pieces.
JOIN_DISTANCE_PIECES: Final = 8
# Fetches under way at a time; each holds a piece or two in memory.
MAX_FETCHES: Final = 32


class FileData:
    """Reads files' data.

    Args:
        disk: what is cached.
        statuses: tells files' statuses.
        ahead: brings small files before they are asked for.
        journal: counts.
    """

    def __init__(self, disk: DiskCache, statuses: Statuses, ahead: Ahead, journal: Journal) -> None:
        self._disk = disk
        self._ahead = ahead
        self._statuses = statuses
        self._journal = journal
        self._fetches: dict[Fid, list[DataFetch]] = {}
        self._slots = asyncio.Semaphore(MAX_FETCHES)

    async def stop(self) -> None:
        """Ends all fetches."""
        await self._ahead.stop()
        await asyncio.gather(*(fetch.stop() for fetch in self.all_fetches()))

    async def open(self, volume: VolumeCalls, fid: Fid, offset: int, length: int) -> Known:
        """The status of a file that is about to be read, and where its data comes from.

        Where nothing of the file is here, its status comes along with its data: FILE_SERVER. Else
        the source is what it would be if all of the data turned out to be here.

        Raises:
            AfsError: as FetchData.
        """
        brought = offset < DATA_PIECE_BYTES and await self._ahead.about_to_read(volume, fid)
        if offset >= DATA_PIECE_BYTES or self._disk.has_any(fid) or self._ahead.is_here(fid):
            # A FetchStatus may show that the data need not be fetched.
            known = await self._statuses.status(volume, fid)
            source = Source.FILE_SERVER if brought else min(known.source, Source.REVALIDATED)
            return Known(known.vnode, source)
        end = piece_count(min(offset + length, MAX_FILE_BYTES))

        async def fetch() -> Known:
            begun = self._begin(volume, fid, None, 0, end)
            return Known(await begun.opened(), Source.FILE_SERVER)

        return await self._statuses.status(volume, fid, fetch)

    async def read(
        self, volume: VolumeCalls, vnode: Vnode, offset: int, length: int
    ) -> AsyncGenerator[bytes, None]:
        """Yields the bytes from `offset`, at most `length`, of the file as `vnode` describes it.

        To be closed by who uses it (`aclosing`).

        Raises:
            AfsError: EAGAIN if the file changed under way; else as FetchData.
        """
        end = min(vnode.length, offset + length)
        if offset >= end:
            return
        first, last = offset // DATA_PIECE_BYTES, (end - 1) // DATA_PIECE_BYTES
        if vnode.length <= MAX_BULK_FILE_BYTES:
            await self._ahead.about_to_read(volume, vnode.fid)
        joined: DataFetch | None = None
        ahead: asyncio.Future[bytes | None] | None = None
        try:
            for number in range(first, last + 1):
                key = PieceKey(vnode.fid, vnode.data_version, number)
                data = await ahead if ahead is not None else self._disk.recent.peek(key)
                if data is None:
                    data = await self._disk.take(key)
                if joined is not None:
                    if data is None:
                        data = await joined.piece(number)
                    else:
                        joined.follow(number)
                while data is None:
                    if joined is not None:
                        joined.leave()
                        joined = None
                    joined = self._join(volume, vnode, number, last)
                    data = await joined.piece(number)
                # The next piece is read while this one is on its way to the local program.
                following = key._replace(number=number + 1)
                ahead = None
                if number < last and self._disk.has(following):
                    ahead = asyncio.ensure_future(self._disk.take(following))
                start = number * DATA_PIECE_BYTES
                yield data[max(0, offset - start) : end - start]
        finally:
            if ahead is not None:
                ahead.cancel()
            if joined is not None:
                joined.leave()

    def begin(self, volume: VolumeCalls, vnode: Vnode) -> None:
        """A file is about to be read: small ones that will be read next are brought."""
        if vnode.length <= MAX_BULK_FILE_BYTES:
            self._ahead.begin(volume, vnode.fid)

    def is_cached(self, vnode: Vnode, offset: int, length: int) -> bool:
        """True if all the data asked for is here: on disk, or on its way there."""
        end = min(vnode.length, offset + length)
        return all(
            self._disk.has(PieceKey(vnode.fid, vnode.data_version, number))
            or self._disk.recent.has(PieceKey(vnode.fid, vnode.data_version, number))
            or any(
                fetch.has_in_hand(vnode.data_version, number)
                for fetch in self._fetches.get(vnode.fid, ())
            )
            for number in range(offset // DATA_PIECE_BYTES, piece_count(end))
        )

    def fetches(self, fid: Fid) -> list[DataFetch]:
        """Fetches of a file that are under way."""
        return list(self._fetches.get(fid, ()))

    def all_fetches(self) -> list[DataFetch]:
        """All fetches that are under way."""
        return [fetch for running in self._fetches.values() for fetch in running]

    def _join(self, volume: VolumeCalls, vnode: Vnode, number: int, last: int) -> DataFetch:
        """The fetch that brings the piece soon, one begun now if there is none."""
        for fetch in self._fetches.get(vnode.fid, ()):
            if fetch.brings(vnode.data_version, number, JOIN_DISTANCE_PIECES):
                fetch.join()
                return fetch
        end = number + 1
        while end <= last and not self._disk.has(PieceKey(vnode.fid, vnode.data_version, end)):
            end += 1
        fetch = self._begin(volume, vnode.fid, vnode, number, end)
        fetch.join()
        return fetch

    def _begin(
        self, volume: VolumeCalls, fid: Fid, vnode: Vnode | None, first: int, end: int
    ) -> DataFetch:
        fetch = DataFetch(
            volume,
            fid,
            vnode,
            first,
            end,
            disk=self._disk,
            slots=self._slots,
            journal=self._journal,
        )
        self._fetches.setdefault(fid, []).append(fetch)
        fetch.start(self._ended)
        return fetch

    def _ended(self, fetch: DataFetch) -> None:
        running = self._fetches[fetch.fid]
        running.remove(fetch)
        if not running:
            del self._fetches[fetch.fid]
