"""`afsctl fs`: files and directories in volumes. Each group of subcommands is a file of its own."""

from __future__ import annotations

import typer

from afsctl.commands import fs_cache, fs_copy, fs_files, fs_mounts, fs_unsent, fs_volume
from afsctl.failure import CommandError

app = typer.Typer(
    help="Look at, copy and change files in volumes (/VOLUME/path).", no_args_is_help=True
)
fs_copy.add_to(app)
fs_files.add_to(app)
fs_volume.add_to(app)
fs_mounts.add_to(app)
fs_cache.add_to(app)
app.add_typer(fs_unsent.app, name="unsent")


def _add_not_yet(name: str, summary: str) -> None:
    """Adds a subcommand that says that it does not exist yet, instead of being unknown."""

    @app.command(
        name,
        help=f"{summary} (not yet)",
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def subcommand(_context: typer.Context) -> None:
        raise CommandError(f"fs {name}: not yet: this version cannot do it")


_add_not_yet("listacl", "Show an access control list.")
_add_not_yet("setacl", "Change an access control list.")
