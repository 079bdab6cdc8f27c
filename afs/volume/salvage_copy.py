"""The copy of a volume's database that the salvager works on.

Theory of operation
    The original is not touched: whatever the salvager does, it does to a copy under a temporary
    name, which takes the original's place when it is whole. If SQLite finds the database sound, the
    copy is its own backup of it; else a new database is made of the rows that can still be read
    (`salvage_pages`).

    Either way only rows whose checksum is right remain in the copy. The others are handed on, as
    they are: some can be mended, and of what is lost they tell that it was there.
"""

# ruff: noqa: S608 - the names of tables put into queries here are our own

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from afs.errors import AfsCode, AfsError
from afs.volume import sqlite_schema
from afs.volume.check_finding import FindingKind, Findings
from afs.volume.checksum import checksum
from afs.volume.file_data import HASH_BYTES
from afs.volume.lost_data import is_marked_lost
from afs.volume.salvage_pages import DatabasePages, RawRow
from afs.volume.sqlite_errors import afs_errors
from afs.volume.sqlite_schema import COUNTERS, HEADER_FIELDS, ORIGIN
from afs.volume.sqlite_upgrade import upgrade, vnode_of_today

TABLES: Final = ("header", "vnodes", "entries", "inline_data", "packed", "chunks")
_ROWS_GATHERED: Final = 1000
# With fewer chunks than this, one page may have had all of them.
_ENOUGH_TO_COMPARE: Final = 32
# Damaged rows kept to be mended: more are beyond that.
_DAMAGED_ROWS_MAX: Final = 20_000
# Data longer than this are not kept with them.
_LONG_BYTES: Final = 1024
_KEYS: Final = {
    "header": ("id",),
    "vnodes": ("vnode",),
    "entries": ("directory", "name"),
    "inline_data": ("vnode",),
    "packed": ("vnode",),
    "chunks": ("vnode", "position"),
}
# Columns of a table as its rows stand on a page; the shapes that have a row number come first.
_TABLE_OF: Final = {
    (True, 16): "vnodes",
    (True, 3): "inline_data",
    (True, 6): "packed",
    (True, 2 + len(HEADER_FIELDS) + len(COUNTERS) + len(ORIGIN)): "header",
    (False, 6): "entries",
    (False, 5): "chunks",
}
_INDEX_COLUMNS: Final = 3
_HEADER_COLUMNS: Final = 2 + len(HEADER_FIELDS) + len(COUNTERS) + len(ORIGIN)
# Of version 1, which had neither `changed` nor `in_transit` nor an origin, and of versions 2 and 3,
# whose vnodes had no access list.
_VNODE_COLUMNS: Final = {14: 1, 15: 2}
_HEADER_COLUMNS_1: Final = _HEADER_COLUMNS - 1 - len(ORIGIN)


@dataclass(slots=True)
class DamagedRow:
    """A row whose checksum is wrong, as it was found; one of these values is not what it was."""

    table: str
    values: tuple[Any, ...]


@dataclass(slots=True)
class Copied:
    """What copying a database found.

    `damaged` are the rows that are not in the copy. `rebuilt`: SQLite could not read it.
    `holes_are_known`: what has no row in the table of chunks had none. `pinned` are chunks that
    nobody refers to before the copy takes the original's place.
    """

    damaged: list[DamagedRow] = field(default_factory=list)
    rebuilt: bool = False
    holes_are_known: bool = True
    pinned: list[bytes] = field(default_factory=list)


