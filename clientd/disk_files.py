"""The files of the disk cache: one a piece, in 256 folders. Everything here blocks on the disk."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from blake3 import blake3

from clientd.core.piece import FOLDERS, PieceKey, StoredPiece
from clientd.core.piece_table import PieceTable
from clientd.disk_index import DiskIndex

_temporary_names: Final = itertools.count()


class DiskFiles:
    """The files under one folder; used in threads.

    Args:
        folder: where they are; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, key: PieceKey) -> Path:
        """The file of a piece."""
        return Path(self._name(key))

    def _name(self, key: PieceKey) -> str:
        """Likewise, as a text: for small files a `Path` takes longer than what is done with it."""
        return f"{self._folder}/{key.folder}/{key.file_name}"

    def read(self, key: PieceKey, stored: StoredPiece) -> bytes | None:
        """The bytes, if they are what was stored."""
        try:
            with open(self._name(key), "rb", buffering=0) as file:
                # One byte more would tell that it is longer.
                data = file.read(stored.length + 1)
        except OSError:
            return None
        good = len(data) == stored.length and blake3(data).digest() == stored.digest
        return data if good else None

    def write(self, key: PieceKey, data: bytes, victims: Iterable[PieceKey]) -> StoredPiece:
        """Unlinks the victims, then makes the file.

        Raises:
            OSError: there is no file.
        """
        self.unlink(victims)
        temporary = f"{self._folder}/{key.folder}/.{next(_temporary_names)}.tmp"
        try:
            with open(temporary, "wb", buffering=0) as file:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
            os.rename(temporary, self._name(key))
        except OSError:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        return StoredPiece(len(data), blake3(data).digest())

    def write_all(
        self, pieces: Iterable[tuple[PieceKey, bytes]], victims: Iterable[PieceKey]
    ) -> tuple[list[StoredPiece], OSError | None]:
        """As `write`, one after the other; those that were written, and what ended it."""
        written: list[StoredPiece] = []
        self.unlink(victims)
        for key, data in pieces:
            try:
                written.append(self.write(key, data, ()))
            except OSError as error:
                return written, error
        return written, None

    def adopt(self, key: PieceKey, path: Path) -> None:
        """Makes a file on this file system the piece's.

        Raises:
            OSError: it is where it was.
        """
        path.rename(self.path(key))

    def link(self, keys: Iterable[PieceKey], new_version: int) -> set[int]:
        """Makes pieces' files those of another DataVersion as well; returns of which it did."""
        linked: set[int] = set()
        for key in keys:
            with suppress(OSError):
                os.link(self.path(key), self.path(key._replace(data_version=new_version)))
                linked.add(key.number)
        return linked

    def unlink(self, keys: Iterable[PieceKey]) -> None:
        """Removes files; one that cannot be removed is left to the next start."""
        for key in keys:
            unlink(self.path(key))

    def recover(self, index: DiskIndex, table: PieceTable) -> None:
        """Fills the table with what index and files agree on, and removes all other files."""
        for number in range(FOLDERS):
            (self._folder / f"{number:02x}").mkdir(parents=True, exist_ok=True)
        files = {
            entry.path: entry.stat(follow_symlinks=False).st_size
            for folder in os.scandir(self._folder)
            if folder.is_dir(follow_symlinks=False)
            for entry in os.scandir(folder)
        }
        unwanted: list[PieceKey] = []
        for key, piece in index.load():
            if files.get(str(self.path(key))) != piece.length or table.is_outdated(key):
                table.note_changed([key.slot])
                continue
            unwanted += table.add(key, piece)
            del files[str(self.path(key))]
        self.unlink(unwanted)
        for path in files:
            unlink(Path(path))


def unlink(path: Path) -> None:
    """Removes a file, if that is possible."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
