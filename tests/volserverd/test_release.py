"""Release with real fileservers: what sites show, what is sent, and who is told."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode
from afs.limits import KIB, MIB
from afs.types import BreakReason, Fid, root_fid
from afs.v1 import file_server_pb2, fssync_pb2, types_pb2, volume_location_pb2
from afs.v1 import vol_server_pb2 as pb
from afs.wire import fid_from_wire, fid_to_wire
from tests.afsd.running import Client, RunningFileServer, fileserver
from tests.volserverd.running import RunningVolServer, refused, volserver
from volserverd.vldb.names import FIRST_VOLUME_ID

pytestmark = pytest.mark.blocking_ok

DEMO = FIRST_VOLUME_ID
READ_ONLY = DEMO + 1
READ_ONLY_ROOT = root_fid(READ_ONLY)
ONLINE = fssync_pb2.VOLUME_STATE_ONLINE


class Server:
    """A fileserver and a volserver on two partitions; started and stopped by the test."""

    files: RunningFileServer
    vos: RunningVolServer

    def __init__(self, root: Path, location: str | None) -> None:
        self.root = root
        self._location = location
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Starts both, where they were before if they ran before."""
        settings: dict[str, Any] = {"partitions": [self.root / "vicepa", self.root / "vicepb"]}
        if self._location is not None:
            settings["location"] = self._location
        self.files = await self._stack.enter_async_context(
            fileserver(self.root, volumes=(), partitions=("vicepa", "vicepb"))
        )
        self.vos = await self._stack.enter_async_context(
            volserver(self.root, file_server=self.files.daemon.addresses[0], **settings)
        )

    async def stop(self) -> None:
        """Stops both."""
        await self._stack.aclose()

    @property
    def address(self) -> str:
        """Where its volserver is."""
        return self.vos.daemon.addresses[0]


class Servers:
    """Three servers; the volume demo on the first, with a read-only site on each."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers = servers
        self.vos = servers[0].vos

    async def write(self, files: dict[str, bytes]) -> None:
        """Writes files of the volume's root directory."""
        writer = await self.servers[0].files.client()
        for name, data in files.items():
            pieces = [data[at : at + MIB] for at in range(0, len(data), MIB)]
            await writer.store(await writer.create(name, root_fid(DEMO)), *pieces)

    async def seen(self, server: Server) -> dict[str, bytes]:
        """What a client reads of the read-only volume at a server."""
        client = await server.files.client()
        names = await client.names(root_fid(READ_ONLY))
        return {name: (await client.fetch(await find(client, name)))[1] for name in names}

    async def releases(self) -> list[int]:
        """What the entry says that the read-only sites show, in their order."""
        sites = (await self.vos.entry()).sites
        return [site.release for site in sites if site.type == types_pb2.VOLUME_TYPE_READ_ONLY]


async def find(client: Client, name: str, directory: Fid = READ_ONLY_ROOT) -> Fid:
    """The Fid of a name."""
    request = file_server_pb2.LookupRequest(directory=fid_to_wire(directory), name=name)
    return fid_from_wire((await client.call(client.files.Lookup, request)).status.fid)


async def release(
    vos: RunningVolServer, *, wait: bool = False, dry_run: bool = False, volume: str = "demo"
) -> list[pb.ReleaseResponse]:
    """Release: all messages."""
    request = pb.ReleaseRequest(volume=volume, wait=wait, dry_run=dry_run)
    return await vos.stream(vos.stub.Release, request)


def outcomes(messages: Sequence[pb.ReleaseResponse]) -> list[bool]:
    """Which sites were released, in the entry's order."""
    return [site.released for site in messages[-1].sites]


