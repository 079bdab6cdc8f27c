"""While the fileserver is away: cached reads go on, others fail or wait, and no write vanishes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import MIB
from afs.types import Fid
from afs.v1 import cache_manager_pb2 as pb
from tests.clientd.fake_fileserver import FakeFileServer, lasting_location
from tests.clientd.local_program import PATIENCE_S, LocalProgram, running_client
from tests.clientd.open_handles import opened

QUICK: dict[str, Any] = {"outage_patience_s": 0.3}


@pytest.fixture
async def location(server: FakeFileServer) -> AsyncIterator[str]:
    """Address of a location service that is there all the time."""
    async with lasting_location(server) as address:
        yield address


@pytest.fixture
async def program(
    server: FakeFileServer, location: str, tmp_path: Path
) -> AsyncIterator[LocalProgram]:
    """A program whose client does not wait long for a fileserver that is away."""
    async with running_client(tmp_path, location, **QUICK) as running:
        yield running


@asynccontextmanager
async def away(server: FakeFileServer, program: LocalProgram) -> AsyncIterator[None]:
    """The fileserver is not there, and the client has noticed."""
    address = server.address
    await server.stop()
    await program.until(
        lambda: program.client.services.servers.away_for_s(address) > QUICK["outage_patience_s"]
    )
    # As after a first call that has waited for the callback channel in vain.
    program.client.services.servers.at(address)._attachable = False
    try:
        yield
    finally:
        server.epoch += 1
        await server.start(address)
    await program.until(lambda: not program.client.services.servers.away_for_s(address))


async def unsent(program: LocalProgram) -> list[pb.UnsentStore]:
    """What could not be stored."""
    response = await program.call(program.stub.ListUnsent(pb.ListUnsentRequest()))
    return list(response.stores)


async def until_sent(program: LocalProgram) -> None:
    """Waits until nothing waits to be stored any more; tries again and again."""
    async with asyncio.timeout(PATIENCE_S):
        while program.client.services.open_files.unsent.waiting():
            program.client.services.resending.poke()
            await asyncio.sleep(0.02)


async def read_unsent(program: LocalProgram, number: int) -> dict[int, bytes]:
    """What was written, by its places."""
    found: dict[int, bytes] = {}
    async for response in program.stub.ReadUnsent(pb.ReadUnsentRequest(number=number)):
        if response.data:
            found[response.offset] = response.data
    return found


async def fails(work: Any) -> AfsError:
    """What the work fails with."""
    with pytest.raises(AfsError) as caught:
        await work
    return caught.value


async def test_reads_fail_when_the_lease_has_run_out(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """With a clear error, soon; and go on from the cache when the fileserver is back."""
    fid = server.add("f", b"content")
    async with opened(program, fid, write=False) as handle:
        assert await handle.read(0, 100) == b"content"
        async with away(server, program):
            error = await fails(handle.read(0, 100))
            assert error.code is AfsCode.RX_CALL_DEAD
            assert server.address in error.detail
        assert await handle.read(0, 100) == b"content"
    assert server.calls["FetchData"] == 1


async def test_cached_reads_go_on_within_the_lease(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A fileserver that hangs is not noticed by who reads what is cached."""
    fid = server.add("f", b"content")
    async with opened(program, fid, write=False) as handle:
        assert await handle.read(0, 100) == b"content"
        server.answers_renewals = False
        for method in ("FetchStatus", "FetchData"):
            server.hold(method)
        assert handle.read_now(0, 100) == b"content"
        assert await handle.read(0, 100) == b"content"
        for method in ("FetchStatus", "FetchData"):
            server.let_go(method)


async def test_reads_wait_if_they_are_to(
    server: FakeFileServer, location: str, tmp_path: Path
) -> None:
    """For as long as it takes, or until the program has had enough."""
    fid = server.add("f", b"content")
    keys = QUICK | {"on_outage": "wait"}
    async with (
        running_client(tmp_path, location, **keys) as program,
        opened(program, fid, write=False) as handle,
    ):
        async with away(server, program):
            impatient = asyncio.create_task(handle.read(0, 100))
            patient = asyncio.create_task(handle.read(0, 100))
            done, _ = await asyncio.wait([impatient, patient], timeout=1.0)
            assert not done
            impatient.cancel()
            with pytest.raises(asyncio.CancelledError):
                await impatient
        assert await patient == b"content"


