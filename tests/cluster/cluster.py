"""The cluster of docker-compose.yml, and what can be broken of it.

All methods block: they are commands of the container engine. Faults are undone by `heal`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from afsctl.health import Health, check_health
from tests.cluster.engine import ClusterError, Project

OVERLAY: Final = "tests/cluster/docker-compose.test.yml"
START_TIMEOUT_S: Final = 120.0
PROBE_TIMEOUT_S: Final = 1.0
POLL_S: Final = 0.1
# The engine gives up when a busy machine keeps starting threads while they are to be frozen.
PAUSE_ATTEMPTS: Final = 5

SERVERS: Final = ("1", "2")
CLIENTS: Final = ("client-1", "client-2", "client-3")
PORTS: Final = {"afsd": 7000, "client": 7001, "location": 7003, "volserverd": 7005}
# What runs as long as a cluster does.
DAEMONS: Final = (
    "location",
    *(f"{kind}-{number}" for number in SERVERS for kind in ("afsd", "volserverd")),
    *CLIENTS,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Which cluster, so that several can run beside each other.

    `network`: the first three numbers of its addresses. `image`: what its images are called.
    """

    name: str
    network: str
    image: str


# Apart from a cluster that somebody has running from the same clone.
TESTS: Final = Plan("laterfs-test", "172.31.77", "laterfs-test")


@dataclass(slots=True)
class Notes:
    """What was done to a cluster, and when: seconds since the epoch."""

    lines: list[tuple[float, str]] = field(default_factory=list)

    def add(self, what: str) -> None:
        """Something was done now."""
        self.lines.append((time.time(), what))


