"""The bytes that local programs wrote to one file: in memory, and beyond a bound in files.

Theory of operation
    Bytes are kept in pieces of 1 MiB, as the cache has them. A piece is in memory while it is
    written to. All files together keep DIRTY_MEMORY_BYTES in memory; who needs more moves its own
    pieces, those longest not written to first, into files in the cache directory. A piece that was
    stored becomes one of the cache's by renaming its file.

    Which bytes of a piece count is not known here but to the `DirtyMap`; the others are whatever.

    A piece's file is never changed: moved out again, a piece gets a file of a new name. So what a
    list of unsent stores names stays as it is until that list is gone.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blake3 import blake3

from afs.limits import DATA_PIECE_BYTES, MIB
from afs.runtime.files import fsync_dir
from clientd.core.piece import disk_bytes_of
from clientd.disk_cache import DiskCache

# Unflushed writes kept in memory, all files together: a large file that is written in one go needs
# little more than what is on its way to the disk and to the fileserver.
DIRTY_MEMORY_BYTES: Final = 32 * MIB


class DirtyMemory:
    """What all files' unflushed writes take in memory, and may take.

    Args:
        limit_bytes: the bound.
    """

    def __init__(self, limit_bytes: int = DIRTY_MEMORY_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0

    def has_room(self, size: int) -> bool:
        """True if so many bytes more fit."""
        return self.used_bytes + size <= self.limit_bytes


@dataclass(frozen=True, slots=True)
class PieceFile:
    """A piece in a file: where, its length in bytes, and its BLAKE3."""

    path: Path
    length: int
    digest: bytes

    def read(self) -> bytes:
        """The bytes, checked; blocks on the disk.

        Raises:
            OSError: they cannot be read, or are not what was written.
        """
        data = self.path.read_bytes()
        if len(data) != self.length or blake3(data).digest() != self.digest:
            raise OSError(f"{self.path} is damaged")
        return data


class DirtyPieces:
    """One file's pieces. Used in the event loop.

    Args:
        folder: where the files go; made when needed.
        memory: bounds what is in memory.
        disk: in its accounts is what the files take.
    """

    def __init__(self, folder: Path, memory: DirtyMemory, disk: DiskCache) -> None:
        self.folder = folder
        self._memory_books = memory
        self._disk = disk
        self._memory: OrderedDict[int, bytearray] = OrderedDict()
        self._files: dict[int, PieceFile] = {}
        # Files that a list on disk names: left alone until it does no more.
        self._listed: set[PieceFile] = set()
        # Files that are the cache's now.
        self._given: set[Path] = set()

    # --- writing; one writer at a time ---

    def can_put(self, offset: int, length: int) -> bool:
        """True if `put` can be called: room in memory, and no piece to be read back first."""
        return self._memory_books.has_room(self._growth(offset, length)) and not any(
            number in self._files for number in _numbers(offset, length)
        )

    async def prepare(self, offset: int, length: int) -> bool:
        """Makes `put` possible; False if there is no room on disk to make room in memory.

        Raises:
            OSError: a piece cannot be read back.
        """
        needed = _numbers(offset, length)
        for number in needed:
            if number in self._files:
                await self._bring_back(number)
        while not self._memory_books.has_room(self._growth(offset, length)):
            # Where nothing of this file can go, others' writes make room; until then it is over.
            victim = next((number for number in self._memory if number not in needed), None)
            if victim is None:
                break
            if not await self.spill(victim):
                return False
        return True

    def put(self, offset: int, data: bytes | memoryview) -> None:
        """Takes bytes in; the pieces concerned are not in files."""
        view = memoryview(data)
        while view:
            number, start = divmod(offset, DATA_PIECE_BYTES)
            part = view[: DATA_PIECE_BYTES - start]
            piece = self._memory.get(number)
            if piece is None:
                piece = self._memory[number] = bytearray()
            before = len(piece)
            if start > before:
                piece += bytes(start - before)
            piece[start : start + len(part)] = part
            self._memory_books.used_bytes += len(piece) - before
            self._memory.move_to_end(number)
            offset += len(part)
            view = view[len(part) :]

    def truncate(self, length: int) -> None:
        """Bytes from `length` on go."""
        for number in [each for each in self.numbers() if each * DATA_PIECE_BYTES >= length]:
            self.drop(number)
        piece = self._memory.get(length // DATA_PIECE_BYTES)
        if piece is not None and len(piece) > length % DATA_PIECE_BYTES:
            self._memory_books.used_bytes -= len(piece) - length % DATA_PIECE_BYTES
            del piece[length % DATA_PIECE_BYTES :]

    def drop(self, number: int) -> None:
        """A piece is needed no more."""
        piece = self._memory.pop(number, None)
        if piece is not None:
            self._memory_books.used_bytes -= len(piece)
        file = self._files.pop(number, None)
        if file is not None:
            self._let_go(file)

    def clear(self) -> None:
        """All pieces go."""
        for number in self.numbers():
            self.drop(number)

    # --- reading ---

    def numbers(self) -> list[int]:
        """The pieces there are."""
        return sorted(self._memory.keys() | self._files.keys())

    def file_of(self, number: int) -> PieceFile | None:
        """The piece's file, if it is in one."""
        return self._files.get(number)

    def peek(self, start: int, end: int) -> bytes | None:
        """Bytes that were put, if they are in memory; of one piece."""
        number = start // DATA_PIECE_BYTES
        base = number * DATA_PIECE_BYTES
        piece = self._memory.get(number)
        return None if piece is None else bytes(memoryview(piece)[start - base : end - base])

    async def read(self, start: int, end: int) -> bytes | None:
        """Bytes that were put; of one piece. None if they are not here any more.

        Raises:
            OSError: they cannot be read back.
        """
        data = self.peek(start, end)
        number = start // DATA_PIECE_BYTES
        file = self._files.get(number)
        if data is not None or file is None:
            return data
        try:
            whole = await asyncio.to_thread(file.read)
        except FileNotFoundError:
            # It went while we were about to read it: back into memory, or into the cache.
            return self.peek(start, end)
        base = number * DATA_PIECE_BYTES
        return whole[start - base : end - base]

    # --- files ---

    async def spill(self, number: int, *, at_any_cost: bool = False) -> bool:
        """Moves a piece into a file; False if there is no room for one.

        Args:
            number: the piece.
            at_any_cost: take room for it from the cache, as much as it takes.
        """
        piece = self._memory[number]
        data = bytes(piece)
        size = disk_bytes_of(len(data))
        if not await self._disk.reserve(size, at_any_cost=at_any_cost):
            return False
        path = self.folder / f"{number}.{secrets.token_hex(8)}"
        try:
            digest = await asyncio.to_thread(_write, path, data)
        except OSError:
            self._disk.release(size)
            return False
        except BaseException:
            self._disk.release(size)
            raise
        if self._memory.get(number) is not piece:
            # It was given up meanwhile.
            self._let_go(PieceFile(path, len(data), digest))
            return True
        del self._memory[number]
        self._memory_books.used_bytes -= len(piece)
        self._files[number] = PieceFile(path, len(data), digest)
        return True

    # --- what a record on disk names ---

    async def all_in_files(self) -> dict[int, PieceFile] | None:
        """Moves all pieces into files, and these are on disk; None if that is not possible."""
        for number in list(self._memory):
            if not await self.spill(number, at_any_cost=True):
                return None
        files = dict(self._files)
        try:
            await asyncio.to_thread(_sync, [file.path for file in files.values()])
        except OSError:
            return None
        return files

    def note_listed(self, files: Iterable[PieceFile]) -> None:
        """A record on disk names these files, and no other ones of ours."""
        before, self._listed = self._listed, set(files)
        in_use = set(self._files.values())
        for file in before - self._listed - in_use:
            self._let_go(file)

    def leave_listed(self) -> None:
        """Those that are named belong to the record from now on; the others go."""
        for number, file in list(self._files.items()):
            if file in self._listed:
                del self._files[number]
        self._listed.clear()
        self.clear()

    def restore(self, files: dict[int, PieceFile]) -> None:
        """There are these pieces, which a record names and which are in the accounts."""
        self._files = dict(files)
        self._listed = set(files.values())

    def give_away(self, number: int) -> bool:
        """Leaves the piece's file and its place in the accounts to the caller; False if it cannot.

        The piece can be read until `drop`, as long as the file is where it was.
        """
        file = self._files[number]
        if file in self._listed:
            return False
        self._given.add(file.path)
        return True

    # --- within ---

    def _growth(self, offset: int, length: int) -> int:
        """Bytes of memory that a put takes at most."""
        size = 0
        for number in _numbers(offset, length):
            base = number * DATA_PIECE_BYTES
            end = min(offset + length - base, DATA_PIECE_BYTES)
            piece = self._memory.get(number)
            size += max(0, end - (len(piece) if piece is not None else 0))
        return size

    async def _bring_back(self, number: int) -> None:
        file = self._files[number]
        data = await asyncio.to_thread(file.read)
        self._memory[number] = bytearray(data)
        self._memory_books.used_bytes += len(data)
        del self._files[number]
        self._let_go(file)

    def _let_go(self, file: PieceFile) -> None:
        if file.path in self._given:
            self._given.remove(file.path)
            return
        if file in self._listed:
            return
        self._disk.release(disk_bytes_of(file.length))
        # Nobody waits for it; what is left after a crash goes at the next start.
        self._disk.unlink_behind(file.path)


def _numbers(offset: int, length: int) -> range:
    """The pieces that bytes lie in."""
    return range(offset // DATA_PIECE_BYTES, -(-(offset + length) // DATA_PIECE_BYTES))


def _write(path: Path, data: bytes) -> bytes:
    """In a thread: makes a file; returns its digest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return blake3(data).digest()


def _sync(paths: Iterable[Path]) -> None:
    """In a thread: files, and their names, are on disk when this returns."""
    folders: set[Path] = set()
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        folders |= {path.parent, path.parent.parent, path.parent.parent.parent}
    for folder in folders:
        fsync_dir(folder)
