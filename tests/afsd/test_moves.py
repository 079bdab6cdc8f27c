"""What a move asks of the fileserver: halves are not served, a volume may come to another place."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path

import pytest

from afs.errors import AfsCode
from afs.limits import DATA_PIECE_BYTES
from afs.types import BreakReason, SetStatus, root_fid
from afs.v1 import file_server_pb2 as pb
from afs.v1 import fssync_pb2
from afs.volume.partition import Partition
from afs.volume.volume import CreateFile, Mutation, SetVolumeFields, StoreData, StoreStatus
from afs.wire import fid_to_wire
from tests.afsd import gated
from tests.afsd.gated import NO_CONTEXT, rig
from tests.afsd.running import ROOT, VOLUME, RunningFileServer, fileserver, refused
from tests.conftest import LogEvents

WHOLE = (VOLUME, 0, 0)
TWO = ("vicepa", "vicepb")
TOP = root_fid(gated.VOLUME)
CHANGE = StoreStatus(ROOT, SetStatus(mode=0o711))
# A partition has one holder of a name at a time; here they come and go without care.
_holders = count()


async def on_disk(root: Path, partition: str, work: Callable[[Partition], None]) -> None:
    """What a volserver does on a partition."""
    path = root / partition
    await asyncio.to_thread(lambda: work(Partition.open(path, holder=f"mover{next(_holders)}")))


async def change(root: Path, partition: str, *mutations: Mutation) -> None:
    """Changes the volume on one of the partitions."""

    def work(opened: Partition) -> None:
        volume = opened.open_volume(VOLUME)
        volume.apply(mutations)
        volume.close()

    await on_disk(root, partition, work)


async def mark(root: Path, partition: str, *, in_transit: bool) -> None:
    """Says, or says no more, that the copy on a partition is half of a move."""
    await change(root, partition, SetVolumeFields(in_transit=in_transit))


async def copy(root: Path, *, in_transit: bool = True) -> None:
    """Copies the volume from vicepa to vicepb, as one half of a move and the other."""
    await mark(root, "vicepa", in_transit=in_transit)
    group = f"groups/{VOLUME}"
    await asyncio.to_thread(shutil.copytree, root / "vicepa" / group, root / "vicepb" / group)


async def info(running: RunningFileServer) -> fssync_pb2.VolumeInfo:
    """What the fileserver knows of the volume."""
    return (await running.fssync("VOL_QUERY")).volume


# --- halves ---------------------------------------------------------------------------------------


async def test_a_half_is_not_served_at_the_start(tmp_path: Path) -> None:
    """V5, R7: it is taken, by whoever clears that up; clients try again meanwhile."""
    async with fileserver(tmp_path):
        pass
    await mark(tmp_path, "vicepa", in_transit=True)
    async with fileserver(tmp_path) as running:
        client = await running.client()
        half = await info(running)
        assert half.state == fssync_pb2.VOLUME_STATE_CHECKED_OUT
        assert half.program == ""
        assert "move that has not ended" in half.detail
        async with refused(AfsCode.VBUSY):
            await client.status(ROOT)
        for _ in range(2):
            answer = await running.fssync("VOL_ON")
            assert answer.response == fssync_pb2.FSYNC_DENIED
            assert answer.reason == fssync_pb2.FSYNC_BAD_STATE
            assert "move that has not ended" in answer.detail
            assert answer.volume == half
        await mark(tmp_path, "vicepa", in_transit=False)
        assert (await running.fssync("VOL_ON")).response == fssync_pb2.FSYNC_OK
        await client.status(ROOT)


async def test_a_half_that_arrives_is_not_served(tmp_path: Path) -> None:
    """V5: a volume nobody knows of stays unknown until its mark is cleared."""
    async with fileserver(tmp_path) as running:
        await running.fssync("NEEDVOLUME")
        await running.fssync("VOL_MOVE")
        await mark(tmp_path, "vicepa", in_transit=True)
        answer = await running.fssync("VOL_ON")
        assert answer.reason == fssync_pb2.FSYNC_BAD_STATE
        assert answer.volume.state == fssync_pb2.VOLUME_STATE_MOVED
    async with fileserver(tmp_path, partitions=TWO) as running:
        await running.fssync("NEEDVOLUME", reason=fssync_pb2.FSYNC_FOR_DELETE)
        await running.fssync("VOL_DONE")
        answer = await running.fssync("VOL_ON", partition="vicepa")
        assert answer.reason == fssync_pb2.FSYNC_BAD_STATE
        assert (await running.fssync("VOL_QUERY")).response == fssync_pb2.FSYNC_UNKNOWN_VOLUME


@pytest.mark.parametrize("cleared", TWO)
async def test_the_copy_without_the_mark_is_the_volume(
    tmp_path: Path, log_events: LogEvents, cleared: str
) -> None:
    """V5, R7: of two copies on one fileserver, wherever they are; the half is left alone."""
    async with fileserver(tmp_path, partitions=TWO):
        pass
    await copy(tmp_path)
    await mark(tmp_path, cleared, in_transit=False)
    async with fileserver(tmp_path, partitions=TWO) as running:
        client = await running.client()
        assert (await client.status(ROOT)).HasField("callback")
        served = await info(running)
        assert served.state == fssync_pb2.VOLUME_STATE_ONLINE
        assert served.partition == cleared
        (other,) = set(TWO) - {cleared}
        assert log_events.named("volume.copy_ignored")[0]["partition"] == other
        answer = await running.fssync("NEEDVOLUME", partition=other)
        assert answer.reason == fssync_pb2.FSYNC_WRONG_PARTITION
        await on_disk(tmp_path, other, lambda partition: partition.delete_volume(VOLUME))
        await client.status(ROOT)


async def test_two_halves_are_left_to_the_volserver(tmp_path: Path) -> None:
    """V5: neither is served; the one that it clears is, wherever that is."""
    async with fileserver(tmp_path, partitions=TWO):
        pass
    await copy(tmp_path)
    async with fileserver(tmp_path, partitions=TWO) as running:
        assert (await info(running)).state == fssync_pb2.VOLUME_STATE_CHECKED_OUT
        await mark(tmp_path, "vicepb", in_transit=False)
        answer = await running.fssync("VOL_ON", partition="vicepb")
        assert answer.response == fssync_pb2.FSYNC_OK
        assert (await info(running)).partition == "vicepb"


async def test_a_volume_deleted_during_the_start_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleted between listing and attaching it is unknown, not in error."""
    async with fileserver(tmp_path):
        pass
    found = Partition.volumes
    gone: list[int] = []

    def volumes(partition: Partition) -> list[int]:
        ids = found(partition)
        if VOLUME in ids and not gone:
            gone.append(VOLUME)
            partition.delete_volume(VOLUME)
        return ids

    monkeypatch.setattr(Partition, "volumes", volumes)
    async with fileserver(tmp_path) as running:
        assert gone
        answer = await running.fssync("VOL_QUERY")
        assert answer.response == fssync_pb2.FSYNC_UNKNOWN_VOLUME


