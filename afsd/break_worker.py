"""The BreakLaterCallBacks worker: the thread that the 2002 mail adds to the fileserver, as a task.

It looks first and then waits (R2), its wake-up is a level and not an edge (R1, T8), and a tick that
finds work is counted and logged as a bug of ours: it means that a wake-up was lost (I5).

The acks of what was marked leave first (M3), then hosts are told, and what they held is dismantled
after everything else: nobody waits for memory to be freed.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

import structlog

from afs.limits import ACK_HEAD_START_S, DISMANTLE_AFTER_S, DISMANTLE_WITHIN_S
from afs.runtime.malloc import trim_malloc
from afsd.callbacks import CallBacks

_log = structlog.get_logger(__name__)

# Some 100,000 promises.
_TRIM_AFTER_SLICES: Final = 100


async def break_worker(callbacks: CallBacks, tick_s: float) -> None:
    """Breaks what was marked, on every wake-up and every `tick_s` seconds (M4), until cancelled.

    Args:
        callbacks: what to work on.
        tick_s: how long to wait for a wake-up; a tick is a safety net, never needed.
    """
    counters = callbacks.machine.counters
    woken = True
    while True:
        worked = await _work_off(callbacks)
        if not woken:
            counters["worker_ticks"] += 1
            counters["worker_ticks_that_found_work"] += worked
            if worked:
                _log.error("worker.wake_up_lost")
        woken = await _woken(callbacks, tick_s)
        if woken:
            counters["worker_wakeups"] += 1
            callbacks.observe("worker.woken")


async def _work_off(callbacks: CallBacks) -> bool:
    """Calls BreakLaterCallBacks until it finds nothing; False if there was nothing at all."""
    later, now = callbacks.machine.later, asyncio.get_running_loop().time
    slices = 0
    telling = False
    dismantle_by: float | None = None
    while True:
        if telling and not later.marked:
            # What is left is memory to free: the messages go out first, and so do those of volumes
            # that are marked meanwhile, if they do not come for ever.
            telling = False
            dismantle_by = dismantle_by or now() + DISMANTLE_WITHIN_S
            await _woken(callbacks, min(DISMANTLE_AFTER_S, dismantle_by - now()))
        if callbacks.wake_worker.is_set() and not telling:
            await callbacks.let_acks_leave(ACK_HEAD_START_S)
        # A wake-up is taken back before the look that does what it is about. One that nobody took
        # back would cut every later pause short.
        callbacks.wake_worker.clear()
        telling = bool(later.marked)
        if not callbacks.break_later_callbacks():
            break
        slices += 1
        # Whoever else has something to do has a turn between two slices.
        await asyncio.sleep(0)
    if slices:
        callbacks.observe("worker.finished")
    if slices >= _TRIM_AFTER_SLICES:
        # A large table that is gone leaves the allocator with memory the machine can use.
        await asyncio.to_thread(trim_malloc)
    return slices > 0


async def _woken(callbacks: CallBacks, timeout_s: float) -> bool:
    """Waits for a wake-up; False if none came in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await callbacks.wake_worker.wait()
    # One that came in the very turn in which the time was over has come as well.
    return callbacks.wake_worker.is_set()
