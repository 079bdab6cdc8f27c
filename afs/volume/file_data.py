"""How a file's data is kept, and the rules for changing it; no I/O of its own.

Theory of operation
    A file of at most INLINE_MAX_BYTES is *inline*: its bytes stand in the volume's database. A
    longer one is a row of *chunks* on a fixed grid: position p covers bytes p * CHUNK_BYTES up to
    (p + 1) * CHUNK_BYTES. A chunk is immutable and named by the BLAKE3 of its bytes; a `ChunkRef`
    says how many of its leading bytes count. What no chunk covers reads as zeroes, so a hole costs
    nothing and a truncation never has to write data.

    D1  A file is inline if and only if its length is at most INLINE_MAX_BYTES (so a missing inline
        row is damage).
    D2  Every ChunkRef of a file ends within the file.

    A change of data is a `FileEdit`, relative to what is stored; edits of one file compose
    (`then`). An edit is computed at the moment of the commit, against the file as it is then,
    whatever it was when staging began.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from afs.limits import CHUNK_BYTES, INLINE_MAX_BYTES, MAX_FILE_BYTES
from afs.volume.volume import StagedData

# Positions in the largest file: an edit that keeps this many keeps all.
ALL_POSITIONS: Final = MAX_FILE_BYTES // CHUNK_BYTES + 1
HASH_BYTES: Final = 32


class ChunkRef(NamedTuple):
    """One chunk of a file: its BLAKE3 (32 bytes), and how many of its leading bytes count."""

    hash: bytes
    size: int


class Piece(NamedTuple):
    """Staged data within one chunk position.

    Either `data` at `start`, or (`data` None) a whole stored chunk, zeroes if `ref` is None.
    """

    position: int
    start: int
    data: bytes | None
    ref: ChunkRef | None


@dataclass(frozen=True, slots=True)
class FileEdit:
    """A change of one file's data, relative to what is stored.

    With `inline` set, the file becomes these bytes. Else it is chunked: positions below `keep` stay
    as stored, the others become holes, and then `chunks` replaces single positions (None makes a
    hole).
    """

    inline: bytes | None = None
    keep: int = 0
    chunks: dict[int, ChunkRef | None] = field(default_factory=dict)

    def then(self, later: FileEdit) -> FileEdit:
        """The one edit that does what this one and then `later` do."""
        if later.inline is not None:
            return later
        kept = {position: ref for position, ref in self.chunks.items() if position < later.keep}
        return FileEdit(None, min(self.keep, later.keep), kept | later.chunks)


class FileView(Protocol):
    """One file's data as it is at this point of the batch."""

    length: int

    @abstractmethod
    def inline(self) -> bytes:
        """The bytes of an inline file."""

    @abstractmethod
    def chunk(self, position: int) -> ChunkRef | None:
        """The chunk at a position of a chunked file; None for a hole."""

    @abstractmethod
    def read_chunk(self, ref: ChunkRef) -> bytes:
        """The bytes of a chunk that count, verified."""

    @abstractmethod
    def store_chunk(self, data: bytes) -> ChunkRef | None:
        """Keeps new bytes as a chunk, durable on return; None if they are all zero."""


class GridStagedData(StagedData):
    """Staged data laid out on the chunk grid, as both stores keep it."""

    @abstractmethod
    def pieces(self) -> Iterable[Piece]:
        """All staged data, in order of position."""

    @abstractmethod
    def store(self, data: bytes) -> ChunkRef | None:
        """Keeps bytes merged at the commit as a chunk, durable on return.

        None if they are all zero.
        """

    @abstractmethod
    def spend(self) -> None:
        """Lets go of it after it was applied; what the file now refers to stays."""


def is_inline(length: int) -> bool:
    """Whether a file of this length (bytes) is inline (D1)."""
    return length <= INLINE_MAX_BYTES


def positions(length: int) -> int:
    """How many chunk positions a file of this length (bytes) has."""
    return -(-length // CHUNK_BYTES)


def resized(view: FileView, new_length: int) -> FileEdit:
    """The edit that truncates or extends (with zeroes) a file to `new_length` bytes."""
    if is_inline(new_length):
        return FileEdit(inline=_prefix(view, new_length).ljust(new_length, b"\0"))
    return FileEdit(None, *_chunked_base(view, new_length, view.store_chunk))


def stored(view: FileView, staged: GridStagedData, truncate_to: int | None) -> tuple[FileEdit, int]:
    """The edit that puts staged data into a file, and the length the file then has.

    The file is first resized to `truncate_to`, unless that is None.
    """
    base_length = view.length if truncate_to is None else truncate_to
    new_length = max(base_length, staged.offset + staged.length) if staged.length else base_length
    if not staged.length:
        return resized(view, new_length), new_length
    if is_inline(new_length):
        buffer = bytearray(_prefix(view, min(base_length, new_length)).ljust(new_length, b"\0"))
        for piece in staged.pieces():
            # So little data lies in position 0 and was never turned into a chunk.
            assert piece.data is not None and piece.position == 0
            buffer[piece.start : piece.start + len(piece.data)] = piece.data
        return FileEdit(inline=bytes(buffer)), new_length
    keep, chunks = _chunked_base(view, base_length, staged.store, data_from=staged.offset)
    for piece in staged.pieces():
        if piece.data is None:
            chunks[piece.position] = piece.ref
            continue
        base = _base_bytes(view, keep, chunks, piece.position, base_length)
        chunks[piece.position] = staged.store(merged(base, piece.start, piece.data))
    return FileEdit(None, keep, chunks), new_length


def merged(base: bytes, start: int, data: bytes) -> bytes:
    """The bytes `base` with `data` laid over it at `start`, zeroes in between."""
    if start == 0 and len(base) <= len(data):
        return data
    return base[:start].ljust(start, b"\0") + data + base[start + len(data) :]


def _prefix(view: FileView, length: int) -> bytes:
    """The first `length` bytes of a file (at most INLINE_MAX_BYTES), fewer if it is shorter."""
    if not length:
        # Nothing of it is needed, so it does not matter if it is lost.
        return b""
    if is_inline(view.length):
        return view.inline()[:length]
    ref = view.chunk(0)
    return view.read_chunk(ref)[:length] if ref else b""


def _chunked_base(
    view: FileView,
    length: int,
    store: Callable[[bytes], ChunkRef | None],
    data_from: int = ALL_POSITIONS * CHUNK_BYTES,
) -> tuple[int, dict[int, ChunkRef | None]]:
    """What stays of a file resized to `length` that becomes, or remains, chunked: (keep, chunks).

    An inline file's bytes move into chunk 0, unless staged data begins there: then the caller
    merges the two.
    """
    if is_inline(view.length):
        if data_from < CHUNK_BYTES:
            return 0, {}
        data = view.inline()[:length]
        return 0, ({0: store(data)} if data.strip(b"\0") else {})
    chunks: dict[int, ChunkRef | None] = {}
    if length >= view.length:
        return ALL_POSITIONS, chunks
    last, size = divmod(length, CHUNK_BYTES)
    if size and (ref := view.chunk(last)) is not None and ref.size > size:
        chunks[last] = ChunkRef(ref.hash, size)
    return positions(length), chunks


def _base_bytes(
    view: FileView, keep: int, chunks: dict[int, ChunkRef | None], position: int, base_length: int
) -> bytes:
    """The bytes at a position before the staged data goes in."""
    if position in chunks:
        ref = chunks[position]
    elif position < keep:
        ref = view.chunk(position)
    else:
        return view.inline()[:base_length] if position == 0 and is_inline(view.length) else b""
    return view.read_chunk(ref) if ref else b""