# --- another partition ----------------------------------------------------------------------------


async def test_a_volume_comes_to_another_partition_unnoticed(tmp_path: Path) -> None:
    """M5b: the same incarnation and change counter, so nothing is broken; it is served from there.

    As a move within one fileserver does it, marks and all.
    """
    async with fileserver(tmp_path, partitions=TWO) as running:
        client = await running.client()
        file = await client.create("a")
        await client.store(file, b"before")
        await client.status(file)
        await running.fssync("NEEDVOLUME", reason=fssync_pb2.FSYNC_FOR_MOVE)
        await copy(tmp_path)
        answer = await running.fssync("VOL_ON", partition="vicepb")
        assert answer.reason == fssync_pb2.FSYNC_BAD_STATE, "the mark is still on it"
        assert (await info(running)).partition == "vicepa"
        await mark(tmp_path, "vicepb", in_transit=False)
        answer = await running.fssync("VOL_ON", partition="vicepb")
        assert answer.response == fssync_pb2.FSYNC_OK
        assert answer.callbacks_marked == 0
        assert answer.volume.partition == "vicepb"
        await on_disk(tmp_path, "vicepa", lambda partition: partition.delete_volume(VOLUME))
        assert (await client.fetch(file))[1] == b"before"
        await client.store(file, b"beyond")
        assert client.breaks == []
    async with fileserver(tmp_path, partitions=TWO) as running:
        assert (await (await running.client()).fetch(file))[1] == b"beyond"


