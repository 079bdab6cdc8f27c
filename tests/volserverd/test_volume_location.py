"""VolumeLocation over gRPC: for clients, and for volservers that use another's database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode
from afs.v1 import types_pb2, vol_server_pb2, volume_location_pb2
from tests.volserverd.fake_fssync import ONLINE, fake_fileserver
from tests.volserverd.running import RunningVolServer, refused, volserver
from volserverd.vldb.names import FIRST_VOLUME_ID

pytestmark = pytest.mark.blocking_ok

SITE = vol_server_pb2.Site(
    file_server="127.0.0.1:7000",
    vol_server="127.0.0.1:7005",
    partition="vicepa",
    type=types_pb2.VOLUME_TYPE_READ_WRITE,
)


@pytest.fixture
async def vos(tmp_path: Path) -> AsyncIterator[RunningVolServer]:
    """A volserver without a fileserver: the location database needs none."""
    async with volserver(tmp_path) as running:
        yield running


async def ask(vos: RunningVolServer, method: str, **fields: Any) -> Any:
    """One call of VolumeLocation."""
    request = getattr(volume_location_pb2, f"{method}Request")(**fields)
    return await vos.call(getattr(vos.location_stub, method), request)


async def test_entries_live_through_all_methods(vos: RunningVolServer) -> None:
    """Create, get, list, lock, replace, unlock, delete, as a client sees them."""
    new = vol_server_pb2.VolumeEntry(name="demo", sites=[SITE])
    entry = (await ask(vos, "CreateEntry", entry=new)).entry
    assert (entry.read_write_id, entry.version) == (FIRST_VOLUME_ID, 1)
    for by in ({"name": "demo"}, {"name": "demo.backup"}, {"volume_id": entry.read_write_id}):
        assert (await ask(vos, "GetEntry", **by)).entry == entry
    assert list((await ask(vos, "ListEntries")).entries) == [entry]
    locked = (await ask(vos, "Lock", read_write_id=entry.read_write_id, operation="move")).entry
    with refused(AfsCode.VBUSY, "move"):
        await ask(vos, "Lock", read_write_id=entry.read_write_id, operation="backup")
    with refused(AfsCode.EAGAIN, "version"):
        await ask(vos, "ReplaceEntry", entry=entry)
    locked.name = "renamed"
    assert (await ask(vos, "ReplaceEntry", entry=locked)).entry.locked_for == "move"
    with refused(AfsCode.VBUSY, "move"):
        await ask(vos, "DeleteEntry", read_write_id=entry.read_write_id)
    await ask(vos, "Unlock", read_write_id=entry.read_write_id)
    await ask(vos, "DeleteEntry", read_write_id=entry.read_write_id)
    with refused(AfsCode.VNOVOL):
        await ask(vos, "GetEntry", name="renamed")


@pytest.mark.parametrize(
    "by", [{}, {"volume_id": 0}, {"name": ""}, {"name": "a/b"}], ids=["none", "0", "empty", "slash"]
)
async def test_a_request_for_nothing_is_refused(vos: RunningVolServer, by: dict[str, Any]) -> None:
    """GetEntry without a volume, or with what names none, is EINVAL."""
    with refused(AfsCode.EINVAL):
        await ask(vos, "GetEntry", **by)


async def test_a_volserver_can_use_the_database_of_another(tmp_path: Path) -> None:
    """Two volservers, one database: ids are not given twice, and each works on its own volumes."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    async with fake_fileserver(one), fake_fileserver(two) as second, volserver(one) as first:
        location = first.daemon.location_addresses[0]
        async with volserver(two, location=location) as vos:
            assert vos.daemon.location_addresses == []
            await first.create("here")
            created = await vos.create("there")
            assert created.volume_id == FIRST_VOLUME_ID + 3
            await vos.backup("there")
            assert {entry.name for entry in await first.entries()} == {"here", "there"}
            with refused(AfsCode.VVOLEXISTS):
                await vos.create("here")
            with refused(AfsCode.VMOVED, first.daemon.addresses[0]):
                await vos.backup("here")
            with refused(AfsCode.VNOVOL):
                await vos.examine("nowhere")
            await first.daemon.stop()
            with refused(AfsCode.RX_CALL_DEAD):
                await vos.create("later")
            assert second.state(created.volume_id) == ONLINE


async def test_entries_follow_a_change_of_addresses(tmp_path: Path) -> None:
    """A volserver that is started at other addresses corrects the entries of its volumes."""
    async with fake_fileserver(tmp_path):
        async with volserver(tmp_path) as vos:
            await vos.create("demo")
            await ask(vos, "CreateEntry", entry=vol_server_pb2.VolumeEntry(name="x", sites=[SITE]))
        async with volserver(tmp_path, file_server="10.0.0.1:7000", vol_server="a:1") as vos:
            await vos.create("later")
            (site,) = (await vos.entry("demo")).sites
            assert (site.file_server, site.vol_server) == ("10.0.0.1:7000", "a:1")
            assert list((await vos.entry("x")).sites) == [SITE], "not on our disk: not ours"
