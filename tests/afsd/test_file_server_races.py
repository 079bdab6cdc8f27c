"""FileServer and FSSync: what could go wrong between two awaits, each moment held still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode
from afs.types import BreakReason, Fid, SetStatus, root_fid
from afs.v1 import file_server_pb2 as pb
from afs.v1 import fssync_pb2
from afs.volume.volume import CreateFile, RemoveFile, StoreData, StoreStatus
from afs.wire import fid_to_wire
from afsd.call_preamble import calling_host
from tests.afsd.gated import NO_CONTEXT, PATIENCE_S, VOLUME, Host, Rig, rig, status_of
from tests.afsd.running import refused

ROOT = root_fid(VOLUME)
WRITER = "00000000-0000-0000-0000-000000000001"
HOLDER = "00000000-0000-0000-0000-000000000002"
OTHER = "00000000-0000-0000-0000-000000000003"
# Turns of the loop after which whatever could have happened without waiting has happened.
TURNS = 50


def call(host: Host, method: Callable[..., Any], request: Any) -> asyncio.Task[Any]:
    """A call of a host, under way."""

    async def run() -> Any:
        calling_host.set(host.uuid)
        return await method(request, NO_CONTEXT)

    return asyncio.create_task(run())


async def settle() -> None:
    """Lets everything happen that waits for nobody."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Waits until something that a thread does has happened."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


def make_file(at: Rig, name: str = "a") -> Fid:
    """A file that is there from the start."""
    vnode = at.commit(CreateFile(ROOT, name))[0].vnode
    assert vnode is not None
    return vnode.fid


def operate(at: Rig, command: str, program: str = "volserver") -> asyncio.Task[Any]:
    """An FSSync command, under way."""
    request = fssync_pb2.VolumeOpRequest(
        command=fssync_pb2.FsyncCommand.Value(f"FSYNC_{command}"), volume_id=VOLUME, program=program
    )
    return asyncio.create_task(at.fssync.VolumeOp(request, NO_CONTEXT))


async def holder_of(at: Rig, fid: Fid) -> Host:
    """A host with a promise."""
    host = await at.host(HOLDER)
    await call(host, at.files.FetchStatus, status_of(fid))
    return host


def store_status(fid: Fid, mode: int) -> pb.StoreStatusRequest:
    """A change of a file's mode."""
    request = pb.StoreStatusRequest(fid=fid_to_wire(fid))
    request.set_status.mode = mode
    return request


# --- promise before read --------------------------------------------------------------------------


async def test_a_change_while_the_status_is_read_is_broken(tmp_path: Path) -> None:
    """R10's other half: the old status is answered under a promise that is broken already."""
    async with rig(tmp_path) as at:
        file, host = make_file(at), await at.host(HOLDER)
        at.volume.cold = True
        gate = at.volume.gates["vnode"]
        gate.close()
        answer = call(host, at.files.FetchStatus, status_of(file))
        await gate.arrived()
        gate.let_one_through()
        # The promise is registered by now, and the status read.
        await gate.arrived()
        (outcome,) = at.commit(StoreStatus(file, SetStatus(mode=0o600)))
        breaking = asyncio.create_task(at.callbacks.break_callbacks(outcome.changed, None))
        told = await host.next_break()
        gate.open()
        callback = (await answer).callback
        assert callback.sequence <= told.through
        host.ack(told)
        await breaking


async def test_a_change_before_the_promise_shows_in_the_status(tmp_path: Path) -> None:
    """What was read before the promise was registered is not what is answered."""
    async with rig(tmp_path) as at:
        file, host = make_file(at), await at.host(HOLDER)
        at.volume.cold = True
        gate = at.volume.gates["vnode"]
        gate.close()
        answer = call(host, at.files.FetchStatus, status_of(file))
        await gate.arrived()
        (outcome,) = at.commit(StoreStatus(file, SetStatus(mode=0o600)))
        await at.callbacks.break_callbacks(outcome.changed, None)
        gate.open()
        assert (await answer).status.mode == 0o600
        assert host.was_sent_nothing


async def test_no_promise_on_a_volume_that_went_away_meanwhile(tmp_path: Path) -> None:
    """I4: a reader that comes back to a volume being taken is refused, and holds nothing."""
    async with rig(tmp_path) as at:
        file, host = make_file(at), await at.host(HOLDER)
        at.volume.cold = True
        gate = at.volume.gates["vnode"]
        gate.close()
        answer = call(host, at.files.FetchStatus, status_of(file))
        await gate.arrived()
        taking = operate(at, "NEEDVOLUME")
        await settle()
        assert not taking.done()
        gate.open()
        async with refused(AfsCode.VBUSY):
            await answer
        assert (await taking).response == fssync_pb2.FSYNC_OK
        assert at.callbacks.give_up_all(HOLDER) == 0


