"""Locks of programs: among each other, between two clients of a real fileserver, and lost ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import LOCK_EXTENSIONS_PER_LIFE, LOCK_LIFE_S
from afs.types import Fid, LockType, root_fid
from afs.v1 import file_server_debug_pb2, file_server_debug_pb2_grpc
from afs.v1 import file_server_pb2 as pb
from afs.wire import fid_to_wire
from afsd.core import locks as lock_table
from clientd import server_lock
from clientd.core.range_locks import LAST_BYTE, LockFamily, LockOwner, RangeLock
from clientd.locks import Locks
from clientd.volume_calls import VolumeCalls
from tests.afsd.running import VOLUME, Client, RunningFileServer, fileserver, refused
from tests.clientd.fake_fileserver import FakeFileServer, fake_fileserver
from tests.clientd.local_program import PATIENCE_S, LocalProgram, running_client

READ, WRITE = LockType.READ, LockType.WRITE
A, B = (LockOwner(LockFamily.FCNTL, number) for number in (1, 2))
FLOCK_A, FLOCK_B = (LockOwner(LockFamily.FLOCK, number) for number in (1, 2))


class MovableClock:
    """The real clock, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def now(self) -> float:
        """Steady seconds."""
        return asyncio.get_running_loop().time() + self.ahead_s

    def wall_ns(self) -> int:
        """Some time."""
        return 1_700_000_000_000_000_000


class Machine:
    """One client's locks on one file."""

    def __init__(self, program: LocalProgram, volume: VolumeCalls, fid: Fid) -> None:
        self.program = program
        self.locks: Locks = program.client.services.locks
        self.volume = volume
        self.fid = fid

    async def lock(
        self,
        owner: LockOwner,
        wanted: LockType | None,
        start: int = 0,
        end: int = LAST_BYTE,
        *,
        wait: bool = False,
    ) -> None:
        """Sets a lock."""
        async with asyncio.timeout(PATIENCE_S):
            await self.locks.set_lock(
                self.volume, self.fid, owner, wanted, start, end, pid=owner.number, wait=wait
            )

    async def get(
        self, owner: LockOwner, wanted: LockType, start: int = 0, end: int = LAST_BYTE
    ) -> RangeLock | None:
        """What stands in its way."""
        return await self.locks.get_lock(self.volume, self.fid, owner, wanted, start, end)

    def waiting(self, *args: object, **keys: object) -> asyncio.Task[None]:
        """A lock that is waited for."""
        return asyncio.create_task(self.lock(*args, wait=True, **keys))  # type: ignore[arg-type]

    async def counter(self, name: str) -> int:
        """A counter of the client's."""
        return (await self.program.counters())[name]


class Stage:
    """A fileserver with a file that two clients lock.

    Attributes:
        running: the fileserver.
        other: a client that is none of the two.
        one, two: the clients.
        location: address of the location database.
    """

    def __init__(
        self, running: RunningFileServer, other: Client, one: Machine, two: Machine, location: str
    ) -> None:
        self.running = running
        self.other = other
        self.one = one
        self.two = two
        self.location = location

    async def held(self, *, waits: bool = False) -> dict[str, LockType]:
        """What the fileserver has of the file, by client; or who waits for what."""
        names = {
            machine.program.client.services.host_uuid: name
            for name, machine in (("one", self.one), ("two", self.two))
        } | {self.other.uuid: "other"}
        stub: Any = file_server_debug_pb2_grpc.FileServerDebugStub(self.other.channel)
        answers = await self.other.stream(stub.DumpLocks, file_server_debug_pb2.DumpLocksRequest())
        return {
            names[each.host_uuid]: LockType(each.type)
            for answer in answers
            for each in answer.locks
            if each.waits == waits
        }

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        """Polls until something holds."""
        async with asyncio.timeout(PATIENCE_S):
            while not await condition():
                await asyncio.sleep(0.01)

    async def until_waiting(self, name: str) -> None:
        """Returns when a client stands in line at the fileserver."""

        async def waits() -> bool:
            return name in await self.held(waits=True)

        await self.until(waits)

    async def until_held(self, **expected: LockType) -> None:
        """Returns when the fileserver has exactly this."""

        async def as_expected() -> bool:
            return await self.held() == expected

        await self.until(as_expected)

    async def take_from(self, machine: Machine) -> None:
        """Ends a client's lock behind its back, and has somebody else take it."""
        uuid = machine.program.client.services.host_uuid
        fid = fid_to_wire(machine.fid)
        await self.other.files.ReleaseLock(
            pb.ReleaseLockRequest(fid=fid), metadata=(("afs-host-uuid", uuid),)
        )
        request = pb.SetLockRequest(fid=fid, type=pb.LOCK_TYPE_WRITE)
        await self.other.call(self.other.files.SetLock, request)

    async def give_back(self) -> None:
        """Undoes the taking."""
        request = pb.ReleaseLockRequest(fid=fid_to_wire(self.one.fid))
        await self.other.call(self.other.files.ReleaseLock, request)


