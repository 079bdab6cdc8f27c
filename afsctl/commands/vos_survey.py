"""Asks every volserver the same, and goes on when one of them does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import grpc

from afsctl.failure import CommandError, explain
from afsctl.output import Column, error_line
from afsctl.vol_servers import ServerAddresses, VolServers


@dataclass(slots=True)
class Survey:
    """What the volservers answered.

    Attributes:
        records: all answers, each with the address of its volserver as `vol_server`.
        asked: how many volservers.
        failures: one line for each that did not answer.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    asked: int = 0
    failures: list[str] = field(default_factory=list)

    @property
    def several(self) -> bool:
        """More than one volserver was asked."""
        return self.asked > 1

    @property
    def server_columns(self) -> list[Column]:
        """The column that tells the servers apart, where there is more than one."""
        return [Column("VOLSERVER", "vol_server")] if self.several else []

    def conclude(self) -> None:
        """To be called after what was found is printed.

        Raises:
            CommandError: a volserver did not answer; each has then been named.
        """
        if not self.failures:
            return
        *others, last = self.failures
        for failure in others:
            error_line(failure)
        raise CommandError(last)


def survey(
    servers: VolServers, ask: Callable[[ServerAddresses], Iterable[dict[str, Any]]]
) -> Survey:
    """The answers of all volservers.

    Raises:
        grpc.RpcError: there is only one, and it does not answer.
    """
    known = servers.all()
    found = Survey(asked=len(known))
    for server in known:
        try:
            answers = list(ask(server))
        except grpc.RpcError as error:
            if not found.several:
                raise
            found.failures.append(f"volserver {server.vol_server}: {explain(error)}")
        else:
            found.records += [{**answer, "vol_server": server.vol_server} for answer in answers]
    return found
