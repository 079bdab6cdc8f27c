"""Pieces of a dump on their way between an operation and the call of its client.

Bounded: whoever is faster waits for the other. Either side may end it for both.
"""

from __future__ import annotations

import asyncio
from collections import deque

from afs.errors import AfsError


class PieceQueue:
    """A bounded queue of pieces with an end; used in one event loop.

    Args:
        limit: pieces that wait before `put` does.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._ended = False
        self._error: AfsError | None = None
        self._changed = asyncio.Condition()

    async def put(self, piece: bytes) -> None:
        """Adds a piece when there is room; raises what it was aborted with."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: len(self._pieces) < self._limit or self._error is not None
            )
            if self._error is not None:
                raise self._error
            assert not self._ended, "nothing follows the end"
            self._pieces.append(piece)
            self._changed.notify_all()

    async def get(self) -> bytes | None:
        """The next piece; None after the last one; raises what it was aborted with."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._pieces or self._ended or self._error is not None
            )
            if self._error is not None:
                raise self._error
            if not self._pieces:
                return None
            self._changed.notify_all()
            return self._pieces.popleft()

    async def end(self) -> None:
        """Nothing follows."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abort(self, error: AfsError) -> None:
        """Ends it for both sides: what waits, and every later call, raises the error."""
        if self._error is None:
            self._error = error
            self._wake = asyncio.ensure_future(self._notify())

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()
