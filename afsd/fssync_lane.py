"""The listeners that FSSYNC calls are served by, and how long a call keeps one.

The four break policies differ in this: `sync` and `ack-first` have one listener, which breaks
callbacks itself and is busy until that is done; `hot-thread` has a few; under `later` no listener
ever waits for a client. Source: the 2002 mail; mechanism §2.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from afsd.core.policy import BreakPolicy


class Turn:
    """One FSSYNC call's time with a listener.

    Attributes:
        answered: done when the call's answer has left; None if nobody is told.
    """

    def __init__(self, answered: asyncio.Future[None] | None = None) -> None:
        self.answered = answered
        self.busy_until: asyncio.Future[Any] | None = None

    def stay_busy_until(self, done: asyncio.Future[Any]) -> None:
        """Keeps the listener after the call was answered, until this is done."""
        self.busy_until = done


class FssyncLane:
    """The listeners of one fileserver."""

    def __init__(self, policy: BreakPolicy) -> None:
        self._listeners = asyncio.Semaphore(policy.listeners)

    @asynccontextmanager
    async def turn(self, answered: asyncio.Future[None] | None = None) -> AsyncIterator[Turn]:
        """Waits for a free listener and keeps it for the call, or as long as the turn says.

        Args:
            answered: done when the call's answer has left.
        """
        await self._listeners.acquire()
        turn = Turn(answered)
        try:
            yield turn
        finally:
            if turn.busy_until is None:
                self._listeners.release()
            else:
                turn.busy_until.add_done_callback(lambda _: self._listeners.release())
