"""FileServer.BulkFetch: many small files in one call, each with the rules of FetchData."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from afs.errors import AfsCode
from afs.limits import MAX_BULK_FETCH_BYTES, MAX_BULK_FETCH_FIDS, MAX_BULK_FILE_BYTES
from afs.types import BreakReason, Fid, SetStatus, root_fid
from afs.v1 import file_server_debug_pb2, file_server_debug_pb2_grpc
from afs.v1 import file_server_pb2 as pb
from afs.volume.volume import CreateFile, StoreStatus
from afs.wire import fid_from_wire, fid_to_wire
from afsd.call_preamble import calling_host
from afsd.core.volume_rules import FsyncCommand, FsyncReason
from tests.afsd.gated import NO_CONTEXT, rig
from tests.afsd.gated import VOLUME as GATED_VOLUME
from tests.afsd.running import PATIENCE_S, ROOT, SECOND_VOLUME, VOLUME, Client, fileserver, refused


def request_for(fids: Sequence[Fid], max_file_bytes: int = 0) -> pb.BulkFetchRequest:
    """A request."""
    return pb.BulkFetchRequest(
        fids=[fid_to_wire(fid) for fid in fids], max_file_bytes=max_file_bytes
    )


async def bulk(client: Client, fids: Sequence[Fid], max_file_bytes: int = 0) -> list[Any]:
    """BulkFetch: all results."""
    answers = await client.stream(client.files.BulkFetch, request_for(fids, max_file_bytes))
    return [result for answer in answers for result in answer.results]


async def file_with(client: Client, name: str, data: bytes) -> Fid:
    """A new file."""
    fid = await client.create(name)
    await client.store(fid, data)
    return fid


async def test_each_file_is_answered_by_itself(tmp_path: Path) -> None:
    """Data, status and promise in the order asked for; what is no file spoils nothing."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        one = await file_with(client, "one", b"first")
        two = await file_with(client, "two", b"")
        directory = await client.make_dir("d")
        gone = Fid(VOLUME, 8, 999)
        results = await bulk(client, [two, gone, directory, one, one])
        assert [result.abort_code for result in results] == [
            0,
            AfsCode.VNOVNODE,
            AfsCode.EISDIR,
            0,
            0,
        ]
        assert [result.data for result in results] == [b"", b"", b"", b"first", b"first"]
        assert fid_from_wire(results[3].status.fid) == one
        assert results[3].status.length == 5
        assert all(results[at].HasField("callback") for at in (0, 3))
        assert not results[1].HasField("callback")


async def test_larger_files_come_without_data(tmp_path: Path) -> None:
    """Status and promise, and that it is larger: than asked for, or than any bulk fetch gives."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        largest = await file_with(client, "largest", bytes(MAX_BULK_FILE_BYTES))
        larger = await file_with(client, "larger", bytes(MAX_BULK_FILE_BYTES + 1))
        full, none = await bulk(client, [largest, larger])
        assert (len(full.data), full.too_large) == (MAX_BULK_FILE_BYTES, False)
        assert (len(none.data), none.too_large) == (0, True)
        assert none.status.length == MAX_BULK_FILE_BYTES + 1
        assert none.HasField("callback")
        (bounded,) = await bulk(client, [largest], max_file_bytes=100)
        assert bounded.too_large
        (not_more,) = await bulk(client, [larger], max_file_bytes=2**32 - 1)
        assert not_more.too_large


async def test_an_answer_is_bounded(tmp_path: Path) -> None:
    """It ends early beyond its bound; what was not answered can be asked for again."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        fid = await file_with(client, "f", bytes(MAX_BULK_FILE_BYTES))
        results = await bulk(client, [fid] * MAX_BULK_FETCH_FIDS)
        size = sum(len(result.data) for result in results)
        assert MAX_BULK_FETCH_BYTES <= size < 2 * MAX_BULK_FETCH_BYTES
        assert len(results) < MAX_BULK_FETCH_FIDS


