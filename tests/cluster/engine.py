"""Commands of the container engine and of docker-compose, for one project.

Everything blocks. The engine is called directly wherever that is enough: docker-compose takes half
a second to start.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
# Another client, with another way to build, may stand before it on the path.
ENGINE: Final = "/usr/bin/docker"
COMMAND_TIMEOUT_S: Final = 300.0


class ClusterError(Exception):
    """The engine could not do what it was asked to."""


class Project:
    """The containers of one docker-compose project.

    Args:
        name: names of its containers, networks and volumes begin with it.
        files: what it is made of, from the root of the clone.
        settings: variables of those files.
    """

    def __init__(self, name: str, files: Sequence[str], settings: dict[str, str]) -> None:
        self.name = name
        self._files = [word for file in files for word in ("-f", file)]
        # docker-compose has the engine's client, by its name, build images.
        path = f"{Path(ENGINE).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, **settings, "PATH": path, "DOCKER_BUILDKIT": "1"}
        self._pids: dict[str, int] = {}

    def compose(self, *words: str) -> str:
        """docker-compose with these words; what it printed."""
        return self._run(["docker-compose", "-p", self.name, *self._files, *words])

    def engine(self, *words: str, both: bool = False) -> str:
        """The engine's command line; what it printed, with `both` also on standard error."""
        return self._run([ENGINE, *words], both=both)

    def containers(self, command: str, *services: str) -> None:
        """A command of the engine about the containers of services, such as `pause`."""
        self.engine(*command.split(), *(self.container(service) for service in services))
        for service in services:
            self._pids.pop(service, None)

    def execute(self, service: str, *command: str) -> str:
        """A command in a running container; what it printed."""
        return self.engine("exec", self.container(service), *command)

    def in_network(self, service: str, *command: str) -> str:
        """A command of this machine, in the network of a container."""
        return self._run(["nsenter", "-t", str(self.pid(service)), "-n", *command])

    def pid(self, service: str) -> int:
        """The process that runs a service."""
        if service not in self._pids:
            self._pids[service] = self.inspect(service)["State"]["Pid"]
        return self._pids[service]

    def inspect(self, service: str) -> dict[str, Any]:
        """All that the engine knows of a container."""
        answer: dict[str, Any]
        (answer,) = json.loads(self.engine("inspect", self.container(service)))
        return answer

    def container(self, service: str) -> str:
        """The name of a service's container."""
        return f"{self.name}_{service}_1"

    def _run(self, command: Sequence[str], *, both: bool = False) -> str:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            words = " ".join(command)
            raise ClusterError(f"{words}: exit status {done.returncode}: {done.stderr[-2000:]}")
        return done.stdout + (done.stderr if both else "")
