"""Explores every order of what hosts, writers, the volserver, the worker and time can do.

A `World` is a callback machine and what its clients believe. `explore` starts from one, tries each
enabled action in each state that it has not seen yet, breadth first, and checks every state. So
what it reports is the shortest way into trouble.

States are the same if they differ only in what no later step can tell apart: absolute times (what
is left of each deadline counts), the numbers of messages, channels and tickets, and places in the
break sequence (their order counts). What is left out besides: when promises expire, which is hours
away, and how many entries ended sessions have left behind.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from afs.types import BreakReason, Fid
from afsd.core.callback_machine import CallBackMachine
from afsd.core.deliveries import (
    CallOver,
    Delivery,
    HostExpiry,
    LeaseEnd,
    LeaseOutlived,
    SweepDue,
    WaitOver,
)
from afsd.core.instructions import Instruction, Outcome, Resolve, SendBreak, SendReset
from afsd.core.settings import CallBackSettings

HOSTS: Final = ("a", "b")
VOLUMES: Final = (7, 8)
DEADLINE_S: Final = 2.0
LEASE_S: Final = 3.0

Action = tuple[str, ...]


def file_of(volume: int) -> Fid:
    """The one file of a volume that matters here."""
    return Fid(volume, 2, 2)


class Waiting(NamedTuple):
    """A ticket that is not resolved: a call of a host, or a change of a volume's file."""

    host: str
    is_call: bool
    volume: int
    through: int
    since: float


