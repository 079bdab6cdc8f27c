"""DIR/cell.json: what runs in a cell's directory, for every program that wants to find it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from afs.runtime.tls import TlsFiles
from afsctl.daemon import CellError, DaemonPlan
from afsctl.process import ProcessIdentity

STATE_FILE: Final = "cell.json"
# Grows when a reader of the old form would misread the new one.
STATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class CellAddresses:
    """Where a cell's services are: "host:port" or "unix:PATH".

    `file_server`, `vol_server` and `fssync` are the first server's; `clients[i]` is the
    CacheManager of client i.
    """

    file_server: str
    vol_server: str
    location: str
    fssync: str
    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ServerRecord:
    """One pair of afsd and volserverd: its addresses and what it keeps."""

    file_server: str
    vol_server: str
    fssync: str
    run_dir: Path
    partitions: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class DaemonRecord:
    """One daemon and its last process; None: it was not started yet."""

    plan: DaemonPlan
    process: ProcessIdentity | None


@dataclass(frozen=True, slots=True)
class CellState:
    """The contents of cell.json.

    `daemons` are two for each server, afsd before volserverd, and then the clients.
    """

    addresses: CellAddresses
    break_policy: str
    dies_with_owner: bool
    servers: tuple[ServerRecord, ...]
    daemons: tuple[DaemonRecord, ...]

    @property
    def tls(self) -> TlsFiles | None:
        """What commands show the cell's daemons; None: they speak plain text."""
        return self.daemons[0].plan.tls if self.daemons else None

    def runs(self) -> bool:
        """True if any of the daemons is alive."""
        return any(
            record.process is not None and record.process.is_alive() for record in self.daemons
        )


def save_state(directory: Path, state: CellState) -> None:
    """Replaces DIR/cell.json, and DIR/run/NAME.pid of each daemon."""
    for record in state.daemons:
        if record.process is not None:
            _replace(directory / "run" / f"{record.plan.name}.pid", f"{record.process.pid}\n")
    document = {"version": STATE_VERSION, **asdict(state)}
    _replace(directory / STATE_FILE, json.dumps(document, indent=2, default=str) + "\n")


def load_state(directory: Path) -> CellState | None:
    """What DIR/cell.json says; None if there is no such file.

    Raises:
        CellError: the file cannot be read or is not ours.
    """
    path = directory / STATE_FILE
    try:
        document = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CellError(f"cannot read {path}: {error}") from None
    try:
        if document["version"] != STATE_VERSION:
            raise CellError(f"{path} has version {document['version']}: expected {STATE_VERSION}")
        return _state_from(document, directory)
    except (KeyError, TypeError, ValueError):
        raise CellError(f"{path} is not the state of a cell") from None


def forget_state(directory: Path) -> None:
    """Takes cell.json and the pid files away, once nothing of the cell runs."""
    (directory / STATE_FILE).unlink(missing_ok=True)
    for pid_file in (directory / "run").glob("*.pid"):
        pid_file.unlink(missing_ok=True)


def _state_from(document: dict[str, Any], directory: Path) -> CellState:
    given = dict(document["addresses"])
    addresses = CellAddresses(**{**given, "clients": tuple(given["clients"])})
    # A file from before there were cells of several servers has none of them.
    servers = tuple(
        ServerRecord(
            **{
                **record,
                "run_dir": Path(record["run_dir"]),
                "partitions": tuple(map(Path, record["partitions"])),
            }
        )
        for record in document.get("servers", [])
    ) or (_only_server(addresses, directory),)
    names = [record["plan"]["name"].partition("-")[0] for record in document["daemons"]]
    pairs, clients = names[: 2 * len(servers)], names[2 * len(servers) :]
    if pairs != ["afsd", "volserverd"] * len(servers) or set(clients) - {"clientd"}:
        raise ValueError("the daemons are not those of a cell")
    return CellState(
        addresses=addresses,
        break_policy=str(document["break_policy"]),
        dies_with_owner=bool(document["dies_with_owner"]),
        servers=servers,
        daemons=tuple(_record_from(record) for record in document["daemons"]),
    )


def _only_server(addresses: CellAddresses, directory: Path) -> ServerRecord:
    return ServerRecord(
        addresses.file_server,
        addresses.vol_server,
        addresses.fssync,
        directory / "run",
        (directory / "vicepa",),
    )


def _record_from(document: dict[str, Any]) -> DaemonRecord:
    plan, process = document["plan"], document["process"]
    return DaemonRecord(
        plan=DaemonPlan(
            plan["name"],
            tuple(plan["argv"]),
            plan["address"],
            Path(plan["log"]),
            # A file from before there was TLS says nothing of it.
            None if (tls := plan.get("tls")) is None else _tls_from(tls),
        ),
        process=None if process is None else ProcessIdentity(**process),
    )


def _tls_from(document: dict[str, Any]) -> TlsFiles:
    return TlsFiles(Path(document["ca"]), Path(document["certificate"]))


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
