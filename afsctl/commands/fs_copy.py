"""`afsctl fs load` and `save`: trees of files into a volume and out again."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from afsctl import tree_copy
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
from afsctl.output import JsonOption, error_line, print_json, show_bytes, show_duration
from afsctl.progress import metered
from afsctl.run_async import run_async
from afsctl.volume_path import VolumePath, Volumes


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
    started_s = time.monotonic()

    async def run() -> CopyReport:
        async with volumes:
            with metered("loading", "files", quiet=as_json) as meter:
                return await tree_copy.load(source, path, volumes, meter)

    report = run_async(run())
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
    started_s = time.monotonic()

    async def run() -> CopyReport:
        async with volumes:
            with metered("saving", "files", quiet=as_json) as meter:
                return await tree_copy.save(path, destination, volumes, meter)

    report = run_async(run())
    _conclude("Saved", report, time.monotonic() - started_s, as_json=as_json)


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
        if report.mount_points:
            print(f"Left out {report.mount_points} mount points of other volumes.")
    for line in report.skipped:
        error_line(f"skipped {line}")
    if report.skipped:
        raise CommandError(f"{len(report.skipped)} could not be copied")
