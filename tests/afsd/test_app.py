"""The fileserver as a whole: what it refuses at the start, how it stops, what a restart keeps."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from afs.errors import AfsCode
from afs.runtime.channel import open_channel
from afs.types import root_fid
from afs.v1 import file_server_pb2 as pb
from afs.volume.partition import Partition
from afs.volume.volume import SetVolumeFields
from afs.wire import fid_to_wire
from afsd.app import CALLBACK_CHANNEL, FILE_SERVER, FILE_SERVER_DEBUG, FSSYNC, FileServerDaemon
from afsd.config import AfsdConfig
from tests.afsd.running import (
    PATIENCE_S,
    ROOT,
    SECOND_VOLUME,
    VOLUME,
    Client,
    fileserver,
    make_volumes,
    refused,
)
from tests.conftest import LogEvents


def config(root: Path, **settings: Any) -> AfsdConfig:
    """A fileserver's configuration on `root`."""
    return AfsdConfig(
        **{
            "listen": ["127.0.0.1:0"],
            "run_dir": root / "run",
            "partitions": [root / "vicepa"],
            **settings,
        }
    )


async def serving(channel: grpc.aio.Channel, service: str) -> bool:
    """Whether a service says that it is SERVING."""
    request = health_pb2.HealthCheckRequest(service=service)
    answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=PATIENCE_S)
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_every_service_is_served_and_healthy(tmp_path: Path) -> None:
    """Client services on the client address, FSSync on the socket in the run directory."""
    async with fileserver(tmp_path) as running:
        channel = open_channel(running.daemon.addresses[0])
        for service in ("", FILE_SERVER, CALLBACK_CHANNEL, FILE_SERVER_DEBUG):
            assert await serving(channel, service)
        await channel.close()
        assert running.daemon.fssync_addresses == [f"unix:{tmp_path}/run/fssync.sock"]
        channel = open_channel(running.daemon.fssync_addresses[0])
        assert await serving(channel, FSSYNC)
        await channel.close()


async def test_fssync_is_served_over_tcp_where_configured(tmp_path: Path) -> None:
    """Besides the socket."""
    async with fileserver(tmp_path, fssync_listen="127.0.0.1:0") as running:
        channel = open_channel(running.daemon.fssync_addresses[1])
        assert await serving(channel, FSSYNC)
        await channel.close()


async def test_a_second_fileserver_on_a_partition_is_refused(tmp_path: Path) -> None:
    """VBUSY in one line that names the partition; the first goes on."""
    async with fileserver(tmp_path) as running:
        async with refused(AfsCode.VBUSY):
            await FileServerDaemon.start(config(tmp_path, run_dir=tmp_path / "run2"))
        await (await running.client()).status(ROOT)


async def test_a_second_fileserver_in_a_run_directory_is_refused(tmp_path: Path) -> None:
    """Its socket stands for the directory: nothing in it is touched, the epoch neither."""
    async with fileserver(tmp_path) as running:
        before = (tmp_path / "run" / "epoch").read_text()
        async with refused(AfsCode.VBUSY):
            await FileServerDaemon.start(config(tmp_path, partitions=[tmp_path / "vicepb"]))
        assert (tmp_path / "run" / "epoch").read_text() == before
        await (await running.client()).status(ROOT)


async def test_a_taken_port_is_refused_and_everything_let_go(tmp_path: Path) -> None:
    """VBUSY in one line; the same partition and directory can be used right after."""
    await asyncio.to_thread(make_volumes, tmp_path / "vicepa", VOLUME)
    async with fileserver(tmp_path / "first") as running:
        taken = running.daemon.addresses
        async with refused(AfsCode.VBUSY):
            await FileServerDaemon.start(config(tmp_path, listen=taken))
        async with fileserver(tmp_path) as second:
            await (await second.client()).status(ROOT)


