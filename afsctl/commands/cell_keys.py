"""`afsctl cell init`, `afsctl cell revoke`: the keys by which a cell issues its own tokens."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from afs.identity.cell_files import DEFAULT_CELL_NAME, IDENTITY_FOLDER, CellFiles
from afsctl.addresses import DEFAULT_CELL_DIR
from afsctl.cell_certificates import TLS_FOLDER, CellCertificates
from afsctl.cell_state import load_state
from afsctl.failure import CommandError

DirOption = Annotated[
    Path,
    typer.Option(
        "--dir",
        metavar="DIR",
        envvar="AFS_CELL_DIR",
        help="Directory of the cell; its keys are in DIR/identity.",
        show_default="var",
    ),
]


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command("init")(init)
    app.command("revoke")(revoke)
    app.command("renew")(renew)


def init(
    *,
    name: Annotated[str, typer.Option(help="The cell's name.")] = DEFAULT_CELL_NAME,
    directory: DirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make a cell's signing key, and the files by which its daemons believe what it signs."""
    files = CellFiles(directory / IDENTITY_FOLDER)
    files.make(name)
    print(
        f"Cell {name} has its keys in {files.folder}; {files.signing_key} is for its servers only."
    )


def renew(*, directory: DirOption = DEFAULT_CELL_DIR) -> None:
    """Issue new certificates to the daemons of the cell that runs here, which take them up."""
    state = load_state(directory.absolute())
    if state is None or state.tls is None:
        raise CommandError(f"no cell of {directory} speaks TLS")
    files = CellFiles(directory.absolute() / IDENTITY_FOLDER)
    issuing = CellCertificates(files.folder / TLS_FOLDER, files.read_name())
    plans = [record.plan for record in state.daemons]
    caches = {
        plan.name: directory.absolute() / f"cache-{index}"
        for index, plan in enumerate(plan for plan in plans if plan.name.startswith("clientd"))
    }
    issuing.issue(plans, caches)
    print(f"Renewed {len(plans) + 1} certificates in {issuing.folder}.")


def revoke(
    token_id: Annotated[
        str | None, typer.Argument(metavar="[TOKEN_ID]", help="As `afsctl tokens --json` shows it.")
    ] = None,
    *,
    user: Annotated[
        str | None, typer.Option(help="Every token that this user was given until now.")
    ] = None,
    directory: DirOption = DEFAULT_CELL_DIR,
) -> None:
    """Have a token count no more, although it has not expired.

    Daemons that read the file of this directory go by it within seconds.
    """
    from afs.identity.revocations import revoke_token, revoke_user

    if (token_id is None) == (user is None):
        raise typer.BadParameter("expected either a TOKEN_ID or --user NAME")
    path = CellFiles(directory / IDENTITY_FOLDER).revocations
    if token_id is not None:
        revoke_token(path, token_id)
    else:
        # Tokens say in whole seconds when they were issued: one of this second is meant too.
        revoke_user(path, str(user), int(time.time()) + 1)
    print(f"Revoked in {path}.")
