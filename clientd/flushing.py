"""When dirty files are stored, and who is told how that went."""

from __future__ import annotations

import asyncio

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES
from afs.runtime.clock import Clock
from afs.types import Fid
from clientd.core.dirty_map import Part
from clientd.early_store import LEAST_BYTES, EarlyStore
from clientd.local_file import LocalFile, Writer
from clientd.storing import Storing, opening_of


class Flushing:
    """Takes writes in, and stores them when asked to, or when there is no room for more.

    Args:
        storing: stores.
        clock: when a file was written to.
    """

    def __init__(self, storing: Storing, clock: Clock) -> None:
        self._storing = storing
        self._clock = clock
        self._under_way: set[asyncio.Task[None]] = set()
        # Stores that have begun; one that was broken off stays here until its file is clean, so
        # that no other one begins.
        self._early: dict[Fid, EarlyStore] = {}

    # --- writing; by who has the file's turn ---

    def put(self, file: LocalFile, offset: int, data: bytes) -> None:
        """Takes in bytes for which there is room; many in a row begin to be sent."""
        early, end = self._early.get(file.fid), offset + len(data)
        if early is not None and not early.follows(offset):
            early.break_off()
        file.put(offset, data, self._clock.wall_ns())
        if early is not None:
            early.grow(end)
        elif end % DATA_PIECE_BYTES < len(data):
            self._begin_early(file)

    async def make_room(self, file: LocalFile, offset: int, length: int) -> None:
        """Makes `put` possible, if need be by storing what is dirty of the file.

        Raises:
            AfsError: VDISKFULL if there is no room for it; EIO; as StoreData.
        """
        try:
            await file.make_room(offset, length)
        except AfsError as error:
            if error.code is not AfsCode.VDISKFULL or not file.is_dirty:
                raise
            await self._store(file)
            await file.make_room(offset, length)

    async def truncate(self, file: LocalFile, length: int) -> None:
        """Makes the file so long.

        Raises:
            AfsError: as `make_room`.
        """
        if length:
            await self.make_room(file, length - 1, 1)
        if (early := self._early.get(file.fid)) is not None:
            early.break_off()
        file.truncate(length, self._clock.wall_ns())

    # --- storing ---

    async def flush(self, file: LocalFile, writer: Writer | None = None) -> None:
        """Stores all that is dirty of a file, to the end even if who asked goes away.

        Raises:
            AfsError: as StoreData; all other writers are told of it later.
        """
        task = asyncio.create_task(self._flush(file))
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        try:
            await asyncio.shield(task)
        except AfsError:
            if writer is not None:
                writer.error = None
            raise

    def give_up(self, file: LocalFile) -> None:
        """What is dirty of a file is not to be stored any more."""
        early = self._early.pop(file.fid, None)
        if early is not None:
            early.break_off()
        file.drop()

    async def stop(self) -> None:
        """Waits for the stores under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        # Looked at here, because who asked may have gone.
        if not task.cancelled():
            task.exception()

    async def _flush(self, file: LocalFile) -> None:
        async with file.turn:
            if file.is_dirty:
                await self._store(file)

    async def _store(self, file: LocalFile) -> None:
        try:
            if not await self._finish_early(file):
                await self._storing.store(file)
        except AfsError as error:
            for writer in file.writers:
                if writer.wrote:
                    writer.error = error
            raise
        for writer in file.writers:
            writer.wrote = False
            writer.error = None

    # --- stores that begin before their time ---

    def _begin_early(self, file: LocalFile) -> None:
        ranges = file.map.ranges()
        if len(ranges) != 1 or ranges[0][1] - ranges[0][0] < LEAST_BYTES:
            return
        start, end = ranges[0]
        # When the file was last written to is not known before its end.
        part = Part(start, end, file.map.cut, needs_base=False)
        early = EarlyStore(file, start, opening_of(file, part, None, None))
        early.grow(end)
        self._early[file.fid] = early

    async def _finish_early(self, file: LocalFile) -> bool:
        """Ends the store that has begun already; False if nothing comes of it."""
        early = self._early.pop(file.fid, None)
        if early is None or early.is_broken_off:
            return False
        done = await early.finish()
        if done is None:
            self._storing.distrust(file)
            return False
        mtime_ns = file.mtime_ns
        await self._storing.stored(file, *done)
        if mtime_ns is not None:
            await self._storing.set_mtime(file, mtime_ns)
        return not file.is_dirty
