"""Who may still rely on what has changed, though the table has no promise of it any more (I8).

Theory of operation
    A promise leaves the table when its break is sent, marked, or tossed; its client relies on it
    until it has taken in the message, or its lease has run out. So for each target of a break this
    knows the deliveries that are under way, and the hosts that went down before they had taken one
    in, with the end of their lease. What a host that went down held in the table is still found
    there; only a mark takes that away, so a mark puts the whole volume in doubt. Hosts of an
    earlier life of the fileserver may hold anything.

    Three ask for it. A writer waits for breaks of its file that are under way, also if it was not
    its own change that took the promise away: the change before it did, or a give-back did. With
    strict coherence it waits for the leases as well. And whoever released a volume asks who has not
    been told yet (`not_told`).

What is over is forgotten when it is next looked at, or swept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from afs.types import Fid, whole_volume_fid
from afsd.core.leases import Leases

if TYPE_CHECKING:
    from afsd.core.deliveries import Delivery

# Stands for every Fid there is.
EVERYTHING: Final = Fid(0, 0, 0)


class Doubts:
    """What hosts may still trust, by target of the break that they have not taken in."""

    def __init__(self) -> None:
        self._under_way: dict[Fid, dict[Delivery, None]] = {}
        self._leases: Leases[Fid] = Leases()
        # Volumes on which a host held promises when it went down: in the table until a mark.
        self._held: Leases[int] = Leases()

    def sent(self, delivery: Delivery) -> None:
        """A break is under way."""
        for target in delivery.targets:
            self._under_way.setdefault(target, {})[delivery] = None

    def ended(self, delivery: Delivery) -> None:
        """A break is not under way any more."""
        for target in delivery.targets:
            there = self._under_way[target]
            del there[delivery]
            if not there:
                del self._under_way[target]

    def untold(self, uuid: str, lease_end: float, targets: Iterable[Fid]) -> None:
        """A host went down before it had taken in breaks of these."""
        for target in targets:
            self._leases.put(target, uuid, lease_end)

    def tossed(self, uuid: str, lease_end: float, volumes: Iterable[int]) -> None:
        """A host went down that held promises on these volumes."""
        for volume in volumes:
            self._held.put(volume, uuid, lease_end)

    def volume_marked(self, volume: int) -> None:
        """What was held on a volume is in the table no more."""
        for uuid, lease_end in self._held.take(volume).items():
            self.untold(uuid, lease_end, (whole_volume_fid(volume),))

    def settled(self, uuid: str) -> None:
        """A host trusts nothing of what it held before."""
        self._leases.strike_out(uuid)
        self._held.strike_out(uuid)

    def sweep(self, now: float) -> None:
        """Forgets leases that have run out."""
        self._leases.sweep(now)
        self._held.sweep(now)

    def under_way(self, fid: Fid) -> list[Delivery]:
        """Breaks of a vnode, or of its volume, that are under way."""
        targets = (fid, whole_volume_fid(fid.volume))
        return [one for target in targets for one in self._under_way.get(target, ())]

    def trusted_until(self, fid: Fid, but: str | None) -> float:
        """When the last lease ends under which somebody may rely on a vnode; 0.0 if there is none.

        Args:
            fid: the vnode.
            but: UUID of the host that changed it, whose own trust does no harm.
        """
        targets = (fid, whole_volume_fid(fid.volume), EVERYTHING)
        return max(
            (
                lease_end
                for target in targets
                for uuid, lease_end in self._leases.at(target).items()
                if uuid != but
            ),
            default=0.0,
        )

    def under_way_in(self, volume: int) -> Iterator[Delivery]:
        """Breaks of a volume, or of any vnode in it, that are under way."""
        for target, deliveries in self._under_way.items():
            if target.volume == volume:
                yield from deliveries

    def trusted_in(self, volume: int) -> Iterator[tuple[str, float]]:
        """Hosts that may rely on anything in a volume, with the end of their lease."""
        for target, by_host in self._leases.items():
            if target.volume == volume or target == EVERYTHING:
                yield from by_host.items()
