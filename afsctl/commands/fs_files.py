"""`afsctl fs`: the small commands on files and directories that people expect."""

from __future__ import annotations

import stat
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from afs.limits import KIB
from afs.mount_points import may_be_mount_point
from afs.types import DirectoryEntry, VnodeType
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
from afsctl.output import (
    Column,
    JsonOption,
    print_details,
    print_json,
    print_listing,
    show_bytes,
    show_time,
)
from afsctl.records import record_of
from afsctl.run_async import run_async
from afsctl.volume_path import ROOT, Place, VolumePath, Volumes
from afsctl.volume_reader import FileReader, read_directory, read_statuses

PathArgument = Annotated[str, typer.Argument(metavar="/VOLUME/path")]

_TYPE_MODES = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
}


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command("ls")(list_directory)
    app.command("cat")(cat)
    app.command("stat")(show_status)
    app.command("getfid")(get_fid)
    app.command("mkdir")(make_directory)
    app.command("rm")(remove)
    app.command("mv")(rename)
    app.command("ln")(link)


def list_directory(
    path: Annotated[
        str, typer.Argument(metavar="/VOLUME/path", help="'/': root.cell, or else the volumes.")
    ],
    *,
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Also modes, sizes and times.")
    ] = False,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List a directory."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    records = run_async(_list(VolumePath.parse(path), volumes, with_status=long or as_json))
    if records is None:
        records = run_async(_names(Volumes(find_address(Door.LOCATION, location, cell))))
        columns = [Column("VOLUME", "name")]
        print_listing(columns, records, as_json=as_json, empty="There are no volumes.")
        return
    if as_json:
        print_json(records)
    elif long:
        print_listing(_LONG_COLUMNS, records, as_json=False, empty="The directory is empty.")
    else:
        for record in records:
            print(record["name"])