@pytest.mark.parametrize("name", ["vicepa", "run"])
async def test_a_directory_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    """A file where a directory is expected: one line, nothing left behind."""
    (tmp_path / name).write_text("not a directory")
    with pytest.raises(Exception, match=name):
        await FileServerDaemon.start(config(tmp_path))
    (tmp_path / name).unlink()
    async with fileserver(tmp_path):
        pass


async def test_the_epoch_grows(tmp_path: Path) -> None:
    """Every life has a larger one, also when it is started within the same millisecond."""
    epochs = []
    for _ in range(3):
        async with fileserver(tmp_path) as running:
            client = await running.client()
            answer = await client.call(client.files.GetCapabilities, pb.GetCapabilitiesRequest())
            assert answer.epoch == running.daemon.epoch
            epochs.append(answer.epoch)
    assert epochs == sorted(set(epochs))


async def test_an_epoch_grows_though_the_clock_went_back(tmp_path: Path) -> None:
    """The last epoch is kept on disk; what is no number there is set aside."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "epoch").write_text(f"{10**15}\n")
    async with fileserver(tmp_path) as running:
        assert running.daemon.epoch == 10**15 + 1
    (tmp_path / "run" / "epoch").write_text("rubbish")
    async with fileserver(tmp_path) as running:
        assert running.daemon.epoch > 10**12


async def test_the_terms_are_told(tmp_path: Path) -> None:
    """GetCapabilities answers lease and deadline; GetTime the wall clock."""
    async with fileserver(tmp_path, channel_lease_s=3.5, break_deadline_s=0.5) as running:
        client = await running.client()
        answer = await client.call(client.files.GetCapabilities, pb.GetCapabilitiesRequest())
        assert (answer.channel_lease_s, answer.break_deadline_s) == (3.5, 0.5)
        assert answer.capabilities
        time_ns = (await client.call(client.files.GetTime, pb.GetTimeRequest())).time_ns
        assert time_ns > 1_600_000_000 * 10**9


@pytest.mark.blocking_ok
async def test_a_stop_detaches_every_volume(tmp_path: Path, log_events: LogEvents) -> None:
    """After a stop the volumes are clean, unlocked and complete."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        await client.create("a")
    detached = {event["volume"] for event in log_events.named("volume.detached")}
    assert detached == {VOLUME, SECOND_VOLUME}
    partition = Partition.open(tmp_path / "vicepa", holder="afsd")
    volume = partition.open_volume(VOLUME)
    assert [entry.name for entry in volume.entries(ROOT, "", 10)] == ["a"]
    volume.close()
    partition.close()


