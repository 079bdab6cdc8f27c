"""The rows of a volume's SQLite database, and their checksums.

Every row's last column is a `checksum` over its table, key and values, verified whenever the row is
read.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from afs.limits import CHUNK_BYTES
from afs.types import ChangeMark, DirectoryEntry, Fid, Vnode, VnodeType, VolumeHeader, VolumeType
from afs.volume.change_set import NO_ORIGIN, ChangeSet, Origin, VolumeState
from afs.volume.checksum import checksum
from afs.volume.file_data import HASH_BYTES, ChunkRef, FileEdit
from afs.volume.lost_data import is_marked_lost, mark_inline_lost
from afs.volume.packed_rows import (
    PackedRef,
    all_references,
    drop_packed,
    has_packs,
    write_packed,
)
from afs.volume.sqlite_schema import COUNTERS, HEADER_FIELDS, damaged

_VNODE_MARKS: Final = ", ".join("?" * 16)
# Columns of the header row in version 1, without its key and checksum.
_COLUMNS_1: Final = len(HEADER_FIELDS) - 1 + len(COUNTERS)

# --- reading --------------------------------------------------------------------------------------


def _select(
    connection: sqlite3.Connection, query: str, parameters: tuple[object, ...] | dict[str, object]
) -> contextlib.closing[sqlite3.Cursor]:
    """Rows that are let go of when the block ends, however it does.

    A damaged row ends it with an error whose traceback keeps the cursor, and an open cursor keeps
    its moment: closing the volume would wait for it until it gave up.
    """
    return contextlib.closing(connection.execute(query, parameters))


def read_state(connection: sqlite3.Connection) -> VolumeState:
    """The header row; EIO if it is damaged or missing."""
    row = connection.execute("SELECT * FROM header WHERE id = 1").fetchone()
    if row is None or checksum("header", *row[1:-1]) != row[-1]:
        raise damaged("header", "the volume's header")
    row = row[1:-1]
    if len(row) == _COLUMNS_1:
        # Version 1, which the next opening upgrades: it knew neither marks nor origins.
        fields = len(HEADER_FIELDS) - 1
        row = (*row[:fields], 0, *row[fields:], *_origin_row(NO_ORIGIN))
    (
        *header,
        next_vnode,
        next_uniquifier,
        max_data_version,
        origin_incarnation,
        origin_counter,
        origin_at,
    ) = row
    values: dict[str, Any] = dict(zip(HEADER_FIELDS, header, strict=True))
    values["type"] = VolumeType(values["type"])
    for name in ("leave_offline", "in_transit"):
        values[name] = bool(values[name])
    origin = Origin(ChangeMark(origin_incarnation, origin_counter), origin_at)
    return VolumeState(
        VolumeHeader(**values), next_vnode, next_uniquifier, max_data_version, origin
    )


def read_vnode(connection: sqlite3.Connection, volume_id: int, number: int) -> Vnode | None:
    """The vnode with this number, verified; None if there is none."""
    row = connection.execute("SELECT * FROM vnodes WHERE vnode = ?", (number,)).fetchone()
    return None if row is None else _vnode(volume_id, row)


def read_vnodes(connection: sqlite3.Connection, volume_id: int) -> Iterator[Vnode]:
    """All vnodes by number, each verified."""
    with _select(connection, "SELECT * FROM vnodes ORDER BY vnode", ()) as rows:
        for row in rows:
            yield _vnode(volume_id, row)


def read_changed(
    connection: sqlite3.Connection, volume_id: int, since: int
) -> Iterator[tuple[Vnode, int]]:
    """Vnodes changed after a change counter (0: all), by number, each with its own; verified."""
    query = "SELECT * FROM vnodes ORDER BY vnode"
    if since:
        # By the index, and then sorted: what changed is little of a large volume.
        query = "SELECT * FROM vnodes WHERE changed > :since ORDER BY vnode"
    with _select(connection, query, {"since": since}) as rows:
        for row in rows:
            yield _vnode(volume_id, row), row[-2]


def count_changed(connection: sqlite3.Connection, since: int) -> int:
    """How many vnodes were changed after a change counter."""
    query = "SELECT count(*) FROM vnodes WHERE changed > ?"
    count: int = connection.execute(query, (since,)).fetchone()[0]
    return count


def last_change(connection: sqlite3.Connection) -> int:
    """The change counter at which a vnode was last changed; 0 if there is none."""
    found: int | None = connection.execute("SELECT max(changed) FROM vnodes").fetchone()[0]
    return found or 0


def read_numbers(connection: sqlite3.Connection, *, parity: int) -> Iterator[int]:
    """The numbers of all odd (`parity` 1) or even (0) vnodes, ascending."""
    query = "SELECT vnode FROM vnodes WHERE vnode % 2 = ? ORDER BY vnode"
    with _select(connection, query, (parity,)) as rows:
        for row in rows:
            yield row[0]


def read_vnodes_in_slices(
    connection: sqlite3.Connection, volume_id: int, count: int
) -> Iterator[list[Vnode]]:
    """All vnodes by number, `count` at a time; those handed out may be changed meanwhile."""
    query = "SELECT * FROM vnodes WHERE vnode > ? ORDER BY vnode LIMIT ?"
    after = 0
    while found := connection.execute(query, (after, count)).fetchall():
        yield [_vnode(volume_id, row) for row in found]
        after = found[-1][0]


def read_entry(
    connection: sqlite3.Connection, volume_id: int, directory: int, name: str
) -> DirectoryEntry | None:
    """What a name stands for in a directory, verified; None if nothing."""
    row = connection.execute(
        "SELECT directory, name, vnode, uniquifier, type, checksum FROM entries"
        " WHERE directory = ? AND name = ?",
        (directory, name),
    ).fetchone()
    return None if row is None else _entry(volume_id, row)


def read_entries(
    connection: sqlite3.Connection, volume_id: int, directory: int, after: str, limit: int
) -> list[DirectoryEntry]:
    """Up to `limit` entries after the name `after`, by their UTF-8 bytes, each verified.

    A negative limit: all.
    """
    query = (
        "SELECT directory, name, vnode, uniquifier, type, checksum FROM entries"
        " WHERE directory = ? AND name > ? ORDER BY name LIMIT ?"
    )
    with _select(connection, query, (directory, after, limit)) as rows:
        return [_entry(volume_id, row) for row in rows]


def iterate_entries(
    connection: sqlite3.Connection, volume_id: int, directory: int
) -> Iterator[DirectoryEntry]:
    """All entries of a directory, in the order of `read_entries`, each verified."""
    query = (
        "SELECT directory, name, vnode, uniquifier, type, checksum FROM entries"
        " WHERE directory = ? ORDER BY name"
    )
    with _select(connection, query, (directory,)) as rows:
        for row in rows:
            yield _entry(volume_id, row)


def read_inline(connection: sqlite3.Connection, number: int) -> bytes:
    """Small data that lie in no pack, verified; EIO if missing. See `packs.SmallData`."""
    row = connection.execute(
        "SELECT data, checksum FROM inline_data WHERE vnode = ?", (number,)
    ).fetchone()
    if row is None or checksum("inline_data", number, row[0]) != row[1]:
        raise damaged("inline_data", f"vnode {number}")
    data: bytes = row[0]
    return data


def read_chunk_ref(connection: sqlite3.Connection, number: int, position: int) -> ChunkRef | None:
    """The chunk of a file at a position, verified; None for a hole."""
    for _, ref in read_chunk_refs(connection, number, position, position + 1):
        return ref
    return None


def read_chunk_refs(
    connection: sqlite3.Connection, number: int, first: int, end: int
) -> Iterator[tuple[int, ChunkRef]]:
    """The chunks of a file at positions from `first` up to `end`, in order, verified.

    Holes are left out.
    """
    query = (
        "SELECT position, hash, size, checksum FROM chunks"
        " WHERE vnode = ? AND position >= ? AND position < ? ORDER BY position"
    )
    with _select(connection, query, (number, first, end)) as rows:
        for position, digest, size, row_checksum in rows:
            if (
                checksum("chunks", number, position, digest, size) != row_checksum
                or len(digest) != HASH_BYTES
                or not 0 < size <= CHUNK_BYTES
            ):
                raise damaged("chunks", f"vnode {number}, position {position}")
            yield position, ChunkRef(digest, size)


def check_each(connection: sqlite3.Connection, table: str) -> None:
    """EIO unless the checksum of every row of a table fits, or tells of data known to be lost."""
    with _select(connection, f"SELECT * FROM {table}", ()) as rows:  # noqa: S608 the name is ours
        for row in rows:
            if checksum(table, *row[:-1]) != row[-1] and not is_marked_lost(table, row):
                raise damaged(table, f"the row of {row[:2]}")


def is_referenced(connection: sqlite3.Connection, digest: bytes, *, garbage_counts: bool) -> bool:
    """Whether a chunk is some file's, or (`garbage_counts`) awaits this volume's own collection."""
    query = "SELECT EXISTS (SELECT 1 FROM chunks WHERE hash = :hash)"
    if has_packs(connection):
        query += " OR EXISTS (SELECT 1 FROM packed WHERE pack = :hash)"
    if garbage_counts:
        query += " OR EXISTS (SELECT 1 FROM garbage WHERE hash = :hash)"
    return bool(connection.execute(query, {"hash": digest}).fetchone()[0])


def read_hashes(connection: sqlite3.Connection) -> list[bytes]:
    """The hashes of all chunks, packs included, that files of this volume use, each once."""
    query = f"SELECT DISTINCT hash FROM ({all_references(connection)})"  # noqa: S608 all ours
    return [row[0] for row in connection.execute(query)]


def read_packs(connection: sqlite3.Connection) -> list[bytes]:
    """The hashes of all packs that files of this volume use, each once."""
    return [row[0] for row in connection.execute("SELECT DISTINCT pack FROM packed")]


def read_garbage(connection: sqlite3.Connection, after: bytes, limit: int) -> list[bytes]:
    """Up to `limit` hashes after `after` of chunks that files of this volume let go of."""
    rows = connection.execute(
        "SELECT hash FROM garbage WHERE hash > ? ORDER BY hash LIMIT ?", (after, limit)
    )
    return [row[0] for row in rows]


# --- writing --------------------------------------------------------------------------------------


def write_state(connection: sqlite3.Connection, state: VolumeState) -> None:
    """Replaces the header row."""
    header = state.header
    values: list[Any] = [getattr(header, name) for name in HEADER_FIELDS]
    values = [int(value) if isinstance(value, int) else value for value in values]
    values += [state.next_vnode, state.next_uniquifier, state.max_data_version]
    values += _origin_row(state.origin)
    row = (1, *values, checksum("header", *values))
    marks = ", ".join("?" * len(row))
    connection.execute(f"INSERT OR REPLACE INTO header VALUES ({marks})", row)  # noqa: S608


def write_changes(connection: sqlite3.Connection, change: ChangeSet) -> None:
    """Writes all that a batch did; the caller has begun a transaction and commits it."""
    gone = [(number,) for number, vnode in change.vnodes.items() if vnode is None]
    if gone:
        connection.executemany("DELETE FROM vnodes WHERE vnode = ?", gone)
    state = change.state()
    changed = state.header.change_counter
    write_vnodes(
        connection, (vnode for vnode in change.vnodes.values() if vnode is not None), changed
    )
    forgotten = [key for key, entry in change.names.items() if entry is None]
    if forgotten:
        connection.executemany("DELETE FROM entries WHERE directory = ? AND name = ?", forgotten)
    write_entries(
        connection, ((key[0], entry) for key, entry in change.names.items() if entry is not None)
    )
    for number, edit in change.data.items():
        write_edit(connection, number, edit)
    write_state(connection, state)


def write_vnodes(connection: sqlite3.Connection, vnodes: Iterable[Vnode], changed: int) -> None:
    """Inserts or replaces vnodes, changed at a change counter."""
    connection.executemany(
        f"INSERT OR REPLACE INTO vnodes VALUES ({_VNODE_MARKS})",  # noqa: S608 question marks
        (vnode_row(vnode, changed) for vnode in vnodes),
    )


def write_entries(
    connection: sqlite3.Connection, entries: Iterable[tuple[int, DirectoryEntry]]
) -> None:
    """Inserts or replaces entries: (vnode number of the directory, entry)."""
    connection.executemany(
        "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)", map(_entry_row, entries)
    )


def write_edit(connection: sqlite3.Connection, number: int, edit: FileEdit) -> None:
    """Changes one file's data; chunks it no longer uses become garbage."""
    # What is dropped: positions from `keep` on, and those replaced. Garbage is a hint; the
    # collection looks again.
    connection.execute(
        "INSERT OR IGNORE INTO garbage SELECT hash FROM chunks WHERE vnode = ? AND position >= ?",
        (number, edit.keep),
    )
    connection.execute("DELETE FROM chunks WHERE vnode = ? AND position >= ?", (number, edit.keep))
    drop_packed(connection, number)
    if edit.inline is not None:
        write_inline(connection, [(number, edit.inline)])
        return
    connection.execute("DELETE FROM inline_data WHERE vnode = ?", (number,))
    if not edit.chunks:
        return
    replaced = [(number, position) for position in edit.chunks if position < edit.keep]
    connection.executemany(
        "INSERT OR IGNORE INTO garbage SELECT hash FROM chunks WHERE vnode = ? AND position = ?",
        replaced,
    )
    connection.executemany("DELETE FROM chunks WHERE vnode = ? AND position = ?", replaced)
    write_chunk_refs(
        connection, number, ((at, ref) for at, ref in edit.chunks.items() if ref is not None)
    )


