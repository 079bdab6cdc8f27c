"""Who may still rely on what has changed, though the table has no promise of it any more (I8).

Theory of operation
    A promise leaves the table when its break is sent, marked, or tossed; its client relies on it
    until it has taken in the message, or its lease has run out. With strict coherence a writer is
    not answered before that, also if it was not its own change that took the promise away: the
    change before it did, a give-back did, or the host went down with it.

    So for each target of a break this knows the deliveries that are under way, and the hosts that
    went down before they had taken one in, with the end of their lease. What a host that went down
    held in the table is still found there; only a mark takes that away, so a mark puts the whole
    volume in doubt. Hosts of an earlier life of the fileserver may hold anything.

Used with strict coherence only. What is over is forgotten when it is next looked at, or swept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, TypeVar

from afs.types import Fid, whole_volume_fid

if TYPE_CHECKING:
    from afsd.core.deliveries import Delivery

# Stands for every Fid there is.
EVERYTHING: Final = Fid(0, 0, 0)


Where = TypeVar("Where")


def _keep(leases: dict[Where, dict[str, float]], wanted: Callable[[str, float], bool]) -> None:
    """Drops the leases that are not wanted, and places where none is left."""
    for where, by_host in list(leases.items()):
        kept = {uuid: end for uuid, end in by_host.items() if wanted(uuid, end)}
        if kept:
            leases[where] = kept
        else:
            del leases[where]


class Doubts:
    """What hosts may still trust, by target of the break that they have not taken in."""

    def __init__(self) -> None:
        self._under_way: dict[Fid, dict[Delivery, None]] = {}
        self._leases: dict[Fid, dict[str, float]] = {}
        # Volumes on which a host held promises when it went down: in the table until a mark.
        self._held: dict[int, dict[str, float]] = {}

    def sent(self, delivery: Delivery) -> None:
        """A break is under way."""
        for target in delivery.targets:
            self._under_way.setdefault(target, {})[delivery] = None

    def ended(self, delivery: Delivery) -> None:
        """A break is not under way any more."""
        for target in delivery.targets:
            there = self._under_way.get(target)
            if there is not None:
                there.pop(delivery, None)
                if not there:
                    del self._under_way[target]

    def untold(self, uuid: str, lease_end: float, targets: Iterable[Fid]) -> None:
        """A host went down before it had taken in breaks of these."""
        for target in targets:
            self._leases.setdefault(target, {})[uuid] = lease_end

    def tossed(self, uuid: str, lease_end: float, volumes: Iterable[int]) -> None:
        """A host went down that held promises on these volumes."""
        for volume in volumes:
            self._held.setdefault(volume, {})[uuid] = lease_end

    def volume_marked(self, volume: int) -> None:
        """What was held on a volume is in the table no more."""
        for uuid, lease_end in self._held.pop(volume, {}).items():
            self.untold(uuid, lease_end, (whole_volume_fid(volume),))

    def settled(self, uuid: str) -> None:
        """A host trusts nothing of what it held before."""
        _keep(self._leases, lambda name, _: name != uuid)
        _keep(self._held, lambda name, _: name != uuid)

    def sweep(self, now: float) -> None:
        """Forgets leases that have run out."""
        _keep(self._leases, lambda _, lease_end: lease_end > now)
        _keep(self._held, lambda _, lease_end: lease_end > now)

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
                for uuid, lease_end in self._leases.get(target, {}).items()
                if uuid != but
            ),
            default=0.0,
        )
