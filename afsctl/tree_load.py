"""Copies a local tree into a volume, many files at a time, straight to its FileServer.

Directories are made first, then files and links are stored (IN_FLIGHT at a time, each file all or
nothing), and last the directories get their times, which every new entry would have changed. What
is there already is overwritten, file by file; what is there besides stays. The volume may move
meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from afs.errors import AfsCode
from afs.v1 import file_server_pb2, types_pb2
from afsctl.copy_report import CopyReport, for_each, skipping
from afsctl.failure import abort_code
from afsctl.local_tree import LocalDirectory, LocalEntry, LocalFile, set_status_of
from afsctl.progress import Meter
from afsctl.volume_access import Server, VolumeAccess

_SET_ID_BITS: Final = stat.S_ISUID | stat.S_ISGID


@dataclass(frozen=True, slots=True)
class _Made:
    """A local directory and the Fid of its copy."""

    local: LocalDirectory
    fid: types_pb2.Fid


class TreeLoad:
    """One copy of a tree into a volume.

    Args:
        volume: the way to the volume.
        report: counts and skipped entries go here.
        meter: is told how many files of how many are done.
    """

    def __init__(self, volume: VolumeAccess, report: CopyReport, meter: Meter) -> None:
        self._volume = volume
        self._report = report
        self._meter = meter
        self._total = 0

    async def load_tree(self, tree: LocalDirectory, into: types_pb2.Fid) -> None:
        """Copies what is in the local directory into the volume's directory.

        Raises:
            grpc.RpcError: a failure that concerns more than one entry, such as a full disk.
        """
        self._total = sum(len(each.files) + len(each.symlinks) for each in tree.walk())
        made = await self._make_directories(_Made(tree, into))
        files = ((directory.fid, entry) for directory in made for entry in directory.local.files)
        links = ((directory.fid, entry) for directory in made for entry in directory.local.symlinks)
        await for_each(files, self._load_file)
        await for_each(links, self._load_symlink)
        await for_each(made, self._set_directory_status)

    async def load_file(self, path: Path, directory: types_pb2.Fid, name: str) -> None:
        """Copies one file into the volume's directory, under `name`."""
        self._total = 1
        await self._load_file((directory, LocalEntry(path, name, 0)))

    async def _make_directories(self, root: _Made) -> list[_Made]:
        """The copies of all directories that could be made, parents first."""
        made = [root]
        level = [root]
        while level:
            # A level's directories are made at once; the next level needs their Fids.
            level = await self._make_level(level)
            made += level
        return made

    async def _make_level(self, parents: list[_Made]) -> list[_Made]:
        made: list[_Made] = []
        wanted = [(parent.fid, child) for parent in parents for child in parent.local.directories]
        await for_each(wanted, lambda item: self._make_directory(*item, made))
        return made

    async def _make_directory(
        self, parent: types_pb2.Fid, local: LocalDirectory, made: list[_Made]
    ) -> None:
        async with skipping(self._report, local.path):
            request = file_server_pb2.MakeDirRequest(
                directory=parent, name=local.name, set_status=set_status_of(local.status)
            )
            try:
                answer = await self._volume.ask(
                    lambda server: server.MakeDir(request), patient=True
                )
                status = answer.status
            except grpc.aio.AioRpcError as error:
                if abort_code(error) != AfsCode.EEXIST:
                    raise
                status = await self._volume.ask(
                    lambda server: _lookup(server, parent, local.name), patient=True
                )
                if status.type != types_pb2.VNODE_TYPE_DIRECTORY:
                    raise ValueError("something else has this name in the volume") from None
            self._report.directories += 1
            made.append(_Made(local, status.fid))

    async def _load_file(self, item: tuple[types_pb2.Fid, LocalEntry]) -> None:
        directory, entry = item
        async with skipping(self._report, entry.path):
            file = await asyncio.to_thread(LocalFile, entry.path)
            try:
                size_bytes = await self._volume.ask(
                    lambda server: _store(server, directory, entry.name, file), patient=True
                )
            finally:
                file.close()
            self._report.files += 1
            self._report.size_bytes += size_bytes
        self._show()

    async def _load_symlink(self, item: tuple[types_pb2.Fid, LocalEntry]) -> None:
        directory, entry = item
        async with skipping(self._report, entry.path):
            target, status = await asyncio.to_thread(
                lambda: (os.readlink(entry.path), os.lstat(entry.path))
            )
            request = file_server_pb2.SymlinkRequest(
                directory=directory,
                name=entry.name,
                target=target,
                set_status=set_status_of(status),
            )
            await self._volume.ask(lambda server: _link(server, request), patient=True)
            self._report.symlinks += 1
        self._show()

    async def _set_directory_status(self, made: _Made) -> None:
        async with skipping(self._report, made.local.path):
            request = file_server_pb2.StoreStatusRequest(
                fid=made.fid, set_status=set_status_of(made.local.status)
            )
            try:
                await self._volume.ask(lambda server: server.StoreStatus(request), patient=True)
            except grpc.aio.AioRpcError as error:
                if abort_code(error) != AfsCode.EPERM:
                    raise
                # Only an administrator makes a directory somebody else's; the rest is kept.
                request.set_status.ClearField("owner")
                request.set_status.mode &= ~_SET_ID_BITS
                await self._volume.ask(lambda server: server.StoreStatus(request), patient=True)

    def _show(self) -> None:
        self._meter.update(
            done=self._report.entries, total=self._total, size_bytes=self._report.size_bytes
        )


