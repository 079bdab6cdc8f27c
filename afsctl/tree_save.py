"""Copies a directory of a volume to this machine, many files at a time, from its FileServer.

The volume's directories are read and made here first, then files and links are fetched (IN_FLIGHT
at a time), and last the directories get their modes and times. A file appears under its name only
when it is whole; what is there already is replaced, file by file; what is there besides stays.
Other volumes that are mounted in it are left out. The volume may move meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from afs.limits import DATA_PIECE_BYTES
from afs.mount_points import parse_mount_point
from afs.types import DirectoryEntry, VnodeType
from afs.v1 import file_server_pb2, types_pb2
from afs.wire import fid_to_wire
from afsctl.copy_report import CopyReport, for_each, skipping
from afsctl.local_tree import shown
from afsctl.progress import Meter
from afsctl.replacing import replacing, temporary_path
from afsctl.volume_access import VolumeAccess
from afsctl.volume_reader import FileReader, Listing, read_directory

# What a file has until it is whole: nobody else's business.
_PRIVATE_FILE_MODE = 0o600
_PRIVATE_DIRECTORY_MODE = 0o700


@dataclass(frozen=True, slots=True)
class _Saved:
    """A directory of the volume and its copy."""

    path: Path
    listing: Listing


class TreeSave:
    """One copy of a tree out of a volume.

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

    async def save_tree(self, directory: types_pb2.Fid, into: Path) -> None:
        """Copies what is in the volume's directory into the local one, which is made if need be.

        Raises:
            grpc.RpcError, OSError: a failure that concerns more than one entry.
        """
        await asyncio.to_thread(_make_directory, into)
        saved = await self._make_directories(into, directory)
        self._total = sum(len(_leaves(each.listing)) for each in saved)
        leaves = ((each.path, entry) for each in saved for entry in _leaves(each.listing))
        await for_each(leaves, self._save_leaf)
        # Children first: their parents may end up read-only.
        await asyncio.to_thread(self._set_directory_statuses, saved[::-1])

    async def save_file(self, fid: types_pb2.Fid, path: Path) -> None:
        """Copies one file."""
        self._total = 1
        async with skipping(self._report, path):
            await self._save_file(fid, path)
        self._show()

    async def _make_directories(self, into: Path, directory: types_pb2.Fid) -> list[_Saved]:
        """All directories of the tree, parents first, each made here."""
        root = await read_directory(self._volume, directory, patient=True)
        level = [_Saved(into, root)]
        saved = list(level)
        while level:
            level = await self._make_level(level)
            saved += level
        return saved

    async def _make_level(self, parents: list[_Saved]) -> list[_Saved]:
        saved: list[_Saved] = []
        wanted = [
            (parent.path / entry.name, entry)
            for parent in parents
            for entry in parent.listing.entries
            if entry.type is VnodeType.DIRECTORY
        ]
        await for_each(wanted, lambda item: self._save_directory(*item, saved))
        return saved

    async def _save_directory(self, path: Path, entry: DirectoryEntry, level: list[_Saved]) -> None:
        async with skipping(self._report, path):
            await asyncio.to_thread(_make_directory, path)
            fid = fid_to_wire(entry.fid)
            listing = await read_directory(self._volume, fid, patient=True)
            self._report.directories += 1
            level.append(_Saved(path, listing))

    async def _save_leaf(self, item: tuple[Path, DirectoryEntry]) -> None:
        directory, entry = item
        path, fid = directory / entry.name, fid_to_wire(entry.fid)
        async with skipping(self._report, path):
            if entry.type is VnodeType.SYMLINK:
                await self._save_symlink(fid, path)
            else:
                await self._save_file(fid, path)
        self._show()

    async def _save_symlink(self, fid: types_pb2.Fid, path: Path) -> None:
        request = file_server_pb2.ReadLinkRequest(fid=fid)
        answer = await self._volume.ask(lambda server: server.ReadLink(request), patient=True)
        if parse_mount_point(answer.status.mode, answer.target) is not None:
            self._report.mount_points += 1
            return
        await asyncio.to_thread(_write_symlink, path, answer.target, answer.status)
        self._report.symlinks += 1

    async def _save_file(self, fid: types_pb2.Fid, path: Path) -> None:
        size_bytes = await self._fetch(fid, path)
        self._report.size_bytes += size_bytes
        self._report.files += 1

    async def _fetch(self, fid: types_pb2.Fid, path: Path) -> int:
        """Fetches a file to its place; answers its length."""
        reader = FileReader(self._volume, fid, patient=True)
        try:
            status = await reader.open()
            if status.length <= DATA_PIECE_BYTES:
                data = b"".join([piece async for piece in reader.pieces()])
                await asyncio.to_thread(_write_file, path, data, status)
            else:
                await _write_pieces(path, reader)
            return status.length
        finally:
            reader.cancel()

    def _set_directory_statuses(self, saved: list[_Saved]) -> None:
        for each in saved:
            try:
                os.chmod(each.path, each.listing.status.mode)
                os.utime(each.path, ns=_times_ns(each.listing.status))
            except OSError as error:
                self._report.skipped.append(f"{shown(each.path)}: {error.strerror}")

    def _show(self) -> None:
        self._meter.update(
            done=self._report.entries, total=self._total, size_bytes=self._report.size_bytes
        )


def _leaves(listing: Listing) -> list[DirectoryEntry]:
    return [entry for entry in listing.entries if entry.type is not VnodeType.DIRECTORY]


def _make_directory(path: Path) -> None:
    """Makes a directory unless it is there, not even by way of a link."""
    try:
        path.mkdir(_PRIVATE_DIRECTORY_MODE)
    except FileExistsError:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise NotADirectoryError(
                0, "there is something that is no directory", str(path)
            ) from None
        # An earlier copy of it may be read-only.
        os.chmod(path, path.lstat().st_mode | _PRIVATE_DIRECTORY_MODE)


def _write_file(path: Path, data: bytes, status: types_pb2.FileStatus) -> None:
    with replacing(path) as temporary, _open_new(temporary) as file:
        file.write(data)
        _finish(file, status)


async def _write_pieces(path: Path, reader: FileReader) -> None:
    """Writes a file of many pieces, one at a time."""
    temporary = temporary_path(path)
    file = await asyncio.to_thread(_open_new, temporary)
    try:
        async for piece in reader.pieces():
            await asyncio.to_thread(file.write, piece)
        await asyncio.to_thread(_finish, file, reader.status)
        await asyncio.to_thread(temporary.replace, path)
    except BaseException:
        await asyncio.to_thread(temporary.unlink, missing_ok=True)
        raise
    finally:
        await asyncio.to_thread(file.close)


def _open_new(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, _PRIVATE_FILE_MODE), "wb")


def _finish(file: BinaryIO, status: types_pb2.FileStatus) -> None:
    file.flush()
    os.fchmod(file.fileno(), status.mode)
    os.utime(file.fileno(), ns=_times_ns(status))


def _write_symlink(path: Path, target: str, status: types_pb2.FileStatus) -> None:
    with replacing(path) as temporary:
        temporary.symlink_to(target)
        os.utime(temporary, ns=_times_ns(status), follow_symlinks=False)


def _times_ns(status: types_pb2.FileStatus) -> tuple[int, int]:
    """Times of last access and modification; a volume keeps only the second."""
    return status.client_mtime_ns, status.client_mtime_ns
