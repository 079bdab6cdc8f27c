"""What the subcommands of `afsctl vos` have in common on their command lines."""

from __future__ import annotations

from typing import Annotated

import typer

VolumeArgument = Annotated[
    str, typer.Argument(help="Name (also NAME.readonly or NAME.backup) or id of a volume.")
]
NewNameArgument = Annotated[str, typer.Argument(help="Name of the new volume.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")
]
# How a server is named, wherever one is.
SERVER_HELP = (
    "Address of its volserver or fileserver, or the name of a daemon of the cell (afsd-1)."
)
