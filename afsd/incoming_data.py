"""Data on its way from a stream into a volume: received while what came before is written."""

from __future__ import annotations

import asyncio

from afs.limits import DATA_PIECE_BYTES
from afs.types import Fid
from afs.volume.volume import StagedData, Volume
from afsd.attached_volume import AttachedVolume


class IncomingData:
    """The data of one StoreData.

    At most one piece waits here and one is being written, whatever the sizes of the messages: `add`
    returns only when there is room, and gRPC then holds the sender back. A file of a single piece
    takes one visit to a thread.

    Used by one task; ends with `discard` or `applied`.
    """

    def __init__(self, attached: AttachedVolume, fid: Fid, offset: int) -> None:
        self._attached = attached
        self._fid = fid
        self._offset = offset
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._stage: _Stage | None = None
        self._writing: asyncio.Future[None] | None = None

    async def add(self, data: bytes) -> None:
        """Takes the next data of the stream.

        Raises:
            AfsError: VBUSY if the volume is being taken away; VOVERQUOTA, VDISKFULL, EFBIG,
                VNOVNODE, EROFS … as staging goes, possibly for data that came earlier.
        """
        self._attached.check()
        if not data:
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes >= DATA_PIECE_BYTES:
            await self._written()
            self._writing = self._attached.start((await self._opened()).write, self._take())

    async def finish(self) -> StagedData:
        """The staged data, durable and ready to be applied."""
        await self._written()
        stage = self._stage
        if stage is None:
            stage = self._stage = await self._attached.open(
                _stage_all, self._attached.volume, self._fid, self._offset, self._take()
            )
        else:
            self._writing = self._attached.start(stage.write_last, self._take())
            await self._written()
        return stage.staged

    def discard(self) -> None:
        """Lets go of the data without having applied it. Never blocks."""
        self._waiting.clear()
        if self._stage is not None:
            self._attached.release(self._stage, after=self._writing)

    def applied(self) -> None:
        """The data is part of the file: there is nothing to let go of any more."""
        if self._stage is not None:
            self._attached.forget(self._stage)

    async def _opened(self) -> _Stage:
        if self._stage is None:
            self._stage = await self._attached.open(
                _open, self._attached.volume, self._fid, self._offset
            )
        return self._stage

    async def _written(self) -> None:
        """Waits for the write under way; raises what it raised."""
        if self._writing is not None:
            await asyncio.shield(self._writing)

    def _take(self) -> bytes:
        data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting = []
        self._waiting_bytes = 0
        return data


class _Stage:
    """Staged data as something that can be held and released. Its methods block on the disk."""

    def __init__(self, staged: StagedData) -> None:
        self.staged = staged

    def write(self, data: bytes) -> None:
        self.staged.write(data)

    def write_last(self, data: bytes) -> None:
        if data:
            self.staged.write(data)
        self.staged.finish()

    def close(self) -> None:
        self.staged.discard()


def _open(volume: Volume, fid: Fid, offset: int) -> _Stage:
    return _Stage(volume.stage(fid, offset))


def _stage_all(volume: Volume, fid: Fid, offset: int, data: bytes) -> _Stage:
    """Stages the whole of a small file in one visit to a thread."""
    stage = _open(volume, fid, offset)
    try:
        stage.write_last(data)
    except BaseException:
        stage.close()
        raise
    return stage