@pytest.fixture
def clock() -> MovableClock:
    """The first client's clock."""
    return MovableClock()


@pytest.fixture
async def stage(tmp_path: Path, clock: MovableClock) -> AsyncIterator[Stage]:
    """Two clients and a real fileserver; the location database is the fake one's."""
    async with (
        fileserver(tmp_path / "server") as running,
        fake_fileserver() as location,
        running_client(tmp_path / "one", location.address, clock) as first,
        running_client(tmp_path / "two", location.address) as second,
    ):
        at, location.address = location.address, running.daemon.addresses[0]
        other = await running.client()
        fid = await other.create("f")
        one, two = [
            Machine(program, await program.client.services.volumes.named("home"), fid)
            for program in (first, second)
        ]
        assert fid.volume == VOLUME
        yield Stage(running, other, one, two, at)


# --- programs of one machine ----------------------------------------------------------------------


async def test_programs_of_one_machine_lock_bytes(stage: Stage) -> None:
    """Ranges that do not overlap do not exclude each other; the fileserver sees one lock."""
    one = stage.one
    await one.lock(A, WRITE, 0, 9)
    await one.lock(B, WRITE, 10, 19)
    async with refused(AfsCode.EAGAIN):
        await one.lock(B, READ, 5, 5)
    assert await stage.held() == {"one": WRITE}
    assert await one.counter("lock_calls") == 1
    await one.lock(A, None)
    assert await stage.held() == {"one": WRITE}
    await one.locks.release_owner(one.fid, B)
    assert await stage.held() == {}


async def test_who_waits_for_a_program_has_the_lock_when_it_is_let_go(stage: Stage) -> None:
    """F_SETLKW among programs of one machine; a cancelled wait (a signal) leaves nothing."""
    one = stage.one
    await one.lock(A, WRITE)
    waiting, given_up = one.waiting(B, WRITE), one.waiting(B, READ)
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    assert not waiting.done()
    await one.lock(A, None)
    await waiting
    await one.lock(B, None)
    assert await stage.held() == {}


async def test_programs_that_wait_for_each_other_are_told(stage: Stage) -> None:
    """EDEADLK for the one that closes the circle; the other goes on when it lets go."""
    one = stage.one
    await one.lock(A, WRITE, 0, 0)
    await one.lock(B, WRITE, 1, 1)
    waiting = one.waiting(A, WRITE, 1, 1)
    await asyncio.sleep(0)
    async with refused(AfsCode.EDEADLK):
        await one.lock(B, WRITE, 0, 0, wait=True)
    await one.locks.release_owner(one.fid, B)
    await waiting


async def test_flock_and_fcntl_know_nothing_of_each_other(stage: Stage) -> None:
    """As on a local disk; the fileserver has one lock for both."""
    one = stage.one
    await one.lock(FLOCK_A, WRITE)
    await one.lock(A, WRITE)
    async with refused(AfsCode.EAGAIN):
        await one.lock(FLOCK_B, READ)
    await one.locks.release_owner(one.fid, FLOCK_A)
    assert await stage.held() == {"one": WRITE}
    await one.lock(FLOCK_B, READ)


