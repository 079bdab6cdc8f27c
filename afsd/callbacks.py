"""Runs the callback machine: carries out its instructions, feeds it what happened, keeps its time.

File locks (`locks`) are beside it: they end where a volume's promises do, are told of to the same
watchers, and go over a planned restart in the same file.

Everything here runs in the event loop and in one thread, so what is done between two awaits is one
step for everybody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from itertools import count

from afs.errors import AfsCode, AfsError
from afs.runtime.clock import Clock
from afs.runtime.driver import Driver
from afs.runtime.watch import Watched, WatchHub
from afs.types import BreakReason, Fid
from afs.v1 import file_server_debug_pb2, types_pb2
from afs.wire import fid_to_wire
from afsd.core.callback_machine import CallBackMachine
from afsd.core.hosts import SessionName
from afsd.core.instructions import (
    AnswerRenewal,
    CloseChannel,
    ForgetHost,
    Instruction,
    Observed,
    Outcome,
    Resolve,
    SendBreak,
    SendReset,
    WakeWorker,
)
from afsd.core.locks import LockTable, SavedLock
from afsd.core.not_told import HostNotTold
from afsd.core.policy import BreakPolicy
from afsd.core.saved_state import SavedState
from afsd.fssync_lane import Turn
from afsd.host_journal import HostJournal
from afsd.locks import Locks
from afsd.outbox import Outbox


class CallBacks:
    """The fileserver's callbacks, as its services use them.

    Args:
        machine: all state.
        clock: steady time.
        epoch: this life of the fileserver; larger than that of every earlier life.
        policy: who breaks the callbacks of a volume that is given back, and when.
        journal: remembers hosts over a crash (I9).
    """

    def __init__(
        self,
        machine: CallBackMachine,
        clock: Clock,
        epoch: int,
        policy: BreakPolicy,
        journal: HostJournal,
    ) -> None:
        self.machine = machine
        self.epoch = epoch
        self.policy = policy
        # Set when volumes are marked; the worker waits for it (M3).
        self.wake_worker = asyncio.Event()
        # Answers of FSSYNC calls that have marked a volume: the worker lets them leave first (M3).
        self._acks: set[asyncio.Future[None]] = set()
        # Set by whatever may change who is still to be told (`break_watch`).
        self.stepped = asyncio.Event()
        self.stopping = False
        self._hub: WatchHub[file_server_debug_pb2.WatchResponse] = WatchHub()
        self._clock = clock
        self._journal = journal
        self._outboxes: dict[int, Outbox] = {}
        self._channels = count(1)
        self._tickets = count(1)
        self._waiting: dict[int, asyncio.Future[Outcome]] = {}
        self._driver = Driver(deadline=machine.next_deadline, tick=self._tick, clock=clock)
        self._driver.poke()
        self.locks = Locks(LockTable(), clock, self._publish)

    def close(self) -> None:
        """Stops the timers and ends all subscriptions."""
        self._driver.close()
        self.locks.close()
        self._hub.close()

    # --- what FileServer's methods need -----------------------------------------------------------

    def promise(
        self, fid: Fid, host: str | None, *, bulk: bool = False, read_only: bool = False
    ) -> types_pb2.CallBack | None:
        """Promises the host to call back before the vnode changes.

        To be called *before* the status it covers is read: then a change that is committed in
        between is broken.

        Args:
            fid: the vnode.
            host: UUID of the caller; None for one without a name.
            bulk: one of many, with a shorter life.
            read_only: the volume is read-only: one promise covers all of it.

        Returns:
            The promise for the reply; None if the caller cannot be called back.
        """
        if host is None:
            return None
        promise, instructions = self.machine.give_promise(
            host, fid, self._clock.now(), bulk=bulk, read_only=read_only
        )
        if instructions:
            self._execute(instructions)
        if promise is None:
            return None
        return types_pb2.CallBack(
            expires_in_s=promise.lifetime_s,
            sequence=promise.sequence,
            epoch=self.epoch,
            whole_volume=promise.whole_volume,
        )

    async def break_callbacks(
        self, changed: Sequence[tuple[Fid, BreakReason]], writer: str | None
    ) -> None:
        """Breaks the promises of all holders but the writer.

        Returns when all of them acknowledged, at the latest when the break deadline has passed
        (with strict coherence: the leases of those that did not).
        """
        if not self.machine.has_other_holders(changed, writer):
            return
        ticket, done = self._ticket()
        self._step(self.machine.break_callbacks(changed, writer, ticket, self._clock.now()))
        await done

    def drop(self, fid: Fid) -> None:
        """The vnode is gone and its holders were told: what is left on its entry ends silently.

        So do the locks on it.
        """
        self.machine.delete_promises(fid)
        self.locks.file_removed(fid)

    def give_up(self, host: str, fids: Iterable[Fid]) -> int:
        """The host returns promises; how many it had."""
        return self.machine.give_up(host, fids)

    def give_up_all(self, host: str) -> int:
        """The host returns all its promises; how many it had."""
        given_up, instructions = self.machine.give_up_all(host)
        self._step(instructions)
        return given_up

    # --- CallPreamble -----------------------------------------------------------------------------

    def may_answer(self, host: str) -> bool:
        """True if the host is owed no break and no reset (I3)."""
        return self.machine.may_answer(host)

    async def call_preamble(self, host: str) -> None:
        """Has a call wait until its host has acknowledged all it is owed (M7).

        Raises:
            AfsError: RX_CALL_DEAD if the host did not acknowledge within the break deadline; VLIMIT
                if too many of its calls wait already.
        """
        ticket, done = self._ticket()
        self._step(self.machine.call_arrived(host, ticket, self._clock.now()))
        try:
            outcome = await done
        except asyncio.CancelledError:
            self.machine.call_abandoned(host, ticket)
            raise
        finally:
            self._waiting.pop(ticket, None)
        if outcome is Outcome.HOST_DOWN:
            raise AfsError(
                AfsCode.RX_CALL_DEAD,
                f"host {host} has not acknowledged its callback breaks: attach and try again",
            )
        if outcome is Outcome.TOO_MANY_WAITING:
            raise AfsError(
                AfsCode.VLIMIT,
                f"host {host} has too many calls waiting for its own acks: acknowledge first",
            )

    # --- FSSync -----------------------------------------------------------------------------------

    async def volume_changed(self, volume: int, reason: BreakReason, turn: Turn) -> int:
        """Has all callbacks of a volume broken, when and by whom the break policy says.

        Under `later` it marks, wakes the worker and returns (M1-M3). `sync` returns when all are
        broken. The other two return at once and keep the FSSYNC listener of this turn busy until
        then.

        The volume's locks end at once, unless it was only asked that promises be broken.

        Returns:
            How many callbacks were marked.
        """
        if reason is not BreakReason.VOLUME_BREAK_REQUESTED:
            self.locks.volume_changed(volume)
        if self.policy.by_worker:
            marked, instructions = self.machine.break_volume_callbacks_later(volume, reason)
            if marked and turn.answered is not None:
                self._acks.add(turn.answered)
            self._step(instructions)
            return marked
        ticket, done = self._ticket()
        marked, instructions = self.machine.break_volume_callbacks(
            volume, reason, ticket, self._clock.now()
        )
        self._step(instructions)
        if self.policy.acks_first:
            turn.stay_busy_until(done)
        else:
            await done
        return marked

    async def let_acks_leave(self, timeout_s: float) -> None:
        """Returns when the volserver has its answers for what was marked since the last time.

        After the timeout in any case.
        """
        acks, self._acks = self._acks, set()
        if acks:
            await asyncio.wait(acks, timeout=timeout_s)

    def break_later_callbacks(self) -> int:
        """BreakLaterCallBacks: one slice of work; 0 if nothing needed breaking (M5)."""
        worked, instructions = self.machine.break_later_callbacks(self._clock.now())
        self._step(instructions)
        return worked

    def holder_count(self, volume: int) -> int:
        """How many hosts hold promises on a volume."""
        return self.machine.holder_count(volume)

    def hosts_not_told(self, volume: int, before: int) -> list[HostNotTold]:
        """Who may still rely on a volume as it was; see `NotTold.hosts_not_told`."""
        return self.machine.hosts_not_told(volume, before, self._clock.now())

    def now(self) -> float:
        """Steady seconds."""
        return self._clock.now()

    # --- CallBackChannel --------------------------------------------------------------------------

    async def attach(
        self, host: str, address: str, client: str, resumes: SessionName | None = None
    ) -> tuple[int, Outbox]:
        """A host opened a channel; the number it goes by, and the messages to send down it.

        Args:
            host: its UUID.
            address: where it calls from.
            client: what it says it is.
            resumes: the session whose promises it still holds.

        Raises:
            AfsError: VLIMIT if there are too many hosts.
        """
        # Durable before the first promise, so that after a crash the host is known to need a reset
        # (I9).
        await self._journal.remember(host)
        channel = next(self._channels)
        outbox = self._outboxes[channel] = Outbox()
        instructions = self.machine.attach(
            host, channel, address, client, self._clock.now(), resumes
        )
        if instructions is None:
            del self._outboxes[channel]
            raise AfsError(
                AfsCode.VLIMIT,
                f"there are {self.machine.settings.max_hosts} hosts already: try again later",
            )
        self._step(instructions)
        return channel, outbox

    def acked(self, host: str, channel: int, sequence: int) -> None:
        """The host acknowledged a message."""
        self._step(self.machine.acked(host, channel, sequence, self._clock.now()))

    def lease_renewed(self, host: str, channel: int, number: int) -> None:
        """The host asked for its lease to start anew."""
        self._step(self.machine.lease_renewed(host, channel, number, self._clock.now()))

    def channel_closed(self, host: str, channel: int) -> None:
        """The channel ended, from whichever side."""
        self._outboxes.pop(channel, None)
        self._step(self.machine.channel_closed(host, channel, self._clock.now()))

    # --- planned restarts -------------------------------------------------------------------------

    def begin_stop(self) -> None:
        """Channels that end from now on end because of us."""
        self.machine.begin_stop()
        self.locks.begin_stop()
        self.stopping = True
        self.stepped.set()

    async def compare_volumes(
        self, unchanged: Collection[int], locks: Iterable[SavedLock] = ()
    ) -> None:
        """Keeps the promises of hosts, and the locks, that the life before this one left.

        On these volumes only.

        To be called once, before anything is answered. After it a crash finds all of them to be
        reset.
        """
        self._step(self.machine.compare_volumes(unchanged, self._clock.now()))
        self.locks.restore(locks, unchanged)
        for host in list(self.machine.hosts):
            await self._journal.remember(host)

    def save(self) -> SavedState:
        """What the next life needs; after everything that could change a promise."""
        return replace(self.machine.save(self._clock.now()), locks=self.locks.table.save())

    # --- watching ---------------------------------------------------------------------------------

    def observe(self, event: str, *, cause: str = "", amount: int = 0) -> None:
        """Tells watchers of something that the machine does not know of."""
        if self._hub.watched:
            self._publish(Observed(event, cause=cause, count=amount))

    async def watch(self) -> AsyncGenerator[Watched[file_server_debug_pb2.WatchResponse], None]:
        """Yields every event from the iteration's first step on."""
        self._observe_all(on=True)
        try:
            async with aclosing(self._hub.subscribe()) as events:
                async for event in events:
                    yield event
        finally:
            self._observe_all(on=self._hub.watched)

    def _observe_all(self, *, on: bool) -> None:
        self.machine.deliveries.observing = self.locks.table.observing = on

    @property
    def watch_events_dropped(self) -> int:
        """Events that were lost to slow watchers."""
        return self._hub.dropped_events

    # --- inside -----------------------------------------------------------------------------------

    def _ticket(self) -> tuple[int, asyncio.Future[Outcome]]:
        ticket = next(self._tickets)
        done = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        return ticket, done

    def _tick(self, now: float) -> None:
        self._execute(self.machine.tick(now))

    def _step(self, instructions: Sequence[Instruction]) -> None:
        self._execute(instructions)
        self._driver.poke()

    def _execute(self, instructions: Sequence[Instruction]) -> None:
        self.stepped.set()
        for instruction in instructions:
            match instruction:
                case SendBreak(channel, sequence, targets, reason, through):
                    self._outboxes[channel].send_break(sequence, targets, reason, through)
                case SendReset(channel, sequence, keeps):
                    lease_s = self.machine.settings.channel_lease_s
                    self._outboxes[channel].send_reset(sequence, self.epoch, lease_s, kept=keeps)
                case AnswerRenewal(channel, number):
                    self._outboxes[channel].answer_renewal(number)
                case CloseChannel(channel):
                    self._outboxes[channel].replaced.set()
                case Resolve(ticket, outcome):
                    waiting = self._waiting.pop(ticket, None)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(outcome)
                case WakeWorker():
                    self.wake_worker.set()
                case ForgetHost(uuid):
                    self._journal.forget(uuid)
                case Observed():
                    self._publish(instruction)

    def _publish(self, observed: Observed) -> None:
        self._hub.publish(
            file_server_debug_pb2.WatchResponse(
                event=observed.event,
                time_ns=self._clock.wall_ns(),
                steady_s=self._clock.now(),
                host_uuid=observed.host,
                fids=[fid_to_wire(fid) for fid in observed.fids],
                sequence=observed.sequence,
                cause=observed.cause,
                count=observed.count,
            )
        )
