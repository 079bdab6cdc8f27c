"""What a batch of changes will do to a volume, gathered in memory until the batch is committed.

Theory of operation
    The rules (`namespace`) read and write through a `ChangeSet`. It answers from what was changed
    so far and else from the layer below it: for a batch the store's `Tables`, for a single change
    the batch. A change that fails is simply thrown away, so none is ever half done; one that
    succeeds is folded into the batch (`fold`), which the store writes in one transaction.

    The volume's counters (used_kib, file_count, next_uniquifier, …) follow from what is put and
    removed, so no rule can forget them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, NamedTuple

from afs.errors import AfsCode, AfsError
from afs.limits import KIB, MAX_UINT32
from afs.types import ChangeMark, DirectoryEntry, Fid, Vnode, VnodeType, VolumeHeader
from afs.volume.file_data import ChunkRef, FileEdit, is_inline


class Origin(NamedTuple):
    """The state of a volume, perhaps another one, that the contents were when they were restored.

    They still are, if no vnode was changed after `at`, a change counter of this volume's own. An
    incremental dump can then be restored over them.
    """

    mark: ChangeMark
    at: int


NO_ORIGIN: Final = Origin(ChangeMark("", 0), 0)


@dataclass(frozen=True, slots=True)
class VolumeState:
    """The header, and the counters that are nobody's business outside the volume.

    `next_vnode` and `next_uniquifier` never go back, so no Fid is ever given twice;
    `max_data_version` is the largest DataVersion any vnode ever had.
    """

    header: VolumeHeader
    next_vnode: int
    next_uniquifier: int
    max_data_version: int
    origin: Origin = NO_ORIGIN


class Tables(ABC):
    """What the rules may ask of a store, by vnode number; every answer is verified."""

    @abstractmethod
    def state(self) -> VolumeState:
        """The header and counters."""

    @abstractmethod
    def vnode(self, number: int) -> Vnode | None:
        """The vnode with this number; None if there is none."""

    @abstractmethod
    def entry(self, directory: int, name: str) -> DirectoryEntry | None:
        """What a name stands for in a directory; None if nothing."""

    @abstractmethod
    def entries(self, directory: int, limit: int) -> dict[str, DirectoryEntry]:
        """Up to `limit` entries of a directory by name, in no order."""

    @abstractmethod
    def inline(self, number: int) -> bytes:
        """The bytes of an inline file, or the UTF-8 target of a symbolic link."""

    @abstractmethod
    def chunk(self, number: int, position: int) -> ChunkRef | None:
        """The chunk of a file at a position; None for a hole."""

    @abstractmethod
    def read_chunk(self, ref: ChunkRef) -> bytes:
        """The bytes of a chunk that count, verified."""

    @abstractmethod
    def store_chunk(self, data: bytes) -> ChunkRef | None:
        """Keeps bytes as a chunk, durable on return; None if they are all zero."""


class ChangeSet(Tables):
    """Changes laid over a layer of Tables. Not thread-safe."""

    def __init__(self, below: Tables) -> None:
        self._below = below
        self._state = below.state()
        self.vnodes: dict[int, Vnode | None] = {}
        self.names: dict[tuple[int, str], DirectoryEntry | None] = {}
        self.data: dict[int, FileEdit] = {}

    # --- reading ---

    def state(self) -> VolumeState:
        return self._state

    def vnode(self, number: int) -> Vnode | None:
        if number in self.vnodes:
            return self.vnodes[number]
        return self._below.vnode(number)

    def entry(self, directory: int, name: str) -> DirectoryEntry | None:
        key = (directory, name)
        if key in self.names:
            return self.names[key]
        return self._below.entry(directory, name)

    def entries(self, directory: int, limit: int) -> dict[str, DirectoryEntry]:
        changed = {name: entry for (where, name), entry in self.names.items() if where == directory}
        found: dict[str, DirectoryEntry | None] = {
            **self._below.entries(directory, limit + len(changed)),
            **changed,
        }
        there = ((name, entry) for name, entry in found.items() if entry is not None)
        return dict(islice(there, limit))

    def inline(self, number: int) -> bytes:
        edit = self.data.get(number)
        if edit is None:
            return self._below.inline(number)
        assert edit.inline is not None, "asked for the inline bytes of a chunked file"
        return edit.inline

    def chunk(self, number: int, position: int) -> ChunkRef | None:
        edit = self.data.get(number)
        if edit is not None:
            if position in edit.chunks:
                return edit.chunks[position]
            if position >= edit.keep:
                return None
        return self._below.chunk(number, position)

    def read_chunk(self, ref: ChunkRef) -> bytes:
        return self._below.read_chunk(ref)

    def store_chunk(self, data: bytes) -> ChunkRef | None:
        return self._below.store_chunk(data)

    # --- changing ---

    def new_fid(self, kind: VnodeType) -> Fid:
        """A Fid never given before: directories have odd vnode numbers, all else even ones.

        Raises:
            AfsError: VLIMIT when the volume has given its last number.
        """
        state = self._state
        number = state.next_vnode
        if (number % 2 == 1) != (kind is VnodeType.DIRECTORY):
            number += 1
        if number > MAX_UINT32 or state.next_uniquifier > MAX_UINT32:
            raise AfsError(
                AfsCode.VLIMIT,
                f"volume {state.header.volume_id} has given all its vnode numbers: copy it",
            )
        self._state = replace(
            state, next_vnode=number + 1, next_uniquifier=state.next_uniquifier + 1
        )
        return Fid(state.header.volume_id, number, state.next_uniquifier)

    def put_vnode(self, vnode: Vnode) -> None:
        """Keeps a new or changed vnode and counts it."""
        number = vnode.fid.vnode
        old = self.vnode(number)
        self.vnodes[number] = vnode
        self._count(
            used_kib(vnode) - (used_kib(old) if old else 0), 0 if old else 1, vnode.data_version
        )

    def remove_vnode(self, vnode: Vnode) -> None:
        """Forgets a vnode and its data."""
        number = vnode.fid.vnode
        old = self.vnode(number)
        assert old is not None, "a vnode is removed once"
        self.vnodes[number] = None
        self.data[number] = FileEdit()
        self._count(-used_kib(old), -1, 0)

    def put_entry(self, directory: int, entry: DirectoryEntry) -> None:
        """Keeps a name."""
        self.names[directory, entry.name] = entry

    def remove_entry(self, directory: int, name: str) -> None:
        """Forgets a name."""
        self.names[directory, name] = None

    def edit_data(self, number: int, edit: FileEdit) -> None:
        """Changes a file's data."""
        old = self.data.get(number)
        self.data[number] = edit if old is None else old.then(edit)

    def put_header(self, header: VolumeHeader) -> None:
        """Replaces the header."""
        self._state = replace(self._state, header=header)

    def fold(self, change: ChangeSet) -> None:
        """Takes over a finished change that was laid over this one."""
        assert change._below is self, "a change folds into the batch it was made on"
        self._state = change._state
        self.vnodes |= change.vnodes
        self.names |= change.names
        for number, edit in change.data.items():
            self.edit_data(number, edit)

    def _count(self, kib: int, files: int, data_version: int) -> None:
        state = self._state
        header = state.header
        if kib or files:
            header = replace(
                header, used_kib=header.used_kib + kib, file_count=header.file_count + files
            )
        self._state = replace(
            state, header=header, max_data_version=max(state.max_data_version, data_version)
        )


