"""A volume on disk: one SQLite database and the chunks of its group.

Theory of operation
    One thread at a time writes (under `_write_lock`), on a connection of its own; readers have
    others, so that in WAL mode they never wait for a commit's fsync. A commit is published to the
    vnode cache and the header after it is durable; what a reader loads meanwhile is kept only if no
    commit came in between (`VnodeCache.offer`).

    Order on disk, for a file with chunks: chunks written and fsynced, linked to their places,
    folders fsynced (all before `apply`, or within it for merged edges), then the commit of the
    references (WAL, synchronous=FULL). A crash in between leaves chunks that nothing refers to;
    they are garbage, never a reference without a chunk (C1).

    Garbage is collected by and by (`collect`), after a commit made some.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.types import DirectoryEntry, Fid, Vnode, VnodeType, VolumeHeader, VolumeType
from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import ChangeSet, VolumeState
from afs.volume.chunk_store import ChunkStore, disk_errors
from afs.volume.collection import SLICE_CHUNKS, collect_garbage
from afs.volume.database_copy import copy_file, copy_moment
from afs.volume.file_data import ChunkRef
from afs.volume.namespace import perform
from afs.volume.packing import Packing
from afs.volume.packs import bytes_to_pack
from afs.volume.rules import check_entry_name, check_file, no_vnode
from afs.volume.seal import break_seal, put_seal, seal_path
from afs.volume.sqlite_errors import afs_errors, sqlite_error
from afs.volume.sqlite_readers import Moment, ReaderPool
from afs.volume.sqlite_writing import ChunkStagedData, WriterTables, quota_check
from afs.volume.stable_reads import StableReads
from afs.volume.vnode_cache import VnodeCache
from afs.volume.volume import (
    CreateFile,
    DataSnapshot,
    Link,
    MakeDir,
    MakeSymlink,
    Mutation,
    Outcome,
    StagedData,
    StoreData,
    Volume,
)

_NEEDS_ROOM: Final = (CreateFile, MakeDir, MakeSymlink, Link, StoreData)


class SqliteVolume(Volume):
    """An open volume on disk.

    Made by `Partition`, which has checked the database and holds the volume's lock.

    Args:
        path: the database.
        chunks: the chunks of its group.
        clock_ns: the wall clock, nanoseconds since the Unix epoch.
        release: called once, when the volume is closed.
    """

    def __init__(
        self,
        path: Path,
        chunks: ChunkStore,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        release: Callable[[], None] = lambda: None,
    ) -> None:
        self.path = path
        self.chunks = chunks
        self._clock_ns = clock_ns
        self._release = release
        self._sealed = seal_path(path).exists()
        self._closed = False
        # Set when a commit failed in a way that leaves open what is on disk; only a new opening can
        # tell.
        self._failure: AfsError | None = None
        self._write_lock = threading.Lock()
        self._cache = VnodeCache()
        self._readers = ReaderPool(path, lambda: self._cache.version)
        # Garbage up to this hash was looked at; None: all of it.
        self._collected_to: bytes | None = b""
        self._unpinned = False
        # The database as a plain file. It stays open as long as SQLite has it open: closing it
        # lets go of all locks that this process has on it (POSIX), SQLite's included.
        self._file: int | None = None
        with afs_errors():
            self._writer = sqlite_schema.connect(path)
            try:
                self._state = rows.read_state(self._writer)
                to_pack = bytes_to_pack(self._writer)
            except BaseException:
                self._writer.close()
                raise
        self.volume_id = self._state.header.volume_id
        self._tables = WriterTables(
            self._writer, lambda: self._state, self._cache, chunks, path.stem
        )
        self._stable = StableReads(self, chunks, lambda: self._cache.version, self._write_lock)
        self._packing = Packing(
            self._writer,
            chunks,
            path.stem,
            to_pack,
            self._move_small_data,
            self._tables.strays.update,
        )

    # --- reading ---

    def header(self) -> VolumeHeader:
        return self._state.header

    @property
    def state(self) -> VolumeState:
        """The header and counters as of the last commit; never blocks."""
        return self._state

    def cached_vnode(self, fid: Fid) -> Vnode | None:
        if fid.volume != self.volume_id:
            return None
        return self._cache.get(fid)

    def vnode(self, fid: Fid) -> Vnode:
        self._check_open()
        vnode = self.cached_vnode(fid)
        if vnode is None:
            with self.reading() as moment:
                vnode = self.load_vnode(moment, fid)
        if vnode is None:
            raise no_vnode(fid)
        return vnode

    def lookup(self, directory: Fid, name: str) -> Vnode:
        check_entry_name(name)
        self._require_directory(directory)
        with self.reading() as moment:
            entry = rows.read_entry(moment.connection, self.volume_id, directory.vnode, name)
            if entry is None:
                raise AfsError(AfsCode.ENOENT, f"no {name!r} in directory {directory}")
            vnode = self.cached_vnode(entry.fid) or self.load_vnode(moment, entry.fid)
        if vnode is None or vnode.type is not entry.type:
            raise AfsError(
                AfsCode.EIO,
                f"{name!r} in directory {directory} stands for {entry.fid}, which is not there",
            )
        return vnode

    def entries(self, directory: Fid, after: str, limit: int) -> list[DirectoryEntry]:
        self._require_directory(directory)
        with self.reading() as moment:
            return rows.read_entries(
                moment.connection, self.volume_id, directory.vnode, after, limit
            )

    def read_link(self, fid: Fid) -> str:
        vnode = self.vnode(fid)
        if vnode.type is not VnodeType.SYMLINK:
            raise AfsError(
                AfsCode.EINVAL,
                f"vnode {fid} is a {vnode.type.name.lower()}: expected a symbolic link",
            )
        return self._stable.link(fid)

    def snapshot(self, fid: Fid, offset: int = 0, length: int | None = None) -> DataSnapshot:
        return self._stable.snapshot(fid, offset, length)

    # --- changing ---

    def stage(self, fid: Fid, offset: int) -> StagedData:
        self.check_writable()
        vnode = self.vnode(fid)
        check_file(vnode)
        staging = self.chunks.open_staging(self.path.stem)
        return ChunkStagedData(offset, staging, quota_check(self.header, vnode), self.add_strays)

    def apply(self, mutations: Sequence[Mutation]) -> list[Outcome | AfsError]:
        try:
            with self._write_lock:
                self._check_open()
                if self._failure is not None:
                    raise self._failure
                # The group's lock keeps chunks that are linked already from being collected before
                # the commit.
                with disk_errors(), self.chunks.lock(exclusive=False):
                    batch, answers = self._perform_all(mutations)
                    self._commit(batch, mutations, answers)
                self._publish(batch)
                for mutation, staged in _stored(mutations, answers):
                    # What a merge made needless, or a later change of this batch replaced.
                    edit = batch.data[mutation.fid.vnode]
                    used = {ref.hash for ref in edit.chunks.values() if ref is not None}
                    self._tables.strays.update(staged.digests() - used)
                self._note_to_pack(batch)
        except AfsError as error:
            return [error] * len(mutations)
        for _, staged in _stored(mutations, answers):
            staged.spend()
        return answers

    def collect(self) -> bool:
        with self._write_lock:
            if self._closed or self._failure is not None:
                return False
            if self._unpinned:
                self._unpinned = False
                self._collected_to = b""
            if self._pack_some():
                return True
            if self._collected_to is None and not self._tables.strays:
                return False
            before = self._collected_to, len(self._tables.strays)
            with afs_errors():
                self._collected_to = collect_garbage(
                    self._writer,
                    self.path,
                    self.chunks,
                    self._collected_to,
                    self._tables.strays,
                    wait=False,
                    before_writing=self._unseal,
                )
            after = self._collected_to, len(self._tables.strays)
            return after not in (before, (None, 0))

    def close(self) -> None:
        with self._write_lock:
            if self._closed:
                return
            self._closed = True
            try:
                with disk_errors(), afs_errors():
                    self._close_connections()
            finally:
                self._release()

    # --- for the partition, the dump and the tests ---

    def make_small(self) -> None:
        """Makes the database small, if much of it need not be there; before `copy_database`.

        Changes wait meanwhile. If it cannot be done it is left as it is.
        """
        with (
            self._write_lock,
            contextlib.suppress(AfsError),
            disk_errors(),
            afs_errors(),
        ):
            self._check_open()
            if self._packing.pack_for_copy():
                self._unseal()
                self._writer.execute("VACUUM")

    def copy_database(self, target: Path) -> None:
        """Copies the database as it is at this moment to a new file, not synced.

        The caller holds the group's lock. Changes wait meanwhile.
        """
        with self._write_lock:
            self._check_open()
            with afs_errors():
                _, in_wal, moved = self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            if in_wal == moved:
                # All of it is in the file, and nobody else writes to that.
                if self._file is None:
                    self._file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                copy_file(self._file, target)
                return
            with self.reading() as moment:
                copy_moment(moment.connection, target)

    def reading(self) -> AbstractContextManager[Moment]:
        """A connection that sees one moment of the volume; VOFFLINE when it is closed."""
        self._check_open()
        return self._readers.moment()

    @contextlib.contextmanager
    def pinned(self, *, chunks: bool = True) -> Iterator[Moment]:
        """As `reading`, for as long as it takes: no chunk of that moment is collected meanwhile.

        Without `chunks` this is promised of packs only.
        """
        with contextlib.ExitStack() as stack:
            with self._write_lock:
                moment = stack.enter_context(self.reading())
                # The moment begins with the first look.
                rows.read_state(moment.connection)
                digests = (rows.read_hashes if chunks else rows.read_packs)(moment.connection)
                self.chunks.pin(digests)
            stack.callback(self._let_go, digests)
            yield moment

    def now_ns(self) -> int:
        """The wall clock the volume goes by, nanoseconds since the Unix epoch."""
        return self._clock_ns()

    def load_vnode(self, moment: Moment, fid: Fid) -> Vnode | None:
        """The vnode as of a moment, None if there is none; kept in memory if it is the latest."""
        if fid.volume != self.volume_id:
            return None
        vnode = rows.read_vnode(moment.connection, self.volume_id, fid.vnode)
        if vnode is None or vnode.fid != fid:
            return None
        self._cache.offer(vnode, moment.version)
        return vnode

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    def pin(self, refs: Mapping[int, ChunkRef]) -> None:
        """Keeps the chunks of a snapshot from being collected."""
        self.chunks.pin(ref.hash for ref in refs.values())

    def unpin(self, refs: Mapping[int, ChunkRef]) -> None:
        """Takes a pin back."""
        self._let_go([ref.hash for ref in refs.values()])

    def read_chunk(self, ref: ChunkRef) -> bytes:
        """The bytes of a chunk that count, verified."""
        return self.chunks.read_ref(ref)

    def check_writable(self) -> None:
        """EROFS unless the volume is read-write."""
        header = self._state.header
        if header.type is not VolumeType.READ_WRITE:
            raise AfsError(
                AfsCode.EROFS,
                f"volume {self.volume_id} is {header.type.name}: it cannot be changed",
            )

    def add_strays(self, digests: Sequence[bytes]) -> None:
        """Notes chunks to be removed, if nothing refers to them."""
        with self._write_lock:
            self._tables.strays.update(digests)

    # --- inside ---

    def _check_open(self) -> None:
        if self._closed:
            raise AfsError(AfsCode.VOFFLINE, f"volume {self.volume_id} is detached")

    def _let_go(self, digests: Sequence[bytes]) -> None:
        self.chunks.unpin(digests)
        self._unpinned = True

    def _require_directory(self, fid: Fid) -> None:
        vnode = self.vnode(fid)
        if vnode.type is not VnodeType.DIRECTORY:
            raise AfsError(
                AfsCode.ENOTDIR, f"vnode {fid} is a {vnode.type.name.lower()}: expected a directory"
            )

    def _perform_all(
        self, mutations: Sequence[Mutation]
    ) -> tuple[ChangeSet, list[Outcome | AfsError]]:
        batch = ChangeSet(self._tables)
        answers: list[Outcome | AfsError] = []
        now_ns = self._clock_ns()
        for mutation in mutations:
            try:
                if isinstance(mutation, _NEEDS_ROOM):
                    self.chunks.check_room()
                with afs_errors():
                    answers.append(perform(batch, mutation, now_ns))
            except AfsError as error:
                answers.append(error)
        return batch, answers

    def _commit(
        self, batch: ChangeSet, mutations: Sequence[Mutation], answers: Sequence[Outcome | AfsError]
    ) -> None:
        if batch.state() == self._state:
            return
        for _, staged in _stored(mutations, answers):
            staged.ensure_linked()
        self._transaction(lambda: rows.write_changes(self._writer, batch))

    def _transaction(self, write: Callable[[], object]) -> None:
        """Has the database changed in a transaction, which is durable on return."""
        self._unseal()
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            write()
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            failure = sqlite_error(error)
            if failure.code is AfsCode.VIO:
                self._failure = failure
            raise failure from error
        finally:
            with contextlib.suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")

    def _move_small_data(self, write: Callable[[], object]) -> None:
        """Has small data moved in a transaction; readers that looked before look again."""
        self._transaction(write)
        self._cache.publish(())

    def _note_to_pack(self, batch: ChangeSet) -> None:
        # The changes are committed, whatever becomes of this.
        with contextlib.suppress(AfsError), disk_errors(), afs_errors():
            self._packing.note(edit.inline for edit in batch.data.values())

    def _pack_some(self) -> bool:
        """Moves small data to packs or out of them, a little; whether anything was done."""
        after = self._collected_to
        try:
            with disk_errors(), afs_errors():
                garbage = (
                    [] if after is None else rows.read_garbage(self._writer, after, SLICE_CHUNKS)
                )
                return self._packing.step(garbage)
        except AfsError as error:
            # To collect garbage may be what helps.
            if error.code is not AfsCode.VDISKFULL:
                raise
            return False

    def _unseal(self) -> None:
        if self._sealed:
            break_seal(self.path)
            self._sealed = False

    def _publish(self, batch: ChangeSet) -> None:
        self._state = batch.state()
        self._cache.publish(batch.vnodes.items())
        if batch.data:
            self._collected_to = b""

    def _close_connections(self) -> None:
        self._readers.close()
        try:
            complete = self._failure is None and self._settle()
        finally:
            self._writer.close()
            if self._file is not None:
                os.close(self._file)
        # Sealed is only what is all in the database and in no WAL.
        if complete and not self._sealed:
            with self.chunks.lock(exclusive=False):
                put_seal(self.path)

    def _settle(self) -> bool:
        """Brings all into the database.

        False if it cannot be done now, and so is left in the WAL.
        """
        try:
            with afs_errors():
                if self._tables.strays:
                    # The next opening collects them.
                    self._unseal()
                    rows.add_garbage(self._writer, self._tables.strays)
                assert not (self._sealed and self._writer.total_changes), "changed under its seal"
                return sqlite_schema.checkpoint(self._writer)
        except AfsError as error:
            if error.code is AfsCode.VDISKFULL:
                return False
            raise


def _stored(
    mutations: Sequence[Mutation], answers: Sequence[Outcome | AfsError]
) -> Iterator[tuple[StoreData, ChunkStagedData]]:
    """The changes of a batch that stored data, and the data."""
    for mutation, answer in zip(mutations, answers, strict=True):
        if isinstance(mutation, StoreData) and isinstance(answer, Outcome):
            assert isinstance(mutation.staged, ChunkStagedData)
            yield mutation, mutation.staged
