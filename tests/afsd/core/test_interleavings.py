"""Every order of events, for two hosts and two volumes, up to a depth or to the end.

What is checked after each step: I1, I3 (no host that may be answered believes what an acknowledged
change has made stale; with strict coherence nobody relies on it at all, I8), I5 (marked means
work), I6 (nobody is told of a change twice), M7. And for each state: time alone ends every wait,
and when the worker has run and clients have taken in what they were sent, everybody is clear (I4).

How much that is, hosts and volumes that only change names counted as one:

    | exploration                                   | depth  | states | transitions |
    |-----------------------------------------------|--------|--------|-------------|
    | all actions, nobody holds anything yet        | 5      |  1,600 |       3,600 |
    | all actions, both hold a promise on both      | 5      |  5,500 |      11,900 |
    | strict, one restart, nobody holds anything    | 5      |  2,600 |       5,500 |
    | strict, one restart, both hold both           | 4      |  1,500 |       2,900 |
    | T10: two breakers, a writer, a caller         | all    |  7,200 |      23,300 |
    | T20: worker, writer, calls, a new channel     | all    |  8,200 |      24,600 |

About 72,000 transitions, a quarter of a millisecond each. "All": until nothing is left to do; how
often each thing is done is bounded instead. INTERLEAVINGS_DEEPER=1 goes one step deeper where
there is a depth (five times as long).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import pytest

from afsd.core.break_later import BreakLater, MarkedVolume
from afsd.core.deliveries import Deliveries, Delivery, Wait
from afsd.core.doubts import Doubts
from afsd.core.hosts import Host, Session
from tests.afsd.core.interleavings import (
    HOSTS,
    VOLUMES,
    Explored,
    TroubleError,
    World,
    explore,
)

TO_THE_END = 1000
DEEPER = int(os.environ.get("INTERLEAVINGS_DEEPER", "0"))


@dataclass(frozen=True)
class Exploration:
    """Where it starts, and what may happen.

    `left`: how often kinds of action may be done; the others as often as one likes. `at_least`:
    transitions; fewer mean that it does not explore what it is there for.
    """

    name: str
    depth: int
    at_least: int
    strict: bool = False
    promised: bool = True
    left: dict[str, int] = field(default_factory=dict)

    def run(self) -> Explored:
        """Explores."""
        world = World(strict=self.strict, left={})
        for host in HOSTS:
            world.do_attach(host)
            world.do_ack(host)
            for volume in VOLUMES if self.promised else ():
                world.do_promise(host, str(volume))
        world.left = dict(self.left)
        return explore(world, self.depth)


EXPLORATIONS = [
    Exploration("from_nothing", 5 + DEEPER, 3_000, promised=False),
    Exploration("from_promises", 5 + DEEPER, 10_000),
    Exploration(
        "strict_from_nothing", 5 + DEEPER, 4_500, strict=True, promised=False, left={"restart": 1}
    ),
    Exploration("strict_from_promises", 4 + DEEPER, 2_500, strict=True, left={"restart": 1}),
    Exploration(
        "t10_two_breakers",
        TO_THE_END,
        20_000,
        left={
            "promise": 0,
            "close": 0,
            "attach": 0,
            "mark": 0,
            "break": 2,
            "write": 1,
            "call": 1,
            "second": 2,
        },
    ),
    Exploration(
        "t20_breaker_host_and_call",
        TO_THE_END,
        20_000,
        left={
            "promise": 0,
            "close": 0,
            "attach": 1,
            "mark": 1,
            "write": 1,
            "call": 1,
            "second": 2,
        },
    ),
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("exploration", EXPLORATIONS, ids=lambda each: each.name)
def test_no_order_of_events_leads_into_trouble(exploration: Exploration) -> None:
    """I1, I3-I6, I8, M7, T10, T20: in whatever order; see the table above for how far."""
    explored = exploration.run()
    assert explored.transitions >= exploration.at_least
    assert explored.complete == (exploration.depth == TO_THE_END)


# --- it would notice ------------------------------------------------------------------------------


def test_answer_while_a_break_is_in_flight_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """R3: a machine that looks only at what is still to be told is caught, by the shortest way."""
    monkeypatch.setattr(Host, "is_clear", property(lambda host: not (host.down or host.delayed)))
    with pytest.raises(TroubleError, match=r"(?s)^I3.*\n  write a 7\n  mark 7$"):
        Exploration("", 3, 0).run()


def test_wait_that_time_does_not_end_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """T20: a machine that waits for a host's ack without a deadline is caught."""
    monkeypatch.setattr(Deliveries, "failed", lambda *_: None)
    with pytest.raises(TroubleError, match="stuck"):
        Exploration("", 4, 0, left={"write": 0, "attach": 0, "mark": 0, "break": 1}).run()


def test_telling_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """I6, T1: a machine that keeps a host on the mark after telling it is caught."""
    tell = BreakLater._tell

    def tell_and_keep(
        later: BreakLater, mark: MarkedVolume, session: Session, now: float, wait: Wait | None
    ) -> None:
        first = not later._deliveries.counters["told"]
        later._deliveries.counters["told"] += 1
        tell(later, mark, session, now, wait)
        if first:
            mark.untold[session] = None
            session.host.delayed[mark] = None

    monkeypatch.setattr(BreakLater, "_tell", tell_and_keep)
    with pytest.raises(TroubleError, match="I6"):
        Exploration("", 3, 0).run()


def test_lost_break_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """I4, T6: a machine whose mark forgets its hosts is caught."""

    def forget(later: BreakLater, volume: int, *_: object) -> None:
        later._table.detach(volume)

    monkeypatch.setattr(BreakLater, "mark", forget)
    with pytest.raises(TroubleError, match=r"(?s)^I3.*\n  mark 7$"):
        Exploration("", 3, 0).run()


def test_stale_read_after_a_strict_write_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """I8: a machine that knows only what is in the table answers a second writer too early."""

    def nothing(*_: object) -> list[Delivery]:
        return []

    monkeypatch.setattr(Doubts, "under_way", nothing)
    with pytest.raises(TroubleError, match=r"(?s)^I8, strict.*\n  write . 7\n  write . 7$"):
        Exploration("", 3, 0, strict=True).run()
