"""FileServer: locks on files, over real sockets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode
from afs.limits import LOCK_LIFE_S
from afs.types import Fid
from afs.v1 import file_server_debug_pb2, file_server_debug_pb2_grpc
from afs.v1 import file_server_pb2 as pb
from afs.wire import fid_to_wire
from tests.afsd.running import ROOT, VOLUME, Client, RunningFileServer, fileserver, refused

READ, WRITE = pb.LOCK_TYPE_READ, pb.LOCK_TYPE_WRITE
WAIT_S = 15.0


async def lock(client: Client, fid: Fid, type_: int, wait_s: float = 0.0) -> Any:
    """SetLock."""
    request = pb.SetLockRequest(
        fid=fid_to_wire(fid), type=pb.LockType.ValueType(type_), wait_s=wait_s
    )
    return await client.call(client.files.SetLock, request)


async def extend(client: Client, fid: Fid) -> Any:
    """ExtendLock."""
    return await client.call(client.files.ExtendLock, pb.ExtendLockRequest(fid=fid_to_wire(fid)))


async def release(client: Client, fid: Fid) -> Any:
    """ReleaseLock."""
    return await client.call(client.files.ReleaseLock, pb.ReleaseLockRequest(fid=fid_to_wire(fid)))


async def dumped(running: RunningFileServer, client: Client) -> list[Any]:
    """DumpLocks."""
    stub: Any = file_server_debug_pb2_grpc.FileServerDebugStub(client.channel)
    answers = await client.stream(stub.DumpLocks, file_server_debug_pb2.DumpLocksRequest())
    assert len(running.daemon.addresses) == 1
    return [each for answer in answers for each in answer.locks]


async def test_a_lock_excludes_other_hosts_until_it_is_released(tmp_path: Path) -> None:
    """EAGAIN for the others meanwhile; the answer has the status and how long the lock lives."""
    async with fileserver(tmp_path) as running:
        one, two = await running.client(), await running.client()
        file = await one.create("f")
        answer = await lock(one, file, WRITE)
        assert answer.life_s == LOCK_LIFE_S
        assert answer.status.fid == fid_to_wire(file)
        async with refused(AfsCode.EAGAIN):
            await lock(two, file, READ)
        assert (await extend(one, file)).life_s == LOCK_LIFE_S
        await release(one, file)
        await lock(two, file, READ)
        async with refused(AfsCode.ENOLCK):
            await release(one, file)
        async with refused(AfsCode.ENOLCK):
            await extend(one, file)


async def test_who_waits_has_the_lock_when_it_is_let_go(tmp_path: Path) -> None:
    """The call is answered then, without asking again; people see both in DumpLocks."""
    async with fileserver(tmp_path) as running:
        one, two = await running.client(), await running.client()
        file = await one.create("f")
        await lock(one, file, WRITE)
        waiting = asyncio.create_task(lock(two, file, WRITE, WAIT_S))
        async with asyncio.timeout(WAIT_S):
            while len(found := await dumped(running, one)) < 2:
                await asyncio.sleep(0.01)
        held, waits = found
        assert (held.host_uuid, held.type, held.waits) == (one.uuid, WRITE, False)
        assert (waits.host_uuid, waits.type, waits.waits) == (two.uuid, WRITE, True)
        assert held.expires_in_s > waits.expires_in_s > 0
        await release(one, file)
        assert (await waiting).status.fid == fid_to_wire(file)


async def test_whoever_has_the_lock_sees_what_was_written_under_it(tmp_path: Path) -> None:
    """The answer leaves only when the break of the last writer's change was acknowledged (I3)."""
    async with fileserver(tmp_path) as running:
        one, two = await running.client(), await running.client()
        file = await one.create("f")
        before = await two.status(file)
        await lock(one, file, WRITE)
        waiting = asyncio.create_task(lock(two, file, READ, WAIT_S))
        await one.store(file, b"under the lock")
        await release(one, file)
        answer = await waiting
        assert answer.status.data_version > before.status.data_version
        assert two.breaks


