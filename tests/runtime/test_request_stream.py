"""A stream that was broken off is never taken for one that ended."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from afs.runtime.channel import open_channel
from afs.runtime.request_stream import whole_stream
from afs.runtime.server import DaemonServer
from afs.v1 import cache_manager_pb2 as pb
from afs.v1 import cache_manager_pb2_grpc

# The stubs declare every method abstract.
_CacheManager: Any = cache_manager_pb2_grpc.CacheManagerServicer


class Receiver(_CacheManager):  # type: ignore[misc]
    """Counts how the streams it received ended."""

    def __init__(self) -> None:
        self.ends: Counter[str] = Counter()
        self.begun = asyncio.Semaphore(0)

    async def Write(self, requests: AsyncIterator[Any], context: Any) -> pb.WriteResponse:
        try:
            async for _ in whole_stream(requests, context):
                self.begun.release()
        except asyncio.CancelledError:
            self.ends["broken off"] += 1
            raise
        self.ends["ended"] += 1
        return pb.WriteResponse()


@pytest.mark.parametrize("how", ["cancel", "close", "finish"])
async def test_end_is_told_from_breaking_off(how: str) -> None:
    """A hundred streams, cancelled, cut with their connection, or finished."""
    receiver = Receiver()
    server = DaemonServer()
    server.add(
        cache_manager_pb2_grpc.add_CacheManagerServicer_to_server, receiver, "afs.v1.CacheManager"
    )
    (address,) = await server.listen(["127.0.0.1:0"])
    await server.start()
    for number in range(100):
        channel = open_channel(address)
        call: Any = cache_manager_pb2_grpc.CacheManagerStub(channel).Write()
        await call.write(pb.WriteRequest(data=bytes(number * 100)))
        await receiver.begun.acquire()
        if how == "finish":
            await call.done_writing()
            await call
        elif how == "cancel":
            call.cancel()
        await channel.close()
        async with asyncio.timeout(10):
            while receiver.ends.total() <= number:
                await asyncio.sleep(0)
    assert receiver.ends == {"ended" if how == "finish" else "broken off": 100}
    await server.stop(0)
