"""What people see of the client and do to it: status, dump, flush, watch, check."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode, AfsError
from afs.types import BreakReason, whole_volume_fid
from afs.v1 import cache_manager_pb2 as pb
from afs.v1 import types_pb2
from clientd.app import Clientd
from tests.clientd.fake_fileserver import VOLUME, FakeFileServer
from tests.clientd.local_program import CACHE, LocalProgram, client_config, running_client


async def test_status_tells_what_is_cached(server: FakeFileServer, program: LocalProgram) -> None:
    """Sizes, promises, counters and channels."""
    server.add("f", b"x" * 5000)
    await program.read("/home/f")
    await program.until_leased()
    await program.read("/home/f")
    status = await program.status()
    assert server.hosts == {status.host_uuid}
    assert (status.cache_bytes, status.cached_files, status.promises) == (8192, 1, 2)
    assert status.cache_limit_bytes == program.client.services.disk.limit_bytes
    assert (status.counters["cache_hits"], status.counters["cache_misses"]) == (1, 1)
    (channel,) = status.servers
    assert (channel.address, channel.channel, channel.epoch) == (server.address, "attached", 7)
    assert 0 < channel.lease_remaining_s <= 10


async def test_dump_tells_every_vnode(server: FakeFileServer, program: LocalProgram) -> None:
    """With its promise, its cached bytes, and why the last promise was broken."""
    fid = server.add("f", b"x" * 5000)
    await program.read("/home/f")
    await program.until_leased()
    await server.break_and_wait([fid], BreakReason.STATUS_CHANGED)
    vnodes = [
        vnode
        async for message in program.stub.DumpCache(pb.DumpCacheRequest())
        for vnode in message.vnodes
    ]
    file, directory = sorted(vnodes, key=lambda vnode: vnode.cached_bytes, reverse=True)
    assert (file.cached_bytes, file.promised) == (5000, False)
    assert file.broken_for == types_pb2.BREAK_REASON_STATUS_CHANGED
    assert directory.promised
    assert 0 < directory.expires_in_s <= 3600


async def test_flush_forgets(server: FakeFileServer, program: LocalProgram) -> None:
    """What was flushed is fetched again, of one volume or all."""
    server.add("f", b"x")
    await program.read("/home/f")
    flushed = await program.stub.FlushVolume(pb.FlushVolumeRequest(volume="home"))
    assert flushed.flushed == 2
    assert (await program.status()).cache_bytes == 0
    await program.read("/home/f")
    assert (await program.stub.Flush(pb.FlushRequest(path="/home/f"))).flushed == 1
    assert (await program.status()).cache_bytes == 0
    await program.read("/home/f")
    assert (await program.stub.FlushAll(pb.FlushAllRequest())).flushed == 2
    await program.read("/home/f")
    assert server.calls["FetchData"] == 4
    with pytest.raises(AfsError) as caught:
        await program.call(program.stub.FlushVolume(pb.FlushVolumeRequest(volume="none")))
    assert caught.value.code is AfsCode.VNOVOL


async def test_watch_tells_what_happens(server: FakeFileServer, program: LocalProgram) -> None:
    """Breaks and channel changes, live, from the moment the call's metadata came."""
    fid = server.add("f", b"x")
    await program.read("/home/f")
    await program.until_leased()
    watching = program.stub.Watch(pb.CacheWatchRequest())
    await watching.initial_metadata()
    await server.break_and_wait([fid, whole_volume_fid(VOLUME)], BreakReason.DATA_CHANGED)
    event = await next_event(watching, "callbacks.broken")
    assert [each.vnode for each in event.fids] == [fid.vnode, 0]
    assert (event.count, event.reason) == (2, types_pb2.BREAK_REASON_DATA_CHANGED)
    assert event.server == server.address
    assert event.time_ns > 0
    server.close_channels()
    await next_event(watching, "channel.lost")
    await next_event(watching, "callbacks.reset")
    await next_event(watching, "channel.attached")
    await program.read("/home/f")
    await next_event(watching, "status.fetched")
    watching.cancel()


