"""Drives a callback machine as its shell would, with clients that do as a test tells them."""

from __future__ import annotations

from collections.abc import Collection
from itertools import count

from afs.types import BreakReason, Fid
from afsd.core.callback_machine import CallBackMachine, Promise
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
from afsd.core.saved_state import SavedState
from afsd.core.settings import CallBackSettings
from tests.fakes import FakeClock


def fid(vnode: int, volume: int = 7) -> Fid:
    """A vnode of volume 7, or another one."""
    return Fid(volume, vnode, vnode)


class Rig:
    """A machine, a clock, and what the machine asked for. I1 is checked after every step.

    Attributes:
        held: the session that each host would name, as its client does.
        inbox: messages sent to each host and not acknowledged yet, in order.
        outcomes: how tickets were resolved.
        wakes: how often the worker was woken.
        closed, forgotten, renewed, seen: the other instructions.
    """

    def __init__(
        self, settings: CallBackSettings | None = None, known_hosts: tuple[str, ...] = ()
    ) -> None:
        self.clock = FakeClock()
        self.epoch = 1
        self.held: dict[str, SessionName] = {}
        self.machine = CallBackMachine(
            settings or CallBackSettings(), self.clock.now(), known_hosts, self.epoch
        )
        self.inbox: dict[str, list[SendBreak | SendReset]] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.wakes = 0
        self.closed: list[int] = []
        self.forgotten: list[str] = []
        self.renewed: list[int] = []
        self.seen: list[Observed] = []
        self._host_of: dict[int, str] = {}
        self._channels = count(1)
        self._tickets = count(1)

    @property
    def now(self) -> float:
        """Steady seconds."""
        return self.clock.now()

    def run(self, instructions: list[Instruction]) -> None:
        """Takes note of what the machine asked for, and checks it."""
        self._note(instructions)
        self.machine.check()

    def _note(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case SendBreak(channel) | SendReset(channel):
                    self.inbox[self._host_of[channel]].append(instruction)
                case AnswerRenewal(_, number):
                    self.renewed.append(number)
                case CloseChannel(channel):
                    self.closed.append(channel)
                case Resolve(ticket, outcome):
                    assert ticket not in self.outcomes, "a ticket is resolved once"
                    self.outcomes[ticket] = outcome
                case WakeWorker():
                    self.wakes += 1
                case ForgetHost(uuid):
                    self.forgotten.append(uuid)
                case Observed():
                    self.seen.append(instruction)

    def attach(self, *hosts: str, resume: bool = False) -> None:
        """Hosts open a channel each; the reset waits in their inbox.

        If they resume, they name the session they hold.
        """
        for host in hosts:
            channel = next(self._channels)
            self._host_of[channel] = host
            self.inbox[host] = []
            resumes = self.held.get(host) if resume else None
            instructions = self.machine.attach(host, channel, "ipv4:1", "test", self.now, resumes)
            assert instructions is not None
            self.run(instructions)

    def up(self, *hosts: str) -> None:
        """Hosts open a channel each and acknowledge the reset."""
        for host in hosts:
            self.attach(host)
            self.ack(host)

    def channel(self, host: str) -> int:
        """The channel a host has now."""
        channel = self.machine.hosts[host].channel
        assert channel is not None
        return channel

    def ack(self, host: str) -> SendBreak | SendReset:
        """The host does what its oldest message says, and acknowledges it."""
        message = self.inbox[host].pop(0)
        if isinstance(message, SendReset) and not message.keeps:
            self.held[host] = SessionName(self.epoch, message.sequence)
        self.run(self.machine.acked(host, message.channel, message.sequence, self.now))
        return message

    def close(self, host: str) -> None:
        """The host's channel breaks."""
        self.run(self.machine.channel_closed(host, self.channel(host), self.now))

    def stop(self) -> SavedState:
        """The fileserver stops: channels end, the next life gets what this returns."""
        self.machine.begin_stop()
        for host in list(self.machine.hosts.values()):
            if host.channel is not None:
                self.close(host.uuid)
        return self.machine.save(self.now)

    def start(
        self,
        saved: SavedState | None,
        unchanged: Collection[int] = (7, 8),
        settings: CallBackSettings | None = None,
    ) -> None:
        """The next life, which knows all hosts; after a crash there is nothing saved."""
        known = sorted(self.machine.hosts)
        self.epoch += 1
        self.machine = CallBackMachine(
            settings or self.machine.settings, self.now, known, self.epoch
        )
        for messages in self.inbox.values():
            messages.clear()
        if saved is not None:
            self.machine.restore(saved, self.now)
            self.run(self.machine.compare_volumes(unchanged, self.now))

    def restart(self, unchanged: Collection[int] = (7, 8)) -> None:
        """A planned restart."""
        self.start(self.stop(), unchanged)

    def promise(self, host: str, *fids: Fid, bulk: bool = False, ro: bool = False) -> list[Promise]:
        """Gives a host promises; fails if one is refused."""
        promises = []
        for one in fids:
            promise, instructions = self.machine.give_promise(
                host, one, self.now, bulk=bulk, read_only=ro
            )
            self._note(instructions)
            assert promise is not None
            promises.append(promise)
        self.machine.check()
        return promises

    def write(self, *fids: Fid, by: str | None = None) -> int:
        """Somebody changes vnodes; the ticket it waits with."""
        ticket = next(self._tickets)
        changed = [(one, BreakReason.DATA_CHANGED) for one in fids]
        self.run(self.machine.break_callbacks(changed, by, ticket, self.now))
        return ticket

    def mark(self, volume: int = 7) -> int:
        """A volume is given back under `later`; how many callbacks were marked."""
        marked, instructions = self.machine.break_volume_callbacks_later(
            volume, BreakReason.VOLUME_GIVEN_BACK
        )
        self.run(instructions)
        return marked

    def work(self) -> int:
        """One call of BreakLaterCallBacks."""
        worked, instructions = self.machine.break_later_callbacks(self.now)
        self.run(instructions)
        return worked

    def work_off(self) -> int:
        """BreakLaterCallBacks until it says 0; how many calls had work."""
        calls = 0
        while self.work():
            calls += 1
        return calls

    def call(self, host: str) -> int:
        """A call of a host comes in; its ticket (resolved at once if nothing is owed)."""
        ticket = next(self._tickets)
        self.run(self.machine.call_arrived(host, ticket, self.now))
        return ticket

    def renew(self, host: str, number: int = 1) -> None:
        """The host asks for its lease to start anew."""
        self.run(self.machine.lease_renewed(host, self.channel(host), number, self.now))

    def advance(self, seconds: float) -> None:
        """Time passes; the machine is called at each of its deadlines."""
        end = self.now + seconds
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.clock.advance(max(0.0, due - self.now))
            self.run(self.machine.tick(self.now))
        self.clock.advance(end - self.now)

    def flags(self, host: str) -> set[str]:
        """Names of the flags a host has."""
        return {flag.name for flag in self.machine.hosts[host].flags if flag.name}

    def breaks(self, host: str) -> list[SendBreak]:
        """The breaks in a host's inbox."""
        return [message for message in self.inbox[host] if isinstance(message, SendBreak)]
