"""Reads of a volume's data that another commit may take away while they are being found.

A reader's moment keeps what the database said, not the chunks it named: they may be collected
after a later commit. Then the reader looks again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol, TypeVar

from afs.errors import AfsCode, AfsError
from afs.limits import CHUNK_BYTES
from afs.types import Fid, Vnode
from afs.volume import sqlite_tables as rows
from afs.volume.chunk_store import ChunkStore
from afs.volume.data_snapshot import ChunkSource, StoredSnapshot
from afs.volume.file_data import is_inline, positions
from afs.volume.packs import read_small
from afs.volume.rules import check_file, no_vnode
from afs.volume.sqlite_readers import Moment
from afs.volume.sqlite_schema import damaged

# What changes all the time is tried this often without holding writers up.
_TRIES: Final = 4

T = TypeVar("T")


class ReadVolume(ChunkSource, Protocol):
    """The volume, as far as reads need it."""

    volume_id: int

    def reading(self) -> AbstractContextManager[Moment]:
        """A connection that sees one moment of the volume."""

    def load_vnode(self, moment: Moment, fid: Fid) -> Vnode | None:
        """The vnode as of a moment, None if there is none."""


class StableReads:
    """Snapshots and targets of links, of one volume.

    Args:
        volume: the volume.
        chunks: its group's chunks.
        version: grows with every commit, before what it made garbage is collected.
        write_lock: while it is held nothing is committed or collected.
    """

    def __init__(
        self,
        volume: ReadVolume,
        chunks: ChunkStore,
        version: Callable[[], int],
        write_lock: threading.Lock,
    ) -> None:
        self._volume = volume
        self._chunks = chunks
        self._version = version
        self._write_lock = write_lock

    def link(self, fid: Fid) -> str:
        """The target of a symbolic link."""
        return self._found(lambda: self._try_link(fid))

    def snapshot(self, fid: Fid, offset: int, length: int | None) -> StoredSnapshot:
        """A file's status and data at this moment; as `Volume.snapshot`."""
        return self._found(lambda: self._try_snapshot(fid, offset, length))

    def _found(self, attempt: Callable[[], T | None]) -> T:
        """What is found when nothing is taken away meanwhile (None: something was)."""
        for _ in range(_TRIES):
            found = attempt()
            if found is not None:
                return found
        with self._write_lock:
            found = attempt()
        assert found is not None, "nothing changes while the write lock is held"
        return found

    def _try_link(self, fid: Fid) -> str | None:
        with self._volume.reading() as moment:
            if self._volume.load_vnode(moment, fid) is None:
                raise no_vnode(fid)
            data = self._small(moment, fid.vnode)
        return None if data is None else data.decode()

    def _try_snapshot(self, fid: Fid, offset: int, length: int | None) -> StoredSnapshot | None:
        volume = self._volume
        with volume.reading() as moment:
            vnode = volume.load_vnode(moment, fid)
            if vnode is None:
                raise no_vnode(fid)
            check_file(vnode)
            if is_inline(vnode.length):
                data = self._small(moment, fid.vnode)
                if data is None:
                    return None
                if len(data) != vnode.length:
                    raise damaged("inline_data", f"vnode {fid.vnode}")
                return StoredSnapshot(vnode, data, {}, volume)
            end = vnode.length if length is None else min(offset + length, vnode.length)
            refs = dict(
                rows.read_chunk_refs(
                    moment.connection, fid.vnode, offset // CHUNK_BYTES, positions(end)
                )
            )
        snapshot = StoredSnapshot(vnode, None, refs, volume)
        # The chunks are pinned now. If no commit was published since, none of them can have been
        # collected; if one was, none of this file's can, as long as the file is the same.
        if self._version() != moment.version:
            with volume.reading() as now:
                current = rows.read_vnode(now.connection, volume.volume_id, fid.vnode)
            if current is None or current.data_version != vnode.data_version:
                snapshot.close()
                return None
        return snapshot

    def _small(self, moment: Moment, number: int) -> bytes | None:
        """Small data as of a moment, all of them; None if their pack was collected meanwhile."""
        try:
            return read_small(moment.connection, self._chunks, number)
        except AfsError as error:
            if error.code is AfsCode.EIO and self._version() != moment.version:
                return None
            raise
