"""`afsctl vos`: a volume's contents once more, or somewhere else."""

from __future__ import annotations

from typing import Annotated

import typer

from afs.v1 import vol_server_pb2
from afsctl.addresses import DEFAULT_CELL_DIR, CellDirOption, LocationOption, VolServerOption
from afsctl.commands.vos_display import follow, last_of, print_plan, print_volume
from afsctl.commands.vos_options import (
    SERVER_HELP,
    DryRunOption,
    NewNameArgument,
    VolumeArgument,
)
from afsctl.output import JsonOption
from afsctl.progress import metered
from afsctl.vol_servers import VolServers, roomiest_partition

ToServerOption = Annotated[
    str | None,
    typer.Option(
        "--to-server",
        "--server",
        metavar="SERVER",
        help=f"{SERVER_HELP} Default: the one that has it.",
    ),
]
ToPartitionOption = Annotated[
    str | None,
    typer.Option(
        "--to-partition", "--partition", help="Such as vicepb; default: the one with most room."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command()(move)
    app.command()(copy)
    app.command()(clone)
    app.command()(backup)


def move(
    volume: VolumeArgument,
    *,
    to_server: ToServerOption = None,
    to_partition: ToPartitionOption = None,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Move a volume to another server or partition, while it is read and written."""
    if to_server is None and to_partition is None:
        raise typer.BadParameter("expected --to-server or --to-partition", param_hint="move")
    with (
        VolServers(vol_server, location, cell) as servers,
        metered("moving", "steps", quiet=as_json) as meter,
    ):
        source = servers.address_of(volume)
        target = servers.named(to_server) if to_server else source
        # A volume that stays on its server goes to another partition than it is on.
        besides = "" if to_partition or target != source else _partition_of(servers, volume)
        request = vol_server_pb2.MoveRequest(
            volume=volume,
            to_server=target,
            to_partition=to_partition or roomiest_partition(servers.at(target), besides=besides),
            dry_run=dry_run,
        )
        answer = last_of(follow(servers.at(source).Move(request), meter), "move")
    if dry_run:
        print_plan(answer.plan, as_json=as_json)
    else:
        print_volume(answer.volume, as_json=as_json, sent=answer.sent)


def copy(
    volume: VolumeArgument,
    new_name: NewNameArgument,
    *,
    to_server: ToServerOption = None,
    to_partition: ToPartitionOption = None,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make a new volume with a volume's contents as of now, on any server or partition."""
    with (
        VolServers(vol_server, location, cell) as servers,
        metered("copying", "steps", quiet=as_json) as meter,
    ):
        source = servers.address_of(volume)
        target = servers.named(to_server) if to_server else source
        request = vol_server_pb2.CopyRequest(
            volume=volume,
            new_name=new_name,
            to_server=target,
            to_partition=to_partition or roomiest_partition(servers.at(target)),
        )
        answer = last_of(follow(servers.at(source).Copy(request), meter), "copy")
    print_volume(answer.volume, as_json=as_json, sent=answer.sent)


def clone(
    volume: VolumeArgument,
    new_name: NewNameArgument,
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make a new volume with a volume's contents as of now, beside it; no data is copied."""
    with (
        VolServers(vol_server, location, cell) as servers,
        metered("cloning", "steps", quiet=as_json) as meter,
    ):
        request = vol_server_pb2.CloneRequest(volume=volume, new_name=new_name)
        answer = last_of(follow(servers.of(volume).Clone(request), meter), "clone")
    print_volume(answer.volume, as_json=as_json)


def backup(
    volume: VolumeArgument,
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make or renew a volume's backup volume, NAME.backup: its contents as of now."""
    with (
        VolServers(vol_server, location, cell) as servers,
        metered("backing up", "steps", quiet=as_json) as meter,
    ):
        request = vol_server_pb2.BackupRequest(volume=volume)
        answer = last_of(follow(servers.of(volume).Backup(request), meter), "backup")
    print_volume(answer.volume, as_json=as_json)


def _partition_of(servers: VolServers, volume: str) -> str:
    request = vol_server_pb2.ExamineRequest(volume=volume)
    return servers.of(volume).Examine(request).volume.partition
