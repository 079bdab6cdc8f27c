"""Staged data on the chunk grid.

Buffers at most one chunk, hands full ones on, keeps ragged edges for the commit.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from blake3 import blake3

from afs.errors import AfsCode, AfsError
from afs.limits import CHUNK_BYTES, KIB, MAX_FILE_BYTES
from afs.volume.file_data import ChunkRef, GridStagedData, Piece, is_inline


class BufferedStagedData(GridStagedData):
    """What both stores' staged data share.

    Args:
        offset: where in the file the data begins, in bytes.
    """

    def __init__(self, offset: int) -> None:
        if offset < 0:
            raise AfsError(
                AfsCode.EINVAL, f"offset {offset} is negative: expected 0 to {MAX_FILE_BYTES}"
            )
        if offset > MAX_FILE_BYTES:
            raise AfsError(
                AfsCode.EFBIG, f"offset {offset} is too large: expected 0 to {MAX_FILE_BYTES}"
            )
        self.offset = offset
        self.length = 0
        self._pieces: list[Piece] = []
        self._buffer = bytearray()
        self._open = True
        self._spent = False

    def write(self, data: bytes) -> None:
        assert self._open, "data is written before finish or discard"
        end = self.offset + self.length + len(data)
        if end > MAX_FILE_BYTES:
            raise AfsError(
                AfsCode.EFBIG,
                f"the file would be {end} bytes long: expected at most {MAX_FILE_BYTES}",
            )
        self._check_end(end)
        view = memoryview(data)
        while view:
            at = self.offset + self.length
            room = CHUNK_BYTES - at % CHUNK_BYTES
            if not self._buffer and at % CHUNK_BYTES == 0 and len(view) >= CHUNK_BYTES:
                whole = data if len(data) == CHUNK_BYTES else bytes(view[:CHUNK_BYTES])
                self._take_chunk(at // CHUNK_BYTES, whole)
            else:
                self._buffer += view[:room]
                if len(view) >= room:
                    self._close_buffer(at)
            taken = min(room, len(view))
            self.length += taken
            view = view[taken:]

    def finish(self) -> None:
        assert self._open, "finish is called once"
        self._open = False
        if self._buffer:
            self._close_buffer(self.offset + self.length - 1)
        if not is_inline(self.offset + self.length):
            # A last piece that begins a chunk is mostly the file's end, and then needs no merging:
            # kept ahead of the commit, so that the commit itself writes nothing.
            for piece in self._pieces:
                if piece.data is not None and piece.start == 0:
                    self._keep(piece.data)
        self._make_durable()

    def discard(self) -> None:
        self._open = False
        if not self._spent:
            self._spent = True
            self._buffer.clear()
            self._pieces.clear()
            self._forget()

    def pieces(self) -> Iterable[Piece]:
        assert not self._open and not self._spent, "data is applied once, after finish"
        return self._pieces

    def store(self, data: bytes) -> ChunkRef | None:
        ref = self._keep(data)
        self._make_durable()
        return ref

    def spend(self) -> None:
        if not self._spent:
            self._spent = True
            self._pieces.clear()
            self._let_go()

    @abstractmethod
    def _check_end(self, end: int) -> None:
        """VOVERQUOTA if the file may not reach `end` bytes."""

    @abstractmethod
    def _put(self, data: bytes, digest: bytes) -> None:
        """Keeps a chunk; a no-op for one this staging kept before."""

    @abstractmethod
    def _make_durable(self) -> None:
        """Makes all chunks put so far durable and readable."""

    @abstractmethod
    def _let_go(self) -> None:
        """Drops what protects the chunks: the file refers to them now."""

    @abstractmethod
    def _forget(self) -> None:
        """Drops the chunks."""

    def _keep(self, data: bytes) -> ChunkRef | None:
        # The first KiB tells nearly all data from zeroes without looking at the rest.
        if not any(data[:KIB]) and not data.strip(b"\0"):
            return None
        digest = blake3(data).digest()
        self._put(data, digest)
        return ChunkRef(digest, len(data))

    def _take_chunk(self, position: int, data: bytes) -> None:
        self._pieces.append(Piece(position, 0, None, self._keep(data)))

    def _close_buffer(self, at: int) -> None:
        """Ends the piece in the buffer, which lies in the chunk of byte `at`."""
        data = bytes(self._buffer)
        self._buffer.clear()
        position = at // CHUNK_BYTES
        if len(data) == CHUNK_BYTES:
            self._take_chunk(position, data)
            return
        start = max(self.offset - position * CHUNK_BYTES, 0)
        self._pieces.append(Piece(position, start, data, None))
