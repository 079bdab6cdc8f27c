"""`make soak`: random work, volume operations and faults on the cluster, for as long as you like.

Theory of operation
    Rounds of a minute. In each, programs write and read through all clients, volumes are worked on,
    and faults come one after the other. Then the faults are healed, what was left half-way is ended
    as an operator would, the programs stop, and everything is judged: every file, through every
    client, against what was acknowledged; every read against the protocol, by the simulator's
    checker; and the servers verify their volumes. In the second half no fault ends a process, so
    that the growth of its memory shows.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from afs.runtime.channel import open_channel
from afs.v1 import fssync_pb2, vol_server_pb2_grpc
from afs.v1 import vol_server_pb2 as pb
from tests.cluster.cluster import CLIENTS, SERVERS, Cluster, Plan
from tests.cluster.engine import ROOT
from tests.cluster.soak_faults import FAULTS
from tests.cluster.soak_operations import OPERATIONS, DamageError
from tests.cluster.soak_report import Report
from tests.cluster.stage import LEASE_S, Stage, until_connected
from tests.cluster.timeline import Trace, Watchers, programs
from tests.cluster.workload import Client, History, Workload, clients
from tests.sim.checker import ViolationError

_ONLINE: Final = fssync_pb2.VOLUME_STATE_ONLINE
SOAK: Final = Plan("laterfs-soak", "172.31.78", "laterfs-soak")
ROUND_S: Final = 60.0
# Faults fill this one; the volume there is the last, and is not worked on.
FULL_PARTITION: Final = "vicepc"
VOLUMES: Final = (("1", "vicepa"), ("2", "vicepa"), ("1", "vicepb"), ("2", FULL_PARTITION))
# Between two faults, and two operations.
FAULT_GAP_S: Final = (1.0, 4.0)
OPERATION_GAP_S: Final = (0.5, 3.0)
# Programs rest this long between two calls: a soak is to last, not to measure.
PROGRAM_PAUSE_S: Final = 0.15
# Within this everything answers again after the last fault: leases, reconnects and recovery.
SETTLE_S: Final = 180.0
_RETRY_S: Final = 0.5


@dataclass(slots=True)
class Soak:
    """What is under way."""

    cluster: Cluster
    rng: random.Random
    report: Report
    clients: dict[str, Client]
    history: History
    stages: list[Stage] = field(default_factory=list)
    watchers: Watchers = field(default_factory=Watchers)

    @property
    def vol_servers(self) -> dict[str, Any]:
        """Stubs, by the server's number."""
        return self.stages[0].vol_servers

    async def round(self, *, ends_processes: bool) -> None:
        """A minute of everything, and its judgement."""
        trace = Trace(sources=[self.watchers.lines, lambda: programs(self.history)])
        try:
            async with AsyncExitStack() as stack:
                for stage in self.stages:
                    await stack.enter_async_context(stage.workload.running())
                end = time.monotonic() + ROUND_S
                await _both(self._operations(end), self._faults(end, ends_processes))
                async with asyncio.timeout(SETTLE_S):
                    await self._tidy()
            await self._judge()
        except (AssertionError, TimeoutError, DamageError) as error:
            kind = "stale reads" if isinstance(error, ViolationError) else "data lost"
            self.report.wrong(kind, f"{type(error).__name__}: {error}")
            file = ROOT / "var" / "cluster" / f"soak-round-{self.report.rounds}.txt"
            await asyncio.to_thread(trace.write, file, f"{kind}: {error}", self.cluster)
            print(f"{kind}: {error}\nwhat happened: {file}", flush=True)
        self.report.rounds += 1
        self.report.failed_calls += len(self.history.failures)
        self.history.forget()

    async def _operations(self, end: float) -> None:
        while time.monotonic() < end:
            stage = self.rng.choice(self.stages[:-1])
            name = self.rng.choice(list(OPERATIONS))
            try:
                await OPERATIONS[name](stage, self.rng)
                self.report.operations[name] += 1
            except (grpc.aio.AioRpcError, AssertionError) as error:
                details = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
                self.cluster.notes.add(f"{name} of {stage.volume} failed: {details}")
                # Whatever a fault cut short is ended by the daemons, or in `_tidy`.
                self.report.operations_failed[name] += 1
            await asyncio.sleep(self.rng.uniform(*OPERATION_GAP_S))

    async def _faults(self, end: float, ends_processes: bool) -> None:
        faults = [each for each in FAULTS if ends_processes or not each.ends_processes]
        while time.monotonic() < end:
            (fault,) = self.rng.choices(faults, [each.weight for each in faults])
            await asyncio.to_thread(fault.act, self.cluster, self.rng)
            await asyncio.to_thread(self.cluster.heal)
            for name, client in self.clients.items():
                client.connect(self.cluster.address(name))
            self.report.faults[fault.name] += 1
            self.report.memory.look(self.cluster)
            await asyncio.sleep(self.rng.uniform(*FAULT_GAP_S))

    async def _tidy(self) -> None:
        """What operations left half-way is ended: volumes off-line, temporary volumes."""
        for stub in self.vol_servers.values():
            await until_connected(stub)
        ours = {stage.volume for stage in self.stages}
        for stub in self.vol_servers.values():
            while not await self._tidied(stub, ours):
                await asyncio.sleep(_RETRY_S)

    async def _tidied(self, stub: Any, ours: set[str]) -> bool:
        try:
            volumes = (await stub.ListVolumes(pb.ListVolumesRequest())).volumes
            whole = True
            for volume in volumes:
                base = volume.name.removesuffix(".readonly").removesuffix(".backup")
                if base not in ours:
                    await stub.Delete(pb.DeleteRequest(volume=volume.name))
                elif volume.state != _ONLINE and not volume.in_transit:
                    await stub.Online(pb.OnlineRequest(volume=volume.name))
                whole = whole and base in ours and volume.state == _ONLINE
        except grpc.aio.AioRpcError:
            return False
        return whole

    async def _judge(self) -> None:
        async with asyncio.timeout(SETTLE_S):
            for stage in self.stages:
                await stage.workload.settled(self.clients.values())
        self.report.judged(self.history.judge(LEASE_S), self.history)
        for stub in self.vol_servers.values():
            async for answer in stub.Verify(pb.VerifyRequest(deep=True)):
                if answer.HasField("finding"):
                    raise DamageError(f"verify found {answer.finding}")


