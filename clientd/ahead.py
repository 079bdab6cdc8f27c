"""Small files brought ahead of need, many in one call.

Theory of operation
    Every file that is about to be read is told of (`begin`). If `core.reading_order` says
    that others will be read next, they come along in one BulkFetch; whoever reads one that is under
    way waits for it. What comes is judged file by file: its status and promise by the rules for
    every reply (R10), its data is kept under the DataVersion that came with it, in memory among the
    recent pieces, and in the disk cache.

    It is a help, and never the only way: whatever goes wrong here, the reader fetches for itself,
    and hears then what is wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import MIB
from afs.types import Fid
from afs.v1 import file_server_pb2 as pb
from afs.wire import fid_to_wire
from clientd.core.cache import VnodeCache
from clientd.core.piece import PieceKey
from clientd.core.promise import Ticket
from clientd.core.reading_order import ReadingOrder
from clientd.disk_cache import DiskCache
from clientd.journal import Journal
from clientd.volume_calls import VolumeCalls

# Data on its way to the disk, beyond which no more is taken in: a few of the largest batches.
MAX_UNKEPT_BYTES: Final = 8 * MIB


class Ahead:
    """Brings small files ahead.

    Args:
        cache: what is remembered.
        disk: where data is kept.
        journal: counts and tells.
    """

    def __init__(self, cache: VnodeCache, disk: DiskCache, journal: Journal) -> None:
        self._cache = cache
        self._disk = disk
        self._journal = journal
        self._order = ReadingOrder(cache, self.is_here)
        self._coming: dict[Fid, asyncio.Future[None]] = {}
        # Fileservers that cannot do it.
        self._without: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        # What is on its way to the disk.
        self._keeping: set[asyncio.Task[None]] = set()
        self._unkept_bytes = 0

    async def stop(self) -> None:
        """Ends what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._keeping, return_exceptions=True)

    def begin(self, volume: VolumeCalls, fid: Fid) -> asyncio.Future[None] | None:
        """A file is about to be read: has it brought, with those that follow it, if that pays.

        Returns:
            None if it is not under way; else what is done when it is here, or will not be.
        """
        if volume.in_use in self._without:
            return None
        fids = self._order.read(fid)
        if fids:
            loop = asyncio.get_running_loop()
            self._coming.update((each, loop.create_future()) for each in fids)
            task = asyncio.create_task(self._bring(volume, fids))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return self._coming.get(fid)

    async def about_to_read(self, volume: VolumeCalls, fid: Fid) -> bool:
        """As `begin`, and waits for the file; True if it was under way."""
        coming = self.begin(volume, fid)
        if coming is None:
            return False
        await asyncio.shield(coming)
        return True

    def is_here(self, fid: Fid) -> bool:
        """True for a file whose data need not be fetched, or is under way."""
        if fid in self._coming:
            return True
        entry = self._cache.peek(fid)
        if entry is None:
            return self._disk.has_any(fid)
        if not entry.status.length:
            return True
        key = PieceKey(fid, entry.status.data_version, 0)
        return self._disk.recent.has(key) or self._disk.has(key)

    async def _bring(self, volume: VolumeCalls, fids: Sequence[Fid]) -> None:
        """One BulkFetch."""
        try:
            await self._fetch(volume, fids)
        except AfsError as error:
            if error.code is AfsCode.RXGEN_OPCODE:
                self._without.add(volume.in_use)
        finally:
            for fid in fids:
                self._landed(fid)

    async def _fetch(self, volume: VolumeCalls, fids: Sequence[Fid]) -> None:
        self._journal.count("bulk_fetch_calls")
        request = pb.BulkFetchRequest(fids=[fid_to_wire(fid) for fid in fids])
        to_come = iter(fids)
        async with aclosing(volume.stream(lambda stub: stub.BulkFetch, request)) as messages:
            async for message, ticket in messages:
                came: list[tuple[PieceKey, bytes]] = []
                # In this order: what is left of `to_come` is for the next message.
                for result, fid in zip(message.results, to_come, strict=False):
                    piece = self._take_in(volume, fid, result, ticket)
                    if piece is not None:
                        came.append(piece)
                    self._landed(fid)
                self._journal.tell(
                    "data.fetched", server=ticket.server, fids=[key.fid for key, _ in came]
                )
                await self._keep(came)

    def _take_in(
        self, volume: VolumeCalls, fid: Fid, result: pb.BulkFetchResult, ticket: Ticket
    ) -> tuple[PieceKey, bytes] | None:
        """Applies what is said of one file; its data, if it came with any."""
        if result.abort_code == AfsCode.VNOVNODE:
            self._cache.forget(fid)
        if result.abort_code or not result.HasField("status"):
            return None
        callback = result.callback if result.HasField("callback") else None
        vnode, _ = volume.take_in(result.status, callback, ticket)
        if vnode.fid != fid or not vnode.length or len(result.data) != vnode.length:
            return None
        self._journal.count("files_fetched_in_bulk")
        self._journal.count("bytes_fetched", vnode.length)
        key = PieceKey(fid, vnode.data_version, 0)
        self._disk.recent.keep(key, result.data)
        return key, result.data

    async def _keep(self, came: Sequence[tuple[PieceKey, bytes]]) -> None:
        """Puts data into the disk cache; nobody waits for that unless the disk falls behind."""
        size = sum(len(data) for _, data in came)
        while self._unkept_bytes > MAX_UNKEPT_BYTES:
            await asyncio.wait(self._keeping, return_when=asyncio.FIRST_COMPLETED)
        self._unkept_bytes += size
        task = asyncio.create_task(self._disk.put_all(came))
        self._keeping.add(task)
        task.add_done_callback(lambda task: self._kept(task, size))

    def _kept(self, task: asyncio.Task[None], size: int) -> None:
        self._keeping.discard(task)
        self._unkept_bytes -= size

    def _landed(self, fid: Fid) -> None:
        """Whoever waits for the file looks for it now."""
        coming = self._coming.pop(fid, None)
        if coming is not None and not coming.done():
            coming.set_result(None)
