"""Ends of leases, by where they matter and by host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Generic, TypeVar

Where = TypeVar("Where")
_NOBODY: Final[Mapping[str, float]] = {}


class Leases(Generic[Where]):
    """Hosts that matter somewhere until their lease has run out.

    Striking out a host costs in proportion to the places where it is, not to the other hosts: after
    a crash all of them come back at once.
    """

    def __init__(self) -> None:
        self._by_place: dict[Where, dict[str, float]] = {}
        self._places: dict[str, set[Where]] = {}

    def __len__(self) -> int:
        return len(self._by_place)

    def put(self, where: Where, uuid: str, lease_end: float) -> None:
        """A host matters here until then (steady seconds)."""
        self._by_place.setdefault(where, {})[uuid] = lease_end
        self._places.setdefault(uuid, set()).add(where)

    def at(self, where: Where) -> Mapping[str, float]:
        """Ends of leases by host; those that have run out may be among them."""
        return self._by_place.get(where, _NOBODY)

    def items(self) -> Iterator[tuple[Where, Mapping[str, float]]]:
        """All places that matter, with what `at` tells of them."""
        return iter(self._by_place.items())

    def take(self, where: Where) -> dict[str, float]:
        """Takes all hosts away from a place; what `at` told of it."""
        taken = dict(self.at(where))
        for uuid in taken:
            self._remove(where, uuid)
        return taken

    def strike_out(self, uuid: str) -> None:
        """Takes a host away from everywhere."""
        for where in list(self._places.get(uuid, ())):
            self._remove(where, uuid)

    def sweep(self, now: float) -> None:
        """Forgets leases that have run out."""
        for where, by_host in list(self._by_place.items()):
            for uuid in [uuid for uuid, lease_end in by_host.items() if lease_end <= now]:
                self._remove(where, uuid)

    def _remove(self, where: Where, uuid: str) -> None:
        there, places = self._by_place[where], self._places[uuid]
        del there[uuid]
        places.discard(where)
        if not there:
            del self._by_place[where]
        if not places:
            del self._places[uuid]