def write_inline(connection: sqlite3.Connection, inline: Iterable[tuple[int, bytes]]) -> None:
    """Inserts or replaces small data: (vnode number, bytes or target)."""
    connection.executemany(
        "INSERT OR REPLACE INTO inline_data VALUES (?, ?, ?)",
        ((number, data, checksum("inline_data", number, data)) for number, data in inline),
    )


@dataclass(slots=True)
class NewRows:
    """Rows for a volume that is being made.

    `vnodes` are (vnode, change counter it was changed at), `entries` (vnode number of the
    directory, entry), `inline` (vnode number, bytes or target), `packed` (vnode number, where its
    bytes lie), `chunks` (vnode number, position, chunk), `lost` the numbers of vnodes whose inline
    data are known to be lost.
    """

    vnodes: list[tuple[Vnode, int]] = field(default_factory=list)
    entries: list[tuple[int, DirectoryEntry]] = field(default_factory=list)
    inline: list[tuple[int, bytes]] = field(default_factory=list)
    packed: list[tuple[int, PackedRef]] = field(default_factory=list)
    chunks: list[tuple[int, int, ChunkRef]] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.vnodes) + len(self.entries) + len(self.inline) + len(self.chunks)


def add_contents(connection: sqlite3.Connection, new: NewRows) -> None:
    """Inserts rows, a transaction open, vnodes over older ones of their number.

    sqlite3.IntegrityError if another row is there already.
    """
    connection.executemany(
        f"INSERT OR REPLACE INTO vnodes VALUES ({_VNODE_MARKS})",  # noqa: S608 question marks
        (vnode_row(*row) for row in new.vnodes),
    )
    connection.executemany(
        "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", map(_entry_row, new.entries)
    )
    connection.executemany(
        "INSERT INTO inline_data VALUES (?, ?, ?)",
        ((number, data, checksum("inline_data", number, data)) for number, data in new.inline),
    )
    write_packed(connection, new.packed)
    connection.executemany(
        "INSERT INTO chunks VALUES (?, ?, ?, ?, ?)", (_chunk_row(*row) for row in new.chunks)
    )
    if new.lost:
        mark_inline_lost(connection, new.lost)