def copy_database(original: Path, copy: Path, findings: Findings) -> Copied:
    """Makes the copy, and an `indexed` table in it of positions that must have a chunk.

    Args:
        original: the volume's database; nobody has it open.
        copy: where the copy goes; there is nothing yet.
        findings: where damage of the database itself is noted.

    Raises:
        AfsError: VDISKFULL, VIO.
    """
    _settle_wal(original)
    try:
        _back_up(original, copy)
        with afs_errors(), contextlib.closing(sqlite_schema.connect(copy)) as connection:
            connection.text_factory = _text
            copied = _take_out_damaged(connection)
    except AfsError as error:
        # VIO: SQLite gives up at a sector that the disk cannot read.
        if error.code not in (AfsCode.EIO, AfsCode.VSALVAGE, AfsCode.VIO):
            raise
        reason = error.detail
    else:
        return copied
    findings.add(
        FindingKind.DATABASE, original.name, reason, "made anew of its sound rows", repaired=True
    )
    for suffix in ("", "-wal", "-shm", "-journal"):
        copy.with_name(copy.name + suffix).unlink(missing_ok=True)
    with afs_errors(), contextlib.closing(sqlite_schema.create_database(copy)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        copied = _rebuild(original, connection)
        connection.execute("COMMIT")
    return copied


def _settle_wal(path: Path) -> None:
    """Moves what is in the WAL into the database: that is what the database is, damaged or not."""
    with (
        contextlib.suppress(sqlite3.Error, AfsError),
        contextlib.closing(sqlite_schema.connect(path)) as connection,
    ):
        sqlite_schema.checkpoint(connection)


def _back_up(original: Path, copy: Path) -> None:
    """Copies a sound database; EIO or VSALVAGE for one that is not."""
    copy.touch(mode=0o600, exist_ok=False)
    with (
        afs_errors(),
        contextlib.closing(sqlite_schema.connect(original)) as source,
        contextlib.closing(sqlite_schema.connect(copy)) as connection,
    ):
        connection.execute("PRAGMA synchronous = OFF")
        if source.execute("PRAGMA application_id").fetchone()[0] != sqlite_schema.APPLICATION_ID:
            raise sqlite_schema.damaged("sqlite_master", "it is no volume's database")
        source.backup(connection)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if not 1 <= version <= sqlite_schema.SCHEMA_VERSION:
            raise sqlite_schema.damaged("sqlite_master", f"version {version}")
        found = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found is None or found[0] != "ok":
            raise AfsError(AfsCode.EIO, str(found[0] if found else "no integrity_check"))
        connection.execute("PRAGMA journal_mode = WAL")
    if version < sqlite_schema.SCHEMA_VERSION:
        upgrade(copy)
    with afs_errors(), contextlib.closing(sqlite_schema.connect(copy)) as connection:
        sqlite_schema.check_schema(connection)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def is_whole(table: str, row: tuple[Any, ...]) -> bool:
    """Whether the checksum of a row is right, or says that its data are known to be lost."""
    # The header's key is not part of its checksum.
    values = row[1:] if table == "header" else row
    try:
        return checksum(table, *values[:-1]) == row[-1] or is_marked_lost(table, row)
    except UnicodeEncodeError:
        return False


def _take_out_damaged(connection: sqlite3.Connection) -> Copied:
    """Removes the rows whose checksum is wrong, and hands them on."""
    copied = Copied()
    connection.execute("BEGIN")
    for table in TABLES:
        keys: list[tuple[Any, ...]] = []
        for row in connection.execute(f"SELECT * FROM {table}"):
            if not is_whole(table, row):
                keys.append(row[: len(_KEYS[table])])
                _keep(copied, DamagedRow(table, row))
        _remove(connection, table, keys)
    connection.execute("COMMIT")
    return copied


def _keep(copied: Copied, row: DamagedRow) -> None:
    """Keeps a damaged row to be mended, if there is room; long data cannot be mended."""
    if len(copied.damaged) >= _DAMAGED_ROWS_MAX:
        # Not even that it was there will be known.
        copied.holes_are_known &= row.table != "chunks"
        return
    if row.table == "inline_data" and len(row.values[1] or b"") > _LONG_BYTES:
        row.values = (row.values[0], b"", row.values[2])
    copied.damaged.append(row)


def _remove(connection: sqlite3.Connection, table: str, keys: list[tuple[Any, ...]]) -> None:
    # A name that is not UTF-8 is passed as its bytes.
    terms = [f"{key} = CAST(? AS TEXT)" if key == "name" else f"{key} = ?" for key in _KEYS[table]]
    connection.executemany(
        f"DELETE FROM {table} WHERE {' AND '.join(terms)}",
        (
            [
                value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
                for value in key
            ]
            for key in keys
        ),
    )


# --- a database made anew -------------------------------------------------------------------------


def _rebuild(original: Path, connection: sqlite3.Connection) -> Copied:
    connection.execute(
        "CREATE TEMP TABLE indexed (vnode INTEGER, position INTEGER, PRIMARY KEY (vnode, position))"
    )
    copied = Copied(rebuilt=True)
    with contextlib.closing(DatabasePages(original)) as pages:
        read = pages.rows()
        while part := list(islice(read, _ROWS_GATHERED)):
            _insert(connection, part, copied)
    indexed, chunks = "SELECT vnode, position FROM indexed", "SELECT vnode, position FROM chunks"
    missing = connection.execute(f"{indexed} EXCEPT {chunks}").fetchall()
    copied.holes_are_known &= pages.damaged_pages < 2 and not pages.truncated
    if pages.doubtful_pages and missing:
        # Were they of the table and of its index, each would lack rows that the other has.
        unindexed = connection.execute(f"{chunks} EXCEPT {indexed} LIMIT 1").fetchone()
        copied.holes_are_known &= unindexed is None
    if pages.doubtful_pages:
        [known] = connection.execute(
            f"SELECT min((SELECT count(*) FROM ({indexed})), (SELECT count(*) FROM ({chunks})))"
        ).fetchone()
        copied.holes_are_known &= known >= _ENOUGH_TO_COMPARE
    # A row that is lost, and whose place in the index is not, is one of those to be mended or told.
    known = {row.values[:2] for row in copied.damaged if row.table == "chunks"}
    copied.damaged += [
        DamagedRow("chunks", (*key, b"", 0, b"")) for key in missing if key not in known
    ]
    return copied


def _insert(connection: sqlite3.Connection, part: list[RawRow], copied: Copied) -> None:
    new: dict[str, list[tuple[Any, ...]]] = {}
    for row in part:
        if _is_index_row(row):
            new.setdefault("indexed", []).append(row.values[1:])
            continue
        table, values = _table_and_row(row)
        if table is None:
            continue
        if is_whole(table, values):
            new.setdefault(table, []).append(values)
        else:
            _keep(copied, DamagedRow(table, values))
    for table, values_of_all in new.items():
        marks = ", ".join("?" * len(values_of_all[0]))
        connection.executemany(
            f"INSERT OR IGNORE INTO {table} VALUES ({marks})",
            values_of_all,
        )


def _is_index_row(row: RawRow) -> bool:
    """Whether it is of the index of chunks: (hash, vnode, position)."""
    if row.in_table or len(row.values) != _INDEX_COLUMNS:
        return False
    digest, vnode, position = row.values
    return (
        isinstance(digest, bytes)
        and len(digest) == HASH_BYTES
        and isinstance(vnode, int)
        and isinstance(position, int)
    )


def _table_and_row(row: RawRow) -> tuple[str | None, tuple[Any, ...]]:
    """Which table a row is of, and the row as that table has it today."""
    columns = len(row.values)
    version = _VNODE_COLUMNS.get(columns)
    if row.in_table and version is not None and is_whole("vnodes", row.values):
        # The upgrade takes all vnodes of version 1 to have changed just now.
        return "vnodes", vnode_of_today(row.values, version, 0)
    if row.in_table and columns == _HEADER_COLUMNS_1 and is_whole("header", row.values):
        values, fields = row.values[1:-1], len(HEADER_FIELDS) - 1
        values = (*values[:fields], 0, *values[fields:], "", 0, 0)
        return "header", (1, *values, checksum("header", *values))
    return _TABLE_OF.get((row.in_table, columns)), row.values
