"""`afsctl fs load` and `save`: trees of files into a volume and out again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

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
from afsctl.copy_report import CopyReport
from afsctl.failure import CommandError
from afsctl.local_tree import scan, set_status_of
from afsctl.output import JsonOption, error_line, print_json, show_bytes, show_duration
from afsctl.patience import patiently
from afsctl.progress import metered
from afsctl.run_async import run_async
from afsctl.tree_load import TreeLoad
from afsctl.tree_save import TreeSave
from afsctl.volume_path import Place, VolumePath, Volumes


def add_to(app: typer.Typer) -> None:
    """Adds the subcommands of this file."""
    app.command()(load)
    app.command()(save)


def load(
    source: Annotated[Path, typer.Argument(exists=True, help="A directory, or one file.")],
    destination: Annotated[str, typer.Argument(metavar="/VOLUME/path")],
    *,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Copy a tree into a volume.

    What is in SOURCE goes into the directory at the path, which is made if it is not there (its
    parent must be). Modes, owners, times and symbolic links are kept. Files that are there already
    are overwritten; nothing is removed.
    """
    path = VolumePath.parse(destination)
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    report = CopyReport()
    started_s = time.monotonic()
    run_async(_load(source, path, volumes, report, quiet=as_json))
    _conclude("Loaded", report, time.monotonic() - started_s, as_json=as_json)


def save(
    source: Annotated[str, typer.Argument(metavar="/VOLUME/path")],
    destination: Annotated[Path, typer.Argument(help="A directory, made if it is not there.")],
    *,
    as_json: JsonOption = False,
    file_server: FileServerOption = None,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Copy a tree out of a volume.

    What is in the directory at the path goes into DESTINATION; or the path names one file, and
    DESTINATION its copy. Modes, times and symbolic links are kept. Files that are there already are
    replaced; nothing is removed.
    """
    path = VolumePath.parse(source)
    volumes = Volumes(find_address(Door.LOCATION, location, cell), file_server)
    report = CopyReport()
    started_s = time.monotonic()
    run_async(_save(path, destination, volumes, report, quiet=as_json))
    _conclude("Saved", report, time.monotonic() - started_s, as_json=as_json)


async def _load(
    source: Path, path: VolumePath, volumes: Volumes, report: CopyReport, *, quiet: bool
) -> None:
    async with volumes:
        if not await asyncio.to_thread(source.is_dir):
            parent = await volumes.find_parent(path)
            with metered("loading", "files", quiet=quiet) as meter:
                await TreeLoad(parent.server, report, meter).load_file(
                    source, parent.fid, path.name
                )
            return
        with metered("loading", "files", quiet=quiet) as meter:
            tree = await asyncio.to_thread(scan, source, report.skipped)
            into = await _directory_for(path, volumes, source)
            await TreeLoad(into.server, report, meter).load_tree(tree, into.fid)


async def _directory_for(path: VolumePath, volumes: Volumes, source: Path) -> Place:
    """The directory at the path, made like `source` if only its parent is there."""
    try:
        return await volumes.find_directory(path)
    except CommandError:
        if not path.names:
            raise
    parent = await volumes.find_parent(path)
    request = file_server_pb2.MakeDirRequest(
        directory=parent.fid,
        name=path.name,
        set_status=set_status_of(await asyncio.to_thread(source.stat)),
    )
    answer = await patiently(lambda: parent.server.MakeDir(request))
    return Place(path, parent.server, answer.status)


async def _save(
    path: VolumePath, destination: Path, volumes: Volumes, report: CopyReport, *, quiet: bool
) -> None:
    async with volumes:
        place = await volumes.find(path)
        with metered("saving", "files", quiet=quiet) as meter:
            copy = TreeSave(place.server, report, meter)
            if place.is_directory:
                await copy.save_tree(place.fid, destination)
            else:
                in_directory = await asyncio.to_thread(destination.is_dir)
                target = destination / path.name if in_directory else destination
                await copy.save_file(place.fid, target)


def _conclude(verb: str, report: CopyReport, seconds: float, *, as_json: bool) -> None:
    """Prints what was done and what was not; exit status 1 if anything was skipped."""
    if as_json:
        print_json({**asdict(report), "seconds": round(seconds, 3)})
    else:
        rate = f"{report.entries / max(seconds, 1e-6):.0f} files/s"
        print(
            f"{verb} {report.files} files, {report.directories} directories,"
            f" {report.symlinks} links, {show_bytes(report.size_bytes)}"
            f" in {show_duration(seconds)} ({rate})."
        )
    for line in report.skipped:
        error_line(f"skipped {line}")
    if report.skipped:
        raise CommandError(f"{len(report.skipped)} could not be copied")
