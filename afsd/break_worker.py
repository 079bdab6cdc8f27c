"""The BreakLaterCallBacks worker: the thread that the 2002 mail adds to the fileserver, as a task.

It looks first and then waits (R2), its wake-up is a level and not an edge (R1, T8), and a tick that
finds work is
counted: it means that a wake-up was lost (I5).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from afs.limits import ACK_HEAD_START_S, DISMANTLE_AFTER_S
from afs.runtime.malloc import trim_malloc
from afsd.callbacks import CallBacks

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
        callbacks.wake_worker.clear()
        worked = await _work_off(callbacks)
        if not woken:
            counters["worker_ticks"] += 1
            counters["worker_ticks_that_found_work"] += worked
        try:
            async with asyncio.timeout(tick_s):
                await callbacks.wake_worker.wait()
            woken = True
            counters["worker_wakeups"] += 1
            callbacks.observe("worker.woken")
            await asyncio.sleep(ACK_HEAD_START_S)
        except TimeoutError:
            woken = False


async def _work_off(callbacks: CallBacks) -> bool:
    """Calls BreakLaterCallBacks until it finds nothing; False if there was nothing at all."""
    slices = 0
    telling = False
    while True:
        if telling and not callbacks.machine.later.marked:
            # What is left is memory to free, which nobody waits for: the messages go out first.
            telling = False
            with suppress(TimeoutError):
                async with asyncio.timeout(DISMANTLE_AFTER_S):
                    await callbacks.wake_worker.wait()
        telling = bool(callbacks.machine.later.marked)
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
