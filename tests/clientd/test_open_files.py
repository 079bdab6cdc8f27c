"""Open files: what is written is seen at once, stored when flushed, and not fetched again."""

from __future__ import annotations

import asyncio

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_FILE_BYTES, MIB
from tests.clientd.fake_fileserver import VOLUME, FakeFileServer
from tests.clientd.local_program import LocalProgram
from tests.clientd.open_handles import home, opened


def counter(program: LocalProgram, name: str) -> int:
    """One of the client's counters."""
    return program.client.services.journal.counters()[name]


async def test_own_writes_are_read_before_they_are_stored(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """By every handle on this client; the fileserver has the file as it was until the flush."""
    fid = server.add("f", b"0123456789")
    files = program.client.services.open_files
    async with opened(program, fid) as writer, opened(program, fid, write=False) as reader:
        assert await reader.read(0, 100) == b"0123456789"
        assert await writer.write(2, b"ab") == 2
        assert writer.write_now(12, b"z") == 1
        assert await reader.read(0, 100) == b"01ab456789\0\0z"
        assert reader.read_now(1, 3) == b"1ab"
        assert reader.read_now(100, 3) == b""
        assert reader.vnode().length == 13
        assert files.overlay(server.nodes[fid].vnode).length == 13
        assert (await reader.status()).client_mtime_ns > 0
        assert files.is_dirty(fid)
        assert server.nodes[fid].data == b"0123456789"
        seen = reader.vnode()
        await writer.flush()
        assert server.nodes[fid].data == b"01ab456789\0\0z"
        assert not files.is_dirty(fid)
        # Nothing changes for who looks at the file: neither its length nor its time.
        assert reader.vnode().client_mtime_ns == seen.client_mtime_ns
        assert await reader.read(0, 100) == b"01ab456789\0\0z"
    assert not files.is_open(fid)


async def test_flush_of_a_clean_file_asks_nobody(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Nor does that of a handle for reading, whatever others wrote."""
    fid = server.add("f", b"old")
    async with opened(program, fid) as writer, opened(program, fid, write=False) as reader:
        await writer.flush()
        await writer.write(0, b"new")
        await reader.flush()
        assert not server.stores
    assert server.nodes[fid].data == b"new"


async def test_what_was_stored_is_in_the_cache(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A new file, a change in the middle of a large one, an append: nothing is fetched again."""
    big = bytes(range(256)) * 4096 * 4 + b"tail"
    fid = server.add("big", big)
    async with opened(program, fid) as handle:
        for at in range(0, len(big), MIB):
            assert await handle.read(at, MIB) == big[at : at + MIB]
        fetched = server.calls["FetchData"]
        await handle.write(MIB + 5, b"changed")
        await handle.flush()
        big = big[: MIB + 5] + b"changed" + big[MIB + 12 :]
        assert server.nodes[fid].data == big
        assert (server.stores[-1].opening.offset, server.stores[-1].data) == (MIB + 5, b"changed")
        await handle.write(len(big), b"appended")
        await handle.flush()
        big += b"appended"
    assert counter(program, "fetch_status_calls") == 1
    disk = program.client.services.disk
    await disk.settle()
    assert disk.cached_bytes(fid, server.nodes[fid].vnode.data_version) == len(big)
    assert (await program.read("/home/big")).data == big
    assert server.calls["FetchData"] == fetched


async def test_new_file_is_one_store(server: FakeFileServer, program: LocalProgram) -> None:
    """Opened to be truncated, written in small pieces, closed: one StoreData, with its time."""
    fid = server.add("f", b"something longer that was there")
    async with opened(program, fid, truncate=True) as handle:
        assert await handle.read(0, 100) == b""
        for at in range(0, 100, 10):
            await handle.write(at, b"0123456789")
        assert program.client.services.open_files.set_mtime(fid, 123)
        assert handle.vnode().client_mtime_ns == 123
    (stored,) = server.stores
    assert (stored.opening.truncate_to, stored.data) == (0, b"0123456789" * 10)
    assert server.nodes[fid].vnode.client_mtime_ns == 123
    assert (await program.read("/home/f")).data == b"0123456789" * 10
    assert server.calls["FetchData"] == 0
    assert not program.client.services.open_files.set_mtime(fid, 124)


async def test_truncation_is_stored_with_the_writes(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Shorter, longer, and shorter and longer again; a truncation alone is stored as well."""
    fid = server.add("f", bytes(range(100)))
    async with opened(program, fid) as handle:
        await handle.truncate(50)
        await handle.truncate(80)
        assert await handle.read(40, 100) == bytes(range(40, 50)) + bytes(30)
        await handle.write(60, b"x")
        await handle.flush()
        expected = bytes(range(50)) + bytes(10) + b"x" + bytes(19)
        assert server.nodes[fid].data == expected
        await handle.truncate(0)
    assert server.nodes[fid].data == b""
    volume = await home(program)
    await program.client.services.open_files.truncate(volume, fid, 7)
    assert server.nodes[fid].data == bytes(7)


async def test_holes_are_filled_from_the_cache_or_left(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Two runs are one store if what lies between is at hand, else two: nothing is fetched."""
    fid = server.add("f", b"0123456789")
    async with opened(program, fid) as handle:
        await handle.write(1, b"a")
        await handle.write(8, b"b")
        await handle.flush()
        assert [stored.data for stored in server.stores] == [b"a", b"b"]
        assert await handle.read(0, 100) == b"0a234567b9"
        await handle.write(0, b"c")
        await handle.write(9, b"d")
        await handle.flush()
        assert [stored.data for stored in server.stores[2:]] == [b"ca234567bd"]
    assert server.nodes[fid].data == b"ca234567bd"


async def test_others_change_the_file_while_it_is_dirty(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Own writes over the new version for the reader; last close wins, and no byte of it is old."""
    fid = server.add("f", b"0123456789")
    async with opened(program, fid) as handle:
        assert await handle.read(0, 100) == b"0123456789"
        await handle.write(1, b"a")
        await handle.write(8, b"b")
        server.change(fid, b"ABCDEFGHIJKL")
        await server.break_and_wait([fid])
        assert await handle.read(0, 100) == b"AaCDEFGHbJKL"
        # This one goes unnoticed: the break has not come when the store is refused.
        server.change(fid, b"abcdefghijkl")
        await handle.flush()
        assert server.nodes[fid].data == b"aacdefghbjkl"
        assert await handle.read(0, 100) == b"aacdefghbjkl"


async def test_failed_store_is_told_to_each_writer_once(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """To the one that asked at once, to the other by its next flush, unless that one succeeds."""
    fid = server.add("f", b"old")
    refused = AfsError(AfsCode.VOVERQUOTA, "full")
    async with (
        opened(program, fid) as one,
        opened(program, fid) as two,
        opened(program, fid) as idle,
    ):
        await one.write(0, b"ONE")
        await two.write(3, b"TWO")
        server.fails["StoreData"] = [refused, refused]
        for handle in (one, two):
            with pytest.raises(AfsError) as caught:
                await handle.flush()
            assert caught.value.code is AfsCode.VOVERQUOTA
        assert await one.read(0, 100) == b"ONETWO"
        await two.flush()
        assert server.nodes[fid].data == b"ONETWO"
        for handle in (one, two, idle):
            await handle.flush()


async def test_removed_file_takes_what_is_dirty_along(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Who wrote to it and has not been told yet is told by its flush, once."""
    fid = server.add("f", b"old")
    async with opened(program, fid) as one, opened(program, fid) as two:
        await one.write(0, b"new")
        await two.write(0, b"NEW")
        server.remove("f")
        with pytest.raises(AfsError) as caught:
            await one.flush()
        assert caught.value.code is AfsCode.VNOVNODE
        program.client.services.open_files.forget(fid)
        with pytest.raises(AfsError):
            await two.flush()
        await two.flush()
        await one.flush()


async def test_cancelled_flush_goes_on_behind(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A signal ends the waiting, not the store."""
    fid = server.add("f", b"old")
    async with opened(program, fid) as handle:
        await handle.write(0, b"new")
        gate = server.hold("StoreData")
        task = asyncio.create_task(handle.flush())
        await gate.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        reading = asyncio.create_task(handle.read(0, 10))
        assert await reading == b"new"
        server.let_go("StoreData")
        await handle.flush()
        assert (server.nodes[fid].data, len(server.stores)) == (b"new", 1)


async def test_writes_wait_while_the_file_is_stored(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """What is stored is of one moment; the write is dirty afterwards."""
    fid = server.add("f", b"old")
    async with opened(program, fid) as handle:
        await handle.write(0, b"new")
        gate = server.hold("StoreData")
        flush = asyncio.create_task(handle.flush())
        await gate.reached.wait()
        assert handle.write_now(0, b"N") is None
        write = asyncio.create_task(handle.write(0, b"N"))
        server.let_go("StoreData")
        await asyncio.gather(flush, write)
        assert server.nodes[fid].data == b"new"
        assert await handle.read(0, 10) == b"New"
    assert server.nodes[fid].data == b"New"


async def test_what_cannot_be_opened(server: FakeFileServer, program: LocalProgram) -> None:
    """A directory; nor does a handle for reading write, or one for writing beyond all bounds."""
    volume = await home(program)
    files = program.client.services.open_files
    with pytest.raises(AfsError) as caught:
        await files.open(volume, server.root, write=False)
    assert caught.value.code is AfsCode.EISDIR
    fid = server.add("f", b"old")
    async with opened(program, fid, write=False) as reader:
        for attempt in (reader.write(0, b"x"), reader.truncate(0)):
            with pytest.raises(AfsError) as caught:
                await attempt
            assert caught.value.code is AfsCode.EPERM
        assert reader.write_now(0, b"x") is None
    async with opened(program, fid) as handle:
        for attempt in (handle.write(MAX_FILE_BYTES, b"x"), handle.truncate(MAX_FILE_BYTES + 1)):
            with pytest.raises(AfsError) as caught:
                await attempt
            assert caught.value.code is AfsCode.EFBIG
    assert not server.stores


async def test_read_only_volume_is_not_opened_for_writing(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """EROFS at open, not at close."""
    server.has_clones = True
    volume = await program.client.services.volumes.named("home.readonly")
    server.volumes["clone"] = volume.volume_id
    fid = server.add("f", b"old")._replace(volume=volume.volume_id)
    server.nodes[fid] = server.nodes[fid._replace(volume=VOLUME)]
    with pytest.raises(AfsError) as caught:
        await program.client.services.open_files.open(volume, fid, write=True)
    assert caught.value.code is AfsCode.EROFS


async def test_many_readers_cost_one_fetch(server: FakeFileServer, program: LocalProgram) -> None:
    """Of the same piece at the same time, through different handles."""
    fid = server.add("f", b"x" * 5000)
    async with opened(program, fid, write=False) as one, opened(program, fid, write=False) as two:
        reads = await asyncio.gather(*(handle.read(0, 4096) for handle in (one, two) * 5))
        assert set(reads) == {b"x" * 4096}
    assert server.calls["FetchData"] == 1