@pytest.fixture
async def cell(tmp_path: Path) -> AsyncIterator[Servers]:
    """Three servers, running."""
    async with AsyncExitStack() as stack:
        servers: list[Server] = []
        for name in ("one", "two", "three"):
            location = servers[0].vos.daemon.location_addresses[0] if servers else None
            (tmp_path / name).mkdir()
            (tmp_path / name / "vicepb").mkdir()
            server = Server(tmp_path / name, location)
            await server.start()
            stack.push_async_callback(server.stop)
            servers.append(server)
        cell = Servers(servers)
        await cell.vos.create("demo", partition="vicepa")
        for server, partition in zip(servers, ("vicepa", "vicepa", "vicepb"), strict=True):
            request = pb.AddSiteRequest(volume="demo", server=server.address, partition=partition)
            await cell.vos.call(cell.vos.stub.AddSite, request)
        yield cell


async def test_every_site_shows_the_released_state(cell: Servers) -> None:
    """First release and the next: same contents, identity and number everywhere; none before."""
    await cell.write({"small": b"one", "large": os.urandom(3 * MIB)})
    for server in cell.servers:
        client = await server.files.client()
        with refused(AfsCode.VNOVOL):
            await client.names(root_fid(READ_ONLY))
    first = await release(cell.vos)
    assert outcomes(first) == [True, True, True]
    assert any(message.progress.unit == "bytes" for message in first)
    entry = await cell.vos.entry()
    counter = first[-1].volume.change_counter
    assert (entry.read_only_id, entry.locked_for) == (READ_ONLY, "")
    assert await cell.releases() == [counter] * 3
    seen = [await cell.seen(server) for server in cell.servers]
    assert seen[0] == seen[1] == seen[2]
    assert set(seen[0]) == {"small", "large"}
    # What is written afterwards is not there before it is released.
    await cell.write({"later": b"two"})
    assert [await cell.seen(server) for server in cell.servers] == seen
    second = await release(cell.vos)
    assert outcomes(second) == [True, True, True]
    for server in cell.servers:
        assert set(await cell.seen(server)) == {"small", "large", "later"}
        detail = (await server.vos.examine("demo.readonly")).volume
        volume = second[-1].volume
        assert (detail.incarnation, detail.change_counter) == (
            volume.incarnation,
            volume.change_counter,
        )
        assert (detail.type, detail.state) == (types_pb2.VOLUME_TYPE_READ_ONLY, ONLINE)
        assert (detail.name, detail.read_write_id) == ("demo.readonly", DEMO)
    assert await cell.releases() == [second[-1].volume.change_counter] * 3


async def test_only_what_changed_is_sent(cell: Servers) -> None:
    """Incremental: 1 % of the data changed, under 5 % of the bytes sent, and that to each site."""
    await cell.write({f"file-{number}": os.urandom(256 * KIB) for number in range(32)})
    first = (await release(cell.vos))[-1].sites
    assert all(site.sent.bytes >= 8 * MIB for site in first[1:])
    assert first[0].sent.bytes == 0, "the site beside the volume shares its data"
    writer = await cell.servers[0].files.client()
    changed = await find(writer, "file-3", root_fid(DEMO))
    await writer.store(changed, os.urandom(80 * KIB))
    second = (await release(cell.vos))[-1].sites
    assert [site.released for site in second] == [True, True, True]
    for before, after in zip(first[1:], second[1:], strict=True):
        assert 0 < after.sent.bytes < 0.05 * before.sent.bytes
        assert after.sent.vnodes < 5


async def test_nothing_is_done_when_nothing_changed(cell: Servers) -> None:
    """All sites show the present state: no volume is taken, nothing is sent, and it says so."""
    await cell.write({"file": b"data"})
    await release(cell.vos)
    watcher = await cell.servers[1].files.client()
    await watcher.status(root_fid(READ_ONLY))
    before = (await cell.vos.entry()).sites
    last = (await release(cell.vos))[-1]
    assert [site.released for site in last.sites] == [True, True, True]
    assert [site.sent.bytes for site in last.sites] == [0, 0, 0]
    assert (await cell.vos.entry()).sites == before
    plan = (await release(cell.vos, dry_run=True))[-1].plan
    assert plan.steps == ["nothing: all sites show the present state"]
    assert watcher.breaks == []