async def test_a_request_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """None, too many, of several volumes, malformed ones."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        for fids in (
            [],
            [ROOT] * (MAX_BULK_FETCH_FIDS + 1),
            [ROOT, root_fid(SECOND_VOLUME)],
            [Fid(VOLUME, 0, 0)],
        ):
            async with refused(AfsCode.EINVAL):
                await bulk(client, fids)
        async with refused(AfsCode.VNOVOL):
            await bulk(client, [Fid(999, 2, 2)])


async def test_a_promise_is_as_good_as_any(tmp_path: Path) -> None:
    """The holder is told of a change; a nameless caller gets data and no promise."""
    async with fileserver(tmp_path) as running:
        one, two = await running.client(), await running.client()
        fids = [await file_with(one, f"f{number}", b"old") for number in range(3)]
        results = await bulk(two, fids)
        assert all(result.callback.epoch == running.daemon.epoch for result in results)
        await one.store(fids[1], b"new")
        told = await two.broken(fids[1])
        assert told.reason == BreakReason.DATA_CHANGED
        assert told.targets == (tuple(fids[1]),)
        nobody = await running.client(anonymous=True)
        assert not any(result.HasField("callback") for result in await bulk(nobody, fids))


async def test_no_message_leaves_before_the_breaks_that_are_owed(tmp_path: Path) -> None:
    """I3: a host that has a break to acknowledge is answered after that, with what is new."""
    async with fileserver(tmp_path, break_deadline_s=PATIENCE_S) as running:
        one, two = await running.client(), await running.client()
        fid = await file_with(one, "f", b"old")
        await bulk(two, [fid])
        two.acks = False
        storing = asyncio.create_task(one.store(fid, b"new"))
        told = await two.broken(fid)
        fetching = asyncio.create_task(bulk(two, [fid]))
        stub: Any = file_server_debug_pb2_grpc.FileServerDebugStub(one.channel)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                dump = await stub.DumpHosts(file_server_debug_pb2.DumpHostsRequest())
                if any(host.calls_waiting for host in dump.hosts):
                    break
                await asyncio.sleep(0.01)
        assert not fetching.done()
        await two.ack(told.sequence)
        (result,) = await fetching
        assert result.data == b"new"
        await storing


async def test_a_change_during_the_reading_breaks_the_promise(tmp_path: Path) -> None:
    """The promise is there before the data is read, so whoever changes it has to tell (R10)."""
    async with rig(tmp_path) as gated:
        host = await gated.host("h")
        calling_host.set(host.uuid)
        root = root_fid(GATED_VOLUME)
        (made,) = gated.commit(CreateFile(root, "f"))
        assert made.vnode is not None
        fid = made.vnode.fid
        gated.volume.gates["snapshot"].close()
        answer = asyncio.ensure_future(anext(gated.files.BulkFetch(request_for([fid]), NO_CONTEXT)))
        await gated.volume.gates["snapshot"].arrived()
        calling_host.set("somebody else")
        change = pb.StoreStatusRequest(fid=fid_to_wire(fid))
        change.set_status.mode = 0o600
        changing = asyncio.create_task(gated.files.StoreStatus(change, NO_CONTEXT))
        told = await host.next_break()
        gated.volume.gates["snapshot"].open()
        (result,) = (await answer).results
        assert result.callback.sequence <= told.through
        host.ack(told)
        await changing


async def test_a_volume_that_goes_ends_the_answer(tmp_path: Path) -> None:
    """What came before is right; then VBUSY while it is out, or what has become of it."""
    async with rig(tmp_path) as gated:
        root = root_fid(GATED_VOLUME)
        made = gated.commit(*(CreateFile(root, f"f{number}") for number in range(40)))
        fids = [outcome.vnode.fid for outcome in made if outcome.vnode is not None]
        answers = gated.files.BulkFetch(request_for(fids), NO_CONTEXT)
        assert len((await anext(answers)).results) == 32
        async with asyncio.timeout(PATIENCE_S):
            await gated.table.operate(
                GATED_VOLUME, FsyncCommand.NEEDVOLUME, FsyncReason.FOR_MOVE, "volserver", ""
            )
        async with refused(AfsCode.VBUSY):
            await anext(answers)


async def test_what_is_not_in_memory_is_brought_there(tmp_path: Path) -> None:
    """Also of a volume that nobody looked at yet; a file that grows meanwhile is just larger."""
    async with rig(tmp_path) as gated:
        root = root_fid(GATED_VOLUME)
        (made,) = gated.commit(CreateFile(root, "f"))
        assert made.vnode is not None
        fid = made.vnode.fid
        gated.volume.cold = True
        gated.volume.gates["vnode"].close()
        answers = gated.files.BulkFetch(request_for([fid, Fid(GATED_VOLUME, 8, 8)]), NO_CONTEXT)
        answer = asyncio.ensure_future(anext(answers))
        # Brought into memory, then looked at once more with the promise given.
        for _ in range(2):
            await gated.volume.gates["vnode"].arrived()
            gated.commit(StoreStatus(fid, SetStatus(length=MAX_BULK_FILE_BYTES + 1)))
            gated.volume.gates["vnode"].let_one_through()
        found, missing = (await answer).results
        assert found.too_large
        assert found.status.length == MAX_BULK_FILE_BYTES + 1
        assert missing.abort_code == AfsCode.VNOVNODE
