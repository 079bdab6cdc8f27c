"""FSSync over its socket: volumes taken, given back, and what their clients hear of it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count
from pathlib import Path

import grpc.aio
import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES
from afs.types import BreakReason, root_fid
from afs.v1 import file_server_pb2 as pb
from afs.v1 import fssync_pb2
from afs.volume.partition import Partition
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import CreateFile
from afs.wire import fid_to_wire
from tests.afsd.running import (
    PATIENCE_S,
    ROOT,
    SECOND_VOLUME,
    VOLUME,
    Break,
    Client,
    RunningFileServer,
    fileserver,
    refused,
)

WHOLE = (VOLUME, 0, 0)


class VolServer:
    """What a volserver does with a volume between taking it and giving it back."""

    # A partition has one holder of a name at a time; here they come and go without care.
    _holders = count()

    def __init__(self, root: Path) -> None:
        self._path = root / "vicepa"

    def _partition(self) -> Partition:
        return Partition.open(self._path, holder=f"volserver{next(self._holders)}")

    async def open(self) -> SqliteVolume:
        """The volume, which nobody else may have open."""
        return await asyncio.to_thread(lambda: self._partition().open_volume(VOLUME))

    async def look(self) -> None:
        """Opens the volume and closes it, unchanged."""
        await asyncio.to_thread((await self.open()).close)

    async def change(self, name: str = "changed") -> None:
        """Makes a file in the volume's root directory."""
        opened = await self.open()
        await asyncio.to_thread(opened.apply, [CreateFile(ROOT, name)])
        await asyncio.to_thread(opened.close)

    async def create(self, volume: int) -> None:
        """A new volume."""

        def create() -> None:
            self._partition().create_volume(volume_id=volume, name=f"v{volume}").close()

        await asyncio.to_thread(create)

    async def delete(self) -> None:
        """Deletes the volume."""
        await asyncio.to_thread(lambda: self._partition().delete_volume(VOLUME))


async def state(running: RunningFileServer, volume: int = VOLUME) -> int:
    """The volume's state, as FSSync sees it."""
    return (await running.fssync("VOL_QUERY", volume)).volume.state


def of_volume(client: Client) -> list[Break]:
    """The whole-volume breaks that a client was sent."""
    return [told for told in client.breaks if told.targets == (WHOLE,)]


async def test_a_taken_volume_is_the_volservers_alone(tmp_path: Path) -> None:
    """NEEDVOLUME answers when the fileserver has let go; clients hear VBUSY meanwhile."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        taken = await running.fssync("NEEDVOLUME", reason=fssync_pb2.FSYNC_FOR_CLONE)
        assert taken.response == fssync_pb2.FSYNC_OK
        assert taken.volume.state == fssync_pb2.VOLUME_STATE_CHECKED_OUT
        assert taken.volume.program == "volserver"
        assert taken.volume.taken_for == fssync_pb2.FSYNC_FOR_CLONE
        await VolServer(tmp_path).look()
        async with refused(AfsCode.VBUSY):
            await client.status(ROOT)
        async with refused(AfsCode.VBUSY):
            await client.create("a")
        assert (await client.status(root_fid(SECOND_VOLUME))).HasField("callback")


async def test_a_volume_given_back_unchanged_is_not_broken(tmp_path: Path) -> None:
    """M5b: its change counter proves that nothing changed, so promises stay good."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        await client.status(ROOT)
        await running.fssync("NEEDVOLUME")
        await VolServer(tmp_path).look()
        answer = await running.fssync("VOL_ON")
        assert answer.response == fssync_pb2.FSYNC_OK
        assert answer.callbacks_marked == 0
        await client.status(ROOT)
        assert client.breaks == []


async def test_a_changed_volume_is_broken_when_given_back(tmp_path: Path) -> None:
    """M1-M5: every holder hears one message for the whole volume, and reads the new state."""
    async with fileserver(tmp_path) as running:
        clients = [await running.client() for _ in range(3)]
        for client in clients:
            await client.status(ROOT)
        await running.fssync("NEEDVOLUME")
        await VolServer(tmp_path).change()
        answer = await running.fssync("VOL_ON")
        assert answer.callbacks_marked == 3
        for client in clients:
            assert (await client.broken(WHOLE)).reason == BreakReason.VOLUME_GIVEN_BACK
            assert await client.names() == ["changed"]
            assert len(of_volume(client)) == 1


