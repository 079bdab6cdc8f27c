"""`afsctl fs`: what a path says of its volume."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from afs.v1 import file_server_pb2
from afsctl.addresses import (
    DEFAULT_CELL_DIR,
    CellDirOption,
    Door,
    FileServerOption,
    LocationOption,
    find_address,
)
from afsctl.output import Column, JsonOption, print_details, print_listing, show_kib
from afsctl.records import record_of, volume_type
from afsctl.run_async import run_async
from afsctl.volume_path import VolumePath, Volumes

PathArgument = Annotated[str, typer.Argument(metavar="/VOLUME/path")]


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command()(examine)
    app.command("listquota")(list_quota)
    app.command("setquota")(set_quota)
    app.command("whereis")(where_is)


def _show_quota(kib: int) -> str:
    return show_kib(kib) if kib else "none"


_COLUMNS = [
    Column("VOLUME", "volume", right=True),
    Column("NAME", "name", folds=True),
    Column("TYPE", "type", volume_type),
    Column("USED", "used_kib", show_kib, right=True),
    Column("QUOTA", "max_quota_kib", _show_quota, right=True),
    Column("FILES", "file_count", right=True),
    Column("FREE", "partition_free_kib", show_kib, right=True),
]
_DETAILS = [
    *_COLUMNS,
    Column("SIZE", "partition_size_kib", show_kib),
    Column("ONLINE", "online", lambda online: "yes" if online else "no"),
    Column("OFFLINE MESSAGE", "offline_message"),
]


def examine(
    path: PathArgument,
    *,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show the volume that a path leads to."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    record = run_async(_volume_status(VolumePath.parse(path), volumes))
    print_details(_DETAILS, record, as_json=as_json)


def list_quota(
    path: PathArgument,
    *,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show the quota of the volume that a path leads to, and what of it is used."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    record = run_async(_volume_status(VolumePath.parse(path), volumes))
    print_listing(_COLUMNS, [record], as_json=as_json, empty="")


def set_quota(
    path: PathArgument,
    kib: Annotated[int, typer.Argument(help="0: no limit.", min=0)],
    *,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Set the quota of the volume that a path leads to."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    record = run_async(_set_quota(VolumePath.parse(path), kib, volumes))
    print_listing(_COLUMNS, [record], as_json=as_json, empty="")


def where_is(
    path: PathArgument,
    *,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show which servers have the volume that a path leads to."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    records = run_async(_sites(VolumePath.parse(path), volumes))
    columns = [
        Column("VOLUME", "volume"),
        Column("TYPE", "type", volume_type),
        Column("FILESERVER", "file_server"),
        Column("VOLSERVER", "vol_server"),
        Column("PART", "partition"),
    ]
    print_listing(columns, records, as_json=as_json, empty="The VLDB knows no site of the volume.")


async def _volume_status(path: VolumePath, volumes: Volumes) -> dict[str, Any]:
    async with volumes:
        place = await volumes.find(path)
        request = file_server_pb2.GetVolumeStatusRequest(volume=place.fid.volume)
        answer = await place.volume.ask(lambda server: server.GetVolumeStatus(request))
        return record_of(answer.status)


async def _set_quota(path: VolumePath, kib: int, volumes: Volumes) -> dict[str, Any]:
    async with volumes:
        place = await volumes.find(path)
        request = file_server_pb2.SetVolumeStatusRequest(volume=place.fid.volume, max_quota_kib=kib)
        answer = await place.volume.ask(lambda server: server.SetVolumeStatus(request))
        return record_of(answer.status)


async def _sites(path: VolumePath, volumes: Volumes) -> list[dict[str, Any]]:
    async with volumes:
        place = await volumes.find(path)
        entry = await place.volume.entry()
        return [{"volume": entry.name, **record_of(site)} for site in entry.sites]
