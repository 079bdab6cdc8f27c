"""A volume in memory.

The same rules and the same behaviour as the one on disk, for tests and simulations.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from blake3 import blake3

from afs.errors import AfsCode, AfsError
from afs.types import DirectoryEntry, Fid, Vnode, VnodeType, VolumeHeader, VolumeType
from afs.volume.change_set import ChangeSet, Tables, VolumeState, check_staged_end
from afs.volume.data_snapshot import StoredSnapshot
from afs.volume.file_data import ChunkRef, is_inline
from afs.volume.namespace import perform
from afs.volume.rules import check_directory, check_entry_name, check_file, require_vnode
from afs.volume.staged_data import BufferedStagedData
from afs.volume.volume import DataSnapshot, Mutation, Outcome, StagedData, StoreData, Volume
from afs.volume.volume_header import new_header, new_volume


class MemoryVolume(Volume):
    """An open volume in memory; made by `create`."""

    def __init__(self, state: VolumeState, root: Vnode, clock_ns: Callable[[], int]) -> None:
        self.volume_id = state.header.volume_id
        self._clock_ns = clock_ns
        self._lock = threading.RLock()
        self._closed = False
        self._tables = _MemoryTables(state, root)

    @classmethod
    def create(
        cls,
        volume_id: int,
        name: str,
        *,
        type: VolumeType = VolumeType.READ_WRITE,
        read_write_id: int | None = None,
        max_quota_kib: int = 0,
        incarnation: str = "memory",
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> MemoryVolume:
        """A new volume with an empty root directory.

        EINVAL or ENAMETOOLONG for what none can have.
        """
        now_ns = clock_ns()
        header = new_header(
            volume_id, name, type, read_write_id, max_quota_kib, incarnation, now_ns
        )
        state, root = new_volume(header, now_ns)
        return cls(state, root, clock_ns)

    def header(self) -> VolumeHeader:
        return self._tables.state().header

    def cached_vnode(self, fid: Fid) -> Vnode | None:
        vnode = self._tables.vnodes.get(fid.vnode)
        return vnode if vnode is not None and vnode.fid == fid else None

    def vnode(self, fid: Fid) -> Vnode:
        with self._lock:
            self._check_open()
            return require_vnode(self._tables, fid)

    def lookup(self, directory: Fid, name: str) -> Vnode:
        check_entry_name(name)
        with self._lock:
            self._check_open()
            check_directory(self._tables, directory)
            entry = self._tables.entry(directory.vnode, name)
            if entry is None:
                raise AfsError(AfsCode.ENOENT, f"no {name!r} in directory {directory}")
            return require_vnode(self._tables, entry.fid)

    def entries(self, directory: Fid, after: str, limit: int) -> list[DirectoryEntry]:
        with self._lock:
            self._check_open()
            check_directory(self._tables, directory)
            names = self._tables.names.get(directory.vnode, {})
            later = sorted(
                (name for name in names if name.encode() > after.encode()), key=str.encode
            )
            return [names[name] for name in later[:limit]]

    def read_link(self, fid: Fid) -> str:
        with self._lock:
            vnode = self.vnode(fid)
            if vnode.type is not VnodeType.SYMLINK:
                raise AfsError(
                    AfsCode.EINVAL,
                    f"vnode {fid} is a {vnode.type.name.lower()}: expected a symbolic link",
                )
            return self._tables.inline(fid.vnode).decode()

    def snapshot(
        self,
        fid: Fid,
        offset: int = 0,  # noqa: ARG002 all of the file is at hand
        length: int | None = None,  # noqa: ARG002
    ) -> DataSnapshot:
        with self._lock:
            vnode = self.vnode(fid)
            check_file(vnode)
            if is_inline(vnode.length):
                return StoredSnapshot(vnode, self._tables.inline(fid.vnode), {}, self)
            return StoredSnapshot(vnode, None, dict(self._tables.refs.get(fid.vnode, {})), self)

    def stage(self, fid: Fid, offset: int) -> StagedData:
        with self._lock:
            header = self.header()
            if header.type is not VolumeType.READ_WRITE:
                raise AfsError(
                    AfsCode.EROFS,
                    f"volume {self.volume_id} is {header.type.name}: it cannot be changed",
                )
            vnode = self.vnode(fid)
            check_file(vnode)
            return _MemoryStagedData(self, vnode, offset)

    def apply(self, mutations: Sequence[Mutation]) -> list[Outcome | AfsError]:
        answers: list[Outcome | AfsError] = []
        with self._lock:
            if self._closed:
                error = AfsError(AfsCode.VOFFLINE, f"volume {self.volume_id} is detached")
                return [error] * len(mutations)
            batch = ChangeSet(self._tables)
            now_ns = self._clock_ns()
            for mutation in mutations:
                try:
                    answers.append(perform(batch, mutation, now_ns))
                except AfsError as error:
                    answers.append(error)
            self._tables.take(batch)
        for mutation, answer in zip(mutations, answers, strict=True):
            if isinstance(mutation, StoreData) and isinstance(answer, Outcome):
                assert isinstance(mutation.staged, _MemoryStagedData)
                mutation.staged.spend()
        return answers

    def close(self) -> None:
        self._closed = True

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def pin(self, refs: Mapping[int, ChunkRef]) -> None:
        """Chunks in memory are never removed."""

    def unpin(self, refs: Mapping[int, ChunkRef]) -> None:
        """Chunks in memory are never removed."""

    def read_chunk(self, ref: ChunkRef) -> bytes:
        """The bytes of a chunk that count."""
        return self._tables.read_chunk(ref)

    def keep_chunk(self, data: bytes, digest: bytes) -> None:
        """Keeps a chunk."""
        self._tables.chunks[digest] = data

    def _check_open(self) -> None:
        if self._closed:
            raise AfsError(AfsCode.VOFFLINE, f"volume {self.volume_id} is detached")


class _MemoryTables(Tables):
    def __init__(self, state: VolumeState, root: Vnode) -> None:
        self._state = state
        self.vnodes: dict[int, Vnode] = {root.fid.vnode: root}
        self.names: dict[int, dict[str, DirectoryEntry]] = {}
        self.small: dict[int, bytes] = {}
        self.refs: dict[int, dict[int, ChunkRef]] = {}
        self.chunks: dict[bytes, bytes] = {}

    def state(self) -> VolumeState:
        return self._state

    def vnode(self, number: int) -> Vnode | None:
        return self.vnodes.get(number)

    def entry(self, directory: int, name: str) -> DirectoryEntry | None:
        return self.names.get(directory, {}).get(name)

    def entries(self, directory: int, limit: int) -> dict[str, DirectoryEntry]:
        return dict(islice(self.names.get(directory, {}).items(), limit))

    def inline(self, number: int) -> bytes:
        return self.small[number]

    def chunk(self, number: int, position: int) -> ChunkRef | None:
        return self.refs.get(number, {}).get(position)

    def read_chunk(self, ref: ChunkRef) -> bytes:
        return self.chunks[ref.hash][: ref.size]

    def store_chunk(self, data: bytes) -> ChunkRef | None:
        if not data.strip(b"\0"):
            return None
        digest = blake3(data).digest()
        self.chunks[digest] = data
        return ChunkRef(digest, len(data))

    def take(self, batch: ChangeSet) -> None:
        """Makes a batch's changes."""
        self._state = batch.state()
        for number, vnode in batch.vnodes.items():
            if vnode is None:
                self.vnodes.pop(number, None)
            else:
                self.vnodes[number] = vnode
        for (directory, name), entry in batch.names.items():
            if entry is None:
                self.names.get(directory, {}).pop(name, None)
            else:
                self.names.setdefault(directory, {})[name] = entry
        for number, edit in batch.data.items():
            self.small.pop(number, None)
            old = self.refs.pop(number, {})
            if edit.inline is not None:
                self.small[number] = edit.inline
                continue
            # Snapshots hold copies, so the file gets a new dictionary.
            kept = {position: ref for position, ref in old.items() if position < edit.keep}
            changed = kept | edit.chunks
            self.refs[number] = {
                position: ref for position, ref in changed.items() if ref is not None
            }


class _MemoryStagedData(BufferedStagedData):
    def __init__(self, volume: MemoryVolume, vnode: Vnode, offset: int) -> None:
        super().__init__(offset)
        self._vnode = vnode
        self._volume = volume

    def _check_end(self, end: int) -> None:
        check_staged_end(self._volume.header(), self._vnode, end)

    def _put(self, data: bytes, digest: bytes) -> None:
        self._volume.keep_chunk(data, digest)

    def _make_durable(self) -> None:
        pass

    def _let_go(self) -> None:
        pass

    def _forget(self) -> None:
        pass
