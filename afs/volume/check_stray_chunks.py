"""Chunks that take up room and that no file of their volume group has.

A chunk is a stray if no database of the group refers to it, nor awaits collecting it. One that is
being stored at this moment has no reference yet: it has a name in `staging`, or its commit is under
way with the group's lock held shared. So what looks like a stray is looked at again with the lock
held exclusively, when there is no commit under way.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from afs.volume import sqlite_tables as rows
from afs.volume.beside import connect_to_read
from afs.volume.chunk_store import ChunkStore
from afs.volume.collection import is_gone, remove_unreferenced
from afs.volume.volume_group import VolumeGroup

# Chunks looked at with the lock held: commits wait for some milliseconds at most.
_SLICE_CHUNKS: Final = 64


def stray_chunks(group: VolumeGroup) -> Iterator[bytes]:
    """The hashes of a group's stray chunks; none if a database of it cannot be read."""
    for prefix in range(256):
        stored = iter(list(group.chunks.stored(prefix)))
        with _databases(group.path) as databases:
            if databases is None:
                return
            candidates = [digest for digest in stored if not _is_referenced(databases, digest)]
        remaining = iter(candidates)
        while part := list(islice(remaining, _SLICE_CHUNKS)):
            yield from _confirmed(group, part)


def remove_stray_chunks(group: VolumeGroup, *, dry_run: bool) -> Iterator[bytes]:
    """Removes a group's stray chunks, or only says which they are."""
    found = stray_chunks(group)
    while part := list(islice(found, _SLICE_CHUNKS)):
        if not dry_run:
            remove_unreferenced(part, group.chunks)
        yield from part


def _confirmed(group: VolumeGroup, candidates: Iterable[bytes]) -> list[bytes]:
    with group.chunks.lock(exclusive=True), _databases(group.path) as databases:
        if databases is None:
            return []
        staged = _staged(group.chunks)
        return [
            digest
            for digest in candidates
            if digest not in staged
            and group.chunks.path(digest).exists()
            and not group.chunks.is_pinned(digest)
            and not _is_referenced(databases, digest)
        ]


def _staged(chunks: ChunkStore) -> set[bytes]:
    """The chunks that are being written."""
    found: set[bytes] = set()
    for path in chunks.staging.glob("*+*+*"):
        with contextlib.suppress(ValueError):
            found.add(bytes.fromhex(path.name.rpartition("+")[2]))
    return found


def _is_referenced(databases: list[sqlite3.Connection], digest: bytes) -> bool:
    try:
        return any(rows.is_referenced(each, digest, garbage_counts=True) for each in databases)
    except sqlite3.Error:
        # A damaged database may refer to anything.
        return True


@contextlib.contextmanager
def _databases(group: Path) -> Iterator[list[sqlite3.Connection] | None]:
    """Connections to all databases of a group that count; None if one cannot be read."""
    with contextlib.ExitStack() as stack:
        connections: list[sqlite3.Connection] = []
        try:
            for path in group.glob("*.db"):
                if not is_gone(path):
                    connection = stack.enter_context(contextlib.closing(connect_to_read(path)))
                    connection.execute("SELECT EXISTS (SELECT 1 FROM chunks)").fetchone()
                    connections.append(connection)
        except sqlite3.Error:
            yield None
            return
        yield connections
