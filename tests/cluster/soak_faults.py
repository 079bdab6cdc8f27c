"""What may happen to a cluster at any time: each fault begins, lasts a while, and ends.

They block, and leave to `Cluster.heal` what is still broken when they return.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.cluster.cluster import CLIENTS, DAEMONS, SERVERS, Cluster

# Below the lease, about as long, and beyond it.
SHORTEST_S, LONGEST_S = 1.0, 10.0
LOSS: Final = 0.3
FILLER: Final = "/small/vicepc/groups/filler"

Act = Callable[[Cluster, random.Random], None]


@dataclass(frozen=True, slots=True)
class Fault:
    """`ends_processes`: daemons do not live through it. `weight`: how often, beside the others."""

    name: str
    act: Act
    ends_processes: bool = False
    weight: float = 1.0


def _last(rng: random.Random) -> None:
    time.sleep(rng.uniform(SHORTEST_S, LONGEST_S))


def _some_client(rng: random.Random) -> str:
    return rng.choice(CLIENTS)


def _some(kind: str, rng: random.Random) -> str:
    return f"{kind}-{rng.choice(SERVERS)}"


def _pause(choose: Callable[[random.Random], str]) -> Act:
    def act(cluster: Cluster, rng: random.Random) -> None:
        service = choose(rng)
        cluster.pause(service)
        _last(rng)
        cluster.unpause(service)

    return act


def _kill(choose: Callable[[random.Random], str]) -> Act:
    def act(cluster: Cluster, rng: random.Random) -> None:
        service = choose(rng)
        cluster.kill(service)
        _last(rng)
        cluster.restart(service)

    return act


def _stop(choose: Callable[[random.Random], str]) -> Act:
    def act(cluster: Cluster, rng: random.Random) -> None:
        service = choose(rng)
        cluster.stop(service)
        cluster.restart(service)

    return act


def _cut_client(cluster: Cluster, rng: random.Random) -> None:
    ends = [_some_client(rng), _some("afsd", rng)]
    rng.shuffle(ends)
    cluster.cut(ends[0], ends[1])
    _last(rng)
    cluster.mend(ends[0])


def _cut_pair(cluster: Cluster, rng: random.Random) -> None:
    cluster.cut("volserverd-2", "afsd-2")
    cluster.cut("afsd-2", "volserverd-2")
    _last(rng)
    cluster.mend("volserverd-2", "afsd-2")


def _cut_volservers(cluster: Cluster, rng: random.Random) -> None:
    cluster.cut("volserverd-1", "volserverd-2")
    _last(rng)
    cluster.mend("volserverd-1")


def _lose(cluster: Cluster, rng: random.Random) -> None:
    service = rng.choice(DAEMONS)
    cluster.lose(service, LOSS)
    _last(rng)
    cluster.mend(service)


def _change_address(cluster: Cluster, rng: random.Random) -> None:
    cluster.change_address(_some_client(rng))


def _fill_disk(cluster: Cluster, rng: random.Random) -> None:
    fill = f"head -c 100m /dev/zero >{FILLER} 2>/dev/null; :"
    cluster.notes.add("vicepc is full")
    cluster.project.execute("afsd-2", "sh", "-c", fill)
    _last(rng)
    cluster.project.execute("afsd-2", "rm", FILLER)
    cluster.notes.add("vicepc has room")


def _kill_all(cluster: Cluster, rng: random.Random) -> None:
    cluster.kill(*DAEMONS)
    cluster.restart(*DAEMONS)


FAULTS: Final = (
    Fault("client frozen", _pause(_some_client), weight=2),
    Fault("fileserver frozen", _pause(lambda rng: _some("afsd", rng))),
    Fault("volserver frozen", _pause(lambda rng: _some("volserverd", rng))),
    Fault("location service frozen", _pause(lambda rng: "location")),
    Fault("client and fileserver cut off, one way", _cut_client, weight=2),
    Fault("fileserver and its volserver cut off", _cut_pair),
    Fault("volservers cut off, one way", _cut_volservers),
    Fault("30 % of a daemon's packets lost", _lose),
    Fault("client's address changed", _change_address),
    Fault("partition full", _fill_disk),
    Fault("client killed", _kill(_some_client), ends_processes=True),
    Fault("fileserver killed", _kill(lambda rng: _some("afsd", rng)), ends_processes=True),
    Fault("volserver killed", _kill(lambda rng: _some("volserverd", rng)), ends_processes=True),
    Fault("location service killed", _kill(lambda rng: "location"), ends_processes=True),
    Fault("client restarted", _stop(_some_client), ends_processes=True),
    Fault("fileserver restarted", _stop(lambda rng: _some("afsd", rng)), ends_processes=True),
    Fault("volserver restarted", _stop(lambda rng: _some("volserverd", rng)), ends_processes=True),
    Fault("everything killed at once", _kill_all, ends_processes=True, weight=0.5),
)
