"""`afsctl cell`: a whole cell of daemons on this machine."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer

from afsctl.addresses import DEFAULT_CELL_DIR
from afsctl.cell import Cell, Ports, Setting
from afsctl.cell_plan import MAX_PARTITIONS, MAX_SERVERS, SUPERUSER
from afsctl.commands import cell_keys
from afsctl.daemon import Daemon
from afsctl.failure import CommandError
from afsctl.health import Health, check_health
from afsctl.output import (
    Column,
    JsonOption,
    error_line,
    print_json,
    print_listing,
    show_duration,
    show_kib,
)
from afsctl.process import ProcessState

app = typer.Typer(help="Run a whole cell on this machine.", no_args_is_help=True)
cell_keys.add_to(app)

DirOption = Annotated[
    Path,
    typer.Option(
        "--dir",
        metavar="DIR",
        envvar="AFS_CELL_DIR",
        help="What the cell keeps: volumes, caches, logs.",
        show_default="var",
    ),
]

DaemonArgument = Annotated[str, typer.Argument(help="Such as afsd, afsd-1 or clientd-0.")]

# Long enough for a daemon that is busy, short enough for a person who waits.
HEALTH_TIMEOUT_S = 2.0
# How soon a foreground cell says that a daemon has ended.
WATCH_INTERVAL_S = 0.5

_COLUMNS = [
    Column("DAEMON", "daemon"),
    Column("STATE", "state"),
    Column("HEALTH", "health"),
    Column("ADDRESS", "address"),
    Column("PID", "pid", right=True),
    Column("UP", "uptime_s", show_duration, right=True),
    Column("MEMORY", "memory_kib", show_kib, right=True),
]


@app.command()
def up(
    *,
    directory: DirOption = DEFAULT_CELL_DIR,
    servers: Annotated[
        int, typer.Option(help="How many pairs of afsd and volserverd.", min=1, max=MAX_SERVERS)
    ] = 1,
    partitions: Annotated[
        int, typer.Option(help="How many of each server.", min=1, max=MAX_PARTITIONS)
    ] = 1,
    clients: Annotated[int, typer.Option(help="How many clientd.", min=0, max=1000)] = 1,
    mount: Annotated[
        list[Path] | None,
        typer.Option(
            "--mount", metavar="DIR", help="Mount the first client here; again: the second one."
        ),
    ] = None,
    break_policy: Annotated[
        str, typer.Option(help="later, sync, ack-first or hot-thread.")
    ] = "later",
    lease_s: Annotated[
        float | None, typer.Option(help="Channel lease in seconds; default: the fileserver's.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="DAEMON.KEY=VALUE",
            help="Configuration of all of afsd, volserverd or clientd, or of one (clientd-0).",
        ),
    ] = None,
    authorization: Annotated[
        Literal["on", "off"],
        typer.Option(
            help="on: the servers look at who calls, with keys in DIR/identity; log in as"
            f" {SUPERUSER} first."
        ),
    ] = "off",
    tls: Annotated[
        Literal["on", "off"],
        typer.Option(
            help="on: TCP ports speak mutual TLS, with certificates in DIR/identity/tls that are"
            " issued anew at each start."
        ),
    ] = "off",
    ports: Annotated[
        Ports,
        typer.Option(
            help="The default ports (server N: 9000 + 10 N and 9005 + 10 N), or any that are free."
        ),
    ] = Ports.DEFAULT,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Stay until Ctrl-C, then stop the cell.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Start servers (a fileserver and a volserver each), the VLDB, and clients."""
    settings = _settings(set_ or [])
    cell = Cell.start(
        directory,
        servers=servers,
        partitions=partitions,
        clients=clients,
        mounts=mount or (),
        break_policy=break_policy,
        lease_s=lease_s,
        settings=settings,
        ports=ports,
        dies_with_owner=foreground,
        authorization=authorization == "on",
        tls=tls == "on",
    )
    if not foreground:
        _print_status(cell, as_json=as_json)
        return
    with _interruptible() as interrupted:
        try:
            _print_status(cell, as_json=as_json)
            print("Ctrl-C stops the cell.", flush=True)
            _watch(cell, interrupted)
        finally:
            _stop(cell)


@app.command()
def down(*, directory: DirOption = DEFAULT_CELL_DIR) -> None:
    """Stop the cell."""
    cell = Cell.find(directory)
    if cell is None or not cell.is_running():
        raise CommandError(f"no cell is running in {directory}")
    _stop(cell)


@app.command()
def status(*, directory: DirOption = DEFAULT_CELL_DIR, as_json: JsonOption = False) -> None:
    """Show the daemons of the cell. Exit status 1 unless all of them serve."""
    cell = Cell.find(directory)
    if cell is None:
        raise CommandError(f"no cell is running in {directory}")
    if not _print_status(cell, as_json=as_json):
        raise typer.Exit(1)