async def test_failed_store_is_kept_and_stored_later(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """The closer is told; the data is on disk, listed, seen by who opens the file, then stored."""
    fid = server.add("f", b"0123456789")
    await program.list("/home")
    async with opened(program, fid) as handle, away(server, program):
        await handle.write(2, b"ab")
        await handle.write(12, b"z")
        error = await fails(handle.flush())
        assert error.code is AfsCode.RX_CALL_DEAD
        await handle.close()
        (store,) = await unsent(program)
        assert (store.name, store.volume, store.state) == (
            "f",
            "home",
            pb.UNSENT_STATE_WAITING,
        )
        assert (store.written_bytes, store.ranges, store.length) == (3, 2, 13)
        assert store.on_disk
        assert store.since_ns > 0
        assert await read_unsent(program, store.number) == {2: b"ab", 12: b"z"}
        status = await program.status()
        assert (status.unsent_waiting, status.unsent_bytes) == (1, 3)
        assert program.client.services.open_files.overlay(server.nodes[fid].vnode).length == 13
        assert server.nodes[fid].data == b"0123456789"
    await until_sent(program)
    assert server.nodes[fid].data == b"01ab456789\0\0z"
    assert await unsent(program) == []
    counters = await program.counters()
    assert (counters["stores_kept"], counters["stores_sent"]) == (1, 1)


async def test_kept_store_survives_this_life(
    server: FakeFileServer, location: str, tmp_path: Path
) -> None:
    """Also of a large file; the next life shows it to who opens the file, and stores it."""
    fid = server.add("big")
    data = bytes(range(256)) * 4096 * 6 + b"tail"
    address = server.address
    async with running_client(tmp_path, location, **QUICK) as program:
        async with opened(program, fid) as handle:
            await server.stop()
            for at in range(0, len(data), MIB):
                await handle.write(at, data[at : at + MIB])
            await fails(handle.flush())
        (store,) = await unsent(program)
        assert (store.written_bytes, store.on_disk) == (len(data), True)
    await server.start(address)
    async with running_client(tmp_path, location, **QUICK) as program:
        async with opened(program, fid, write=False) as handle:
            assert await handle.read(len(data) - 10, 20) == data[-10:]
        await until_sent(program)
        assert server.nodes[fid].data == data
        assert (await program.read("/home/big")).data == data
        assert program.client.services.disk._table.reserved_bytes == 0
    assert not list((tmp_path / "cache" / "unsent").iterdir())


async def test_file_that_others_changed_is_a_conflict(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """The fileserver's file is not touched; what was written is kept until it is discarded."""
    fid = server.add("f", b"old")
    gone = server.add("gone", b"old")
    async with opened(program, fid) as one, opened(program, gone) as two:
        async with away(server, program):
            for handle in (one, two):
                await handle.write(0, b"mine")
                await fails(handle.flush())
            server.change(fid, b"theirs")
            server.remove("gone")
        await until_sent(program)
        assert server.nodes[fid].data == b"theirs"
        assert await one.read(0, 100) == b"theirs"
        stores = await unsent(program)
        assert [store.state for store in stores] == [pb.UNSENT_STATE_CONFLICT] * 2
        assert "changed" in stores[0].reason
        assert "removed" in stores[1].reason
        assert await read_unsent(program, stores[0].number) == {0: b"mine"}
        assert (await program.status()).unsent_conflicts == 2
        for store in stores:
            request = pb.DiscardUnsentRequest(number=store.number)
            await program.call(program.stub.DiscardUnsent(request))
        error = await fails(program.call(program.stub.DiscardUnsent(request)))
        assert error.code is AfsCode.ENOENT
        # The handles are good for more.
        await one.write(0, b"MINE")
        await one.flush()
        assert server.nodes[fid].data == b"MINErs"
    assert await unsent(program) == []
    await program.client.services.disk.settle()
    assert program.client.services.disk._table.reserved_bytes == 0


class Kernel:
    """What a mount would be told."""

    def __init__(self) -> None:
        self.told: list[Fid] = []

    def stale(self, fid: Fid) -> None:
        """Nothing that was said of the vnode is to be relied on."""
        self.told.append(fid)

    changed = names_changed = all_stale = lambda *_: None

    def settle(self) -> None:
        """It knows."""


async def test_kernel_hears_that_writes_are_not_in_the_file(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Refused and given up, or in conflict: what it has cached of the file is not to be seen."""
    refused, changed = server.add("refused", b"old"), server.add("changed", b"old")
    kernel = Kernel()
    program.client.services.kernel.open(kernel)
    async with opened(program, refused) as handle:
        await handle.write(0, b"new")
        server.fails["StoreData"] = [AfsError(AfsCode.VOVERQUOTA, "full")]
        await fails(handle.flush())
        kernel.told.clear()
    assert refused in kernel.told
    async with opened(program, changed) as handle:
        async with away(server, program):
            await handle.write(0, b"new")
            await fails(handle.flush())
            server.change(changed, b"theirs")
            kernel.told.clear()
        await until_sent(program)
        await program.until(lambda: changed in kernel.told)


async def test_kept_file_that_is_written_again_is_stored_when_it_is_closed(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Not behind the back of who is writing it; then all of it, in one store."""
    fid = server.add("f", b"old")
    async with opened(program, fid) as handle:
        async with away(server, program):
            await handle.write(0, b"first")
            await fails(handle.flush())
            await handle.write(5, b" half")
        program.client.services.resending.poke()
        await program.client.services.servers.check()
        await handle.write(10, b" done")
        assert server.nodes[fid].data == b"old"
        await handle.flush()
        assert [stored.data for stored in server.stores] == [b"first half done"]
    assert await unsent(program) == []


async def test_flush_of_a_kept_file_that_others_changed_says_so(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """EIO, which names the unsent store; with what was written after the first failure."""
    fid = server.add("f", b"old")
    async with opened(program, fid) as handle:
        async with away(server, program):
            await handle.write(0, b"mine")
            await fails(handle.flush())
            await handle.write(4, b" and more")
            server.change(fid, b"theirs")
        error = await fails(handle.flush())
        assert error.code is AfsCode.EIO
        (store,) = await unsent(program)
        assert f"unsent store {store.number}" in error.detail
        assert await read_unsent(program, store.number) == {0: b"mine and more"}
        await handle.flush()


async def test_store_whose_answer_was_lost_is_no_conflict(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """The fileserver did it and died: the file has another DataVersion, and our bytes."""
    fid = server.add("f", b"0123456789")
    async with opened(program, fid) as handle:
        await handle.write(2, b"ab")
        server.hold("StoreData")
        flush = asyncio.create_task(handle.flush())
        await program.until(lambda: bool(server.stores))
        async with away(server, program):
            await fails(flush)
            assert len(await unsent(program)) == 1
        server._gates.clear()
        await until_sent(program)
        assert server.nodes[fid].data == b"01ab456789"
        assert await unsent(program) == []
        assert await handle.read(0, 100) == b"01ab456789"


async def test_waiting_store_is_on_disk_meanwhile(
    server: FakeFileServer, location: str, tmp_path: Path
) -> None:
    """The flush waits, a signal ends that, and the data is safe; then the store goes through."""
    fid = server.add("f", b"old")
    keys = QUICK | {"on_outage": "wait"}
    async with (
        running_client(tmp_path, location, **keys) as program,
        opened(program, fid) as handle,
    ):
        async with away(server, program):
            await handle.write(0, b"new")
            impatient = asyncio.create_task(handle.flush())
            async with asyncio.timeout(PATIENCE_S):
                while not (stores := await unsent(program)):
                    await asyncio.sleep(0.02)
            assert stores[0].on_disk
            assert not impatient.done()
            impatient.cancel()
            with pytest.raises(asyncio.CancelledError):
                await impatient
        await handle.flush()
        assert server.nodes[fid].data == b"new"
        assert await unsent(program) == []


async def test_refused_store_is_not_kept(server: FakeFileServer, program: LocalProgram) -> None:
    """A fileserver that says no, and why, leaves nothing to be stored later."""
    fid = server.add("f", b"old")
    refused = AfsError(AfsCode.VOVERQUOTA, "full")
    async with opened(program, fid) as handle:
        await handle.write(0, b"new")
        server.fails["StoreData"] = [refused]
        assert (await fails(handle.flush())).code is AfsCode.VOVERQUOTA
    assert await unsent(program) == []
    assert not program.client.services.open_files.is_dirty(fid)
    assert server.nodes[fid].data == b"old"


async def test_discarded_store_is_not_stored(server: FakeFileServer, program: LocalProgram) -> None:
    """Who waits for it no more says so; the file is what the fileserver has."""
    fid = server.add("f", b"old")
    async with opened(program, fid) as handle:
        async with away(server, program):
            await handle.write(0, b"new")
            await fails(handle.flush())
            (store,) = await unsent(program)
            request = pb.DiscardUnsentRequest(number=store.number)
            await program.call(program.stub.DiscardUnsent(request))
            assert await unsent(program) == []
        assert await handle.read(0, 100) == b"old"
    assert server.nodes[fid].data == b"old"
    await program.client.services.disk.settle()
    assert program.client.services.disk._table.reserved_bytes == 0


async def test_store_of_an_earlier_life_is_discarded(
    server: FakeFileServer, location: str, tmp_path: Path
) -> None:
    """Also while nobody knows where its volume is; nothing of it is left."""
    fid = server.add("f", b"old")
    address = server.address
    async with (
        running_client(tmp_path, location, **QUICK) as program,
        opened(program, fid) as handle,
    ):
        await server.stop()
        await handle.write(0, b"new")
        await fails(handle.flush())
    async with running_client(tmp_path, location, **QUICK) as program:
        (store,) = await unsent(program)
        request = pb.DiscardUnsentRequest(number=store.number)
        await program.call(program.stub.DiscardUnsent(request))
        assert await unsent(program) == []
        assert program.client.services.disk._table.reserved_bytes == 0
    assert not list((tmp_path / "cache" / "unsent").iterdir())
    await server.start(address)
    assert server.nodes[fid].data == b"old"


async def test_damaged_record_is_left_for_people(
    server: FakeFileServer, location: str, tmp_path: Path, log_events: Any
) -> None:
    """It is told of, and neither it nor its files are removed."""
    fid = server.add("f", b"old")
    address = server.address
    async with (
        running_client(tmp_path, location, **QUICK) as program,
        opened(program, fid) as handle,
    ):
        await server.stop()
        await handle.write(0, b"new")
        await fails(handle.flush())
    (record,) = (tmp_path / "cache" / "unsent").iterdir()
    record.write_text("{")
    await server.start(address)
    async with running_client(tmp_path, location, **QUICK) as program:
        assert await unsent(program) == []
    assert log_events.named("unsent_store.unreadable")
    assert record.exists()
    assert [path for path in (tmp_path / "cache" / "dirty").rglob("*") if path.is_file()]


async def test_volume_of_the_same_number_is_another_one(
    server: FakeFileServer, location: str, tmp_path: Path
) -> None:
    """What was written to one volume is never stored in another, whatever its DataVersions."""
    fid = server.add("f", b"old")
    address = server.address
    async with (
        running_client(tmp_path, location, **QUICK) as program,
        opened(program, fid) as handle,
    ):
        await server.stop()
        await handle.write(0, b"new")
        await fails(handle.flush())
    server.incarnation = "second"
    await server.start(address)
    async with running_client(tmp_path, location, **QUICK) as program:
        await until_sent(program)
        (store,) = await unsent(program)
        assert store.state == pb.UNSENT_STATE_CONFLICT
    assert server.nodes[fid].data == b"old"