async def test_a_frozen_client_delays_no_ack(tmp_path: Path) -> None:
    """I2: though a holder never acknowledges, breaks and give-backs are answered."""
    async with fileserver(tmp_path, break_deadline_s=60) as running:
        frozen = await running.client()
        await frozen.status(ROOT)
        frozen.acks = False
        for _ in range(3):
            answer = await running.fssync("VOL_BREAKCBKS", program="")
            assert answer.response == fssync_pb2.FSYNC_OK
        assert (await frozen.broken(WHOLE)).reason == BreakReason.VOLUME_BREAK_REQUESTED
        await running.fssync("NEEDVOLUME")
        assert (await running.fssync("VOL_ON")).response == fssync_pb2.FSYNC_OK


async def test_a_call_before_the_mark_is_not_answered_with_old_state(tmp_path: Path) -> None:
    """I3: a client reads nothing old after a give-back was acknowledged, however it is timed."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        for turn in range(10):
            await client.status(ROOT)
            await running.fssync("NEEDVOLUME")
            await VolServer(tmp_path).change(f"turn{turn}")
            await running.fssync("VOL_ON")
            assert len(await client.names()) == turn + 1


async def test_two_programs_never_have_one_volume(tmp_path: Path) -> None:
    """V1: the second is refused, cannot give back, and is told who has it."""
    async with fileserver(tmp_path) as running:
        await running.fssync("NEEDVOLUME")
        for command, reason in (
            ("NEEDVOLUME", fssync_pb2.FSYNC_EXCLUSIVE),
            ("VOL_OFF", fssync_pb2.FSYNC_EXCLUSIVE),
            ("VOL_ATTACH", fssync_pb2.FSYNC_EXCLUSIVE),
            ("VOL_ON", fssync_pb2.FSYNC_WRONG_OWNER),
            ("VOL_LEAVE_OFF", fssync_pb2.FSYNC_WRONG_OWNER),
            ("VOL_MOVE", fssync_pb2.FSYNC_WRONG_OWNER),
            ("VOL_DONE", fssync_pb2.FSYNC_WRONG_OWNER),
        ):
            answer = await running.fssync(command, program="another")
            assert (answer.response, answer.reason) == (fssync_pb2.FSYNC_DENIED, reason)
            assert "volserver" in answer.detail
        assert (await running.fssync("NEEDVOLUME")).response == fssync_pb2.FSYNC_OK
        assert (await running.fssync("VOL_ON")).response == fssync_pb2.FSYNC_OK


async def test_of_two_that_ask_at_once_one_gets_it(tmp_path: Path) -> None:
    """R8: however many ask in the same moment."""
    async with fileserver(tmp_path) as running:
        answers = await asyncio.gather(
            *(running.fssync("NEEDVOLUME", program=f"program{number}") for number in range(8))
        )
        codes = [answer.response for answer in answers]
        assert codes.count(fssync_pb2.FSYNC_OK) == 1
        assert codes.count(fssync_pb2.FSYNC_DENIED) == 7


async def test_a_volume_left_off_line_is_not_served(tmp_path: Path) -> None:
    """VOFFLINE with the reason; holders are broken at once; VOL_ON brings it back."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        request = pb.SetVolumeStatusRequest(volume=VOLUME, offline_message="until noon")
        await client.call(client.files.SetVolumeStatus, request)
        await client.status(ROOT)
        await running.fssync("NEEDVOLUME")
        answer = await running.fssync("VOL_LEAVE_OFF")
        assert answer.volume.state == fssync_pb2.VOLUME_STATE_OFFLINE
        assert answer.callbacks_marked == 1
        await client.broken(WHOLE)
        with pytest.raises(AfsError, match="until noon"):
            await client.status(ROOT)
        async with refused(AfsCode.VOFFLINE):
            await client.status(ROOT)
        told = await client.call(
            client.files.GetVolumeStatus, pb.GetVolumeStatusRequest(volume=VOLUME)
        )
        assert not told.status.online
        assert told.status.offline_message == "until noon"
        await running.fssync("VOL_ON", program="afsctl")
        assert (await client.status(ROOT)).HasField("callback")