async def test_a_stop_is_bounded_whatever_streams_are_open(tmp_path: Path) -> None:
    """An attached client and a reader that reads nothing cannot keep the fileserver alive."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        await client.store(file, *[bytes(1 << 20)] * 20)
        fetch = client.files.FetchData(
            pb.FetchDataRequest(fid=fid_to_wire(file)), metadata=client.metadata
        )
        await anext(aiter(fetch))
        async with asyncio.timeout(PATIENCE_S):
            await running.daemon.stop()


@pytest.mark.blocking_ok
async def test_a_volume_left_off_line_stays_so_over_a_restart(tmp_path: Path) -> None:
    """The header says so, and is obeyed at the start; FSSync brings it on line."""
    make_volumes(tmp_path / "vicepa", VOLUME)
    partition = Partition.open(tmp_path / "vicepa", holder="test")
    volume = partition.open_volume(VOLUME)
    volume.apply([SetVolumeFields(leave_offline=True, offline_message="in repair")])
    volume.close()
    partition.close()
    async with fileserver(tmp_path) as running:
        client = await running.client()
        async with refused(AfsCode.VOFFLINE):
            await client.status(ROOT)
        await running.fssync("VOL_ON")
        await client.status(ROOT)


@pytest.mark.blocking_ok
async def test_a_volume_on_two_partitions_is_served_from_the_first(
    tmp_path: Path, log_events: LogEvents
) -> None:
    """The second is logged and left alone."""
    make_volumes(tmp_path / "vicepa", VOLUME)
    make_volumes(tmp_path / "vicepb", VOLUME, SECOND_VOLUME)
    partitions = [tmp_path / "vicepa", tmp_path / "vicepb"]
    daemon = await FileServerDaemon.start(config(tmp_path, partitions=partitions))
    client = Client(daemon.addresses[0])
    try:
        await client.create("a")
        await client.status(root_fid(SECOND_VOLUME))
    finally:
        await client.close()
        await daemon.stop()
    (ignored,) = log_events.named("volume.copy_ignored")
    assert ignored["volume"] == VOLUME
    assert ignored["partition"] == "vicepb"
    partition = Partition.open(tmp_path / "vicepa", holder="test")
    volume = partition.open_volume(VOLUME)
    assert [entry.name for entry in volume.entries(ROOT, "", 10)] == ["a"]
    volume.close()
    partition.close()


async def test_every_host_is_reset_after_a_restart(tmp_path: Path) -> None:
    """I9: a host that held promises of the last life is told nothing before it was reset."""
    async with fileserver(tmp_path) as running:
        first = await running.client()
        await first.status(ROOT)
    async with fileserver(tmp_path, break_deadline_s=0.2) as running:
        unattached = Client(running.daemon.addresses[0])
        unattached.uuid, unattached.metadata = first.uuid, first.metadata
        try:
            async with refused(AfsCode.RX_CALL_DEAD):
                await unattached.status(ROOT)
            await unattached.attach()
            assert unattached.resets == 1
            assert (await unattached.status(ROOT)).HasField("callback")
        finally:
            await unattached.close()


async def test_volume_status_is_told_and_set(tmp_path: Path) -> None:
    """GetVolumeStatus and SetVolumeStatus; absent fields stay as they are."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        request = pb.SetVolumeStatusRequest(volume=VOLUME, max_quota_kib=5000)
        status = (await client.call(client.files.SetVolumeStatus, request)).status
        assert (status.volume, status.name, status.online) == (VOLUME, f"v{VOLUME}", True)
        assert (status.max_quota_kib, status.offline_message) == (5000, "")
        assert status.partition_size_kib >= status.partition_free_kib > 0
        request = pb.SetVolumeStatusRequest(volume=VOLUME, offline_message="soon back")
        status = (await client.call(client.files.SetVolumeStatus, request)).status
        assert (status.max_quota_kib, status.offline_message) == (5000, "soon back")
        get = pb.GetVolumeStatusRequest(volume=VOLUME)
        again = (await client.call(client.files.GetVolumeStatus, get)).status
        # Others write to this disk as well.
        again.partition_free_kib = status.partition_free_kib
        assert again == status


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (pb.SetVolumeStatusRequest(volume=0), AfsCode.EINVAL),
        (pb.SetVolumeStatusRequest(volume=999), AfsCode.VNOVOL),
        (pb.SetVolumeStatusRequest(volume=VOLUME, max_quota_kib=2**63), AfsCode.EINVAL),
        (pb.SetVolumeStatusRequest(volume=VOLUME, offline_message="m" * 2000), AfsCode.EINVAL),
    ],
    ids=["no volume", "unknown volume", "quota", "message"],
)
async def test_a_volume_status_that_makes_no_sense_is_refused(
    tmp_path: Path, request_: pb.SetVolumeStatusRequest, code: AfsCode
) -> None:
    """No volume, an unknown one, a quota or a message beyond all bounds."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        async with refused(code):
            await client.call(client.files.SetVolumeStatus, request_)
        if code is AfsCode.VNOVOL:
            async with refused(code):
                get = pb.GetVolumeStatusRequest(volume=request_.volume)
                await client.call(client.files.GetVolumeStatus, get)
