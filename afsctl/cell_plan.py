"""The addresses, directories and command lines of a cell that is about to start."""

from __future__ import annotations

import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final

from afs.identity.cell_files import CellFiles
from afs.runtime.tls import TlsFiles
from afsctl.cell_state import CellAddresses, ServerRecord
from afsctl.daemon import CellError, DaemonPlan
from afsctl.ports import free_ports

# One value of a daemon's configuration, as its flag takes it; a list is the flag repeated.
Setting = str | int | float | bool | Path | Sequence[str]
# By daemon ("afsd", "volserverd", "clientd" for all of them, "afsd-0" or "clientd-1" for one),
# then by configuration key.
Settings = Mapping[str, Mapping[str, Setting]]

# Source: sockaddr_un, sun_path less its NUL.
MAX_UNIX_PATH_BYTES: Final = 107
FILE_SERVER_PORT: Final = 7000
FIRST_CLIENT_PORT: Final = 7001
LOCATION_PORT: Final = 7003
VOL_SERVER_PORT: Final = 7005
# Clients after the first: 7011, 7012, …, clear of the numbers above.
FURTHER_CLIENT_PORTS: Final = 7010
# Server 1 takes 9010 and 9015, server 2 9020 and 9025, …: clear of 1,000 clients.
FURTHER_SERVER_PORTS: Final = 9000
SERVER_PORTS_STEP: Final = 10
MAX_SERVERS: Final = 100
# Who is an administrator of a new cell, before there is anybody in its protection database.
SUPERUSER: Final = "admin"
# Whose certificate commands show.
OPERATOR: Final = "operator"
# Source: AFS names partitions vicepa to vicepz, and then goes on with two letters.
MAX_PARTITIONS: Final = len(string.ascii_lowercase)


class Ports(StrEnum):
    """Which TCP ports a cell takes on 127.0.0.1."""

    # 7000, 7001, 7003, 7005; further clients 7011 and up; further servers 9010 and 9015, 9020 and
    # 9025, ….
    DEFAULT = "default"
    # Any that are free.
    FREE = "free"


class CellPlan:
    """Everything about a cell's daemons before the first of them runs.

    Args:
        root: directory of the cell.
        servers: how many pairs of afsd and volserverd.
        partitions: how many of each server.
        clients: how many clientd.
        ports: which TCP ports.
        settings: further configuration of the daemons; wins over everything else.
        programs: what to run instead of `python -m NAME`, by program.
        identity: the cell's keys: its servers look at who calls. None: they do not.
        certificates: folder of the daemons' certificates, by name. None: they speak plain text.

    Raises:
        CellError: the numbers make no cell, or a path is too long for a unix socket.
    """

    def __init__(
        self,
        root: Path,
        *,
        servers: int,
        partitions: int,
        clients: int,
        ports: Ports,
        settings: Settings,
        programs: Mapping[str, Sequence[str]],
        identity: CellFiles | None = None,
        certificates: Path | None = None,
    ) -> None:
        _check_count("servers", servers, MAX_SERVERS)
        _check_count("partitions", partitions, MAX_PARTITIONS)
        self.root = root
        self._settings = settings
        self._programs = programs
        self._identity = identity
        self._certificates = certificates
        location, pairs, of_clients = _ports(servers, clients, ports)
        self.servers = tuple(
            _server(_server_root(root, index), pair, partitions) for index, pair in enumerate(pairs)
        )
        first = self.servers[0]
        self.addresses = CellAddresses(
            file_server=first.file_server,
            vol_server=first.vol_server,
            location=f"127.0.0.1:{location}",
            fssync=first.fssync,
            clients=tuple(f"127.0.0.1:{port}" for port in of_clients),
        )

    def directories(self) -> Iterator[Path]:
        """What must be there before a daemon starts."""
        yield from (self.root / "run", self.root / "log")
        for server in self.servers:
            yield from (server.run_dir, *server.partitions)

    def caches(self) -> dict[str, Path]:
        """Where each client keeps its cache, by name."""
        count = len(self.addresses.clients)
        return {f"clientd-{index}": self.root / f"cache-{index}" for index in range(count)}

    def daemons(self) -> Iterator[DaemonPlan]:
        """One for afsd and volserverd of each server, then clientd-0, clientd-1 and so on."""
        for index, server in enumerate(self.servers):
            yield self._fileserver(index, server)
            yield self._volserver(index, server)
        for index, address in enumerate(self.addresses.clients):
            yield self._daemon(
                f"clientd-{index}",
                f"clientd-{index}",
                address,
                {
                    "run_dir": self.root / "run",
                    "listen": address,
                    "location": self.addresses.location,
                    "cache_dir": self.root / f"cache-{index}",
                },
            )

    def _fileserver(self, index: int, server: ServerRecord) -> DaemonPlan:
        return self._daemon(
            daemon_name("afsd", index),
            f"afsd-{index}",
            server.file_server,
            {
                "run_dir": server.run_dir,
                "listen": server.file_server,
                "partitions": [str(path) for path in server.partitions],
                "protection": self.addresses.location,
                **self._guarded(),
            },
        )

    def _guarded(self) -> dict[str, Setting]:
        """What tells a server's daemon to look at who calls, if it is to."""
        files = self._identity
        if files is None:
            return {}
        return {
            "authorization": "on",
            "cell": files.read_name(),
            "issuers": files.issuers,
            "revocations": files.revocations,
            "signing_key": files.signing_key,
            "superusers": SUPERUSER,
        }

    def _volserver(self, index: int, server: ServerRecord) -> DaemonPlan:
        # The first volserver has the location database, the others use that.
        database: dict[str, Setting] = (
            {"location": self.addresses.location}
            if index
            else {
                "location_listen": self.addresses.location,
                "vldb": self.root / "vldb.sqlite3",
            }
        )
        return self._daemon(
            daemon_name("volserverd", index),
            f"volserverd-{index}",
            server.vol_server,
            {
                "run_dir": server.run_dir,
                "listen": server.vol_server,
                "fssync": server.fssync,
                "partitions": [str(path) for path in server.partitions],
                "file_server": server.file_server,
                "vol_server": server.vol_server,
                **database,
                **self._guarded(),
            },
        )

    def _daemon(
        self, name: str, numbered: str, address: str, settings: Mapping[str, Setting]
    ) -> DaemonPlan:
        program = numbered.partition("-")[0]
        chosen = {
            **settings,
            **self._settings.get(program, {}),
            **self._settings.get(numbered, {}),
        }
        chosen = {**self._encrypted(name), **chosen}
        argv = tuple(self._programs.get(program, (sys.executable, "-m", program)))
        return DaemonPlan(
            name,
            argv + tuple(_flags(chosen)),
            address,
            self.root / "log" / f"{name}.log",
            self._shown(OPERATOR),
        )

    def _shown(self, name: str) -> TlsFiles | None:
        """Where a certificate of the cell is."""
        folder = self._certificates
        return None if folder is None else TlsFiles(folder / "ca.pem", folder / f"{name}.pem")

    def _encrypted(self, name: str) -> dict[str, Setting]:
        """What tells a daemon to speak TLS, if it is to."""
        files = self._shown(name)
        return {} if files is None else {"tls_ca": files.ca, "tls_certificate": files.certificate}


