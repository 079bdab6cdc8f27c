"""The writer's side of a volume on disk: what the rules see of it, and data on its way in."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from afs.types import DirectoryEntry, Vnode, VolumeHeader
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import Tables, VolumeState, check_staged_end
from afs.volume.chunk_store import ChunkStaging, ChunkStore
from afs.volume.file_data import ChunkRef
from afs.volume.packs import read_small
from afs.volume.staged_data import BufferedStagedData
from afs.volume.vnode_cache import VnodeCache


class ChunkStagedData(BufferedStagedData):
    """Staged data whose chunks go to the group's `staging` while they arrive.

    Args:
        offset: where in the file the data begins, in bytes.
        staging: where its chunks go.
        check_end: raises VOVERQUOTA if the file may not reach an offset (bytes).
        forgotten: told of chunks that were linked and then not stored.
    """

    def __init__(
        self,
        offset: int,
        staging: ChunkStaging,
        check_end: Callable[[int], None],
        forgotten: Callable[[list[bytes]], None],
    ) -> None:
        super().__init__(offset)
        self._staging = staging
        self._may_reach = check_end
        self._forgotten = forgotten

    def ensure_linked(self) -> None:
        """Links chunks again that were collected since `finish`; under the group's lock."""
        self._staging.ensure_linked()

    def digests(self) -> set[bytes]:
        """The hashes of the chunks it keeps."""
        return self._staging.digests()

    def _check_end(self, end: int) -> None:
        self._may_reach(end)

    def _put(self, data: bytes, digest: bytes) -> None:
        self._staging.put(data, digest)

    def _make_durable(self) -> None:
        self._staging.make_durable()

    def _let_go(self) -> None:
        self._staging.let_go()

    def _forget(self) -> None:
        if linked := self._staging.forget():
            self._forgotten(linked)


class WriterTables(Tables):
    """The volume as the rules see it, on the writer's connection; used under the write lock only.

    Args:
        connection: the writer's.
        state: tells the state as of the last commit.
        cache: the vnodes in memory, which are as of the last commit.
        chunks: the group's chunks.
        owner: the stem of the database.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        state: Callable[[], VolumeState],
        cache: VnodeCache,
        chunks: ChunkStore,
        owner: str,
    ) -> None:
        self._connection = connection
        self._current_state = state
        self._volume_id = state().header.volume_id
        self._cache = cache
        self._chunks = chunks
        self._owner = owner
        # Chunks stored for changes that may have failed after all.
        self.strays: set[bytes] = set()

    def state(self) -> VolumeState:
        return self._current_state()

    def vnode(self, number: int) -> Vnode | None:
        cached = self._cache.number(number)
        return cached or rows.read_vnode(self._connection, self._volume_id, number)

    def entry(self, directory: int, name: str) -> DirectoryEntry | None:
        return rows.read_entry(self._connection, self._volume_id, directory, name)

    def entries(self, directory: int, limit: int) -> dict[str, DirectoryEntry]:
        found = rows.read_entries(self._connection, self._volume_id, directory, "", limit)
        return {entry.name: entry for entry in found}

    def inline(self, number: int) -> bytes:
        return read_small(self._connection, self._chunks, number)

    def chunk(self, number: int, position: int) -> ChunkRef | None:
        return rows.read_chunk_ref(self._connection, number, position)

    def read_chunk(self, ref: ChunkRef) -> bytes:
        return self._chunks.read_ref(ref)

    def store_chunk(self, data: bytes) -> ChunkRef | None:
        staging = self._chunks.open_staging(self._owner)
        staged = ChunkStagedData(0, staging, lambda _: None, self.strays.update)
        try:
            ref = staged.store(data)
        except BaseException:
            staged.discard()
            raise
        if ref is not None:
            self.strays.add(ref.hash)
        # Linked, and under the group's lock until the commit: it needs no name in `staging`.
        staged.spend()
        return ref


def quota_check(header: Callable[[], VolumeHeader], vnode: Vnode) -> Callable[[int], None]:
    """What tells data on its way into a file that it goes over the quota (VOVERQUOTA)."""
    return lambda end: check_staged_end(header(), vnode, end)
