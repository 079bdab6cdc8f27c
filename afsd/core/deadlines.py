"""What is due when: one heap for everything that has a deadline."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import count
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Deadlines(Generic[Thing]):
    """Things by the time they are due. What is over before that stays until then.

    Its owner knows to ignore it.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Thing]] = []
        self._order = count()

    def add(self, due: float, thing: Thing) -> None:
        """Has `due` return this thing at or after that time.

        Equal times in the order they were added.
        """
        heapq.heappush(self._heap, (due, next(self._order), thing))

    def next(self) -> float | None:
        """When the next thing is due; None if there is nothing."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> Iterator[Thing]:
        """Takes out and yields everything due, in order."""
        while self._heap and self._heap[0][0] <= now:
            yield heapq.heappop(self._heap)[2]
