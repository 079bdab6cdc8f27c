"""How often, and how long in all, what met a busy or absent server is tried again."""

from __future__ import annotations

from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import RETRY_FIRST_S, RETRY_MAX_S, RETRY_TOTAL_S

# What passes by itself: a volume that is being worked on, a server that restarts, a peer that is
# not there. Everything else would fail again.
PASSING: Final = frozenset(
    {
        AfsCode.VBUSY,
        AfsCode.VOFFLINE,
        AfsCode.VRESTARTING,
        AfsCode.VIO,
        AfsCode.RX_CALL_DEAD,
    }
)


class Patience:
    """Doubling waits, bounded in sum.

    Args:
        now: steady seconds when the first attempt began.
        total_s: no attempt begins later than this after `now`.
    """

    def __init__(self, now: float, total_s: float = RETRY_TOTAL_S) -> None:
        self.until = now + total_s
        self._next_s = RETRY_FIRST_S

    def wait_s(self, error: AfsError, now: float) -> float | None:
        """Seconds to wait before the next attempt; None if there is to be none."""
        return self.next_wait_s(now) if error.code in PASSING else None

    def next_wait_s(self, now: float) -> float | None:
        """As `wait_s`, for an error that passes."""
        if now + self._next_s > self.until:
            return None
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, RETRY_MAX_S)
        return wait_s
