"""Start, configuration and refusals of the daemon, as processes and in the test."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from afs.errors import AfsCode
from afs.types import VolumeType
from afs.v1 import volume_location_pb2, volume_location_pb2_grpc
from afs.volume.partition import Partition
from tests.volserverd.fake_fssync import ONLINE, FakeVolume, fake_fileserver
from tests.volserverd.running import refused, volserver
from volserverd.app import VolserverDaemon
from volserverd.config import VolserverdConfig
from volserverd.fssync_client import program_name
from volserverd.vldb.names import FIRST_VOLUME_ID

pytestmark = pytest.mark.blocking_ok

DEMO = FIRST_VOLUME_ID


class Ended(NamedTuple):
    """How a process ended."""

    status: int
    output: str
    errors: str


async def run(*flags: str, **environment: str) -> Ended:
    """Runs volserverd until it ends by itself."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "volserverd",
        *flags,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    output, errors = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return Ended(process.returncode, output.decode(), errors.decode())


def flags(root: Path) -> list[str]:
    """Flags of a volserver that could start."""
    return [
        *("--listen", "127.0.0.1:0", "--location-listen", "127.0.0.1:0"),
        *("--run-dir", f"{root}/run", "--partitions", f"{root}/vicepa"),
        *("--vldb", f"{root}/vldb.sqlite3", "--log-level", "error"),
    ]


async def test_help_tells_of_every_key() -> None:
    """--help names all keys and ends with status 0."""
    ended = await run("--help")
    assert ended.status == 0
    for key in ("listen", "location-listen", "vldb", "fssync", "partitions", "file-server"):
        assert f"--{key}" in ended.output


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        (["--listen", "nonsense"], "nonsense"),
        (["--location", "host:port"], "host:port"),
        (["--transaction-idle-s", "soon"], "soon"),
        (["--transaction-idle-s", "0"], "0"),
        (["--partitions", "/a/vicepa", "--partitions", "/b/vicepa"], "vicepa"),
    ],
    ids=["listen", "location", "word", "zero", "partitions"],
)
async def test_a_bad_value_is_one_line_and_status_2(bad: list[str], named: str) -> None:
    """A configuration that cannot be is refused before anything is touched."""
    ended = await run(*bad)
    assert ended.status == 2
    (line,) = ended.errors.splitlines()
    assert named in line


async def test_what_is_taken_is_refused_with_one_line(tmp_path: Path) -> None:
    """A second volserver on the port, the partition or the database: one line and status 1."""
    async with fake_fileserver(tmp_path), volserver(tmp_path) as vos:
        taken_port = await run(*flags(tmp_path / "2"), "--listen", vos.daemon.addresses[0])
        partition = await run(*flags(tmp_path))
        vldb = await run(*flags(tmp_path / "2"), "--vldb", f"{tmp_path}/vldb.sqlite3")
        for ended, named in (
            (taken_port, vos.daemon.addresses[0]),
            (partition, "vicepa"),
            (vldb, "vldb.sqlite3"),
        ):
            assert ended.status == 1
            (line,) = ended.errors.splitlines()
            assert named in line
            assert "Traceback" not in line


async def test_health_is_told_for_each_service(tmp_path: Path) -> None:
    """Both servers answer health, overall and for their service."""
    async with volserver(tmp_path) as vos:
        for channel, service in (
            (vos.channel, "afs.v1.VolServer"),
            (vos.location_channel, "afs.v1.VolumeLocation"),
        ):
            for name in ("", service):
                check = health_pb2_grpc.HealthStub(channel).Check
                answer = await check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_two_volservers_in_one_process_are_refused_alike(tmp_path: Path) -> None:
    """What was opened before the refusal is let go of again."""
    async with volserver(tmp_path):
        with refused(AfsCode.VBUSY, "vldb"):
            async with volserver(tmp_path / "2", vldb=tmp_path / "vldb.sqlite3"):
                pass
        async with volserver(tmp_path / "2"):
            pass


async def test_what_only_one_side_knows_can_be_deleted(tmp_path: Path) -> None:
    """A volume only on disk goes by its id; one only in the location database by its name."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo")
        partition = Partition.open(tmp_path / "vicepa", holder="test")
        partition.delete_volume(DEMO)
        fake.volumes.clear()
        with refused(AfsCode.VNOVOL, "not on partition"):
            await vos.backup("demo")
        assert await vos.delete("demo") == DEMO
        assert await vos.entries() == []
        partition.create_volume(volume_id=4711, name="orphan", type=VolumeType.READ_WRITE).close()
        fake.volumes[4711] = FakeVolume(ONLINE)
        partition.create_volume(volume_id=4714, name="unknown").close()
        with refused(AfsCode.VNOVOL, "not in the location database"):
            await vos.backup("4711")
        await vos.offline("4711")
        await vos.dump("4711")
        for volume_id in (4711, 4714):
            assert await vos.delete(str(volume_id)) == volume_id
        assert await vos.listed() == []
        assert fake.volumes == {}
        partition.close()


async def test_a_volume_the_fileserver_does_not_know_can_be_put_online(tmp_path: Path) -> None:
    """Online attaches a volume that is on disk and was never introduced."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        # What it finds at its start it introduces by itself; operations wait for the end of that.
        await vos.create("demo")
        await vos.delete("demo")
        partition = Partition.open(tmp_path / "vicepa", holder="test")
        partition.create_volume(volume_id=4711, name="orphan").close()
        partition.close()
        (listed,) = await vos.listed()
        assert "does not know" in listed.detail
        with refused(AfsCode.VNOVOL):
            await vos.dump("4711")
        assert (await vos.online("4711")).volume.state == ONLINE
        assert fake.state(4711) == ONLINE


def test_a_long_run_directory_still_gives_a_name() -> None:
    """The program's name stays within what the fileserver takes, and differs where paths end."""
    long = "/" + "ä" * 300
    assert len(program_name(long + "/one").encode()) < 255
    assert program_name(long + "/one") != program_name(long + "/two")


async def test_locations_alone_need_neither_partition_nor_fileserver(tmp_path: Path) -> None:
    """A volserver with `location_only` serves VolumeLocation and says that it is healthy."""
    config = VolserverdConfig(
        run_dir=tmp_path / "run",
        location_listen=["127.0.0.1:0"],
        location_only=True,
        vldb=tmp_path / "vldb.sqlite3",
    )
    daemon = await VolserverDaemon.start(config)
    try:
        assert daemon.addresses == []
        async with grpc.aio.insecure_channel(daemon.location_addresses[0]) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            request = health_pb2.HealthCheckRequest(service="afs.v1.VolumeLocation")
            assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
            locations: Any = volume_location_pb2_grpc.VolumeLocationStub(channel)
            answer = await locations.ListEntries(volume_location_pb2.ListEntriesRequest())
            assert not answer.entries
    finally:
        await daemon.stop()
    assert not list(tmp_path.glob("vicepa*"))


async def test_locations_alone_cannot_be_those_of_another() -> None:
    """`location_only` with `location` is refused in one line."""
    ended = await run("--location-only", "true", "--location", "127.0.0.1:7003")
    assert ended.status == 2
    assert "location" in ended.errors
    assert len(ended.errors.splitlines()) == 1
