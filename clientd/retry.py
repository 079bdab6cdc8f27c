"""How often, and how long in all, a call that met a busy or absent server is tried again."""

from __future__ import annotations

from typing import Final

import grpc
import grpc.aio

from afs.errors import ABORT_CODE_TRAILER, AfsCode, AfsError
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


def was_refused(error: grpc.aio.AioRpcError) -> bool:
    """True if the server itself said no: then it surely did not do what was asked.

    Without the server's own code the call may have been done and its answer lost.
    """
    return any(key == ABORT_CODE_TRAILER for key, _ in error.trailing_metadata() or ())


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
        if error.code not in PASSING or now + self._next_s > self.until:
            return None
        wait_s, self._next_s = self._next_s, min(self._next_s * 2, RETRY_MAX_S)
        return wait_s
