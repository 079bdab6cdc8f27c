"""The cluster of docker-compose.yml, and what can be broken of it.

All methods block: they are commands of the container engine. Faults are undone by `heal`.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parents[2]
ENGINE: Final = "/usr/bin/docker"
# Apart from a cluster that somebody has running from the same clone.
PROJECT: Final = "laterfs-test"
IMAGE: Final = "laterfs"
START_TIMEOUT_S: Final = 120.0
COMMAND_TIMEOUT_S: Final = 300.0
POLL_S: Final = 0.2

SERVERS: Final = ("1", "2")
CLIENTS: Final = ("client-1", "client-2", "client-3")
PORTS: Final = {"afsd": 7000, "client": 7001, "location": 7003, "volserverd": 7005}


class ClusterError(Exception):
    """The engine could not do what it was asked to."""


class Cluster:
    """One cluster; made by `Cluster.up`."""

    def __init__(self) -> None:
        self._broken: set[str] = set()
        self._addresses: dict[str, str] = {}

    @classmethod
    def up(cls) -> Self:
        """Builds the image, starts everything, and returns when all of it is healthy."""
        cluster = cls()
        cluster.compose("down", "--volumes", "--remove-orphans")
        _run([ENGINE, "build", "--quiet", "--tag", IMAGE, "."])
        _run([ENGINE, "build", "--quiet", "--target", "toolbox", "--tag", f"{IMAGE}-toolbox", "."])
        cluster.compose("up", "--detach")
        cluster.until_healthy(cluster.services)
        return cluster

    def down(self) -> None:
        """Everything gone."""
        self.compose("down", "--volumes", "--remove-orphans")

    @property
    def services(self) -> list[str]:
        """What runs as long as the cluster does."""
        servers = [f"{kind}-{number}" for number in SERVERS for kind in ("afsd", "volserverd")]
        return ["location", *servers, *CLIENTS]

    def compose(self, *words: str) -> str:
        """docker-compose with these words; what it printed."""
        files = ["-f", "docker-compose.yml", "-f", "tests/cluster/docker-compose.test.yml"]
        return _run(["docker-compose", "-p", PROJECT, *files, *words])

    def address(self, service: str) -> str:
        """host:port of a service, for calls from this machine."""
        port = PORTS[service.rstrip("-0123456789")]
        return f"{self.ip(service)}:{port}"

    def ip(self, service: str) -> str:
        """The address of a service in the cluster's network."""
        if service not in self._addresses:
            networks = self._inspect(service)["NetworkSettings"]["Networks"]
            self._addresses[service] = next(iter(networks.values()))["IPAddress"]
        return self._addresses[service]

    # --- faults -----------------------------------------------------------------------------------

    def pause(self, service: str) -> None:
        """Freezes all processes of a service."""
        self.compose("pause", service)
        self._broken.add(service)

    def unpause(self, service: str) -> None:
        """Lets a frozen service go on."""
        self.compose("unpause", service)

    def kill(self, *services: str) -> None:
        """Ends services by SIGKILL; nothing is saved, nobody is told."""
        self.compose("kill", "-s", "SIGKILL", *services)
        self._broken.update(services)

    def stop(self, *services: str) -> None:
        """SIGTERM, and waits for the end."""
        self.compose("stop", *services)
        self._broken.update(services)

    def start(self, *services: str) -> None:
        """Starts services again that ended, where they were."""
        self.compose("start", *services)
        self._addresses.clear()

    def cut(self, source: str, *targets: str) -> None:
        """From now on nothing that `source` sends reaches any of `targets`; silently, one way."""
        self._broken.add(source)
        for target in targets:
            self._iptables(source, "-A", "OUTPUT", "-d", self.ip(target), "-j", "DROP")

    def lose(self, service: str, part: float) -> None:
        """From now on this part of the packets that a service sends and gets is lost."""
        self._broken.add(service)
        for chain in ("INPUT", "OUTPUT"):
            lost = ["-m", "statistic", "--mode", "random", "--probability", str(part)]
            self._iptables(service, "-A", chain, *lost, "-j", "DROP")

    def change_address(self, service: str) -> None:
        """The service goes on under another address of the network."""
        network = f"{PROJECT}_cell"
        taken = {self.ip(each) for each in self.services}
        prefix = self.ip(service).rpartition(".")[0]
        free = next(
            address for host in range(100, 250) if (address := f"{prefix}.{host}") not in taken
        )
        container = self._container(service)
        _run([ENGINE, "network", "disconnect", network, container])
        connect = [ENGINE, "network", "connect", "--ip", free, "--alias", service]
        _run([*connect, network, container])
        self._addresses.clear()

    def heal(self) -> None:
        """Undoes every fault; returns when all is healthy."""
        for service in sorted(self._broken):
            state = self._inspect(service)["State"]
            if state["Paused"]:
                self.unpause(service)
            elif not state["Running"]:
                self.start(service)
            else:
                self._iptables(service, "-F")
        self._broken.clear()
        self.until_healthy(self.services)

    def mend(self, service: str) -> None:
        """Undoes what `cut` and `lose` did to one service."""
        self._iptables(service, "-F")

    # --- looking ----------------------------------------------------------------------------------

    def until_healthy(self, services: Sequence[str]) -> float:
        """Returns when all of the services are healthy; how many seconds that took."""
        began = time.monotonic()
        waiting = list(services)
        while waiting:
            waiting = [each for each in waiting if self._health(each) != "healthy"]
            if time.monotonic() - began > START_TIMEOUT_S:
                raise ClusterError(f"not healthy after {START_TIMEOUT_S:.0f} s: {waiting}")
            if waiting:
                time.sleep(POLL_S)
        return time.monotonic() - began

    def toolbox(self, *words: str) -> str:
        """A command in the toolbox, as `docker-compose exec toolbox`; what it printed."""
        return self.compose("exec", "-T", "toolbox", *words)

    def memory_mib(self, service: str) -> float:
        """Resident memory of a daemon."""
        pid = self._inspect(service)["State"]["Pid"]
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise ClusterError(f"{service} has no memory figure")

    def timeline(self) -> Iterator[str]:
        """The log lines of all daemons, by time."""
        lines = []
        for service in self.services:
            text = _run([ENGINE, "logs", "--timestamps", self._container(service)], both=True)
            for line in text.splitlines():
                at, _, what = line.partition(" ")
                lines.append((at, service, what))
        for at, service, what in sorted(lines):
            yield f"{at} {service:12} {what}"

    @contextmanager
    def gone(self, *services: str) -> Iterator[None]:
        """Services killed on entry and started again at the end."""
        self.kill(*services)
        try:
            yield
        finally:
            self.start(*services)
            self.until_healthy(services)

    # --- inside -----------------------------------------------------------------------------------

    def _container(self, service: str) -> str:
        return f"{PROJECT}_{service}_1"

    def _inspect(self, service: str) -> dict[str, dict[str, Any]]:
        answer: dict[str, dict[str, Any]]
        (answer,) = json.loads(_run([ENGINE, "inspect", self._container(service)]))
        return answer

    def _health(self, service: str) -> str:
        state = self._inspect(service)["State"]
        if not state["Running"] and service not in self._broken:
            raise ClusterError(f"{service} has ended")
        status: str = state.get("Health", {}).get("Status", "")
        return status

    def _iptables(self, service: str, *words: str) -> None:
        pid = self._inspect(service)["State"]["Pid"]
        _run(["nsenter", "-t", str(pid), "-n", "iptables", *words])


def _run(command: Sequence[str], *, both: bool = False) -> str:
    """What a command printed; ClusterError with what it complained of."""
    environment = {**os.environ, "DOCKER_BUILDKIT": "1"}
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        words = " ".join(command)
        raise ClusterError(f"{words}: exit status {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout + (done.stderr if both else "")