async def test_flock_lets_go_of_what_it_has_before_it_waits(stage: Stage) -> None:
    """Two shared locks that both become exclusive take turns, as flock(2) does, here and afar."""
    one, two = stage.one, stage.two
    for machine, owner in ((one, FLOCK_A), (one, FLOCK_B), (two, FLOCK_A)):
        await machine.lock(owner, READ)
    waiting = [one.waiting(FLOCK_A, WRITE), one.waiting(FLOCK_B, WRITE)]
    await stage.until_held(two=READ)
    waiting.append(two.waiting(FLOCK_A, WRITE))
    machines = [(one, FLOCK_A), (one, FLOCK_B), (two, FLOCK_A)]
    async with asyncio.timeout(PATIENCE_S):
        while waiting:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            done = [number for number, task in enumerate(waiting) if task.done()]
            assert len(done) == 1, "exclusive"
            machine, owner = machines.pop(done[0])
            await waiting.pop(done[0])
            await machine.locks.release_owner(machine.fid, owner)


async def test_get_tells_what_is_in_the_way(stage: Stage) -> None:
    """Of a program here its range and process; of another machine that there is something."""
    one, two = stage.one, stage.two
    assert await one.get(A, WRITE) is None
    assert await stage.held() == {}
    await one.lock(B, WRITE, 5, 9)
    assert await one.get(A, READ, 0, 7) == RangeLock(WRITE, 5, 9, B.number)
    assert await one.get(A, READ, 10, 20) is None
    assert await two.get(A, READ) == RangeLock(WRITE, 0, LAST_BYTE, 0)


# --- two machines ---------------------------------------------------------------------------------


async def test_machines_exclude_each_other(stage: Stage) -> None:
    """One writes or both read; the refusal is EAGAIN, and nothing is left of it."""
    one, two = stage.one, stage.two
    await one.lock(A, WRITE, 0, 0)
    async with refused(AfsCode.EAGAIN):
        await two.lock(A, READ, 5, 5)
    await one.lock(A, READ, 0, 0)
    await two.lock(A, READ, 5, 5)
    assert await stage.held() == {"one": READ, "two": READ}
    async with refused(AfsCode.EAGAIN):
        await one.lock(A, WRITE, 0, 0)
    await two.locks.release_owner(two.fid, A)
    await one.lock(A, WRITE, 0, 0)
    assert await stage.held() == {"one": WRITE}


async def test_who_waits_for_a_machine_has_the_lock_when_it_is_let_go(stage: Stage) -> None:
    """F_SETLKW between machines."""
    one, two = stage.one, stage.two
    await one.lock(A, WRITE)
    waiting = two.waiting(A, WRITE)
    await stage.until_waiting("two")
    async with refused(AfsCode.EAGAIN):
        await two.lock(B, READ)
    await one.lock(A, None)
    await waiting
    assert await stage.held() == {"two": WRITE}


