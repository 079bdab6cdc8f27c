"""FSSYNC BREAKCBKS, as measurements call it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from afs.runtime.channel import open_channel
from afs.v1 import fssync_pb2, fssync_pb2_grpc
from afsctl.cell import Cell
from bench.attached_host import steady_s


@asynccontextmanager
async def volume_breaks(cell: Cell) -> AsyncIterator[Callable[[int, int | None], Awaitable[float]]]:
    """A function that breaks the callbacks of a volume, of which there must be so many (or any).

    It answers with the steady time, in seconds, at which it made the call.
    """
    async with open_channel(cell.fssync) as channel:
        stub = fssync_pb2_grpc.FSSyncStub(channel)

        async def break_callbacks(volume: int, expected: int | None) -> float:
            request = fssync_pb2.VolumeOpRequest(
                command=fssync_pb2.FSYNC_VOL_BREAKCBKS, volume_id=volume, program="bench"
            )
            began = steady_s()
            answer = await stub.VolumeOp(request)
            assert expected is None or answer.callbacks_marked == expected, answer
            return began

        yield break_callbacks
