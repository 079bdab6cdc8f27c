"""Large files: bounded memory, one version, slow readers, a disk that takes nothing."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

import grpc
import grpc.aio
import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import MIB
from afs.v1 import cache_manager_pb2 as pb
from clientd.data_fetch import RUN_AHEAD_PIECES
from clientd.disk_files import DiskFiles
from tests.clientd.fake_fileserver import FakeFileServer
from tests.clientd.local_program import CACHE, LocalProgram
from tests.clientd.test_disk_cache import no_space


def content(size: int, seed: int = 1) -> bytes:
    """Bytes that differ from place to place."""
    block = bytes((number * 31 + seed) % 251 for number in range(65_521))
    return (block * (size // len(block) + 1))[:size]


async def test_file_that_changes_under_way_is_never_mixed(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A reader gets all of one version, or EAGAIN; the next reader gets the new one."""
    old, new = content(40 * MIB, 1), content(40 * MIB, 2)
    fid = server.add("f", old)
    call = program.stub.Read(pb.ReadRequest(path="/home/f"))
    first = await call.read()
    got = bytearray((await call.read()).data)
    server.change(fid, new)
    await server.break_and_wait([fid])
    with suppress(grpc.aio.AioRpcError):
        while (message := await call.read()) is not grpc.aio.EOF:
            got += message.data
    assert old.startswith(bytes(got))
    assert await call.code() in (grpc.StatusCode.OK, grpc.StatusCode.ABORTED)
    assert (bytes(got) == old) == (await call.code() is grpc.StatusCode.OK)
    assert first.status.data_version == 1
    assert (await program.read("/home/f")).data == new


async def test_slow_reader_holds_no_stream_of_the_fileserver(
    server: FakeFileServer, program: LocalProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch runs a bounded way ahead, then ends; the reader gets the rest all the same."""
    monkeypatch.setattr("clientd.data_fetch.PAUSE_S", 0.05)
    pieces = RUN_AHEAD_PIECES + 24
    data = content(pieces * MIB)
    fid = server.add("f", data)
    vnode = server.nodes[fid].vnode
    services = program.client.services
    await program.stat("/home/f")
    client = await services.volumes.named("home")
    got = bytearray()
    async with aclosing(services.data.read(client, vnode, 0, len(data))) as stream:
        got += await anext(stream)
        await program.until(lambda: not services.data.fetches(fid))
        assert services.disk.cached_bytes(fid, 1) < (RUN_AHEAD_PIECES + 4) * MIB
        async for piece in stream:
            got += piece
    assert bytes(got) == data


async def test_full_disk_degrades_to_uncached_service(
    server: FakeFileServer, program: LocalProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be cached, everything can be read and written."""
    monkeypatch.setattr(DiskFiles, "write", no_space)
    monkeypatch.setattr("clientd.spool.Spool._write", no_space)
    data = content(5 * MIB + 17)
    server.add("f", data)
    answers = await asyncio.gather(*(program.read("/home/f") for _ in range(3)))
    assert all(answer.data == data for answer in answers)
    assert (await program.read("/home/f", 2 * MIB, 5)).data == data[2 * MIB : 2 * MIB + 5]
    await program.write("/home/g", data)
    assert (await program.read("/home/g")).data == data
    status = await program.status()
    assert status.cache_bytes == 0
    assert status.counters["cache_write_failures"] > 0
    monkeypatch.undo()
    await program.until(lambda: program.client.services.disk.can_write())
    await program.read("/home/f")
    await program.until_leased()
    assert (await program.read("/home/f")).source == CACHE


async def test_file_larger_than_the_cache_is_read(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """What does not fit passes through."""
    program.client.services.disk.limit_bytes = 3 * MIB
    data = content(12 * MIB)
    server.add("f", data)
    for _ in range(2):
        assert (await program.read("/home/f")).data == data
    assert (await program.status()).cache_bytes <= 3 * MIB


async def test_reader_that_goes_away_ends_its_fetch(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Nobody left to read: no more is fetched, and what came is kept."""
    server.pieces_before_gate = 2
    fid = server.add("f", content(8 * MIB))
    call = program.stub.Read(pb.ReadRequest(path="/home/f"))
    for _ in range(2):
        await call.read()
    await server.data_gate.reached.wait()
    call.cancel()
    services = program.client.services
    await program.until(lambda: not services.data.fetches(fid))
    server.pieces_before_gate = None
    server.data_gate.opened.set()
    assert (await program.read("/home/f")).data == content(8 * MIB)
    assert server.calls["FetchData"] == 2


async def test_reader_that_goes_away_takes_nobody_along(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """The other reader of the same fetch gets everything."""
    server.pieces_before_gate = 1
    server.add("f", content(4 * MIB))
    leaving = program.stub.Read(pb.ReadRequest(path="/home/f"))
    await leaving.read()
    await leaving.read()
    staying = asyncio.create_task(program.read("/home/f"))
    await server.data_gate.reached.wait()
    services = program.client.services
    await program.until(lambda: sum(f.readers for f in services.data.all_fetches()) == 2)
    leaving.cancel()
    server.data_gate.opened.set()
    assert (await staying).data == content(4 * MIB)
    assert server.calls["FetchData"] == 1


async def test_fileserver_that_dies_under_a_read(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """The rest comes from its next life, as long as the DataVersion is the same."""
    server.pieces_before_gate = 2
    server.add("f", content(6 * MIB))
    reading = asyncio.create_task(program.read("/home/f"))
    await server.data_gate.reached.wait()
    server.pieces_before_gate = None
    await server.restart()
    assert (await reading).data == content(6 * MIB)


async def test_damaged_piece_is_fetched_again(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A flipped byte in the cache reaches no reader."""
    server.add("f", content(3 * MIB))
    await program.read("/home/f")
    await program.until_leased()
    folder = program.client.services.disk.folder
    (path,) = (folder / "data").glob("*/*.1.1")
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 1
    path.write_bytes(damaged)
    assert (await program.read("/home/f")).data == content(3 * MIB)
    assert server.calls["FetchData"] == 2
    assert (await program.counters())["pieces_damaged"] == 1


async def test_fileserver_that_sends_too_little_or_too_much(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A stream that does not fit its status is an error, not a file."""
    fid = server.add("short", content(MIB))
    server.nodes[fid].data = content(MIB - 1)
    with pytest.raises(AfsError) as caught:
        await program.read("/home/short")
    assert caught.value.code is AfsCode.VIO
