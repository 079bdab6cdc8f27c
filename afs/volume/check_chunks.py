"""Looks at the files of chunks that a volume's files refer to: are they there, and whole?

Each chunk is looked at once, however many files have it. Several are read at a time: a disk serves
them faster so, and the hashing runs outside Python.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, NamedTuple

from afs.errors import AfsCode, AfsError
from afs.limits import CHUNK_BYTES
from afs.volume.chunk_store import ChunkStore, disk_error
from afs.volume.file_data import ChunkRef
from afs.volume.packed_rows import has_packs

# Chunks read at a time, each with up to 1 MiB in memory.
_READERS: Final = 4
_PAGE_CHUNKS: Final = 1000


class BadChunk(NamedTuple):
    """A chunk that is not what its name says. `missing`: there is none at all."""

    ref: ChunkRef
    missing: bool
    detail: str


def bad_chunks(
    connection: sqlite3.Connection, chunks: ChunkStore, *, deep: bool
) -> Iterator[BadChunk | None]:
    """The chunks of a volume that cannot be read as a whole; None for each that can.

    Args:
        connection: the volume's database; changes of it meanwhile are seen or not.
        chunks: its group's chunks.
        deep: also reads each and compares it with its hash.

    Raises:
        AfsError: VIO if the disk fails.
    """
    if not deep:
        for ref in _references(connection):
            yield _look(chunks, ref)
        return
    with ThreadPoolExecutor(_READERS, thread_name_prefix="chunk-check") as pool:
        waiting: deque[Future[BadChunk | None]] = deque()
        try:
            for ref in _references(connection):
                waiting.append(pool.submit(_read, chunks, ref))
                if len(waiting) > 2 * _READERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def is_bad(chunks: ChunkStore, ref: ChunkRef, *, deep: bool) -> BadChunk | None:
    """What is wrong with a chunk; None if nothing."""
    return _read(chunks, ref) if deep else _look(chunks, ref)


def _references(connection: sqlite3.Connection) -> Iterator[ChunkRef]:
    """Each chunk once, then each pack, with how much of it there has to be."""
    chunks = "SELECT hash, max(size) FROM chunks WHERE hash > ? GROUP BY hash ORDER BY hash LIMIT ?"
    packs = (
        "SELECT pack, max(offset + size) FROM packed WHERE pack > ?"
        " GROUP BY pack ORDER BY pack LIMIT ?"
    )
    for query in (chunks, packs) if has_packs(connection) else (chunks,):
        after = b""
        while found := connection.execute(query, (after, _PAGE_CHUNKS)).fetchall():
            yield from (ChunkRef(*row) for row in found)
            after = found[-1][0]


def _look(chunks: ChunkStore, ref: ChunkRef) -> BadChunk | None:
    try:
        size = os.stat(chunks.path(ref.hash)).st_size
    except FileNotFoundError:
        return BadChunk(ref, missing=True, detail="it is not there")
    except OSError as error:
        raise disk_error(error, f"chunk {ref.hash.hex()} cannot be looked at") from error
    if not ref.size <= size <= CHUNK_BYTES:
        return BadChunk(ref, missing=False, detail=f"it has {size} bytes: expected {ref.size}")
    return None


def _read(chunks: ChunkStore, ref: ChunkRef) -> BadChunk | None:
    bad = _look(chunks, ref)
    if bad is not None:
        return bad
    try:
        chunks.read_ref(ref)
    except AfsError as error:
        if error.code not in (AfsCode.EIO, AfsCode.VIO):
            raise
        # VIO: a sector that the disk cannot read. The rest of the volume is worth looking at.
        missing = not chunks.path(ref.hash).exists()
        return BadChunk(ref, missing, error.detail)
    return None