async def test_no_promise_on_what_is_not_there(tmp_path: Path) -> None:
    """Asking for Fids that name nothing fills no table."""
    async with rig(tmp_path) as at:
        host = await at.host(HOLDER)
        async with refused(AfsCode.VNOVNODE):
            await call(host, at.files.FetchStatus, status_of(Fid(VOLUME, 98, 5)))
        bulk = pb.BulkStatusRequest(fids=[fid_to_wire(Fid(VOLUME, 98, 5))])
        assert (await call(host, at.files.BulkStatus, bulk)).results[0].abort_code
        assert at.callbacks.give_up_all(HOLDER) == 0


async def test_bulk_status_of_a_volume_that_goes_away(tmp_path: Path) -> None:
    """What was read before is answered, the rest is VBUSY, and none of it is promised."""
    async with rig(tmp_path) as at:
        file, host = make_file(at), await at.host(HOLDER)
        at.volume.cold = True
        gate = at.volume.gates["vnode"]
        gate.close()
        request = pb.BulkStatusRequest(fids=[fid_to_wire(file), fid_to_wire(ROOT)])
        answer = call(host, at.files.BulkStatus, request)
        await gate.arrived()
        taking = operate(at, "NEEDVOLUME")
        await settle()
        gate.open()
        codes = [result.abort_code for result in (await answer).results]
        assert codes == [AfsCode.VBUSY, AfsCode.VBUSY]
        await taking
        assert at.callbacks.give_up_all(HOLDER) == 0


# --- changes --------------------------------------------------------------------------------------


async def test_the_writer_is_not_promised_what_is_past(tmp_path: Path) -> None:
    """Another change while the first writer waits for acks: its reply carries no promise."""
    async with rig(tmp_path) as at:
        file, writer = make_file(at), await at.host(WRITER)
        holder = await holder_of(at, file)
        first = call(writer, at.files.StoreStatus, store_status(file, 0o600))
        told = await holder.next_break()
        second = call(await at.host(OTHER), at.files.StoreStatus, store_status(file, 0o640))
        await until(lambda: at.volume.vnode(file).mode == 0o640)
        await settle()
        assert not second.done(), "the holder may still show what is older than both changes"
        holder.ack(told)
        assert (await second).HasField("callback")
        answer = await first
        assert answer.status.mode == 0o600
        assert not answer.HasField("callback")


async def test_the_writer_is_answered_after_the_break(tmp_path: Path) -> None:
    """I3 for writers: no answer while a holder has not acknowledged; then with a promise."""
    async with rig(tmp_path) as at:
        file, writer = make_file(at), await at.host(WRITER)
        holder = await holder_of(at, file)
        answer = call(writer, at.files.StoreStatus, store_status(file, 0o600))
        told = await holder.next_break()
        await settle()
        assert not answer.done()
        holder.ack(told)
        assert (await answer).HasField("callback")


async def test_a_writer_that_hangs_up_costs_nobody_its_break(tmp_path: Path) -> None:
    """I4: the change is committed after its caller is gone, and the holders hear of it."""
    async with rig(tmp_path) as at:
        file, writer = make_file(at), await at.host(WRITER)
        holder = await holder_of(at, file)
        gate = at.volume.gates["apply"]
        gate.close()
        answer = call(writer, at.files.StoreStatus, store_status(file, 0o600))
        await gate.arrived()
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        gate.open()
        told = await holder.next_break()
        assert told.reason == int(BreakReason.STATUS_CHANGED)
        holder.ack(told)
        await at.files.finish()
        assert at.volume.vnode(file).mode == 0o600


@pytest.mark.parametrize("hangs_up", [False, True])
async def test_a_writer_that_hangs_up_does_not_keep_its_promise(
    tmp_path: Path, *, hangs_up: bool
) -> None:
    """I4: nobody will tell it the new status, however long after its call the commit comes."""
    async with rig(tmp_path) as at:
        file, writer = make_file(at), await at.host(WRITER)
        await call(writer, at.files.FetchStatus, status_of(file))
        gate = at.volume.gates["apply"]
        gate.close()
        answer = call(writer, at.files.StoreStatus, store_status(file, 0o600))
        await gate.arrived()
        if hangs_up:
            answer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await answer
        gate.open()
        if hangs_up:
            writer.ack(await writer.next_break())
            await at.files.finish()
        else:
            assert (await answer).HasField("callback")
            assert writer.was_sent_nothing


