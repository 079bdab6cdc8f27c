"""The names of one directory as the client knows them, at one DataVersion of the directory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from afs.types import DirectoryEntry, Fid


@dataclass(frozen=True, slots=True)
class AddName:
    """The directory has this entry now, in place of any other of its name."""

    entry: DirectoryEntry

    @property
    def changed_name(self) -> str:
        """The name it is about."""
        return self.entry.name


@dataclass(frozen=True, slots=True)
class RemoveName:
    """The directory has no entry of this name any more."""

    name: str

    @property
    def changed_name(self) -> str:
        """The name it is about."""
        return self.name


Edit = AddName | RemoveName


class Unknown(Enum):
    """The answer of a listing that is not complete and does not have the name."""

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN


class Listing:
    """Names of a directory.

    Args:
        entries: what is known.
        data_version: the directory's DataVersion at which that is right.
        complete: True if these are all; then a name that is missing does not exist.
    """

    def __init__(
        self, entries: Iterable[DirectoryEntry], data_version: int, *, complete: bool
    ) -> None:
        self._entries = {entry.name: entry for entry in entries}
        self._in_order: tuple[DirectoryEntry, ...] | None = None
        self.data_version = data_version
        self.complete = complete

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str) -> DirectoryEntry | Unknown | None:
        """The entry of that name; None if there is none; UNKNOWN if this listing cannot tell."""
        entry = self._entries.get(name)
        if entry is None and not self.complete:
            return UNKNOWN
        return entry

    def name_of(self, fid: Fid) -> str:
        """A name of the vnode here; "" if none is known."""
        return next((entry.name for entry in self._entries.values() if entry.fid == fid), "")

    def in_order(self) -> Sequence[DirectoryEntry]:
        """All entries, in order of their names; later edits do not move what was returned."""
        if self._in_order is None:
            # Python orders texts by code point, which is the order of their UTF-8 bytes.
            self._in_order = tuple(sorted(self._entries.values(), key=lambda entry: entry.name))
        return self._in_order

    def edit(self, edits: Iterable[Edit], data_version: int) -> None:
        """Takes in a change of our own that led to `data_version`; edits are idempotent."""
        for edit in edits:
            if isinstance(edit, AddName):
                self._entries[edit.entry.name] = edit.entry
            else:
                self._entries.pop(edit.name, None)
        self._in_order = None
        self.data_version = data_version

    def note(self, entry: DirectoryEntry) -> None:
        """Adds an entry that a Lookup found at this listing's DataVersion."""
        self._entries[entry.name] = entry
        self._in_order = None
