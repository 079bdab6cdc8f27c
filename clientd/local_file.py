"""One file as the local programs that have it open see it: the fileserver's, with their writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES
from afs.types import Vnode
from clientd.core.dirty_map import DirtyMap, Kind, Part, Segment
from clientd.core.piece import piece_count
from clientd.dirty_pieces import DirtyPieces
from clientd.unsent_records import UnsentRecord
from clientd.volume_calls import VolumeCalls

# How a piece of the fileserver's file is had, by its number.
BasePiece: TypeAlias = Callable[[int], Awaitable[bytes]]
BasePieceNow: TypeAlias = Callable[[int], bytes | None]


@dataclass(eq=False, slots=True)
class Writer:
    """What a handle for writing is to be told.

    Attributes:
        has_written: it has written something, at any time.
        wrote: it has written something that was not stored since, and was not told of that.
        error: what a store failed with that it was not told of yet.
    """

    has_written: bool = False
    wrote: bool = False
    error: AfsError | None = None


class LocalFile:
    """What is dirty of one file; shared by all who have it open.

    Args:
        volume: the one it is in.
        fid: the file.
        opened: what the fileserver said when it was first opened.
        pieces: what was written to it.

    Attributes:
        map: what is dirty.
        mtime_ns: when it was last written to, or what a program set since; None if it is clean.
        turn: held by who writes, truncates or stores.
        handles: how many have it open.
        writers: those of them that may write.
        record: of what could not be stored; None if there is none.
        is_kept: the record has all that is dirty.
    """

    def __init__(self, volume: VolumeCalls, opened: Vnode, pieces: DirtyPieces) -> None:
        self.volume = volume
        self.fid = opened.fid
        self.opened = opened
        self.pieces = pieces
        self.map = DirtyMap()
        self.mtime_ns: int | None = None
        self.turn = asyncio.Lock()
        self.handles = 0
        self.writers: set[Writer] = set()
        self.record: UnsentRecord | None = None
        self.is_kept = False

    @property
    def is_dirty(self) -> bool:
        """True if there is anything that the fileserver does not have."""
        return not self.map.is_clean

    def overlay(self, vnode: Vnode) -> Vnode:
        """The fileserver's status with our writes over it."""
        if not self.is_dirty:
            return vnode
        mtime_ns = vnode.client_mtime_ns if self.mtime_ns is None else self.mtime_ns
        return replace(vnode, length=self.map.length(vnode.length), client_mtime_ns=mtime_ns)

    # --- changing; by who has the turn ---

    def put(self, offset: int, data: bytes, now_ns: int) -> None:
        """Takes in bytes that were written; `pieces` can take them."""
        self.pieces.put(offset, data)
        self.map.write(offset, offset + len(data))
        self._changed(now_ns)

    def truncate(self, length: int, now_ns: int) -> None:
        """Makes the file so long; `pieces` can take the last byte of it."""
        self.pieces.truncate(length)
        if self.map.truncate(length):
            self.pieces.put(length - 1, b"\0")
        self._changed(now_ns)

    def set_mtime(self, mtime_ns: int) -> None:
        """Says when it was written to, whenever that really was."""
        self._changed(mtime_ns)

    def _changed(self, now_ns: int) -> None:
        self.mtime_ns = now_ns
        self.is_kept = False

    async def make_room(self, offset: int, length: int) -> None:
        """Makes `put` possible.

        Raises:
            AfsError: VDISKFULL: neither in memory nor on disk is there room for it. EIO: what was
                written before cannot be read back.
        """
        try:
            if await self.pieces.prepare(offset, length):
                return
        except OSError as error:
            raise AfsError(AfsCode.EIO, f"{self.fid}: unflushed writes are lost: {error}") from None
        raise AfsError(AfsCode.VDISKFULL, "the cache directory has no room for unflushed writes")

    def stored(self, part: Part) -> None:
        """The fileserver has this part."""
        self.map.stored(part)
        for number in range(part.start // DATA_PIECE_BYTES, piece_count(part.end)):
            start = number * DATA_PIECE_BYTES
            if not self.map.touches(start, start + DATA_PIECE_BYTES):
                self.pieces.drop(number)
        if self.map.is_clean:
            self.drop()

    def drop(self) -> None:
        """What is dirty is given up."""
        self.map = DirtyMap()
        self.pieces.clear()
        self.mtime_ns = None
        self.is_kept = False

    # --- reading ---

    def read_now(
        self, base_length: int, offset: int, length: int, base: BasePieceNow
    ) -> bytes | None:
        """The bytes, if all of them are in memory."""
        found: list[bytes] = []
        for segment in self._in_pieces(offset, offset + length, base_length):
            data = self._now(segment, base)
            if data is None:
                return None
            found.append(data)
        return found[0] if len(found) == 1 else b"".join(found)

    async def read(self, base_length: int, offset: int, length: int, base: BasePiece) -> bytes:
        """The bytes; fewer only at the end of the file.

        Raises:
            AfsError: EAGAIN if what was dirty has been stored meanwhile: it is part of another
                version now. EIO: it cannot be read back.
        """
        found: list[bytes] = []
        for kind, start, end in list(self._in_pieces(offset, offset + length, base_length)):
            if kind is Kind.ZERO:
                found.append(bytes(end - start))
            elif kind is Kind.DIRTY:
                found.append(await self.written(start, end))
            else:
                number = start // DATA_PIECE_BYTES
                first = number * DATA_PIECE_BYTES
                found.append((await base(number))[start - first : end - first])
        return found[0] if len(found) == 1 else b"".join(found)

    def _now(self, segment: Segment, base: BasePieceNow) -> bytes | None:
        kind, start, end = segment
        if kind is Kind.ZERO:
            return bytes(end - start)
        if kind is Kind.DIRTY:
            return self.pieces.peek(start, end)
        number = start // DATA_PIECE_BYTES
        data = base(number)
        first = number * DATA_PIECE_BYTES
        return None if data is None else data[start - first : end - first]

    async def written(self, start: int, end: int) -> bytes:
        """Dirty bytes, of one piece.

        Raises:
            AfsError: EAGAIN if they have been stored meanwhile; EIO if they cannot be read back.
        """
        try:
            data = await self.pieces.read(start, end)
        except OSError as error:
            raise AfsError(AfsCode.EIO, f"{self.fid}: unflushed writes are lost: {error}") from None
        if data is None:
            raise AfsError(AfsCode.EAGAIN, f"{self.fid} was stored while it was read")
        return data

    def _in_pieces(self, start: int, end: int, base_length: int) -> list[Segment]:
        """What the bytes are made of, no segment in more than one piece."""
        split: list[Segment] = []
        for kind, at, stop in self.map.segments(start, end, base_length):
            while at < stop:
                cut = min(stop, (at // DATA_PIECE_BYTES + 1) * DATA_PIECE_BYTES)
                split.append(Segment(kind, at, cut))
                at = cut
        return split
