"""What a volserver clears up at its start, against the fake fileserver."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from afs.errors import AfsCode
from afs.types import VolumeType
from afs.v1 import types_pb2, vol_server_pb2, volume_location_pb2
from afs.volume.partition import Partition
from tests.volserverd.fake_fssync import (
    CHECKED_OUT,
    OFFLINE,
    ONLINE,
    FakeVolume,
    Fault,
    fake_fileserver,
)
from tests.volserverd.running import PATIENCE_S, refused, volserver
from volserverd.identity import read_identity
from volserverd.vldb.names import FIRST_TEMPORARY_ID, FIRST_VOLUME_ID

pytestmark = pytest.mark.blocking_ok

DEMO = FIRST_VOLUME_ID
BACKUP = DEMO + 2


def on_disk(root: Path) -> set[int]:
    """The ids of the databases on the partition, whatever they are."""
    return {int(path.stem) for path in (root / "vicepa").glob("groups/*/*.db")}


async def test_volumes_and_clones_left_by_a_crash_are_cleared_up(tmp_path: Path) -> None:
    """What a killed volserver had taken goes back as its header says; temporary clones go."""
    async with fake_fileserver(tmp_path) as fake:
        async with volserver(tmp_path) as vos:
            program = vos.daemon.fssync.program
            for name in ("demo", "off", "others"):
                await vos.create(name)
            await vos.offline("off")
        off, others = DEMO + 3, DEMO + 6
        partition = Partition.open(tmp_path / "vicepa", holder="test")
        with_demo = partition.open_volume(DEMO)
        partition.clone_volume(
            with_demo, volume_id=FIRST_TEMPORARY_ID, name="demo", type=VolumeType.BACKUP
        )
        with_demo.close()
        partition.close()
        fake.volumes |= {
            DEMO: FakeVolume(CHECKED_OUT, program),
            off: FakeVolume(CHECKED_OUT, program),
            others: FakeVolume(CHECKED_OUT, "salvager"),
            FIRST_TEMPORARY_ID: FakeVolume(ONLINE),
            4711: FakeVolume(CHECKED_OUT, program),
        }
        async with volserver(tmp_path) as vos:
            await vos.create("last")
            states = {volume_id: volume.state for volume_id, volume in fake.volumes.items()}
            assert states == {
                DEMO: ONLINE,
                off: OFFLINE,
                others: CHECKED_OUT,
                DEMO + 9: ONLINE,
            }
            assert FIRST_TEMPORARY_ID not in on_disk(tmp_path)


async def test_locked_entries_of_ours_are_taken_up(tmp_path: Path) -> None:
    """A creation or backup cut short: what is on disk is served, what is not loses its entry."""
    async with fake_fileserver(tmp_path) as fake:
        async with volserver(tmp_path) as vos:
            for name in ("demo", "vanished", "foreign"):
                await vos.create(name)
            await vos.backup("demo")
            ours = f"backup by volserver {read_identity(tmp_path / 'vicepa')}"
            for read_write_id, text in ((DEMO, ours), (DEMO + 3, ours), (DEMO + 6, "move by x")):
                request = volume_location_pb2.LockRequest(
                    read_write_id=read_write_id, operation=text
                )
                await vos.call(vos.location_stub.Lock, request)
            # Not even the entry knows of the backup yet, and the fileserver knows neither.
            entry = await vos.entry("demo")
            entry.backup_id = 0
            await vos.call(
                vos.location_stub.ReplaceEntry, volume_location_pb2.ReplaceEntryRequest(entry=entry)
            )
        partition = Partition.open(tmp_path / "vicepa", holder="test")
        partition.delete_volume(DEMO + 3)
        partition.close()
        del fake.volumes[DEMO], fake.volumes[BACKUP], fake.volumes[DEMO + 3]
        async with volserver(tmp_path) as vos:
            await vos.create("last")
            assert {DEMO, BACKUP, DEMO + 6} < set(fake.volumes)
            entries = {entry.name: entry for entry in await vos.entries()}
            assert set(entries) == {"demo", "foreign", "last"}
            assert (entries["demo"].backup_id, entries["demo"].locked_for) == (BACKUP, "")
            assert entries["foreign"].locked_for == "move by x"
            with refused(AfsCode.VBUSY, "move by x"):
                await vos.delete("foreign")


async def test_one_volume_that_is_refused_does_not_keep_the_others(tmp_path: Path) -> None:
    """A volume the fileserver will not have back is logged; everything else is cleared up."""
    async with fake_fileserver(tmp_path) as fake:
        async with volserver(tmp_path) as vos:
            program = vos.daemon.fssync.program
            await vos.create("demo")
            await vos.create("other")
        for volume_id in (DEMO, DEMO + 3):
            fake.volumes[volume_id] = FakeVolume(CHECKED_OUT, program)
        fake.commands.clear()
        fake.faults = {0: Fault.REFUSED}
        async with volserver(tmp_path) as vos:
            await vos.create("last")
            assert fake.state(DEMO) == CHECKED_OUT
            assert fake.state(DEMO + 3) == ONLINE
            # The first operation on it finds it still ours, and ends with it in service.
            await vos.backup("demo")
            assert fake.state(DEMO) == ONLINE


async def test_recovery_waits_for_the_fileserver(tmp_path: Path) -> None:
    """A volserver that is started first refuses operations, and works as soon as it can."""
    async with volserver(tmp_path) as vos:
        with refused(AfsCode.RX_CALL_DEAD, "fileserver does not answer"):
            await vos.create("demo")
        async with fake_fileserver(tmp_path):
            async with asyncio.timeout(PATIENCE_S):
                assert (await vos.create("demo")).state == ONLINE


async def test_sites_of_others_are_theirs_to_settle(tmp_path: Path) -> None:
    """An entry locked by an operation of ours: what it says of other volservers stays."""
    async with fake_fileserver(tmp_path):
        async with volserver(tmp_path) as vos:
            ours = f"remsite by volserver {read_identity(tmp_path / 'vicepa')}"
            site = vol_server_pb2.Site(
                file_server="127.0.0.9:7000",
                vol_server="127.0.0.9:7005",
                partition="vicepa",
                type=types_pb2.VOLUME_TYPE_READ_WRITE,
            )
            for name, sites in (("demo", [site]), ("nowhere", [])):
                entry = vol_server_pb2.VolumeEntry(name=name, sites=sites, locked_for=ours)
                request = volume_location_pb2.CreateEntryRequest(entry=entry)
                await vos.call(vos.location_stub.CreateEntry, request)
        async with volserver(tmp_path) as vos:
            await vos.create("last")
            entry = await vos.entry("demo")
            assert (entry.locked_for, list(entry.sites)) == ("", [site])
            assert {entry.name for entry in await vos.entries()} == {"demo", "last"}


async def test_sites_follow_a_volserver_to_its_new_address(tmp_path: Path) -> None:
    """A volserver that is found elsewhere after a restart has its own sites corrected, no other."""
    first, other, second = "127.0.0.1:7001", "127.0.0.1:7009", "127.0.0.1:7002"
    async with fake_fileserver(tmp_path):
        async with volserver(tmp_path, vol_server=first) as vos:
            await vos.create("demo")
            entry = await vos.entry("demo")
            for partition, address in (("vicepb", first), ("vicepa", other)):
                entry.sites.add(
                    file_server="127.0.0.1:7000",
                    vol_server=address,
                    partition=partition,
                    type=types_pb2.VOLUME_TYPE_READ_ONLY,
                )
            request = volume_location_pb2.ReplaceEntryRequest(entry=entry)
            await vos.call(vos.location_stub.ReplaceEntry, request)
        for address in (second, first):
            async with volserver(tmp_path, vol_server=address) as vos:
                await vos.create(f"at-{address[-4:]}")
                sites = (await vos.entry("demo")).sites
                # The second is on no partition of ours: nobody can tell whose it is now.
                assert [site.vol_server for site in sites] == [address, first, other]


def test_the_identity_stays_and_a_damaged_one_is_replaced(tmp_path: Path) -> None:
    """The token outlives the process; rubbish in its place is not believed."""
    first = read_identity(tmp_path)
    assert read_identity(tmp_path) == first
    (tmp_path / "volserverd.id").write_bytes(b"\xff\xfe nonsense")
    assert read_identity(tmp_path) != first
