"""FileServer: status, promises and the breaks that follow changes, over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest

from afs.errors import AfsCode
from afs.limits import MAX_BULK_FIDS
from afs.types import BreakReason, Fid, VnodeType
from afs.v1 import file_server_pb2 as pb
from afs.v1 import types_pb2
from afs.wire import fid_to_wire
from tests.afsd.running import ROOT, SECOND_VOLUME, VOLUME, Client, fileserver, refused


async def test_an_attached_host_gets_status_and_promise(tmp_path: Path) -> None:
    """FetchStatus of the root: what it is, and a promise of this epoch with a life."""
    async with fileserver(tmp_path) as running:
        answer = await (await running.client()).status(ROOT)
        assert answer.status.type == VnodeType.DIRECTORY
        assert answer.status.mode == 0o755
        assert answer.callback.epoch == running.daemon.epoch
        assert answer.callback.expires_in_s == 4 * 3600


async def test_a_nameless_caller_gets_status_and_no_promise(tmp_path: Path) -> None:
    """Without afs-host-uuid there is nobody to call back."""
    async with fileserver(tmp_path) as running:
        answer = await (await running.client(anonymous=True)).status(ROOT)
        assert answer.status.type == VnodeType.DIRECTORY
        assert not answer.HasField("callback")


async def test_a_host_without_a_channel_gets_no_promise(tmp_path: Path) -> None:
    """A host that never attached cannot be called back, and is told so by the absence."""
    async with fileserver(tmp_path) as running:
        client = Client(running.daemon.addresses[0])
        try:
            assert not (await client.status(ROOT)).HasField("callback")
        finally:
            await client.close()


@pytest.mark.parametrize(
    ("fid", "code"),
    [
        (Fid(999, 1, 1), AfsCode.VNOVOL),
        (Fid(VOLUME, 7, 7), AfsCode.VNOVNODE),
        (Fid(VOLUME, 1, 2), AfsCode.VNOVNODE),
        (Fid(VOLUME, 0, 0), AfsCode.EINVAL),
        (Fid(VOLUME, 1, 0), AfsCode.EINVAL),
        (Fid(0, 1, 1), AfsCode.EINVAL),
    ],
)
async def test_a_fid_that_names_nothing_has_its_error(
    tmp_path: Path, fid: Fid, code: AfsCode
) -> None:
    """Unknown volume, unknown vnode, wrong uniquifier, malformed: each has its own code."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        async with refused(code):
            await client.status(fid)


async def test_a_missing_fid_is_malformed(tmp_path: Path) -> None:
    """A request without any Fid is told so."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        async with refused(AfsCode.EINVAL):
            await client.call(client.files.FetchStatus, pb.FetchStatusRequest())


async def test_bulk_status_answers_each_fid_by_itself(tmp_path: Path) -> None:
    """One bad Fid spoils none of the others, and the order is that of the question."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        fids = [
            fid_to_wire(fid)
            for fid in (file, Fid(999, 1, 1), ROOT, Fid(VOLUME, 7, 7), Fid(SECOND_VOLUME, 1, 1))
        ]
        fids.insert(2, types_pb2.Fid())
        answer = await client.call(client.files.BulkStatus, pb.BulkStatusRequest(fids=fids))
        codes = [result.abort_code for result in answer.results]
        assert codes == [0, AfsCode.VNOVOL, AfsCode.EINVAL, 0, AfsCode.VNOVNODE, 0]
        good = [result for result in answer.results if not result.abort_code]
        assert [result.status.fid.vnode for result in good] == [file.vnode, 1, 1]
        # Mechanism §5: bulk status counts as 22 more holders.
        assert {result.callback.expires_in_s for result in good} == {30 * 60}


async def test_bulk_status_reads_from_disk_what_is_not_in_memory(tmp_path: Path) -> None:
    """After a restart nothing is in memory, and many Fids are answered all the same."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        fids = [await client.create(f"f{number}") for number in range(150)]
    async with fileserver(tmp_path) as running:
        client = await running.client()
        request = pb.BulkStatusRequest(
            fids=[fid_to_wire(fid) for fid in [*fids, Fid(VOLUME, 8, 1)]]
        )
        answer = await client.call(client.files.BulkStatus, request)
        assert [result.status.fid.vnode for result in answer.results[:-1]] == [
            fid.vnode for fid in fids
        ]
        assert all(result.HasField("callback") for result in answer.results[:-1])


async def test_bulk_status_is_bounded(tmp_path: Path) -> None:
    """More Fids than the limit are refused as a whole."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        request = pb.BulkStatusRequest(fids=[fid_to_wire(ROOT)] * (MAX_BULK_FIDS + 1))
        async with refused(AfsCode.EINVAL):
            await client.call(client.files.BulkStatus, request)


