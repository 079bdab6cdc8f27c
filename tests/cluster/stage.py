"""A volume with programs at work on it, for faults to be played on, and a judge at the end."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import grpc
import grpc.aio

from afs.runtime.channel import open_channel
from afs.v1 import vol_server_pb2, vol_server_pb2_grpc
from tests.cluster.cluster import CLIENTS, SERVERS, Cluster
from tests.cluster.timeline import Trace, Watchers, programs
from tests.cluster.workload import Client, History, Workload, clients

# As docker-compose.test.yml has it.
LEASE_S: Final = 6.0
BREAK_DEADLINE_S: Final = 1.5
# Who writes while others are dead waits for one break deadline and no more. The rest of a lease is
# for the writing itself, on a busy machine, and for the pause before a busy volume is asked again.
WRITE_PATIENCE_S: Final = LEASE_S
# How long programs work before and after a fault, and while it lasts if nothing else ends it.
BEFORE_S, DURING_S, AFTER_S = 0.5, 3.0, 1.0
# What is waited for has come by then, or never comes.
PATIENCE_S: Final = 60.0
POLL_S: Final = 0.05

_names = (f"faults.{number}" for number in itertools.count())


@dataclass(slots=True)
class Stage:
    """A volume with programs at work on it.

    `vol_servers`: stubs, by the server's number. `out_of_service_s`: how long the volume was, at
    most, for an operation.
    """

    cluster: Cluster
    volume: str
    clients: dict[str, Client]
    workload: Workload
    history: History
    vol_servers: dict[str, Any]
    out_of_service_s: float = 0.0

    async def go_on(self, seconds: float = DURING_S) -> None:
        """The programs work."""
        await asyncio.sleep(seconds)

    async def do(self, fault: Callable[..., Any], *words: Any) -> Any:
        """Something that blocks, while programs work."""
        return await asyncio.to_thread(fault, *words)

    async def until(self, holds: Callable[[], bool], what: str) -> None:
        """Returns when a condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"never: {what}"
            await asyncio.sleep(POLL_S)

    async def more(self, acks: int, clients: Iterable[str]) -> None:
        """Returns when each of the clients has got this many more writes acknowledged."""
        known = {name: self._acks(name) for name in clients}
        await self.until(
            lambda: all(self._acks(name) >= count + acks for name, count in known.items()),
            f"{acks} more writes of each of {list(known)}",
        )

    def _acks(self, client: str) -> int:
        return sum(write.client == client for write in self.history.writes)

    async def client_moved(self, client: str) -> None:
        """The client has another address, which programs on its machine do not notice."""
        self.clients[client].connect(await self.do(self.cluster.address, client))

    # --- operations on the volume -----------------------------------------------------------------

    async def give_back(self, server: str = "1") -> float:
        """A restart of the volume, over FSSync; seconds until it was acknowledged."""
        vol_server, began = self.vol_servers[server], time.monotonic()
        await vol_server.Offline(vol_server_pb2.OfflineRequest(volume=self.volume))
        answer = await vol_server.Online(vol_server_pb2.OnlineRequest(volume=self.volume))
        self._was_out(time.monotonic() - began)
        seconds: float = answer.give_back_s
        return seconds

    def begin_move(self, source: str, target: str) -> Any:
        """Begins to move the volume to another server; the call."""
        request = vol_server_pb2.MoveRequest(
            volume=self.volume, to_server=f"volserverd-{target}:7005", to_partition="vicepa"
        )
        return self.vol_servers[source].Move(request)

    async def move(self, source: str, target: str) -> float:
        """Moves the volume to another server; seconds that it was out of service."""
        last = [answer async for answer in self.begin_move(source, target)][-1]
        seconds: float = last.sent.exclusive_s
        self._was_out(seconds)
        return seconds

    async def add_sites(self, at: str = "1") -> None:
        """A place for a read-only copy on each server."""
        for number in SERVERS:
            server = f"volserverd-{number}:7005"
            request = vol_server_pb2.AddSiteRequest(
                volume=self.volume, server=server, partition="vicepa"
            )
            await self.vol_servers[at].AddSite(request)

    async def release(self, server: str = "1", *, wait: bool = False) -> list[Any]:
        """Shows the volume's state now in its read-only volume; the answers."""
        called_at = time.monotonic()
        request = vol_server_pb2.ReleaseRequest(volume=self.volume, wait=wait)
        answers = [answer async for answer in self.vol_servers[server].Release(request)]
        sites = answers[-1].sites
        assert sites, answers
        assert all(site.released for site in sites), sites
        self.workload.was_released(called_at)
        return answers

    def _was_out(self, seconds: float) -> None:
        self.out_of_service_s = max(self.out_of_service_s, seconds)

    async def judge(self, *, bystanders: Iterable[str] = ()) -> None:
        """All clients, where they are now, see what was acknowledged; the history is coherent.

        `bystanders`: clients that the fault was not about; their writes were not held up.
        """
        addresses = {name: self.cluster.address(name) for name in CLIENTS}
        async with clients(addresses, self.history) as connected, asyncio.timeout(PATIENCE_S):
            await self.workload.settled(connected.values())
        checker = self.history.judge(LEASE_S)
        assert checker.reads > 20, "hardly anybody read"
        assert len(self.history.writes) > 20, "hardly anybody wrote"
        for name in bystanders:
            slowest = self.history.slowest_ack_s([name])
            assert slowest < self.out_of_service_s + WRITE_PATIENCE_S, name


async def until_connected(vol_server: Any) -> None:
    """Returns when a volserver reaches the location service."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await vol_server.Examine(vol_server_pb2.ExamineRequest(volume="nowhere"))
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return
            await asyncio.sleep(POLL_S)


@asynccontextmanager
async def stage(
    cluster: Cluster, trace: Trace, *, partition: str = "vicepa", server: str = "1"
) -> AsyncIterator[Stage]:
    """A new volume at a server, its files known to all clients, and programs at work."""
    history, volume, watchers = History(), next(_names), Watchers()
    trace.sources += [watchers.lines, lambda: programs(history)]
    async with AsyncExitStack() as stack:
        vol_servers: dict[str, Any] = {}
        for number in SERVERS:
            channel = open_channel(cluster.address(f"volserverd-{number}"))
            await stack.enter_async_context(channel)
            vol_servers[number] = vol_server_pb2_grpc.VolServerStub(channel)
            await until_connected(vol_servers[number])
        addresses = {name: cluster.address(name) for name in CLIENTS}
        connected = await stack.enter_async_context(clients(addresses, history))
        await stack.enter_async_context(watchers.listening(cluster))
        request = vol_server_pb2.CreateRequest(name=volume, partition=partition)
        await vol_servers[server].Create(request)
        workload = Workload(list(connected.values()), volume, history)
        await workload.prepare()
        async with workload.running():
            await asyncio.sleep(BEFORE_S)
            yield Stage(cluster, volume, connected, workload, history, vol_servers)
            await asyncio.sleep(AFTER_S)