@app.command()
def freeze(daemon: DaemonArgument, *, directory: DirOption = DEFAULT_CELL_DIR) -> None:
    """Stop a daemon where it is (SIGSTOP): to the others it is a dead machine."""
    _daemon(daemon, directory)[1].freeze()


@app.command()
def thaw(daemon: DaemonArgument, *, directory: DirOption = DEFAULT_CELL_DIR) -> None:
    """Let a frozen daemon go on."""
    _daemon(daemon, directory)[1].thaw()


@app.command()
def kill(daemon: DaemonArgument, *, directory: DirOption = DEFAULT_CELL_DIR) -> None:
    """End a daemon at once (SIGKILL)."""
    _daemon(daemon, directory)[1].kill9()


@app.command()
def restart(daemon: DaemonArgument, *, directory: DirOption = DEFAULT_CELL_DIR) -> None:
    """Stop a daemon if it runs, and start it again."""
    cell, chosen = _daemon(daemon, directory)
    if cell.dies_with_owner:
        raise CommandError("the cell runs in the foreground: its daemons live as long as that does")
    chosen.restart()


def _daemon(name: str, directory: Path) -> tuple[Cell, Daemon]:
    """The daemon of that name in the cell of a directory."""
    cell = Cell.find(directory)
    if cell is None:
        raise CommandError(f"no cell is running in {directory}")
    for daemon in cell.daemons:
        if daemon.name == name:
            return cell, daemon
    known = ", ".join(daemon.name for daemon in cell.daemons)
    raise CommandError(f"the cell has no daemon {name}: it has {known}")


def _print_status(cell: Cell, *, as_json: bool) -> bool:
    """Prints the state of every daemon; True if all serve."""
    records = [_daemon_record(daemon) for daemon in cell.daemons]
    if as_json:
        addresses = {
            "file_server": cell.file_server,
            "vol_server": cell.vol_server,
            "location": cell.location,
            "fssync": cell.fssync,
            "clients": cell.clients,
        }
        print_json(
            {
                "directory": str(cell.directory),
                "break_policy": cell.break_policy,
                "addresses": addresses,
                "servers": [
                    {
                        "file_server": server.file_server,
                        "vol_server": server.vol_server,
                        "fssync": server.fssync,
                        "partitions": [str(path) for path in server.partitions],
                    }
                    for server in cell.servers
                ],
                "daemons": records,
            }
        )
    else:
        print_listing(_COLUMNS, records, as_json=False, empty="")
    return all(record["health"] == Health.SERVING for record in records)


def _daemon_record(daemon: Daemon) -> dict[str, Any]:
    state = daemon.state()
    alive = state is not ProcessState.GONE and daemon.process is not None
    # A frozen process would answer nothing until the time-out.
    asks = state is ProcessState.RUNNING
    health = (
        check_health(daemon.address, HEALTH_TIMEOUT_S, daemon.plan.tls) if asks else Health.SILENT
    )
    return {
        "daemon": daemon.name,
        "state": state.value,
        "health": health.value,
        "address": daemon.address,
        "pid": daemon.pid if alive else None,
        "uptime_s": round(daemon.process.uptime_s(), 2) if alive and daemon.process else None,
        "memory_kib": daemon.process.memory_kib() if alive and daemon.process else None,
        "log": str(daemon.plan.log),
    }


def _stop(cell: Cell) -> None:
    killed = cell.stop()
    for daemon in killed:
        error_line(f"{daemon.name} did not stop in time and was killed")
    print("The cell is stopped.")


def _watch(cell: Cell, interrupted: threading.Event) -> None:
    """Returns after Ctrl-C or SIGTERM, or when no daemon is left; tells of each that ends."""
    alive = list(cell.daemons)
    while alive and not interrupted.wait(WATCH_INTERVAL_S):
        for daemon in list(alive):
            if daemon.state() is ProcessState.GONE:
                alive.remove(daemon)
                error_line(f"{daemon.name} has ended (exit status {daemon.exit_status})")
    if not alive and any(daemon.exit_status != 0 for daemon in cell.daemons):
        raise CommandError("every daemon of the cell has ended")


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C and SIGTERM set the event, and end nothing by themselves."""
    event = threading.Event()

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        event.set()

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _settings(texts: list[str]) -> dict[str, dict[str, Setting]]:
    """The settings of `--set DAEMON.KEY=VALUE`."""
    settings: dict[str, dict[str, Setting]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        daemon, dot, key = name.partition(".")
        if not (equals and dot and key) or daemon.split("-")[0] not in _PROGRAMS:
            raise typer.BadParameter(
                f"{text!r}: expected DAEMON.KEY=VALUE, such as afsd.break_deadline_s=1",
                param_hint="--set",
            )
        settings.setdefault(daemon, {})[key] = value
    return settings


_PROGRAMS = ("afsd", "volserverd", "clientd")
