"""Pieces of files for those who read a little at a time: recent ones in memory, others brought.

A local program reads a file some 100 KiB at a time; a piece of 1 MiB is read from the disk cache,
and checked, once for all of them. Who reads one piece after the other has those that follow brought
ahead, by one FetchData or one pass over the cache's files (`ReadAhead`).
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Final

from afs.errors import AfsError
from afs.limits import DATA_PIECE_BYTES
from afs.types import Vnode
from clientd.core.piece import PieceKey, piece_count, piece_length
from clientd.file_data import FileData
from clientd.recent_pieces import RecentPieces
from clientd.single_flight import SingleFlight
from clientd.volume_calls import VolumeCalls

# So many pieces are in memory ahead of one who reads one after the other.
AHEAD_PIECES: Final = 4


class Pieces:
    """Brings pieces, once for all who wait, and remembers the latest.

    Args:
        data: where they come from.
        recent: those in memory.
    """

    def __init__(self, data: FileData, recent: RecentPieces) -> None:
        self.data = data
        self._recent = recent
        self._flights: SingleFlight[PieceKey, bytes] = SingleFlight()

    def peek(self, key: PieceKey) -> bytes | None:
        """The piece, if it is in memory."""
        return self._recent.peek(key)

    def keep(self, key: PieceKey, data: bytes) -> None:
        """Remembers a piece."""
        self._recent.keep(key, data)

    def is_here(self, vnode: Vnode, number: int) -> bool:
        """True if the piece is in memory or in the disk cache."""
        if self._recent.has(PieceKey(vnode.fid, vnode.data_version, number)):
            return True
        start = number * DATA_PIECE_BYTES
        return self.data.is_cached(vnode, start, piece_length(vnode.length, number))

    async def piece(self, volume: VolumeCalls, vnode: Vnode, number: int) -> bytes:
        """A piece of the file as `vnode` describes it.

        Raises:
            AfsError: EAGAIN if the file is not what `vnode` says any more; else as FetchData.
        """
        key = PieceKey(vnode.fid, vnode.data_version, number)
        data = self.peek(key)
        if data is None:
            landed = await self._flights.run(key, lambda: self._bring(volume, vnode, key))
            data = landed.value
        return data

    async def _bring(self, volume: VolumeCalls, vnode: Vnode, key: PieceKey) -> bytes:
        start = key.number * DATA_PIECE_BYTES
        async with aclosing(self.data.read(volume, vnode, start, DATA_PIECE_BYTES)) as stream:
            data = await anext(stream, b"")
        self.keep(key, data)
        return data


class ReadAhead:
    """One reader's pieces, brought ahead while it reads one after the other.

    Args:
        pieces: where they come from.
    """

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._last = -1
        self._run: _Run | None = None

    def follow(self, volume: VolumeCalls, vnode: Vnode, number: int) -> None:
        """The reader is at this piece now."""
        self._pieces.data.begin(volume, vnode)
        in_order, self._last = number == self._last + 1, number
        run = self._run
        if run is not None and run.brings(vnode, number):
            run.follow(number)
        elif in_order and number > 0 and number + 1 < piece_count(vnode.length):
            self.stop()
            key = PieceKey(vnode.fid, vnode.data_version, number)
            first = number if self._pieces.peek(key) is None else number + 1
            self._run = _Run(self._pieces, volume, vnode, first)

    async def piece(self, volume: VolumeCalls, vnode: Vnode, number: int) -> bytes:
        """As `Pieces.piece`."""
        self.follow(volume, vnode, number)
        data = self._pieces.peek(PieceKey(vnode.fid, vnode.data_version, number))
        if data is None and self._run is not None and self._run.brings(vnode, number):
            data = await self._run.wait_for(number)
        if data is None:
            data = await self._pieces.piece(volume, vnode, number)
        return data

    def stop(self) -> None:
        """Nothing more is brought ahead."""
        if self._run is not None:
            self._run.task.cancel()
            self._run = None


class _Run:
    """Brings pieces from one to the last, a few ahead of the reader."""

    def __init__(self, pieces: Pieces, volume: VolumeCalls, vnode: Vnode, first: int) -> None:
        self._pieces = pieces
        self._vnode = vnode
        self._next = first
        self._wanted = first
        self._changed = asyncio.Event()
        self._error: AfsError | None = None
        self.task = asyncio.create_task(self._bring_all(volume))

    def brings(self, vnode: Vnode, number: int) -> bool:
        """True if it has just brought the piece, or will before long."""
        return (
            not self.task.done()
            and vnode.data_version == self._vnode.data_version
            and self._next - AHEAD_PIECES <= number <= self._next + AHEAD_PIECES
        )

    def follow(self, number: int) -> None:
        """The reader is at this piece now."""
        self._wanted = max(self._wanted, number)
        self._wake()

    async def wait_for(self, number: int) -> bytes | None:
        """The piece, when it has come; None if it does not.

        Raises:
            AfsError: as `Pieces.piece`.
        """
        while self._next <= number and not self.task.done():
            await self._changed.wait()
        if self._next <= number and self._error is not None:
            raise self._error
        return self._pieces.peek(PieceKey(self._vnode.fid, self._vnode.data_version, number))

    async def _bring_all(self, volume: VolumeCalls) -> None:
        try:
            start = self._next * DATA_PIECE_BYTES
            stream = self._pieces.data.read(volume, self._vnode, start, self._vnode.length - start)
            async with aclosing(stream) as brought:
                async for data in brought:
                    key = PieceKey(self._vnode.fid, self._vnode.data_version, self._next)
                    self._pieces.keep(key, data)
                    self._next += 1
                    self._wake()
                    while self._next - self._wanted > AHEAD_PIECES:
                        await self._changed.wait()
        except AfsError as error:
            self._error = error
        finally:
            self._wake()

    def _wake(self) -> None:
        """Whoever waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()
