"""Watches the fileserver: its events with their times, and how often clients called it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from afs.runtime.channel import open_channel
from afs.v1 import file_server_debug_pb2 as pb
from afs.v1 import file_server_debug_pb2_grpc


def steady_s() -> float:
    """The steady clock that the daemons of this machine use as well."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Observer:
    """Events of the fileserver, as they come.

    Attributes:
        events: all so far, oldest first; `steady_s` is their time.
    """

    def __init__(self, address: str) -> None:
        self.events: list[pb.WatchResponse] = []
        self._channel = open_channel(address)
        self._stub: Any = file_server_debug_pb2_grpc.FileServerDebugStub(self._channel)
        self._came = asyncio.Condition()
        self._watch: Any = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._watch = self._stub.Watch(pb.WatchRequest())
        await self._watch.initial_metadata()
        self._task = asyncio.create_task(self._collect())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    async def _collect(self) -> None:
        async for event in self._watch:
            # A promise for every file that is read: not what the story is about.
            if event.event != "promise.given":
                self.events.append(event)
                async with self._came:
                    self._came.notify_all()

    async def until(self, wanted: Callable[[pb.WatchResponse], bool]) -> pb.WatchResponse:
        """The first event that is wanted, as soon as it is there."""
        async with self._came:
            await self._came.wait_for(lambda: any(map(wanted, self.events)))
        return next(filter(wanted, self.events))

    async def client_calls(self) -> int:
        """How many FileServer calls there were so far, of all clients."""
        answer = await self._stub.GetCounters(pb.GetCountersRequest())
        prefix = "calls/afs.v1.FileServer/"
        return sum(count for name, count in answer.counters.items() if name.startswith(prefix))

    async def hosts(self) -> dict[str, pb.HostInfo]:
        """The hosts by UUID, with their flags."""
        answer = await self._stub.DumpHosts(pb.DumpHostsRequest())
        return {host.uuid: host for host in answer.hosts}