async def _store(server: Server, directory: types_pb2.Fid, name: str, file: LocalFile) -> int:
    """Makes the file, or overwrites the one that is there; answers its length."""
    set_status = set_status_of(file.status)
    fid, is_new = await _create(server, directory, name, set_status)
    if is_new and not file.first:
        return 0
    opening = file_server_pb2.StoreDataOpen(
        fid=fid, set_status=set_status, truncate_to=None if is_new else 0
    )
    first = file_server_pb2.StoreDataRequest(open=opening, data=file.first)
    if file.is_one_piece:
        return (await server.StoreData(iter([first]))).status.length
    file.seek_second_piece()
    return (await server.StoreData(_with_further_pieces(first, file))).status.length


async def _create(
    server: Server, directory: types_pb2.Fid, name: str, set_status: types_pb2.SetStatus
) -> tuple[types_pb2.Fid, bool]:
    """The Fid of a file of this name, and whether it is new."""
    request = file_server_pb2.CreateFileRequest(
        directory=directory, name=name, set_status=set_status
    )
    try:
        return (await server.CreateFile(request)).status.fid, True
    except grpc.aio.AioRpcError as error:
        if abort_code(error) != AfsCode.EEXIST:
            raise
    present = await _lookup(server, directory, name)
    if present.type == types_pb2.VNODE_TYPE_FILE:
        return present.fid, False
    if present.type == types_pb2.VNODE_TYPE_DIRECTORY:
        raise ValueError("a directory has this name in the volume")
    await server.RemoveFile(file_server_pb2.RemoveFileRequest(directory=directory, name=name))
    return (await server.CreateFile(request)).status.fid, True


async def _link(server: Server, request: file_server_pb2.SymlinkRequest) -> None:
    """Makes the link; what has its name, unless a directory, gives way."""
    try:
        await server.Symlink(request)
        return
    except grpc.aio.AioRpcError as error:
        if abort_code(error) != AfsCode.EEXIST:
            raise
    present = await _lookup(server, request.directory, request.name)
    if present.type == types_pb2.VNODE_TYPE_DIRECTORY:
        raise ValueError("a directory has this name in the volume")
    await server.RemoveFile(
        file_server_pb2.RemoveFileRequest(directory=request.directory, name=request.name)
    )
    await server.Symlink(request)


async def _lookup(server: Server, directory: types_pb2.Fid, name: str) -> types_pb2.FileStatus:
    request = file_server_pb2.LookupRequest(directory=directory, name=name)
    return (await server.Lookup(request)).status


async def _with_further_pieces(
    first: file_server_pb2.StoreDataRequest, file: LocalFile
) -> AsyncIterator[file_server_pb2.StoreDataRequest]:
    """The first request, and one for each further piece as it is read."""
    yield first
    while piece := await asyncio.to_thread(file.read):
        yield file_server_pb2.StoreDataRequest(data=piece)
