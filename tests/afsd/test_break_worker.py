"""The BreakLaterCallBacks worker: no wake-up is lost, and if one is, the tick finds it (M4, I5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from afs.runtime.clock import SystemClock
from afs.types import BreakReason, Fid
from afsd.break_worker import break_worker
from afsd.callbacks import CallBacks
from afsd.core.callback_machine import CallBackMachine
from afsd.core.policy import LATER
from afsd.core.settings import CallBackSettings
from afsd.fssync_lane import FssyncLane
from afsd.host_journal import HostJournal

# A tick that nobody waits for: what needs it, hangs.
NEVER_S = 3600.0
PATIENCE_S = 20.0
HOST = "holder"


class Marked:
    """A fileserver's callbacks with one host that is up, and volumes given back."""

    def __init__(self, callbacks: CallBacks) -> None:
        self.callbacks = callbacks
        self._lane = FssyncLane(LATER)

    async def attach(self) -> None:
        """The host opens its channel and is reset."""
        channel, _ = await self.callbacks.attach(HOST, "", "")
        (sequence,) = self.callbacks.machine.hosts[HOST].outstanding
        self.callbacks.acked(HOST, channel, sequence)

    async def give_back(self, volume: int) -> None:
        """The host holds a promise there; the volume is given back."""
        assert self.callbacks.promise(Fid(volume, 2, 2), HOST) is not None
        async with self._lane.turn() as turn:
            reason = BreakReason.VOLUME_GIVEN_BACK
            assert await self.callbacks.volume_changed(volume, reason, turn) == 1

    async def told(self, times: int) -> None:
        """Returns when that many breaks have been sent."""
        async with asyncio.timeout(PATIENCE_S):
            while self.counter("breaks_sent") < times:
                await asyncio.sleep(0)
        assert self.counter("breaks_sent") == times

    def counter(self, name: str) -> int:
        """One of the machine's counters."""
        return self.callbacks.machine.counters[name]


@asynccontextmanager
async def marked(folder: Path) -> AsyncIterator[Marked]:
    """Callbacks with deadlines that play no part."""
    journal = HostJournal(folder / "hosts.sqlite3")
    settings = CallBackSettings(break_deadline_s=NEVER_S, channel_lease_s=NEVER_S)
    clock = SystemClock()
    callbacks = CallBacks(CallBackMachine(settings, clock.now()), clock, 1, LATER, journal)
    volumes = Marked(callbacks)
    try:
        await volumes.attach()
        yield volumes
    finally:
        callbacks.close()
        journal.close()


@contextmanager
def working(callbacks: CallBacks, tick_s: float = NEVER_S) -> Iterator[None]:
    """The worker runs meanwhile."""
    worker = asyncio.create_task(break_worker(callbacks, tick_s))
    try:
        yield
    finally:
        worker.cancel()


@pytest.mark.blocking_ok
@pytest.mark.parametrize("turns", range(8))
async def test_no_wake_up_is_lost(tmp_path: Path, turns: int) -> None:
    """T8, R1, I5: marks at every moment of the worker's round are found without the tick."""
    async with marked(tmp_path) as volumes:
        with working(volumes.callbacks):
            for volume in range(100, 150):
                await volumes.give_back(volume)
                for _ in range(turns):
                    await asyncio.sleep(0)
            await volumes.told(50)
        assert volumes.counter("worker_ticks") == 0


@pytest.mark.blocking_ok
async def test_mark_right_after_the_last_look(tmp_path: Path) -> None:
    """R1: each mark comes when the worker has just gone to wait."""
    async with marked(tmp_path) as volumes:
        with working(volumes.callbacks):
            for number in range(1, 20):
                await volumes.give_back(100 + number)
                await volumes.told(number)
                while volumes.callbacks.machine.later.work_left:
                    await asyncio.sleep(0)
        assert volumes.counter("worker_ticks") == 0


@pytest.mark.blocking_ok
async def test_worker_looks_before_it_waits(tmp_path: Path) -> None:
    """R2, T13: what was marked before the worker began is done at once, wake-up or not."""
    async with marked(tmp_path) as volumes:
        await volumes.give_back(100)
        volumes.callbacks.wake_worker.clear()
        with working(volumes.callbacks):
            await volumes.told(1)
        assert volumes.counter("worker_ticks") == 0


@pytest.mark.blocking_ok
async def test_tick_finds_what_a_lost_wake_up_left(tmp_path: Path) -> None:
    """M4, I5: the tick is the safety net, and it is counted that it had to act."""
    async with marked(tmp_path) as volumes:
        with working(volumes.callbacks, tick_s=0.01):
            while volumes.counter("worker_ticks") < 2:
                await asyncio.sleep(0)
            assert volumes.counter("worker_ticks_that_found_work") == 0
            assert volumes.callbacks.promise(Fid(100, 2, 2), HOST) is not None
            # The instruction to wake the worker is lost.
            volumes.callbacks.machine.break_volume_callbacks_later(
                100, BreakReason.VOLUME_GIVEN_BACK
            )
            await volumes.told(1)
            async with asyncio.timeout(PATIENCE_S):
                while not volumes.counter("worker_ticks_that_found_work"):
                    await asyncio.sleep(0)
        assert volumes.counter("worker_ticks_that_found_work") == 1
