"""Removes chunks that no file of a volume group uses any more.

A volume's `garbage` table names the chunks its files let go of; it is a hint, and each is looked
for again here in every database of the group, under the group's lock, before it goes. A chunk in
another volume's garbage table is left to that volume, because its readers may still have it pinned.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.chunk_store import ChunkStore

# Chunks looked at in one go: bounds how long a commit waits for the group's lock, to a few
# milliseconds.
SLICE_CHUNKS: Final = 64


def collect_garbage(
    writer: sqlite3.Connection,
    path: Path,
    chunks: ChunkStore,
    after: bytes | None,
    strays: set[bytes],
    *,
    wait: bool,
    before_writing: Callable[[], None] = lambda: None,
) -> bytes | None:
    """Removes one slice of a volume's garbage; where the next slice begins, None after the last.

    `after` itself comes back if nothing could be done now.

    Args:
        writer: the volume's writing connection, no transaction open.
        path: its database.
        chunks: its group's chunks.
        after: where to begin in the garbage table (b"": from the start); None for nothing but
            strays.
        strays: hashes of chunks beside those in the table; the ones dealt with are taken out.
        wait: whether to wait for the group's lock; if not, and it is taken, nothing is removed.
        before_writing: called before the database is changed, if it is.
    """
    garbage = [] if after is None else rows.read_garbage(writer, after, SLICE_CHUNKS)
    stray = [digest for digest, _ in zip(strays, range(SLICE_CHUNKS), strict=False)]
    if candidates := _unpinned([*garbage, *stray], chunks):
        # Whoever holds the lock may do so for a while (a large clone), and commits wait for us.
        with chunks.lock(exclusive=True, wait=wait) as locked:
            if not locked or not _remove(candidates, chunks, own=writer, own_path=path):
                return after
            # Still locked: until this is done, others leave these chunks to us.
            if garbage:
                before_writing()
                _forget_garbage(writer, candidates)
        strays.difference_update(candidates)
    return garbage[-1] if len(garbage) == SLICE_CHUNKS else None


def remove_unreferenced(
    digests: Iterable[bytes], chunks: ChunkStore, *, without: Path | None = None
) -> None:
    """Removes those chunks that no database of the group refers to, and no reader has pinned.

    Removes nothing if a database of the group cannot be read.

    Args:
        digests: the hashes of the candidates.
        chunks: the chunks of the group.
        without: a database whose references do not count.
    """
    if candidates := _unpinned(digests, chunks):
        with chunks.lock(exclusive=True):
            _remove(candidates, chunks, own=None, own_path=without)


def _unpinned(digests: Iterable[bytes], chunks: ChunkStore) -> list[bytes]:
    return [digest for digest in digests if not chunks.is_pinned(digest)]


def _remove(
    candidates: Sequence[bytes],
    chunks: ChunkStore,
    *,
    own: sqlite3.Connection | None,
    own_path: Path | None,
) -> bool:
    """Removes what nothing refers to, under the group's lock; False if that cannot be told."""
    with _other_databases(chunks.group, own_path) as others:
        if others is None:
            return False
        for digest in candidates:
            if own is not None and rows.is_referenced(own, digest, garbage_counts=False):
                continue
            # A reader that pins it only now read its file before the change, and will notice
            # (`_try_snapshot`).
            if not any(_refers(other, digest) for other in others):
                chunks.remove(digest)
    return True


def _forget_garbage(writer: sqlite3.Connection, digests: Sequence[bytes]) -> None:
    # Losing this in a crash only means to look again: no fsync for it.
    writer.execute("PRAGMA synchronous = NORMAL")
    try:
        with writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.executemany(
                "DELETE FROM garbage WHERE hash = ?", [(digest,) for digest in digests]
            )
    finally:
        writer.execute("PRAGMA synchronous = FULL")


def is_gone(path: Path) -> bool:
    """Whether a database's name says that it is being deleted."""
    return ".gone-" in path.name


def _refers(connection: sqlite3.Connection, digest: bytes) -> bool:
    try:
        return rows.is_referenced(connection, digest, garbage_counts=True)
    except sqlite3.Error:
        # A damaged database may refer to anything.
        return True


@contextlib.contextmanager
def _other_databases(
    group: Path, own_path: Path | None
) -> Iterator[list[sqlite3.Connection] | None]:
    """Connections to the other databases of a group.

    None if one cannot be read (then nothing may be removed).
    """
    connections: list[sqlite3.Connection] = []
    with contextlib.ExitStack() as stack:
        for path in sorted(group.glob("*.db")):
            # What one that is being deleted refers to is not held by it any more: else it and we
            # would each leave a chunk to the other.
            if path == own_path or is_gone(path):
                continue
            try:
                connection = stack.enter_context(contextlib.closing(sqlite_schema.connect(path)))
                connection.execute(
                    "SELECT EXISTS (SELECT 1 FROM chunks), EXISTS (SELECT 1 FROM garbage)"
                ).fetchone()
            except sqlite3.Error:
                yield None
                return
            connections.append(connection)
        yield connections
