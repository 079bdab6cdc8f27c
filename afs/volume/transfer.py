"""The receiving half of a volume's transfer: for move, copy and release.

Theory of operation
    A `Transfer` gathers a volume in a temporary database of its group, round by round. A round is a
    dump without chunks (`feed`), incremental but for the first one onto nothing; then the chunks
    that its files refer to and the group lacks (`missing`, `take_chunk`); and then all of it is
    checked and on disk (`finish_round`). `put_in_place` renames the database over what was there;
    what was not put in place is gone after `close`.

    The first round's base is what the partition has of the volume: the read-only volume that is to
    be replaced, or what a volume that was moved away left behind. So only what changed is sent.

    T1  The group is looked through for chunks, and the database's references begin to count, under
        one holding of the group's lock: no collection takes away a chunk that was found.
    T2  What is put in place is the state that was sent: same incarnation, change counter, Fids and
        DataVersions. A read-write volume under another id is a copy: it has a fresh incarnation.
    T3  Whatever comes is checked as a dump that is restored is (R9); of a later round only what it
        changed (`increment`).
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from blake3 import blake3

from afs.errors import AfsCode, AfsError
from afs.types import ChangeMark, VolumeHeader, VolumeType
from afs.v1 import dump_pb2
from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import VolumeState
from afs.volume.chunk_store import ChunkStaging, disk_errors
from afs.volume.collection import remove_unreferenced
from afs.volume.database_copy import copy_moment
from afs.volume.dump_frames import bad_dump
from afs.volume.dump_intake import DumpIntake
from afs.volume.flock import FileLock
from afs.volume.increment import Increment
from afs.volume.lost_data import LOST_HASH
from afs.volume.partition import Partition
from afs.volume.remnant import find_remnant, remove_remnant
from afs.volume.restore_vnodes import VnodeTaker
from afs.volume.seal import check_seal
from afs.volume.sqlite_errors import afs_errors
from afs.volume.verify import check_header, check_rows, check_structure
from afs.volume.volume_group import draft_path
from afs.volume.volume_header import new_header

# Chunks asked for at a time: 32 KiB of hashes.
MISSING_PAGE_CHUNKS: Final = 1024

_WANTED: Final = "CREATE TABLE wanted (hash BLOB PRIMARY KEY, size INTEGER) WITHOUT ROWID"
_ALL_REFERENCES: Final = "SELECT hash, max(size) FROM chunks GROUP BY hash"
_NEW_REFERENCES: Final = (
    "SELECT c.hash, max(c.size) FROM temp.taken t JOIN chunks c ON c.vnode = t.vnode GROUP BY hash"
)


class Transfer:
    """One volume on its way in; blocks on the disk; used by one thread at a time.

    A context manager: what was not put in place is gone at its end. After an AfsError it is over.

    Args:
        partition: where the volume is to be.
        volume_id: its id there.
        name: its name there.
        type: its type there.
        read_write_id: the id of its read-write volume.
        clock_ns: the wall clock, nanoseconds since the Unix epoch.

    Raises:
        AfsError: EINVAL, ENAMETOOLONG for what no volume can have.
    """

    # The temporary database; there is one when the first round has begun.
    _connection: sqlite3.Connection

    def __init__(
        self,
        partition: Partition,
        *,
        volume_id: int,
        name: str,
        type: VolumeType,
        read_write_id: int,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._clock_ns = clock_ns
        self._partition = partition
        self._remnant = find_remnant(partition, volume_id)
        self._group = (
            partition.group_for(volume_id, read_write_id)
            if self._remnant is None
            else partition.group_at(self._remnant.path.parent)
        )
        self._target = new_header(volume_id, name, type, read_write_id, 0, "", clock_ns())
        # What rounds are laid over: the base, then the round before.
        self._mark: ChangeMark | None = None
        self._base_path, self.base = self._find_base()
        self._intake: DumpIntake | None = None
        self._state: VolumeState | None = None
        self._path: Path | None = None
        self._staging: ChunkStaging | None = None
        # The read-write id that the volume has where it comes from.
        self._sent_id = 0
        self._is_placed = False
        self._stack = ExitStack()
        # Hashes of chunks to come, and how many bytes each has at least: in a file of SQLite's own,
        # as there may be millions.
        self._wanted = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._wanted.execute(_WANTED)
        self._stack.callback(self._wanted.close)
        self.missing_chunks = 0
        self.missing_bytes = 0
        # One of the round's chunks that are here already, for each folder of chunks.
        self._reused: dict[int, bytes] = {}

    base: ChangeMark | None
    """What the partition has of this volume, undamaged, for a first round to build on."""

    @property
    def has_begun(self) -> bool:
        """Whether a first round has begun."""
        return self._path is not None

    def begin(self, *, on_base: bool) -> None:
        """Begins the first round; later ones begin by themselves, each on the one before.

        Args:
            on_base: the round's dump is incremental, since the base.

        Raises:
            AfsError: EINVAL without a base, or if a round has begun; VDISKFULL, VIO.
        """
        if self._path is not None or (on_base and self.base is None):
            raise AfsError(
                AfsCode.EINVAL,
                f"a round with on_base {on_base}, and the volume has {self._mark or self.base}",
            )
        with disk_errors(), afs_errors():
            self._make_database(on_base=on_base)

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the round's dump; with the last ones, checks it.

        Raises:
            AfsError: EINVAL for a bad dump, or one that does not fit the base; VDISKFULL, VIO.
        """
        assert self._path is not None, "a round has begun"
        if self._intake is None:
            self._state = None
            self._intake = DumpIntake(self._prepare)
        with disk_errors(), afs_errors():
            self._intake.feed(data)
            if self._intake.is_complete and self._state is None:
                self._complete()

    def missing(self) -> Iterator[list[bytes]]:
        """The hashes of the chunks that the round needs and the group lacks, page by page.

        After the dump's last byte; `missing_chunks` and `missing_bytes` say how many they are in
        all. EINVAL if the dump is not complete.
        """
        self._check_complete()
        return self._pages()

    def take_chunk(self, data: bytes) -> None:
        """Takes a chunk that was asked for.

        Raises:
            AfsError: EINVAL for any other; VDISKFULL, VIO.
        """
        assert self._staging is not None, "a dump has come"
        digest = blake3(data).digest()
        with disk_errors(), afs_errors():
            found = self._wanted.execute(
                "DELETE FROM wanted WHERE hash = ? RETURNING size", (digest,)
            ).fetchone()
            if found is None:
                raise AfsError(
                    AfsCode.EINVAL, f"chunk {digest.hex()} was not asked for, or is damaged"
                )
            if len(data) < found[0]:
                raise AfsError(
                    AfsCode.EINVAL,
                    f"chunk {digest.hex()} has {len(data)} bytes: expected {found[0]}",
                )
            self._staging.put(data, digest)

    def finish_round(self) -> None:
        """Makes all that came durable, when nothing is missing any more.

        Raises:
            AfsError: EINVAL if a chunk that was asked for did not come; VDISKFULL, VIO.
        """
        self._check_complete()
        assert self._intake is not None and self._staging is not None
        with disk_errors(), afs_errors():
            (lacking,) = self._wanted.execute("SELECT count(*) FROM wanted").fetchone()
            if lacking:
                raise AfsError(AfsCode.EINVAL, f"{lacking} chunks did not come")
            self._staging.make_durable(self._reused.values())
            # The database refers to them.
            self._staging.let_go()
            sqlite_schema.checkpoint(self._connection)
            _sync(self._path)
        header = self._intake.header
        self._mark = ChangeMark(header.incarnation, header.change_counter)
        self._sent_id = header.read_write_id
        self._intake = None

    def put_in_place(self, *, in_transit: bool) -> VolumeHeader:
        """Makes the volume what the last round says, durable on return; returns its new header.

        Nobody may have the volume open.

        Args:
            in_transit: it is half of a move that has not ended; nobody serves it.

        Raises:
            AfsError: VBUSY if the volume is open; VVOLEXISTS if it is a read-write volume that is
                no half of a move; VDISKFULL, VIO. The volume is then as it was.
        """
        state, path = self._state, self._path
        assert state is not None and path is not None and self._intake is None, "a round is over"
        volume_id = self._target.volume_id
        lock = FileLock.take(self._group.path / f"{volume_id}.lock")
        if lock is None:
            raise AfsError(AfsCode.VBUSY, f"volume {volume_id} is in use by another program")
        try:
            with disk_errors(), afs_errors():
                header = self._final_header(state.header, in_transit=in_transit)
                self._connection.execute("BEGIN")
                rows.write_state(self._connection, replace(state, header=header))
                self._connection.execute("COMMIT")
                self._connection.close()
                self._group.put_in_place(path, volume_id)
                self._is_placed = True
                return header
        finally:
            lock.release()

    def close(self) -> None:
        """Throws away what was not put in place; a no-op when closed."""
        with disk_errors():
            linked = self._staging.forget() if self._staging is not None else []
            self._stack.close()
            remove_unreferenced(linked, self._group.chunks)
        if self._is_placed and self._remnant is not None:
            # It is of no use any more.
            remove_remnant(self._partition, self._remnant)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # --- inside ---

    def _check_complete(self) -> None:
        """EINVAL unless the round's dump has come as a whole."""
        if self._intake is None:
            raise bad_dump("it ends too early")
        self._intake.end()

    def _find_base(self) -> tuple[Path, ChangeMark | None]:
        path = self._group.database(self._target.volume_id)
        if self._target.type is VolumeType.READ_WRITE:
            if self._remnant is None:
                return path, None
            path = self._remnant.path
        elif not path.exists():
            return path, None
        # Damage, or a database of an older schema: all is sent anew.
        with contextlib.suppress(AfsError), disk_errors():
            with self._group.chunks.lock(exclusive=False):
                if check_header(path) != sqlite_schema.SCHEMA_VERSION:
                    return path, None
                sealed = check_seal(path)
            if not sealed:
                check_rows(path)
            with afs_errors(), contextlib.closing(sqlite_schema.connect(path)) as connection:
                header = rows.read_state(connection).header
            family = (self._target.type, self._target.read_write_id)
            if (header.type, header.read_write_id) == family:
                return path, ChangeMark(header.incarnation, header.change_counter)
        return path, None

    def _make_database(self, *, on_base: bool) -> None:
        """Makes the temporary database: empty, or a copy of the base."""
        group = self._group
        try:
            group.make()
            path = self._stack.enter_context(group.new_database(self._target.volume_id))
            draft = draft_path(path)
            if on_base:
                with (
                    group.chunks.lock(exclusive=False),
                    contextlib.closing(sqlite_schema.connect(self._base_path)) as source,
                ):
                    copy_moment(source, draft)
                self._connection = sqlite_schema.open_draft(draft)
                self._mark = self.base
            else:
                self._connection = sqlite_schema.create_draft(draft)
            self._stack.callback(self._close_connection)
        except BaseException:
            self._stack.close()
            raise
        self._path = path

    def _close_connection(self) -> None:
        self._connection.close()

    def _prepare(self, message: dump_pb2.DumpHeader) -> VnodeTaker:
        assert self._path is not None, "a round has begun"
        if not message.without_chunks or not message.incarnation:
            raise bad_dump("it is none that volservers send to each other")
        asked = (message.incarnation, message.since)
        if self._mark is None:
            if message.since:
                raise bad_dump(f"it is incremental, from change {asked[1]} of {asked[0]} on")
        elif self._mark != asked:
            raise bad_dump(
                f"it is from change {asked[1]} of {asked[0]} on: expected {self._mark[1]} of"
                f" {self._mark[0]}"
            )
        self._connection.execute("BEGIN")
        increment: Increment | None = None
        if self._mark is not None:
            base = rows.read_state(self._connection)
            if (
                message.next_vnode < base.next_vnode
                or message.next_uniquifier < base.next_uniquifier
            ):
                raise bad_dump("its counters are lower than those of its base")
            header = replace(base.header, volume_id=self._target.volume_id)
            increment = Increment(self._connection, replace(base, header=header))
        chunks = self._group.chunks
        self._staging = chunks.open_staging(self._path.stem)
        return VnodeTaker(
            self._connection, self._staging, chunks, message, self._target.volume_id, increment
        )

    def _complete(self) -> None:
        """Checks and commits a round's dump, and finds out which chunks are missing."""
        assert self._intake is not None and self._path is not None and self._staging is not None
        message, taker = self._intake.header, self._intake.taker
        increment = taker.increment
        header = replace(
            self._target,
            backup_id=message.backup_id,
            incarnation=message.incarnation,
            change_counter=message.change_counter,
            max_quota_kib=message.max_quota_kib,
            used_kib=taker.used_kib if increment is None else increment.used_kib,
            file_count=message.vnode_count,
            created_ns=message.created_ns,
            updated_ns=message.updated_ns,
            offline_message=message.offline_message,
            leave_offline=message.leave_offline,
        )
        state = VolumeState(
            header, message.next_vnode, message.next_uniquifier, taker.max_data_version
        )
        with self._group.chunks.lock(exclusive=False):
            self._staging.ensure_linked()
            rows.write_state(self._connection, state)
            if increment is not None:
                increment.check()
            else:
                _check_structure(self._connection)
            self._connection.execute("COMMIT")
            self._look_for_chunks(_ALL_REFERENCES if increment is None else _NEW_REFERENCES)
            if not self._path.exists():
                self._group.publish(self._connection, self._path)
                self._connection = sqlite_schema.connect(self._path)
                # If we crash, it is thrown away; `finish_round` makes it durable.
                self._connection.execute("PRAGMA synchronous = OFF")
        self._state = state

    def _look_for_chunks(self, references: str) -> None:
        """Notes which chunks the group lacks; under the group's lock (T1)."""
        self.missing_chunks = self.missing_bytes = 0
        self._reused.clear()
        self._wanted.execute("BEGIN")
        self._wanted.execute("DELETE FROM wanted")
        for digest, size in self._connection.execute(references):
            if digest == LOST_HASH:
                continue
            if self._has_chunk(digest, size):
                self._reused[digest[0]] = digest
                continue
            self._wanted.execute("INSERT INTO wanted VALUES (?, ?)", (digest, size))
            self.missing_chunks += 1
            self.missing_bytes += size
        self._wanted.execute("COMMIT")

    def _has_chunk(self, digest: bytes, size: int) -> bool:
        try:
            return os.stat(self._group.chunks.path(digest)).st_size >= size
        except FileNotFoundError:
            return False

    def _pages(self) -> Iterator[list[bytes]]:
        query = "SELECT hash FROM wanted WHERE hash > ? ORDER BY hash LIMIT ?"
        after = b""
        while page := self._wanted.execute(query, (after, MISSING_PAGE_CHUNKS)).fetchall():
            after = page[-1][0]
            yield [digest for (digest,) in page]

    def _final_header(self, header: VolumeHeader, *, in_transit: bool) -> VolumeHeader:
        """The header the volume gets; VVOLEXISTS where it must not be put."""
        assert self._intake is None
        old: VolumeHeader | None = None
        path = self._group.database(header.volume_id)
        if path.exists():
            # A damaged clone is replaced by a new one.
            with (
                contextlib.suppress(AfsError),
                afs_errors(),
                contextlib.closing(sqlite_schema.connect(path)) as connection,
            ):
                old = rows.read_state(connection).header
            if header.type is VolumeType.READ_WRITE and not (old is not None and old.in_transit):
                raise AfsError(
                    AfsCode.VVOLEXISTS, f"volume {header.volume_id} exists and is no half of a move"
                )
        if header.type is not VolumeType.READ_WRITE:
            return replace(
                header,
                backup_id=0,
                created_ns=old.created_ns if old is not None else self._clock_ns(),
                cloned_ns=self._clock_ns(),
                offline_message="",
                leave_offline=False,
                in_transit=in_transit,
            )
        if self._sent_id != header.volume_id:
            now_ns = self._clock_ns()
            return replace(
                header,
                backup_id=0,
                incarnation=secrets.token_hex(8),
                created_ns=now_ns,
                offline_message="",
                leave_offline=False,
                in_transit=in_transit,
            )
        return replace(header, in_transit=in_transit)


def _check_structure(connection: sqlite3.Connection) -> None:
    """EINVAL unless the rows, which were checked as they came, fit together."""
    try:
        check_structure(connection)
    except AfsError as error:
        if error.code is not AfsCode.EIO:
            raise
        raise bad_dump(error.detail) from error


def _sync(path: Path | None) -> None:
    assert path is not None
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
