"""`afsctl vos`: whole volumes. Each group of subcommands is a file of its own."""

from __future__ import annotations

import typer

from afsctl.commands import (
    vos_care,
    vos_copies,
    vos_dumps,
    vos_listing,
    vos_sites,
    vos_transactions,
    vos_volumes,
)

app = typer.Typer(
    help="Create, move, release, dump, restore and look at whole volumes.", no_args_is_help=True
)
vos_volumes.add_to(app)
vos_copies.add_to(app)
vos_sites.add_to(app)
vos_dumps.add_to(app)
vos_listing.add_to(app)
vos_transactions.add_to(app)
vos_care.add_to(app)