async def test_an_operator_takes_a_volume_off_line_and_on_again(tmp_path: Path) -> None:
    """VOL_OFF and VOL_ON, each idempotent; unchanged, so nothing is broken."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        await client.status(ROOT)
        for command, expected in (
            ("VOL_OFF", fssync_pb2.VOLUME_STATE_OFFLINE),
            ("VOL_OFF", fssync_pb2.VOLUME_STATE_OFFLINE),
            ("VOL_ON", fssync_pb2.VOLUME_STATE_ONLINE),
            ("VOL_ON", fssync_pb2.VOLUME_STATE_ONLINE),
        ):
            answer = await running.fssync(command, program="afsctl")
            assert (answer.response, answer.volume.state) == (fssync_pb2.FSYNC_OK, expected)
        await client.status(ROOT)
        assert client.breaks == []


async def test_a_deleted_volume_is_forgotten(tmp_path: Path) -> None:
    """VOL_DONE: holders are broken, the volume is unknown, and so is its name on disk."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        await client.status(ROOT)
        await running.fssync("NEEDVOLUME", reason=fssync_pb2.FSYNC_FOR_DELETE)
        await VolServer(tmp_path).delete()
        assert (await running.fssync("VOL_DONE")).callbacks_marked == 1
        assert (await client.broken(WHOLE)).reason == BreakReason.VOLUME_DELETED
        async with refused(AfsCode.VNOVOL):
            await client.status(ROOT)
        answer = await running.fssync("VOL_QUERY")
        assert answer.response == fssync_pb2.FSYNC_UNKNOWN_VOLUME


async def test_a_moved_volume_is_told_so(tmp_path: Path) -> None:
    """VOL_MOVE: VMOVED from now on, also after the old copy was deleted; it may come back."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        await client.status(ROOT)
        await running.fssync("NEEDVOLUME", reason=fssync_pb2.FSYNC_FOR_MOVE)
        await running.fssync("VOL_MOVE")
        assert (await client.broken(WHOLE)).reason == BreakReason.VOLUME_MOVED
        for _ in range(2):
            async with refused(AfsCode.VMOVED):
                await client.status(ROOT)
            async with refused(AfsCode.VMOVED):
                request = pb.GetVolumeStatusRequest(volume=VOLUME)
                await client.call(client.files.GetVolumeStatus, request)
            await running.fssync("VOL_DONE")
        assert (await running.fssync("VOL_ON")).response == fssync_pb2.FSYNC_OK
        await client.status(ROOT)


@pytest.mark.parametrize("command", ["VOL_ON", "VOL_ATTACH"])
async def test_a_new_volume_is_introduced(tmp_path: Path, command: str) -> None:
    """A volume made while the fileserver runs is served once it is introduced."""
    new = 536870950
    async with fileserver(tmp_path) as running:
        client = await running.client()
        await VolServer(tmp_path).create(new)
        async with refused(AfsCode.VNOVOL):
            await client.status(root_fid(new))
        answer = await running.fssync(command, new, partition="vicepa")
        assert answer.response == fssync_pb2.FSYNC_OK
        assert answer.volume.name == f"v{new}"
        assert (await client.status(root_fid(new))).HasField("callback")


async def test_what_is_not_on_disk_is_not_introduced(tmp_path: Path) -> None:
    """UNKNOWN_VOLUME, and it stays unknown; a wrong partition is told apart."""
    async with fileserver(tmp_path) as running:
        for _ in range(2):
            answer = await running.fssync("VOL_ON", 999)
            assert answer.response == fssync_pb2.FSYNC_UNKNOWN_VOLUME
            assert answer.reason == fssync_pb2.FSYNC_NO_VOLUME
        for volume in (999, VOLUME):
            answer = await running.fssync("VOL_OFF", volume, partition="vicepz")
            assert answer.response == fssync_pb2.FSYNC_DENIED
            assert answer.reason == fssync_pb2.FSYNC_WRONG_PARTITION
        answer = await running.fssync("VOL_BREAKCBKS", partition="vicepz")
        assert answer.reason == fssync_pb2.FSYNC_WRONG_PARTITION
        assert await state(running) == fssync_pb2.VOLUME_STATE_ONLINE


async def test_a_volume_that_another_still_has_open_is_not_attached(tmp_path: Path) -> None:
    """Given back too early: EXCLUSIVE, it stays taken, and the owner can try again."""
    async with fileserver(tmp_path) as running:
        await running.fssync("NEEDVOLUME")
        opened = await VolServer(tmp_path).open()
        answer = await running.fssync("VOL_ON")
        assert answer.response == fssync_pb2.FSYNC_FAILED
        assert answer.reason == fssync_pb2.FSYNC_EXCLUSIVE
        assert await state(running) == fssync_pb2.VOLUME_STATE_CHECKED_OUT
        await asyncio.to_thread(opened.close)
        assert (await running.fssync("VOL_ON")).response == fssync_pb2.FSYNC_OK


async def test_a_volume_given_back_damaged_is_not_served(tmp_path: Path) -> None:
    """T21: ERROR, holders broken, VSALVAGE; repaired and attached it is served again."""
    database = tmp_path / "vicepa" / "groups" / str(VOLUME) / f"{VOLUME}.db"
    async with fileserver(tmp_path) as running:
        client = await running.client()
        await client.status(ROOT)
        await running.fssync("NEEDVOLUME")
        good = database.read_bytes()
        database.write_bytes(good[: len(good) // 2])
        answer = await running.fssync("VOL_ON")
        assert answer.response == fssync_pb2.FSYNC_FAILED
        assert answer.reason == fssync_pb2.FSYNC_DAMAGED
        assert answer.volume.state == fssync_pb2.VOLUME_STATE_ERROR
        await client.broken(WHOLE)
        async with refused(AfsCode.VSALVAGE):
            await client.status(ROOT)
        assert (await running.fssync("NEEDVOLUME")).reason == fssync_pb2.FSYNC_DAMAGED
        assert (await running.fssync("VOL_ON")).reason == fssync_pb2.FSYNC_BAD_STATE
        database.write_bytes(good)
        assert (await running.fssync("VOL_ATTACH")).response == fssync_pb2.FSYNC_OK
        assert (await client.status(ROOT)).HasField("callback")


async def test_a_damaged_volume_at_the_start_is_kept_apart(tmp_path: Path) -> None:
    """A truncated database stays off the network, with its state visible; the others are served."""
    async with fileserver(tmp_path) as running:
        pass
    database = tmp_path / "vicepa" / "groups" / str(VOLUME) / f"{VOLUME}.db"
    database.write_bytes(database.read_bytes()[:3000])
    async with fileserver(tmp_path) as running:
        client = await running.client()
        async with refused(AfsCode.VSALVAGE):
            await client.status(ROOT)
        async with refused(AfsCode.VSALVAGE):
            request = pb.GetVolumeStatusRequest(volume=VOLUME)
            await client.call(client.files.GetVolumeStatus, request)
        assert await state(running) == fssync_pb2.VOLUME_STATE_ERROR
        await client.status(root_fid(SECOND_VOLUME))


async def test_a_volume_forced_into_error_is_attached_again(tmp_path: Path) -> None:
    """FORCE_ERROR stops service; ATTACH starts it, with a break."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        await client.status(ROOT)
        answer = await running.fssync("VOL_FORCE_ERROR", program="afsctl")
        assert answer.volume.state == fssync_pb2.VOLUME_STATE_ERROR
        async with refused(AfsCode.VSALVAGE):
            await client.status(ROOT)
        assert (await running.fssync("VOL_ATTACH", program="afsctl")).callbacks_marked == 1
        assert (await client.broken(WHOLE)).reason == BreakReason.VOLUME_SALVAGED
        await client.status(ROOT)