async def test_who_hangs_up_holds_up_nobody(tmp_path: Path) -> None:
    """A wait whose caller went away is never granted."""
    async with fileserver(tmp_path) as running:
        one, two, three = [await running.client() for _ in range(3)]
        file = await one.create("f")
        await lock(one, file, READ)
        waiting = asyncio.create_task(lock(two, file, WRITE, WAIT_S))
        async with asyncio.timeout(WAIT_S):
            while len(await dumped(running, one)) < 2:
                await asyncio.sleep(0.01)
        behind = asyncio.create_task(lock(three, file, READ, WAIT_S))
        waiting.cancel()
        await behind
        assert {each.host_uuid for each in await dumped(running, one)} == {one.uuid, three.uuid}


async def test_two_readers_that_wait_to_write_do_not_wait_for_ever(tmp_path: Path) -> None:
    """The second one is told EDEADLK."""
    async with fileserver(tmp_path) as running:
        one, two = await running.client(), await running.client()
        file = await one.create("f")
        await lock(one, file, READ)
        await lock(two, file, READ)
        waiting = asyncio.create_task(lock(one, file, WRITE, WAIT_S))
        async with asyncio.timeout(WAIT_S):
            while len(await dumped(running, one)) < 3:
                await asyncio.sleep(0.01)
        async with refused(AfsCode.EDEADLK):
            await lock(two, file, WRITE, WAIT_S)
        await release(two, file)
        await waiting


@pytest.mark.parametrize("method", ["SetLock", "ExtendLock", "ReleaseLock"])
async def test_a_caller_without_a_name_has_no_lock(tmp_path: Path, method: str) -> None:
    """A lock belongs to a host; who does not say who it is, is told so."""
    async with fileserver(tmp_path) as running:
        nobody = await running.client(anonymous=True)
        request = getattr(pb, f"{method}Request")(fid=fid_to_wire(ROOT))
        if method == "SetLock":
            request.type = READ
        async with refused(AfsCode.EINVAL):
            await nobody.call(getattr(nobody.files, method), request)