async def test_a_volume_changed_on_the_way_is_broken(tmp_path: Path) -> None:
    """M5b: what comes to another partition with another counter is a change."""
    async with fileserver(tmp_path, partitions=TWO) as running:
        client = await running.client()
        await client.status(ROOT)
        await running.fssync("NEEDVOLUME", reason=fssync_pb2.FSYNC_FOR_MOVE)
        await copy(tmp_path, in_transit=False)
        await change(tmp_path, "vicepb", CHANGE)
        assert (await running.fssync("VOL_ON", partition="vicepb")).callbacks_marked == 1
        await client.broken(WHOLE)
        assert (await client.status(ROOT)).status.mode == 0o711


async def test_a_volume_goes_off_line_on_another_partition(tmp_path: Path) -> None:
    """What was off-line before its move stays so, and comes on-line where it is now."""
    async with fileserver(tmp_path, partitions=TWO) as running:
        await running.fssync("NEEDVOLUME")
        await copy(tmp_path, in_transit=False)
        answer = await running.fssync("VOL_LEAVE_OFF", partition="vicepb")
        assert answer.volume.state == fssync_pb2.VOLUME_STATE_OFFLINE
        assert answer.volume.partition == "vicepb"
        assert (await running.fssync("VOL_ON")).volume.partition == "vicepb"


async def test_a_volume_comes_to_another_partition_by_its_taker_only(tmp_path: Path) -> None:
    """V1, V4: not by another program, not where it is not, not while it is on-line or off-line."""
    async with fileserver(tmp_path, partitions=TWO) as running:

        async def denied(program: str = "volserver", partition: str = "vicepb") -> int:
            before = await info(running)
            answer = await running.fssync("VOL_ON", program=program, partition=partition)
            assert answer.response == fssync_pb2.FSYNC_DENIED
            assert answer.detail
            assert await info(running) == before
            return answer.reason

        assert await denied() == fssync_pb2.FSYNC_WRONG_PARTITION
        await running.fssync("VOL_OFF")
        assert await denied() == fssync_pb2.FSYNC_WRONG_PARTITION
        await running.fssync("NEEDVOLUME")
        assert await denied() == fssync_pb2.FSYNC_WRONG_PARTITION
        await copy(tmp_path, in_transit=False)
        assert await denied("another") == fssync_pb2.FSYNC_WRONG_PARTITION
        assert await denied(partition="vicepz") == fssync_pb2.FSYNC_WRONG_PARTITION
        assert (await running.fssync("VOL_ON", partition="vicepa")).response == fssync_pb2.FSYNC_OK


async def test_a_copy_that_is_damaged_leaves_the_volume_in_error(tmp_path: Path) -> None:
    """T21: nobody can vouch for it; its taker can still put the old copy on-line."""
    async with fileserver(tmp_path, partitions=TWO) as running:
        client = await running.client()
        await client.status(ROOT)
        await running.fssync("NEEDVOLUME")
        await copy(tmp_path, in_transit=False)
        database = tmp_path / "vicepb" / "groups" / str(VOLUME) / f"{VOLUME}.db"
        database.write_bytes(database.read_bytes()[:3000])
        answer = await running.fssync("VOL_ON", partition="vicepb")
        assert answer.reason == fssync_pb2.FSYNC_DAMAGED
        assert answer.volume.state == fssync_pb2.VOLUME_STATE_ERROR
        assert answer.volume.partition == "vicepb"
        await client.broken(WHOLE)
        await running.fssync("NEEDVOLUME", reason=fssync_pb2.FSYNC_FOR_RESTORE)
        answer = await running.fssync("VOL_ON", partition="vicepa")
        assert answer.response == fssync_pb2.FSYNC_OK
        await client.status(ROOT)


