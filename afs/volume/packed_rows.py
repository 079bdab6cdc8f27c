"""The rows of a volume's database that say where packed small data lie (`packs`).

Every row carries the BLAKE3 of its data beside that of the pack: so the bytes of one file are
verified without those around them, and two volumes tell whether a file is the same in both.
"""

# ruff: noqa: S608 - the names of schemas put into queries here are our own
from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final, NamedTuple

from afs.limits import CHUNK_BYTES, INLINE_MAX_BYTES
from afs.volume.checksum import checksum
from afs.volume.file_data import HASH_BYTES
from afs.volume.sqlite_schema import damaged

# The largest pack; one is full when no more small data would surely fit. Less than this is left in
# the database, so it is what a clone copies of data.
PACK_BYTES: Final = CHUNK_BYTES


class PackedRef(NamedTuple):
    """Where small data lie.

    `hash` is their BLAKE3, `pack` that of the chunk they lie in, at `offset`, `size` bytes.
    """

    hash: bytes
    pack: bytes
    offset: int
    size: int


def read_packed(connection: sqlite3.Connection, number: int) -> PackedRef | None:
    """Where the data of a vnode lie, verified; None if in no pack; EIO if the row is damaged."""
    row = connection.execute("SELECT * FROM packed WHERE vnode = ?", (number,)).fetchone()
    return None if row is None else _packed(row)


def read_pack(connection: sqlite3.Connection, pack: bytes) -> list[tuple[int, PackedRef]]:
    """What files of this volume have in a pack: (vnode number, where), verified."""
    query = "SELECT * FROM packed WHERE pack = ? ORDER BY offset"
    return [(row[0], _packed(row)) for row in connection.execute(query, (pack,)).fetchall()]


def write_packed(connection: sqlite3.Connection, refs: Iterable[tuple[int, PackedRef]]) -> None:
    """Inserts references: (vnode number, where)."""
    connection.executemany(
        "INSERT INTO packed VALUES (?, ?, ?, ?, ?, ?)", (_packed_row(*row) for row in refs)
    )


def drop_packed(connection: sqlite3.Connection, number: int) -> None:
    """Forgets where the data of a vnode lie; a pack of which less than half is needed is garbage.

    Others are not: else whoever overwrites small files had one looked at with every change.
    """
    query = "DELETE FROM packed WHERE vnode = ? RETURNING pack"
    for dropped in connection.execute(query, (number,)).fetchall():
        query = "SELECT total(size) FROM packed WHERE pack = ?"
        [needed] = connection.execute(query, dropped).fetchone()
        if 2 * needed < PACK_BYTES:
            connection.execute("INSERT OR IGNORE INTO garbage VALUES (?)", dropped)


def has_packs(connection: sqlite3.Connection, schema: str = "main") -> bool:
    """Whether a database may refer to packs; one of an older version does not.

    Only if both the version and the schema say so: a bit may have flipped in either.
    """
    [version] = connection.execute(f"PRAGMA {schema}.user_version").fetchone()
    query = f"SELECT EXISTS (SELECT 1 FROM {schema}.sqlite_master WHERE name = 'packed')"
    return version >= 3 or bool(connection.execute(query).fetchone()[0])


def all_references(connection: sqlite3.Connection, schema: str = "main") -> str:
    """A query for the `hash` of every chunk that files refer to, in an attached database."""
    query = f"SELECT hash FROM {schema}.chunks"
    if has_packs(connection, schema):
        query += f" UNION SELECT pack FROM {schema}.packed"
    return query


def _packed(row: tuple[int, bytes, bytes, int, int, bytes]) -> PackedRef:
    number, digest, pack, offset, size, row_checksum = row
    if (
        checksum("packed", number, digest, pack, offset, size) != row_checksum
        or len(digest) != HASH_BYTES
        or len(pack) != HASH_BYTES
        or not 0 < size <= INLINE_MAX_BYTES
        or not 0 <= offset <= CHUNK_BYTES - size
    ):
        raise damaged("packed", f"vnode {number}")
    return PackedRef(digest, pack, offset, size)


def _packed_row(number: int, ref: PackedRef) -> tuple[int | bytes, ...]:
    values = (number, *ref)
    return (*values, checksum("packed", *values))
