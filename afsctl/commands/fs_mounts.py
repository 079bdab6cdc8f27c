"""`afsctl fs`: mount points, by which volumes hang in directories of others."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from afs.mount_points import MOUNT_POINT_MODE, MountPoint
from afs.v1 import file_server_pb2, types_pb2
from afsctl.addresses import (
    DEFAULT_CELL_DIR,
    CellDirOption,
    Door,
    FileServerOption,
    LocationOption,
    find_address,
)
from afsctl.failure import CommandError
from afsctl.output import JsonOption, print_json
from afsctl.run_async import run_async
from afsctl.volume_path import Place, VolumePath, Volumes

PathArgument = Annotated[str, typer.Argument(metavar="/VOLUME/path")]


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command("mkmount")(make_mount)
    app.command("rmmount")(remove_mount)
    app.command("lsmount")(list_mount)


def make_mount(
    path: PathArgument,
    volume: Annotated[str, typer.Argument(help="Name (also NAME.readonly, NAME.backup) or id.")],
    *,
    read_write: Annotated[
        bool,
        typer.Option(
            "--rw", help="Leads to the read-write volume, even from within a read-only one."
        ),
    ] = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Also for a volume that does not exist (yet).")
    ] = False,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make a mount point: a name in a directory by which a volume is reached."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    mount = MountPoint(volume, read_write=read_write)
    parsed = VolumePath.parse(path)

    async def run() -> None:
        async with volumes:
            if not unchecked:
                await volumes.entry(volume)
            parent = await volumes.find_parent(parsed)
            request = file_server_pb2.SymlinkRequest(
                directory=parent.fid,
                name=parsed.name,
                target=mount.target,
                set_status=types_pb2.SetStatus(mode=MOUNT_POINT_MODE),
            )
            await parent.volume.ask(lambda server: server.Symlink(request))

    run_async(run())
    _print_mount(parsed, mount, as_json=as_json)


def remove_mount(
    path: PathArgument,
    *,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Remove a mount point; the volume stays as it is."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    parsed = VolumePath.parse(path)

    async def run() -> MountPoint:
        async with volumes:
            place, mount = await _find(parsed, volumes)
            request = file_server_pb2.RemoveFileRequest(
                directory=place.status.parent, name=parsed.name
            )
            await place.volume.ask(lambda server: server.RemoveFile(request))
            return mount

    mount = run_async(run())
    if as_json:
        print_json(_record(parsed, mount))
    else:
        print(f"Removed the mount point {parsed} of volume {mount.volume}.")


def list_mount(
    path: PathArgument,
    *,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show what volume a mount point is for."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    parsed = VolumePath.parse(path)

    async def run() -> MountPoint:
        async with volumes:
            return (await _find(parsed, volumes))[1]

    _print_mount(parsed, run_async(run()), as_json=as_json)


async def _find(path: VolumePath, volumes: Volumes) -> tuple[Place, MountPoint]:
    """The mount point at a path, and what it says. CommandError if something else is there."""
    place = await volumes.find(path, follow=False)
    mount = await volumes.mount_point(place)
    if mount is None:
        raise CommandError(f"{path} is not a mount point")
    return place, mount


def _print_mount(path: VolumePath, mount: MountPoint, *, as_json: bool) -> None:
    if as_json:
        print_json(_record(path, mount))
        return
    kind = "read-write mount point" if mount.read_write else "mount point"
    print(f"{path} is a {kind} for volume {mount.volume}.")


def _record(path: VolumePath, mount: MountPoint) -> dict[str, Any]:
    return {
        "path": str(path),
        "volume": mount.volume,
        "read_write": mount.read_write,
        "target": mount.target,
    }
