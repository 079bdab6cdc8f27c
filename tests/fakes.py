"""Fakes that tests of several parts share."""

from __future__ import annotations


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: float = 1000.0, wall_ns: int = 1_700_000_000_000_000_000) -> None:
        self._now = now
        self._wall_ns = wall_ns

    def now(self) -> float:
        """Steady seconds, as moved by `advance`."""
        return self._now

    def wall_ns(self) -> int:
        """Nanoseconds since the epoch, moved along with `now`."""
        return self._wall_ns

    def advance(self, seconds: float) -> float:
        """Moves both clocks on; returns the new steady time."""
        assert seconds >= 0, "time goes forward"
        self._now += seconds
        self._wall_ns += round(seconds * 1e9)
        return self._now
