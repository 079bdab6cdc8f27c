"""Which pieces are in the disk cache: bounded in bytes and number, one version of a file each.

Theory of operation
    The table is the books of the disk cache; its shell (`disk_cache`) does what they say to files.
    What a method removes from the table it returns, for the shell to unlink. Room for a piece on
    its way to the disk is reserved before it is written, so that the files never take more than the
    books say.

    A file's pieces are all of one DataVersion. The first piece of a newer one drops the older ones;
    a piece of an older one, brought by a reader that began before the file changed, is not taken.

Invariants
    - `used_bytes` is the sum of the pieces' `disk_bytes` and of what is reserved.
    - A file is in `_files` if, and only if, it has a piece; all its pieces are of its version.
    - `changed` names every piece that was added or removed since `take_changes`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field
from typing import Final

from afs.types import Fid
from clientd.core.piece import PieceKey, Slot, StoredPiece

# Some 500 bytes of memory each: bounds the books to some 100 MiB, whatever the size of the disk.
MAX_PIECES: Final = 200_000


@dataclass(slots=True)
class _File:
    data_version: int
    numbers: set[int] = field(default_factory=set)


class PieceTable:
    """The books of the disk cache.

    Args:
        max_pieces: pieces kept; at least 1.
    """

    def __init__(self, max_pieces: int = MAX_PIECES) -> None:
        self._max_pieces = max_pieces
        self._pieces: OrderedDict[Slot, StoredPiece] = OrderedDict()
        self._files: dict[Fid, _File] = {}
        self._changed: set[Slot] = set()
        self._reserved_bytes = 0
        self.used_bytes = 0

    # --- asking ---

    def __len__(self) -> int:
        return len(self._pieces)

    def find(self, key: PieceKey) -> StoredPiece | None:
        """The piece, if it is here; counts as a use."""
        if not self.has(key):
            return None
        self._pieces.move_to_end(key.slot)
        return self._pieces[key.slot]

    def has(self, key: PieceKey) -> bool:
        """True if the piece is here."""
        file = self._files.get(key.fid)
        return (
            file is not None
            and file.data_version == key.data_version
            and key.number in file.numbers
        )

    def has_any(self, fid: Fid) -> bool:
        """True if there is any piece of the file, of whatever DataVersion."""
        return fid in self._files

    def is_outdated(self, key: PieceKey) -> bool:
        """True if pieces of a newer DataVersion are here."""
        file = self._files.get(key.fid)
        return file is not None and file.data_version > key.data_version

    def numbers(self, fid: Fid, data_version: int) -> list[int]:
        """The file's pieces of that DataVersion that are here."""
        file = self._files.get(fid)
        return [] if file is None or file.data_version != data_version else list(file.numbers)

    def cached_bytes(self, fid: Fid, data_version: int) -> int:
        """Bytes of the file's data at that DataVersion that are here."""
        file = self._files.get(fid)
        if file is None or file.data_version != data_version:
            return 0
        return sum(self._pieces[Slot(fid, number)].length for number in file.numbers)

    def fids(self) -> list[Fid]:
        """All files with pieces here."""
        return list(self._files)

    def file_count(self) -> int:
        """How many files have pieces here."""
        return len(self._files)

    # --- changing; what is returned is to be unlinked ---

    def add(self, key: PieceKey, piece: StoredPiece) -> list[PieceKey]:
        """Adds a piece that is on disk; it must not be outdated."""
        assert not self.is_outdated(key)
        gone = self.keep_only(key.fid, key.data_version)
        # One that was here already is the very same file.
        self._remove(key.fid, [key.number])
        self._files.setdefault(key.fid, _File(key.data_version)).numbers.add(key.number)
        self._pieces[key.slot] = piece
        self._changed.add(key.slot)
        self.used_bytes += piece.disk_bytes
        return gone

    def keep_only(self, fid: Fid, data_version: int) -> list[PieceKey]:
        """The file's data is of this version now: pieces of another one go."""
        file = self._files.get(fid)
        if file is None or file.data_version == data_version:
            return []
        return self.forget(fid)

    def carry_over(
        self, fid: Fid, data_version: int, new_version: int, kept: Set[int]
    ) -> list[PieceKey]:
        """The file has a new DataVersion; of its pieces these are as they were, the others go.

        Nothing happens if the pieces here are of another version than they were thought to be.
        """
        file = self._files.get(fid)
        if file is None or file.data_version != data_version:
            return []
        gone = self._remove(fid, [number for number in file.numbers if number not in kept])
        gone += [PieceKey(fid, data_version, number) for number in file.numbers]
        file.data_version = new_version
        self._changed.update(Slot(fid, number) for number in file.numbers)
        return gone

    def forget(self, fid: Fid) -> list[PieceKey]:
        """The file's pieces go."""
        file = self._files.get(fid)
        return [] if file is None else self._remove(fid, list(file.numbers))

    def drop(self, key: PieceKey) -> list[PieceKey]:
        """One piece goes, if it is here."""
        return self._remove(key.fid, [key.number]) if self.has(key) else []

    def evict(self, room_bytes: int) -> list[PieceKey]:
        """Those least recently used go until what is used fits into the room, if it can."""
        gone: list[PieceKey] = []
        while self._pieces and (
            self.used_bytes > room_bytes or len(self._pieces) > self._max_pieces
        ):
            fid, number = next(iter(self._pieces))
            gone += self._remove(fid, [number])
        return gone

    # --- room for what is not in the table ---

    def reserve(self, size: int) -> None:
        """Counts something on its way to the disk."""
        self._reserved_bytes += size
        self.used_bytes += size

    def release(self, size: int) -> None:
        """It has arrived, or is gone."""
        self._reserved_bytes -= size
        self.used_bytes -= size
        assert self._reserved_bytes >= 0

    @property
    def reserved_bytes(self) -> int:
        """What is reserved at this moment."""
        return self._reserved_bytes

    # --- what the index has to follow ---

    @property
    def has_changes(self) -> bool:
        """True if anything changed since `take_changes`."""
        return bool(self._changed)

    def take_changes(self) -> tuple[list[tuple[PieceKey, StoredPiece]], list[Slot]]:
        """What was added and what was removed since the last time."""
        changed, self._changed = self._changed, set()
        added: list[tuple[PieceKey, StoredPiece]] = []
        removed: list[Slot] = []
        for slot in changed:
            piece = self._pieces.get(slot)
            if piece is None:
                removed.append(slot)
            else:
                version = self._files[slot.fid].data_version
                added.append((PieceKey(slot.fid, version, slot.number), piece))
        return added, removed

    def note_changed(self, slots: Iterable[Slot]) -> None:
        """The index has to look at these again."""
        self._changed.update(slots)

    # --- within ---

    def _remove(self, fid: Fid, numbers: Iterable[int]) -> list[PieceKey]:
        gone: list[PieceKey] = []
        file = self._files.get(fid)
        for number in numbers:
            slot = Slot(fid, number)
            piece = self._pieces.pop(slot, None)
            if piece is None or file is None:
                continue
            self.used_bytes -= piece.disk_bytes
            self._changed.add(slot)
            gone.append(PieceKey(fid, file.data_version, number))
            file.numbers.discard(number)
            if not file.numbers:
                del self._files[fid]
        return gone
