"""Who has not been told yet that the promises on a volume ended (`vos release --wait`).

Theory of operation
    A host that held promises on a volume may tell its programs the old state until it has
    acknowledged the break, or its lease has run out. Where it is found meanwhile:

    1. On the mark, until the worker or its own call comes to it (`BreakLater`).
    2. Under way: sent and not acknowledged (`Doubts.under_way_in`); also the break of a single
       vnode, which took the promise away before the volume was marked.
    3. Down before it had acknowledged, or down already when the volume was marked: until its lease
       has run out, or it has acknowledged a reset (`Doubts.trusted_in`).
    4. Known from an earlier life of the fileserver: it may hold anything, also what that life had
       marked and not broken; until the same.

    A step that takes a host out of one place puts it into the next one, so nobody is missed.

    Breaks that came after the question do not count: otherwise a volume that somebody writes to all
    the time would never be done. `through` of a break tells them apart.

Nothing is kept for this: it is read off what the machine knows anyway.
"""

from __future__ import annotations

from typing import NamedTuple

from afsd.core.callback_base import CallBackBase


class HostNotTold(NamedTuple):
    """A host that may still rely on what a volume was; until `lease_end` (steady seconds)."""

    uuid: str
    address: str
    lease_end: float


class NotTold(CallBackBase):
    """The part of the callback machine that says who is still to be told."""

    def hosts_not_told(self, volume: int, before: int, now: float) -> list[HostNotTold]:
        """The hosts that may still rely on a volume as it was, in order of their UUIDs.

        Args:
            volume: its number.
            before: the place in the break sequence when the question first came up; breaks made
                since do not count.
            now: steady seconds.
        """
        hosts = {
            delivery.host
            for delivery in self.deliveries.doubts.under_way_in(volume)
            if delivery.through < before
        }
        for mark in self.later.marked:
            if mark.promises.volume == volume and mark.through < before:
                hosts.update(session.host for session in mark.untold)
        until = {host.uuid: host.session.lease_end for host in hosts}
        for uuid, lease_end in self.deliveries.doubts.trusted_in(volume):
            until[uuid] = max(lease_end, until.get(uuid, 0.0))
        return [
            HostNotTold(uuid, self.hosts[uuid].address, lease_end)
            for uuid, lease_end in sorted(until.items())
            if lease_end > now and uuid in self.hosts
        ]

    def holder_count(self, volume: int) -> int:
        """How many hosts hold promises on a volume."""
        promises = self.table.volumes.get(volume)
        return 0 if promises is None else len(promises.sessions)
