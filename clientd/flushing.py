"""When dirty files are stored, and who is told how that went."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES, UNSENT_AFTER_S
from afs.runtime.clock import Clock
from afs.types import Fid, Vnode
from clientd.core.dirty_map import Part
from clientd.core.onlooker import Onlooker
from clientd.core.rotation import RECOVERABLE
from clientd.early_store import LEAST_BYTES, EarlyStore
from clientd.local_file import LocalFile, Writer
from clientd.storing import ConflictError, Storing
from clientd.unsent import Unsent
from clientd.unsent_records import UnsentRecord

_log = structlog.get_logger(__name__)


class Flushing:
    """Takes writes in, and stores them when asked to, or when there is no room for more.

    Args:
        storing: stores.
        unsent: keeps what could not be stored.
        onlooker: told where programs no longer see what they wrote.
        clock: when a file was written to.
        on_idle: told of a file whenever a flush of it has ended.
    """

    def __init__(
        self,
        storing: Storing,
        unsent: Unsent,
        onlooker: Onlooker,
        clock: Clock,
        on_idle: Callable[[LocalFile], None],
    ) -> None:
        self._storing = storing
        self._unsent = unsent
        self._onlooker = onlooker
        self._clock = clock
        self._on_idle = on_idle
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
        task.add_done_callback(lambda _: self._on_idle(file))
        try:
            await asyncio.shield(task)
        except AfsError:
            if writer is not None:
                writer.wrote = False
                writer.error = None
            raise

    async def keep(self, file: LocalFile) -> None:
        """What is dirty of a file, which nobody stores now, is kept for another life."""
        async with file.turn:
            if file.is_dirty and not file.is_kept:
                await self._unsent.keep(file, "the client was stopped")

    async def give_up(self, file: LocalFile, record: UnsentRecord | None = None) -> None:
        """What is dirty of a file is not to be stored any more, nor to be kept.

        Args:
            file: which.
            record: only if this is its record still.
        """
        async with file.turn:
            if record is None or file.record is record:
                self.drop(file)
                await self._unsent.given_up(file)

    def drop(self, file: LocalFile) -> None:
        """What is dirty of a file, and not kept, is not to be stored any more."""
        early = self._early.pop(file.fid, None)
        if early is not None:
            early.break_off()
        if file.is_dirty:
            self._onlooker.stale(file.fid)
        file.drop()

    async def stop(self) -> None:
        """Ends the stores under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        # Looked at here, because who asked may have gone.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, AfsError):
            _log.error("flush.failed", exc_info=error)

    async def _flush(self, file: LocalFile) -> None:
        async with file.turn:
            if file.is_dirty:
                await self._store(file)

    async def _store(self, file: LocalFile) -> None:
        try:
            await self._store_or_keep(file)
        except AfsError as error:
            for writer in file.writers:
                if writer.wrote:
                    writer.error = error
            raise
        for writer in file.writers:
            writer.wrote = False
            writer.error = None

    async def _store_or_keep(self, file: LocalFile) -> None:
        try:
            if file.record is None:
                await self._store_new(file)
            if file.is_dirty:
                await self._store_kept(file)
        except AfsError as error:
            if error.code in RECOVERABLE and file.is_dirty and not file.is_kept:
                await self._unsent.keep(file, str(error))
            elif file.record is not None:
                file.record.reason = str(error)
            raise
        await self._unsent.sent(file)

    async def _store_new(self, file: LocalFile) -> None:
        """Stores what is dirty; or keeps it, if its fileserver is away for some time."""
        storing = asyncio.create_task(self._store_all(file))
        try:
            while not storing.done():
                await asyncio.wait([storing], timeout=UNSENT_AFTER_S)
                if not storing.done() and file.volume.away_for_s > UNSENT_AFTER_S:
                    break
        except BaseException:
            storing.cancel()
            await asyncio.gather(storing, return_exceptions=True)
            raise
        if storing.done():
            await storing
            return
        storing.cancel()
        await asyncio.gather(storing, return_exceptions=True)
        if file.is_dirty:
            await self._unsent.keep(file, "the fileserver is away")

    async def _store_all(self, file: LocalFile) -> None:
        if not await self._finish_early(file):
            await self._storing.store(file)

    async def _store_kept(self, file: LocalFile) -> None:
        """Stores what was kept, with what was written since, if that is still possible."""
        if not file.is_kept:
            await self._unsent.keep(file, "it was written to since")

        async def stored(after: Vnode) -> None:
            await self._unsent.part_sent(file, after.data_version, after.length)

        try:
            await self._storing.store_kept(file, stored)
        except ConflictError as conflict:
            number = file.record.number if file.record is not None else 0
            await self._unsent.conflicted(file, str(conflict))
            self._onlooker.stale(file.fid)
            raise AfsError(
                AfsCode.EIO, f"{file.fid}: {conflict}; what was written is unsent store {number}"
            ) from None

    # --- stores that begin before their time ---

    def _begin_early(self, file: LocalFile) -> None:
        ranges = file.map.ranges()
        if len(ranges) != 1 or ranges[0][1] - ranges[0][0] < LEAST_BYTES or file.record is not None:
            return
        start, end = ranges[0]
        # When the file was last written to is not known before its end.
        part = Part(start, end, file.map.cut, needs_base=False)
        early = self._storing.begin(file, part)
        early.grow(end)
        self._early[file.fid] = early

    async def _finish_early(self, file: LocalFile) -> bool:
        """Ends the store that has begun already; False if nothing comes of it."""
        early = self._early.pop(file.fid, None)
        if early is None or early.is_broken_off:
            return False
        try:
            done = await early.finish()
        except BaseException:
            early.break_off()
            raise
        if done is None:
            self._storing.distrust(file)
            return False
        mtime_ns = file.mtime_ns
        await self._storing.stored(file, *done)
        if mtime_ns is not None:
            # The data is stored; that it has the time of its arrival is no reason to say it is not.
            with suppress(AfsError):
                await self._storing.set_mtime(file, mtime_ns)
        return not file.is_dirty
