"""A whole cell on this machine: fileserver, volserver with VLDB, and clients, as processes.

Theory of operation
    `Cell.start` starts the daemons by exec and returns when all serve; the `Cell` it answers with
    starts, stops, kills, freezes and restarts each of them. Everything the cell keeps is in one
    directory: `vicepa` (the partition), `vldb.sqlite3`, `cache-N` (of client N), `run` (sockets and
    pid files), `log`, and `cell.json`, which tells other programs what runs here. The same
    directory started again is the same cell with the same data.

    A cell that was started with `dies_with_owner` (the default) has no process left when its owner
    has ended, however the owner ended: by `stop`, by Ctrl-C or by SIGKILL. One started without it
    runs on, and `Cell.find` finds it.

All methods block; from asyncio call them with `asyncio.to_thread`.

    with Cell.start(directory, clients=3) as cell:
        cell.clientds[0].freeze()
"""

from __future__ import annotations

import fcntl
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from afsctl.cell_state import (
    CellAddresses,
    CellState,
    DaemonRecord,
    forget_state,
    load_state,
    save_state,
)
from afsctl.daemon import (
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    CellError,
    Daemon,
    DaemonPlan,
    start_all,
    stop_all,
)
from afsctl.ports import free_ports

__all__ = ["Cell", "CellError", "Daemon", "Ports", "Setting", "Settings"]

# One value of a daemon's configuration, as its flag takes it; a list is the flag repeated.
Setting = str | int | float | bool | Path | Sequence[str]
# By daemon ("afsd", "volserverd", "clientd" for all clients, "clientd-0" for one), then by
# configuration key.
Settings = Mapping[str, Mapping[str, Setting]]

# Source: sockaddr_un, sun_path less its NUL.
MAX_UNIX_PATH_BYTES: Final = 107
FILE_SERVER_PORT: Final = 7000
FIRST_CLIENT_PORT: Final = 7001
LOCATION_PORT: Final = 7003
VOL_SERVER_PORT: Final = 7005
# Clients after the first: 7011, 7012, …, clear of the numbers above.
FURTHER_CLIENT_PORTS: Final = 7010


class Ports(StrEnum):
    """Which TCP ports a cell takes on 127.0.0.1."""

    # 7000, 7001, 7003, 7005 and, for further clients, 7011 and up.
    DEFAULT = "default"
    # Any that are free.
    FREE = "free"


