"""Where the daemons are: from a flag, the environment, the running cell, or the default ports."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

import typer

from afs.runtime.tls import TlsFiles, use_tls
from afsctl.cell_state import load_state


class Door(StrEnum):
    """A service that commands talk to; the values are the names of its address in cell.json."""

    FILE_SERVER = "file_server"
    VOL_SERVER = "vol_server"
    LOCATION = "location"
    FSSYNC = "fssync"
    CLIENT = "client"


# Source: the interface's table of services; afsd's default run directory.
DEFAULT_ADDRESSES: Final = {
    Door.FILE_SERVER: "127.0.0.1:7000",
    Door.VOL_SERVER: "127.0.0.1:7005",
    Door.LOCATION: "127.0.0.1:7003",
    Door.FSSYNC: "unix:var/run/fssync.sock",
    Door.CLIENT: "127.0.0.1:7001",
}
DEFAULT_CELL_DIR: Final = Path("var")
# What to show daemons that speak TLS. As the daemons' own variables.
CA_VARIABLE: Final = "AFS_TLS_CA"
CERTIFICATE_VARIABLE: Final = "AFS_TLS_CERTIFICATE"

CellDirOption = Annotated[
    Path,
    typer.Option(
        "--cell",
        metavar="DIR",
        envvar="AFS_CELL_DIR",
        help="Directory of a cell; if one runs there, its addresses are the default.",
        show_default="var",
    ),
]
FileServerOption = Annotated[
    str | None,
    typer.Option(
        "--file-server", metavar="ADDRESS", envvar="AFS_FILE_SERVER", help="FileServer to ask."
    ),
]
VolServerOption = Annotated[
    str | None,
    typer.Option(
        "--vol-server", metavar="ADDRESS", envvar="AFS_VOL_SERVER", help="VolServer to ask."
    ),
]
LocationOption = Annotated[
    str | None,
    typer.Option(
        "--location", metavar="ADDRESS", envvar="AFS_LOCATION", help="VolumeLocation to ask."
    ),
]
FssyncOption = Annotated[
    str | None,
    typer.Option("--fssync", metavar="ADDRESS", envvar="AFS_FSSYNC", help="FSSync to ask."),
]
ClientOption = Annotated[
    str | None,
    typer.Option("--client", metavar="ADDRESS", envvar="AFS_CLIENT", help="CacheManager to ask."),
]


def find_address(door: Door, given: str | None, cell_dir: Path) -> str:
    """The address of a service: `given` if any, else of the running cell, else the default.

    Where the running cell's is taken, its daemons are shown the operator's certificate, if they
    speak TLS.
    """
    if given:
        return given
    state = load_state(cell_dir)
    if state is None or not state.runs():
        return DEFAULT_ADDRESSES[door]
    if state.tls is not None:
        use_tls(state.tls)
    if door is Door.CLIENT:
        return state.addresses.clients[0] if state.addresses.clients else DEFAULT_ADDRESSES[door]
    return str(getattr(state.addresses, door.value))


def use_given_tls() -> None:
    """Shows daemons the certificate that the environment names; plain text if it names none."""
    ca, certificate = os.environ.get(CA_VARIABLE), os.environ.get(CERTIFICATE_VARIABLE)
    use_tls(TlsFiles(Path(ca), Path(certificate)) if ca and certificate else None)


def use_tls_of(address: str, cell_dir: Path) -> None:
    """Shows the operator's certificate, if a daemon of the running cell is at the address."""
    state = load_state(cell_dir)
    if state is not None and state.tls is not None and state.runs():
        addresses = {daemon.plan.address for daemon in state.daemons} | {state.addresses.location}
        if address in addresses:
            use_tls(state.tls)