class World:
    """The machine, and around it: clients, messages under way, whoever waits.

    Attributes:
        inbox: messages to each host that it has not taken to heart, in order.
        believes: the files each client relies on, by volume: the promise's place in the sequence.
        stale: those of them that an acknowledged change has made stale.
        trusts_until: the end of each client's lease as the client counts it.
        waiting: unresolved tickets.
        told: which change each host has been told of, by `through`.
        left: how often a kind of action may still be done; a kind that is not there, for ever.
    """

    def __init__(self, *, strict: bool, left: dict[str, int]) -> None:
        self.now = 0.0
        self.machine = CallBackMachine(
            CallBackSettings(break_deadline_s=DEADLINE_S, channel_lease_s=LEASE_S, strict=strict),
            self.now,
        )
        self.inbox: dict[str, list[SendBreak | SendReset]] = {host: [] for host in HOSTS}
        self.believes: dict[str, dict[int, int]] = {host: {} for host in HOSTS}
        self.stale: set[tuple[str, int]] = set()
        self.trusts_until = dict.fromkeys(HOSTS, 0.0)
        self.waiting: dict[int, Waiting] = {}
        self.told: set[tuple[str, int]] = set()
        self.left = left
        self.channels: dict[int, str] = {}
        self.tickets = 0

    # --- what can happen --------------------------------------------------------------------------

    def enabled(self) -> Iterator[Action]:
        """Every action that could change anything now."""
        for action in self._possible():
            if self.left.get(action[0], 1) > 0:
                yield action

    def _possible(self) -> Iterator[Action]:
        machine = self.machine
        for name in HOSTS:
            host = machine.hosts.get(name)
            attached = host is not None and host.channel is not None
            may = machine.may_answer(name)
            for volume in VOLUMES:
                if attached and may and self.believes[name].get(volume) != machine.sequence:
                    yield "promise", name, str(volume)
                if may and self._concerns_anybody(volume, name):
                    yield "write", name, str(volume)
            if self.inbox[name]:
                yield "ack", name
            if not may and not self._calls(name):
                yield "call", name
            if attached:
                yield "close", name
            if not (attached and self._is_fresh(name)):
                yield "attach", name
        for volume in VOLUMES:
            if self._concerns_anybody(volume, None):
                yield "mark", str(volume)
                if "break" in self.left:
                    yield "break", str(volume)
        if machine.later.marked or machine.later._dismantling:
            yield ("work",)
        if "restart" in self.left:
            yield ("restart",)
        if self.waiting or any(host.outstanding or host.is_up for host in machine.hosts.values()):
            yield ("second",)

    def _is_fresh(self, name: str) -> bool:
        """True if attaching anew would only repeat what was done last."""
        messages = self.inbox[name]
        return len(messages) == 1 and isinstance(messages[0], SendReset) and not self.waiting

    def _concerns_anybody(self, volume: int, but: str | None) -> bool:
        return any(volume in self.believes[host] for host in HOSTS if host != but)

    def _calls(self, host: str) -> int:
        return sum(one.is_call and one.host == host for one in self.waiting.values())

    # --- what happens -----------------------------------------------------------------------------

    def do(self, action: Action) -> None:
        """One action, and the checks on what came of it."""
        verb, *words = action
        if verb in self.left:
            self.left[verb] -= 1
        step: Callable[..., None] = getattr(self, "do_" + verb)
        step(*words)

    def do_promise(self, host: str, volume: str) -> None:
        """A call of a host that is let pass is answered with a promise."""
        promise, instructions = self.machine.give_promise(host, file_of(int(volume)), self.now)
        self._run(instructions)
        if promise is not None:
            self.believes[host][int(volume)] = promise.sequence
            self.stale.discard((host, int(volume)))

    def do_write(self, host: str, volume: str) -> None:
        """A host changes a file."""
        ticket = self._wait(host, int(volume), is_call=False)
        changed = [(file_of(int(volume)), BreakReason.DATA_CHANGED)]
        if not self.machine.has_other_holders(changed, host):
            # As the shell does it: the writer is answered at once.
            self._run([Resolve(ticket, Outcome.CLEAR)])
        else:
            self._run(self.machine.break_callbacks(changed, host, ticket, self.now))

    def do_mark(self, volume: str) -> None:
        """A volume is given back under `later`, and the volserver has its ack."""
        through = self.machine.sequence
        self._run(
            self.machine.break_volume_callbacks_later(int(volume), BreakReason.VOLUME_GIVEN_BACK)[1]
        )
        self._acknowledged(int(volume), through, None)

    def do_break(self, volume: str) -> None:
        """A volume is given back, and the FSSYNC handler breaks and waits, as under `sync`."""
        ticket = self._wait("", int(volume), is_call=False)
        self._run(
            self.machine.break_volume_callbacks(
                int(volume), BreakReason.VOLUME_GIVEN_BACK, ticket, self.now
            )[1]
        )

    def do_work(self) -> None:
        """One slice of the worker."""
        worked, instructions = self.machine.break_later_callbacks(self.now)
        assert worked == 1, "I5: marked, so there is work"
        self._run(instructions)

    def do_ack(self, host: str) -> None:
        """A client takes its oldest message to heart, and acknowledges it."""
        message = self.inbox[host].pop(0)
        believes = self.believes[host]
        if isinstance(message, SendReset):
            self._forget(host)
        else:
            for target in message.targets:
                if believes.get(target.volume, message.through + 1) <= message.through:
                    del believes[target.volume]
                    self.stale.discard((host, target.volume))
        self._run(self.machine.acked(host, message.channel, message.sequence, self.now))
        if isinstance(message, SendReset):
            self.trusts_until[host] = self.now + LEASE_S

    def do_call(self, host: str) -> None:
        """A call of a host that is owed something arrives."""
        ticket = self._wait(host, 0, is_call=True)
        self._run(self.machine.call_arrived(host, ticket, self.now))

    def do_close(self, host: str) -> None:
        """The server sees a channel end; its client has not noticed, and goes on believing."""
        channel = self.machine.hosts[host].channel
        assert channel is not None
        self.inbox[host].clear()
        self._run(self.machine.channel_closed(host, channel, self.now))

    def do_attach(self, host: str) -> None:
        """A client opens a channel, whether the server has seen its last one end or not."""
        channel = len(self.channels) + 1
        self.channels[channel] = host
        self.inbox[host].clear()
        self._forget(host)
        instructions = self.machine.attach(host, channel, "", "", self.now)
        assert instructions is not None
        self._run(instructions)

    def do_restart(self) -> None:
        """The fileserver dies and comes back; no client has noticed."""
        known = sorted(self.machine.hosts)
        self.machine = CallBackMachine(self.machine.settings, self.now, known)
        self.waiting.clear()
        self.told.clear()
        for host in HOSTS:
            self.inbox[host].clear()
            # Given in an earlier life: before every change of this one.
            self.believes[host] = dict.fromkeys(self.believes[host], 0)

    def do_second(self) -> None:
        """A second passes; every deadline in it is met on time."""
        end = self.now + 1.0
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self._run(self.machine.tick(self.now))
        self.now = end

    def _forget(self, host: str) -> None:
        self.believes[host].clear()
        self.stale -= {(host, volume) for volume in VOLUMES}

    def _wait(self, host: str, volume: int, *, is_call: bool) -> int:
        self.tickets += 1
        self.waiting[self.tickets] = Waiting(host, is_call, volume, self.machine.sequence, self.now)
        return self.tickets

    def _run(self, instructions: list[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case SendReset(channel):
                    self.inbox[self.channels[channel]].append(instruction)
                case SendBreak(channel, through=through):
                    host = self.channels[channel]
                    self.inbox[host].append(instruction)
                    assert (host, through) not in self.told, "I6: told of one change twice"
                    self.told.add((host, through))
                case Resolve(ticket, outcome):
                    one = self.waiting.pop(ticket)
                    if one.is_call:
                        assert outcome is not Outcome.TOO_MANY_WAITING
                        if outcome is Outcome.CLEAR:
                            assert self.machine.may_answer(one.host), "M7: let pass while owed"
                    else:
                        self._acknowledged(one.volume, one.through, one.host)

    def _acknowledged(self, volume: int, through: int, writer: str | None) -> None:
        """A change is acknowledged: from now on I3 holds for it."""
        for host in HOSTS:
            if host != writer and self.believes[host].get(volume, through + 1) <= through:
                self.stale.add((host, volume))
                assert not (
                    self.machine.settings.strict and writer and self.now < self.trusts_until[host]
                ), f"I8, strict: {host} still trusts what {writer} was told is changed everywhere"

    # --- what must hold ---------------------------------------------------------------------------

    def check(self) -> None:
        """I1, and I3: a host that may be answered believes nothing that is stale."""
        self.machine.check()
        for host, volume in self.stale:
            assert not self.machine.may_answer(host), (
                f"I3: {host} would be answered, and believes volume {volume} unchanged"
            )

    def look_ahead(self) -> None:
        """What must come of it, whoever does nothing more. Uses the world up.

        Nobody is stuck: time alone ends every wait, within the deadline (strict: and the lease).
        I4: when the worker has run, and clients have taken in what they were sent, every client
        with a channel is owed nothing, and nobody believes what is stale.
        """
        if self.waiting:
            longest = DEADLINE_S + (LEASE_S + 1 if self.machine.settings.strict else 0)
            before = set(self.waiting)
            for _ in range(int(longest)):
                self.do_second()
            assert not before & self.waiting.keys(), f"stuck: {list(self.waiting.values())}"
        while self.machine.later.marked or self.machine.later._dismantling:
            self.do_work()
        for host in HOSTS:
            if not (self.inbox[host] or self.machine.may_answer(host)):
                # Its lease ran out, or it has not been heard from.
                self.do_call(host)
            while self.inbox[host]:
                self.do_ack(host)
        for uuid, known in self.machine.hosts.items():
            if known.channel is not None:
                assert known.is_up, f"{uuid} acknowledged all, and is not up"
                assert known.is_clear, f"{uuid} is owed something for ever"
                assert not any(one == uuid for one, _ in self.stale), f"I4: {uuid} was never told"

    # --- which worlds are the same ----------------------------------------------------------------

    def key(self) -> bytes:
        """The same for worlds that no later step can tell apart.

        Names do not matter to the machine, so two worlds are the same too if one becomes the other
        when the hosts, or the volumes, change names. Only what looks alike so far is tried both
        ways.
        """
        first, second = map(self._looks_of_host, HOSTS)
        hosts = [HOSTS] if first <= second else []
        hosts += [HOSTS[::-1]] if second <= first else []
        one, other = map(self._looks_of_volume, VOLUMES)
        volumes = [VOLUMES] if one <= other else []
        volumes += [VOLUMES[::-1]] if other <= one else []
        if len(hosts) == len(volumes) == 1:
            return self._key(hosts[0], volumes[0])
        return min(self._key(names, numbers) for names in hosts for numbers in volumes)

    def _looks_of_host(self, name: str) -> tuple[int, ...]:
        host = self.machine.hosts.get(name)
        known = (
            (host.channel is None, host.down, host.reset_done, len(host.delayed))
            if host
            else (2, 2, 2, 2)
        )
        return (*known, len(self.inbox[name]), len(self.believes[name]), self._calls(name))

    def _looks_of_volume(self, number: int) -> tuple[int, ...]:
        marks = self.machine.later.marked
        return (
            sum(number in believed for believed in self.believes.values()),
            sum((host, number) in self.stale for host in HOSTS),
            sum(mark.promises.volume == number for mark in marks),
            sum(one.volume == number for one in self.waiting.values()),
            number in self.machine.table.volumes,
        )

    def _key(self, names: Sequence[str], numbers: Sequence[int]) -> bytes:
        machine, now = self.machine, self.now
        marks = machine.later.marked
        name = {host: str(place) for place, host in enumerate(names)}
        number = {volume: place for place, volume in enumerate(numbers)}
        places = {place for believed in self.believes.values() for place in believed.values()}
        places.update(mark.through for mark in marks)
        places.update(one.through for one in self.waiting.values() if not one.is_call)
        for messages in self.inbox.values():
            places.update(one.through for one in messages if isinstance(one, SendBreak))
        rank = {place: order for order, place in enumerate(sorted(places))}
        tickets = {ticket: order for order, ticket in enumerate(self.waiting)}
        due, over, outlived = self._deadlines(tickets)
        seen_hosts: list[Any] = []
        for uuid in names:
            host = machine.hosts.get(uuid)
            seen_hosts.append(
                [
                    sorted(
                        (number[volume], rank[at]) for volume, at in self.believes[uuid].items()
                    ),
                    sorted(number[volume] for who, volume in self.stale if who == uuid),
                    max(0, round((self.trusts_until[uuid] - now) * 1000)),
                ]
            )
            if host is None:
                continue
            lease = max(0, round((host.session.lease_end - now) * 1000))
            for one in self.inbox[uuid]:
                delivery = host.outstanding.get(one.sequence)
                seen_hosts.append(
                    (
                        (number[one.targets[0].volume], one.targets[0].vnode, rank[one.through])
                        if isinstance(one, SendBreak)
                        else (),
                        due[one.sequence] if delivery else -1,
                        [tickets[wait.ticket] for wait in delivery.waits if wait.pending]
                        if delivery
                        else (),
                    )
                )
            seen_hosts.append(
                (
                    host.channel is None,
                    host.down,
                    host.reset_done,
                    lease if host.is_up or machine.settings.strict else 0,
                    len(host.outstanding),
                    [marks.index(mark) for mark in host.delayed],
                    [tickets[ticket] for ticket in host.waiting_calls],
                )
            )
        seen_table = [
            (
                number[volume.volume],
                sorted(
                    (name[callback.session.host.uuid], callback.session.alive)
                    for _, callback in volume.entries()
                ),
            )
            for volume in machine.table.volumes.values()
        ]
        seen_marks = [
            (
                number[mark.promises.volume],
                rank[mark.through],
                sorted(name[one.host.uuid] for one in mark.untold),
                sorted(name[host] for host in HOSTS if (host, mark.through) in self.told),
            )
            for mark in marks
        ]
        seen_waiting = [
            (
                name.get(one.host),
                number.get(one.volume),
                rank.get(one.through),
                over.get(ticket),
            )
            for ticket, one in self.waiting.items()
        ]
        return repr(
            (
                seen_hosts,
                sorted(seen_table),
                seen_marks,
                len(machine.later._dismantling),
                self._doubts(name, number),
                seen_waiting,
                outlived,
                sorted(self.left.items()),
            )
        ).encode()

    def _doubts(self, name: dict[str, str], number: dict[int, int]) -> list[Any]:
        """What strict writers wait for besides; nothing depends on it otherwise."""
        if not self.machine.settings.strict:
            return []
        doubts = self.machine.deliveries.doubts
        leases = [
            (
                number.get(target.volume, -1),
                target.vnode,
                name[host],
                round((end - self.now) * 1000),
            )
            for target, by_host in doubts._leases.items()
            for host, end in by_host.items()
        ]
        held = [
            (number[volume], -1, name[host], round((end - self.now) * 1000))
            for volume, by_host in doubts._held.items()
            for host, end in by_host.items()
        ]
        return sorted(one for one in (*leases, *held) if one[-1] > 0)

    def _deadlines(
        self, tickets: dict[int, int]
    ) -> tuple[dict[int, int], dict[int, int], list[tuple[int, int]]]:
        """Milliseconds left: of messages, of tickets, and of the leases that tickets wait for."""
        due: dict[int, int] = {}
        over: dict[int, int] = {}
        outlived: list[tuple[int, int]] = []
        for when, _, thing in self.machine.deliveries.deadlines._heap:
            left = round((when - self.now) * 1000)
            match thing:
                case Delivery(sequence=sequence):
                    due[sequence] = left
                case LeaseOutlived(wait) if wait.pending:
                    outlived.append((tickets[wait.ticket], left))
                case WaitOver(wait) if wait.pending:
                    over[wait.ticket] = left
                case CallOver(_, ticket) if ticket in tickets:
                    over[ticket] = left
                case _:
                    pass
        return due, over, sorted(outlived)


@dataclass
class Explored:
    """What an exploration has seen."""

    states: int = 0
    transitions: int = 0
    depth: int = 0
    complete: bool = False
    actions: Counter[str] = field(default_factory=Counter)


class TroubleError(AssertionError):
    """A state that must not be, and the shortest way into it."""


def _by_constructor(thing: Any) -> tuple[type, tuple[Any, ...]]:
    return type(thing), tuple(getattr(thing, name) for name in thing.__match_args__)


class _Freezer(pickle.Pickler):
    """Pickles a world; frozen dataclasses by their constructors, which thaws much faster."""

    dispatch_table = copyreg.dispatch_table | dict.fromkeys(
        (
            CallBackSettings,
            CallOver,
            HostExpiry,
            LeaseEnd,
            LeaseOutlived,
            SendBreak,
            SendReset,
            SweepDue,
            WaitOver,
        ),
        _by_constructor,
    )


def _frozen(world: World) -> bytes:
    file = io.BytesIO()
    _Freezer(file, pickle.HIGHEST_PROTOCOL).dump(world)
    return file.getvalue()


def explore(start: World, depth: int) -> Explored:
    """Tries everything, breadth first, up to a number of steps.

    Raises:
        TroubleError: something that must hold does not.
    """
    seen = Explored()
    first = start.key()
    came_from: dict[int, tuple[int, Action] | None] = {hash(first): None}
    frontier = deque([(hash(first), _frozen(start))])
    while frontier and seen.depth < depth:
        seen.depth += 1
        for _ in range(len(frontier)):
            parent, frozen = frontier.popleft()
            world: World = pickle.loads(frozen)
            for number, action in enumerate(list(world.enabled())):
                if number:
                    world = pickle.loads(frozen)
                seen.transitions += 1
                seen.actions[action[0]] += 1
                try:
                    world.do(action)
                    world.check()
                    key = hash(world.key())
                    if key in came_from:
                        continue
                    came_from[key] = parent, action
                    again = _frozen(world)
                    world.look_ahead()
                except AssertionError as problem:
                    path = [*_way_to(parent, came_from), action]
                    way = "\n  ".join(" ".join(step) for step in path)
                    raise TroubleError(f"{problem}, after\n  {way}") from problem
                frontier.append((key, again))
    seen.states = len(came_from)
    seen.complete = not frontier
    return seen


def _way_to(state: int, came_from: dict[int, tuple[int, Action] | None]) -> list[Action]:
    way: list[Action] = []
    while (step := came_from[state]) is not None:
        state, action = step
        way.append(action)
    return way[::-1]