async def _both(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs both to their ends, also if one of them fails."""
    for end in await asyncio.gather(*coroutines, return_exceptions=True):
        if isinstance(end, BaseException):
            raise end


@asynccontextmanager
async def soaking(cluster: Cluster, seed: int, report: Report) -> AsyncIterator[Soak]:
    """Volumes with their read-only sites, and programs that can work on them."""
    history = History()
    async with AsyncExitStack() as stack:
        vol_servers: dict[str, Any] = {}
        for number in SERVERS:
            channel = open_channel(cluster.address(f"volserverd-{number}"))
            await stack.enter_async_context(channel)
            vol_servers[number] = vol_server_pb2_grpc.VolServerStub(channel)
        addresses = {name: cluster.address(name) for name in CLIENTS}
        connected = await stack.enter_async_context(clients(addresses, history))
        soak = Soak(cluster, random.Random(seed), report, connected, history)
        await stack.enter_async_context(soak.watchers.listening(cluster))
        for index, (server, partition) in enumerate(VOLUMES):
            volume = f"soak.{index}"
            request = pb.CreateRequest(name=volume, partition=partition)
            await vol_servers[server].Create(request)
            workload = Workload(
                list(connected.values()), volume, history, files=4, pause_s=PROGRAM_PAUSE_S
            )
            await workload.prepare()
            stage = Stage(cluster, volume, connected, workload, history, vol_servers)
            soak.stages.append(stage)
            if partition != FULL_PARTITION:
                await stage.add_sites(server)
                await stage.release(server)
        yield soak


async def run(minutes: float, seed: int, plan: Plan, file: Path) -> bool:
    """True if nothing was lost and no read was stale."""
    report = Report(minutes, seed)
    cluster = await asyncio.to_thread(Cluster.up, plan)
    try:
        async with soaking(cluster, seed, report) as soak:
            began = time.monotonic()
            while (gone := time.monotonic() - began) < minutes * 60:
                second_half = gone > minutes * 30
                if second_half:
                    report.memory.second_half_begins(cluster)
                await soak.round(ends_processes=not second_half)
                report.memory.look(cluster)
                report.seconds = time.monotonic() - began
                print(report.line(), flush=True)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(report.text())
    finally:
        await asyncio.to_thread(cluster.down)
    print(report.text())
    return not report.findings


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--report", type=Path, default=ROOT / "var" / "cluster" / "soak.md")
    options = parser.parse_args()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    print(f"soak: {options.minutes:g} minutes, seed {seed}", flush=True)
    return 0 if asyncio.run(run(options.minutes, seed, SOAK, options.report)) else 1


if __name__ == "__main__":
    sys.exit(main())
