"""The clocks of a daemon: a steady one for deadlines, the wall clock for time stamps."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where a daemon gets the time from; tests put a fake one in its place."""

    def now(self) -> float:
        """Steady seconds since some fixed moment: never goes back, counts suspend."""
        ...

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch; may jump when someone sets the clock."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Steady seconds since boot, suspend included.

        CLOCK_MONOTONIC stands still while a machine sleeps; a client would trust its promises for
        that much too long.
        """
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return time.time_ns()
