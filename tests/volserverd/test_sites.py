"""Sites, names and read-write clones, against fake fileservers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode, AfsError
from afs.types import VolumeType
from afs.v1 import types_pb2, volume_location_pb2
from afs.v1 import vol_server_pb2 as pb
from afs.volume.partition import Partition
from tests.volserverd.fake_fssync import ONLINE, FakeFileServer, Fault, fake_fileserver
from tests.volserverd.running import FILE_SERVER, RunningVolServer, refused, volserver
from volserverd.identity import read_identity
from volserverd.vldb.names import FIRST_VOLUME_ID

pytestmark = pytest.mark.blocking_ok

DEMO = FIRST_VOLUME_ID
READ_ONLY, BACKUP = DEMO + 1, DEMO + 2
FILE_SERVER_2 = "127.0.0.1:7100"


@asynccontextmanager
async def two_servers(
    root: Path,
) -> AsyncIterator[tuple[RunningVolServer, RunningVolServer, FakeFileServer, FakeFileServer]]:
    """Two volservers with a fileserver each; the first has the location database."""
    one, two = root / "one", root / "two"
    for each in (one, two):
        each.mkdir(exist_ok=True)
    async with (
        fake_fileserver(one) as fake,
        fake_fileserver(two) as fake_2,
        volserver(one) as vos,
        volserver(
            two, location=vos.daemon.location_addresses[0], file_server=FILE_SERVER_2
        ) as vos_2,
    ):
        yield vos, vos_2, fake, fake_2


def address_of(vos: RunningVolServer) -> str:
    """Where a volserver is."""
    return vos.daemon.addresses[0]


async def add_site(
    vos: RunningVolServer, server: str = "", partition: str = "", volume: str = "demo"
) -> pb.VolumeEntry:
    """AddSite."""
    request = pb.AddSiteRequest(volume=volume, server=server, partition=partition)
    answer: pb.AddSiteResponse = await vos.call(vos.stub.AddSite, request)
    return answer.entry


async def remove_site(
    vos: RunningVolServer, server: str = "", *, force: bool = False, volume: str = "demo"
) -> pb.RemoveSiteResponse:
    """RemoveSite."""
    request = pb.RemoveSiteRequest(volume=volume, server=server, force=force)
    answer: pb.RemoveSiteResponse = await vos.call(vos.stub.RemoveSite, request)
    return answer


async def rename(vos: RunningVolServer, new_name: str, volume: str = "demo") -> Any:
    """RenameVolume."""
    request = pb.RenameVolumeRequest(volume=volume, new_name=new_name)
    return await vos.call(vos.stub.RenameVolume, request)


async def clone(vos: RunningVolServer, new_name: str, volume: str = "demo") -> pb.VolumeDetail:
    """Clone: the new volume."""
    messages = await vos.stream(vos.stub.Clone, pb.CloneRequest(volume=volume, new_name=new_name))
    assert [message.HasField("volume") for message in messages][-1]
    detail: pb.VolumeDetail = messages[-1].volume
    return detail


def make_copy(root: Path, fake: FakeFileServer, *, counter_of: int = DEMO) -> None:
    """A read-only copy of the volume demo beside it, as a release leaves it."""
    with_volume(
        root,
        counter_of,
        lambda partition, volume: partition.clone_volume(
            volume, volume_id=READ_ONLY, name="demo.readonly", type=VolumeType.READ_ONLY
        ),
    )
    fake.restart()


def with_volume(root: Path, volume_id: int, act: Any) -> Any:
    """Does something to a volume on disk."""
    partition = Partition.open(root / "vicepa", holder="test")
    volume = partition.open_volume(volume_id)
    try:
        return act(partition, volume)
    finally:
        volume.close()
        partition.close()


async def released(vos: RunningVolServer, root: Path, fake: FakeFileServer) -> None:
    """The volume demo with a read-only site here that was released to."""
    await vos.create("demo")
    await add_site(vos)
    make_copy(root, fake)
    request = pb.OnlineRequest(volume=str(READ_ONLY))
    fake.volumes.setdefault(READ_ONLY, type(next(iter(fake.volumes.values())))(ONLINE))
    entry = await vos.entry()
    entry.read_only_id = READ_ONLY
    entry.sites[1].release = 7
    await vos.call(
        vos.location_stub.ReplaceEntry, volume_location_pb2.ReplaceEntryRequest(entry=entry)
    )
    await vos.call(vos.stub.Online, request)


# --- AddSite --------------------------------------------------------------------------------------


async def test_a_site_is_added_on_either_server(tmp_path: Path) -> None:
    """Any volserver can be asked; the site says how clients find it, and that it shows nothing."""
    async with two_servers(tmp_path) as (vos, vos_2, _, __):
        await vos.create("demo")
        await vos.backup("demo")
        await add_site(vos)
        entry = await add_site(vos, address_of(vos_2), "vicepa")
        assert entry == await vos.entry()
        assert [
            (site.file_server, site.vol_server, site.partition, site.type, site.release)
            for site in entry.sites
        ] == [
            (FILE_SERVER, address_of(vos), "vicepa", types_pb2.VOLUME_TYPE_READ_WRITE, 0),
            (FILE_SERVER, address_of(vos), "vicepa", types_pb2.VOLUME_TYPE_READ_ONLY, 0),
            (FILE_SERVER_2, address_of(vos_2), "vicepa", types_pb2.VOLUME_TYPE_READ_ONLY, 0),
            (FILE_SERVER, address_of(vos), "vicepa", types_pb2.VOLUME_TYPE_BACKUP, 0),
        ]
        assert entry.read_only_id == 0, "there is no read-only volume before the first release"
        # It survives every operation that settles the entry.
        await vos.backup("demo")
        assert [site.type for site in (await vos.entry()).sites] == [1, 2, 2, 3]


async def test_sites_that_cannot_be_are_refused(tmp_path: Path) -> None:
    """One read-only site a server, on a partition it has, in an entry that nobody works on."""
    async with two_servers(tmp_path) as (vos, vos_2, _, __):
        await vos.create("demo")
        await add_site(vos, address_of(vos_2))
        with refused(AfsCode.VVOLEXISTS, "has a read-only site"):
            await add_site(vos_2)
        with refused(AfsCode.EINVAL, "'vicepz': volserver"):
            await add_site(vos, address_of(vos_2), "vicepz")
        with refused(AfsCode.EINVAL, "vicepz"):
            await add_site(vos, partition="vicepz")
        with refused(AfsCode.RX_CALL_DEAD, "volserver 127.0.0.1:1 does not answer"):
            await add_site(vos, "127.0.0.1:1")
        with refused(AfsCode.EINVAL, "is no volserver"):
            await add_site(vos, vos.daemon.location_addresses[0])
        with refused(AfsCode.VNOVOL):
            await add_site(vos, volume="other")
        entry = await vos.entry()
        request = volume_location_pb2.LockRequest(read_write_id=DEMO, operation="move by x")
        await vos.call(vos.location_stub.Lock, request)
        with refused(AfsCode.VBUSY, "move by x"):
            await add_site(vos)
        assert (await vos.entry()).sites == entry.sites


# --- RemoveSite -----------------------------------------------------------------------------------


async def test_a_site_goes_with_its_copy(tmp_path: Path) -> None:
    """Entry, disk and fileserver: nothing is left of the copy; the volume itself is untouched."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await released(vos, tmp_path, fake)
        assert (await vos.examine("demo.readonly")).volume.read_write_id == DEMO
        fake.commands.clear()
        answer = await remove_site(vos)
        assert fake.commands == [
            ("NEEDVOLUME", READ_ONLY),
            ("NEEDVOLUME", READ_ONLY),
            ("DONE", READ_ONLY),
        ]
        assert [volume.volume_id for volume in await vos.listed()] == [DEMO]
        entry = await vos.entry()
        assert answer.entry == entry
        assert (entry.read_only_id, len(entry.sites), entry.locked_for) == (0, 1, "")
        with refused(AfsCode.VNOVOL, "no read-only site"):
            await remove_site(vos)


