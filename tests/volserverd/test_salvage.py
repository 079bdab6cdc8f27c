"""Salvage and Verify with a real fileserver: what is planted is found, and clients are told."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from afs.errors import AfsCode
from afs.limits import SALVAGES_MAX
from afs.types import BreakReason, Fid, VnodeType, VolumeType, root_fid
from afs.v1 import fssync_pb2
from afs.v1 import vol_server_pb2 as pb
from afs.volume.check_finding import FindingKind
from afs.volume.partition import Partition
from afs.volume.volume import SetVolumeFields
from tests.afsd.running import Client, RunningFileServer, fileserver
from tests.volserverd.running import RunningVolServer, refused, volserver
from tests.volume.building import chunk_files, do, flip_byte, noise
from tests.volume.planting import Planter
from volserverd.operations import Operation
from volserverd.vldb.entry import Entry, Site
from volserverd.vldb.names import FIRST_TEMPORARY_ID, FIRST_VOLUME_ID

pytestmark = pytest.mark.blocking_ok

ONLINE = fssync_pb2.VOLUME_STATE_ONLINE
OFFLINE = fssync_pb2.VOLUME_STATE_OFFLINE
ERROR = fssync_pb2.VOLUME_STATE_ERROR
DEMO = FIRST_VOLUME_ID
ROOT = root_fid(DEMO)
DATA = noise(3_000_000)


class Cell(NamedTuple):
    """A fileserver, a volserver and where their partition is."""

    fileserver: RunningFileServer
    vos: RunningVolServer
    root: Path

    async def client(self) -> Client:
        """A client of the fileserver."""
        return await self.fileserver.client()

    def database(self, volume_id: int = DEMO, partition: str = "vicepa") -> Path:
        """Where a volume's database is."""
        (path,) = (self.root / partition).glob(f"groups/*/{volume_id}.db")
        return path

    async def damage(self, plant: Callable[[Planter], None], volume_id: int = DEMO) -> None:
        """Damages a volume while it is off-line, so that the fileserver serves it again."""
        await self.vos.offline(str(volume_id))
        with Planter(self.database(volume_id), volume_id) as planter:
            plant(planter)
        await self.vos.online(str(volume_id))

    async def salvage(self, volume: str = "demo", **wishes: Any) -> list[pb.SalvageResponse]:
        """Salvage: all messages."""
        request = pb.SalvageRequest(volume=volume, **wishes)
        return await self.vos.stream(self.vos.stub.Salvage, request)

    async def verify(self, volume: str = "", **wishes: Any) -> list[pb.Finding]:
        """Verify: what is found."""
        request = pb.VerifyRequest(volume=volume, **wishes)
        messages = await self.vos.stream(self.vos.stub.Verify, request)
        return [message.finding for message in messages if message.HasField("finding")]

    async def state(self, volume_id: int = DEMO) -> int:
        """What the fileserver says a volume's state is."""
        return (await self.fileserver.fssync("VOL_QUERY", volume_id)).volume.state


def kinds(findings: list[pb.Finding]) -> list[str]:
    """What was found."""
    return [finding.kind for finding in findings]


@pytest.fixture
async def cell(tmp_path: Path) -> AsyncIterator[Cell]:
    """A volume `demo` with a small and a large file."""
    async with fileserver(tmp_path, volumes=()) as files, volserver(tmp_path) as vos:
        made = Cell(files, vos, tmp_path)
        await vos.create("demo")
        client = await made.client()
        await client.store(await client.create("large", ROOT), DATA)
        await client.store(await client.create("small", ROOT), b"small")
        yield made


def orphan(planter: Planter) -> None:
    """A file without a name."""
    planter.unname(["small"])


# --- salvage --------------------------------------------------------------------------------------


async def test_a_salvage_repairs_tells_and_breaks_callbacks(cell: Cell) -> None:
    """T21: what the salvager changed, clients are told of, with its reason; then they see it."""
    await cell.damage(orphan)
    client = await cell.client()
    before = await client.status(ROOT)
    *first, last = await cell.salvage()
    findings = [message.finding for message in first if message.HasField("finding")]
    assert FindingKind.ORPHAN in kinds(findings)
    assert any(message.HasField("progress") for message in first)
    assert (last.volume.state, last.unrepaired, last.changed) == (ONLINE, 0, True)
    told = await client.broken((DEMO, 0, 0))
    assert told.reason == BreakReason.VOLUME_SALVAGED
    after = await client.status(ROOT)
    assert after.status.data_version > before.status.data_version
    assert len(await client.names(ROOT)) == 2
    assert await cell.verify() == []


