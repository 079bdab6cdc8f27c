"""VolServer with a real fileserver: every method, and what clients of the volumes see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from afs.errors import AfsCode
from afs.limits import MAX_QUOTA_KIB
from afs.types import BreakReason, root_fid
from afs.v1 import fssync_pb2, types_pb2
from afs.v1 import vol_server_pb2 as pb
from tests.afsd.running import Client, RunningFileServer, fileserver
from tests.volserverd.running import RunningVolServer, refused, volserver
from volserverd.vldb.names import FIRST_VOLUME_ID

pytestmark = pytest.mark.blocking_ok

ONLINE = fssync_pb2.VOLUME_STATE_ONLINE
OFFLINE = fssync_pb2.VOLUME_STATE_OFFLINE
ERROR = fssync_pb2.VOLUME_STATE_ERROR
DEMO = FIRST_VOLUME_ID
BACKUP = DEMO + 2


class Cell(NamedTuple):
    """A fileserver and a volserver."""

    fileserver: RunningFileServer
    vos: RunningVolServer

    async def client(self) -> Client:
        """A client of the fileserver."""
        return await self.fileserver.client()


@pytest.fixture
async def cell(tmp_path: Path) -> AsyncIterator[Cell]:
    """A fileserver without volumes and a volserver."""
    async with fileserver(tmp_path, volumes=()) as files, volserver(tmp_path) as vos:
        yield Cell(files, vos)


# --- create and delete ----------------------------------------------------------------------------


async def test_a_created_volume_is_served_and_found(cell: Cell) -> None:
    """Create: location entry, disk and fileserver agree, and a client can write."""
    detail = await cell.vos.create("demo", max_quota_kib=5000)
    assert (detail.volume_id, detail.name, detail.partition) == (DEMO, "demo", "vicepa")
    assert (detail.state, detail.max_quota_kib, detail.backup_id) == (ONLINE, 5000, 0)
    entry = await cell.vos.entry("demo")
    assert (entry.read_write_id, entry.backup_id, entry.locked_for) == (DEMO, 0, "")
    (site,) = entry.sites
    assert (site.partition, site.vol_server) == ("vicepa", cell.vos.daemon.addresses[0])
    client = await cell.client()
    await client.create("file", root_fid(DEMO))
    assert await client.names(root_fid(DEMO)) == ["file"]


async def test_create_refuses_what_cannot_be(cell: Cell) -> None:
    """A taken name or id, a bad name, partition, quota or id: one clear line, nothing left."""
    await cell.vos.create("demo")
    before = await cell.vos.entries(), await cell.vos.listed()
    with refused(AfsCode.VVOLEXISTS, "demo exists"):
        await cell.vos.create("demo")
    with refused(AfsCode.VVOLEXISTS, "given before"):
        await cell.vos.create("other", volume_id=DEMO)
    with refused(AfsCode.EINVAL, "volume name"):
        await cell.vos.create("a/b")
    with refused(AfsCode.ENAMETOOLONG, "volume name"):
        await cell.vos.create("x" * 23)
    with refused(AfsCode.EINVAL, "vicepz"):
        await cell.vos.create("other", partition="vicepz")
    with refused(AfsCode.EINVAL, "max_quota_kib"):
        await cell.vos.create("other", max_quota_kib=MAX_QUOTA_KIB + 1)
    with refused(AfsCode.EINVAL, "volume id"):
        await cell.vos.create("other", volume_id=0xFFFFFFFF)
    assert (await cell.vos.entries(), await cell.vos.listed()) == before
    assert (await cell.vos.create("chosen", volume_id=77)).volume_id == 77


async def test_a_deleted_volume_is_gone_and_its_callbacks_broken(cell: Cell) -> None:
    """Delete: VNOVOL everywhere, its backup gone too, clients told, its id not given again."""
    await cell.vos.create("demo")
    await cell.vos.backup("demo")
    client = await cell.client()
    await client.status(root_fid(DEMO))
    assert await cell.vos.delete("demo") == DEMO
    assert (await client.broken((DEMO, 0, 0))).reason == BreakReason.VOLUME_DELETED
    for volume in (DEMO, BACKUP):
        with refused(AfsCode.VNOVOL):
            await client.status(root_fid(volume))
    assert (await cell.vos.entries(), await cell.vos.listed()) == ([], [])
    with refused(AfsCode.VNOVOL, "demo"):
        await cell.vos.delete("demo")
    assert (await cell.vos.create("demo")).volume_id == DEMO + 3


async def test_the_backup_can_be_deleted_alone(cell: Cell) -> None:
    """Delete of NAME.backup leaves the volume and its entry."""
    await cell.vos.create("demo")
    with refused(AfsCode.VNOVOL, "no backup"):
        await cell.vos.delete("demo.backup")
    await cell.vos.backup("demo")
    assert await cell.vos.delete("demo.backup") == BACKUP
    assert (await cell.vos.entry("demo")).backup_id == 0
    (left,) = await cell.vos.listed()
    assert (left.volume_id, left.state, left.backup_id) == (DEMO, ONLINE, 0)


# --- offline, online, fields ----------------------------------------------------------------------


async def test_offline_lasts_until_online(tmp_path: Path) -> None:
    """A volume taken off-line stays so across a restart of the fileserver, and comes back."""
    async with volserver(tmp_path) as vos:
        async with fileserver(tmp_path, volumes=()) as files:
            await vos.create("demo")
            client = await files.client()
            await client.status(root_fid(DEMO))
            assert (await vos.offline("demo")).state == OFFLINE
            assert (await client.broken((DEMO, 0, 0))).reason
            with refused(AfsCode.VOFFLINE):
                await client.status(root_fid(DEMO))
            assert (await vos.offline("demo")).state == OFFLINE, "twice is as good as once"
        async with fileserver(tmp_path, volumes=()) as files:
            client = await files.client()
            with refused(AfsCode.VOFFLINE):
                await client.status(root_fid(DEMO))
            answer = await vos.online("demo")
            assert answer.volume.state == ONLINE
            assert answer.give_back_s > 0
            await client.status(root_fid(DEMO))
            assert (await vos.online("demo")).volume.state == ONLINE
            assert client.breaks == [], "nothing changed: nothing was broken (M5b)"


async def test_work_on_an_offline_volume_leaves_it_offline(cell: Cell) -> None:
    """A backup and a dump of an off-line volume do not put it into service."""
    await cell.vos.create("demo")
    await cell.vos.offline("demo")
    await cell.vos.backup("demo")
    await cell.vos.dump("demo")
    await cell.vos.set_quota(77, "demo")
    detail = (await cell.vos.examine("demo")).volume
    assert (detail.state, detail.max_quota_kib) == (OFFLINE, 77)


async def test_a_quota_is_set_and_enforced(cell: Cell) -> None:
    """SetFields changes the quota; what cannot be a quota is refused; absent means unchanged."""
    await cell.vos.create("demo")
    assert (await cell.vos.set_quota(1, "demo")).max_quota_kib == 1
    client = await cell.client()
    with refused(AfsCode.VOVERQUOTA):
        await client.create("file", root_fid(DEMO))
    with refused(AfsCode.EINVAL, "max_quota_kib"):
        await cell.vos.set_quota(MAX_QUOTA_KIB + 1, "demo")
    answer = await cell.vos.call(cell.vos.stub.SetFields, pb.SetFieldsRequest(volume="demo"))
    assert answer.volume.max_quota_kib == 1


# --- backup ---------------------------------------------------------------------------------------


async def test_a_backup_is_the_volume_as_it_was(cell: Cell) -> None:
    """The backup volume keeps the old contents, is read-only, and is found as NAME.backup."""
    await cell.vos.create("demo")
    client = await cell.client()
    await client.store(await client.create("file", root_fid(DEMO)), b"old")
    *progress, last = await cell.vos.backup("demo")
    assert all(message.HasField("progress") for message in progress)
    assert "copying metadata" in [message.progress.step for message in progress]
    volume = last.volume
    assert (volume.volume_id, volume.name, volume.type) == (
        BACKUP,
        "demo.backup",
        types_pb2.VOLUME_TYPE_BACKUP,
    )
    assert (volume.state, volume.read_write_id) == (ONLINE, DEMO)
    assert volume.cloned_ns > 0
    await client.create("later", root_fid(DEMO))
    assert await client.names(root_fid(BACKUP)) == ["file"]
    with refused(AfsCode.EROFS):
        await client.create("file2", root_fid(BACKUP))
    entry = await cell.vos.entry("demo.backup")
    assert (entry.read_write_id, entry.backup_id, entry.locked_for) == (DEMO, BACKUP, "")
    assert (await cell.vos.examine("demo")).volume.backup_id == BACKUP


async def test_a_backup_breaks_the_old_backup_only(cell: Cell) -> None:
    """Readers of the backup see the new state; promises on the volume itself hold (M5b)."""
    await cell.vos.create("demo")
    await cell.vos.backup("demo")
    writer, reader = await cell.client(), await cell.client()
    await writer.create("file", root_fid(DEMO))
    await reader.status(root_fid(DEMO))
    assert await reader.names(root_fid(BACKUP)) == []
    await reader.status(root_fid(BACKUP))
    counter = (await cell.vos.examine("demo")).volume.change_counter
    await cell.vos.backup("demo")
    await reader.broken((BACKUP, 0, 0))
    assert await reader.names(root_fid(BACKUP)) == ["file"]
    assert not [told for told in reader.breaks if told.targets[0][0] == DEMO]
    assert (await cell.vos.examine("demo")).volume.change_counter == counter


async def test_only_read_write_volumes_are_backed_up(cell: Cell) -> None:
    """A backup of a backup is refused, as is restoring over one."""
    await cell.vos.create("demo")
    await cell.vos.backup("demo")
    with refused(AfsCode.EROFS, "demo.backup"):
        await cell.vos.backup("demo.backup")
    dump = await cell.vos.dump("demo.backup")
    with refused(AfsCode.EROFS, "demo.backup"):
        await cell.vos.restore(dump, "demo.backup", overwrite=True)


# --- dump and restore -----------------------------------------------------------------------------


async def fill(client: Client, volume: int) -> None:
    """A directory, a small file and one of several chunks."""
    directory = await client.make_dir("dir", root_fid(volume))
    await client.store(await client.create("small", directory), b"tiny")
    large = await client.create("large", root_fid(volume))
    await client.store(large, *[bytes([number]) * 1_000_000 for number in range(3)])


async def test_a_dump_makes_a_new_volume(cell: Cell) -> None:
    """Dump and Restore to another name: same contents, other ids, in service."""
    await cell.vos.create("demo", max_quota_kib=9000)
    client = await cell.client()
    await fill(client, DEMO)
    answer = await cell.vos.restore(await cell.vos.dump("demo"), "copy")
    copy = answer.volume
    assert (copy.name, copy.volume_id, copy.state) == ("copy", DEMO + 3, ONLINE)
    assert (copy.type, copy.max_quota_kib) == (types_pb2.VOLUME_TYPE_READ_WRITE, 9000)
    assert await client.names(root_fid(copy.volume_id)) == ["dir", "large"]
    assert (await cell.vos.entry("copy")).locked_for == ""
    await client.create("new", root_fid(copy.volume_id))
    await cell.vos.backup("copy")
    assert not [told for told in client.breaks if told.targets[0] == (copy.volume_id, 0, 0)]


async def test_a_restore_over_a_volume_is_seen_by_its_clients(cell: Cell) -> None:
    """Overwriting breaks the volume's callbacks, and its clients see the dump's contents (T21)."""
    await cell.vos.create("demo")
    client = await cell.client()
    await fill(client, DEMO)
    dump = await cell.vos.dump("demo")
    await client.create("later", root_fid(DEMO))
    await client.status(root_fid(DEMO))
    with refused(AfsCode.VVOLEXISTS, "overwrite"):
        await cell.vos.restore(dump, "demo")
    answer = await cell.vos.restore(dump, "demo", overwrite=True)
    assert answer.give_back_s > 0
    assert answer.volume.volume_id == DEMO
    assert (await client.broken((DEMO, 0, 0))).reason == BreakReason.VOLUME_GIVEN_BACK
    assert await client.names(root_fid(DEMO)) == ["dir", "large"]
    with refused(AfsCode.EINVAL, "vicepz"):
        await cell.vos.restore(dump, "demo", overwrite=True, partition="vicepz")


async def test_dumping_breaks_nothing(cell: Cell) -> None:
    """A dump takes the volume, and gives it back unchanged: promises hold (M5b)."""
    await cell.vos.create("demo")
    client = await cell.client()
    await client.status(root_fid(DEMO))
    await cell.vos.dump("demo")
    assert client.breaks == []
    (left,) = await cell.vos.listed()
    assert left.volume_id == DEMO


@pytest.mark.parametrize("how", ["truncated", "flipped", "empty", "foreign"])
@pytest.mark.parametrize("overwrite", [False, True])
async def test_a_bad_dump_changes_nothing(cell: Cell, how: str, overwrite: bool) -> None:
    """R9: a dump that is damaged anywhere is refused; disk and location database are as before."""
    await cell.vos.create("demo")
    client = await cell.client()
    await fill(client, DEMO)
    dump = await cell.vos.dump("demo")
    bad = {
        "truncated": dump[:-7],
        "flipped": dump[:5000] + bytes([dump[5000] ^ 1]) + dump[5001:],
        "empty": b"",
        "foreign": b"PK\3\4" * 1000,
    }[how]
    await client.status(root_fid(DEMO))
    before = await cell.vos.entries(), await cell.vos.listed()
    with refused(AfsCode.EINVAL, "dump"):
        await cell.vos.restore(bad, "demo" if overwrite else "copy", overwrite=overwrite)
    assert (await cell.vos.entries(), await cell.vos.listed()) == before
    assert client.breaks == []
    assert await client.names(root_fid(DEMO)) == ["dir", "large"]


async def test_restore_begins_with_open(cell: Cell) -> None:
    """A first message without `open`, or none at all, is refused."""

    async def requests(*messages: pb.RestoreRequest) -> AsyncIterator[pb.RestoreRequest]:
        for message in messages:
            yield message

    for messages in ([], [pb.RestoreRequest(data=b"x")]):
        with refused(AfsCode.EINVAL, "open"):
            await cell.vos.call(cell.vos.stub.Restore, requests(*messages))


# --- looking --------------------------------------------------------------------------------------


async def test_listings_tell_of_volumes_and_partitions(cell: Cell) -> None:
    """Examine, ListVolumes and ListPartitions, and what they refuse."""
    await cell.vos.create("demo")
    await cell.vos.create("other")
    await cell.vos.offline("other")
    listed = await cell.vos.listed("vicepa")
    assert [(v.name, v.state) for v in listed] == [("demo", ONLINE), ("other", OFFLINE)]
    examined = await cell.vos.examine(str(DEMO))
    assert (examined.volume.name, examined.entry.name) == ("demo", "demo")
    answer = await cell.vos.call(cell.vos.stub.ListPartitions, pb.ListPartitionsRequest())
    (partition,) = answer.partitions
    assert (partition.name, partition.volume_count) == ("vicepa", 2)
    assert partition.size_kib >= partition.free_kib > 0
    with refused(AfsCode.EINVAL, "vicepz"):
        await cell.vos.listed("vicepz")
    with refused(AfsCode.VNOVOL):
        await cell.vos.examine("nobody")
    with refused(AfsCode.VNOVOL):
        await cell.vos.examine("12345")
    with refused(AfsCode.EINVAL):
        await cell.vos.examine("")


async def test_a_damaged_volume_is_listed_and_can_be_deleted(tmp_path: Path) -> None:
    """A volume the fileserver cannot attach is shown in the error state, refused, and deletable."""
    async with volserver(tmp_path) as vos:
        async with fileserver(tmp_path, volumes=()):
            await vos.create("demo")
        (database,) = (tmp_path / "vicepa").glob("groups/*/*.db")
        await asyncio.to_thread(_truncate, database)
        async with fileserver(tmp_path, volumes=()):
            (listed,) = await vos.listed()
            assert listed.state == ERROR
            assert listed.detail
            with refused(AfsCode.VSALVAGE):
                await vos.online("demo")
            with refused(AfsCode.VSALVAGE):
                await vos.backup("demo")
            assert await vos.delete("demo") == DEMO
            assert (await vos.entries(), await vos.listed()) == ([], [])


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])
