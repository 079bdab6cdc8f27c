"""Messages that hosts must acknowledge, who waits for them, and hosts that do not acknowledge.

Theory of operation
    A `Delivery` is a break or a reset that was sent down a host's channel. It ends when the host's
    application acknowledges it, or fails at its deadline; then the host is VENUSDOWN. Each host has
    its own deliveries and its own deadlines, so none waits for another (I7, T9, R5). Channels keep
    the order, so nothing waits here before it is sent; the number outstanding is bounded.

    A `Wait` is somebody (a writer, a give-back under some policies) who goes on when all deliveries
    made for it have ended. With bounded coherence a failed delivery ends the wait; with strict
    coherence it is replaced by the end of the host's lease, after which that client trusts nothing
    it holds (I8).

    A VENUSDOWN host is sent nothing but InitCallBackState, when it is next heard from (M6).

    A suspended host is owed nothing and can be told nothing. What it would have to be told next
    makes it VENUSDOWN: from then on it is like any other host that did not acknowledge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from afs.limits import HOST_EXPIRY_S, MAX_BREAKS_OUTSTANDING_PER_HOST
from afs.types import BreakReason, Fid
from afsd.core.deadlines import Deadlines
from afsd.core.doubts import Doubts
from afsd.core.hosts import Host, SessionName
from afsd.core.instructions import (
    AnswerRenewal,
    DownCause,
    ForgetHost,
    Instruction,
    Observed,
    Outcome,
    Resolve,
    SendBreak,
    SendReset,
)
from afsd.core.promises import PromiseTable
from afsd.core.settings import CallBackSettings


class Wait:
    """Somebody who waits until `pending` deliveries have ended.

    It is made with one pending of its own, so that it cannot end while its deliveries are still
    being made.
    """

    __slots__ = ("pending", "ticket")

    def __init__(self, ticket: int) -> None:
        self.ticket = ticket
        self.pending = 1


class Delivery:
    """One message that a host has to acknowledge.

    A reset has no targets; if it `keeps`, it tells the host that its session goes on. A break ends
    promises given at or before `through`.
    """

    __slots__ = (
        "host",
        "is_reset",
        "keeps",
        "of_volume",
        "sequence",
        "targets",
        "through",
        "waits",
    )

    def __init__(self, host: Host, sequence: int, targets: tuple[Fid, ...]) -> None:
        self.host = host
        self.keeps = False
        self.through = 0
        self.sequence = sequence
        self.targets = targets
        self.is_reset = not targets
        self.of_volume = any(target.is_whole_volume for target in targets)
        self.waits: list[Wait] = []


@dataclass(frozen=True, slots=True)
class LeaseEnd:
    """A host's channel lease may have run out."""

    host: Host


@dataclass(frozen=True, slots=True)
class LeaseOutlived:
    """The lease that a strict writer waited for has run out."""

    wait: Wait


@dataclass(frozen=True, slots=True)
class WaitOver:
    """A writer has waited for the whole break deadline."""

    wait: Wait


@dataclass(frozen=True, slots=True)
class CallOver:
    """A host's own call has waited for the whole break deadline."""

    host: Host
    ticket: int


@dataclass(frozen=True, slots=True)
class HostExpiry:
    """A host has been down, or suspended, for so long that it can be forgotten."""

    host: Host
    down_since: float


@dataclass(frozen=True, slots=True)
class SweepDue:
    """The promise table is to be swept."""


Due = Delivery | LeaseEnd | LeaseOutlived | WaitOver | CallOver | HostExpiry | SweepDue


def _kind(delivery: Delivery) -> str:
    """For counters and people."""
    if delivery.is_reset:
        return "resumption" if delivery.keeps else "reset"
    return "break"