async def test_deleting_a_read_only_volume_takes_its_site_along(tmp_path: Path) -> None:
    """`vos remove NAME.readonly` is the same as taking the site away."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await released(vos, tmp_path, fake)
        assert await vos.delete("demo.readonly") == READ_ONLY
        entry = await vos.entry()
        assert (entry.read_only_id, [site.type for site in entry.sites]) == (0, [1])


async def test_a_read_only_copy_outlives_its_volume(tmp_path: Path) -> None:
    """The volume is deleted; its entry leads to the copies until the last of them goes."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await released(vos, tmp_path, fake)
        await vos.backup("demo")
        await vos.delete("demo")
        assert [volume.volume_id for volume in await vos.listed()] == [READ_ONLY]
        entry = await vos.entry()
        assert (entry.read_only_id, entry.backup_id) == (READ_ONLY, 0)
        assert [site.type for site in entry.sites] == [types_pb2.VOLUME_TYPE_READ_ONLY]
        answer = await remove_site(vos)
        assert not answer.HasField("entry")
        assert await vos.entries() == []
        assert list((tmp_path / "vicepa" / "groups").iterdir()) == [], "and no chunk stays"


async def test_an_unreleased_site_does_not_keep_an_entry(tmp_path: Path) -> None:
    """A volume with sites that were never released to is deleted as a whole."""
    async with fake_fileserver(tmp_path), volserver(tmp_path) as vos:
        await vos.create("demo")
        await add_site(vos)
        await vos.delete("demo")
        assert await vos.entries() == []


