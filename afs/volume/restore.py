"""Makes a volume of a dump.

Nothing is touched before the whole dump was received and found good (R9).

Theory of operation
    A `Restore` takes the dump's bytes as they come (`feed`) into a temporary database of the
    volume's group, checking each frame; `finish` checks the whole: checksum, counts, that every
    name leads somewhere and every vnode lies under the root. Only then can it be put in place
    (`put_in_place`), which is quick, and what the volume has to be offline for. Whatever goes wrong
    before leaves the volume as it was.

    Restored over a volume, the new contents take over what clients may rely on: id, name, type,
    incarnation and quota stay, the counters go on, and DataVersions are given so that no client
    takes old data for new (`restore_over`).
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from afs.errors import AfsCode, AfsError
from afs.types import ChangeMark, VolumeHeader, VolumeType
from afs.v1 import dump_pb2
from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import Origin, VolumeState
from afs.volume.chunk_store import ChunkStaging, disk_errors
from afs.volume.collection import remove_unreferenced
from afs.volume.database_copy import copy_moment
from afs.volume.dump_frames import bad_dump
from afs.volume.dump_intake import DumpIntake
from afs.volume.flock import FileLock
from afs.volume.increment import Increment
from afs.volume.partition import Partition
from afs.volume.restore_over import carry_over
from afs.volume.restore_vnodes import VnodeTaker
from afs.volume.sqlite_errors import afs_errors
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.verify import check_structure, check_tree
from afs.volume.volume_group import draft_path
from afs.volume.volume_header import new_header


class Restore:
    """One dump on its way in; not thread-safe.

    A context manager: what was not put in place is gone at its end.

    Args:
        partition: where the volume is, or is to be.
        volume_id: its id; if the volume exists, it is restored over.
        name: its name, if it is new.
        clock_ns: the wall clock, nanoseconds since the Unix epoch.
    """

    # The temporary database; there is one when the dump's header has come.
    _connection: sqlite3.Connection

    def __init__(
        self,
        partition: Partition,
        *,
        volume_id: int,
        name: str,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._partition = partition
        self._volume_id = volume_id
        self._clock_ns = clock_ns
        self._group = partition.group_for(volume_id)
        self._header = new_header(
            volume_id, name, VolumeType.READ_WRITE, None, 0, secrets.token_hex(8), clock_ns()
        )
        self._intake = DumpIntake(self._prepare)
        # What the dump was laid over, as it was then; None: a full dump.
        self._base: ChangeMark | None = None
        self._base_data_version = 0
        self._finished = False
        self._stack = ExitStack()
        self._staging: ChunkStaging | None = None

    @property
    def dump_header(self) -> dump_pb2.DumpHeader:
        """What the dump says of itself; after `finish`."""
        assert self._finished, "what a dump says counts once it was checked"
        return self._intake.header

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the dump; blocks on the disk.

        Raises:
            AfsError: EINVAL for a bad dump; VDISKFULL, VIO. The restore is then over.
        """
        with disk_errors(), afs_errors():
            self._intake.feed(data)

    def finish(self) -> None:
        """Checks the whole, after the last byte; as `feed`. Then it can be put in place."""
        self._intake.end()
        taker, message = self._intake.taker, self._intake.header
        assert self._staging is not None, "a complete dump has a header"
        increment = taker.increment
        counter = message.change_counter + 1
        header = replace(
            self._header,
            change_counter=counter,
            max_quota_kib=message.max_quota_kib,
            used_kib=taker.used_kib if increment is None else increment.used_kib,
            file_count=message.vnode_count,
        )
        state = VolumeState(
            header,
            message.next_vnode,
            message.next_uniquifier,
            max(taker.max_data_version, self._base_data_version),
            Origin(ChangeMark(message.incarnation, message.change_counter), counter),
        )
        with disk_errors(), afs_errors(), self._group.chunks.lock(exclusive=False):
            self._staging.ensure_linked()
            rows.write_state(self._connection, state)
            try:
                if increment is None:
                    # The rows themselves were checked as they came.
                    check_structure(self._connection)
                else:
                    check_tree(self._connection, state)
            except AfsError as error:
                if error.code is not AfsCode.EIO:
                    raise
                raise bad_dump(error.detail) from error
            self._connection.execute("COMMIT")
            self._group.publish(self._connection, self._path)
            self._connection = sqlite_schema.connect(self._path)
        self._staging.let_go()
        self._finished = True

    def put_in_place(self) -> VolumeHeader:
        """Makes the volume what the dump says, durable on return; returns its new header.

        Nobody may have the volume open.

        Raises:
            AfsError: VBUSY if the volume is open; VSALVAGE if it is too damaged to go on from
                (delete it first); EINVAL if an incremental dump's base has changed since it began
                to come; VDISKFULL, VIO. The volume is then as it was.
        """
        assert self._finished, "only a dump that was checked is put in place"
        lock = FileLock.take(self._group.path / f"{self._volume_id}.lock")
        if lock is None:
            raise AfsError(AfsCode.VBUSY, f"volume {self._volume_id} is in use by another program")
        try:
            with disk_errors(), afs_errors():
                old = self._group.database(self._volume_id)
                if self._base is not None:
                    self._check_unchanged(old, self._base)
                if old.exists():
                    carry_over(self._connection, old, self._clock_ns())
                header = rows.read_state(self._connection).header
                self._connection.close()
                self._group.put_in_place(self._path, self._volume_id)
                return header
        finally:
            lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Throws away what was not put in place; a no-op when closed."""
        with disk_errors():
            linked = self._staging.forget() if self._staging is not None else []
            self._stack.close()
            remove_unreferenced(linked, self._group.chunks)

    def _prepare(self, message: dump_pb2.DumpHeader) -> VnodeTaker:
        """Makes the temporary database: an empty one, or a copy of an incremental dump's base."""
        if message.without_chunks:
            raise bad_dump("it has no chunks: it is part of a transfer between volservers")
        increment: Increment | None = None
        try:
            self._group.make()
            self._path = self._stack.enter_context(self._group.new_database(self._volume_id))
            draft = draft_path(self._path)
            if message.since:
                self._copy_base(message, draft)
                self._connection = sqlite_schema.open_draft(draft)
            else:
                self._connection = sqlite_schema.create_draft(draft)
            self._stack.callback(self._close_connection)
            self._connection.execute("BEGIN")
            if message.since:
                increment = Increment(self._connection, rows.read_state(self._connection))
        except BaseException:
            self._stack.close()
            raise
        chunks = self._group.chunks
        self._staging = chunks.open_staging(self._path.stem)
        return VnodeTaker(
            self._connection, self._staging, chunks, message, self._volume_id, increment
        )

    def _close_connection(self) -> None:
        self._connection.close()

    def _copy_base(self, message: dump_pb2.DumpHeader, target: Path) -> None:
        """Copies the volume, if the dump fits over it; EINVAL if not, EIO if it is damaged."""
        path = self._group.database(self._volume_id)
        since = f"change {message.since} of {message.incarnation}"
        if not path.exists():
            raise AfsError(
                AfsCode.EINVAL,
                f"the dump is incremental, from {since} on: there is no volume"
                f" {self._volume_id} to restore it over",
            )
        with (
            self._group.chunks.lock(exclusive=False),
            contextlib.closing(sqlite_schema.connect(path)) as source,
        ):
            source.execute("BEGIN")
            state = rows.read_state(source)
            here = ChangeMark(state.header.incarnation, state.header.change_counter)
            last = rows.last_change(source)
            asked = (message.incarnation, message.since)
            fits = (here.incarnation == asked[0] and last <= asked[1] <= here.change_counter) or (
                state.origin.mark == asked and last <= state.origin.at
            )
            if not fits:
                raise AfsError(
                    AfsCode.EINVAL,
                    f"the dump is incremental, from {since} on: volume {self._volume_id} is at"
                    f" change {here.change_counter} of {here.incarnation}",
                )
            self._base = here
            self._base_data_version = state.max_data_version
            copy_moment(source, target)

    def _check_unchanged(self, path: Path, base: ChangeMark) -> None:
        with contextlib.closing(sqlite_schema.connect(path)) as connection:
            header = rows.read_state(connection).header
        if (header.incarnation, header.change_counter) != base:
            raise AfsError(
                AfsCode.EINVAL,
                f"volume {self._volume_id} changed while the dump came in: it is at change"
                f" {header.change_counter}, and was at {base.change_counter}",
            )


def restore_volume(
    partition: Partition,
    pieces: Iterable[bytes],
    *,
    volume_id: int,
    name: str,
    clock_ns: Callable[[], int] = time.time_ns,
) -> SqliteVolume:
    """The volume made of a dump, open; over an existing one of that id, which nobody may have open.

    Raises:
        AfsError: EINVAL for a bad dump; as `Restore.put_in_place`. Nothing has changed then.
    """
    with contextlib.ExitStack() as stack:
        restore = stack.enter_context(
            Restore(partition, volume_id=volume_id, name=name, clock_ns=clock_ns)
        )
        for piece in pieces:
            restore.feed(piece)
        restore.finish()
        restore.put_in_place()
    return partition.open_volume(volume_id, clock_ns=clock_ns)
