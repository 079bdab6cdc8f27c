"""One fetch for many who want the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Landed(NamedTuple, Generic[V]):
    """The outcome of a flight.

    Attributes:
        value: what came of it.
        asked_before: True if this caller was there before the flight began, so that whatever it
            brought was true at a moment after the caller asked. False for a latecomer.
    """

    value: V
    asked_before: bool


class _Flight(Generic[V]):
    def __init__(self) -> None:
        self.task: asyncio.Task[V] | None = None
        self.begun = False
        self.waiting = 0


class SingleFlight(Generic[K, V]):
    """Runs at most one fetch for each key at a time; who asks meanwhile waits for that one.

    A fetch runs in a task of its own, so a caller that goes away takes nobody's answer along; when
    the last one has gone the fetch is cancelled. An error goes to all who wait.
    """

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[V]] = {}

    def waiting(self, key: K) -> int:
        """How many wait for this key."""
        flight = self._flights.get(key)
        return flight.waiting if flight is not None else 0

    async def run(self, key: K, fetch: Callable[[], Awaitable[V]]) -> Landed[V]:
        """Joins the flight for `key`, or starts one with `fetch`."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            flight.task = asyncio.create_task(self._fly(key, flight, fetch))
        assert flight.task is not None
        asked_before = not flight.begun
        flight.waiting += 1
        try:
            return Landed(await asyncio.shield(flight.task), asked_before)
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                # Whoever asks from now on must not join what is about to be cancelled.
                self._remove(key, flight)
                flight.task.cancel()

    async def _fly(self, key: K, flight: _Flight[V], fetch: Callable[[], Awaitable[V]]) -> V:
        flight.begun = True
        try:
            return await fetch()
        finally:
            self._remove(key, flight)

    def _remove(self, key: K, flight: _Flight[V]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
