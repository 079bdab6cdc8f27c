"""Lets people watch what a daemon does, without the daemon ever waiting for them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator
from typing import Generic, NamedTuple, TypeVar

from afs.limits import WATCH_BACKLOG_EVENTS

T = TypeVar("T")


class Watched(NamedTuple, Generic[T]):
    """One event as a watcher gets it.

    Attributes:
        event: what was published.
        dropped: how many events before this one were lost to this watcher, as it lagged behind.
    """

    event: T
    dropped: int


class WatchHub(Generic[T]):
    """Hands every published event to everyone who watches.

    Not thread-safe: used in the event loop only.
    """

    def __init__(self, backlog_events: int = WATCH_BACKLOG_EVENTS) -> None:
        self._backlog_events = backlog_events
        self._watchers: set[_Watcher[T]] = set()
        self._closed = False
        self.dropped_events = 0

    @property
    def watched(self) -> bool:
        """True while somebody watches; ask before building an event that costs something."""
        return bool(self._watchers)

    def publish(self, event: T) -> None:
        """Hands an event to every watcher.

        Never blocks. A watcher that lags too far behind loses its oldest event.
        """
        for watcher in self._watchers:
            self.dropped_events += watcher.put(event)

    async def subscribe(self) -> AsyncGenerator[Watched[T], None]:
        """Yields all that is published from the iteration's first step on, until `close`."""
        if self._closed:
            return
        watcher = _Watcher[T](self._backlog_events)
        self._watchers.add(watcher)
        try:
            while True:
                if watcher.events:
                    yield watcher.take()
                elif self._is_closed():
                    return
                else:
                    watcher.arrived.clear()
                    await watcher.arrived.wait()
        finally:
            self._watchers.discard(watcher)

    def _is_closed(self) -> bool:
        # Asked anew after every wait; a plain attribute would be taken for constant by the checker.
        return self._closed

    def close(self) -> None:
        """Ends every subscription once its backlog is read."""
        self._closed = True
        for watcher in self._watchers:
            watcher.arrived.set()


class _Watcher(Generic[T]):
    """The backlog of one watcher."""

    def __init__(self, backlog_events: int) -> None:
        self.events: deque[T] = deque(maxlen=backlog_events)
        self.dropped = 0
        self.arrived = asyncio.Event()

    def put(self, event: T) -> int:
        """Adds an event; returns how many were dropped for it, 0 or 1."""
        full = len(self.events) == self.events.maxlen
        self.events.append(event)
        self.dropped += full
        self.arrived.set()
        return int(full)

    def take(self) -> Watched[T]:
        """The oldest event, and how many were lost before it."""
        watched = Watched(self.events.popleft(), self.dropped)
        self.dropped = 0
        return watched
