"""A whole cell on this machine: servers, the VLDB, and clients, as processes.

Theory of operation
    `Cell.start` starts the daemons by exec and returns when all serve; the `Cell` it answers with
    starts, stops, kills, freezes and restarts each of them. A server is an afsd and a volserverd
    with the same partitions; the first server's volserverd serves the location database, which the
    others use.

    Everything the cell keeps is in one directory: `vicepa`, `vicepb`, … (the first server's
    partitions), `server-N/vicepa`, … and `server-N/run` (of further servers), `vldb.sqlite3`,
    `cache-N` (of client N), `run` (sockets, and the pid files of all), `log`, and `cell.json`,
    which tells other programs what runs here. The same directory started again is the same cell
    with the same data.

    A cell that was started with `dies_with_owner` (the default) has no process left when its owner
    has ended, however the owner ended: by `stop`, by Ctrl-C or by SIGKILL. One started without it
    runs on, and `Cell.find` finds it.

All methods block; from asyncio call them with `asyncio.to_thread`.

    with Cell.start(directory, servers=2, partitions=2, clients=3) as cell:
        cell.clientds[0].freeze()
        cell.servers[1].afsd.kill9()
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from afs.identity.cell_files import DEFAULT_CELL_NAME, IDENTITY_FOLDER, CellFiles
from afsctl.cell_certificates import TLS_FOLDER, CellCertificates
from afsctl.cell_plan import CellPlan, Ports, Setting, Settings, daemon_name, merged
from afsctl.cell_state import (
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
    start_all,
    stop_all,
)

__all__ = ["Cell", "CellError", "Daemon", "Ports", "Server", "Setting", "Settings"]


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a cell: its two daemons, its addresses, its partitions' directories."""

    afsd: Daemon
    volserverd: Daemon
    file_server: str
    vol_server: str
    fssync: str
    partitions: tuple[Path, ...]


