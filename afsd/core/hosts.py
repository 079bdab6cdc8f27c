"""Hosts as the fileserver knows them: channel, flags, what they are owed, who waits for them.

A `Host` is a UUID, whatever address it calls from. A `Session` is what it holds between one reset
and the next: when a host goes down its session ends, which tosses all of its promises at once,
whatever their number; the table's sweep then frees their memory in slices.

A *suspended* host has no channel, but its session goes on: over a planned restart, see
`planned_restart`.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from afsd.core.break_later import MarkedVolume
    from afsd.core.deliveries import Delivery
    from afsd.core.volume_promises import VolumePromises

# Steady seconds fit in this many bits for 500 years.
EXPIRY_BITS: Final = 34
# Shared CallBacks that a session remembers: lifetimes come in few lengths and time moves on, so few
# are in use at once.
_SHARED_CALLBACKS: Final = 64


class HostFlag(Flag):
    """Flags of a host, by the names of OpenAFS; SUSPENDED is ours."""

    VENUSDOWN = auto()
    HFE_LATER = auto()
    RESETDONE = auto()
    SUSPENDED = auto()


class SessionName(NamedTuple):
    """What client and fileserver call a session: the InitCallBackState that began it."""

    epoch: int
    sequence: int


class CallBack(NamedTuple):
    """One host's promise, until `expires_at` (steady seconds, whole)."""

    session: Session
    expires_at: int


class Session:
    """What a host holds between one reset and the next.

    Attributes:
        number: names it in the table of promises; never used again.
        host: whose it is.
        alive: False once its promises are tossed.
        lease_end: steady time after which the client trusts no promise of this session (I8).
        promises: how many it holds in the table (those on marked volumes not counted).
        volumes: where they are.
    """

    __slots__ = ("_shared", "alive", "host", "lease_end", "number", "promises", "volumes")

    def __init__(self, number: int, host: Host, lease_end: float) -> None:
        self.number = number
        self.host = host
        self.alive = True
        self.lease_end = lease_end
        self.promises = 0
        self.volumes: dict[VolumePromises, None] = {}
        self._shared: dict[int, int] = {}

    def packed_callback(self, expires_at: int) -> int:
        """A CallBack of this session as one number.

        Promises that end at the same second share the number, so each costs little more than its
        place in the table.
        """
        packed = self._shared.get(expires_at)
        if packed is None:
            if len(self._shared) >= _SHARED_CALLBACKS:
                self._shared.clear()
            packed = self._shared[expires_at] = self.number << EXPIRY_BITS | expires_at
        return packed


class Host:
    """One client machine.

    Attributes:
        uuid: who it is.
        address, client: where it called from, and what it says it is; for people.
        channel: number of its Attach call; None while it has none.
        down: VENUSDOWN.
        suspended: it has no channel over a planned restart, is owed nothing and keeps its promises.
        down_since: steady time at which it became VENUSDOWN or was suspended.
        reset_done: RESETDONE: it has acknowledged InitCallBackState since it was last down.
        begun: the reset that began what it holds, once it has acknowledged it.
        last_heard: steady time of its last message.
        lease_watched: its lease is among the deadlines.
        session: what it holds now.
        delayed: marked volumes it has not been told of, oldest first; HFE_LATER.
        outstanding: what it has not acknowledged yet, by sequence, oldest first.
        waiting_calls: tickets of calls that wait for its acks (CallPreamble), in order of arrival.
    """

    __slots__ = (
        "address",
        "begun",
        "channel",
        "client",
        "delayed",
        "down",
        "down_since",
        "last_heard",
        "lease_watched",
        "outstanding",
        "reset_done",
        "session",
        "suspended",
        "uuid",
        "waiting_calls",
    )

    session: Session

    def __init__(self, uuid: str, now: float) -> None:
        self.uuid = uuid
        self.address = ""
        self.client = ""
        self.channel: int | None = None
        self.down = False
        self.suspended = False
        self.down_since = now
        self.begun: SessionName | None = None
        self.reset_done = False
        self.last_heard = now
        self.lease_watched = False
        self.delayed: dict[MarkedVolume, None] = {}
        self.outstanding: dict[int, Delivery] = {}
        self.waiting_calls: dict[int, None] = {}

    @property
    def is_up(self) -> bool:
        """It can be given promises: its channel is there and it has been reset."""
        return self.channel is not None and self.reset_done and not self.down

    @property
    def is_owed(self) -> bool:
        """It is owed breaks, or the ack of a message is missing."""
        return bool(self.delayed or self.outstanding)

    @property
    def is_clear(self) -> bool:
        """It is owed nothing: its calls may be answered (I3).

        One that is suspended since an earlier life is owed the word that its promises are kept.
        """
        return not (self.down or self.is_owed) and (self.reset_done or not self.suspended)

    @property
    def flags(self) -> HostFlag:
        """The flags as they follow from the host's state.

        HFE_LATER stays until the host has acknowledged its last whole-volume break, and is gone
        then (E1, T11).
        """
        flags = HostFlag(0)
        if self.down:
            flags |= HostFlag.VENUSDOWN
        if self.delayed or any(delivery.of_volume for delivery in self.outstanding.values()):
            flags |= HostFlag.HFE_LATER
        if self.reset_done:
            flags |= HostFlag.RESETDONE
        if self.suspended:
            flags |= HostFlag.SUSPENDED
        return flags
