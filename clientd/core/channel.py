"""The callback channel as the client sees it: its generation, and until when its lease runs (I8).

Theory of operation
    1. The shell opens a stream to the fileserver (`on_opened`) and says hello. Nothing is trusted
    yet.
    2. The fileserver answers with InitCallBackState (`on_init`): a new generation begins, and with
       it a new *session*: every promise of the older one is void. The client acks and at once asks
       for a lease.
    3. RenewLease(n) goes out every third of a lease. Its answer, Probe(renews=n), lets the lease
       run until (the time RenewLease(n) was *sent*) + lease: the fileserver counts from when it
       answered, which is later.
    4. No promise is trusted unless the lease runs. The stream is in order, so whatever break the
       fileserver sent before it answered a renewal has been taken in by then.
    5. After a stall (`on_stall`) the lease is void whatever the clock says, and only a renewal sent
       after the stall starts it anew: a break may have been given up on while the process stood
       still.
    6. A channel that answers no renewal for a whole lease, or is lost, or whose fileserver turns
       out to have restarted, is left (`Reattach`) and opened again by the shell.
    7. When the channel is lost the session is only suspended: nothing is trusted, but the promises
       are remembered, and the hello on the next channel names the session (`held`). A fileserver
       that was restarted on purpose may answer that they are kept: then the session goes on under
       the new generation. Requests sent before the loss stay void: their tickets are of an older
       generation.

    DETACHED --on_opened--> ATTACHING --on_init--> ATTACHED --on_closed, Reattach--> DETACHED

Invariants
    - `trusts(now)` implies: ATTACHED, and a renewal sent after the last stall and less than a lease
    ago was answered.
    - A generation number is never used twice, and a session has the number of the generation that
      began it; tickets name the generation, promises the session.
    - Between two resets taken in, `session` and `held` stay the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from afs.limits import LEASE_RENEWALS_PER_LEASE

# The fileserver answers Attach with InitCallBackState at once; one that does not is hung.
ATTACH_DEADLINE_S: Final = 5.0
# A fileserver that grants an absurdly short lease does not make its clients spin.
MIN_RENEWAL_INTERVAL_S: Final = 0.05
MIN_PATIENCE_S: Final = 1.0


class ChannelPhase(Enum):
    """Where the channel is."""

    DETACHED = "detached"
    ATTACHING = "attaching"
    ATTACHED = "attached"


class ReattachReason(Enum):
    """Why the client leaves a channel."""

    NO_ANSWER_TO_HELLO = "no_answer_to_hello"
    LEASE_NOT_RENEWED = "lease_not_renewed"
    FILE_SERVER_RESTARTED = "file_server_restarted"
    HELD_DOWN = "held_down"
    OUT_OF_ORDER = "out_of_order"


class SessionName(NamedTuple):
    """What the fileserver calls a session: the InitCallBackState that began it."""

    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class SendAck:
    """Acknowledge the message with this sequence; what it asked for has been done."""

    sequence: int


@dataclass(frozen=True, slots=True)
class SendRenewLease:
    """Ask for the lease to start anew."""

    number: int


@dataclass(frozen=True, slots=True)
class Reattach:
    """Close the stream and open another; the channel is DETACHED already."""

    reason: ReattachReason


Instruction = SendAck | SendRenewLease | Reattach


class ChannelState:
    """One fileserver's callback channel."""

    def __init__(self) -> None:
        self.phase = ChannelPhase.DETACHED
        self.generation = 0
        self.session = 0
        self.held: SessionName | None = None
        self.epoch = 0
        self.lease_s = 0.0
        self.lease_until = -math.inf
        self._patience_until = math.inf
        self._next_renewal_at = math.inf
        self._next_number = 1
        # Renewals under way: number -> when it was sent.
        self._renewals_sent: dict[int, float] = {}

    def trusts(self, now: float) -> bool:
        """True while promises of this session may be relied on."""
        return self.phase is ChannelPhase.ATTACHED and now < self.lease_until

    @property
    def identity(self) -> int:
        """A number that stays the same only while this is surely the same fileserver.

        It cannot become another one without losing its channels, nor then know our session.
        """
        return self.session if self.phase is ChannelPhase.ATTACHED else self.generation

    def describe(self, now: float) -> str:
        """For people: attached, suspect (attached, but the lease does not run) or detached."""
        if self.phase is not ChannelPhase.ATTACHED:
            return "detached"
        return "attached" if self.trusts(now) else "suspect"

    def lease_remaining_s(self, now: float) -> float:
        """Seconds the lease still runs; 0 if it does not."""
        return self.lease_until - now if self.trusts(now) else 0.0

    def deadline(self) -> float | None:
        """When `on_tick` has something to do; None while DETACHED."""
        if self.phase is ChannelPhase.DETACHED:
            return None
        return min(self._patience_until, self._next_renewal_at)

    def on_opened(self, now: float) -> None:
        """The shell opened a stream and said hello."""
        self.phase = ChannelPhase.ATTACHING
        self._patience_until = now + ATTACH_DEADLINE_S
        self._next_renewal_at = math.inf

    def goes_on(self, *, kept: bool) -> bool:
        """True if an InitCallBackState that says `kept`, or not, leaves the session as it is.

        The word of a fileserver that was not asked does not count.
        """
        return kept and self.phase is ChannelPhase.ATTACHING and self.held is not None

    def on_init(
        self, sequence: int, epoch: int, lease_s: float, now: float, *, kept: bool = False
    ) -> list[Instruction]:
        """InitCallBackState came.

        Unless the session goes on, the caller has dropped every promise of this fileserver before
        it acts on the answer.
        """
        if self.phase is ChannelPhase.DETACHED:
            return []
        self.generation += 1
        if not self.goes_on(kept=kept):
            self.session = self.generation
            self.held = SessionName(epoch, sequence)
        self.phase = ChannelPhase.ATTACHED
        self.epoch = epoch
        self.lease_s = lease_s if math.isfinite(lease_s) and lease_s > 0 else 0.0
        self._void_lease(now)
        return [SendAck(sequence), self._renew(now)]

    def on_break(self, sequence: int) -> list[Instruction]:
        """A break came. The caller has ended the promises before it acts on the answer."""
        return self._in_order([SendAck(sequence)])

    def on_probe(self, sequence: int, renews: int, now: float) -> list[Instruction]:
        """A sign of life, or the answer to a renewal."""
        if renews == 0 or self.phase is not ChannelPhase.ATTACHED:
            return self._in_order([SendAck(sequence)])
        sent_at = self._renewals_sent.get(renews)
        if sent_at is not None:
            for number in [number for number in self._renewals_sent if number <= renews]:
                del self._renewals_sent[number]
            self.lease_until = max(self.lease_until, sent_at + self.lease_s)
            self._patience_until = now + self._patience_s
        return []

    def on_tick(self, now: float) -> list[Instruction]:
        """Time passed: renews the lease when it is time, leaves a channel that has gone silent."""
        if self.phase is ChannelPhase.DETACHED:
            return []
        if now >= self._patience_until:
            attaching = self.phase is ChannelPhase.ATTACHING
            return self._leave(
                ReattachReason.NO_ANSWER_TO_HELLO if attaching else ReattachReason.LEASE_NOT_RENEWED
            )
        return [self._renew(now)] if now >= self._next_renewal_at else []

    def on_stall(self, now: float) -> list[Instruction]:
        """The process stood still: only a renewal sent from now on starts the lease anew."""
        if self.phase is not ChannelPhase.ATTACHED:
            return []
        self._void_lease(now)
        return [self._renew(now)]

    def on_epoch_seen(self, epoch: int) -> list[Instruction]:
        """A reply named the fileserver's epoch: another one than ours means a restart."""
        if self.phase is not ChannelPhase.ATTACHED or epoch == self.epoch:
            return []
        return self._leave(ReattachReason.FILE_SERVER_RESTARTED)

    def on_held_down(self) -> list[Instruction]:
        """The fileserver refused a call because it holds this host to be down."""
        if self.phase is not ChannelPhase.ATTACHED:
            return []
        return self._leave(ReattachReason.HELD_DOWN)

    def on_closed(self) -> None:
        """The stream ended, for whatever reason."""
        if self.phase is not ChannelPhase.DETACHED:
            self._detach()

    @property
    def _patience_s(self) -> float:
        return max(self.lease_s, MIN_PATIENCE_S)

    def _in_order(self, instructions: list[Instruction]) -> list[Instruction]:
        """The instructions, unless the fileserver spoke before InitCallBackState."""
        if self.phase is ChannelPhase.ATTACHED:
            return instructions
        return (
            self._leave(ReattachReason.OUT_OF_ORDER) if self.phase is ChannelPhase.ATTACHING else []
        )

    def _void_lease(self, now: float) -> None:
        self.lease_until = -math.inf
        self._renewals_sent.clear()
        self._patience_until = now + self._patience_s

    def _renew(self, now: float) -> SendRenewLease:
        number = self._next_number
        self._next_number += 1
        self._renewals_sent[number] = now
        self._next_renewal_at = now + max(
            self.lease_s / LEASE_RENEWALS_PER_LEASE, MIN_RENEWAL_INTERVAL_S
        )
        return SendRenewLease(number)

    def _leave(self, reason: ReattachReason) -> list[Instruction]:
        self._detach()
        return [Reattach(reason)]

    def _detach(self) -> None:
        self.phase = ChannelPhase.DETACHED
        self.generation += 1
        self.lease_until = -math.inf
        self._renewals_sent.clear()
