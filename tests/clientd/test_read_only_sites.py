"""Read-only volumes: which site is asked, what a release changes, and sites that go away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import MIB
from afs.types import Fid, whole_volume_fid
from afs.v1 import cache_manager_pb2 as pb
from afs.v1 import types_pb2, vol_server_pb2
from tests.clientd.fake_fileserver import VOLUME, fake_fileserver
from tests.clientd.local_program import CACHE, REVALIDATED, LocalProgram, running_client
from tests.clientd.several_servers import Servers, clients, fake_location, several_servers

READ_ONLY = "/home.readonly"


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """Three fileservers, the first with the volume `home`."""
    async with several_servers(tmp_path, 3) as running:
        await running.create("home")
        yield running


@pytest.fixture
async def program(servers: Servers, tmp_path: Path) -> AsyncIterator[LocalProgram]:
    """A program with a client; `home` has the files f0 to f4, released to servers 1 and 2."""
    async with clients(tmp_path, servers) as (program,):
        for number in range(5):
            await program.write(f"/home/f{number}", b"%d" % number * 5000)
        await servers.release("home", 0, 1, 2)
        await program.stub.CheckVolumes(pb.CheckVolumesRequest())
        yield program


async def in_use(program: LocalProgram) -> str:
    """The fileserver that the client asks about the read-only volume."""
    return (await program.stat(READ_ONLY)).volume.in_use


async def test_read_only_volume_is_read_and_not_written(
    servers: Servers, program: LocalProgram
) -> None:
    """From one of its sites, and EROFS."""
    assert (await program.read(f"{READ_ONLY}/f1")).data == b"1" * 5000
    volume = (await program.stat(READ_ONLY)).volume
    assert (volume.name, volume.type) == ("home.readonly", types_pb2.VOLUME_TYPE_READ_ONLY)
    assert set(volume.file_servers) == {servers.address(1), servers.address(2)}
    assert volume.in_use in volume.file_servers
    with pytest.raises(AfsError) as caught:
        await program.write(f"{READ_ONLY}/new", b"x")
    assert caught.value.code is AfsCode.EROFS


async def test_after_a_release_only_what_changed_is_fetched(
    servers: Servers, program: LocalProgram
) -> None:
    """T22: every reader of the old state sees the new one, for a status a file."""
    for number in range(5):
        await program.read(f"{READ_ONLY}/f{number}")
    await program.until_leased()
    assert (await program.read(f"{READ_ONLY}/f1")).source == CACHE
    await program.write("/home/f1", b"new" * 5000)
    before = await program.counters()
    await servers.release("home", 0, 1, 2)
    journal = program.client.services.journal
    await program.until(lambda: journal.counters()["breaks_received"] > before["breaks_received"])
    for number in range(5):
        answer = await program.read(f"{READ_ONLY}/f{number}")
        if number == 1:
            assert answer.data == b"new" * 5000
        else:
            assert answer.data == b"%d" % number * 5000
            assert answer.source in (REVALIDATED, CACHE)
    after = await program.counters()
    assert after["bytes_fetched"] - before["bytes_fetched"] == 15000


async def test_break_of_a_release_ends_all_promises_on_the_volume(
    servers: Servers, program: LocalProgram
) -> None:
    """T23: the promises are for the whole volume, and end together."""
    await program.read(f"{READ_ONLY}/f0")
    await program.read(f"{READ_ONLY}/f1")
    await program.until_leased()
    await program.write("/home/f1", b"new")
    watch = program.stub.Watch(pb.CacheWatchRequest())
    await watch.initial_metadata()
    await servers.release("home", 0, 1, 2)
    async with asyncio.timeout(20):
        async for event in watch:
            if event.event == "callbacks.broken":
                break
    watch.cancel()
    assert event.reason == types_pb2.BREAK_REASON_VOLUME_RELEASED
    volume = servers.entry("home").read_only_id
    (target,) = event.fids
    assert Fid(target.volume, target.vnode, target.uniquifier) == whole_volume_fid(volume)


async def test_site_that_went_away_is_replaced_by_another(
    servers: Servers, program: LocalProgram
) -> None:
    """Reads go on from the other site; what is cached is revalidated there."""
    # Backwards, so that nothing comes along.
    for number in (2, 1, 0):
        await program.read(f"{READ_ONLY}/f{number}")
    await program.until_leased()
    gone = await in_use(program)
    index = 1 if gone == servers.address(1) else 2
    await servers.running[index].daemon.stop()
    journal = program.client.services.journal
    await program.until(lambda: journal.counters()["channels_lost"] > 0)
    before = await program.counters()
    for number in range(5):
        answer = await program.read(f"{READ_ONLY}/f{number}")
        assert answer.data == b"%d" % number * 5000
        if number < 3:
            assert answer.source in (REVALIDATED, CACHE)
    after = await program.counters()
    assert after["bytes_fetched"] - before["bytes_fetched"] == 2 * 5000
    assert await in_use(program) == servers.address(3 - index)


async def test_read_under_way_goes_on_at_another_site(
    servers: Servers, program: LocalProgram
) -> None:
    """The same DataVersion has the same bytes at every site."""
    block = os.urandom(MIB)
    await program.write("/home/big", [block] * 64)
    await servers.release("home", 0, 1, 2)
    await program.stub.CheckVolumes(pb.CheckVolumesRequest())
    gone = await in_use(program)
    got = bytearray()
    async for response in program.stub.Read(pb.ReadRequest(path=f"{READ_ONLY}/big")):
        got += response.data
        if len(got) == 2 * MIB:
            await servers.running[1 if gone == servers.address(1) else 2].daemon.stop()
    assert bytes(got) == block * 64
    assert await in_use(program) != gone


async def test_damaged_copy_is_read_elsewhere(servers: Servers, program: LocalProgram) -> None:
    """DATA_LOSS at one site is no loss while another has the data."""
    block = os.urandom(MIB)
    await program.write("/home/big", [block] * 3)
    await servers.release("home", 0, 1, 2)
    await program.stub.CheckVolumes(pb.CheckVolumesRequest())
    used = await in_use(program)
    index = 1 if used == servers.address(1) else 2
    chunks = servers.folders[index] / "vicepa" / "groups" / str(servers.entry("home").read_write_id)
    for chunk in (chunks / "chunks").rglob("*"):
        if chunk.is_file():
            chunk.chmod(0o600)
            chunk.write_bytes(bytes(chunk.stat().st_size))
    assert (await program.read(f"{READ_ONLY}/big")).data == block * 3
    assert await in_use(program) != used


async def test_all_sites_gone_is_an_error(servers: Servers, program: LocalProgram) -> None:
    """After patience has run out; here the volume is off-line at both."""
    await program.read(f"{READ_ONLY}/f0")
    volume = servers.entry("home").read_only_id
    for index in (1, 2):
        await servers.running[index].fssync("VOL_FORCE_ERROR", volume)
    with pytest.raises(AfsError) as caught:
        await program.read(f"{READ_ONLY}/f4")
    assert caught.value.code is AfsCode.VSALVAGE


async def test_site_that_a_release_did_not_reach_is_left(servers: Servers, tmp_path: Path) -> None:
    """As soon as the entry says so, although nobody broke a promise there."""
    async with clients(tmp_path, servers) as (writer,):
        await writer.write("/home/f", b"old")
        await servers.release("home", 0, 1, 2)
        async with clients(servers.folders[0], servers) as (reader,):
            assert (await reader.read(f"{READ_ONLY}/f")).data == b"old"
            used = await in_use(reader)
            reached = 2 if used == servers.address(1) else 1
            await writer.write("/home/f", b"new")
            await servers.release("home", 0, reached)
            # By itself the client looks at the entry after RELEASED_LIFETIME_S.
            await reader.stub.CheckVolumes(pb.CheckVolumesRequest())
            answer = await reader.read(f"{READ_ONLY}/f")
            assert answer.data == b"new"
            assert (await reader.stat(READ_ONLY)).volume.file_servers == [servers.address(reached)]


async def test_late_reply_of_a_site_that_was_left_brings_no_promise(tmp_path: Path) -> None:
    """It answers who asked, and nobody else: the two may show different states."""
    async with fake_location() as location, fake_fileserver() as left, fake_fileserver() as used:
        fids = [[site.add(name, b"x") for name in ("f", "g")] for site in (left, used)]
        assert fids[0] == fids[1]
        sites = [
            vol_server_pb2.Site(file_server=site.address, type=types_pb2.VOLUME_TYPE_READ_WRITE)
            for site in (left, used)
        ]
        location.entries["home"] = vol_server_pb2.VolumeEntry(
            name="home", read_write_id=VOLUME, sites=sites[:1]
        )
        async with running_client(tmp_path, location.address) as program:
            await program.list("/home")
            await program.until_leased()
            gate = left.hold("FetchStatus")
            asking = asyncio.create_task(program.stat("/home/f"))
            await gate.reached.wait()
            location.entries["home"].sites[0].CopyFrom(sites[1])
            await program.stub.CheckVolumes(pb.CheckVolumesRequest())
            await program.stat("/home/g")
            gate.opened.set()
            await asking
            before = used.calls["FetchStatus"]
            await program.stat("/home/f")
            assert used.calls["FetchStatus"] == before + 1
            assert left.calls["FetchStatus"] == 2


async def test_hosts_share_the_sites(servers: Servers, program: LocalProgram) -> None:
    """Each host has its own order of preference, which does not change."""
    services = program.client.services
    preferred = min((servers.address(1), servers.address(2)), key=services.servers.rank)
    assert await in_use(program) in ("", preferred)
    await program.read(f"{READ_ONLY}/f0")
    assert await in_use(program) == preferred
