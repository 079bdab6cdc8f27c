"""What happens in one simulation, all of it decided beforehand from the seed.

A plan is a list of actions at real times; an action can be left out without changing the others,
which is how a failure is shrunk.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

CLIENTS = ("a", "b", "c")
VOLUMES = (7, 8)
FILES = 3
NAMES = ("n0", "n1")

# How often each kind of action comes, in relation to the others.
WEIGHTS = {
    "read": 46,
    "read_data": 8,
    "list": 6,
    "write": 16,
    "create": 3,
    "remove": 3,
    "volume": 5,
    "break_volume": 1,
    "freeze": 2,
    "freeze_server": 0.3,
    "cut": 3,
    "break_off": 1.5,
    "crash": 0.6,
    "restart_server": 1,
    "restart_client": 0.7,
    "never_acks": 0.5,
    "eager": 1,
    "pause_worker": 1,
    "wall_jump": 0.3,
    "long_wait": 0.2,
}


class Action(NamedTuple):
    """Something that the plan has happen at a real time."""

    at: float
    kind: str
    who: str = ""
    volume: int = 0
    number: int = 0
    seconds: float = 0.0
    seconds_2: float = 0.0
    word: str = ""

    def __str__(self) -> str:
        parts = [
            f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in zip(self._fields[2:], self[2:], strict=True)
            if value
        ]
        return f"{self.at:9.3f}  {self.kind:<15}{' '.join(parts)}"


@dataclass(frozen=True, slots=True)
class Plan:
    """One simulation.

    Attributes:
        seed: of everything.
        strict: coherence.
        by_worker: the break policy `later`; else `sync`.
        lease_s: the channel lease.
        break_deadline_s: how long writers wait for holders.
        delay_s: usual delay of the network.
        sync_s, read_s: usual time of the disk.
        cold: share of statuses that are not in memory.
        max_vnodes, max_marks: of a client's memory.
        max_promises, max_promises_per_host: of the fileserver's.
        actions: what happens, in order of time.
    """

    seed: int
    strict: bool
    by_worker: bool
    lease_s: float
    break_deadline_s: float
    delay_s: float
    sync_s: float
    read_s: float
    cold: float
    max_vnodes: int
    max_marks: int
    max_promises: int
    max_promises_per_host: int
    actions: tuple[Action, ...]


def make_plan(
    seed: int,
    actions: int = 400,
    *,
    leave_out: tuple[str, ...] = (),
    weights: Mapping[str, float] = WEIGHTS,
) -> Plan:
    """The plan of a seed.

    Args:
        seed: of everything.
        actions: how many.
        leave_out: kinds that there are not, so that a seed which found something before there were
            such actions finds it still.
        weights: how often each kind of action comes, against the others.
    """
    rng = random.Random(f"plan {seed}")
    lease_s = rng.choice((10.0, 10.0, 10.0, 3.0, 3000.0))
    chosen = {kind: weight for kind, weight in weights.items() if kind not in leave_out}
    kinds = rng.choices(list(chosen), list(chosen.values()), k=actions)
    # Some histories are dense, some leave time for leases to run out.
    gap_s = rng.choice((0.005, 0.02, 0.1, 0.5))
    now = 0.3
    made = []
    for kind in kinds:
        now += rng.expovariate(1 / gap_s)
        made.append(_action(rng, kind, now, lease_s))
        if kind == "long_wait":
            now += made[-1].seconds
    return Plan(
        seed=seed,
        strict=rng.random() < 0.4,
        by_worker=rng.random() < 0.85,
        lease_s=lease_s,
        break_deadline_s=rng.choice((2.0, 2.0, 0.5)),
        delay_s=rng.choice((0.0005, 0.005, 0.05)),
        sync_s=rng.choice((0.001, 0.01, 0.1)),
        read_s=rng.choice((0.001, 0.01, 0.1)),
        cold=rng.choice((0.0, 0.2, 0.6)),
        max_vnodes=rng.choice((2, 100, 100)),
        max_marks=rng.choice((1, 100, 100)),
        max_promises=rng.choice((8, 1000, 1000)),
        max_promises_per_host=rng.choice((4, 1000, 1000)),
        actions=tuple(made),
    )


def _action(rng: random.Random, kind: str, now: float, lease_s: float) -> Action:
    who = rng.choice(CLIENTS)
    volume = rng.choice(VOLUMES)
    number = rng.randrange(FILES)
    match kind:
        case "create" | "remove":
            return Action(now, kind, who, volume, word=rng.choice(NAMES))
        case "volume":
            return Action(
                now,
                kind,
                volume=volume,
                number=rng.choice((0, 1, 1, 2)),
                seconds=rng.uniform(0.0, 0.5),
                word=rng.choice(("VOL_ON", "VOL_ON", "VOL_ON", "VOL_LEAVE_OFF")),
            )
        case "break_volume":
            return Action(now, kind, volume=volume)
        case "freeze" | "never_acks" | "eager":
            return Action(now, kind, who, seconds=rng.choice((0.2, 0.45, 1.0, 4.0, 15.0)))
        case "freeze_server" | "pause_worker":
            return Action(now, kind, seconds=rng.choice((0.05, 0.5, 2.0)))
        case "cut":
            return Action(
                now,
                kind,
                who,
                number=rng.randrange(2),
                seconds=rng.choice((0.1, 1.0, 3.0, 8.0, 20.0)),
                word=rng.choice(("up", "down", "both")),
            )
        case "break_off":
            return Action(
                now,
                kind,
                who,
                seconds=rng.choice((0.0, 0.5, 8.0)),
                seconds_2=rng.choice((0.0, 0.5, 8.0, 30.0)),
                word=rng.choice(("breaks", "calls", "breaks", "both")),
            )
        case "crash":
            return Action(
                now, kind, seconds=rng.choice((0.05, 1.0, 5.0)), seconds_2=rng.choice((0.0, 8.0))
            )
        case "restart_server":
            return Action(
                now,
                kind,
                who=rng.choice(("", who)),
                volume=volume,
                number=rng.choice((0, 0, 0, 1, 2)),
                seconds=rng.choice((0.05, 0.3, 2.0)),
                seconds_2=rng.choice((0.0, 0.0, 0.0, 0.0, 0.2, 2.0)),
                word=rng.choice(("", "", "", "", "damaged", "lost")),
            )
        case "restart_client":
            return Action(now, kind, who, number=rng.randrange(2), seconds=rng.uniform(0.0, 1.0))
        case "wall_jump":
            return Action(now, kind, seconds=rng.choice((-86400.0, -2.0, 5.0, 86400.0)))
        case "long_wait":
            long_s = (500.0, 4000.0, 15000.0) if lease_s > 100 else (15.0, 70.0)
            return Action(now, kind, seconds=rng.choice(long_s))
        case _:
            return Action(now, kind, who, volume, number)
