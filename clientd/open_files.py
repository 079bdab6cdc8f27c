"""The files that local programs have open, and what is dirty of them."""

from __future__ import annotations

from pathlib import Path

from afs.errors import AfsCode, AfsError
from afs.runtime.clock import Clock
from afs.types import Fid, Vnode, VnodeType, VolumeType
from clientd.core.cache import VnodeCache
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
from clientd.volume_calls import VolumeCalls


class OpenFiles:
    """Opens files; all who have one open share what is dirty of it.

    Args:
        cache: statuses.
        disk: data, and the directory where what is dirty lies that is too much for memory.
        servers: what may be trusted.
        statuses: tells files' statuses.
        data: reads files.
        clock: when files were written to.
        journal: counts.
    """

    def __init__(
        self,
        *,
        cache: VnodeCache,
        disk: DiskCache,
        servers: FileServers,
        statuses: Statuses,
        data: FileData,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._cache = cache
        self._disk = disk
        self._servers = servers
        self._statuses = statuses
        self._pieces = Pieces(data)
        self._memory = DirtyMemory()
        storing = Storing(
            cache=cache,
            disk=disk,
            servers=servers,
            statuses=statuses,
            pieces=self._pieces,
            journal=journal,
        )
        self._flushing = Flushing(storing, clock)
        self._files: dict[Fid, LocalFile] = {}

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
        file = self._hold(volume, vnode.fid)
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
        file.mtime_ns = mtime_ns
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
        if file is not None:
            self._flushing.give_up(file)

    async def stop(self) -> None:
        """Stores what is dirty, as far as that is possible, and waits for the stores under way."""
        for file in list(self._files.values()):
            if file.is_dirty:
                try:
                    await self._flushing.flush(file)
                except AfsError:
                    # Its writers would be told, if there were any left.
                    self._flushing.give_up(file)
        await self._flushing.stop()

    # --- within ---

    def _hold(self, volume: VolumeCalls, fid: Fid) -> LocalFile:
        file = self._files.get(fid)
        if file is None:
            pieces = DirtyPieces(self._folder_of(fid), self._memory, self._disk)
            file = self._files[fid] = LocalFile(volume, fid, pieces)
        file.handles += 1
        return file

    def _folder_of(self, fid: Fid) -> Path:
        return self._disk.folder / "dirty" / str(fid)

    def _closed(self, opened: OpenFile) -> None:
        file = opened.file
        file.writers.discard(opened.writer)
        file.handles -= 1
        if file.handles == 0:
            self._flushing.give_up(file)
            del self._files[file.fid]
