"""DIR/cell.json: what runs in a cell's directory, for every program that wants to find it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from afsctl.daemon import CellError, DaemonPlan
from afsctl.process import ProcessIdentity

STATE_FILE: Final = "cell.json"
# Grows when a reader of the old form would misread the new one.
STATE_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class CellAddresses:
    """Where a cell's services are: "host:port" or "unix:PATH".

    `clients[i]` is the CacheManager of client i.
    """

    file_server: str
    vol_server: str
    location: str
    fssync: str
    clients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DaemonRecord:
    """One daemon and its last process; None: it was not started yet."""

    plan: DaemonPlan
    process: ProcessIdentity | None


@dataclass(frozen=True, slots=True)
class CellState:
    """The contents of cell.json."""

    addresses: CellAddresses
    break_policy: str
    dies_with_owner: bool
    daemons: tuple[DaemonRecord, ...]

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
        return _state_from(document)
    except (KeyError, TypeError, ValueError):
        raise CellError(f"{path} is not the state of a cell") from None


def forget_state(directory: Path) -> None:
    """Takes cell.json and the pid files away, once nothing of the cell runs."""
    (directory / STATE_FILE).unlink(missing_ok=True)
    for pid_file in (directory / "run").glob("*.pid"):
        pid_file.unlink(missing_ok=True)


def _state_from(document: dict[str, Any]) -> CellState:
    addresses = dict(document["addresses"])
    if [record["plan"]["name"] for record in document["daemons"][:2]] != ["afsd", "volserverd"]:
        raise ValueError("the daemons are not those of a cell")
    return CellState(
        addresses=CellAddresses(**{**addresses, "clients": tuple(addresses["clients"])}),
        break_policy=str(document["break_policy"]),
        dies_with_owner=bool(document["dies_with_owner"]),
        daemons=tuple(_record_from(record) for record in document["daemons"]),
    )


def _record_from(document: dict[str, Any]) -> DaemonRecord:
    plan, process = document["plan"], document["process"]
    return DaemonRecord(
        plan=DaemonPlan(plan["name"], tuple(plan["argv"]), plan["address"], Path(plan["log"])),
        process=None if process is None else ProcessIdentity(**process),
    )


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
