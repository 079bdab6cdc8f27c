"""`afsctl vos`: what there is, on disks and in the location database."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from afs.v1 import vol_server_pb2
from afsctl.addresses import DEFAULT_CELL_DIR, CellDirOption, LocationOption, VolServerOption
from afsctl.commands.vos_display import VOLUME_COLUMNS, VOLUME_DETAILS, print_entries
from afsctl.commands.vos_dumps import examine_dump
from afsctl.commands.vos_survey import survey
from afsctl.output import Column, JsonOption, print_details, print_json, print_listing, show_kib
from afsctl.records import record_of
from afsctl.vol_servers import ServerAddresses, VolServers


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command()(examine)
    app.command("listvol")(list_volumes)
    app.command("listvldb")(list_locations)
    app.command("partinfo")(list_partitions)


def examine(
    volume: Annotated[
        str | None,
        typer.Argument(help="Name (also NAME.readonly or NAME.backup) or id of a volume."),
    ] = None,
    *,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="DUMP", help="A dump file instead; '-': standard input."),
    ] = None,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show everything about a volume and where the VLDB says that it is; or about a dump file."""
    if (volume is None) == (file is None):
        raise typer.BadParameter("expected a volume or --file, one of them", param_hint="examine")
    if file is not None:
        examine_dump(file, as_json=as_json)
        return
    assert volume is not None
    with VolServers(vol_server, location, cell) as servers:
        answer = servers.of(volume).Examine(vol_server_pb2.ExamineRequest(volume=volume))
    if as_json:
        print_json(record_of(answer))
        return
    print_details(VOLUME_DETAILS, record_of(answer.volume), as_json=False)
    if answer.entry.sites:
        print()
        print_entries([answer.entry], as_json=False)


def list_volumes(
    *,
    partition: Annotated[str, typer.Option(help="Only partitions of this name.")] = "",
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List the volumes on the servers' partitions."""
    with VolServers(vol_server, location, cell) as servers:

        def volumes(server: ServerAddresses) -> list[dict[str, Any]]:
            request = vol_server_pb2.ListVolumesRequest(partition=partition)
            answer = servers.at(server.vol_server).ListVolumes(request)
            return [record_of(volume) for volume in answer.volumes]

        found = survey(servers, volumes)
    columns = [*found.server_columns, *VOLUME_COLUMNS]
    print_listing(columns, found.records, as_json=as_json, empty="There are no volumes.")
    found.conclude()


def list_locations(
    *,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List the entries of the volume location database."""
    with VolServers(None, location, cell) as servers:
        entries = list(servers.entries())
    print_entries(entries, as_json=as_json)


def list_partitions(
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List the servers' partitions and the room on them."""
    with VolServers(vol_server, location, cell) as servers:

        def partitions(server: ServerAddresses) -> list[dict[str, Any]]:
            request = vol_server_pb2.ListPartitionsRequest()
            answer = servers.at(server.vol_server).ListPartitions(request)
            return [record_of(partition) for partition in answer.partitions]

        found = survey(servers, partitions)
    columns = [
        *found.server_columns,
        Column("PARTITION", "name"),
        Column("FREE", "free_kib", show_kib, right=True),
        Column("SIZE", "size_kib", show_kib, right=True),
        Column("VOLUMES", "volume_count", right=True),
        Column("PATH", "path", folds=True),
    ]
    print_listing(columns, found.records, as_json=as_json, empty="There are no partitions.")
    found.conclude()