async def test_a_restarted_fileserver_leaves_a_taken_volume_to_its_taker(tmp_path: Path) -> None:
    """T24: what is open elsewhere is CHECKED_OUT, by a program unknown; its taker gives it back."""
    async with fileserver(tmp_path) as running:
        await running.fssync("NEEDVOLUME")
        opened = await VolServer(tmp_path).open()
    async with fileserver(tmp_path) as running:
        client = await running.client()
        answer = await running.fssync("VOL_QUERY")
        assert answer.volume.state == fssync_pb2.VOLUME_STATE_CHECKED_OUT
        assert answer.volume.program == ""
        async with refused(AfsCode.VBUSY):
            await client.status(ROOT)
        await asyncio.to_thread(opened.close)
        assert (await running.fssync("VOL_ON")).response == fssync_pb2.FSYNC_OK
        await client.status(ROOT)


async def test_a_vnode_is_queried(tmp_path: Path) -> None:
    """QUERY_VNODE answers the status; only of an online volume, only of a vnode in it."""
    async with fileserver(tmp_path) as running:
        answer = await running.fssync("VOL_QUERY_VNODE", fid=fid_to_wire(ROOT))
        assert answer.vnode.mode == 0o755
        async with refused(AfsCode.VNOVNODE):
            await running.fssync("VOL_QUERY_VNODE", fid=fid_to_wire(ROOT._replace(vnode=9)))
        async with refused(AfsCode.EINVAL):
            await running.fssync("VOL_QUERY_VNODE", fid=fid_to_wire(root_fid(SECOND_VOLUME)))
        await running.fssync("VOL_OFF")
        answer = await running.fssync("VOL_QUERY_VNODE", fid=fid_to_wire(ROOT))
        assert answer.reason == fssync_pb2.FSYNC_BAD_STATE