async def test_a_volume_that_moved_away_comes_back_elsewhere(tmp_path: Path) -> None:
    """VMOVED until then; it may come back to any partition."""
    async with fileserver(tmp_path, partitions=TWO) as running:
        client = await running.client()
        await running.fssync("NEEDVOLUME")
        await running.fssync("VOL_MOVE")
        await copy(tmp_path, in_transit=False)
        await on_disk(tmp_path, "vicepa", lambda partition: partition.delete_volume(VOLUME))
        await running.fssync("VOL_DONE")
        async with refused(AfsCode.VMOVED):
            await client.status(ROOT)
        answer = await running.fssync("VOL_ON", partition="vicepb")
        assert answer.response == fssync_pb2.FSYNC_OK
        await client.status(ROOT)


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commands", "code"),
    [
        (("NEEDVOLUME", "VOL_MOVE"), AfsCode.VMOVED),
        (("NEEDVOLUME", "VOL_MOVE", "VOL_DONE"), AfsCode.VMOVED),
        (("NEEDVOLUME", "VOL_DONE"), AfsCode.VNOVOL),
        (("NEEDVOLUME", "VOL_ON"), AfsCode.VBUSY),
        (("NEEDVOLUME", "VOL_LEAVE_OFF"), AfsCode.VOFFLINE),
    ],
)
async def test_streams_are_told_what_became_of_their_volume(
    tmp_path: Path, commands: tuple[str, ...], code: AfsCode
) -> None:
    """A client in the middle of a file goes at once where the volume is, not after having retried.

    For FetchData and StoreData that began before the volume was taken and go on after the move.
    """
    piece = bytes(DATA_PIECE_BYTES)
    async with rig(tmp_path) as at:
        vnodes = [outcome.vnode for outcome in at.commit(*(CreateFile(TOP, each) for each in "ab"))]
        file, other = (vnode.fid for vnode in vnodes if vnode is not None)
        staged = at.volume.stage(file, 0)
        staged.write(3 * piece)
        staged.finish()
        at.commit(StoreData(file, staged))
        fetch = at.files.FetchData(pb.FetchDataRequest(fid=fid_to_wire(file)), NO_CONTEXT)
        await anext(fetch)
        began, go_on = asyncio.Event(), asyncio.Event()

        async def requests() -> AsyncIterator[pb.StoreDataRequest]:
            yield pb.StoreDataRequest(open=pb.StoreDataOpen(fid=fid_to_wire(other)), data=piece)
            began.set()
            await go_on.wait()
            yield pb.StoreDataRequest(data=piece)

        storing = asyncio.create_task(at.files.StoreData(requests(), NO_CONTEXT))
        await began.wait()
        for command in commands:
            answer = await at.fssync.VolumeOp(
                fssync_pb2.VolumeOpRequest(
                    command=fssync_pb2.FsyncCommand.Value(f"FSYNC_{command}"),
                    volume_id=at.volume.volume_id,
                    program="volserver",
                ),
                NO_CONTEXT,
            )
            assert answer.response == fssync_pb2.FSYNC_OK
        go_on.set()
        async with refused(code):
            async for _ in fetch:
                pass
        async with refused(code):
            await storing


async def test_a_move_is_told_as_such(tmp_path: Path) -> None:
    """Its holders hear VOLUME_MOVED, acknowledged before they are answered VMOVED (I3)."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        await client.status(ROOT)
        await running.fssync("NEEDVOLUME", reason=fssync_pb2.FSYNC_FOR_MOVE)
        await running.fssync("VOL_MOVE")
        async with refused(AfsCode.VMOVED):
            await client.status(ROOT)
        assert [told.reason for told in client.breaks] == [BreakReason.VOLUME_MOVED]
