"""`afsctl login`, `logout`, `tokens`: who you are to the cell."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from afs.identity.cell_files import IDENTITY_FOLDER, CellFiles
from afs.limits import TOKEN_LIFETIME_S
from afsctl.addresses import DEFAULT_CELL_DIR, CellDirOption
from afsctl.failure import CommandError
from afsctl.output import Column, JsonOption, print_listing, show_time
from afsctl.token_store import TokenStore, token_path


def add_to(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("login")(login)
    app.command("logout")(logout)
    app.command("tokens")(tokens)


def login(
    name: Annotated[
        str | None, typer.Argument(help="Who you are; needs the cell's signing key.")
    ] = None,
    *,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="FILE",
            help="A file with a token that somebody issued to you; '-': standard input.",
        ),
    ] = None,
    lifetime_s: Annotated[
        float, typer.Option(help="How long the token is to be good for.")
    ] = TOKEN_LIFETIME_S,
    cell_name: Annotated[
        str | None,
        typer.Option("--cell-name", help="Which cell the token is for (default: its audience)."),
    ] = None,
    print_token: Annotated[
        bool, typer.Option("--print", help="Print the token instead of keeping it.")
    ] = False,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Take a token, which the commands after this one show.

    Who can read the cell's signing key, an operator, issues one to anybody by name; everybody else
    brings one that was issued to them.
    """
    if (name is None) == (token is None):
        raise typer.BadParameter("expected either a NAME or --token FILE")
    made = _issue(name, lifetime_s, cell) if name is not None else _read(str(token))
    if print_token:
        print(made)
        return
    claims = _claims(made)
    store = TokenStore.load(token_path())
    store.current = cell_name or str(claims.get("aud", ""))
    store.tokens[store.current] = made
    store.save()
    _print(store, as_json=False)


def logout(
    *,
    everywhere: Annotated[bool, typer.Option("--all", help="Of all cells.")] = False,
    cell_name: Annotated[
        str | None, typer.Option("--cell-name", help="Of this cell (default: the current one).")
    ] = None,
) -> None:
    """Throw tokens away."""
    path = token_path()
    if everywhere:
        path.unlink(missing_ok=True)
        return
    store = TokenStore.load(path)
    if store.tokens.pop(cell_name or store.current, None) is None:
        raise CommandError("you have no such token")
    store.current = next(iter(store.tokens), "")
    store.save()


def tokens(*, as_json: JsonOption = False) -> None:
    """List your tokens: for which cell, whom they name, and until when."""
    _print(TokenStore.load(token_path()), as_json=as_json)


def _issue(name: str, lifetime_s: float, cell: Path) -> str:
    from afs.access.names import check_user_name
    from afs.identity.keys import load_signing_key
    from afs.identity.tokens import issue_token

    files = CellFiles(cell / IDENTITY_FOLDER)
    return issue_token(
        load_signing_key(files.signing_key),
        cell=files.read_name(),
        name=check_user_name(name),
        now_s=time.time(),
        lifetime_s=lifetime_s,
    )


def _read(file: str) -> str:
    text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="ascii")
    return text.strip()


def _claims(token: str) -> dict[str, Any]:
    from afs.identity.tokens import unverified_claims

    return unverified_claims(token)


def _print(store: TokenStore, *, as_json: bool) -> None:
    records = []
    for cell, token in sorted(store.tokens.items()):
        claims = _claims(token)
        expires_s = int(claims.get("exp", 0))
        records.append(
            {
                "cell": cell,
                "name": str(claims.get("sub", "")),
                "issuer": str(claims.get("iss", "")),
                "token_id": str(claims.get("jti", "")),
                "expires_ns": expires_s * 10**9,
                "state": "expired" if expires_s < time.time() else "good",
                "current": cell == store.current,
            }
        )
    columns = [
        Column("CELL", "cell"),
        Column("NAME", "name"),
        Column("ISSUER", "issuer", folds=True),
        Column("EXPIRES", "expires_ns", show_time),
        Column("STATE", "state"),
    ]
    print_listing(columns, records, as_json=as_json, empty="You have no tokens.")