class Cell:
    """A cell that runs, or ran, in a directory. Made by `Cell.start` and `Cell.find`.

    Attributes:
        directory: absolute path of what it keeps.
        addresses: of its services.
        break_policy: the fileservers'.
        dies_with_owner: no process of it outlives the process that started it.
        servers: the servers, the one with the location database first.
        afsd, volserverd: the daemons of the first server.
        clientds: its clients.
        daemons: all of them, server by server, then the clients.
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
        self._server_records = state.servers
        by_name = {daemon.name: daemon for daemon in self.daemons}
        self.servers = tuple(
            Server(
                by_name[daemon_name("afsd", index)],
                by_name[daemon_name("volserverd", index)],
                record.file_server,
                record.vol_server,
                record.fssync,
                record.partitions,
            )
            for index, record in enumerate(state.servers)
        )
        self.clientds = self.daemons[2 * len(self.servers) :]
        self.afsd, self.volserverd = self.servers[0].afsd, self.servers[0].volserverd

    @classmethod
    def start(
        cls,
        directory: Path | str,
        *,
        servers: int = 1,
        partitions: int = 1,
        clients: int = 1,
        mounts: Sequence[Path | str] = (),
        break_policy: str = "later",
        lease_s: float | None = None,
        settings: Settings | None = None,
        ports: Ports = Ports.FREE,
        dies_with_owner: bool = True,
        timeout_s: float = START_TIMEOUT_S,
        programs: Mapping[str, Sequence[str]] | None = None,
        authorization: bool = False,
        tls: bool = False,
    ) -> Self:
        """A running cell: every daemon says that it serves.

        Args:
            directory: made if it is not there; what an earlier cell left in it is used again.
            servers: how many pairs of afsd and volserverd.
            partitions: how many of each server: `vicepa`, `vicepb` and so on.
            clients: how many clientd.
            mounts: where the first client is mounted, the second one and so on; made if they are
                not there. Clients beyond these are not mounted.
            break_policy: `later`, `sync`, `ack-first` or `hot-thread`.
            ports: the default ones, or any that are free.
            dies_with_owner: False: the cell runs on when this process ends.
            lease_s: the channel lease in seconds; None: the fileserver's default.
            settings: further configuration of the daemons; wins over everything else said here. By
                program (`afsd`: of all servers) or by daemon (`afsd-0`: of the first).
            timeout_s: for each daemon to serve.
            programs: what to run instead of `python -m NAME`, by program (for tests of this
                module).
            authorization: the servers look at who calls, by the keys in `identity`, which are made
                if the cell has none.
            tls: TCP ports speak mutual TLS.

        Raises:
            CellError: a cell runs in the directory already, a daemon did not start, or there are
                more mounts than clients; then nothing is left running.
        """
        root = Path(directory).absolute()
        extra: dict[str, dict[str, Setting]] = {"afsd": {"break_policy": break_policy}}
        if lease_s is not None:
            extra["afsd"]["channel_lease_s"] = lease_s
        if len(mounts) > clients:
            raise CellError(f"{len(mounts)} mounts need as many clients, not {clients}")
        points = [Path(mount).absolute() for mount in mounts]
        for index, point in enumerate(points):
            extra[f"clientd-{index}"] = {"mount": point}
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CellError(f"cannot make the cell's directory: {error}") from None
        with _locked(root):
            present = load_state(root)
            if present is not None and present.runs():
                raise CellError(
                    f"a cell is running in {root}: stop it with afsctl cell down --dir {directory}"
                )
            identity = CellFiles(root / IDENTITY_FOLDER)
            if (authorization or tls) and not identity.signing_key.exists():
                identity.make(DEFAULT_CELL_NAME)
            certificates = identity.folder / TLS_FOLDER if tls else None
            plan = CellPlan(
                root,
                servers=servers,
                partitions=partitions,
                clients=clients,
                ports=ports,
                settings=merged(extra, settings or {}),
                programs=programs or {},
                identity=identity if authorization else None,
                certificates=certificates,
            )
            _make_all((*plan.directories(), *points))
            if certificates is not None:
                issuing = CellCertificates(certificates, identity.read_name())
                issuing.issue(plan.daemons(), plan.caches())
            records = tuple(DaemonRecord(daemon, None) for daemon in plan.daemons())
            cell = cls(
                root,
                CellState(plan.addresses, break_policy, dies_with_owner, plan.servers, records),
            )
            try:
                start_all([server.afsd for server in cell.servers], timeout_s)
                start_all([server.volserverd for server in cell.servers], timeout_s)
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
        """Stops every daemon: clients, volservers, fileservers. Safe to call again.

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
        """Address of the first afsd's FileServer."""
        return self.addresses.file_server

    @property
    def vol_server(self) -> str:
        """Address of the first volserverd's VolServer."""
        return self.addresses.vol_server

    @property
    def location(self) -> str:
        """Address of volserverd's VolumeLocation."""
        return self.addresses.location

    @property
    def fssync(self) -> str:
        """Address of the first afsd's FSSync, a unix socket."""
        return self.addresses.fssync

    @property
    def clients(self) -> tuple[str, ...]:
        """Addresses of the clients' CacheManager."""
        return self.addresses.clients

    @property
    def partition(self) -> Path:
        """The directory of the first server's first partition, `vicepa`."""
        return self.servers[0].partitions[0]

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
        volservers = [server.volserverd for server in self.servers]
        fileservers = [server.afsd for server in self.servers]
        for group in (self.clientds, volservers, fileservers):
            killed += stop_all(group, timeout_s)
        forget_state(self.directory)
        return killed

    def _state(self) -> CellState:
        records = tuple(DaemonRecord(daemon.plan, daemon.process) for daemon in self.daemons)
        return CellState(
            self.addresses, self.break_policy, self.dies_with_owner, self._server_records, records
        )

    def _save(self) -> None:
        save_state(self.directory, self._state())


def _make_all(directories: Iterable[Path]) -> None:
    try:
        for directory in directories:
            directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CellError(f"cannot make the cell's directory: {error}") from None


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
