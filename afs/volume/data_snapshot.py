"""A file's status and data at one moment, however it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from afs.errors import AfsCode, AfsError
from afs.limits import CHUNK_BYTES
from afs.types import Vnode
from afs.volume.file_data import ChunkRef
from afs.volume.volume import DataSnapshot


class ChunkSource(Protocol):
    """Where a snapshot's chunks come from: the volume."""

    @property
    def is_closed(self) -> bool:
        """Whether the volume was closed."""

    def pin(self, refs: Mapping[int, ChunkRef]) -> None:
        """Keeps the chunks for the snapshot."""

    def unpin(self, refs: Mapping[int, ChunkRef]) -> None:
        """Lets go of them."""

    def read_chunk(self, ref: ChunkRef) -> bytes:
        """The bytes of a chunk that count, verified."""


class StoredSnapshot(DataSnapshot):
    """What both stores' snapshots are: inline bytes, or pinned chunks read one at a time.

    Args:
        vnode: the file.
        inline: its bytes, if it is inline.
        refs: its chunks by position; what is missing is a hole (or was not asked for).
        source: the volume.
    """

    def __init__(
        self, vnode: Vnode, inline: bytes | None, refs: Mapping[int, ChunkRef], source: ChunkSource
    ) -> None:
        self.vnode = vnode
        self._inline = inline
        self._refs = refs
        self._source = source
        self._last: tuple[int, bytes] | None = None
        self._closed = False
        source.pin(refs)

    def read(self, offset: int, length: int) -> bytes:
        if self._closed or self._source.is_closed:
            raise AfsError(AfsCode.VOFFLINE, f"volume {self.vnode.fid.volume} is detached")
        if offset < 0 or length < 0:
            raise AfsError(AfsCode.EINVAL, f"offset {offset}, length {length}: expected 0 or more")
        end = min(offset + length, self.vnode.length)
        if offset >= end:
            return b""
        if self._inline is not None:
            return self._inline[offset:end]
        first, last = offset // CHUNK_BYTES, (end - 1) // CHUNK_BYTES
        if first == last:
            return self._within(first, offset - first * CHUNK_BYTES, end - first * CHUNK_BYTES)
        parts = [self._within(first, offset - first * CHUNK_BYTES, CHUNK_BYTES)]
        parts += [self._within(position, 0, CHUNK_BYTES) for position in range(first + 1, last)]
        parts.append(self._within(last, 0, end - last * CHUNK_BYTES))
        return b"".join(parts)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._last = None
            self._source.unpin(self._refs)

    def _within(self, position: int, start: int, end: int) -> bytes:
        """The bytes from `start` to `end` of one chunk position.

        What the chunk does not cover is zero.
        """
        data = self._chunk(position)
        if start == 0 and len(data) == end:
            return data
        part = data[start:end]
        return part if len(part) == end - start else part.ljust(end - start, b"\0")

    def _chunk(self, position: int) -> bytes:
        # Reads smaller than a chunk come in sequence: the chunk just read serves the next one too.
        if self._last is not None and self._last[0] == position:
            return self._last[1]
        ref = self._refs.get(position)
        data = self._source.read_chunk(ref) if ref is not None else b""
        self._last = (position, data)
        return data