async def test_readers_of_every_site_are_told(cell: Servers) -> None:
    """T22: who holds a promise on the read-only volume hears VOLUME_RELEASED, and reads the new."""
    await cell.write({"file": b"old"})
    await release(cell.vos)
    readers = [await server.files.client() for server in cell.servers]
    for reader in readers:
        assert (await reader.fetch(await find(reader, "file")))[1] == b"old"
    writer = await cell.servers[0].files.client()
    await writer.store(await find(writer, "file", root_fid(DEMO)), b"new")
    await release(cell.vos)
    for reader in readers:
        told = await reader.broken((READ_ONLY, 0, 0))
        assert told.reason == BreakReason.VOLUME_RELEASED
        assert (await reader.fetch(await find(reader, "file")))[1] == b"new"


async def test_a_site_that_fails_is_told_of_and_repaired_by_the_next_release(
    cell: Servers,
) -> None:
    """The dead site keeps its old number, so no client is sent there; the next release heals it."""
    await cell.write({"one": b"1"})
    await release(cell.vos)
    old = (await cell.releases())[0]
    dead = cell.servers[1]
    await dead.stop()
    await cell.write({"two": b"2"})
    messages = await release(cell.vos)
    assert outcomes(messages) == [True, False, True]
    assert messages[-1].sites[1].detail
    new = messages[-1].volume.change_counter
    assert await cell.releases() == [new, old, new]
    assert (await cell.vos.entry()).locked_for == ""
    await dead.start()
    await dead.vos.create("ready")
    assert set(await cell.seen(dead)) == {"one"}
    # Nothing changed, but a site lacks the state.
    messages = await release(cell.vos)
    assert outcomes(messages) == [True, True, True]
    assert [site.sent.bytes > 0 for site in messages[-1].sites] == [False, True, False]
    assert await cell.releases() == [new] * 3
    assert set(await cell.seen(dead)) == {"one", "two"}


async def test_a_number_from_another_life_sends_nobody_to_old_data(cell: Servers) -> None:
    """A volume that counts anew after a salvage: a site that fails does not look newest."""
    await cell.write({"one": b"1"})
    await release(cell.vos)
    entry = await cell.vos.entry()
    for site in entry.sites[1:]:
        site.release = 10**6
    request = volume_location_pb2.ReplaceEntryRequest(entry=entry)
    await cell.vos.call(cell.vos.location_stub.ReplaceEntry, request)
    await cell.servers[1].stop()
    messages = await release(cell.vos)
    assert outcomes(messages) == [True, False, True]
    new = messages[-1].volume.change_counter
    assert await cell.releases() == [new, 0, new]


async def test_without_any_site_in_reach_the_release_fails(cell: Servers) -> None:
    """One clear line that names each site; the entry is as it was, the volume in service."""
    await cell.vos.call(cell.vos.stub.RemoveSite, pb.RemoveSiteRequest(volume="demo", server=""))
    for server in cell.servers[1:]:
        await server.stop()
    before = (await cell.vos.entry()).sites
    with refused(AfsCode.RX_CALL_DEAD, "no site can be reached"):
        await release(cell.vos)
    entry = await cell.vos.entry()
    assert (entry.sites, entry.locked_for, entry.read_only_id) == (before, "", 0)
    assert (await cell.vos.examine("demo")).volume.state == ONLINE


async def test_what_cannot_be_released_is_refused(cell: Servers) -> None:
    """A volume without sites, a read-only volume, and one that another volserver has."""
    await cell.vos.create("plain")
    with refused(AfsCode.EINVAL, "no read-only sites"):
        await release(cell.vos, volume="plain")
    await release(cell.vos)
    with refused(AfsCode.EROFS, "not read-write"):
        await release(cell.vos, volume="demo.readonly")
    with refused(AfsCode.VMOVED):
        await release(cell.servers[1].vos, volume="demo")


