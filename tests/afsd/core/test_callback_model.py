"""The callback machine against naive clients: I1, I3, I4 and I6 hold in whatever order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from afs.types import Fid
from afsd.core.instructions import Outcome, SendReset
from afsd.core.settings import CallBackSettings
from tests.afsd.core.rig import Rig, fid

HOSTS = ("a", "b", "c")
VNODES = st.integers(1, 3)
VOLUMES = st.integers(7, 8)


@dataclass
class Client:
    """What a client believes: it may rely on a vnode since the promise's place in the sequence.

    `suspended` is what it believed when the fileserver stopped, and may be told to believe again.
    """

    believes: dict[Fid, int] = field(default_factory=dict)
    suspended: dict[Fid, int] = field(default_factory=dict)


@dataclass
class Change:
    """A change somebody made: of one vnode, or of a whole volume."""

    target: Fid
    through: int
    writer: str | None
    ticket: int | None

    def concerns(self, host: str, one: Fid) -> bool:
        """True if the change makes what this host knows of the vnode stale."""
        if host == self.writer:
            return False
        return one == self.target or (
            self.target.is_whole_volume and one.volume == self.target.volume
        )


class CallBackModel(RuleBasedStateMachine):
    """Clients attach, take promises, write, go silent, come back; volumes are given back.

    The fileserver is restarted on purpose now and then.
    """

    strict = False

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig(CallBackSettings(strict=self.strict))
        self.clients = {host: Client() for host in HOSTS}
        self.changes: list[Change] = []
        self.calls: dict[int, str] = {}
        self.checked: set[int] = set()
        self.told: dict[tuple[str, int], int] = {}

    def attached(self, host: str) -> bool:
        known = self.rig.machine.hosts.get(host)
        return known is not None and known.channel is not None

    @rule(host=st.sampled_from(HOSTS), resume=st.booleans())
    def attach(self, host: str, resume: bool) -> None:
        self.clients[host].believes.clear()
        if not resume:
            self.clients[host].suspended.clear()
        self.rig.attach(host, resume=resume)

    @rule(back_at_once=st.sets(st.sampled_from(HOSTS)))
    def planned_restart(self, back_at_once: set[str]) -> None:
        """Channels end, writers get their answers, and the next life begins."""
        for host, client in self.clients.items():
            if self.attached(host):
                client.suspended = dict(client.believes)
            client.believes.clear()
        self.rig.stop()
        if self.strict:
            self.rig.advance(12)
        unanswered = self.calls.keys() - self.rig.outcomes.keys()
        self.calls = {each: host for each, host in self.calls.items() if each not in unanswered}
        self.rig.start(self.rig.machine.save(self.rig.now))
        for host in sorted(back_at_once):
            self.rig.attach(host, resume=True)
            self.process_one_message(host)

    @rule(host=st.sampled_from(HOSTS))
    def process_one_message(self, host: str) -> None:
        """The client takes its oldest message to heart, then acknowledges it."""
        if not (self.attached(host) and self.rig.inbox[host]):
            return
        message = self.rig.inbox[host][0]
        believes = self.clients[host].believes
        if isinstance(message, SendReset):
            suspended = self.clients[host].suspended
            if message.keeps:
                believes.update(suspended)
            else:
                believes.clear()
            suspended.clear()
        else:
            self.told[host, message.through] = self.told.get((host, message.through), 0) + 1
            for target in message.targets:
                for one, sequence in list(believes.items()):
                    hit = one == target or (target.is_whole_volume and one.volume == target.volume)
                    if hit and sequence <= message.through:
                        del believes[one]
        self.rig.ack(host)

    @rule(host=st.sampled_from(HOSTS))
    def lose_channel(self, host: str) -> None:
        if self.attached(host):
            self.clients[host].believes.clear()
            self.rig.inbox[host].clear()
            self.rig.close(host)

    @rule(host=st.sampled_from(HOSTS), vnode=VNODES, volume=VOLUMES, bulk=st.booleans())
    def fetch(self, host: str, vnode: int, volume: int, bulk: bool) -> None:
        """A call that is let pass gives a promise."""
        if self.rig.machine.may_answer(host):
            promise, instructions = self.rig.machine.give_promise(
                host, fid(vnode, volume), self.rig.now, bulk=bulk
            )
            self.rig.run(instructions)
            if promise is not None:
                self.clients[host].believes[fid(vnode, volume)] = promise.sequence

    @rule(host=st.sampled_from(HOSTS))
    def call(self, host: str) -> None:
        self.calls[self.rig.call(host)] = host

    @rule(
        writer=st.sampled_from((None, *HOSTS)),
        vnodes=st.sets(VNODES, min_size=1),
        volume=VOLUMES,
    )
    def write(self, writer: str | None, vnodes: set[int], volume: int) -> None:
        through = self.rig.machine.sequence
        fids = [fid(vnode, volume) for vnode in sorted(vnodes)]
        ticket = self.rig.write(*fids, by=writer)
        self.changes += [Change(one, through, writer, ticket) for one in fids]

    @rule(volume=VOLUMES)
    def give_back(self, volume: int) -> None:
        through = self.rig.machine.sequence
        self.rig.mark(volume)
        self.changes.append(Change(Fid(volume, 0, 0), through, None, None))

    @rule()
    def worker(self) -> None:
        self.rig.work()

    @rule(host=st.sampled_from(HOSTS))
    def renew(self, host: str) -> None:
        if self.attached(host):
            self.rig.renew(host)

    @rule(host=st.sampled_from(HOSTS), vnode=VNODES, volume=VOLUMES)
    def give_up(self, host: str, vnode: int, volume: int) -> None:
        self.clients[host].believes.pop(fid(vnode, volume), None)
        self.rig.machine.give_up(host, [fid(vnode, volume)])

    @rule(host=st.sampled_from(HOSTS))
    def give_up_all(self, host: str) -> None:
        self.clients[host].believes.clear()
        self.rig.run(self.rig.machine.give_up_all(host)[1])

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.5, 11.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.rig.advance(seconds)

    @precondition(lambda self: self.changes)
    @invariant()
    def no_answer_before_the_break(self) -> None:
        """I3: a host that may be answered believes nothing that a known change made stale."""
        acked = [
            change
            for change in self.changes
            if change.ticket is None or change.ticket in self.rig.outcomes
        ]
        for host, client in self.clients.items():
            if not self.attached(host) or not self.rig.machine.may_answer(host):
                continue
            for one, sequence in client.believes.items():
                for change in acked:
                    stale = change.concerns(host, one) and sequence <= change.through
                    assert not stale, f"{host} would be answered while it believes {one}"

    @invariant()
    def calls_pass_only_when_clear(self) -> None:
        """M7: a call was let go on only at a moment when its host was owed nothing."""
        for ticket in self.calls.keys() & self.rig.outcomes.keys() - self.checked:
            self.checked.add(ticket)
            if self.rig.outcomes[ticket] is Outcome.CLEAR:
                assert self.rig.machine.may_answer(self.calls[ticket])

    @invariant()
    def one_message_per_change(self) -> None:
        """I6: no host hears of a change more than once for each reason."""
        assert all(count == 1 for count in self.told.values())

    @invariant()
    def books_balance(self) -> None:
        """I1."""
        self.rig.machine.check()

    def teardown(self) -> None:
        """I4, I5: once the worker has run and time has passed, nobody waits and nothing is owed."""
        self.rig.work_off()
        self.rig.advance(30)
        waiting = [
            change.ticket
            for change in self.changes
            if change.ticket is not None and change.ticket not in self.rig.outcomes
        ]
        assert not waiting
        assert self.calls.keys() <= self.rig.outcomes.keys()
        assert not self.rig.machine.later.marked


class StrictCallBackModel(CallBackModel):
    """The same with strict coherence."""

    strict = True


CallBackModel.TestCase.settings = settings(max_examples=150, stateful_step_count=60)
StrictCallBackModel.TestCase.settings = settings(max_examples=60, stateful_step_count=60)
TestCallBackModel = CallBackModel.TestCase
TestStrictCallBackModel = StrictCallBackModel.TestCase
