"""A queue between two sides of one conversation. Either side may end it for both.

Bounded: whoever is faster waits for the other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from afs.errors import AfsError

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """A bounded queue with an end; used in one event loop.

    Args:
        limit: items that wait before `put` does.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._ended = False
        self._error: AfsError | None = None
        self._changed = asyncio.Condition()

    async def put(self, item: T) -> None:
        """Adds an item when there is room; raises what it was aborted with."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: len(self._items) < self._limit or self._error is not None
            )
            if self._error is not None:
                raise self._error
            assert not self._ended, "nothing follows the end"
            self._items.append(item)
            self._changed.notify_all()

    async def get(self) -> T | None:
        """The next item; None after the last one; raises what it was aborted with."""
        async with self._changed:
            await self._changed.wait_for(
                lambda: self._items or self._ended or self._error is not None
            )
            if self._error is not None:
                raise self._error
            if not self._items:
                return None
            self._changed.notify_all()
            return self._items.popleft()

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