async def test_a_request_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    """No type, a type that is none, a negative wait, a file that is not there."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        for type_, wait_s in ((0, 0.0), (3, 0.0), (READ, -1.0), (READ, float("nan"))):
            async with refused(AfsCode.EINVAL):
                await lock(client, ROOT, type_, wait_s)
        for call in (lock(client, Fid(VOLUME, 8, 8), READ), extend(client, Fid(VOLUME, 8, 8))):
            async with refused(AfsCode.VNOVNODE):
                await call


async def test_a_removed_file_is_locked_by_nobody(tmp_path: Path) -> None:
    """Its locks end, and whoever waited is told that it is gone."""
    async with fileserver(tmp_path) as running:
        one, two = await running.client(), await running.client()
        file = await one.create("f")
        await lock(one, file, WRITE)
        waiting = asyncio.create_task(lock(two, file, WRITE, WAIT_S))
        async with asyncio.timeout(WAIT_S):
            while len(await dumped(running, one)) < 2:
                await asyncio.sleep(0.01)
        request = pb.RemoveFileRequest(directory=fid_to_wire(ROOT), name="f")
        await one.call(one.files.RemoveFile, request)
        async with refused(AfsCode.VNOVNODE):
            await waiting
        async with refused(AfsCode.VNOVNODE):
            await extend(one, file)
        assert not await dumped(running, one)


async def test_a_volume_that_comes_back_unchanged_keeps_its_locks(tmp_path: Path) -> None:
    """It was out for a clone, say: programs that hold locks do not notice."""
    async with fileserver(tmp_path) as running:
        one, two = await running.client(), await running.client()
        file = await one.create("f")
        await lock(one, file, WRITE)
        await running.fssync("NEEDVOLUME", reason=8)
        async with refused(AfsCode.VBUSY):
            await extend(one, file)
        await running.fssync("VOL_ON")
        await running.fssync("VOL_BREAKCBKS")
        await extend(one, file)
        async with refused(AfsCode.EAGAIN):
            await lock(two, file, READ)


@pytest.mark.parametrize("ending", ["VOL_LEAVE_OFF", "VOL_MOVE", "VOL_DONE"])
async def test_locks_end_with_a_volume_that_is_not_what_it_was(tmp_path: Path, ending: str) -> None:
    """Restored, moved, deleted: the lock is gone, and said to be."""
    async with fileserver(tmp_path) as running:
        one, two = await running.client(), await running.client()
        file = await one.create("f")
        await lock(one, file, WRITE)
        await running.fssync("NEEDVOLUME", reason=9)
        await running.fssync(ending)
        await running.fssync("VOL_ON")
        async with refused(AfsCode.ENOLCK):
            await extend(one, file)
        await lock(two, file, WRITE)


async def test_a_lock_may_be_released_while_its_volume_is_out(tmp_path: Path) -> None:
    """The volume keeps its locks meanwhile, but not those that nobody wants any more."""
    async with fileserver(tmp_path) as running:
        one, two = await running.client(), await running.client()
        file = await one.create("f")
        await lock(one, file, WRITE)
        await running.fssync("NEEDVOLUME", reason=8)
        await release(one, file)
        async with refused(AfsCode.VBUSY):
            await release(one, file)
        await running.fssync("VOL_ON")
        await lock(two, file, WRITE)


async def test_locks_outlive_a_planned_restart(tmp_path: Path) -> None:
    """The holder goes on extending in the fileserver's next life; nobody gets in between."""
    async with fileserver(tmp_path) as running:
        one = await running.client()
        file = await one.create("f")
        await lock(one, file, WRITE)
    async with fileserver(tmp_path) as running:
        again = one.of_next_life(running.daemon.addresses[0])
        await again.attach()
        two = await running.client()
        async with refused(AfsCode.EAGAIN):
            await lock(two, file, READ)
        await extend(again, file)
        await again.close()


async def test_a_stopping_fileserver_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Who waits for a lock is told to ask again, at once: the stop does not wait for locks."""
    async with fileserver(tmp_path) as running:
        one, two = await running.client(), await running.client()
        file = await one.create("f")
        await lock(one, file, WRITE)
        waiting = asyncio.create_task(lock(two, file, WRITE, WAIT_S))
        async with asyncio.timeout(WAIT_S):
            while len(await dumped(running, one)) < 2:
                await asyncio.sleep(0.01)
        stopping = asyncio.create_task(running.daemon.stop())
        async with refused(AfsCode.VRESTARTING):
            await waiting
        await stopping


async def test_locks_are_counted_and_watched(tmp_path: Path) -> None:
    """GetCounters tells how many there are and what became of them; Watch tells each."""
    async with fileserver(tmp_path) as running:
        one, two = await running.client(), await running.client()
        stub: Any = file_server_debug_pb2_grpc.FileServerDebugStub(one.channel)
        watch = stub.Watch(file_server_debug_pb2.WatchRequest())
        await watch.initial_metadata()
        file = await one.create("f")
        await lock(one, file, WRITE)
        async with refused(AfsCode.EAGAIN):
            await lock(two, file, READ)
        async for seen in watch:
            if seen.event == "lock.set":
                assert (seen.host_uuid, seen.cause) == (one.uuid, "WRITE")
                assert list(seen.fids) == [fid_to_wire(file)]
                break
        watch.cancel()
        request = file_server_debug_pb2.GetCountersRequest()
        counters = (await one.call(stub.GetCounters, request)).counters
        assert (counters["locks"], counters["locks_set"], counters["locks_refused"]) == (1, 1, 1)
