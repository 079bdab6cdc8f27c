"""Brings the database of a volume that an older laterfs wrote to the schema of today.

One transaction: a crash leaves the old schema or the new one. What is rewritten is verified first,
so damage is not given fresh checksums.

Version 2 (from 1): vnodes have `changed`, the change counter they were last changed at; of those
that are there it is taken to be the volume's, which can only make a later incremental dump larger.
The header has `in_transit` and the origin of restored contents.

Version 3: small data may lie in packs (`packs`). Those that are there are moved by and by.

Version 4: vnodes have `acl`, a directory's access list; those that are there have the one that
every new volume has.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from afs.errors import AfsCode, AfsError
from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.checksum import checksum
from afs.volume.seal import break_seal
from afs.volume.sqlite_errors import afs_errors


def upgrade(path: Path) -> None:
    """Upgrades a database to SCHEMA_VERSION, durably; the caller holds the volume's lock.

    Raises:
        AfsError: VSALVAGE if a row to be rewritten is damaged; VDISKFULL, VIO. The database is then
            as it was.
    """
    break_seal(path)
    try:
        with afs_errors(), contextlib.closing(sqlite_schema.connect(path)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            # What is in the WAL counts: the upgrade may be there already.
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version < sqlite_schema.SCHEMA_VERSION:
                _rewrite(connection, version)
            if version <= 2:
                _create(connection, sqlite_schema.PACKED_TABLE)
            connection.execute(f"PRAGMA user_version = {sqlite_schema.SCHEMA_VERSION}")
            connection.execute("COMMIT")
            sqlite_schema.checkpoint(connection)
    except AfsError as error:
        if error.code is AfsCode.EIO:
            detail = f"volume {path.stem} is damaged: {error.detail}"
            raise AfsError(AfsCode.VSALVAGE, detail) from error
        raise


def _rewrite(connection: sqlite3.Connection, version: int) -> None:
    """Gives the vnodes (and of version 1 the header) the columns of today."""
    state = rows.read_state(connection)
    connection.execute("DROP INDEX IF EXISTS vnodes_by_changed")
    connection.execute("ALTER TABLE vnodes RENAME TO vnodes_old")
    made = sqlite_schema.VNODES_TABLE
    if version == 1:
        connection.execute("DROP TABLE header")
        made = sqlite_schema.HEADER_TABLE + made
    _create(connection, made)
    connection.executemany(
        f"INSERT INTO vnodes VALUES ({', '.join('?' * 16)})",  # noqa: S608 question marks
        _vnodes(connection, version, state.header.change_counter),
    )
    connection.execute("DROP TABLE vnodes_old")
    rows.write_state(connection, state)


def _create(connection: sqlite3.Connection, tables: str) -> None:
    for statement in tables.split(";"):
        connection.execute(statement)


def _vnodes(
    connection: sqlite3.Connection, version: int, counter: int
) -> Iterator[tuple[Any, ...]]:
    for row in connection.execute("SELECT * FROM vnodes_old ORDER BY vnode"):
        if checksum("vnodes", *row[:-1]) != row[-1]:
            raise sqlite_schema.damaged("vnodes", f"vnode {row[0]}")
        yield vnode_of_today(row, version, counter)


def vnode_of_today(row: tuple[Any, ...], version: int, counter: int) -> tuple[Any, ...]:
    """The row of a vnode that was written in an older version.

    Args:
        row: with its checksum.
        version: of the schema that it has.
        counter: the change counter to take for a row that has none.
    """
    values = (*row[:-1], "", counter) if version == 1 else (*row[:-2], "", row[-2])
    return (*values, checksum("vnodes", *values))