async def test_a_change_breaks_everyone_but_the_writer(tmp_path: Path) -> None:
    """T16: exactly the other holders are told, before the writer is answered."""
    async with fileserver(tmp_path) as running:
        writer, holder, bystander = [await running.client() for _ in range(3)]
        file = await writer.create("a")
        other = await writer.create("b")
        await holder.status(file)
        await bystander.status(other)
        await writer.status(file)
        request = pb.StoreStatusRequest(
            fid=fid_to_wire(file), set_status=types_pb2.SetStatus(mode=0o600)
        )
        answer = await writer.call(writer.files.StoreStatus, request)
        assert [told.targets for told in holder.breaks] == [(tuple(file),)]
        assert holder.breaks[0].reason == BreakReason.STATUS_CHANGED
        assert writer.breaks == bystander.breaks == []
        assert answer.status.mode == 0o600
        assert answer.HasField("callback")


async def test_a_hung_holder_costs_the_writer_the_break_deadline_once(tmp_path: Path) -> None:
    """I7: a holder that never acknowledges is down after the deadline; then writes are free."""
    async with fileserver(tmp_path, break_deadline_s=0.2) as running:
        writer, holder = await running.client(), await running.client()
        file = await writer.create("a")
        await holder.status(file)
        holder.acks = False
        await writer.store(file, b"one")
        assert (await holder.broken(file)).reason == BreakReason.DATA_CHANGED
        sent = len(holder.breaks)
        await writer.store(file, b"two")
        assert len(holder.breaks) == sent


async def test_the_writer_is_promised_what_it_wrote(tmp_path: Path) -> None:
    """The promise in the reply to a change covers the next change by another."""
    async with fileserver(tmp_path) as running:
        first, second = await running.client(), await running.client()
        file = await first.create("a")
        assert (await first.store(file, b"one")).HasField("callback")
        await second.store(file, b"two")
        assert (await first.broken(file)).reason == BreakReason.DATA_CHANGED


async def test_a_removed_file_is_broken_and_its_promises_forgotten(tmp_path: Path) -> None:
    """Holders hear REMOVED; nothing of the file stays in the callback table."""
    async with fileserver(tmp_path) as running:
        writer, holder = await running.client(), await running.client()
        file = await writer.create("a")
        await holder.status(file)
        request = pb.RemoveFileRequest(directory=fid_to_wire(ROOT), name="a")
        answer = await writer.call(writer.files.RemoveFile, request)
        assert answer.status.link_count == 0
        assert (await holder.broken(file)).reason == BreakReason.REMOVED
        give_up = pb.GiveUpCallBacksRequest(fids=[fid_to_wire(file)])
        assert (await writer.call(writer.files.GiveUpCallBacks, give_up)).given_up == 0


async def test_a_promise_given_up_is_not_broken(tmp_path: Path) -> None:
    """GiveUpCallBacks: the host forgot the file and is not bothered about it."""
    async with fileserver(tmp_path) as running:
        writer, holder = await running.client(), await running.client()
        file = await writer.create("a")
        await holder.status(file)
        request = pb.GiveUpCallBacksRequest(fids=[fid_to_wire(file), fid_to_wire(ROOT)])
        assert (await holder.call(holder.files.GiveUpCallBacks, request)).given_up == 1
        await writer.store(file, b"one")
        assert holder.breaks == []


async def test_all_promises_can_be_given_up(tmp_path: Path) -> None:
    """GiveUpAllCallBacks answers how many there were."""
    async with fileserver(tmp_path) as running:
        holder = await running.client()
        file = await holder.create("a")
        await holder.status(file)
        await holder.status(ROOT)
        request = pb.GiveUpAllCallBacksRequest()
        answer = await holder.call(holder.files.GiveUpAllCallBacks, request)
        assert answer.given_up == 2


async def test_a_nameless_caller_has_nothing_to_give_up(tmp_path: Path) -> None:
    """Both methods answer 0; a Fid that is none is an error all the same."""
    async with fileserver(tmp_path) as running:
        client = await running.client(anonymous=True)
        whole = types_pb2.Fid(volume=VOLUME)
        request = pb.GiveUpCallBacksRequest(fids=[fid_to_wire(ROOT), whole])
        assert (await client.call(client.files.GiveUpCallBacks, request)).given_up == 0
        everything = pb.GiveUpAllCallBacksRequest()
        assert (await client.call(client.files.GiveUpAllCallBacks, everything)).given_up == 0
        async with refused(AfsCode.EINVAL):
            bad = pb.GiveUpCallBacksRequest(fids=[types_pb2.Fid(vnode=1)])
            await client.call(client.files.GiveUpCallBacks, bad)


@pytest.mark.parametrize(
    ("set_status", "code"),
    [
        (types_pb2.SetStatus(mode=0o10000), AfsCode.EINVAL),
        (types_pb2.SetStatus(length=2**63), AfsCode.EFBIG),
    ],
)
async def test_attributes_no_vnode_can_have_are_refused(
    tmp_path: Path, set_status: types_pb2.SetStatus, code: AfsCode
) -> None:
    """A mode or length out of range changes nothing and breaks nothing."""
    async with fileserver(tmp_path) as running:
        client, holder = await running.client(), await running.client()
        file = await client.create("a")
        before = await holder.status(file)
        async with refused(code):
            request = pb.StoreStatusRequest(fid=fid_to_wire(file), set_status=set_status)
            await client.call(client.files.StoreStatus, request)
        assert (await holder.status(file)).status == before.status
        assert holder.breaks == []
