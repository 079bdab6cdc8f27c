"""Incremental dumps through the VolServer door, and what dry runs say, with a real fileserver."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode
from afs.limits import KIB
from afs.types import Fid, root_fid
from afs.v1 import file_server_pb2 as file_pb
from afs.v1 import vol_server_pb2 as pb
from afs.wire import fid_from_wire, fid_to_wire
from tests.afsd.running import Client, fileserver
from tests.volserverd.running import RunningVolServer, refused, volserver
from tests.volserverd.test_vol_server import Cell
from volserverd.vldb.names import FIRST_VOLUME_ID

pytestmark = pytest.mark.blocking_ok

DEMO = FIRST_VOLUME_ID


@pytest.fixture
async def cell(tmp_path: Path) -> AsyncIterator[Cell]:
    """A fileserver without volumes and a volserver."""
    async with fileserver(tmp_path, volumes=()) as files, volserver(tmp_path) as vos:
        yield Cell(files, vos)


async def dump(vos: RunningVolServer, since: int, volume: str = "demo") -> bytes:
    """Dump of what changed after a change counter."""
    request = pb.DumpRequest(volume=volume, since=since)
    return b"".join(each.data for each in await vos.stream(vos.stub.Dump, request))


async def contents(client: Client, volume_id: int) -> dict[str, bytes]:
    """The files of a volume's root directory."""
    found: dict[str, bytes] = {}
    for name in await client.names(root_fid(volume_id)):
        request = file_pb.LookupRequest(directory=fid_to_wire(root_fid(volume_id)), name=name)
        answer: Any = await client.call(client.files.Lookup, request)
        found[name] = (await client.fetch(fid_from_wire(answer.status.fid)))[1]
    return found


async def write(client: Client, name: str, data: bytes, volume_id: int = DEMO) -> Fid:
    """A new file of the root directory."""
    fid = await client.create(name, root_fid(volume_id))
    await client.store(fid, data)
    return fid


def groups(root: Path) -> list[Path]:
    """The folders of volume groups on the partition."""
    return list((root / "vicepa" / "groups").iterdir())


async def test_an_incremental_dump_brings_another_volume_on(cell: Cell) -> None:
    """A full dump and an increment make a second volume the same as the first, deletions too."""
    await cell.vos.create("demo")
    client = await cell.client()
    await write(client, "kept", os.urandom(300 * KIB))
    await write(client, "gone", b"gone")
    full = await dump(cell.vos, 0)
    counter = (await cell.vos.examine("demo")).volume.change_counter
    await cell.vos.restore(full, "copy")
    copy_id = (await cell.vos.entry("copy")).read_write_id
    await write(client, "new", b"new" * 100)
    request = file_pb.RemoveFileRequest(directory=fid_to_wire(root_fid(DEMO)), name="gone")
    await client.call(client.files.RemoveFile, request)
    increment = await dump(cell.vos, counter)
    assert len(increment) < 0.05 * len(full)
    await cell.vos.restore(increment, "copy", overwrite=True)
    assert await contents(client, copy_id) == await contents(client, DEMO)
    # Once more: the volume goes on from the state that the last dump brought.
    counter = (await cell.vos.examine("demo")).volume.change_counter
    await write(client, "newer", b"newer")
    await cell.vos.restore(await dump(cell.vos, counter), "copy", overwrite=True)
    assert set(await contents(client, copy_id)) == {"kept", "new", "newer"}


async def test_an_increment_fits_only_over_its_base(cell: Cell) -> None:
    """Over a volume that has changed, another one, or none: refused, and nothing has changed."""
    await cell.vos.create("demo")
    client = await cell.client()
    await write(client, "one", b"1")
    full = await dump(cell.vos, 0)
    counter = (await cell.vos.examine("demo")).volume.change_counter
    await cell.vos.restore(full, "copy")
    copy_id = (await cell.vos.entry("copy")).read_write_id
    await write(client, "two", b"2")
    increment = await dump(cell.vos, counter)
    await write(client, "own", b"own", copy_id)
    await cell.vos.create("empty")
    for name, opening in (("copy", {"overwrite": True}), ("empty", {"overwrite": True}), ("n", {})):
        with refused(AfsCode.EINVAL, "the dump is incremental"):
            await cell.vos.restore(increment, name, **opening)
    assert set(await contents(client, copy_id)) == {"one", "own"}
    assert {entry.name for entry in await cell.vos.entries()} == {"demo", "copy", "empty"}
    with refused(AfsCode.EINVAL, "there is nothing since"):
        await dump(cell.vos, 10**6)


async def test_a_dry_run_of_restore_checks_the_dump_and_changes_nothing(
    cell: Cell, tmp_path: Path
) -> None:
    """What would be done, over a volume and as a new one; a bad dump is refused all the same."""
    await cell.vos.create("demo")
    client = await cell.client()
    await write(client, "file", os.urandom(200 * KIB))
    full = await dump(cell.vos, 0)
    await write(client, "later", b"later")
    before = await cell.vos.listed()
    plan = (await cell.vos.restore(full, "demo", overwrite=True, dry_run=True)).plan
    assert f"{len(full)} bytes, 2 vnodes, found good" in plan.steps[0]
    assert plan.clients_to_tell == 1
    assert plan.exclusive_s > 0
    plan = (await cell.vos.restore(full, "new", dry_run=True)).plan
    assert "create volume new on partition vicepa" in plan.steps[1]
    assert plan.clients_to_tell == 0
    with refused(AfsCode.EINVAL):
        await cell.vos.restore(full[:-1], "new", dry_run=True)
    with refused(AfsCode.VVOLEXISTS):
        await cell.vos.restore(full, "demo", dry_run=True)
    assert await cell.vos.listed() == before
    assert [entry.name for entry in await cell.vos.entries()] == ["demo"]
    assert [path.name for path in groups(tmp_path)] == [str(DEMO)]
    assert set(await contents(client, DEMO)) == {"file", "later"}
    assert client.breaks == []


async def test_a_failed_restore_leaves_no_folder(cell: Cell, tmp_path: Path) -> None:
    """A new volume whose dump is bad did not come to be: no entry, no group, no chunk."""
    await cell.vos.create("demo")
    await write(await cell.client(), "file", os.urandom(200 * KIB))
    full = await dump(cell.vos, 0)
    with refused(AfsCode.EINVAL):
        await cell.vos.restore(full[:-1], "new")
    assert [path.name for path in groups(tmp_path)] == [str(DEMO)]


async def test_a_dry_run_of_delete_says_what_would_go(cell: Cell) -> None:
    """The volumes, who would be told, and what becomes of the entry; nothing changes."""
    await cell.vos.create("demo")
    await cell.vos.backup("demo")
    client = await cell.client()
    await client.status(root_fid(DEMO))

    async def plan(volume: str) -> pb.DeleteResponse:
        request = pb.DeleteRequest(volume=volume, dry_run=True)
        answer: pb.DeleteResponse = await cell.vos.call(cell.vos.stub.Delete, request)
        return answer

    answer = await plan("demo")
    assert answer.volume_id == DEMO
    assert list(answer.plan.steps) == [
        f"delete volume demo.backup ({DEMO + 2}) on partition vicepa",
        f"delete volume demo ({DEMO}) on partition vicepa",
        "delete the location entry of demo",
    ]
    assert answer.plan.clients_to_tell == 1
    answer = await plan("demo.backup")
    assert "keep the location entry of demo" in answer.plan.steps[1]
    with refused(AfsCode.VNOVOL):
        await plan("nobody")
    assert len(await cell.vos.listed()) == 2
    assert client.breaks == []