async def test_a_site_is_removed_by_the_volserver_that_has_it(tmp_path: Path) -> None:
    """Asked of the other, it is passed on; when that is dead, only `force` changes the entry."""
    async with two_servers(tmp_path) as (vos, vos_2, _, __):
        await vos.create("demo")
        await add_site(vos, address_of(vos_2))
        answer = await remove_site(vos, FILE_SERVER_2)
        assert [site.type for site in answer.entry.sites] == [types_pb2.VOLUME_TYPE_READ_WRITE]
        await add_site(vos, address_of(vos_2))
        server = address_of(vos_2)
        await vos_2.daemon.stop()
        with refused(AfsCode.RX_CALL_DEAD, f"volserver {server} does not answer"):
            await remove_site(vos, server)
        assert len((await vos.entry()).sites) == 2
        answer = await remove_site(vos, server, force=True)
        assert "stays behind" in answer.detail
        assert len((await vos.entry()).sites) == 1


async def test_a_copy_without_a_site_is_deleted_by_recovery(tmp_path: Path) -> None:
    """R7: killed between entry and disk, remsite is ended by the next start."""
    async with fake_fileserver(tmp_path) as fake:
        async with volserver(tmp_path) as vos:
            await released(vos, tmp_path, fake)
            entry = await vos.entry()
            del entry.sites[1]
            ours = f"remsite by volserver {read_identity(tmp_path / 'vicepa')}"
            await vos.call(
                vos.location_stub.ReplaceEntry,
                volume_location_pb2.ReplaceEntryRequest(entry=entry),
            )
            await vos.call(
                vos.location_stub.Lock,
                volume_location_pb2.LockRequest(read_write_id=DEMO, operation=ours),
            )
        async with volserver(tmp_path) as vos:
            await vos.create("last")
            assert READ_ONLY not in {volume.volume_id for volume in await vos.listed()}
            assert READ_ONLY not in fake.volumes
            entry = await vos.entry()
            assert (entry.read_only_id, entry.locked_for) == (0, "")


# --- RenameVolume ---------------------------------------------------------------------------------


async def test_a_volume_is_renamed_with_all_its_copies(tmp_path: Path) -> None:
    """Entry, read-write, backup and read-only volume; the copy's identity stays (M5b)."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await released(vos, tmp_path, fake)
        await vos.backup("demo")
        before = (await vos.examine("demo.readonly")).volume
        answer = await rename(vos, "new")
        assert (answer.entry.name, answer.entry.locked_for, answer.not_renamed) == ("new", "", [])
        assert {volume.name for volume in await vos.listed()} == {
            "new",
            "new.readonly",
            "new.backup",
        }
        after = (await vos.examine("new.readonly")).volume
        assert (after.incarnation, after.change_counter) == (
            before.incarnation,
            before.change_counter,
        )
        assert {volume.state for volume in fake.volumes.values()} == {ONLINE}
        with refused(AfsCode.VNOVOL):
            await vos.examine("demo")
        assert (await vos.create("demo")).name == "demo", "the old name is free"


async def test_a_name_that_is_taken_changes_nothing(tmp_path: Path) -> None:
    """Refused before any volume is taken; so are names that no volume can have."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo")
        await vos.create("other")
        fake.commands.clear()
        with refused(AfsCode.VVOLEXISTS, "volume other exists"):
            await rename(vos, "other")
        with refused(AfsCode.VVOLEXISTS, "has that name already"):
            await rename(vos, "demo")
        with refused(AfsCode.EINVAL):
            await rename(vos, "no/name")
        with refused(AfsCode.EROFS):
            await vos.backup("demo")
            await rename(vos, "x", "demo.backup")
        assert {entry.name for entry in await vos.entries()} == {"demo", "other"}