def add_garbage(connection: sqlite3.Connection, digests: Iterable[bytes]) -> None:
    """Notes chunks to be collected, if nothing refers to them."""
    connection.executemany(
        "INSERT OR IGNORE INTO garbage VALUES (?)", ((digest,) for digest in digests)
    )


def write_chunk_refs(
    connection: sqlite3.Connection, number: int, refs: Iterable[tuple[int, ChunkRef]]
) -> None:
    """Inserts chunks of a file: (position, chunk)."""
    connection.executemany(
        "INSERT OR REPLACE INTO chunks VALUES (?, ?, ?, ?, ?)",
        (_chunk_row(number, position, ref) for position, ref in refs),
    )


# --- rows -----------------------------------------------------------------------------------------


def _vnode(volume_id: int, row: tuple[Any, ...]) -> Vnode:
    if checksum("vnodes", *row[:-1]) != row[-1]:
        raise damaged("vnodes", f"vnode {row[0]}")
    (
        number,
        uniquifier,
        kind,
        mode,
        owner,
        group,
        links,
        length,
        version,
        client_ns,
        server_ns,
        up,
        up_uniquifier,
        acl,
        _changed,
    ) = row[:-1]
    return Vnode(
        Fid(volume_id, number, uniquifier),
        VnodeType(kind),
        mode,
        owner,
        group,
        links,
        length,
        version,
        client_ns,
        server_ns,
        Fid(volume_id, up, up_uniquifier),
        # Many directories have the same one.
        sys.intern(acl),
    )