async def next_event(watching: Any, name: str) -> pb.CacheWatchResponse:
    """The next event of that name."""
    async with asyncio.timeout(10):
        while True:
            event: pb.CacheWatchResponse = await watching.read()
            if event.event == name:
                return event


async def test_check_servers_asks_them(server: FakeFileServer, program: LocalProgram) -> None:
    """Each is asked for a sign of life; one that does not answer is no error."""
    await program.list("/home")
    await program.until_leased()
    answer = await program.stub.CheckServers(pb.CheckServersRequest())
    assert [each.channel for each in answer.servers] == ["attached"]
    assert server.calls["GetTime"] == 1
    await server.stop()
    answer = await program.stub.CheckServers(pb.CheckServersRequest())
    assert [each.channel for each in answer.servers] == ["detached"]
    await server.start(server.address)


async def test_mount_point_must_be_an_absolute_path(program: LocalProgram) -> None:
    """The client's own working directory is nobody's business; without a mount none is removed."""
    for call in (
        program.stub.Mount(pb.MountRequest(mount_point="mnt")),
        program.stub.Unmount(pb.UnmountRequest()),
    ):
        with pytest.raises(AfsError) as caught:
            await program.call(call)
        assert caught.value.code is AfsCode.EINVAL


async def test_cache_and_uuid_survive_a_restart(server: FakeFileServer, tmp_path: Path) -> None:
    """The next process is the same host, and revalidates instead of fetching."""
    server.add("f", b"content")
    async with running_client(tmp_path, server.address) as program:
        await program.read("/home/f")
        uuid = (await program.status()).host_uuid
    assert server.calls["GiveUpAllCallBacks"] == 1
    async with running_client(tmp_path, server.address) as program:
        answer = await program.read("/home/f")
        assert answer.data == b"content"
        assert (await program.status()).host_uuid == uuid
        await program.until_leased()
        assert (await program.read("/home/f")).source == CACHE
    assert server.calls["FetchData"] == 1


async def test_another_volume_of_the_same_id_is_not_mistaken(
    server: FakeFileServer, tmp_path: Path
) -> None:
    """Same Fid, same DataVersion, other data: a cell set up anew, or a cache used in two cells."""
    fid = server.add("f", b"this cell")
    async with running_client(tmp_path, server.address) as program:
        await program.read("/home/f")
        server.nodes[fid].data = b"that cell"
        server.incarnation = "second"
        await server.restart()
        assert (await program.read("/home/f")).data == b"that cell"
    server.nodes[fid].data = b"THIS cell"
    server.incarnation = "third"
    async with running_client(tmp_path, server.address) as program:
        assert (await program.read("/home/f")).data == b"THIS cell"


async def test_damaged_host_uuid_is_replaced(server: FakeFileServer, tmp_path: Path) -> None:
    """Garbage in the file makes a new host, not a client that does not start."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "host_uuid").write_text("garbage")
    async with running_client(tmp_path, server.address) as program:
        uuid = (await program.status()).host_uuid
    assert (tmp_path / "cache" / "host_uuid").read_text() == f"{uuid}\n"


async def test_taken_directory_and_port_are_refused(
    server: FakeFileServer, program: LocalProgram, tmp_path: Path
) -> None:
    """A second client on the same cache or address does not start, and leaves nothing behind."""
    with pytest.raises(AfsError, match="in use by another clientd"):
        await Clientd.start(client_config(tmp_path, server.address))
    taken = program.client.addresses
    with pytest.raises(AfsError, match="in use by another process"):
        await Clientd.start(client_config(tmp_path / "other", server.address, listen=taken))
    async with running_client(tmp_path / "other", server.address) as second:
        await second.status()


async def test_location_that_is_away_is_told(tmp_path: Path, server: FakeFileServer) -> None:
    """Without the VolumeLocation service unknown volumes are UNAVAILABLE, known ones are served."""
    server.add("f", b"x")
    async with running_client(tmp_path, server.address) as program:
        await program.read("/home/f")
        await program.until_leased()
        location = program.client.services.location
        await location.close()
        assert (await program.read("/home/f")).source == CACHE
