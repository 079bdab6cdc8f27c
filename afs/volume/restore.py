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
from types import TracebackType
from typing import Self

from google.protobuf.message import DecodeError

from afs.errors import AfsCode, AfsError
from afs.types import VolumeHeader, VolumeType
from afs.v1 import dump_pb2
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import VolumeState
from afs.volume.chunk_store import disk_errors
from afs.volume.collection import remove_unreferenced
from afs.volume.dump_frames import Frame, FrameKind, FrameReader, bad_dump
from afs.volume.flock import FileLock
from afs.volume.partition import Partition
from afs.volume.restore_over import carry_over
from afs.volume.restore_vnodes import VnodeTaker, check_header_message
from afs.volume.sqlite_errors import afs_errors
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.verify import check_tree
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
        self._frames = FrameReader()
        self._dump_header: dump_pb2.DumpHeader | None = None
        self._finished = False
        self._trailer_seen = False
        self._stack = ExitStack()
        try:
            with disk_errors(), afs_errors():
                self._group.make()
                self._path = self._stack.enter_context(self._group.new_database(volume_id))
                self._connection = self._group.create_database(self._path)
                self._stack.callback(self._connection.close)
                # If we crash, the temporary database is thrown away; `put_in_place` makes it
                # durable.
                self._connection.execute("PRAGMA synchronous = OFF")
                self._connection.execute("BEGIN")
        except BaseException:
            self._stack.close()
            raise
        self._taker = VnodeTaker(self._connection, self._group.chunks.open_staging(self._path.stem))

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the dump; blocks on the disk.

        Raises:
            AfsError: EINVAL for a bad dump; VDISKFULL, VIO. The restore is then over.
        """
        with disk_errors(), afs_errors():
            for frame in self._frames.feed(data):
                self._take(frame)

    def finish(self) -> None:
        """Checks the whole, after the last byte; as `feed`. Then it can be put in place."""
        self._frames.end()
        assert self._dump_header is not None, "a complete dump has a header"
        message = self._dump_header
        header = replace(
            self._header,
            change_counter=message.change_counter + 1,
            max_quota_kib=message.max_quota_kib,
            used_kib=self._taker.used_kib,
            file_count=self._taker.vnode_count,
        )
        state = VolumeState(
            header, message.next_vnode, message.next_uniquifier, self._taker.max_data_version
        )
        with disk_errors(), afs_errors(), self._group.chunks.lock(exclusive=False):
            self._taker.ensure_linked()
            rows.write_state(self._connection, state)
            try:
                check_tree(self._connection, state)
            except AfsError as error:
                if error.code is not AfsCode.EIO:
                    raise
                raise bad_dump(error.detail) from error
            self._connection.execute("COMMIT")
        self._taker.committed()
        self._finished = True

    def put_in_place(self) -> VolumeHeader:
        """Makes the volume what the dump says, durable on return; returns its new header.

        Nobody may have the volume open.

        Raises:
            AfsError: VBUSY if the volume is open; VSALVAGE if it is too damaged to go on from
                (delete it first); VDISKFULL, VIO. The volume is then as it was.
        """
        assert self._finished, "only a dump that was checked is put in place"
        lock = FileLock.take(self._group.path / f"{self._volume_id}.lock")
        if lock is None:
            raise AfsError(AfsCode.VBUSY, f"volume {self._volume_id} is in use by another program")
        try:
            with disk_errors(), afs_errors():
                old = self._group.database(self._volume_id)
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
            linked = self._taker.forget()
            self._stack.close()
            remove_unreferenced(linked, self._group.chunks)

    def _take(self, frame: Frame) -> None:
        try:
            if (frame.kind is FrameKind.HEADER) != (self._dump_header is None):
                raise bad_dump("its header is not its first frame")
            match frame.kind:
                case FrameKind.HEADER:
                    self._dump_header = dump_pb2.DumpHeader.FromString(frame.payload)
                    check_header_message(self._dump_header)
                    self._taker.begin(self._dump_header, self._volume_id)
                case FrameKind.VNODE | FrameKind.MORE:
                    self._taker.take_vnode(
                        dump_pb2.DumpVnode.FromString(frame.payload),
                        goes_on=frame.kind is FrameKind.MORE,
                    )
                case FrameKind.CHUNK:
                    self._taker.take_chunk(dump_pb2.DumpChunk.FromString(frame.payload).data)
                case FrameKind.TRAILER:
                    self._check_trailer(frame)
        except DecodeError as error:
            raise bad_dump("a frame is no message of its kind") from error
        except sqlite3.IntegrityError as error:
            raise bad_dump("a vnode, a name or a chunk's position comes twice") from error

    def _check_trailer(self, frame: Frame) -> None:
        trailer = dump_pb2.DumpTrailer.FromString(frame.payload)
        assert self._dump_header is not None
        if trailer.blake3 != frame.digest_before:
            raise bad_dump("its checksum is wrong")
        expected = (trailer.vnode_count, trailer.chunk_count, self._dump_header.vnode_count)
        found = (self._taker.vnode_count, self._taker.chunk_count, self._taker.vnode_count)
        if expected != found:
            raise bad_dump(f"(vnodes, chunks, vnodes) should be {expected}: found {found}")
        self._taker.end()


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
