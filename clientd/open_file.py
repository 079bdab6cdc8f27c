"""A file that a local program has open: reads with its own writes in them, writes, and stores them.

Theory of operation
    All who have a file open on this client share one `LocalFile`. What they write is dirty until it
    is stored: by `flush`, which returns when the fileserver has all that is dirty of the file, on
    disk, or says why it has not. A store, once begun, goes on to its end even if who asked for it
    goes away meanwhile.

    A read sees the newest file of the fileserver that this client may know of, under its promise,
    with what is dirty over it. So it changes under a reader when others close it, as in AFS.

    Who wrote is told if a store fails: by the flush that asked for it, and each other handle that
    wrote, once, by its next flush, unless that one stores everything after all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES, MAX_FILE_BYTES
from afs.types import Fid, Vnode
from clientd.core.cache import VnodeCache
from clientd.core.piece import PieceKey
from clientd.fileservers import FileServers
from clientd.flushing import Flushing
from clientd.local_file import LocalFile, Writer
from clientd.pieces import Pieces, ReadAhead
from clientd.statuses import Statuses
from clientd.volume_calls import VolumeCalls

# A file that changes faster than it can be read is given up on.
MAX_READINGS: Final = 10


class OpenFile:
    """One handle. Made by `OpenFiles.open`.

    Args:
        file: what it shares with other handles of the file.
        volume: the one the file is in.
        vnode: the fileserver's file as it was opened.
        writable: whether it may be written to.
        cache, servers, statuses: the fileserver's file.
        pieces: its data.
        flushing: takes writes in.
        on_close: told once when it lets go of the file.
    """

    def __init__(
        self,
        file: LocalFile,
        vnode: Vnode,
        *,
        writable: bool,
        cache: VnodeCache,
        servers: FileServers,
        statuses: Statuses,
        pieces: Pieces,
        flushing: Flushing,
        on_close: Callable[[OpenFile], None],
    ) -> None:
        self.file = file
        self.writable = writable
        self.writer = Writer()
        self._opened = vnode
        self._cache = cache
        self._servers = servers
        self._statuses = statuses
        self._pieces = pieces
        self._flushing = flushing
        self._on_close = on_close
        self._ahead = ReadAhead(pieces)

    @property
    def fid(self) -> Fid:
        """The file."""
        return self.file.fid

    @property
    def volume(self) -> VolumeCalls:
        """The volume that the file is in."""
        return self.file.volume

    # --- status ---

    def vnode(self) -> Vnode:
        """The last that is known of the file, with what is dirty."""
        entry = self._cache.peek(self.fid)
        if entry is not None:
            self._opened = entry.status
        return self.file.overlay(self._opened)

    async def status(self) -> Vnode:
        """The file as it is at some moment after the question, with what is dirty.

        Raises:
            AfsError: as FetchStatus.
        """
        return self.file.overlay((await self._statuses.status(self.volume, self.fid)).vnode)

    # --- reading ---

    def read_now(self, offset: int, length: int) -> bytes | None:
        """As `read`, without waiting for anything; None if that is not possible."""
        entry = self._servers.trusted(self.fid)
        if entry is None:
            return None
        vnode = entry.status

        def base(number: int) -> bytes | None:
            self._ahead.follow(self.volume, vnode, number)
            return self._pieces.peek(PieceKey(self.fid, vnode.data_version, number))

        return self.file.read_now(vnode.length, offset, length, base)

    async def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset` on; fewer only at the end of the file.

        Raises:
            AfsError: as FetchData; EAGAIN if the file never stays the same for long enough.
        """
        for attempt in range(MAX_READINGS):
            data = self.read_now(offset, length)
            if data is not None:
                return data
            vnode = (await self._statuses.status(self.volume, self.fid)).vnode
            try:
                return await self.file.read(
                    vnode.length, offset, length, partial(self._ahead.piece, self.volume, vnode)
                )
            except AfsError as error:
                if error.code is not AfsCode.EAGAIN or attempt + 1 == MAX_READINGS:
                    raise
            if self.file.turn.locked():
                # It is being stored; afterwards it is all of one version.
                async with self.file.turn:
                    pass
        raise AssertionError("the last reading returns or raises")

    # --- writing ---

    def write_now(self, offset: int, data: bytes) -> int | None:
        """As `write`, without waiting for anything; None if that is not possible."""
        file = self.file
        if (
            file.turn.locked()
            or not data
            or not self.writable
            or offset + len(data) > MAX_FILE_BYTES
            or not file.pieces.can_put(offset, len(data))
        ):
            return None
        self._put(offset, data)
        return len(data)

    async def write(self, offset: int, data: bytes) -> int:
        """Writes all of the bytes; they are dirty until they are stored.

        Raises:
            AfsError: EPERM if the handle is for reading; EFBIG; VDISKFULL if there is no room here
                for more that is dirty, and none could be made by storing what there is.
        """
        self._check_writable()
        if offset + len(data) > MAX_FILE_BYTES:
            raise AfsError(
                AfsCode.EFBIG,
                f"{self.fid} would be {offset + len(data)} bytes long: expected at most"
                f" {MAX_FILE_BYTES}",
            )
        async with self.file.turn:
            for at in range(0, len(data), DATA_PIECE_BYTES):
                piece = data[at : at + DATA_PIECE_BYTES]
                await self._flushing.make_room(self.file, offset + at, len(piece))
                self._put(offset + at, piece)
        return len(data)

    async def truncate(self, length: int) -> None:
        """Makes the file so long; dirty until it is stored.

        Raises:
            AfsError: EPERM, EFBIG, VDISKFULL: as `write`.
        """
        self._check_writable()
        if length > MAX_FILE_BYTES:
            raise AfsError(
                AfsCode.EFBIG, f"length {length} of {self.fid}: expected at most {MAX_FILE_BYTES}"
            )
        async with self.file.turn:
            await self._flushing.truncate(self.file, length)
            self.writer.wrote = self.writer.has_written = True

    async def flush(self) -> None:
        """Stores what is dirty of the file; the fileserver has it, on disk, on return.

        A handle for reading has nothing to store.

        Raises:
            AfsError: as StoreData: what was written is dirty still. Or what an earlier store failed
                with that this handle was not told of.
        """
        if not self.writable:
            return
        error, self.writer.error = self.writer.error, None
        # What an earlier handle wrote and was told of is not this one's business.
        if self.file.is_dirty and (self.writer.has_written or not self.file.is_kept):
            await self._flushing.flush(self.file, self.writer)
        elif error is not None:
            raise error

    async def close(self) -> None:
        """Lets go of the file; stores first what this handle wrote, if it has not been yet.

        Raises:
            AfsError: as `flush`; the handle is closed all the same.
        """
        self._ahead.stop()
        try:
            if self.writer.wrote and self.file.is_dirty:
                await self.flush()
        finally:
            self._on_close(self)

    def close_now(self) -> None:
        """Lets go of a file that was open for reading."""
        assert not self.writable
        self._ahead.stop()
        self._on_close(self)

    def _put(self, offset: int, data: bytes) -> None:
        self._flushing.put(self.file, offset, data)
        self.writer.wrote = self.writer.has_written = True

    def _check_writable(self) -> None:
        if not self.writable:
            raise AfsError(AfsCode.EPERM, f"{self.fid} is open for reading")
