"""Pieces that were read or stored lately, in memory."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from afs.limits import MIB
from afs.types import Fid
from clientd.core.piece import PieceKey

# What they take at most: enough for some readers that go through large files, and for the small
# files of a build.
MEMORY_BYTES: Final = 64 * MIB


class RecentPieces:
    """Pieces by key, bounded in bytes, those longest unused out first; one version of a file.

    Args:
        memory_bytes: the bound; one piece is kept in any case.
    """

    def __init__(self, memory_bytes: int = MEMORY_BYTES) -> None:
        self._memory_bytes = memory_bytes
        self._pieces: OrderedDict[PieceKey, bytes] = OrderedDict()
        self._numbers: dict[Fid, dict[int, PieceKey]] = {}
        self._used_bytes = 0

    def peek(self, key: PieceKey) -> bytes | None:
        """The piece, if it is here; counts as a use."""
        data = self._pieces.get(key)
        if data is not None:
            self._pieces.move_to_end(key)
        return data

    def has(self, key: PieceKey) -> bool:
        """True if the piece is here."""
        return key in self._pieces

    def keep(self, key: PieceKey, data: bytes) -> None:
        """Remembers a piece, in place of one of another version."""
        numbers = self._numbers.setdefault(key.fid, {})
        before = numbers.get(key.number)
        if before is not None:
            self._used_bytes -= len(self._pieces.pop(before))
        numbers[key.number] = key
        self._pieces[key] = data
        self._used_bytes += len(data)
        while self._used_bytes > self._memory_bytes and len(self._pieces) > 1:
            self._drop(next(iter(self._pieces)))

    def forget(self, fid: Fid) -> None:
        """The file's pieces go."""
        for key in list(self._numbers.get(fid, {}).values()):
            self._drop(key)

    def forget_volume(self, volume: int) -> None:
        """The pieces of a volume's files go."""
        for fid in [each for each in self._numbers if each.volume == volume]:
            self.forget(fid)

    def _drop(self, key: PieceKey) -> None:
        self._used_bytes -= len(self._pieces.pop(key))
        numbers = self._numbers[key.fid]
        del numbers[key.number]
        if not numbers:
            del self._numbers[key.fid]
