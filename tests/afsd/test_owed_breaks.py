"""I9: a fileserver killed with -9 while it owes breaks answers nobody before the reset."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from afs.errors import AfsCode
from afs.runtime.channel import open_channel
from afs.types import whole_volume_fid
from afs.v1 import fssync_pb2, fssync_pb2_grpc
from tests.afsd.running import PATIENCE_S, ROOT, VOLUME, Client, make_volumes, refused
from tests.afsd.test_process import process

pytestmark = pytest.mark.blocking_ok


async def break_callbacks(root: Path) -> None:
    """BREAKCBKS of the volume, acknowledged."""
    async with open_channel(f"unix:{root / 'run' / 'fssync.sock'}") as channel:
        request = fssync_pb2.VolumeOpRequest(
            command=fssync_pb2.FSYNC_VOL_BREAKCBKS, volume_id=VOLUME, program="test"
        )
        answer = await fssync_pb2_grpc.FSSyncStub(channel).VolumeOp(request, timeout=PATIENCE_S)
    assert answer.callbacks_marked == 2


def of_an_earlier_life(client: Client, address: str) -> Client:
    """The same host, calling the restarted fileserver, without a channel yet."""
    again = Client(address)
    again.uuid, again.metadata = client.uuid, client.metadata
    return again


@pytest.mark.parametrize("moment", ["at the ack of the mark", "when one of two was told"])
async def test_killed_fileserver_answers_nobody_before_the_reset(
    tmp_path: Path, moment: str
) -> None:
    """I9, R2: after the restart every host that held a promise is reset before its first answer."""
    make_volumes(tmp_path / "vicepa", VOLUME)
    async with process(tmp_path) as running:
        holders = [await Client(running.address).attach() for _ in range(2)]
        for holder in holders:
            assert (await holder.status(ROOT)).HasField("callback")
            holder.acks = False
        await break_callbacks(tmp_path)
        if moment != "at the ack of the mark":
            told = await holders[0].broken(whole_volume_fid(VOLUME))
            await holders[0].ack(told.sequence)
        running.process.kill()
        await running.process.wait()
    for holder in holders:
        await holder.close()
    async with process(tmp_path) as running:
        stranger = await Client(running.address).attach()
        async with asyncio.timeout(PATIENCE_S):
            await stranger.status(ROOT)
        for holder in holders:
            again = of_an_earlier_life(holder, running.address)
            async with refused(AfsCode.RX_CALL_DEAD):
                await again.status(ROOT)
            await again.attach()
            assert again.resets == 1
            assert (await again.status(ROOT)).HasField("callback")
            await again.close()
        await stranger.close()