async def test_a_salvage_that_changes_nothing_is_not_noticed(cell: Cell) -> None:
    """M5b: the change counter proves it, so no client is told; a quick one, and a dry run too."""
    client = await cell.client()
    await client.status(ROOT)
    for quick, dry_run in ((False, False), (True, False), (False, True)):
        *_, last = await cell.salvage(quick=quick, dry_run=dry_run)
        assert (last.volume.state, last.unrepaired, last.changed) == (ONLINE, 0, False)
    await client.status(ROOT)
    assert client.breaks == []


async def test_a_volume_in_the_error_state_is_salvaged_and_served(cell: Cell) -> None:
    """It goes into service again; a dry run before leaves it where it was."""
    await cell.fileserver.fssync("VOL_OFF", DEMO)
    with Planter(cell.database(), DEMO) as planter:
        orphan(planter)
        planter.sql("UPDATE entries SET checksum = X'00'")
    cell.database().with_suffix(".seal").unlink()
    await cell.fileserver.fssync("VOL_ON", DEMO)
    assert await cell.state() == ERROR
    *_, last = await cell.salvage(dry_run=True)
    assert (last.volume.state, last.changed) == (ERROR, False)
    *_, last = await cell.salvage()
    assert (last.volume.state, last.changed) == (ONLINE, True)
    client = await cell.client()
    assert len(await client.names(ROOT)) == 2


async def test_an_offline_volume_stays_offline(cell: Cell) -> None:
    """A salvage does not put on what an operator took off."""
    await cell.vos.offline("demo")
    *_, last = await cell.salvage()
    assert last.volume.state == OFFLINE
    with Planter(cell.database(), DEMO) as planter:
        orphan(planter)
    *_, last = await cell.salvage()
    assert (last.volume.state, last.changed) == (OFFLINE, True)


async def test_what_to_remove_is_said_in_the_request(cell: Cell) -> None:
    """Orphans, and files that lost data."""
    await cell.damage(orphan)
    chunk_files(cell.root / "vicepa")[0].unlink()
    *first, last = await cell.salvage(remove_orphans=True, remove_damaged=True)
    found = kinds([each.finding for each in first if each.HasField("finding")])
    assert {FindingKind.MISSING_CHUNK, FindingKind.ORPHAN} <= set(found)
    assert last.unrepaired == 0
    client = await cell.client()
    assert await client.names(ROOT) == []
    assert await cell.verify() == []


