"""`afsctl fs`: files and directories in volumes. Each group of subcommands is a file of its own."""

from __future__ import annotations

import typer

from afsctl.commands import (
    fs_acl,
    fs_cache,
    fs_copy,
    fs_files,
    fs_mounts,
    fs_unsent,
    fs_volume,
)

app = typer.Typer(
    help="Look at, copy and change files in volumes (/VOLUME/path).", no_args_is_help=True
)
fs_copy.add_to(app)
fs_files.add_to(app)
fs_volume.add_to(app)
fs_mounts.add_to(app)
fs_acl.add_to(app)
fs_cache.add_to(app)
app.add_typer(fs_unsent.app, name="unsent")
