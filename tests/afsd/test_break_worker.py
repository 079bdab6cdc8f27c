"""The BreakLaterCallBacks worker: no wake-up is lost, and if one is, the tick finds it (M4, I5)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from afs.runtime.clock import SystemClock
from afs.types import BreakReason, Fid
from afsd import break_worker as worker_module
from afsd.break_worker import break_worker
from afsd.callbacks import CallBacks
from afsd.core.callback_machine import CallBackMachine
from afsd.core.policy import LATER
from afsd.core.settings import CallBackSettings
from afsd.fssync_lane import FssyncLane
from afsd.host_journal import HostJournal

# A wait that nobody lives to see: what needs it, hangs.
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

    async def give_back(self, volume: int, answered: asyncio.Future[None] | None = None) -> None:
        """The host holds a promise there; the volume is given back."""
        assert self.callbacks.promise(Fid(volume, 2, 2), HOST) is not None
        async with self._lane.turn(answered) as turn:
            reason = BreakReason.VOLUME_GIVEN_BACK
            assert await self.callbacks.volume_changed(volume, reason, turn) == 1

    async def told(self, times: int) -> None:
        """Returns when that many breaks have been sent."""
        async with asyncio.timeout(PATIENCE_S):
            while self.counter("breaks_sent") < times:
                await asyncio.sleep(0)
        assert self.counter("breaks_sent") == times

    async def some_turns(self) -> None:
        """The event loop has turned often enough for whatever is due now."""
        for _ in range(50):
            await asyncio.sleep(0)

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
@pytest.mark.expects_error_event
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


@pytest.mark.blocking_ok
async def test_messages_go_out_before_memory_is_freed_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A volume marked while another one is to be dismantled cuts only that one pause short."""
    monkeypatch.setattr(worker_module, "DISMANTLE_AFTER_S", NEVER_S)
    monkeypatch.setattr(worker_module, "DISMANTLE_WITHIN_S", NEVER_S)
    async with marked(tmp_path) as volumes:
        with working(volumes.callbacks):
            for number in range(1, 4):
                await volumes.give_back(100 + number)
                await volumes.told(number)
                await volumes.some_turns()
                assert volumes.callbacks.machine.later.work_left == number


@pytest.mark.blocking_ok
async def test_memory_is_freed_while_volumes_are_marked_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Marks that leave the worker no pause do not put off for ever what it has to dismantle."""
    monkeypatch.setattr(worker_module, "DISMANTLE_AFTER_S", NEVER_S)
    monkeypatch.setattr(worker_module, "DISMANTLE_WITHIN_S", 0.01)
    async with marked(tmp_path) as volumes:
        with working(volumes.callbacks):
            async with asyncio.timeout(PATIENCE_S):
                number = 0
                while number == volumes.callbacks.machine.later.work_left:
                    number += 1
                    await volumes.give_back(100 + number)
                    await volumes.told(number)
                    await volumes.some_turns()


@pytest.mark.blocking_ok
@pytest.mark.parametrize("dismantle_after_s", [0.0, NEVER_S])
async def test_the_ack_leaves_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dismantle_after_s: float
) -> None:
    """M3: nobody is told before the ack has left, also while memory waits to be freed."""
    monkeypatch.setattr(worker_module, "DISMANTLE_AFTER_S", dismantle_after_s)
    monkeypatch.setattr(worker_module, "ACK_HEAD_START_S", NEVER_S)
    async with marked(tmp_path) as volumes:
        with working(volumes.callbacks):
            for number in range(1, 4):
                answered = asyncio.get_running_loop().create_future()
                await volumes.give_back(100 + number, answered)
                await volumes.some_turns()
                assert volumes.counter("breaks_sent") == number - 1
                answered.set_result(None)
                await volumes.told(number)
                await volumes.some_turns()


@pytest.mark.blocking_ok
async def test_an_ack_that_does_not_leave_is_not_waited_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M3, I7: a volserver that does not take its answer puts nobody's break off."""
    monkeypatch.setattr(worker_module, "ACK_HEAD_START_S", 0.01)
    async with marked(tmp_path) as volumes:
        with working(volumes.callbacks):
            await volumes.give_back(100, asyncio.get_running_loop().create_future())
            await volumes.told(1)
