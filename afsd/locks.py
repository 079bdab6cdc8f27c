"""Runs the lock table: settles the calls that wait, keeps its time, tells those who watch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import count
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.runtime.clock import Clock
from afs.runtime.driver import Driver
from afs.types import Fid, LockType
from afsd.core.instructions import Observed
from afsd.core.locks import LockInstruction, LockOutcome, LockSettled, LockTable, SavedLock

_REFUSALS: Final = {
    LockOutcome.HELD: (AfsCode.EAGAIN, "another host has it locked"),
    LockOutcome.DEADLOCK: (
        AfsCode.EDEADLK,
        "another host that reads it waits to write as well: one of the two has to let go",
    ),
    LockOutcome.TOO_MANY: (AfsCode.VLIMIT, "there are too many locks, or too many of this host"),
    LockOutcome.NOT_HELD: (AfsCode.ENOLCK, "the lock that this host had has ended"),
    LockOutcome.STOPPING: (AfsCode.VRESTARTING, "the fileserver is stopping: ask again"),
}


class Locks:
    """The fileserver's file locks, as its services use them.

    Args:
        table: all state.
        clock: steady time.
        publish: tells those who watch.
    """

    def __init__(self, table: LockTable, clock: Clock, publish: Callable[[Observed], None]) -> None:
        self.table = table
        self._clock = clock
        self._publish = publish
        self._tickets = count(1)
        self._waiting: dict[int, asyncio.Future[LockOutcome]] = {}
        self._driver = Driver(deadline=table.next_deadline, tick=self._tick, clock=clock)
        self._driver.poke()

    def close(self) -> None:
        """Stops the timer."""
        self._driver.close()

    async def set_lock(
        self, host: str, fid: Fid, wanted: LockType, wait_s: float, *, holds: bool
    ) -> None:
        """Locks a file for a host, one that `holds` it only if it does; may wait for others.

        Raises:
            AfsError: ENOLCK for a host that does not hold it; EAGAIN if another host has it,
                EDEADLK, VLIMIT; VNOVNODE if it, or its volume, went away meanwhile; VRESTARTING.
        """
        ticket = next(self._tickets)
        settled = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        now = self._clock.now()
        self._step(self.table.set_lock(host, fid, wanted, ticket, now, wait_s, holds=holds))
        try:
            outcome = await settled
        except asyncio.CancelledError:
            self._step(self.table.abandon(ticket, self._clock.now()))
            raise
        finally:
            self._waiting.pop(ticket, None)
        if outcome is LockOutcome.GONE:
            raise AfsError(AfsCode.VNOVNODE, f"{fid} went away while a lock was waited for")
        if outcome is not LockOutcome.GRANTED:
            code, why = _REFUSALS[outcome]
            raise AfsError(code, f"{fid} cannot be locked: {why}")

    def extend(self, host: str, fid: Fid) -> bool:
        """The host's lock lives anew; False if it has none."""
        return self.table.extend(host, fid, self._clock.now())

    def release(self, host: str, fid: Fid) -> bool:
        """The host lets go; False if it has no lock."""
        released, instructions = self.table.release(host, fid, self._clock.now())
        self._step(instructions)
        return released

    def file_removed(self, fid: Fid) -> None:
        """The file is gone."""
        self._step(self.table.end_file(fid))

    def volume_changed(self, volume: int) -> int:
        """The volume is not what it was; how many locks that ended."""
        ended, instructions = self.table.end_volume(volume)
        self._step(instructions)
        return ended

    def restore(self, saved: Iterable[SavedLock], unchanged: Collection[int]) -> None:
        """Takes over what the life before this one left, on these volumes."""
        self.table.restore(saved, unchanged)
        self._driver.poke()

    def begin_stop(self) -> None:
        """Nobody waits any more."""
        self._step(self.table.begin_stop())

    def _tick(self, now: float) -> None:
        self._execute(self.table.tick(now))

    def _step(self, instructions: Sequence[LockInstruction]) -> None:
        self._execute(instructions)
        self._driver.poke()

    def _execute(self, instructions: Sequence[LockInstruction]) -> None:
        for instruction in instructions:
            match instruction:
                case LockSettled(ticket, outcome):
                    waiting = self._waiting.pop(ticket)
                    if not waiting.done():
                        waiting.set_result(outcome)
                case Observed():
                    self._publish(instruction)