class Cluster:
    """One cluster; made by `Cluster.up`."""

    def __init__(self, plan: Plan) -> None:
        settings = {"LATERFS_IMAGE": plan.image, "LATERFS_NETWORK": plan.network}
        self.project = Project(plan.name, ["docker-compose.yml", OVERLAY], settings)
        self.notes = Notes()
        self._broken: set[str] = set()
        # Those whose packets are dropped.
        self._cut: set[str] = set()
        self._addresses: dict[str, str] = {}
        self._network = plan.network

    @classmethod
    def up(cls, plan: Plan = TESTS) -> Self:
        """Builds the images, starts everything, and returns when all of it is healthy."""
        cluster = cls(plan)
        cluster.project.compose("down", "--volumes", "--remove-orphans")
        cluster.project.compose("build", "--quiet")
        cluster.project.compose("up", "--detach", *DAEMONS)
        # Without the example that it waits for, which nobody looks at here.
        cluster.project.compose("up", "--detach", "--no-deps", "toolbox")
        cluster.until_healthy(DAEMONS)
        cluster.notes.add("the cluster is up")
        return cluster

    def down(self) -> None:
        """Everything gone, images too."""
        self.project.compose("down", "--volumes", "--remove-orphans", "--rmi", "all")

    def address(self, service: str) -> str:
        """host:port of a service, for calls from this machine."""
        port = PORTS[service.rstrip("-0123456789")]
        return f"{self.ip(service)}:{port}"

    def ip(self, service: str) -> str:
        """The address of a service in the cluster's network."""
        if service not in self._addresses:
            networks = self.project.inspect(service)["NetworkSettings"]["Networks"]
            self._addresses[service] = next(iter(networks.values()))["IPAddress"]
        return self._addresses[service]

    # --- faults -----------------------------------------------------------------------------------

    def pause(self, *services: str) -> None:
        """Freezes all processes of services."""
        self._breaks(f"pause {' '.join(services)}", *services)
        for service in services:
            self._pause(service)

    def unpause(self, *services: str) -> None:
        """Lets frozen services go on."""
        self.notes.add(f"unpause {' '.join(services)}")
        self.project.containers("unpause", *services)

    def kill(self, *services: str) -> None:
        """Ends services by SIGKILL; nothing is saved, nobody is told."""
        self._breaks(f"kill {' '.join(services)}", *services)
        self.project.containers("kill", *services)

    def stop(self, *services: str) -> None:
        """SIGTERM, and waits for the end."""
        self._breaks(f"stop {' '.join(services)}", *services)
        self.project.containers("stop", *services)

    def start(self, *services: str) -> None:
        """Starts services again that ended, where they were."""
        self.notes.add(f"start {' '.join(services)}")
        self.project.containers("start", *services)

    def restart(self, *services: str) -> None:
        """Starts services again that ended, and returns when they are healthy."""
        self.start(*services)
        self.until_healthy(services)

    def cut(self, source: str, *targets: str) -> None:
        """From now on nothing that `source` sends reaches any of `targets`; silently, one way."""
        self.notes.add(f"cut {source} → {' '.join(targets)}")
        self._cut.add(source)
        for target in targets:
            self._iptables(source, "-A", "OUTPUT", "-d", self.ip(target), "-j", "DROP")

    def lose(self, service: str, part: float) -> None:
        """From now on this part of the packets that a service sends and gets is lost."""
        self.notes.add(f"lose {part:.0%} of {service}'s packets")
        self._cut.add(service)
        for chain in ("INPUT", "OUTPUT"):
            lost = ["-m", "statistic", "--mode", "random", "--probability", str(part)]
            self._iptables(service, "-A", chain, *lost, "-j", "DROP")

    def mend(self, *services: str) -> None:
        """Undoes what `cut` and `lose` did to services."""
        self.notes.add(f"mend {' '.join(services)}")
        for service in services:
            self._iptables(service, "-F")
        self._cut.difference_update(services)

    def change_address(self, service: str) -> None:
        """The service goes on under another address of the network."""
        network = f"{self.project.name}_cell"
        taken = {self.ip(each) for each in DAEMONS}
        address = next(
            address
            for host in range(100, 250)
            if (address := f"{self._network}.{host}") not in taken
        )
        self.notes.add(f"{service} gets the address {address}")
        container = self.project.container(service)
        self.project.engine("network", "disconnect", network, container)
        connect = ["network", "connect", "--ip", address, "--alias", service]
        self.project.engine(*connect, network, container)
        self._addresses.pop(service)

    def heal(self) -> None:
        """Undoes every fault; returns when all is healthy."""
        for service in sorted(self._broken):
            state = self.project.inspect(service)["State"]
            if state["Paused"]:
                self.unpause(service)
            elif not state["Running"]:
                self.start(service)
        self._broken.clear()
        if self._cut:
            self.mend(*self._cut)
        self.until_healthy(DAEMONS)

    # --- looking ----------------------------------------------------------------------------------

    def until_healthy(self, services: Sequence[str]) -> float:
        """Returns when all of the services say that they serve; how many seconds that took."""
        began = time.monotonic()
        waiting = list(services)
        while waiting := [each for each in waiting if not self._serves(each)]:
            if time.monotonic() - began > START_TIMEOUT_S:
                raise ClusterError(f"not healthy after {START_TIMEOUT_S:.0f} s: {waiting}")
            time.sleep(POLL_S)
        return time.monotonic() - began

    def memory_mib(self, service: str) -> float:
        """Resident memory of a daemon."""
        pid = self.project.pid(service)
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise ClusterError(f"{service} has no memory figure")

    def logs(self, service: str, since: float) -> list[str]:
        """The lines that a daemon logged since a time, each after the time it was logged."""
        at = datetime.fromtimestamp(since, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        words = ["logs", "--timestamps", "--since", at, self.project.container(service)]
        return self.project.engine(*words, both=True).splitlines()

    # --- inside -----------------------------------------------------------------------------------

    def _pause(self, service: str) -> None:
        for attempts_left in reversed(range(PAUSE_ATTEMPTS)):
            try:
                self.project.containers("pause", service)
                return
            except ClusterError as error:
                if "unable to freeze" not in str(error) or not attempts_left:
                    raise

    def _breaks(self, what: str, *services: str) -> None:
        self.notes.add(what)
        self._broken.update(services)

    def _serves(self, service: str) -> bool:
        return check_health(self.address(service), PROBE_TIMEOUT_S) is Health.SERVING

    def _iptables(self, service: str, *words: str) -> None:
        self.project.in_network(service, "iptables", "--wait", *words)
