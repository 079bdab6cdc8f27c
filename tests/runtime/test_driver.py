"""The driver that runs a core's deadlines on the event loop."""

from __future__ import annotations

import asyncio

import pytest

from afs.runtime.clock import SystemClock
from afs.runtime.driver import Driver
from tests.conftest import LogEvents
from tests.fakes import FakeClock


class _Core:
    """A core with a list of deadlines; each tick ends those that have come."""

    def __init__(self, *deadlines: float) -> None:
        self.deadlines = list(deadlines)
        self.ticks: list[float] = []
        self.ticked = asyncio.Event()
        self.fail = False

    def deadline(self) -> float | None:
        return min(self.deadlines, default=None)

    def tick(self, now: float) -> None:
        self.ticks.append(now)
        self.ticked.set()
        if self.fail:
            self.fail = False
            raise ZeroDivisionError
        self.deadlines = [deadline for deadline in self.deadlines if deadline > now]


async def _turn(times: int = 3) -> None:
    """Lets the loop turn."""
    for _ in range(times):
        await asyncio.sleep(0)


async def test_ticks_when_the_deadline_comes_and_not_before() -> None:
    """A core is told the time when its deadline has come, by the clock it was given."""
    clock, core = FakeClock(now=100), _Core(110, 120)
    driver = Driver(deadline=core.deadline, tick=core.tick, clock=clock)
    driver.poke()
    await _turn()
    assert core.ticks == []
    clock.advance(10)
    driver.poke()
    await _turn()
    assert core.ticks == [110]
    clock.advance(15)
    driver.poke()
    await _turn()
    assert core.ticks == [110, 125]
    assert core.deadline() is None
    driver.close()


async def test_real_time_passes_by_itself() -> None:
    """On the machine's clock a deadline fires without any further poke, and not early."""
    clock = SystemClock()
    core = _Core(due := clock.now() + 0.02)
    driver = Driver(deadline=core.deadline, tick=core.tick, clock=clock)
    driver.poke()
    async with asyncio.timeout(10):
        await core.ticked.wait()
    assert core.ticks[0] >= due
    driver.close()


async def test_earlier_deadline_takes_the_timer_over() -> None:
    """A deadline that comes before the armed one fires first, a withdrawn one does not fire."""
    clock = SystemClock()
    core = _Core(clock.now() + 3600)
    driver = Driver(deadline=core.deadline, tick=core.tick, clock=clock)
    driver.poke()
    driver.poke()
    core.deadlines.append(clock.now() + 0.02)
    driver.poke()
    async with asyncio.timeout(10):
        await core.ticked.wait()
    core.deadlines.clear()
    driver.poke()
    assert len(core.ticks) == 1
    driver.close()


async def test_pokes_cannot_put_a_due_tick_off() -> None:
    """A tick that is due happens although events go on poking in every turn of the loop."""
    clock, core = FakeClock(now=100), _Core(100)
    driver = Driver(deadline=core.deadline, tick=core.tick, clock=clock)
    for _ in range(3):
        driver.poke()
        await asyncio.sleep(0)
    assert core.ticks == [100]
    driver.close()


async def test_work_in_slices_gives_the_loop_back() -> None:
    """A core whose deadline stays due is ticked again and again, with turns of the loop between."""
    clock = FakeClock(now=100)
    slices = [1, 2, 3]
    turns: list[str] = []

    def tick(_now: float) -> None:
        turns.append(f"slice {slices.pop(0)}")
        asyncio.get_running_loop().call_soon(turns.append, "others")

    driver = Driver(deadline=lambda: 50.0 if slices else None, tick=tick, clock=clock)
    driver.poke()
    await _turn(8)
    assert turns == ["slice 1", "others", "slice 2", "others", "slice 3", "others"]
    driver.close()


@pytest.mark.expects_error_event
async def test_failed_tick_is_logged_and_the_core_lives_on(log_events: LogEvents) -> None:
    """A tick that raises is our bug and logged as such; the next event runs the core again."""
    clock, core = FakeClock(now=100), _Core(100)
    core.fail = True
    driver = Driver(deadline=core.deadline, tick=core.tick, clock=clock)
    driver.poke()
    await _turn()
    assert len(log_events.named("driver.tick_failed")) == 1
    assert core.deadlines
    driver.poke()
    await _turn()
    assert core.deadlines == []
    driver.close()


async def test_closed_driver_is_silent() -> None:
    """After close nothing fires any more, whatever is poked."""
    clock, core = FakeClock(now=100), _Core(100)
    driver = Driver(deadline=core.deadline, tick=core.tick, clock=clock)
    driver.poke()
    driver.close()
    driver.poke()
    driver.close()
    await _turn()
    assert core.ticks == []