def daemon_name(program: str, server: int) -> str:
    """What a server's daemon is called: `afsd` of the first server, `afsd-1` of the second."""
    return f"{program}-{server}" if server else program


def merged(first: Settings, second: Settings) -> Settings:
    """Both; what `second` says wins."""
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in {*first, *second}}


def _server_root(root: Path, index: int) -> Path:
    """The first server's is the cell's: a cell of one server has no further level."""
    return root / f"server-{index}" if index else root


def _server(root: Path, ports: tuple[int, int], partitions: int) -> ServerRecord:
    run = root / "run"
    if (size := len(bytes(run / "fssync.sock"))) > MAX_UNIX_PATH_BYTES:
        raise CellError(
            f"the path {run / 'fssync.sock'} has {size} bytes, a unix socket's has at"
            f" most {MAX_UNIX_PATH_BYTES}: choose a directory with a shorter path"
        )
    file_server, vol_server = ports
    return ServerRecord(
        file_server=f"127.0.0.1:{file_server}",
        vol_server=f"127.0.0.1:{vol_server}",
        fssync=f"unix:{run / 'fssync.sock'}",
        run_dir=run,
        partitions=tuple(root / f"vicep{string.ascii_lowercase[n]}" for n in range(partitions)),
    )


def _flags(settings: Mapping[str, Setting]) -> Iterator[str]:
    for key, value in settings.items():
        values = [value] if isinstance(value, str | int | float | Path) else list(value)
        for one in values:
            yield f"--{key.replace('_', '-')}"
            yield str(one).lower() if isinstance(one, bool) else str(one)


def _ports(
    servers: int, clients: int, ports: Ports
) -> tuple[int, list[tuple[int, int]], list[int]]:
    """The location database's port, each server's FileServer's and VolServer's, the clients'."""
    if ports is Ports.FREE:
        # In order, so that lists of addresses show the servers in theirs.
        location, *free = sorted(free_ports(1 + 2 * servers + clients))
        pairs = [(free[2 * index], free[2 * index + 1]) for index in range(servers)]
        return location, pairs, free[2 * servers :]
    steps = range(SERVER_PORTS_STEP, SERVER_PORTS_STEP * servers, SERVER_PORTS_STEP)
    apart = VOL_SERVER_PORT - FILE_SERVER_PORT
    firsts = [FILE_SERVER_PORT, *(FURTHER_SERVER_PORTS + step for step in steps)]
    of_clients = [FIRST_CLIENT_PORT, *(FURTHER_CLIENT_PORTS + index for index in range(1, clients))]
    return LOCATION_PORT, [(port, port + apart) for port in firsts], of_clients[:clients]


def _check_count(what: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise CellError(f"a cell has 1 to {most} {what}, not {count}")