class VnodeData:
    """One file's data within a change set (a `FileView`)."""

    def __init__(self, tables: Tables, vnode: Vnode) -> None:
        self._tables = tables
        self._number = vnode.fid.vnode
        self.length = vnode.length

    def inline(self) -> bytes:
        """The bytes of an inline file; EIO if the store has lost some."""
        assert is_inline(self.length)
        data = self._tables.inline(self._number)
        if len(data) != self.length:
            raise AfsError(
                AfsCode.EIO,
                f"vnode {self._number} has {len(data)} bytes inline: expected {self.length}",
            )
        return data

    def chunk(self, position: int) -> ChunkRef | None:
        """The chunk at a position; None for a hole."""
        return self._tables.chunk(self._number, position)

    def read_chunk(self, ref: ChunkRef) -> bytes:
        """The bytes of a chunk that count."""
        return self._tables.read_chunk(ref)

    def store_chunk(self, data: bytes) -> ChunkRef | None:
        """Keeps bytes as a chunk."""
        return self._tables.store_chunk(data)


def used_kib(vnode: Vnode) -> int:
    """What a vnode counts against the quota: its length rounded up to KiB, at least 1."""
    return max(1, -(-vnode.length // KIB))


def check_staged_end(header: VolumeHeader, vnode: Vnode, end: int) -> None:
    """VOVERQUOTA if the file could not grow to `end` bytes; saves a transfer in vain."""
    grown = max(1, -(-end // KIB)) - used_kib(vnode)
    if grown > 0 and 0 < header.max_quota_kib < header.used_kib + grown:
        raise AfsError(
            AfsCode.VOVERQUOTA,
            f"vnode {vnode.fid} cannot grow to {end} bytes:"
            f" {header.used_kib} of {header.max_quota_kib} KiB are used",
        )