async def test_a_dry_run_says_what_would_be_sent(cell: Servers) -> None:
    """Bytes, clients and sites are those of the release that follows; nothing changes before."""
    await cell.write({f"file-{number}": os.urandom(200 * KIB) for number in range(5)})
    plan = (await release(cell.vos, dry_run=True))[-1].plan
    assert [await server.vos.listed() for server in cell.servers[1:]] == [[], []]
    assert (await cell.vos.entry()).read_only_id == 0
    sites = (await release(cell.vos))[-1].sites
    assert plan.bytes_to_send == sum(site.sent.bytes for site in sites)
    assert plan.chunks_to_send == sum(site.sent.chunks for site in sites) == 10
    assert plan.clients_to_tell == 0
    reader = await cell.servers[2].files.client()
    await reader.status(root_fid(READ_ONLY))
    await cell.write({"more": b"more"})
    plan = (await release(cell.vos, dry_run=True))[-1].plan
    assert plan.clients_to_tell == 1
    assert sum("changed vnodes only" in step for step in plan.steps) == 2
    assert reader.breaks == []


async def test_waiting_ends_when_everybody_was_told(cell: Servers) -> None:
    """`wait` lists the client that says nothing, and ends when it has acknowledged."""
    await cell.write({"file": b"old"})
    await release(cell.vos)
    silent = await cell.servers[2].files.client()
    await silent.status(root_fid(READ_ONLY))
    silent.acks = False
    await cell.write({"other": b"new"})
    request = pb.ReleaseRequest(volume="demo", wait=True)
    call = cell.vos.stub.Release(request, timeout=60)
    lists: list[list[str]] = []
    last = None
    async for message in call:
        last = message
        if message.not_told:
            lists.append([client.host_uuid for client in message.not_told])
            for told in silent.breaks:
                await silent.ack(told.sequence)
    assert lists
    assert lists[0] == [silent.uuid]
    assert last is not None
    assert not last.not_told
    assert [site.released for site in last.sites] == [True, True, True]


async def test_waiting_for_nobody_ends_at_once(cell: Servers) -> None:
    """Nobody held a promise: the call ends with the outcome."""
    await cell.write({"file": b"data"})
    messages = await release(cell.vos, wait=True)
    assert outcomes(messages) == [True, True, True]
    assert [message.not_told for message in messages if message.not_told] == []


async def test_a_damaged_copy_is_replaced(cell: Servers) -> None:
    """A site whose copy the fileserver holds for damaged is sent all of it, and serves again."""
    await cell.write({"file": b"data" * 10000})
    await release(cell.vos)
    server = cell.servers[1]
    await server.files.fssync("VOL_FORCE_ERROR", READ_ONLY)
    await cell.write({"more": b"more"})
    messages = await release(cell.vos)
    assert outcomes(messages) == [True, True, True]
    assert set(await cell.seen(server)) == {"file", "more"}


async def test_releases_exclude_each_other(cell: Servers) -> None:
    """R8: a second release of a volume is refused with what the first is doing."""
    await cell.write({"file": os.urandom(8 * MIB)})
    tasks = [asyncio.create_task(release(cell.vos)) for _ in range(2)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    failed = [result for result in results if isinstance(result, BaseException)]
    assert len(failed) == 1
    assert getattr(failed[0], "code", None) is AfsCode.VBUSY
    assert "release" in str(failed[0])


async def test_a_volume_that_moved_is_released_from_its_new_place(cell: Servers) -> None:
    """The identity goes along: after a move the next release sends only what changed."""
    await cell.write({f"file-{number}": os.urandom(256 * KIB) for number in range(16)})
    await release(cell.vos)
    request = pb.MoveRequest(
        volume="demo", to_server=cell.servers[1].address, to_partition="vicepb"
    )
    await cell.vos.stream(cell.vos.stub.Move, request)
    writer = await cell.servers[1].files.client()
    await writer.store(await writer.create("new", root_fid(DEMO)), b"new")
    messages = await release(cell.servers[1].vos)
    assert outcomes(messages) == [True, True, True]
    assert all(site.sent.bytes < 64 * KIB for site in messages[-1].sites)
    for server in cell.servers:
        assert "new" in await cell.seen(server)
