"""The files that local programs have open, and what is dirty of them."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from afs.errors import AfsCode, AfsError
from afs.limits import DRAIN_S
from afs.runtime.clock import Clock
from afs.types import Fid, Vnode, VnodeType, VolumeType
from clientd.core.cache import VnodeCache
from clientd.core.onlooker import Onlooker
from clientd.dirty_pieces import DirtyMemory, DirtyPieces
from clientd.disk_cache import DiskCache
from clientd.file_data import FileData
from clientd.fileservers import FileServers
from clientd.flushing import Flushing
from clientd.journal import Journal
from clientd.local_file import LocalFile
from clientd.open_file import OpenFile
from clientd.pieces import Pieces
from clientd.statuses import Statuses
from clientd.storing import Storing
from clientd.unsent import Unsent
from clientd.unsent_records import PIECES, UnsentRecord
from clientd.volume_calls import VolumeCalls
from clientd.volumes import Volumes


class OpenFiles:
    """Opens files; all who have one open share what is dirty of it.

    Args:
        cache: statuses.
        disk: data, and the directory where what is dirty lies that is too much for memory.
        volumes: those that are dealt with.
        servers: what may be trusted.
        statuses: tells files' statuses.
        data: reads files.
        onlooker: told where programs no longer see what they wrote.
        clock: when files were written to.
        journal: counts.
    """

    def __init__(
        self,
        *,
        cache: VnodeCache,
        disk: DiskCache,
        volumes: Volumes,
        servers: FileServers,
        statuses: Statuses,
        data: FileData,
        onlooker: Onlooker,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._cache = cache
        self._disk = disk
        self._volumes = volumes
        self._servers = servers
        self._statuses = statuses
        self._pieces = Pieces(data, disk.recent)
        self._memory = DirtyMemory()
        self.unsent = Unsent(cache=cache, disk=disk, clock=clock, journal=journal)
        storing = Storing(
            cache=cache,
            disk=disk,
            servers=servers,
            statuses=statuses,
            pieces=self._pieces,
            journal=journal,
        )
        self._flushing = Flushing(storing, self.unsent, onlooker, clock, self._tidy)
        self._files: dict[Fid, LocalFile] = {}
        self._giving_up: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Takes over what an earlier life could not store."""
        await self.unsent.load()

    async def open(
        self, volume: VolumeCalls, fid: Fid, *, write: bool, truncate: bool = False
    ) -> OpenFile:
        """Opens a file, as it is at some moment after the question.

        Args:
            volume: the one it is in.
            fid: the file.
            write: whether it may be written to.
            truncate: it is empty then, which is stored with what is written, or with nothing.

        Raises:
            AfsError: EISDIR if it is no file; EROFS if the volume cannot be written to; else as
                FetchStatus.
        """
        vnode = (await self._statuses.status(volume, fid)).vnode
        if vnode.type is not VnodeType.FILE:
            raise AfsError(AfsCode.EISDIR, f"{fid} is not a file")
        if write and volume.type is not VolumeType.READ_WRITE:
            raise AfsError(AfsCode.EROFS, f"volume {volume.name} cannot be written to")
        opened = self._opened(volume, vnode, write=write)
        if truncate:
            try:
                await opened.truncate(0)
            except BaseException:
                self._closed(opened)
                raise
        return opened

    def open_now(self, volume: VolumeCalls, fid: Fid) -> OpenFile | None:
        """As `open` for reading, without waiting for anything; None if that is not possible."""
        entry = self._servers.trusted(fid)
        if entry is None or entry.status.type is not VnodeType.FILE:
            return None
        return self._opened(volume, entry.status, write=False)

    def _opened(self, volume: VolumeCalls, vnode: Vnode, *, write: bool) -> OpenFile:
        file = self._hold(volume, vnode)
        opened = OpenFile(
            file,
            vnode,
            writable=write,
            cache=self._cache,
            servers=self._servers,
            statuses=self._statuses,
            pieces=self._pieces,
            flushing=self._flushing,
            on_close=self._closed,
        )
        if write:
            file.writers.add(opened.writer)
        return opened

    # --- files by their Fids ---

    def overlay(self, vnode: Vnode) -> Vnode:
        """A file's status with what is dirty of it: its length, and when it was written to."""
        file = self._files.get(vnode.fid)
        if file is None and self.unsent.is_waiting(vnode.fid):
            volume = self._volumes.known(vnode.fid.volume)
            file = self._file(volume, vnode) if volume is not None else None
        return vnode if file is None else file.overlay(vnode)

    def is_open(self, fid: Fid) -> bool:
        """True if a local program has the file open."""
        file = self._files.get(fid)
        return file is not None and file.handles > 0

    def is_dirty(self, fid: Fid) -> bool:
        """True if something is dirty of the file."""
        file = self._files.get(fid)
        return file is not None and file.is_dirty

    def set_mtime(self, fid: Fid, mtime_ns: int) -> bool:
        """Says when the file was written to, to be stored with its data; False if it is clean."""
        file = self._files.get(fid)
        if file is None or not file.is_dirty:
            return False
        file.set_mtime(mtime_ns)
        return True

    async def truncate(self, volume: VolumeCalls, fid: Fid, length: int) -> None:
        """Makes a file so long, with all that is dirty of it stored on return.

        Raises:
            AfsError: as `open`, and as StoreData.
        """
        opened = await self.open(volume, fid, write=True)
        try:
            await opened.truncate(length)
            await opened.flush()
        finally:
            self._closed(opened)

    def forget(self, fid: Fid) -> None:
        """The file was removed: what is dirty of it is given up."""
        file = self._files.get(fid)
        if file is None:
            return
        if file.record is None and not file.turn.locked():
            self._flushing.drop(file)
        else:
            self._behind(self._flushing.give_up(file))

    # --- what could not be stored ---

    async def send(self, volume: VolumeCalls, record: UnsentRecord) -> None:
        """Stores what waits for that, unless something is being done with the file already.

        A file that is being written again is stored by whoever does that, when it is whole.

        Raises:
            AfsError: as StoreData.
        """
        file = self._files.get(record.fid) or self._file(volume, record.vnode)
        if not file.turn.locked() and (file.is_kept or not file.writers):
            await self._flushing.flush(file)

    async def discard(self, record: UnsentRecord) -> None:
        """What could not be stored is not wanted any more."""
        file = self._files.get(record.fid)
        if file is not None:
            await self._flushing.give_up(file, record)
            self._tidy(file)
        await self.unsent.discard(record)

    async def stop(self) -> None:
        """Stores what is dirty, as far as that is possible soon, and keeps the rest on disk."""
        dirty = [
            file
            for file in self._files.values()
            if file.is_dirty and not (file.is_kept and file.volume.away_for_s)
        ]
        flushes = [asyncio.ensure_future(self._flushing.flush(file)) for file in dirty]
        if flushes:
            await asyncio.wait(flushes, timeout=DRAIN_S)
        await self._flushing.stop()
        await asyncio.gather(*flushes, *self._giving_up, return_exceptions=True)
        for file in dirty:
            await self._flushing.keep(file)

    # --- within ---

    def _hold(self, volume: VolumeCalls, vnode: Vnode) -> LocalFile:
        file = self._files.get(vnode.fid) or self._file(volume, vnode)
        file.handles += 1
        return file

    def _file(self, volume: VolumeCalls, vnode: Vnode) -> LocalFile:
        folder = self._disk.folder / PIECES / str(vnode.fid)
        pieces = DirtyPieces(folder, self._memory, self._disk)
        file = self._files[vnode.fid] = LocalFile(volume, vnode, pieces)
        self.unsent.restore(file)
        return file

    def _closed(self, opened: OpenFile) -> None:
        file = opened.file
        file.writers.discard(opened.writer)
        file.handles -= 1
        self._tidy(file)

    def _tidy(self, file: LocalFile) -> None:
        """A file that nobody has open is forgotten, unless it is yet to be stored."""
        if file.handles or file.turn.locked() or file.record is not None:
            return
        # Whoever wrote it was told that it could not be stored, and why.
        self._flushing.drop(file)
        self._files.pop(file.fid, None)

    def _behind(self, work: Coroutine[Any, Any, None]) -> None:
        """Does something that nobody waits for."""
        task = asyncio.create_task(work)
        self._giving_up.add(task)
        task.add_done_callback(self._giving_up.discard)
