"""What the callback machine tells its shell to do.

How each one ended comes back as a call of the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique

from afs.types import BreakReason, Fid


@unique
class Outcome(Enum):
    """How a wait ended."""

    CLEAR = "clear"
    HOST_DOWN = "host_down"
    TOO_MANY_WAITING = "too_many_waiting"


@unique
class DownCause(Enum):
    """Why a host became VENUSDOWN."""

    UNACKNOWLEDGED = "unacknowledged"
    CHANNEL_CLOSED = "channel_closed"
    LEASE_ENDED = "lease_ended"
    TOO_MANY_OUTSTANDING = "too_many_outstanding"
    SERVER_RESTARTED = "server_restarted"
    OWED_WHILE_SUSPENDED = "owed_while_suspended"


@dataclass(frozen=True, slots=True)
class SendReset:
    """Send InitCallBackState down the channel; its ack is `sequence`.

    `keeps`: the promises of the session that the host named stay.
    """

    channel: int
    sequence: int
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class SendBreak:
    """Send a Break down the channel; its ack is `sequence`.

    Promises given at or before `through` end.
    """

    channel: int
    sequence: int
    targets: tuple[Fid, ...]
    reason: BreakReason
    through: int


@dataclass(frozen=True, slots=True)
class AnswerRenewal:
    """Answer RenewLease `number` down the channel."""

    channel: int
    number: int


@dataclass(frozen=True, slots=True)
class CloseChannel:
    """End this Attach call; another one has taken its place."""

    channel: int


@dataclass(frozen=True, slots=True)
class Resolve:
    """Whoever waits with this ticket may go on; `outcome` says how."""

    ticket: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class WakeWorker:
    """Volumes are marked: wake the BreakLaterCallBacks worker (M3)."""


@dataclass(frozen=True, slots=True)
class ForgetHost:
    """The host is owed nothing any more: its name need not outlive a restart."""

    uuid: str


@dataclass(frozen=True, slots=True)
class Observed:
    """Something happened that people may want to watch.

    Made only while `CallBackMachine.observing` is set.
    """

    event: str
    host: str = ""
    fids: tuple[Fid, ...] = ()
    sequence: int = 0
    cause: str = ""
    count: int = 0


Instruction = (
    SendReset
    | SendBreak
    | AnswerRenewal
    | CloseChannel
    | Resolve
    | WakeWorker
    | ForgetHost
    | Observed
)