async def test_data_belongs_to_the_change_once_it_is_being_applied(tmp_path: Path) -> None:
    """A StoreData cancelled during its commit is committed whole: nobody discards its data."""
    async with rig(tmp_path) as at:
        file, writer = make_file(at), await at.host(WRITER)
        gate = at.volume.gates["apply"]
        gate.close()
        answer = call(writer, at.files.StoreData, requests(file, b"new"))
        await gate.arrived()
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        await settle()
        gate.open()
        await at.files.finish()
        with at.volume.snapshot(file) as snapshot:
            assert snapshot.read(0, 10) == b"new"


async def test_a_cancelled_store_is_discarded(tmp_path: Path) -> None:
    """A StoreData cancelled while its data is staged leaves nothing held and nothing changed."""
    async with rig(tmp_path) as at:
        file, writer = make_file(at), await at.host(WRITER)
        gate = at.volume.gates["stage"]
        gate.close()
        answer = call(writer, at.files.StoreData, requests(file, b"new"))
        await gate.arrived()
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        gate.open()
        assert (await operate(at, "NEEDVOLUME")).response == fssync_pb2.FSYNC_OK
        assert at.volume.header().used_kib == 2


async def requests(file: Fid, *pieces: bytes) -> AsyncIterator[pb.StoreDataRequest]:
    """The messages of a StoreData."""
    yield pb.StoreDataRequest(open=pb.StoreDataOpen(fid=fid_to_wire(file)))
    for piece in pieces:
        yield pb.StoreDataRequest(data=piece)


# --- streams --------------------------------------------------------------------------------------


async def test_a_cancelled_open_leaves_no_snapshot_behind(tmp_path: Path) -> None:
    """The thread cannot be cancelled: what it opens is closed when it comes back."""
    async with rig(tmp_path) as at:
        file, host = make_file(at), await at.host(HOLDER)
        gate = at.volume.gates["snapshot"]
        gate.close()

        async def fetch() -> None:
            calling_host.set(host.uuid)
            request = pb.FetchDataRequest(fid=fid_to_wire(file))
            async for _ in at.files.FetchData(request, NO_CONTEXT):
                pass

        answer = asyncio.create_task(fetch())
        await gate.arrived()
        answer.cancel()
        with pytest.raises(asyncio.CancelledError):
            await answer
        assert at.volume.open_snapshots == 1
        gate.open()
        await until(lambda: at.volume.open_snapshots == 0)


async def test_a_reader_that_hangs_up_leaves_no_snapshot_behind(tmp_path: Path) -> None:
    """A stream closed between two pieces lets go of the file."""
    async with rig(tmp_path) as at:
        file = make_file(at)
        fetch = at.files.FetchData(pb.FetchDataRequest(fid=fid_to_wire(file)), NO_CONTEXT)
        assert isinstance(fetch, AsyncGenerator)
        await anext(fetch)
        assert at.volume.open_snapshots == 1
        await fetch.aclose()
        await until(lambda: at.volume.open_snapshots == 0)


async def test_taking_a_volume_closes_what_sleeping_streams_hold(tmp_path: Path) -> None:
    """A reader that reads nothing holds no volume up, and is told VBUSY when it goes on."""
    size = 3 << 20
    async with rig(tmp_path) as at:
        file = make_file(at)
        volume = at.volume
        staged = volume.stage(file, 0)
        staged.write(bytes(size))
        staged.finish()
        at.commit(StoreData(file, staged))
        fetch = at.files.FetchData(pb.FetchDataRequest(fid=fid_to_wire(file)), NO_CONTEXT)
        await anext(fetch)
        assert (await operate(at, "NEEDVOLUME")).response == fssync_pb2.FSYNC_OK
        assert volume.open_snapshots == 0
        assert volume.is_closed
        async with refused(AfsCode.VBUSY):
            async for _ in fetch:
                pass


# --- FSSync ---------------------------------------------------------------------------------------


async def test_taking_a_volume_waits_for_what_runs_and_for_nothing_else(tmp_path: Path) -> None:
    """While it is CHANGING others hear VBUSY, and looking and breaking wait for nobody."""
    async with rig(tmp_path) as at:
        file, host = make_file(at), await at.host(HOLDER)
        at.volume.cold = True
        gate = at.volume.gates["vnode"]
        gate.close()
        answer = call(host, at.files.FetchStatus, status_of(file))
        await gate.arrived()
        taking = operate(at, "NEEDVOLUME")
        await settle()
        async with refused(AfsCode.VBUSY):
            at.table.use(VOLUME)
        assert at.table.entry(VOLUME).state.name == "CHANGING"
        second = operate(at, "NEEDVOLUME", "another")
        await settle()
        assert not taking.done()
        assert not second.done()
        assert not at.volume.is_closed
        gate.open()
        assert (await taking).volume.state == fssync_pb2.VOLUME_STATE_CHECKED_OUT
        assert (await second).reason == fssync_pb2.FSYNC_EXCLUSIVE
        async with refused(AfsCode.VBUSY):
            await answer


