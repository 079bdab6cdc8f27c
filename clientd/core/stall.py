"""Notices that the process stood still: stopped, swapped out, suspended, or its loop blocked.

A frozen client cannot hear breaks, and its lease may seem to run when it thaws. The loop turns a
timer every TURN_S; a gap of more than STALL_S between two looks means that it stood still. The look
is also taken at the moment a read is served: after a thaw the read may come up before the timer
does.
"""

from __future__ import annotations

from typing import Final

from afs.limits import STALL_S

TURN_S: Final = 0.1


class StallDetector:
    """Tells whether time passed unseen.

    Args:
        now: steady seconds (a clock that counts suspend).
        stall_s: a longer gap than this is a stall.
    """

    def __init__(self, now: float, stall_s: float = STALL_S) -> None:
        self._last_turn = now
        self._stall_s = stall_s

    def look(self, now: float) -> bool:
        """True if the process stood still since the last turn; reports each stall once."""
        stalled = now - self._last_turn > self._stall_s
        if stalled:
            self._last_turn = now
        return stalled

    def turn(self, now: float) -> bool:
        """The loop's timer came round. True if the process stood still since the last turn."""
        stalled = self.look(now)
        self._last_turn = now
        return stalled
