"""FSSync.WatchBreaks: who has not been told yet, over real sockets, and what VolumeInfo tells."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from afs.errors import AfsCode
from afs.runtime.channel import afs_error_from_rpc
from afs.v1 import fssync_pb2
from tests.afsd.running import ROOT, SECOND_VOLUME, VOLUME, fileserver, refused


async def names(watch: Any) -> list[str]:
    """The hosts in the next answer."""
    return [host.uuid for host in (await anext(watch)).hosts]


async def test_the_watch_ends_when_everybody_has_acknowledged(tmp_path: Path) -> None:
    """An answer at once, one when it changes, an empty one, the end."""
    async with fileserver(tmp_path) as running:
        quick, slow = await running.client(), await running.client()
        for client in (quick, slow):
            await client.status(ROOT)
        slow.acks = False
        await running.fssync("VOL_BREAKCBKS")
        told = await slow.broken((VOLUME, 0, 0))
        await quick.broken((VOLUME, 0, 0))
        watch = aiter(running.watch_breaks())
        while (seen := await names(watch)) != [slow.uuid]:
            assert set(seen) == {quick.uuid, slow.uuid}
        await slow.ack(told.sequence)
        assert await names(watch) == []
        assert [answer async for answer in watch] == []


async def test_the_watch_ends_with_the_last_lease(tmp_path: Path) -> None:
    """A client that is gone is named with its address and what is left of its lease."""
    async with fileserver(tmp_path, channel_lease_s=1.0, break_deadline_s=0.1) as running:
        client = await running.client()
        await client.status(ROOT)
        client.acks = False
        await running.fssync("VOL_BREAKCBKS")
        watch = aiter(running.watch_breaks())
        (host,) = (await anext(watch)).hosts
        assert host.uuid == client.uuid
        assert "127.0.0.1" in host.address
        assert 0 < host.lease_remaining_s <= 1.01
        assert await names(watch) == []
        assert [answer async for answer in watch] == []


async def test_a_volume_nobody_relies_on_needs_no_waiting(tmp_path: Path) -> None:
    """One empty answer; also for a volume that is not known, and a promise that is not broken."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        await client.status(ROOT)
        for volume in (VOLUME, SECOND_VOLUME, 999):
            answers = [answer async for answer in running.watch_breaks(volume)]
            assert [list(answer.hosts) for answer in answers] == [[]]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await anext(aiter(running.watch_breaks(0)))
        assert afs_error_from_rpc(caught.value).code is AfsCode.EINVAL


async def test_a_fileserver_that_stops_ends_the_watch(tmp_path: Path) -> None:
    """It waits for no watcher; its next life names the hosts until they were reset."""
    async with fileserver(tmp_path, break_deadline_s=60) as running:
        client = await running.client()
        await client.status(ROOT)
        client.acks = False
        await running.fssync("VOL_BREAKCBKS")
        watch = aiter(running.watch_breaks())
        assert await names(watch) == [client.uuid]
        stopping = asyncio.create_task(running.daemon.stop())
        async with refused(AfsCode.VRESTARTING):
            try:
                await anext(watch)
            except grpc.aio.AioRpcError as error:
                raise afs_error_from_rpc(error) from None
        await stopping
    async with fileserver(tmp_path) as running:
        assert await names(aiter(running.watch_breaks())) == [client.uuid]


async def test_what_a_volume_info_tells(tmp_path: Path) -> None:
    """Its incarnation, and how many hosts hold promises on it."""
    async with fileserver(tmp_path) as running:
        first, second = await running.client(), await running.client()
        await first.status(ROOT)
        info = (await running.fssync("VOL_QUERY")).volume
        assert info.holders == 1
        assert info.incarnation
        await second.status(ROOT)
        listed = (await running.fssync("VOL_LISTVOLUMES", 0)).volumes
        assert [each.holders for each in listed] == [2, 0]
        assert len({each.incarnation for each in listed}) == 2
        answer = await running.fssync("VOL_BREAKCBKS")
        assert answer.volume.holders == 0
        assert answer.volume.incarnation == info.incarnation
        assert answer.volume.state == fssync_pb2.VOLUME_STATE_ONLINE
