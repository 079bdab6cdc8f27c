"""Runs a sans-IO core on asyncio: one timer, armed for the core's next deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from afs.runtime.clock import Clock

# The loop's clock stands still while the machine is suspended and ours does not, so a long wait is
# cut into pieces.
_MAX_WAIT_S: Final = 5.0
# A tick that failed is a bug of ours; the core gets another chance, but not at the speed of the
# loop.
_WAIT_AFTER_FAILURE_S: Final = 1.0

_log = structlog.get_logger(__name__)


class Driver:
    """Calls a core's `tick(now)` when its deadline has come.

    Not thread-safe: used in the event loop only. Starts with the first `poke`.

    Args:
        deadline: the core's next deadline in steady seconds, None if it waits for nothing.
        tick: tells the core the time; must move the deadline on, or do some work each time.
        clock: where `now` comes from.
    """

    def __init__(
        self, *, deadline: Callable[[], float | None], tick: Callable[[float], None], clock: Clock
    ) -> None:
        self._deadline = deadline
        self._tick = tick
        self._clock = clock
        self._armed: asyncio.Handle | None = None
        self._armed_for: float | None = None
        self._due = False
        self._closed = False

    def poke(self) -> None:
        """Arms the timer anew; called after every event given to the core.

        Cheap when the deadline did not change.
        """
        if self._closed:
            return
        deadline = self._deadline()
        if deadline is None:
            self._disarm()
            return
        wait_s = deadline - self._clock.now()
        # A due tick stays where it is in the loop's queue: pokes faster than the loop turns must
        # not put it off.
        if self._due or (deadline == self._armed_for and wait_s > 0):
            return
        self._disarm()
        self._armed_for = deadline
        loop = asyncio.get_running_loop()
        if wait_s <= 0:
            self._due = True
            self._armed = loop.call_soon(self._fire)
        else:
            self._armed = loop.call_later(min(wait_s, _MAX_WAIT_S), self._fire)

    def close(self) -> None:
        """Stops for good; a no-op when stopped."""
        self._closed = True
        self._disarm()

    def _disarm(self) -> None:
        if self._armed is not None:
            self._armed.cancel()
        self._armed = None
        self._armed_for = None
        self._due = False

    def _fire(self) -> None:
        self._armed = None
        self._armed_for = None
        self._due = False
        deadline, now = self._deadline(), self._clock.now()
        if deadline is not None and deadline <= now:
            try:
                self._tick(now)
            except Exception:
                _log.exception("driver.tick_failed")
                self._armed = asyncio.get_running_loop().call_later(
                    _WAIT_AFTER_FAILURE_S, self._fire
                )
                return
        self.poke()
