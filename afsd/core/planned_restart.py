"""A planned restart: hosts that are owed nothing keep their promises over it (I9).

Theory of operation
    1. `begin_stop`: from now on a host whose channel ends, and that is owed nothing, is not
       VENUSDOWN but *suspended*: its session goes on. Calls of its that are under way are answered,
       without promises: it is owed nothing (I3). Other calls go on changing things while the
       fileserver drains. The first change that a suspended host would have to be told of ends its
       suspension: it is VENUSDOWN.
    2. `save`, when no more changes are made: what hosts hold that are owed nothing. Everybody else
       is reset after the restart, as after a crash.
    3. `restore`, in the next life, before anything is answered: those hosts are suspended again,
       with their promises. Their calls are not answered now: in every life, the first thing that a
       host acknowledges is InitCallBackState. The break sequence goes on, so that breaks and kept
       promises have an order.
    4. `compare_volumes`, before anything is answered: the holders of a volume that is not proved
       to be as it was are VENUSDOWN.
    5. A client says which session it still holds promises of. If that is what its host was
       suspended with, InitCallBackState says that they are kept (`HostEvents.attach`), and once it
       has acknowledged that the host is up. Anybody else is reset.

    From the moment the host has a channel again, it is told of changes on it like any other host.
    That needs no rule of its own: the channel keeps the order, so the client has taken in "kept"
    before any break, and any break before the answer to its first renewal, without which it trusts
    nothing. Only while there is no channel a break can reach nobody, and then the promises go.

    Why sessions are named by the reset that began them: the name is known to both sides only if
    the client took in that reset and the fileserver saw the ack, and no two resets of any life
    share one. A client that restarted, or was reset or is another one with the same UUID, names
    another session or none.

Why the lease is no danger: a client whose channel is gone trusts nothing. One that has not noticed
yet trusts what it holds until its lease has run out, which is what `lease_end` says; a writer with
strict coherence waits for it, as for any host that was not told (I8).
"""

from __future__ import annotations

from collections.abc import Collection

from afsd.core.callback_base import CallBackBase
from afsd.core.hosts import Host
from afsd.core.instructions import DownCause, Instruction
from afsd.core.saved_state import HeldPromises, SavedHost, SavedState


class PlannedRestart(CallBackBase):
    """The part of the callback machine that outlives its process."""

    def begin_stop(self) -> None:
        """The fileserver stops: channels end because of us, not because of their hosts."""
        self._stopping = True

    def save(self, now: float) -> SavedState:
        """What the next life needs, of hosts that are suspended or up and owed nothing.

        Promises that have expired are left out, and hosts that hold none.
        """
        hosts = {host.session.number: host for host in self.hosts.values() if self._may_go_on(host)}
        held: dict[int, dict[int, HeldPromises]] = {number: {} for number in hosts}
        for volume in self.table.volumes.values():
            for number, promises in volume.held_by(hosts, now).items():
                held[number][volume.volume] = promises
        saved = [
            SavedHost(
                host.uuid,
                host.address,
                host.client,
                host.begun,
                host.session.lease_end,
                held[number],
            )
            for number, host in hosts.items()
            if host.begun is not None and held[number]
        ]
        return SavedState(self.sequence, self.deliveries.message, tuple(saved))

    @staticmethod
    def _may_go_on(host: Host) -> bool:
        return (host.suspended or host.is_up) and not host.is_owed

    def restore(self, saved: SavedState, now: float) -> None:
        """Takes over what the life before this one saved; before anything else happens.

        As many hosts as there is room for.
        """
        self._sequence = max(self._sequence, saved.sequence)
        self.deliveries.message = max(self.deliveries.message, saved.message)
        for each in saved.hosts:
            count = sum(len(promises.keys) for promises in each.promises.values())
            if self.table.size + count > self.settings.max_promises:
                continue
            if each.uuid not in self.hosts and len(self.hosts) >= self.settings.max_hosts:
                continue
            self._restore_host(each, now)
            self.counters["promises_restored"] += count

    def _restore_host(self, saved: SavedHost, now: float) -> None:
        host = self.hosts.get(saved.uuid) or self.deliveries.add_host(saved.uuid, now)
        # As a host that only is known it was put in doubt, and was taken for VENUSDOWN.
        self.deliveries.doubts.settled(saved.uuid)
        self.deliveries.suspend(host, now)
        host.address, host.client, host.begun = saved.address, saved.client, saved.begun
        host.session.lease_end = saved.lease_end
        for volume, promises in saved.promises.items():
            self.table.restore(volume, host.session, promises.keys, promises.expires_at)

    def compare_volumes(self, unchanged: Collection[int], now: float) -> list[Instruction]:
        """Hosts that hold promises on any volume but these are VENUSDOWN: they might be stale."""
        for host in list(self.hosts.values()):
            held = (volume.volume for volume in host.session.volumes)
            if host.suspended and not all(volume in unchanged for volume in held):
                self.deliveries.mark_down(host, DownCause.SERVER_RESTARTED, now)
        return self._take_out()
