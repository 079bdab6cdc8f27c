"""Large files: written and read in little memory, sent and fetched ahead of need."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import MIB
from clientd import early_store
from tests.clientd.fake_fileserver import FakeFileServer
from tests.clientd.local_program import PATIENCE_S, LocalProgram, running_client
from tests.clientd.open_handles import opened


async def test_large_file_goes_through_little_memory(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Beyond a bound what is dirty lies in files; they become the cache's, and none is left."""
    fid = server.add("f")
    services = program.client.services
    memory = services.open_files._memory
    memory.limit_bytes = 3 * MIB
    data = bytes(range(256)) * 4096 * 12 + b"tail"
    async with opened(program, fid) as handle:
        for at in range(0, len(data), 100_000):
            await handle.write(at, data[at : at + 100_000])
            assert memory.used_bytes <= 3 * MIB + 100_000
        # Also where it is written once more, out of order.
        await handle.write(MIB - 3, b"across")
        data = data[: MIB - 3] + b"across" + data[MIB + 3 :]
        assert await handle.read(MIB - 10, 20) == data[MIB - 10 : MIB + 10]
        await handle.flush()
        assert server.nodes[fid].data == data
        assert (len(server.stores), memory.used_bytes) == (1, 0)
    await services.disk.settle()
    assert services.disk.cached_bytes(fid, server.nodes[fid].vnode.data_version) == len(data)
    assert services.disk._table.reserved_bytes == 0
    assert (await program.read("/home/f")).data == data
    assert server.calls["FetchData"] == 0
    folder = services.disk.folder / "dirty"
    await program.until(lambda: not [path for path in folder.rglob("*") if path.is_file()])


async def test_large_file_is_on_its_way_before_it_is_closed(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """The store has begun; nothing of it is seen before the flush; its time is the program's."""
    fid = server.add("f", b"old")
    data = bytes(range(256)) * 4096 * 8
    async with opened(program, fid, truncate=True) as handle:
        for at in range(0, len(data), MIB):
            await handle.write(at, data[at : at + MIB])
        await program.until(lambda: server.calls["StoreData"] == 1)
        assert server.nodes[fid].data == b"old"
        mtime_ns = handle.vnode().client_mtime_ns
        await handle.flush()
        assert (server.nodes[fid].data, server.calls["StoreData"]) == (data, 1)
        assert server.nodes[fid].vnode.client_mtime_ns == mtime_ns


async def test_early_store_that_no_longer_fits_never_happened(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Written elsewhere, or truncated, after it began: what is stored is what is dirty at last."""
    fid = server.add("f", b"old")
    data = bytes(range(256)) * 4096 * 6
    for change in ("write", "truncate"):
        calls = server.calls["StoreData"]
        async with opened(program, fid, truncate=True) as handle:
            for at in range(0, len(data), MIB):
                await handle.write(at, data[at : at + MIB])
            async with asyncio.timeout(PATIENCE_S):
                while server.calls["StoreData"] == calls:
                    await asyncio.sleep(0.005)
            if change == "write":
                await handle.write(10, b"changed")
                expected = data[:10] + b"changed" + data[17:]
            else:
                await handle.truncate(5 * MIB)
                expected = data[: 5 * MIB]
        assert server.nodes[fid].data == expected
        assert len(server.stores) == 1
        server.stores.clear()


async def test_early_store_of_a_slow_writer_is_begun_again(
    server: FakeFileServer, program: LocalProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not hold the fileserver's stream for ever; the flush stores everything."""
    monkeypatch.setattr(early_store, "IDLE_S", 0.05)
    fid = server.add("f")
    data = bytes(range(256)) * 4096 * 5
    async with opened(program, fid) as handle:
        for at in range(0, len(data), MIB):
            await handle.write(at, data[at : at + MIB])
        early = program.client.services.open_files._flushing._early[fid]
        await program.until(early._task.done)
        await handle.write(len(data), b"more")
    assert server.nodes[fid].data == data + b"more"
    assert len(server.stores) == 1


async def test_early_store_that_fails_is_done_again(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Refused while the file was written: the flush stores it, or says why not."""
    fid = server.add("f")
    data = bytes(range(256)) * 4096 * 6
    server.fails["StoreData"] = [AfsError(AfsCode.VOVERQUOTA, "full")]
    async with opened(program, fid) as handle:
        for at in range(0, len(data), MIB):
            await handle.write(at, data[at : at + MIB])
        await program.until(lambda: server.calls["StoreData"] >= 1)
        await handle.flush()
        assert server.nodes[fid].data == data


async def test_sequential_reads_run_ahead(server: FakeFileServer, program: LocalProgram) -> None:
    """After the first two pieces one stream brings the rest, before it is asked for."""
    data = bytes(range(256)) * 4096 * 8
    fid = server.add("f", data)
    async with opened(program, fid, write=False) as handle:
        for at in range(0, 3 * MIB, 128 * 1024):
            assert await handle.read(at, 128 * 1024) == data[at : at + 128 * 1024]
        await program.until(lambda: handle.read_now(5 * MIB, 10) is not None)
        calls = server.calls["FetchData"]
        for at in range(3 * MIB, 8 * MIB, 128 * 1024):
            assert await handle.read(at, 128 * 1024) == data[at : at + 128 * 1024]
        assert server.calls["FetchData"] == calls <= 3


async def test_dirty_data_without_room_is_stored_at_once(
    server: FakeFileServer, tmp_path: Path
) -> None:
    """A cache too small for it: the program goes on, and the fileserver has what did not fit."""
    fid = server.add("f")
    data = bytes(range(256)) * 4096 * 6
    async with running_client(tmp_path, server.address, cache_limit_bytes=2 * MIB) as program:
        program.client.services.open_files._memory.limit_bytes = MIB
        async with opened(program, fid) as handle:
            for at in range(0, len(data), MIB):
                await handle.write(at, data[at : at + MIB])
            assert server.stores
            assert await handle.read(0, len(data)) == data
        assert server.nodes[fid].data == data
