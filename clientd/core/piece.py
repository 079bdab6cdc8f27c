"""A piece: up to 1 MiB of a file at one DataVersion; data is fetched and cached in these."""

from __future__ import annotations

from typing import Final, NamedTuple

from afs.limits import DATA_PIECE_BYTES
from afs.types import Fid

# What a file takes on disk is a multiple of this.
BLOCK_BYTES = 4096


# Folders that the pieces' files are spread over: keeps directories small.
FOLDERS: Final = 256


class Slot(NamedTuple):
    """A place in a file, whatever its DataVersion."""

    fid: Fid
    number: int


class PieceKey(NamedTuple):
    """Which piece: bytes from `number` * DATA_PIECE_BYTES on, of `fid` at `data_version`."""

    fid: Fid
    data_version: int
    number: int

    @property
    def file_name(self) -> str:
        """Name of the piece's file; says all that the key does."""
        fid = self.fid
        return f"{fid.volume}.{fid.vnode}.{fid.uniquifier}.{self.data_version}.{self.number}"

    @property
    def slot(self) -> Slot:
        """The place in the file."""
        return Slot(self.fid, self.number)

    @property
    def folder(self) -> str:
        """The one of FOLDERS folders that the piece's file is in."""
        return f"{(self.fid.vnode // 2 + self.fid.volume + self.number) % FOLDERS:02x}"


class StoredPiece(NamedTuple):
    """A piece on disk: its length in bytes and its BLAKE3."""

    length: int
    digest: bytes

    @property
    def disk_bytes(self) -> int:
        """What its file takes on disk."""
        return disk_bytes_of(self.length)


def disk_bytes_of(length: int) -> int:
    """What a file of so many bytes takes on disk."""
    return -(-length // BLOCK_BYTES) * BLOCK_BYTES


def piece_count(length: int) -> int:
    """Pieces of a file of so many bytes."""
    return -(-length // DATA_PIECE_BYTES)


def piece_length(file_length: int, number: int) -> int:
    """Bytes of piece `number` of a file of `file_length` bytes."""
    return max(0, min(DATA_PIECE_BYTES, file_length - number * DATA_PIECE_BYTES))