async def test_volumes_are_listed(tmp_path: Path) -> None:
    """LISTVOLUMES: all, those of a partition, none of a partition that is not there."""
    async with fileserver(tmp_path) as running:
        await running.fssync("NEEDVOLUME")
        answer = await running.fssync("VOL_LISTVOLUMES", 0)
        assert [info.volume_id for info in answer.volumes] == [VOLUME, SECOND_VOLUME]
        assert answer.volumes[0].program == "volserver"
        assert {info.partition for info in answer.volumes} == {"vicepa"}
        assert answer == await running.fssync("VOL_LISTVOLUMES", 0, partition="vicepa")
        answer = await running.fssync("VOL_LISTVOLUMES", 0, partition="vicepz")
        assert answer.reason == fssync_pb2.FSYNC_WRONG_PARTITION


async def test_a_request_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """No command, no volume, no program, or an endless one: EINVAL."""
    async with fileserver(tmp_path) as running:
        for command, volume, program in (
            ("UNSPECIFIED", VOLUME, "p"),
            ("VOL_QUERY", 0, "p"),
            ("NEEDVOLUME", VOLUME, ""),
            ("NEEDVOLUME", VOLUME, "p" * 300),
        ):
            async with refused(AfsCode.EINVAL):
                await running.fssync(command, volume, program)
        async with refused(AfsCode.EINVAL):
            await running.fssync("VOL_QUERY", reason=77)


async def test_a_stream_notices_that_its_volume_is_taken(tmp_path: Path) -> None:
    """FetchData and StoreData under way end with VBUSY; neither holds NEEDVOLUME up."""
    piece = bytes(DATA_PIECE_BYTES)
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file, other = await client.create("a"), await client.create("b")
        await client.store(file, *[piece] * 30)
        fetch = client.files.FetchData(
            pb.FetchDataRequest(fid=fid_to_wire(file)), metadata=client.metadata, timeout=PATIENCE_S
        )
        fetched = aiter(fetch)
        await anext(fetched)
        store = client.files.StoreData(metadata=client.metadata, timeout=PATIENCE_S)
        header = pb.StoreDataOpen(fid=fid_to_wire(other))
        await store.write(pb.StoreDataRequest(open=header))
        for _ in range(3):
            await store.write(pb.StoreDataRequest(data=piece))
        answer = await asyncio.wait_for(running.fssync("NEEDVOLUME"), PATIENCE_S)
        assert answer.response == fssync_pb2.FSYNC_OK
        await VolServer(tmp_path).look()
        with pytest.raises(grpc.aio.AioRpcError, match="try again"):
            _ = [message async for message in fetched]
        with suppress(asyncio.InvalidStateError, grpc.aio.AioRpcError):
            # It may have ended while its last piece was on the way.
            await store.write(pb.StoreDataRequest(data=piece))
            await store.done_writing()
        with pytest.raises(grpc.aio.AioRpcError, match="try again"):
            await store
        await running.fssync("VOL_ON")
        assert (await client.status(other)).status.length == 0


async def test_changes_during_give_backs_are_neither_lost_nor_torn(tmp_path: Path) -> None:
    """Writers that go on while the volume is taken and given back: what was answered is there."""
    async with fileserver(tmp_path) as running:
        clients = [await running.client() for _ in range(4)]
        made: set[str] = set()
        refusals: set[AfsCode] = set()
        stop = asyncio.Event()

        async def write(index: int, client: Client) -> None:
            number = 0
            while not stop.is_set():
                name = f"w{index}-{number}"
                try:
                    await client.create(name)
                except AfsError as error:
                    refusals.add(error.code)
                    await asyncio.sleep(0)
                    continue
                made.add(name)
                number += 1

        writers = [asyncio.create_task(write(*pair)) for pair in enumerate(clients)]
        for _ in range(8):
            assert (await running.fssync("NEEDVOLUME")).response == fssync_pb2.FSYNC_OK
            await VolServer(tmp_path).look()
            assert (await running.fssync("VOL_ON")).response == fssync_pb2.FSYNC_OK
            await clients[0].names()
        stop.set()
        await asyncio.gather(*writers)
        assert set(await clients[0].names()) == made
        assert refusals <= {AfsCode.VBUSY}
