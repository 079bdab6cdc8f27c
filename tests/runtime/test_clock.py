"""The machine's clocks, and the fake one."""

from __future__ import annotations

import time

import pytest

from afs.runtime.clock import Clock, SystemClock
from tests.fakes import FakeClock


def test_system_clock_is_steady_and_counts_suspend() -> None:
    """The steady clock is the one that goes on while the machine sleeps, and never goes back."""
    clock: Clock = SystemClock()
    first = clock.now()
    assert time.clock_gettime(time.CLOCK_BOOTTIME) >= first
    assert clock.now() >= first
    before_ns = time.time_ns()
    assert before_ns <= clock.wall_ns() <= time.time_ns()


def test_fake_clock_moves_when_told() -> None:
    """The fake clock stands still until it is moved, both its faces by the same amount."""
    fake = FakeClock(now=5, wall_ns=7)
    clock: Clock = fake
    assert (clock.now(), clock.wall_ns()) == (5, 7)
    assert fake.advance(2.5) == 7.5
    assert (clock.now(), clock.wall_ns()) == (7.5, 2_500_000_007)
    with pytest.raises(AssertionError):
        fake.advance(-1)