def vnode_row(vnode: Vnode, changed: int) -> tuple[int | str | bytes, ...]:
    """The row of a vnode that was changed at a change counter."""
    values = (
        vnode.fid.vnode,
        vnode.fid.uniquifier,
        int(vnode.type),
        vnode.mode,
        vnode.owner,
        vnode.group,
        vnode.link_count,
        vnode.length,
        vnode.data_version,
        vnode.client_mtime_ns,
        vnode.server_mtime_ns,
        vnode.parent.vnode,
        vnode.parent.uniquifier,
        vnode.acl,
        changed,
    )
    return (*values, checksum("vnodes", *values))


def _origin_row(origin: Origin) -> tuple[str, int, int]:
    return (origin.mark.incarnation, origin.mark.change_counter, origin.at)


def _entry(volume_id: int, row: tuple[Any, ...]) -> DirectoryEntry:
    if checksum("entries", *row[:-1]) != row[-1]:
        raise damaged("entries", f"directory {row[0]}, name {row[1]!r}")
    return DirectoryEntry(row[1], Fid(volume_id, row[2], row[3]), VnodeType(row[4]))


def _entry_row(keyed: tuple[int, DirectoryEntry]) -> tuple[int | str | bytes, ...]:
    directory, entry = keyed
    values = (directory, entry.name, entry.fid.vnode, entry.fid.uniquifier, int(entry.type))
    return (*values, checksum("entries", *values))


def _chunk_row(number: int, position: int, ref: ChunkRef) -> tuple[int | bytes, ...]:
    values = (number, position, ref.hash, ref.size)
    return (*values, checksum("chunks", *values))