class Deliveries:
    """The hosts, and what is under way to them.

    Part of the callback machine, which shares `out` and `counters`.
    """

    def __init__(self, settings: CallBackSettings, table: PromiseTable, epoch: int) -> None:
        self.settings = settings
        self.epoch = epoch
        self.hosts: dict[str, Host] = {}
        self.counters: Counter[str] = Counter()
        self.deadlines: Deadlines[Due] = Deadlines()
        self.doubts = Doubts()
        self.observing = False
        self.out: list[Instruction] = []
        # The number of the last message sent.
        self.message = 0
        self._table = table

    def add_host(self, uuid: str, now: float) -> Host:
        """A host that was not known."""
        host = self.hosts[uuid] = Host(uuid, now)
        host.session = self._table.open_session(host, now)
        return host

    # --- sending ----------------------------------------------------------------------------------

    def send_break(
        self,
        host: Host,
        targets: tuple[Fid, ...],
        reason: BreakReason,
        through: int,
        now: float,
        wait: Wait | None,
    ) -> None:
        """Sends a break to a host that holds promises.

        One that lets too many pile up is down instead.
        """
        if len(host.outstanding) >= MAX_BREAKS_OUTSTANDING_PER_HOST:
            self.mark_down(host, DownCause.TOO_MANY_OUTSTANDING, now)
        if host.suspended:
            self.mark_down(host, DownCause.OWED_WHILE_SUSPENDED, now)
        if host.down:
            self.doubt(host, targets, host.session.lease_end)
            if wait is not None:
                self._await_lease(wait, host, now)
            return
        assert host.channel is not None, "a host without a channel holds no promises"
        delivery = self._deliver(host, now, targets)
        delivery.through = through
        self.doubts.sent(delivery)
        if wait is not None:
            wait.pending += 1
            delivery.waits.append(wait)
        self.counters["breaks_sent"] += 1
        self.out.append(SendBreak(host.channel, delivery.sequence, targets, reason, through))
        self.observe("break.sent", host, targets, delivery.sequence, reason.name)

    def send_reset(self, host: Host, now: float, *, keeps: bool = False) -> Delivery:
        """Sends InitCallBackState to a host that has a channel.

        Args:
            host: to whom.
            now: steady seconds.
            keeps: what the host holds stays, as the message says: its session goes on.
        """
        assert host.channel is not None, "only a host with a channel can be reset"
        delivery = self._deliver(host, now, ())
        delivery.keeps = keeps
        kind = "resumption" if keeps else "reset"
        self.counters[f"{kind}s_sent"] += 1
        self.out.append(SendReset(host.channel, delivery.sequence, keeps))
        self.observe(f"{kind}.sent", host, sequence=delivery.sequence)
        return delivery

    def _deliver(self, host: Host, now: float, targets: tuple[Fid, ...]) -> Delivery:
        self.message += 1
        delivery = Delivery(host, self.message, targets)
        host.outstanding[delivery.sequence] = delivery
        self.deadlines.add(now + self.settings.break_deadline_s, delivery)
        return delivery

    def heard_from(self, host: Host, now: float) -> None:
        """A VENUSDOWN host that is heard from gets InitCallBackState (M6).

        Not if it has no channel, nor while it is being told already.
        """
        if host.down and host.channel is not None and not host.outstanding:
            self.send_reset(host, now)

    # --- how deliveries end -----------------------------------------------------------------------

    def acked(self, host: Host, sequence: int, now: float) -> None:
        """The host's application has done what the message with this sequence told it."""
        host.last_heard = now
        delivery = host.outstanding.pop(sequence, None)
        if delivery is None:
            self.counters["acks_unexpected"] += 1
            self.heard_from(host, now)
            return
        self.doubts.ended(delivery)
        if delivery.is_reset:
            if not delivery.keeps:
                self.doubts.settled(host.uuid)
                host.begun = SessionName(self.epoch, sequence)
            host.down = False
            host.reset_done = True
            self._start_lease(host, now)
        kind = _kind(delivery)
        self.counters[f"{kind}s_acked"] += 1
        self.observe(f"{kind}.acked", host, sequence=sequence)
        for wait in delivery.waits:
            self.one_less(wait)
        if host.is_clear:
            self.resolve_calls(host, Outcome.CLEAR)

    def failed(self, delivery: Delivery, now: float) -> None:
        """The deadline of a delivery has come.

        Unless it was acknowledged, its host is down, it alone (T9).
        """
        host = delivery.host
        if host.outstanding.get(delivery.sequence) is not delivery:
            return
        kind = _kind(delivery)
        self.counters[f"{kind}s_failed"] += 1
        self.observe(f"{kind}.failed", host, sequence=delivery.sequence)
        self.mark_down(host, DownCause.UNACKNOWLEDGED, now)

    def mark_down(self, host: Host, cause: DownCause, now: float) -> None:
        """The host is VENUSDOWN: its promises are tossed.

        What it is owed is covered by the reset to come (M6).
        """
        lease_end = host.session.lease_end
        under_way = host.outstanding.values()
        self.doubt(host, (target for one in under_way for target in one.targets), lease_end)
        self.doubt(host, (mark.target for mark in host.delayed), lease_end)
        held = (volume.volume for volume in host.session.volumes)
        self.doubts.tossed(host.uuid, lease_end, held)
        for wait in self.drop_owed(host):
            self._await_lease(wait, host, now)
            self.one_less(wait)
        self.toss(host)
        if not host.down:
            self.counters["hosts_marked_down"] += 1
        if host.suspended:
            self.counters["suspensions_ended"] += 1
        self.observe("host.marked_down", host, cause=cause.value)
        host.down = True
        host.suspended = False
        host.begun = None
        host.reset_done = False
        host.down_since = now
        self.deadlines.add(now + HOST_EXPIRY_S, HostExpiry(host, now))
        self.resolve_calls(host, Outcome.HOST_DOWN)

    def suspend(self, host: Host, now: float) -> None:
        """The host has no channel, and keeps what it holds for as long as it is owed nothing."""
        host.suspended = True
        host.down = False
        host.down_since = now
        self.counters["hosts_suspended"] += 1
        self.deadlines.add(now + HOST_EXPIRY_S, HostExpiry(host, now))
        self.observe("host.suspended", host, count=host.session.promises)

    def drop_owed(self, host: Host) -> list[Wait]:
        """Takes away all that a host is owed, because a reset will cover it.

        The waits on it, for the caller to end.
        """
        waits = [wait for delivery in host.outstanding.values() for wait in delivery.waits]
        for delivery in host.outstanding.values():
            self.doubts.ended(delivery)
        host.outstanding.clear()
        self.unmark(host)
        return waits

    def unmark(self, host: Host) -> None:
        """The host need not be told of the volumes that are marked now."""
        for mark in host.delayed:
            del mark.untold[host.session]
        host.delayed.clear()

    def toss(self, host: Host) -> int:
        """Ends the host's session, and with it all its promises; how many there were."""
        tossed = self._table.end_session(host.session)
        host.session = self._table.open_session(host, host.session.lease_end)
        return tossed

    def forget(self, host: Host) -> None:
        """The host relies on nothing any more, and is owed nothing."""
        del self.hosts[host.uuid]
        self._table.end_session(host.session)
        self.resolve_calls(host, Outcome.CLEAR)
        self.out.append(ForgetHost(host.uuid))

    def resolve_calls(self, host: Host, outcome: Outcome) -> None:
        """Lets all waiting calls of a host go on, or fail."""
        self.out.extend(Resolve(ticket, outcome) for ticket in host.waiting_calls)
        host.waiting_calls.clear()

    # --- waits ------------------------------------------------------------------------------------

    def one_less(self, wait: Wait) -> None:
        """One delivery of a wait has ended."""
        if wait.pending:
            wait.pending -= 1
            if not wait.pending:
                self.out.append(Resolve(wait.ticket, Outcome.CLEAR))

    def outlive(self, wait: Wait, lease_end: float) -> None:
        """Has somebody wait for a lease to run out."""
        wait.pending += 1
        self.deadlines.add(lease_end, LeaseOutlived(wait))

    def has_doubts(self, fid: Fid, writer: str | None) -> bool:
        """True if `outlive_doubts` may find somebody to wait for."""
        return bool(
            self.doubts.under_way(fid)
            or (self.settings.strict and self.doubts.trusted_until(fid, writer))
        )

    def outlive_doubts(self, wait: Wait, fid: Fid, writer: str | None, now: float) -> None:
        """Has a writer wait for those who may rely on a vnode though the table knows nothing of it.

        That is, because of earlier changes: for their acks; with strict coherence also for the
        leases of those that went down before.
        """
        for delivery in self.doubts.under_way(fid):
            if delivery.host.uuid != writer:
                wait.pending += 1
                delivery.waits.append(wait)
        if self.settings.strict:
            lease_end = self.doubts.trusted_until(fid, writer)
            if lease_end > now:
                self.outlive(wait, lease_end)

    def doubt(self, host: Host, targets: Iterable[Fid], lease_end: float) -> None:
        """A host may rely on these until its lease has run out: it was not told."""
        self.doubts.untold(host.uuid, lease_end, targets)

    def _await_lease(self, wait: Wait, host: Host, now: float) -> None:
        """With strict coherence, has a writer wait for the lease of a silent host to end."""
        if self.settings.strict and host.session.lease_end > now:
            self.outlive(wait, host.session.lease_end)

    # --- leases -----------------------------------------------------------------------------------

    def renew_lease(self, host: Host, number: int, now: float) -> None:
        """The host asks for its lease to start anew (I8); one that is not up is reset first."""
        host.last_heard = now
        if host.channel is not None and host.is_up:
            host.session.lease_end = now + self.settings.stretched_lease_s
            self.out.append(AnswerRenewal(host.channel, number))
        else:
            self.heard_from(host, now)

    def _start_lease(self, host: Host, now: float) -> None:
        host.session.lease_end = now + self.settings.stretched_lease_s
        if not host.lease_watched:
            host.lease_watched = True
            self.deadlines.add(host.session.lease_end, LeaseEnd(host))

    def lease_ended(self, host: Host, now: float) -> None:
        """A lease may have run out: the host is down then, before any writer has to find out."""
        host.lease_watched = False
        if not host.is_up:
            return
        if host.session.lease_end > now:
            host.lease_watched = True
            self.deadlines.add(host.session.lease_end, LeaseEnd(host))
        else:
            self.mark_down(host, DownCause.LEASE_ENDED, now)

    # --- watching ---------------------------------------------------------------------------------

    def observe(
        self,
        event: str,
        host: Host | None,
        fids: tuple[Fid, ...] = (),
        sequence: int = 0,
        cause: str = "",
        count: int = 0,
    ) -> None:
        """Tells people who watch; nothing while nobody does."""
        if self.observing:
            uuid = "" if host is None else host.uuid
            self.out.append(Observed(event, uuid, fids, sequence, cause, count))