async def test_a_commit_under_way_is_finished_before_the_volume_goes(tmp_path: Path) -> None:
    """What the writer is answered is in the volume that the volserver gets."""
    async with rig(tmp_path) as at:
        writer = await at.host(WRITER)
        gate = at.volume.gates["apply"]
        gate.close()
        request = pb.CreateFileRequest(directory=fid_to_wire(ROOT), name="a")
        answer = call(writer, at.files.CreateFile, request)
        await gate.arrived()
        taking = operate(at, "NEEDVOLUME")
        await settle()
        assert not at.volume.is_closed
        gate.open()
        made = await answer
        assert made.status.link_count == 1
        assert not made.HasField("callback"), "a promise on a volume that is gone"
        assert (await taking).volume.change_counter == at.volume.header().change_counter


async def test_a_caller_that_hangs_up_leaves_no_volume_half_taken(tmp_path: Path) -> None:
    """T21: the operation runs to its end; the next one finds a volume that is CHECKED_OUT."""
    async with rig(tmp_path) as at:
        volume = at.volume
        volume.gates["close"].close()
        taking = operate(at, "NEEDVOLUME")
        await volume.gates["close"].arrived()
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        volume.gates["close"].open()
        await at.fssync.finish()
        assert at.table.entry(VOLUME).state.name == "CHECKED_OUT"
        assert (await operate(at, "VOL_ON")).response == fssync_pb2.FSYNC_OK


async def test_a_caller_that_hangs_up_costs_nobody_the_break(tmp_path: Path) -> None:
    """I4, T21: a give-back whose caller is gone still marks."""
    async with rig(tmp_path) as at:
        file = make_file(at)
        await holder_of(at, file)
        await operate(at, "NEEDVOLUME")
        giving = operate(at, "VOL_ON")
        await asyncio.sleep(0)
        giving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await giving
        await at.fssync.finish()
        assert at.table.entry(VOLUME).state.name == "ONLINE"
        assert at.callbacks.wake_worker.is_set()
        assert not at.callbacks.may_answer(HOLDER)


async def test_nothing_runs_between_online_and_the_mark(tmp_path: Path) -> None:
    """No call can be answered from the new volume before the old promises are marked."""
    async with rig(tmp_path) as at:
        file = make_file(at)
        await holder_of(at, file)
        await operate(at, "NEEDVOLUME")
        giving = operate(at, "VOL_ON")
        while at.table.entry(VOLUME).state.name != "ONLINE":
            assert at.callbacks.may_answer(HOLDER)
            await asyncio.sleep(0)
        assert not at.callbacks.may_answer(HOLDER), "online, and the mark was not set"
        await giving


# --- names ----------------------------------------------------------------------------------------


async def test_a_name_replaced_during_a_lookup_is_looked_up_again(tmp_path: Path) -> None:
    """The answer is the new file: neither the removed one nor an error."""
    async with rig(tmp_path) as at:
        old, host = make_file(at), await at.host(HOLDER)

        def replace() -> None:
            at.volume.after_lookup = lambda: None
            at.commit(RemoveFile(ROOT, "a"), CreateFile(ROOT, "a"))

        at.volume.after_lookup = replace
        request = pb.LookupRequest(directory=fid_to_wire(ROOT), name="a")
        answer = await call(host, at.files.Lookup, request)
        assert answer.status.fid.vnode != old.vnode or answer.status.fid.uniquifier != old[2]
        # Older than the names, so that a client that validates by it asks for them again.
        assert answer.directory_status.data_version < at.volume.vnode(ROOT).data_version


async def test_a_name_that_keeps_changing_is_given_up_on(tmp_path: Path) -> None:
    """EAGAIN after a bounded number of attempts."""
    async with rig(tmp_path) as at:
        make_file(at)
        host = await at.host(HOLDER)

        def replace() -> None:
            at.commit(RemoveFile(ROOT, "a"), CreateFile(ROOT, "a"))

        at.volume.after_lookup = replace
        async with refused(AfsCode.EAGAIN):
            request = pb.LookupRequest(directory=fid_to_wire(ROOT), name="a")
            await call(host, at.files.Lookup, request)
