"""`afsctl vos`: one volume, from its creation to its removal."""

from __future__ import annotations

from typing import Annotated

import typer

from afs.v1 import vol_server_pb2
from afsctl.addresses import DEFAULT_CELL_DIR, CellDirOption, LocationOption, VolServerOption
from afsctl.commands.vos_display import print_done, print_plan, print_volume
from afsctl.commands.vos_options import (
    SERVER_HELP,
    DryRunOption,
    NewNameArgument,
    VolumeArgument,
)
from afsctl.output import JsonOption
from afsctl.records import record_of
from afsctl.vol_servers import VolServers, roomiest_partition


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command()(create)
    app.command()(remove)
    app.command()(rename)
    app.command()(offline)
    app.command()(online)
    app.command("setfields")(set_fields)


def create(
    name: NewNameArgument,
    *,
    server: Annotated[
        str | None, typer.Option("--server", metavar="SERVER", help=SERVER_HELP)
    ] = None,
    partition: Annotated[
        str | None, typer.Option(help="Such as vicepa; default: the one with most room.")
    ] = None,
    quota_kib: Annotated[int, typer.Option(help="0: no limit.", min=0)] = 0,
    volume_id: Annotated[
        int, typer.Option("--id", help="0: chosen by the VLDB.", min=0, max=2**32 - 1)
    ] = 0,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Create a volume."""
    with VolServers(vol_server, location, cell) as servers:
        stub = servers.at(servers.named(server) if server else servers.default())
        answer = stub.Create(
            vol_server_pb2.CreateRequest(
                name=name,
                partition=partition or roomiest_partition(stub),
                max_quota_kib=quota_kib,
                volume_id=volume_id,
            )
        )
    print_volume(answer.volume, as_json=as_json)


def remove(
    volume: VolumeArgument,
    *,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Remove a volume and all that is in it."""
    with VolServers(vol_server, location, cell) as servers:
        request = vol_server_pb2.DeleteRequest(volume=volume, dry_run=dry_run)
        answer = servers.of(volume).Delete(request)
    if dry_run:
        print_plan(answer.plan, as_json=as_json)
        return
    record = {"volume_id": answer.volume_id}
    print_done(f"Removed volume {answer.volume_id}.", record, as_json=as_json)


def rename(
    volume: VolumeArgument,
    new_name: Annotated[str, typer.Argument(help="What it is to be called.")],
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Give a volume another name, with its read-only and backup volumes."""
    with VolServers(vol_server, location, cell) as servers:
        request = vol_server_pb2.RenameVolumeRequest(volume=volume, new_name=new_name)
        answer = servers.of(volume).RenameVolume(request)
    text = f"Volume {answer.entry.read_write_id} is now called {answer.entry.name}."
    print_done(text, record_of(answer.entry), as_json=as_json)


def offline(
    volume: VolumeArgument,
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Take a volume off-line."""
    with VolServers(vol_server, location, cell) as servers:
        answer = servers.of(volume).Offline(vol_server_pb2.OfflineRequest(volume=volume))
    print_volume(answer.volume, as_json=as_json)


def online(
    volume: VolumeArgument,
    *,
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Put a volume on-line again."""
    with VolServers(vol_server, location, cell) as servers:
        answer = servers.of(volume).Online(vol_server_pb2.OnlineRequest(volume=volume))
    print_volume(answer.volume, as_json=as_json, give_back_s=answer.give_back_s)


def set_fields(
    volume: VolumeArgument,
    *,
    quota_kib: Annotated[int, typer.Option(help="0: no limit.", min=0)],
    as_json: JsonOption = False,
    vol_server: VolServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Change what a volume says of itself: its quota."""
    with VolServers(vol_server, location, cell) as servers:
        request = vol_server_pb2.SetFieldsRequest(volume=volume, max_quota_kib=quota_kib)
        answer = servers.of(volume).SetFields(request)
    print_volume(answer.volume, as_json=as_json)