def cat(
    paths: Annotated[list[str], typer.Argument(metavar="/VOLUME/path…")],
    *,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Write the contents of files to standard output."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    run_async(_cat([VolumePath.parse(path) for path in paths], volumes))


def show_status(
    path: PathArgument,
    *,
    no_follow: Annotated[
        bool,
        typer.Option("--no-follow", help="Of a symbolic link itself, not of what it leads to."),
    ] = False,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show everything the fileserver knows of a file or directory."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    record = run_async(_status(VolumePath.parse(path), volumes, follow=not no_follow))
    print_details(_DETAIL_COLUMNS, record, as_json=as_json)


def get_fid(
    path: PathArgument,
    *,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show the Fid that a path leads to."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    record = run_async(_status(VolumePath.parse(path), volumes, follow=True))
    if as_json:
        print_json(record["fid"])
    else:
        print(_show_fid(record["fid"]))


def make_directory(
    path: PathArgument,
    *,
    mode: Annotated[str, typer.Option(help="Permission bits, octal.")] = "755",
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make a directory."""
    try:
        bits = int(mode, 8)
    except ValueError:
        raise typer.BadParameter(
            f"{mode!r}: expected an octal number", param_hint="--mode"
        ) from None
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)

    async def run() -> None:
        async with _parent(path, volumes) as (parent, name):
            request = file_server_pb2.MakeDirRequest(
                directory=parent.fid, name=name, set_status=types_pb2.SetStatus(mode=bits)
            )
            await parent.volume.ask(lambda server: server.MakeDir(request))

    run_async(run())


def remove(
    path: PathArgument,
    *,
    recursive: Annotated[
        bool, typer.Option("--recursive", "-r", help="Also a directory with all that is in it.")
    ] = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Remove a file, a symbolic link or a directory."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)

    async def run() -> None:
        async with _parent(path, volumes) as (parent, name):
            lookup = file_server_pb2.LookupRequest(directory=parent.fid, name=name)
            status = (await parent.volume.ask(lambda server: server.Lookup(lookup))).status
            await _remove(
                Place(parent.path.child(name), parent.volume, status),
                parent.fid,
                recursive=recursive,
            )

    run_async(run())


def rename(
    old: Annotated[str, typer.Argument(metavar="/VOLUME/old")],
    new: Annotated[str, typer.Argument(metavar="/VOLUME/new")],
    *,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Give a file or directory another name in the same volume, replacing what has it."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)

    async def run() -> None:
        async with volumes:
            old_path, new_path = VolumePath.parse(old), VolumePath.parse(new)
            old_parent = await volumes.find_parent(old_path)
            new_parent = await volumes.find_parent(new_path)
            if old_parent.fid.volume != new_parent.fid.volume:
                raise CommandError(f"{old_path} and {new_path} are in different volumes")
            request = file_server_pb2.RenameRequest(
                old_directory=old_parent.fid,
                old_name=old_path.name,
                new_directory=new_parent.fid,
                new_name=new_path.name,
            )
            await old_parent.volume.ask(lambda server: server.Rename(request))

    run_async(run())


def link(
    target: Annotated[str, typer.Argument(help="What the link says: relative, or /VOLUME/….")],
    path: PathArgument,
    *,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Make a symbolic link."""
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)

    async def run() -> None:
        async with _parent(path, volumes) as (parent, name):
            request = file_server_pb2.SymlinkRequest(directory=parent.fid, name=name, target=target)
            await parent.volume.ask(lambda server: server.Symlink(request))

    run_async(run())


@asynccontextmanager
async def _parent(path: str, volumes: Volumes) -> AsyncIterator[tuple[Place, str]]:
    """The directory that a path's last name is or would be in, and that name."""
    async with volumes:
        parsed = VolumePath.parse(path)
        yield await volumes.find_parent(parsed), parsed.name


async def _names(volumes: Volumes) -> list[dict[str, Any]]:
    async with volumes:
        return [{"name": name} for name in await volumes.names()]


async def _list(
    path: VolumePath, volumes: Volumes, *, with_status: bool
) -> list[dict[str, Any]] | None:
    """The entries of a directory; None for the root of a cell that has no root volume."""
    async with volumes:
        if path == ROOT and await volumes.root() is None:
            return None
        place = await volumes.find(path)
        if not place.is_directory:
            return [{"name": path.name, **_record(place.status)}]
        listing = await read_directory(place.volume, place.fid)
        if not with_status:
            links = [entry for entry in listing.entries if entry.type is VnodeType.SYMLINK]
            modes = {
                entry.name: status.mode
                for entry, status in zip(
                    links, await read_statuses(place.volume, links), strict=True
                )
                if status is not None
            }
            return [{"name": _display(entry, modes.get(entry.name))} for entry in listing.entries]
        statuses = await read_statuses(place.volume, listing.entries)
        return [
            {"name": entry.name, **_record(status)}
            for entry, status in zip(listing.entries, statuses, strict=True)
            if status is not None
        ]


async def _cat(paths: list[VolumePath], volumes: Volumes) -> None:
    async with volumes:
        for path in paths:
            place = await volumes.find(path)
            if place.is_directory:
                raise CommandError(f"{path} is a directory")
            reader = FileReader(place.volume, place.fid)
            await reader.open()
            async for piece in reader.pieces():
                sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()


async def _status(path: VolumePath, volumes: Volumes, *, follow: bool) -> dict[str, Any]:
    async with volumes:
        place = await volumes.find(path, follow=follow)
        record = _record(place.status)
        if place.status.type == types_pb2.VNODE_TYPE_SYMLINK:
            record["target"] = await volumes.target(place)
        return {"path": str(path), **record}


async def _remove(place: Place, parent: types_pb2.Fid, *, recursive: bool) -> None:
    """Removes what is at a place, children first."""
    name = place.path.name
    if not place.is_directory:
        file = file_server_pb2.RemoveFileRequest(directory=parent, name=name)
        await place.volume.ask(lambda server: server.RemoveFile(file))
        return
    if recursive:
        listing = await read_directory(place.volume, place.fid)
        statuses = await read_statuses(place.volume, listing.entries)
        for entry, status in zip(listing.entries, statuses, strict=True):
            if status is not None:
                child = Place(place.path.child(entry.name), place.volume, status)
                await _remove(child, place.fid, recursive=True)
    directory = file_server_pb2.RemoveDirRequest(directory=parent, name=name)
    await place.volume.ask(lambda server: server.RemoveDir(directory))


def _record(status: types_pb2.FileStatus) -> dict[str, Any]:
    record = record_of(status)
    record["type_and_mode"] = stat.filemode(_TYPE_MODES.get(record["type"], 0) | status.mode)
    return record


def _display(entry: DirectoryEntry, link_mode: int | None) -> str:
    """A name as `ls -F` shows it: a directory's and a mount point's with `/`, a link's with `@`."""
    if link_mode is not None and may_be_mount_point(link_mode):
        return entry.name + "/"
    return entry.name + {VnodeType.DIRECTORY: "/", VnodeType.SYMLINK: "@"}.get(entry.type, "")


def _show_length(length: int) -> str:
    return f"{length} ({show_bytes(length)})" if length >= KIB else str(length)


def _show_fid(fid: dict[str, Any]) -> str:
    return f"{fid['volume']}.{fid['vnode']}.{fid['uniquifier']}"


_LONG_COLUMNS = [
    Column("MODE", "type_and_mode"),
    Column("LINKS", "link_count", right=True),
    Column("OWNER", "owner", right=True),
    Column("SIZE", "length", right=True),
    Column("MODIFIED", "client_mtime_ns", show_time),
    Column("NAME", "name", folds=True),
]
_DETAIL_COLUMNS = [
    Column("Path", "path"),
    Column("Target", "target"),
    Column("Fid", "fid", _show_fid),
    Column("Mode", "type_and_mode"),
    Column("Owner", "owner"),
    Column("Group", "group"),
    Column("Links", "link_count"),
    Column("Length", "length", _show_length),
    Column("Data version", "data_version"),
    Column("Modified", "client_mtime_ns", show_time),
    Column("Changed", "server_mtime_ns", show_time),
    Column("In", "parent", _show_fid),
]