async def test_a_salvage_excludes_other_operations(cell: Cell) -> None:
    """R8: while another operation has the volume, a clear refusal; verifying goes on."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def run(operation: Operation) -> None:
        operation.claim([DEMO], "demo")
        begun.set()
        await go_on.wait()

    _, task = cell.vos.daemon.operations.start("backup", run)
    await begun.wait()
    with refused(AfsCode.VBUSY, "backup"):
        await cell.salvage()
    assert await cell.verify() == []
    go_on.set()
    await task


async def test_a_volume_the_fileserver_does_not_know_is_salvaged(cell: Cell) -> None:
    """On disk only: salvaged, it goes into service."""
    partition = Partition.open(cell.root / "vicepa", holder="test")
    partition.create_volume(volume_id=4000, name="found").close()
    partition.close()
    with Planter(cell.database(4000), 4000) as planter:
        planter.change_vnode(1, link_count=9)
    *_, last = await cell.salvage("4000")
    assert (last.volume.state, last.changed, last.unrepaired) == (ONLINE, True, 0)


async def test_a_lost_header_gets_its_name_from_the_location_database(cell: Cell) -> None:
    """The name that people know, though nothing of it is left on disk."""
    await cell.vos.offline("demo")
    with Planter(cell.database(), DEMO) as planter:
        planter.sql("DELETE FROM header")
    *_, last = await cell.salvage()
    assert (last.volume.name, last.volume.read_write_id) == ("demo", DEMO)
    assert last.changed


async def test_a_lost_header_of_what_lives_elsewhere_is_not_put_into_service(cell: Cell) -> None:
    """It may be half of a move: by the location database the volume is at another server."""
    await cell.vos.offline("demo")
    with Planter(cell.database(), DEMO) as planter:
        planter.sql("DELETE FROM header")
    locations = cell.vos.daemon.demand_salvage._services.locations
    [entry] = await locations.entries("", 0)
    await locations.replace(replace(entry, sites=(Site("a:1", "b:2", "vicepz"),)))
    with refused(AfsCode.EAGAIN, "lives elsewhere"):
        await cell.salvage(str(DEMO))


# --- by itself ------------------------------------------------------------------------------------


async def test_a_damaged_volume_is_salvaged_at_the_start(tmp_path: Path) -> None:
    """The fileserver finds it damaged, the volserver repairs it and puts it on."""
    async with fileserver(tmp_path, volumes=()), volserver(tmp_path) as vos:
        await vos.create("demo")
    (database,) = (tmp_path / "vicepa").glob("groups/*/*.db")
    flip_byte(database, 5000)
    async with fileserver(tmp_path, volumes=()) as files:
        assert (await files.fssync("VOL_QUERY", DEMO)).volume.state == ERROR
        async with volserver(tmp_path) as vos, asyncio.timeout(20):
            while (await vos.examine("demo")).volume.state != ONLINE:
                await asyncio.sleep(0.02)
            assert await Cell(files, vos, tmp_path).verify() == []


async def test_a_hopeless_volume_is_not_tried_for_ever(cell: Cell) -> None:
    """After SALVAGES_MAX tries it is left to an operator, until it was in service once more."""
    await cell.fileserver.fssync("VOL_OFF", DEMO)
    good = cell.database().read_bytes()
    with Planter(cell.database(), DEMO) as planter:
        header = planter.state().header
        planter.change_state(header=replace(header, volume_id=77))
    await cell.fileserver.fssync("VOL_ON", DEMO)
    demand = cell.vos.daemon.demand_salvage
    for _ in range(SALVAGES_MAX + 3):
        await demand.look()
    assert demand.tries[DEMO] == SALVAGES_MAX
    assert await cell.state() == ERROR
    cell.database().write_bytes(good)
    cell.database().with_suffix(".seal").unlink()
    *_, last = await cell.salvage()
    assert last.volume.state == ONLINE
    await demand.look()
    assert demand.tries == {}


async def test_a_sound_volume_in_the_error_state_is_left_there(cell: Cell) -> None:
    """An operator put it there; nothing is wrong with it."""
    await cell.fileserver.fssync("VOL_FORCE_ERROR", DEMO)
    await cell.vos.daemon.demand_salvage.look()
    assert await cell.state() == ERROR
    assert not cell.vos.daemon.demand_salvage.tries


# --- verify ---------------------------------------------------------------------------------------


async def test_a_sound_cell_has_nothing_wrong(cell: Cell) -> None:
    """Also with a backup, a clone and an offline volume, deep or not."""
    await cell.vos.backup()
    await cell.vos.create("other")
    await cell.vos.offline("other")
    assert await cell.verify() == []
    assert await cell.verify(deep=True) == []
    assert await cell.verify("demo", deep=True) == []
    with refused(AfsCode.VNOVOL):
        await cell.verify("nobody")


@pytest.mark.parametrize("deep", [False, True])
async def test_verify_finds_missing_and_damaged_chunks(cell: Cell, deep: bool) -> None:
    """Missing ones always, damaged ones when it reads them; the volume is in use."""
    first, second, _ = chunk_files(cell.root / "vicepa")
    first.unlink()
    flip_byte(second, 100)
    found = await cell.verify(deep=deep)
    assert sorted(kinds(found)) == ["damaged chunk", "missing chunk"][0 if deep else 1 :]
    assert {finding.partition for finding in found} == {"vicepa"}
    assert await cell.state() == ONLINE


async def test_verify_finds_stray_chunks(cell: Cell) -> None:
    """A chunk that nobody has."""
    stray = cell.database().parent / "chunks" / "ab" / ("ab" * 32)
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"leaked")
    [finding] = await cell.verify()
    assert (finding.kind, finding.subject) == ("stray chunk", "ab" * 32)


async def test_verify_finds_damaged_rows_and_headers(cell: Cell) -> None:
    """In databases that are served at this moment."""
    with Planter(cell.database(), DEMO) as planter:
        planter.sql("UPDATE vnodes SET mode = mode + 1 WHERE vnode > 1")
    assert kinds(await cell.verify()) == ["damaged database"]
    with Planter(cell.database(), DEMO) as planter:
        planter.sql("UPDATE header SET name = 'x'")
    assert "damaged header" in kinds(await cell.verify())


async def test_verify_finds_what_only_one_side_has(cell: Cell) -> None:
    """A volume that is not in the location database, and an entry without a volume."""
    partition = Partition.open(cell.root / "vicepa", holder="test")
    partition.create_volume(volume_id=4000, name="lonely").close()
    partition.close()
    services = cell.vos.daemon.demand_salvage._services
    site = services.site("vicepa")
    await services.locations.create(Entry("ghost", 5000, sites=(site,)))
    found = {(each.kind, each.volume_id) for each in await cell.verify()}
    assert found == {("not in location", 4000), ("not in service", 4000), ("not on disk", 5000)}
    assert {each.volume_id for each in await cell.verify("4000")} == {4000}


async def test_verify_finds_wrong_ids_names_and_types(cell: Cell) -> None:
    """A header that does not say what the file and the location database say."""
    await cell.vos.offline("demo")
    with Planter(cell.database(), DEMO) as planter:
        header = planter.state().header
        planter.change_state(header=replace(header, name="odd", type=VolumeType.BACKUP))
    assert sorted(kinds(await cell.verify())) == ["wrong name", "wrong type"]
    with Planter(cell.database(), DEMO) as planter:
        planter.change_state(header=replace(header, volume_id=77))
    assert "wrong id" in kinds(await cell.verify())


async def test_verify_finds_halves_and_temporary_clones(cell: Cell) -> None:
    """A mark of a move that nobody makes, and a clone that no operation uses."""
    await cell.vos.offline("demo")
    partition = Partition.open(cell.root / "vicepa", holder="test")
    volume = partition.open_volume(DEMO)
    do(volume, SetVolumeFields(in_transit=True))
    partition.clone_volume(
        volume, volume_id=FIRST_TEMPORARY_ID, name="demo", type=VolumeType.BACKUP
    )
    volume.close()
    partition.close()
    assert sorted(kinds(await cell.verify())) == ["half of a move", "temporary clone"]


async def test_verify_finds_two_copies_of_one_volume(tmp_path: Path) -> None:
    """On two partitions of one server; and here, though it lives at another server."""
    both = [tmp_path / "vicepa", tmp_path / "vicepb"]
    async with (
        fileserver(tmp_path, volumes=(), partitions=("vicepa", "vicepb")) as files,
        volserver(tmp_path, partitions=both) as vos,
    ):
        cell = Cell(files, vos, tmp_path)
        await vos.create("demo")
        await vos.offline("demo")
        group = cell.database().parent
        shutil.copytree(group, tmp_path / "vicepb" / "groups" / group.name)
        assert "in two places" in kinds(await cell.verify())
        shutil.rmtree(tmp_path / "vicepb" / "groups" / group.name)
        assert await cell.verify() == []
        locations = vos.daemon.demand_salvage._services.locations
        [entry] = await locations.entries("", 0)
        await locations.replace(replace(entry, sites=(Site("a:1", "b:2", "vicepa"),)))
        assert kinds(await cell.verify(str(DEMO))) == ["in two places"]


async def test_verify_finds_leftovers_and_stale_locks(cell: Cell) -> None:
    """A half-made database, and the lock of an operation that does not run."""
    shutil.copy(cell.database(), cell.database().with_name(f"{DEMO}.new-0123.db"))
    services = cell.vos.daemon.demand_salvage._services
    await services.locations.lock(DEMO, services.lock_text("backup"))
    assert sorted(kinds(await cell.verify())) == ["half-made volume", "stale lock"]


async def test_verify_changes_nothing(cell: Cell) -> None:
    """Planted damage is still there, byte for byte."""
    await cell.vos.offline("demo")
    with Planter(cell.database(), DEMO) as planter:
        orphan(planter)
        planter.name(ROOT, "nowhere", Fid(DEMO, 8000, 1), VnodeType.FILE)
    chunk_files(cell.root / "vicepa")[0].unlink()
    before = files(cell.root / "vicepa")
    assert len(await cell.verify(deep=True)) == 2
    assert files(cell.root / "vicepa") == before


def files(folder: Path) -> dict[Path, bytes]:
    """All files, without those that SQLite makes for whoever reads."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }
