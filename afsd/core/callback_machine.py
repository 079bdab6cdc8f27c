"""The callback machine: promises, breaks now and later, hosts that answer and hosts that do not.

Theory of operation
    A client machine is a *host*. It opens a channel; the machine resets it (InitCallBackState), and
    from its ack on it may be given *promises*. When a vnode changes, all other holders are sent a
    *break* and the writer waits for their acks, no longer than the break deadline. A host that does
    not acknowledge in time is VENUSDOWN: its promises are tossed, and it must acknowledge a reset
    before it is answered anything again.

    When the volserver gives a volume back, its callbacks are broken *later*. Statement by statement
    of the 2002 mail:

    M1  `break_volume_callbacks_later` marks and returns; it sends nothing and waits for nobody.
    M2  It detaches the volume's promises as one `MarkedVolume`. That is what makes its file entries
        FE_LATER and its callbacks CB_DELAYED; each host among them gets it in `Host.delayed`, which
        is HFE_LATER. The cost is in proportion to the hosts, not to the promises.
    M3  It answers WakeWorker; the caller acknowledges the volserver only after that.
    M4  The worker (`afsd.break_worker`) calls `break_later_callbacks` until that says 0.
    M5  `BreakLater.break_slice` takes the volume marked first, tells each of its hosts once
        (`volume.0.0`), then dismantles the entries, a slice a call.
    M6  A VENUSDOWN host is sent nothing; `Deliveries.mark_down` tosses what it holds and is owed.
        It is reset when it is next heard from (`Deliveries.heard_from`) or attaches
        (`HostEvents.attach`).
    M7  `HostEvents.call_arrived` (CallPreamble) lets a call pass only if its host is owed nothing.
        Otherwise the host is told now (`BreakLater.break_delayed`) and the call waits for the acks.

    Every change of promises has a place in the *break sequence*: a promise carries the sequence at
    which it was given, a break the sequence `through` which promises end. So a promise given after
    a mark is not broken by it (E2), and a client can tell, in whatever order answer and break reach
    it.

    Time comes in as `now` (steady seconds) and goes out as `next_deadline`. Every method returns
    the instructions for its shell; how each ended comes back as a call.

Invariants: I1 (`check`), I2 (a mark sends nothing), I3 (`Host.is_clear` decides over answers), I4
(a promise leaves the table only into a delivery, a mark, by expiry, by being given up, or with its
session), I6 (one message per host and mark), I7 (see `deliveries`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import assert_never

from afs.limits import (
    EVICTION_BATCH_PROMISES,
    PROMISE_GRACE_S,
    PROMISE_SWEEP_S,
    SWEEP_SLICE_PROMISES,
)
from afs.types import BreakReason, Fid, whole_volume_fid
from afsd.core.deliveries import (
    CallOver,
    Delivery,
    HostExpiry,
    LeaseEnd,
    LeaseOutlived,
    SweepDue,
    Wait,
    WaitOver,
)
from afsd.core.host_events import HostEvents
from afsd.core.hosts import CallBack, Host, Session
from afsd.core.instructions import Instruction, Outcome, Resolve, WakeWorker
from afsd.core.lifetimes import promise_lifetime_s
from afsd.core.not_told import NotTold
from afsd.core.planned_restart import PlannedRestart


@dataclass(frozen=True, slots=True)
class Promise:
    """A promise as it is told to the client.

    `lifetime_s` counts from when the client sent its request.
    """

    lifetime_s: int
    sequence: int
    whole_volume: bool


class CallBackMachine(HostEvents, NotTold, PlannedRestart):
    """All callback state of one fileserver. See the module's theory of operation."""

    _sweeping: Iterator[int] | None = None

    # --- promises ---------------------------------------------------------------------------------

    def give_promise(
        self, uuid: str, fid: Fid, now: float, *, bulk: bool = False, read_only: bool = False
    ) -> tuple[Promise | None, list[Instruction]]:
        """Gives a host a promise on a vnode; to be called *before* the status it covers is read.

        Args:
            uuid: the calling host.
            fid: the vnode.
            now: steady seconds.
            bulk: one of many, with the shorter life of mechanism §5.
            read_only: the volume is read-only: one promise covers all of it.

        Returns:
            The promise, or None if the host cannot be called back; and the instructions.
        """
        host = self.hosts.get(uuid)
        if host is None or not host.is_up:
            return None, []
        if not self._make_space(host, now):
            return None, self._take_out()
        if read_only:
            fid = whole_volume_fid(fid.volume)
        lifetime = promise_lifetime_s(self.table.holder_count(fid), bulk=bulk, read_only=read_only)
        self.table.give(fid, host.session, ceil(now + lifetime + PROMISE_GRACE_S))
        self.counters["promises_given"] += 1
        self.deliveries.observe("promise.given", host, (fid,), self._sequence)
        return Promise(lifetime, self._sequence, read_only), self._take_out()

    def _make_space(self, host: Host, now: float) -> bool:
        """Before a promise to this host: breaks some others if there are too many.

        A host beyond its quota pays with its own; when the table is full, the host that holds most
        pays, whoever asks. The promises given longest ago go first. All of it is counted. False if
        the host that asks was taken down by having to pay.
        """
        if host.session.promises >= self.settings.max_promises_per_host:
            self._evict(host.session, now)
        if self.table.size >= self.settings.max_promises:
            sessions = (each.session for each in self.hosts.values())
            self._evict(max(sessions, key=lambda session: session.promises), now)
        return host.is_up

    def _evict(self, session: Session, now: float) -> None:
        fids = self.table.take_oldest(session, EVICTION_BATCH_PROMISES)
        self.counters["evictions"] += 1
        self.counters["promises_evicted"] += len(fids)
        reason = BreakReason.TABLE_FULL
        self.deliveries.send_break(session.host, fids, reason, self._advance(), now, None)

    def give_up(self, uuid: str, fids: Iterable[Fid]) -> int:
        """The host returns promises: they end silently. How many it had."""
        host = self.hosts.get(uuid)
        if host is None:
            return 0
        given_up = sum(self.table.give_up(fid, host.session) for fid in fids)
        self.counters["promises_given_up"] += given_up
        return given_up

    def give_up_all(self, uuid: str) -> tuple[int, list[Instruction]]:
        """The host returns all its promises, those that are marked included.

        How many it had, and the instructions.
        """
        host = self.hosts.get(uuid)
        if host is None:
            return 0, []
        self.deliveries.unmark(host)
        given_up = self.deliveries.toss(host)
        self.counters["promises_given_up"] += given_up
        if host.is_clear:
            self.deliveries.resolve_calls(host, Outcome.CLEAR)
        return given_up, self._take_out()

    def delete_promises(self, fid: Fid) -> None:
        """The vnode is gone and its holders know: whatever promise is left on it ends silently."""
        self.table.take(fid, keep=None)

    # --- breaks of single vnodes: a writer waits --------------------------------------------------

    def break_callbacks(
        self,
        changed: Sequence[tuple[Fid, BreakReason]],
        writer: str | None,
        ticket: int,
        now: float,
    ) -> list[Instruction]:
        """Breaks the promises of all holders but the writer.

        The ticket is resolved when each of them has acknowledged. At the break deadline the silent
        ones are VENUSDOWN and the ticket is resolved all the same; with strict coherence not before
        their leases have run out.

        Holders are also those whose promise went with an earlier change of the vnode, or with a
        give-back of its volume, and who have not taken that in: they would go on answering with
        what is older than both changes (I8).

        Args:
            changed: vnodes and why.
            writer: UUID of the host that made the change; it keeps its promises. None for nobody.
            ticket: names the waiting writer.
            now: steady seconds.
        """
        through = self._advance()
        wait = Wait(ticket)
        writing = self.hosts.get(writer) if writer else None
        keep = writing.session if writing else None
        for fid, _ in changed:
            self.later.tell_holders(fid, writer, now)
            self.deliveries.outlive_doubts(wait, fid, writer, now)
        targets: dict[tuple[Host, BreakReason], list[Fid]] = {}
        for fid, reason in changed:
            for callback in self.table.take(fid, keep):
                session = callback.session
                if not session.alive:
                    if self.settings.strict and session.lease_end > now:
                        self.deliveries.doubt(session.host, (fid,), session.lease_end)
                        self.deliveries.outlive(wait, session.lease_end)
                elif callback.expires_at > now:
                    targets.setdefault((session.host, reason), []).append(fid)
        for (host, reason), fids in targets.items():
            self.deliveries.send_break(host, tuple(fids), reason, through, now, wait)
        if not self.settings.strict:
            self.deliveries.deadlines.add(now + self.settings.break_deadline_s, WaitOver(wait))
        self.deliveries.one_less(wait)
        return self._take_out()

    def has_other_holders(
        self, changed: Sequence[tuple[Fid, BreakReason]], writer: str | None
    ) -> bool:
        """False if `break_callbacks` would find nobody to tell: then no writer need wait."""
        host = self.hosts.get(writer) if writer else None
        keep = host.session if host else None
        return any(
            self.table.has_holder_but(fid, keep)
            or self.later.has_holders(fid, writer)
            or self.deliveries.has_doubts(fid, writer)
            for fid, _ in changed
        )

    # --- volumes: marked now, broken later --------------------------------------------------------

    def break_volume_callbacks_later(
        self, volume: int, reason: BreakReason
    ) -> tuple[int, list[Instruction]]:
        """BreakVolumeCallBacksLater (M1-M3): marks a volume's callbacks.

        Returns:
            How many callbacks, and the wake-up of the worker.
        """
        self.deliveries.doubts.volume_marked(volume)
        mark = self.later.mark(volume, reason, self._advance())
        if mark is not None:
            self.deliveries.out.append(WakeWorker())
        return 0 if mark is None else mark.promises.size, self._take_out()

    def break_volume_callbacks(
        self, volume: int, reason: BreakReason, ticket: int, now: float
    ) -> tuple[int, list[Instruction]]:
        """Marks a volume and breaks at once, for policies whose FSSYNC handler does the work.

        The ticket is resolved when every holder has acknowledged or is down.

        Returns:
            How many callbacks, and the instructions.
        """
        wait = Wait(ticket)
        self.deliveries.doubts.volume_marked(volume)
        mark = self.later.mark(volume, reason, self._advance())
        if mark is not None:
            self.later.break_now(mark, now, wait)
            self.deliveries.out.append(WakeWorker())
        self.deliveries.one_less(wait)
        return 0 if mark is None else mark.promises.size, self._take_out()

    def break_later_callbacks(self, now: float) -> tuple[int, list[Instruction]]:
        """BreakLaterCallBacks (M4, M5): one slice of the work on what is marked.

        Returns:
            1 if there was work (call again), 0 if nothing needed breaking; and the instructions.
        """
        return self.later.break_slice(now), self._take_out()

    # --- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Steady time at which `tick` wants to be called; None if nothing is due ever."""
        return self.deliveries.deadlines.next()

    def tick(self, now: float) -> list[Instruction]:
        """Does what is due."""
        for thing in self.deliveries.deadlines.due(now):
            match thing:
                case Delivery():
                    self.deliveries.failed(thing, now)
                case LeaseEnd(host):
                    self.deliveries.lease_ended(host, now)
                case LeaseOutlived(wait):
                    self.deliveries.one_less(wait)
                case WaitOver(wait):
                    if wait.pending:
                        wait.pending = 0
                        self.deliveries.out.append(Resolve(wait.ticket, Outcome.HOST_DOWN))
                case CallOver(host, ticket):
                    if ticket in host.waiting_calls:
                        del host.waiting_calls[ticket]
                        self.counters["calls_failed"] += 1
                        self.deliveries.out.append(Resolve(ticket, Outcome.HOST_DOWN))
                case HostExpiry(host, down_since):
                    known = self.hosts.get(host.uuid) is host
                    if (
                        known
                        and (host.down or host.suspended)
                        and host.channel is None
                        and host.down_since == down_since
                    ):
                        self.deliveries.forget(host)
                case SweepDue():
                    self._sweep_slice(now)
                case _:
                    assert_never(thing)
        return self._take_out()

    def _sweep_slice(self, now: float) -> None:
        if self._sweeping is None:
            self.deliveries.doubts.sweep(now)
            self._sweeping = self.table.sweep(now)
        looked_at = 0
        for count in self._sweeping:
            looked_at += count
            if looked_at >= SWEEP_SLICE_PROMISES:
                # Due again at once, but in a turn of its own: the event loop runs in between.
                self.deliveries.deadlines.add(now + 0.001, SweepDue())
                return
        self._sweeping = None
        self.deliveries.deadlines.add(now + PROMISE_SWEEP_S, SweepDue())

    # --- the rest ---------------------------------------------------------------------------------

    def callbacks(self) -> Iterator[tuple[Fid, CallBack, bool]]:
        """Every promise of a live session, and whether it is FE_LATER and CB_DELAYED.

        The machine may change between two of them.
        """
        for volume in list(self.table.volumes.values()):
            for fid, callback in volume.entries():
                if callback.session.alive:
                    yield fid, callback, False
        for mark in list(self.later.marked):
            for fid, callback in mark.promises.entries():
                if callback.session in mark.untold:
                    yield fid, callback, True

    def check(self) -> None:
        """Asserts I1 and the machine's own rules; for tests, after every step."""
        self.table.check()
        for uuid, host in self.hosts.items():
            assert host.uuid == uuid
            assert host.session.alive
            assert host.session.host is host
            assert not (host.is_clear and host.waiting_calls), "a clear host has no waiting calls"
            assert not (host.down and (host.delayed or host.session.promises)), "down: all tossed"
            assert host.channel is not None or not host.outstanding, "no channel: nothing under way"
            assert host.channel is not None or host.down or host.suspended, "no channel: down"
            if host.suspended:
                assert not (host.down or host.channel), "suspended: not down, no channel"
                assert host.begun is not None, "what is held was begun by a reset"
            assert host.session.promises == sum(
                volume.sessions[host.session] for volume in host.session.volumes
            ), "promises of a host are counted"
            for mark in host.delayed:
                assert host.session in mark.untold, "both sides know of a mark"
                assert mark in self.later.marked, "a mark is kept while a host is owed it"
        for mark in self.later.marked:
            assert all(mark in session.host.delayed for session in mark.untold), "both sides know"