async def test_who_may_not_stand_in_line_asks_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with too many waits at the fileserver has its locks later, not never."""
    monkeypatch.setattr(lock_table, "MAX_LOCK_WAITS_PER_HOST", 0)
    monkeypatch.setattr(server_lock, "ASK_AGAIN_S", 0.02)
    one, two = stage.one, stage.two
    await one.lock(A, WRITE)
    waiting = two.waiting(A, WRITE)

    async def asked_again() -> bool:
        return await two.counter("lock_calls") > 2

    await stage.until(asked_again)
    await one.lock(A, None)
    await waiting
    assert await stage.held() == {"two": WRITE}


async def test_a_wait_that_ends_leaves_nothing_at_the_fileserver(stage: Stage) -> None:
    """A signal ends the wait; when the other machine lets go, the file is free."""
    one, two = stage.one, stage.two
    await one.lock(A, WRITE)
    waiting = two.waiting(A, WRITE)
    await stage.until_waiting("two")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await one.lock(A, None)
    await stage.until_held()
    await one.lock(A, WRITE)


async def test_a_machine_hands_on_before_its_own_programs_come_again(stage: Stage) -> None:
    """Another machine that waits has its turn before a program here that came later."""
    one, two = stage.one, stage.two
    await one.lock(A, WRITE)
    afar = two.waiting(A, WRITE)
    await stage.until_waiting("two")
    here = one.waiting(B, WRITE)
    await asyncio.sleep(0)
    await one.lock(A, None)
    await afar
    assert not here.done()
    await two.lock(A, None)
    await here


async def test_letting_go_does_not_wait_for_who_stands_in_line(stage: Stage) -> None:
    """A program here waits to write where two machines read; the other reader here lets go."""
    one, two = stage.one, stage.two
    await one.lock(A, READ, 0, 0)
    await two.lock(A, READ, 0, 0)
    waiting = one.waiting(B, WRITE, 9, 9)
    await stage.until_waiting("one")
    await one.lock(A, None)
    await stage.until_waiting("one")
    assert await stage.held() == {"two": READ}
    await two.lock(A, None)
    await waiting
    assert await stage.held() == {"one": WRITE}


async def test_two_machines_that_read_and_wait_to_write_are_told(stage: Stage) -> None:
    """EDEADLK for the second; the first goes on when it lets go."""
    one, two = stage.one, stage.two
    await one.lock(A, READ)
    await two.lock(A, READ)
    waiting = one.waiting(A, WRITE)
    await stage.until_waiting("one")
    async with refused(AfsCode.EDEADLK):
        await two.lock(A, WRITE, wait=True)
    await two.lock(A, None)
    await waiting


async def test_what_was_written_is_stored_before_the_lock_is_let_go(stage: Stage) -> None:
    """By unlocking and by going on for reading only; if it cannot be stored, that is said."""
    one = stage.one
    held: list[dict[str, LockType]] = []

    async def store(fid: Fid) -> None:
        assert fid == one.fid
        held.append(await stage.held())

    one.locks.store = store
    await one.lock(A, WRITE)
    await one.lock(A, READ)
    await stage.until_held(one=READ)
    await one.lock(A, WRITE)
    await one.lock(A, None)
    assert held == [{"one": WRITE}] * 2

    async def fail(fid: Fid) -> None:
        raise AfsError(AfsCode.VDISKFULL, f"{fid}: no room")

    await one.lock(A, WRITE)
    one.locks.store = fail
    async with refused(AfsCode.VDISKFULL):
        await one.lock(A, None)
    await stage.until_held()


async def test_a_client_that_stops_leaves_no_locks(tmp_path: Path, stage: Stage) -> None:
    """They need not run out."""
    async with running_client(tmp_path / "three", stage.location) as program:
        volume = await program.client.services.volumes.named("home")
        machine = Machine(program, volume, stage.one.fid)
        await machine.lock(A, WRITE)
        async with refused(AfsCode.EAGAIN):
            await stage.one.lock(A, READ)
    await stage.one.lock(A, WRITE)


# --- keeping and losing them ----------------------------------------------------------------------


async def test_a_held_lock_is_extended(stage: Stage, clock: MovableClock) -> None:
    """At a third of its life, time and again, so it outlives any number of lives."""
    one = stage.one
    await one.lock(A, WRITE)
    for number in range(2, 8):
        clock.ahead_s += LOCK_LIFE_S / LOCK_EXTENSIONS_PER_LIFE
        one.locks.look_after()

        async def extended(number: int = number) -> bool:
            return await one.counter("lock_calls") >= number

        await stage.until(extended)
    await one.lock(A, WRITE, 0, 0)
    one.locks.check(one.fid)


async def test_a_lost_lock_is_told_of(stage: Stage, clock: MovableClock) -> None:
    """No more locks for its owner, no writes to the file, until it lets go; then all is well."""
    one = stage.one
    await one.lock(A, WRITE, 0, 9)
    await stage.take_from(one)
    clock.ahead_s += LOCK_LIFE_S / LOCK_EXTENSIONS_PER_LIFE
    one.locks.look_after()

    async def lost() -> bool:
        return await one.counter("locks_lost") == 1

    await stage.until(lost)
    async with refused(AfsCode.EIO):
        one.locks.check(one.fid)
    async with refused(AfsCode.EIO):
        await one.lock(A, WRITE, 20, 29)
    async with refused(AfsCode.EAGAIN):
        await one.lock(B, WRITE)
    await one.lock(A, None, 0, 4)
    async with refused(AfsCode.EIO):
        one.locks.check(one.fid)
    await one.locks.release_owner(one.fid, A)
    one.locks.check(one.fid)
    await stage.give_back()
    await one.lock(A, WRITE)


async def test_a_lock_that_could_not_be_extended_is_lost_in_time(
    stage: Stage, clock: MovableClock
) -> None:
    """A client that was frozen, or cut off, for a life knows it by its own clock, at once."""
    one = stage.one
    await one.lock(A, WRITE)
    clock.ahead_s += LOCK_LIFE_S
    async with refused(AfsCode.EIO):
        one.locks.check(one.fid)
    async with refused(AfsCode.EIO):
        await one.lock(A, WRITE)


async def test_locks_are_asked_about_when_the_volume_was_broken(stage: Stage) -> None:
    """A volume that was restored has no locks any more, and the client finds out within seconds."""
    one = stage.one
    await one.lock(A, WRITE)
    await one.program.stat("/home/f")
    await stage.running.fssync("NEEDVOLUME", reason=9)
    await stage.running.fssync("VOL_LEAVE_OFF")
    await stage.running.fssync("VOL_ON")

    async def lost() -> bool:
        return await one.counter("locks_lost") == 1

    await stage.until(lost)
    async with refused(AfsCode.EIO):
        one.locks.check(one.fid)


async def test_a_removed_file_is_locked_here_alone(stage: Stage, clock: MovableClock) -> None:
    """Nobody else can have it: its locks go on, and are not lost."""
    one = stage.one
    await one.lock(A, WRITE)
    request = pb.RemoveFileRequest(directory=fid_to_wire(root_fid(VOLUME)), name="f")
    await stage.other.call(stage.other.files.RemoveFile, request)
    clock.ahead_s += LOCK_LIFE_S / LOCK_EXTENSIONS_PER_LIFE
    one.locks.look_after()

    async def asked() -> bool:
        return await one.counter("lock_calls") >= 2

    await stage.until(asked)
    async with refused(AfsCode.EAGAIN):
        await one.lock(B, WRITE)
    one.locks.check(one.fid)
    await one.locks.release_owner(one.fid, A)
    await one.lock(B, WRITE)


async def test_a_fileserver_without_locks_is_told_of(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """An older fileserver: ENOLCK, not a lock that is none."""
    fid = server.add("f")
    machine = Machine(program, await program.client.services.volumes.named("home"), fid)
    for wait in (False, True):
        async with refused(AfsCode.ENOLCK):
            await machine.lock(A, WRITE, wait=wait)


@pytest.mark.parametrize("crashed", [False, True])
async def test_a_restart_of_the_fileserver_keeps_locks_and_a_crash_ends_them(
    tmp_path: Path, clock: MovableClock, *, crashed: bool
) -> None:
    """The client asks when it sees another epoch; unlocking while the fileserver is away works."""
    async with AsyncExitStack() as stack:
        location = await stack.enter_async_context(fake_fileserver())
        program = await stack.enter_async_context(
            running_client(tmp_path / "one", location.address, clock)
        )
        async with fileserver(tmp_path / "server") as running:
            address = location.address = running.daemon.addresses[0]
            fid = await (await running.client()).create("f")
            machine = Machine(program, await program.client.services.volumes.named("home"), fid)
            await machine.lock(A, WRITE, 0, 0)
            await machine.lock(B, READ, 1, 1)
            asked = await machine.counter("lock_calls")
        if crashed:
            (tmp_path / "server/run/callbacks.state").unlink()
        unlocking = asyncio.create_task(machine.locks.release_owner(fid, A))
        async with fileserver(tmp_path / "server", listen=address) as running:
            other = await running.client()
            stage = Stage(running, other, machine, machine, location.address)
            await unlocking

            async def settled() -> bool:
                lost = bool(await machine.counter("locks_lost"))
                return lost is crashed and await machine.counter("lock_calls") > asked

            if crashed:
                await stage.until(settled)
                async with refused(AfsCode.EIO):
                    machine.locks.check(fid)
            else:
                await stage.until_held(two=READ)
                machine.locks.check(fid)
