"""Whole-volume operations cut short: the volume is in one place, in service, and whole."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest

from afs.runtime.channel import open_channel
from afs.v1 import fssync_pb2, fssync_pb2_grpc, vol_server_pb2, volume_location_pb2
from afs.v1.volume_location_pb2_grpc import VolumeLocationStub
from tests.cluster.cluster import CLIENTS, Cluster
from tests.cluster.stage import BREAK_DEADLINE_S, LEASE_S, Stage, stage
from tests.cluster.timeline import Trace
from volserverd.core.step import StepKind

pytestmark = pytest.mark.blocking_ok

# Besides what programs write: enough for a move, or a salvage, to take a while.
BALLAST_FILES, BALLAST_BYTES = 24, 4_000_000
FSSYNC_PORT = 2040


async def add_ballast(on: Stage) -> None:
    """Files that nobody writes again."""
    client = on.clients["client-1"]
    for number in range(BALLAST_FILES):
        path = f"/{on.volume}/ballast{number}"
        assert await client.write(path, on.workload.next_version(), BALLAST_BYTES)
        on.workload.paths_at_rest.append(path)


async def entry_of(cluster: Cluster, volume: str) -> vol_server_pb2.VolumeEntry:
    """Where the location service says that a volume is."""
    async with open_channel(cluster.address("location")) as channel:
        stub: Any = VolumeLocationStub(channel)
        answer = await stub.GetEntry(volume_location_pb2.GetEntryRequest(name=volume))
    entry: vol_server_pb2.VolumeEntry = answer.entry
    return entry


async def ended(call: Any) -> None:
    """Returns when a stream of answers is over; AioRpcError if it failed."""
    while await call.read() is not grpc.aio.EOF:
        pass


async def in_one_place(on: Stage) -> str:
    """The server that has the volume, when nobody works on it any more.

    Nothing is then left that does not belong there.
    """
    async with asyncio.timeout(60):
        while (entry := await entry_of(on.cluster, on.volume)).locked_for:
            await asyncio.sleep(0.1)
    assert len(entry.sites) == 1, entry
    for number in on.vol_servers:
        request = vol_server_pb2.VerifyRequest()
        findings = [
            answer.finding
            async for answer in on.vol_servers[number].Verify(request)
            if answer.HasField("finding")
        ]
        assert not findings, (number, findings)
    return entry.sites[0].vol_server.removeprefix("volserverd-")[0]


@pytest.mark.parametrize("party", ["source", "target"])
async def test_volserver_killed_in_a_move(cluster: Cluster, trace: Trace, party: str) -> None:
    """While much is sent, and about the point of no return; programs write all the time (R7)."""
    async with stage(cluster, trace) as on:
        await add_ballast(on)
        here = "1"
        for step in (StepKind.SEND_ROUND, StepKind.SWITCH_SITE):
            there = "2" if here == "1" else "1"
            killed = f"volserverd-{here if party == 'source' else there}"
            move = on.begin_move(here, there)
            with suppress(grpc.aio.AioRpcError):
                await reached(move, step)
                cluster.notes.add(f"move: {step.value}")
                await on.do(cluster.kill, killed)
                await ended(move)
            await on.do(cluster.restart, killed)
            await on.more(2, CLIENTS)
            here = await in_one_place(on)
        took = await on.give_back(here)
    await on.judge()
    assert took < BREAK_DEADLINE_S


async def reached(move: Any, step: StepKind) -> None:
    """Returns when a move is at a step."""
    while True:
        answer = await move.read()
        assert answer is not grpc.aio.EOF, f"the move was never {step.value}"
        if answer.progress.step == step.value:
            return


async def test_servers_cut_off_from_each_other_in_a_checkout(
    cluster: Cluster, trace: Trace
) -> None:
    """T24: a fileserver that was restarted meanwhile has forgotten who has the volume.

    The volserver holds it, for a salvage, when nothing reaches the other any more, either way.
    """
    async with stage(cluster, trace, server="2") as on:
        await add_ballast(on)
        volume_id = (await entry_of(cluster, on.volume)).read_write_id
        salvage = await until_taken(on, volume_id)
        await on.do(cluster.cut, "volserverd-2", "afsd-2")
        await on.do(cluster.cut, "afsd-2", "volserverd-2")
        await on.do(cluster.unpause, "volserverd-2")
        await on.do(cluster.kill, "afsd-2")
        await on.do(cluster.restart, "afsd-2")
        await on.go_on(LEASE_S)
        await on.do(cluster.mend, "volserverd-2", "afsd-2")
        with suppress(grpc.aio.AioRpcError):
            await ended(salvage)
        await on.more(2, CLIENTS)
        await in_one_place(on)
        took = await on.give_back("2")
    await on.judge()
    assert took < BREAK_DEADLINE_S


async def until_taken(on: Stage, volume_id: int) -> Any:
    """Begins salvages until one is frozen while it has the volume; that one."""
    address = f"{on.cluster.ip('afsd-2')}:{FSSYNC_PORT}"
    request = fssync_pb2.VolumeOpRequest(
        command=fssync_pb2.FSYNC_VOL_QUERY, volume_id=volume_id, program="test"
    )
    async with open_channel(address) as channel, asyncio.timeout(60):
        fssync: Any = fssync_pb2_grpc.FSSyncStub(channel)

        async def taken() -> bool:
            answer = await fssync.VolumeOp(request)
            state: int = answer.volume.state
            return state == fssync_pb2.VOLUME_STATE_CHECKED_OUT

        while True:
            salvage = on.vol_servers["2"].Salvage(vol_server_pb2.SalvageRequest(volume=on.volume))
            while not await taken() and not salvage.done():
                await asyncio.sleep(0.005)
            await on.do(on.cluster.pause, "volserverd-2")
            if await taken():
                return salvage
            await on.do(on.cluster.unpause, "volserverd-2")
            await salvage.read()