class Cell:
    """A cell that runs, or ran, in a directory. Made by `Cell.start` and `Cell.find`.

    Attributes:
        directory: absolute path of what it keeps.
        addresses: of its services.
        break_policy: the fileserver's.
        dies_with_owner: no process of it outlives the process that started it.
        afsd, volserverd, clientds: its daemons.
    """

    def __init__(self, directory: Path, state: CellState) -> None:
        self.directory = directory
        self.addresses = state.addresses
        self.break_policy = state.break_policy
        self.dies_with_owner = state.dies_with_owner
        self.daemons = [
            Daemon(
                record.plan,
                process=record.process,
                dies_with_owner=state.dies_with_owner,
                changed=self._save,
            )
            for record in state.daemons
        ]
        self.afsd, self.volserverd, *self.clientds = self.daemons

    @classmethod
    def start(
        cls,
        directory: Path | str,
        *,
        clients: int = 1,
        break_policy: str = "later",
        lease_s: float | None = None,
        settings: Settings | None = None,
        ports: Ports = Ports.FREE,
        dies_with_owner: bool = True,
        timeout_s: float = START_TIMEOUT_S,
        programs: Mapping[str, Sequence[str]] | None = None,
    ) -> Self:
        """A running cell: every daemon says that it serves.

        Args:
            directory: made if it is not there; what an earlier cell left in it is used again.
            clients: how many clientd.
            break_policy: `later`, `sync`, `ack-first` or `hot-thread`.
            ports: the default ones, or any that are free.
            dies_with_owner: False: the cell runs on when this process ends.
            lease_s: the channel lease in seconds; None: the fileserver's default.
            settings: further configuration of the daemons; wins over everything else said here.
            timeout_s: for each daemon to serve.
            programs: what to run instead of `python -m NAME`, by daemon (for tests of this module).

        Raises:
            CellError: a cell runs in the directory already, or a daemon did not start; then nothing
                is left running.
        """
        root = Path(directory).absolute()
        try:
            for part in ("", "vicepa", "run", "log"):
                (root / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CellError(f"cannot make the cell's directory: {error}") from None
        with _locked(root):
            present = load_state(root)
            if present is not None and present.runs():
                raise CellError(
                    f"a cell is running in {root}: stop it with afsctl cell down --dir {directory}"
                )
            extra = {"afsd": {"break_policy": break_policy}}
            if lease_s is not None:
                extra["afsd"]["channel_lease_s"] = str(lease_s)
            plan = _CellPlan(root, clients, ports, _merged(extra, settings or {}), programs or {})
            records = tuple(DaemonRecord(daemon, None) for daemon in plan.daemons())
            cell = cls(root, CellState(plan.addresses, break_policy, dies_with_owner, records))
            try:
                cell.afsd.start(timeout_s)
                cell.volserverd.start(timeout_s)
                start_all(cell.clientds, timeout_s)
            except BaseException:
                cell._stop(STOP_TIMEOUT_S)
                raise
        return cell

    @classmethod
    def find(cls, directory: Path | str) -> Self | None:
        """The cell whose state is in `directory`, running or not; None if there is none.

        Raises:
            CellError: its state cannot be read.
        """
        root = Path(directory).absolute()
        state = load_state(root)
        return None if state is None else cls(root, state)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> list[Daemon]:
        """Stops every daemon: clients, volserver, fileserver. Safe to call again.

        Returns:
            Those that had not ended `timeout_s` after they were asked to, and were killed.
        """
        with _locked(self.directory):
            return self._stop(timeout_s)

    def is_running(self) -> bool:
        """True if any of its daemons is alive."""
        return self._state().runs()

    @property
    def file_server(self) -> str:
        """Address of afsd's FileServer."""
        return self.addresses.file_server

    @property
    def vol_server(self) -> str:
        """Address of volserverd's VolServer."""
        return self.addresses.vol_server

    @property
    def location(self) -> str:
        """Address of volserverd's VolumeLocation."""
        return self.addresses.location

    @property
    def fssync(self) -> str:
        """Address of afsd's FSSync, a unix socket."""
        return self.addresses.fssync

    @property
    def clients(self) -> tuple[str, ...]:
        """Addresses of the clients' CacheManager."""
        return self.addresses.clients

    @property
    def partition(self) -> Path:
        """The directory of the fileserver's one partition, `vicepa`."""
        return self.directory / "vicepa"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _stop(self, timeout_s: float) -> list[Daemon]:
        killed = []
        # Clients first: a client that goes in order gives its promises up, which needs the
        # fileserver.
        for group in (self.clientds, [self.volserverd], [self.afsd]):
            killed += stop_all(group, timeout_s)
        forget_state(self.directory)
        return killed

    def _state(self) -> CellState:
        records = tuple(DaemonRecord(daemon.plan, daemon.process) for daemon in self.daemons)
        return CellState(self.addresses, self.break_policy, self.dies_with_owner, records)

    def _save(self) -> None:
        save_state(self.directory, self._state())


class _CellPlan:
    """The addresses and command lines of a cell that is about to start."""

    def __init__(
        self,
        root: Path,
        clients: int,
        ports: Ports,
        settings: Settings,
        programs: Mapping[str, Sequence[str]],
    ) -> None:
        self.root = root
        self._settings = settings
        self._programs = programs
        run = root / "run"
        if (size := len(bytes(run / "fssync.sock"))) > MAX_UNIX_PATH_BYTES:
            raise CellError(
                f"the path {run / 'fssync.sock'} has {size} bytes, a unix socket's has at"
                f" most {MAX_UNIX_PATH_BYTES}: choose a directory with a shorter path"
            )
        file_server, vol_server, location, *of_clients = _ports(clients, ports)
        self.addresses = CellAddresses(
            file_server=f"127.0.0.1:{file_server}",
            vol_server=f"127.0.0.1:{vol_server}",
            location=f"127.0.0.1:{location}",
            fssync=f"unix:{run / 'fssync.sock'}",
            clients=tuple(f"127.0.0.1:{port}" for port in of_clients),
        )

    def daemons(self) -> Iterator[DaemonPlan]:
        """One for afsd, volserverd, clientd-0, clientd-1 and so on."""
        at, root = self.addresses, self.root
        yield self._daemon(
            "afsd",
            "afsd",
            at.file_server,
            {"listen": at.file_server, "partitions": root / "vicepa"},
        )
        yield self._daemon(
            "volserverd",
            "volserverd",
            at.vol_server,
            {
                "listen": at.vol_server,
                "location_listen": at.location,
                "fssync": at.fssync,
                "partitions": root / "vicepa",
                "vldb": root / "vldb.sqlite3",
                "file_server": at.file_server,
                "vol_server": at.vol_server,
            },
        )
        for index, address in enumerate(at.clients):
            yield self._daemon(
                f"clientd-{index}",
                "clientd",
                address,
                {"listen": address, "location": at.location, "cache_dir": root / f"cache-{index}"},
            )

    def _daemon(
        self, name: str, program: str, address: str, settings: Mapping[str, Setting]
    ) -> DaemonPlan:
        chosen: dict[str, Setting] = {"run_dir": self.root / "run", **settings}
        chosen.update(self._settings.get(program, {}))
        if name != program:
            chosen.update(self._settings.get(name, {}))
        argv = tuple(self._programs.get(program, (sys.executable, "-m", program)))
        return DaemonPlan(
            name, argv + tuple(_flags(chosen)), address, self.root / "log" / f"{name}.log"
        )


def _flags(settings: Mapping[str, Setting]) -> Iterator[str]:
    for key, value in settings.items():
        values = [value] if isinstance(value, str | int | float | Path) else list(value)
        for one in values:
            yield f"--{key.replace('_', '-')}"
            yield str(one).lower() if isinstance(one, bool) else str(one)


def _merged(first: Settings, second: Settings) -> Settings:
    return {name: {**first.get(name, {}), **second.get(name, {})} for name in {*first, *second}}


def _ports(clients: int, ports: Ports) -> list[int]:
    if ports is Ports.FREE:
        return free_ports(3 + clients)
    of_clients = [FIRST_CLIENT_PORT, *(FURTHER_CLIENT_PORTS + index for index in range(1, clients))]
    return [FILE_SERVER_PORT, VOL_SERVER_PORT, LOCATION_PORT, *of_clients[:clients]]


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Keeps two programs from starting or stopping the cell of one directory at once."""
    with (root / "cell.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CellError(
                f"the cell in {root} is being started or stopped by another program"
            ) from None
        yield
