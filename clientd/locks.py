"""File locks of programs on this machine: ranges among each other, whole files among machines.

Theory of operation
    1. What programs of this machine want of each other is decided here (`core.range_locks`), to the
       byte, as on a local disk. What they want of other machines is one lock on the whole file, as
       AFS has it (`server_lock`): a write lock while any range here is for writing, a read lock
       while there are others, none while there is none. So two machines may well exclude each other
       where their ranges do not touch, never the other way round.
    2. What was written under a write lock is stored (`store`) before it is let go of. What others
       stored under theirs is seen by whoever gets the lock next, because the fileserver answers
       nobody before the breaks that he is owed.
    3. Who waits for a program of this machine waits here, who waits for another machine at the
       fileserver. When nothing here needs the file any more it is let go of before anybody here who
       waits is woken: others come to their turn too. A wait ends with the task that waits (a
       signal). Circles of waits between programs of this machine are refused, and two machines that
       both read and wait to write; larger circles of machines are not noticed.
    4. When the fileserver's lock is lost, the ranges are taken out, and until their owners have let
       go of them (unlock, close) those owners get EIO for every further lock, and all writes to the
       file EIO (`check`), what is written and not yet stored included, because another machine may
       have had the file since. Reading goes on: what is read is what the fileserver has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

import structlog

from afs.errors import AfsCode, AfsError
from afs.runtime.clock import Clock
from afs.types import Fid, LockType
from clientd.core.cache import VnodeCache
from clientd.core.lock_waits import LockWaits
from clientd.core.range_locks import LAST_BYTE, LockFamily, LockOwner, RangeLock, RangeLocks
from clientd.journal import Journal
from clientd.server_lock import ServerLock
from clientd.volume_calls import VolumeCalls

# How often held locks are looked after, in seconds: how long a lost one may go unnoticed after the
# channel told of a restart, a reset or a break.
LOOK_S: Final = 1.0
# Unlocking waits this long for the fileserver; then it is settled behind the program's back.
UNLOCK_PATIENCE_S: Final = 5.0
# Stopping waits this long for the fileservers.
STOP_PATIENCE_S: Final = 1.0
# Ranges on one file, some 300 bytes each; whoever needs more is at fault.
MAX_RANGES: Final = 10_000

_log = structlog.get_logger(__name__)


class _File:
    """One file with locks.

    Attributes:
        volume: the one it is in.
        server: our lock at the fileserver.
        ranges: of the programs here.
        lost: ranges that were lost and not let go of yet.
        users: calls of programs that are under way.
    """

    server: ServerLock

    def __init__(self, volume: VolumeCalls) -> None:
        self.volume = volume
        self.ranges = RangeLocks()
        self.lost = RangeLocks()
        self.users = 0
        self._waiters: list[asyncio.Future[None]] = []

    @property
    def is_idle(self) -> bool:
        """True if nothing would be forgotten with it."""
        return not (self.users or len(self.ranges) or len(self.lost) or self.server.may_be_held)

    async def changed(self) -> None:
        """Returns when a range here was given up, or lost."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def wake(self) -> None:
        """Has those who wait look again, the first one first."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class Locks:
    """All locks of this machine's programs.

    Args:
        cache: tells of fileservers' channels and breaks.
        clock: steady time.
        journal: counts and tells.

    Attributes:
        store: has what was written to a file stored; called before a write lock is let go of.
    """

    def __init__(self, cache: VnodeCache, clock: Clock, journal: Journal) -> None:
        self.store: Callable[[Fid], Awaitable[None]] = _nothing_to_store
        self._cache = cache
        self._clock = clock
        self._journal = journal
        self._files: dict[Fid, _File] = {}
        self._waits = LockWaits()
        self._tasks: set[asyncio.Task[None]] = set()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Lets go of everything, as far as the fileservers listen."""
        self._keeper.cancel()
        for file in self._files.values():
            file.ranges.take_all()
        await asyncio.gather(
            *(file.server.let_go(STOP_PATIENCE_S) for file in list(self._files.values()))
        )
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(self._keeper, *self._tasks, return_exceptions=True)

    # --- what programs ask ------------------------------------------------------------------------

    async def set_lock(
        self,
        volume: VolumeCalls,
        fid: Fid,
        owner: LockOwner,
        wanted: LockType | None,
        start: int = 0,
        end: int = LAST_BYTE,
        *,
        pid: int = 0,
        wait: bool = False,
    ) -> None:
        """Locks or (None) unlocks a range; whatever the owner had of it is replaced.

        Args:
            volume: the one the file is in.
            fid: the file.
            owner: whose lock it is.
            wanted: what for.
            start: the first byte.
            end: the last byte.
            pid: the program, for F_GETLK.
            wait: for others to let go; ends with the task.

        Raises:
            AfsError: EAGAIN if another program or machine has it and nobody waits; EDEADLK; EIO if
                a lock of this owner was lost; ENOLCK if there are too many, or the fileserver keeps
                none; else as the fileserver or `store` says. An unlock is done all the same.
        """
        if wanted is None:
            await self._unlock(fid, owner, start, end)
            return
        with self._using(volume, fid) as file:
            stored = False
            while True:
                file.server.lose_if_over()
                if owner in file.lost:
                    raise _lost(fid)
                others = {other for other, _ in file.ranges.in_the_way(owner, wanted, start, end)}
                lowers = wanted is LockType.READ and file.ranges.mode is LockType.WRITE
                if not others and file.server.suffices(wanted):
                    if lowers and not stored:
                        await self.store(fid)
                        stored = True
                        continue
                    self._set(fid, file, owner, wanted, start, end, pid)
                    if lowers:
                        await self._lowered(file)
                    return
                if wait and owner.family is LockFamily.FLOCK and owner in file.ranges:
                    # flock(2): what is held goes before something else is waited for.
                    if not others and await file.server.obtain_now(wanted):
                        continue
                    await self._unlock(fid, owner, 0, LAST_BYTE)
                elif others:
                    await self._wait_for(fid, file, owner, others, wait=wait)
                elif wait:
                    await file.server.obtain(wanted)
                elif not await file.server.obtain_now(wanted):
                    raise AfsError(AfsCode.EAGAIN, f"{fid} is locked by another machine")

    async def get_lock(
        self,
        volume: VolumeCalls,
        fid: Fid,
        owner: LockOwner,
        wanted: LockType,
        start: int = 0,
        end: int = LAST_BYTE,
    ) -> RangeLock | None:
        """What stands in the way of a lock; None if nothing does at this moment.

        Another machine's lock is told of as one on the whole file, for writing, of no process.

        Raises:
            AfsError: as `set_lock`, but not EAGAIN.
        """
        with self._using(volume, fid) as file:
            for _, there in file.ranges.in_the_way(owner, wanted, start, end):
                return there
            if file.server.suffices(wanted):
                return None
            if not await file.server.obtain_now(wanted):
                return RangeLock(LockType.WRITE, 0, LAST_BYTE, 0)
            await file.server.let_go(UNLOCK_PATIENCE_S)
            return None

    async def release_owner(self, fid: Fid, owner: LockOwner) -> None:
        """Takes all locks of an owner on a file away, as its close(2) does."""
        if self.has_locks(fid, owner):
            await self._unlock(fid, owner, 0, LAST_BYTE)

    def has_locks(self, fid: Fid, owner: LockOwner) -> bool:
        """True if the owner has locks on the file, lost ones included."""
        file = self._files.get(fid)
        return file is not None and (owner in file.ranges or owner in file.lost)

    def check(self, fid: Fid) -> None:
        """Raises AfsError(EIO) for a file that must not be written: a lock on it was lost."""
        file = self._files.get(fid)
        if file is not None:
            file.server.lose_if_over()
            if len(file.lost):
                raise _lost(fid)

    # --- within -----------------------------------------------------------------------------------

    @contextmanager
    def _using(self, volume: VolumeCalls, fid: Fid) -> Iterator[_File]:
        """The file's books, which stay for so long."""
        file = self._files.get(fid)
        if file is None:
            file = self._files[fid] = _File(volume)
            there = file
            file.server = ServerLock(
                volume,
                fid,
                needed=lambda: there.ranges.mode,
                on_lost=lambda why: self._lost(fid, there, why),
                start=self._start,
                cache=self._cache,
                clock=self._clock,
                journal=self._journal,
            )
        file.users += 1
        try:
            yield file
        finally:
            file.users -= 1
            if file.is_idle:
                del self._files[fid]

    @staticmethod
    def _set(
        fid: Fid,
        file: _File,
        owner: LockOwner,
        wanted: LockType,
        start: int,
        end: int,
        pid: int,
    ) -> None:
        if len(file.ranges) >= MAX_RANGES:
            raise AfsError(AfsCode.ENOLCK, f"{fid} has {MAX_RANGES} locked ranges already")
        file.ranges.set(owner, wanted, start, end, pid)

    async def _lowered(self, file: _File) -> None:
        """Ranges went, or are only for reading now; those who wait may have them."""
        try:
            if file.ranges.mode is not LockType.WRITE:
                await file.server.let_go(UNLOCK_PATIENCE_S)
        finally:
            file.wake()

    async def _wait_for(
        self, fid: Fid, file: _File, owner: LockOwner, others: set[LockOwner], *, wait: bool
    ) -> None:
        """Waits until something here changed; EDEADLK if that would be for ever."""
        if not wait:
            raise AfsError(AfsCode.EAGAIN, f"{fid} is locked by another program")
        if owner.family is LockFamily.FLOCK:
            await file.changed()
            return
        if self._waits.closes_circle(owner, others):
            raise AfsError(AfsCode.EDEADLK, f"{fid}: those who have it wait for this program")
        waiting = self._waits.begin(owner, others)
        try:
            await file.changed()
        finally:
            self._waits.end(waiting)

    async def _unlock(self, fid: Fid, owner: LockOwner, start: int, end: int) -> None:
        file = self._files.get(fid)
        if file is None:
            return
        with self._using(file.volume, fid):
            file.lost.set(owner, None, start, end)
            if owner not in file.ranges:
                return
            try:
                if file.ranges.mode is LockType.WRITE:
                    await self.store(fid)
            finally:
                file.ranges.set(owner, None, start, end)
                await self._lowered(file)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self.look_after()

    def look_after(self) -> None:
        """Has what is due done for every file."""
        for fid, file in list(self._files.items()):
            file.server.look_after()
            if file.is_idle:
                del self._files[fid]

    def _lost(self, fid: Fid, file: _File, why: str) -> None:
        """The file is another machine's for all we know."""
        lost = file.ranges.take_all()
        for owner, each in lost:
            file.lost.set(owner, each.type, each.start, each.end, each.pid)
        if lost:
            self._journal.count("locks_lost")
            self._journal.tell("lock.lost", fids=(fid,), count=len(lost))
            _log.warning("lock.lost", fid=str(fid), why=why, ranges=len(lost))
        file.wake()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _nothing_to_store(_fid: Fid) -> None:
    """Where nothing is written behind a program's back."""


def _lost(fid: Fid) -> AfsError:
    return AfsError(AfsCode.EIO, f"{fid}: a lock on it was lost; unlock or close it")
