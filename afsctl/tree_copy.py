"""Copies trees between this machine and a volume's path: what `afsctl fs load` and `save` do."""

from __future__ import annotations

import asyncio
from pathlib import Path

from afs.v1 import file_server_pb2
from afsctl.copy_report import CopyReport
from afsctl.local_tree import scan, set_status_of
from afsctl.progress import Meter
from afsctl.tree_load import TreeLoad
from afsctl.tree_save import TreeSave
from afsctl.volume_path import NoEntryError, Place, VolumePath, Volumes


async def load(source: Path, path: VolumePath, volumes: Volumes, meter: Meter) -> CopyReport:
    """Copies what is in a local directory into the directory at a path, or one file to a path.

    Args:
        source: the local directory or file.
        path: a directory, made if only its parent is there; for a file its new name.
        volumes: where to find the volume.
        meter: is told how many files of how many are done.

    Returns:
        What was copied; entries that could not be are its `skipped`.

    Raises:
        CommandError: the path leads nowhere.
        grpc.RpcError, OSError: a failure that concerns more than one entry.
    """
    report = CopyReport()
    if not await asyncio.to_thread(source.is_dir):
        parent = await volumes.find_parent(path)
        # Links within a tree are copied as links, but who names one means what it points to.
        file = await asyncio.to_thread(source.resolve)
        await TreeLoad(parent.volume, report, meter).load_file(file, parent.fid, path.name)
        return report
    tree = await asyncio.to_thread(scan, source, report.skipped)
    into = await _directory_for(path, volumes, source)
    await TreeLoad(into.volume, report, meter).load_tree(tree, into.fid)
    return report


async def save(path: VolumePath, destination: Path, volumes: Volumes, meter: Meter) -> CopyReport:
    """Copies what is in the directory at a path into a local directory, or one file.

    Args:
        path: a directory or file.
        destination: a directory, made if need be; for a file its new name, or a directory for it.
        volumes: where to find the volume.
        meter: is told how many files of how many are done.

    Returns:
        What was copied; entries that could not be are its `skipped`.

    Raises:
        CommandError: the path leads nowhere.
        grpc.RpcError, OSError: a failure that concerns more than one entry.
    """
    report = CopyReport()
    place = await volumes.find(path)
    copy = TreeSave(place.volume, report, meter)
    if place.is_directory:
        await copy.save_tree(place.fid, destination)
    else:
        in_directory = await asyncio.to_thread(destination.is_dir)
        await copy.save_file(place.fid, destination / path.name if in_directory else destination)
    return report


async def _directory_for(path: VolumePath, volumes: Volumes, source: Path) -> Place:
    """The directory at the path, made like `source` if only its parent is there."""
    try:
        return await volumes.find_directory(path)
    except NoEntryError:
        pass
    parent = await volumes.find_parent(path)
    request = file_server_pb2.MakeDirRequest(
        directory=parent.fid,
        name=path.name,
        set_status=set_status_of(await asyncio.to_thread(source.stat)),
    )
    answer = await parent.volume.ask(lambda server: server.MakeDir(request), patient=True)
    return Place(path, parent.volume, answer.status)
