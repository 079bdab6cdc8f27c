"""Real faults under load: what was acknowledged is there, and nobody reads what is too old."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from afs.runtime.channel import open_channel
from afs.v1 import vol_server_pb2, vol_server_pb2_grpc
from tests.cluster.cluster import CLIENTS, Cluster
from tests.cluster.workload import Client, History, Workload, clients

pytestmark = pytest.mark.blocking_ok

# As docker-compose.test.yml has it.
LEASE_S = 6.0
BREAK_DEADLINE_S = 1.5
# How long programs work before, during and after a fault.
BEFORE_S, DURING_S, AFTER_S = 1.0, 4.0, 2.0

_names = (f"faults.{number}" for number in itertools.count())


@dataclass(slots=True)
class Stage:
    """A volume with programs at work on it."""

    cluster: Cluster
    volume: str
    clients: dict[str, Client]
    workload: Workload
    history: History
    vol_server: Any

    async def go_on(self, seconds: float) -> None:
        """The programs work."""
        await asyncio.sleep(seconds)

    async def do(self, fault: Callable[..., Any], *words: Any) -> Any:
        """Something that blocks, while programs work."""
        return await asyncio.to_thread(fault, *words)

    async def give_back(self) -> float:
        """A restart of the volume, over FSSync; seconds until it was acknowledged."""
        await self.vol_server.Offline(vol_server_pb2.OfflineRequest(volume=self.volume))
        answer = await self.vol_server.Online(vol_server_pb2.OnlineRequest(volume=self.volume))
        seconds: float = answer.give_back_s
        return seconds

    async def judge(self) -> None:
        """All clients, where they are now, see what was acknowledged; the history is coherent."""
        addresses = {name: self.cluster.address(name) for name in CLIENTS}
        async with clients(addresses, self.history) as connected:
            await self.workload.settled(connected.values())
        checker = self.history.judge(LEASE_S)
        assert checker.reads > 20, "hardly anybody read"
        assert len(self.history.writes) > 20, "hardly anybody wrote"


@asynccontextmanager
async def stage(
    cluster: Cluster, partition: str = "vicepa", server: str = "1"
) -> AsyncIterator[Stage]:
    """A new volume at a server, its files known to all clients, and programs at work."""
    history, volume = History(), next(_names)
    async with (
        open_channel(cluster.address(f"volserverd-{server}")) as channel,
        clients({name: cluster.address(name) for name in CLIENTS}, history) as connected,
    ):
        vol_server: Any = vol_server_pb2_grpc.VolServerStub(channel)
        request = vol_server_pb2.CreateRequest(name=volume, partition=partition)
        await vol_server.Create(request)
        workload = Workload(list(connected.values()), volume, history)
        await workload.prepare()
        async with workload.running():
            await asyncio.sleep(BEFORE_S)
            yield Stage(cluster, volume, connected, workload, history, vol_server)
            await asyncio.sleep(AFTER_S)


async def test_client_paused_during_a_give_back(cluster: Cluster) -> None:
    """A frozen client delays no ack; when it goes on, its first answers are right."""
    async with stage(cluster) as on:
        await on.do(cluster.pause, "client-3")
        took = [await on.give_back() for _ in range(3)]
        await on.go_on(DURING_S)
        await on.do(cluster.unpause, "client-3")
    await on.judge()
    assert max(took) < BREAK_DEADLINE_S, took


async def test_client_killed_and_started_again(cluster: Cluster) -> None:
    """Its cache is on disk, its promises are not: what it answers then is revalidated."""
    async with stage(cluster) as on:
        await on.do(cluster.kill, "client-2")
        await on.go_on(DURING_S)
        await on.do(cluster.start, "client-2")
        await on.do(cluster.until_healthy, ["client-2"])
    await on.judge()


@pytest.mark.parametrize("direction", ["from the client", "to the client"])
async def test_client_cut_off_in_one_direction(cluster: Cluster, direction: str) -> None:
    """Half a connection is none: within its lease the client stops to trust its promises (I8)."""
    source, target = ("client-1", "afsd-1") if "from" in direction else ("afsd-1", "client-1")
    async with stage(cluster) as on:
        await on.do(cluster.cut, source, target)
        await on.go_on(LEASE_S + DURING_S)
        await on.do(cluster.mend, source)
        await on.go_on(LEASE_S)
    await on.judge()


async def test_loss_of_thirty_percent(cluster: Cluster) -> None:
    """With 30 % of its packets lost a client is slow, and not wrong."""
    async with stage(cluster) as on:
        await on.do(cluster.lose, "client-2", 0.3)
        await on.go_on(2 * DURING_S)
        await on.do(cluster.mend, "client-2")
        await on.go_on(LEASE_S)
    await on.judge()


async def test_client_changes_its_address(cluster: Cluster) -> None:
    """A host is its UUID: it attaches from its new address, and is told of breaks there."""
    async with stage(cluster) as on:
        await on.do(cluster.change_address, "client-3")
        await on.go_on(DURING_S)
    await on.judge()


async def test_fileserver_killed_while_it_owes_breaks(cluster: Cluster) -> None:
    """Between mark and delivery: nobody is answered before the break, or a reset (I9)."""
    async with stage(cluster) as on:
        await on.do(cluster.pause, "client-3")
        await on.give_back()
        await on.do(cluster.kill, "afsd-1")
        await on.do(cluster.unpause, "client-3")
        await on.do(cluster.start, "afsd-1")
        await on.do(cluster.until_healthy, ["afsd-1"])
    await on.judge()


async def test_fileserver_restarted_under_load(cluster: Cluster) -> None:
    """A planned restart loses nothing that was acknowledged."""
    async with stage(cluster) as on:
        for server in ("afsd-1", "volserverd-1"):
            await on.do(cluster.stop, server)
            await on.do(cluster.start, server)
            await on.do(cluster.until_healthy, [server])
            await on.go_on(BEFORE_S)
    await on.judge()


async def test_location_service_down_for_a_while(cluster: Cluster) -> None:
    """Who knows where a volume is goes on; the rest wait."""
    async with stage(cluster) as on:
        await on.do(cluster.kill, "location")
        began = len(on.history.writes)
        await on.go_on(DURING_S)
        assert len(on.history.writes) > began, "nobody could write while the locations were away"
        await on.do(cluster.start, "location")
        await on.do(cluster.until_healthy, ["location"])
    await on.judge()


async def test_everything_killed_at_once(cluster: Cluster) -> None:
    """A power cut: what was acknowledged is on disk."""
    async with stage(cluster) as on:
        everything = cluster.services
        await on.do(cluster.kill, *everything)
        await on.do(cluster.start, *everything)
        await on.do(cluster.until_healthy, everything)
        await on.go_on(LEASE_S)
    await on.judge()


async def test_disk_full_on_a_partition(cluster: Cluster) -> None:
    """ENOSPC is an answer: reads go on, and so do writes when there is room again."""
    async with stage(cluster, partition="vicepc", server="2") as on:
        filler = "/small/vicepc/groups/filler"
        execute = ("exec", "-T", "afsd-2", "sh", "-c")
        await on.do(cluster.compose, *execute, f"head -c 100m /dev/zero >{filler} 2>/dev/null; :")
        await on.go_on(DURING_S)
        refused = [what for what in on.history.failures if what.startswith("write")]
        assert any("RESOURCE_EXHAUSTED" in what for what in refused), on.history.failures
        reads = len(on.history.reads)
        await on.go_on(BEFORE_S)
        assert len(on.history.reads) > reads
        await on.do(cluster.compose, *execute, f"rm {filler}")
        writes, deadline = len(on.history.writes), time.monotonic() + 20
        while len(on.history.writes) < writes + 10:
            assert time.monotonic() < deadline, on.history.failures
            await on.go_on(0.1)
    await on.judge()