async def test_copies_elsewhere_are_renamed_or_told_of(tmp_path: Path) -> None:
    """The other volserver renames its copy; one that does not answer keeps the old name."""
    async with two_servers(tmp_path) as (vos, vos_2, _, fake_2):
        await vos.create("demo")
        await add_site(vos, address_of(vos_2))
        partition = Partition.open(tmp_path / "two" / "vicepa", holder="test")
        partition.create_volume(
            volume_id=READ_ONLY,
            name="demo.readonly",
            type=VolumeType.READ_ONLY,
            read_write_id=DEMO,
        ).close()
        partition.close()
        await vos_2.call(vos_2.stub.Online, pb.OnlineRequest(volume=str(READ_ONLY)))
        entry = await vos.entry()
        entry.read_only_id = READ_ONLY
        entry.sites[1].release = 7
        await vos.call(
            vos.location_stub.ReplaceEntry, volume_location_pb2.ReplaceEntryRequest(entry=entry)
        )
        answer = await rename(vos, "new")
        assert list(answer.not_renamed) == []
        assert [volume.name for volume in await vos_2.listed()] == ["new.readonly"]
        assert fake_2.state(READ_ONLY) == ONLINE
        await vos_2.daemon.stop()
        answer = await rename(vos, "newer", "new")
        assert len(answer.not_renamed) == 1
        assert "does not answer" in answer.not_renamed[0]
        assert (await vos.entry("newer")).locked_for == ""


async def test_recovery_ends_a_renaming(tmp_path: Path) -> None:
    """R7: killed after the entry was renamed, the volumes get its name at the next start."""
    async with fake_fileserver(tmp_path) as fake:
        async with volserver(tmp_path) as vos:
            await vos.create("demo")
            await vos.backup("demo")
            entry = await vos.entry()
            entry.name = "new"
            ours = f"rename by volserver {read_identity(tmp_path / 'vicepa')}"
            await vos.call(
                vos.location_stub.ReplaceEntry,
                volume_location_pb2.ReplaceEntryRequest(entry=entry),
            )
            await vos.call(
                vos.location_stub.Lock,
                volume_location_pb2.LockRequest(read_write_id=DEMO, operation=ours),
            )
        async with volserver(tmp_path) as vos:
            await vos.create("last")
            assert {volume.name for volume in await vos.listed()} == {"new", "new.backup", "last"}
            assert (await vos.entry("new")).locked_for == ""
            assert {volume.state for volume in fake.volumes.values()} == {ONLINE}


# --- Clone ----------------------------------------------------------------------------------------


async def test_a_clone_is_a_volume_of_its_own(tmp_path: Path) -> None:
    """Own ids, own entry, in service; it outlives its source, and can be backed up and cloned."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo", max_quota_kib=77)
        made = await clone(vos, "copy")
        assert (made.name, made.read_write_id, made.state) == ("copy", made.volume_id, ONLINE)
        assert made.type == types_pb2.VOLUME_TYPE_READ_WRITE
        assert made.max_quota_kib == 77
        entry = await vos.entry("copy")
        assert (entry.read_write_id, entry.locked_for) == (made.volume_id, "")
        assert fake.state(made.volume_id) == ONLINE
        assert fake.state(DEMO) == ONLINE
        source = (await vos.examine("demo")).volume
        assert source.incarnation != made.incarnation
        again = await clone(vos, "again", "copy")
        await vos.delete("demo")
        await vos.backup("copy")
        await vos.set_quota(5, "again")
        assert {volume.volume_id for volume in await vos.listed()} == {
            made.volume_id,
            made.volume_id + 2,
            again.volume_id,
        }
        await vos.delete("copy")
        await vos.delete("again")
        assert list((tmp_path / "vicepa" / "groups").iterdir()) == []


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("step", range(3))
async def test_a_clone_that_fails_leaves_nothing(tmp_path: Path, step: int, fault: Fault) -> None:
    """R7: whatever the fileserver does, the source is back in service and nothing half made."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo")
        fake.commands.clear()
        fake.faults = {step: fault}
        with suppress(AfsError):
            await clone(vos, "copy")
        assert len(fake.commands) > step
        fake.faults = {}
        await vos.settled()
        on_disk = {volume.volume_id for volume in await vos.listed()}
        assert set(fake.volumes) == on_disk
        assert {volume.state for volume in fake.volumes.values()} == {ONLINE}
        entries = {entry.read_write_id: entry.locked_for for entry in await vos.entries()}
        assert entries == dict.fromkeys(on_disk, "")


async def test_only_a_read_write_volume_is_cloned_to_a_new_name(tmp_path: Path) -> None:
    """A backup, a taken name and a bad name are refused; the source stays in service."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo")
        await vos.backup("demo")
        with refused(AfsCode.EROFS):
            await clone(vos, "copy", "demo.backup")
        with refused(AfsCode.VVOLEXISTS):
            await clone(vos, "demo")
        with refused(AfsCode.EINVAL):
            await clone(vos, "demo.readonly")
        assert fake.state(DEMO) == ONLINE
        assert set(fake.volumes) == {DEMO, BACKUP}
