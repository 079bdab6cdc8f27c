"""A volume's SQLite database as a whole: its schema, how it is made, opened and checkpointed."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import fields
from pathlib import Path
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import KIB, PACKED_MIN_BYTES
from afs.types import VolumeHeader

SCHEMA_VERSION: Final = 4
# "AFSV" in ASCII: says that the file is one of ours.
APPLICATION_ID: Final = 0x41465356

# Pages of a draft in memory: entries and indexes are not filled in order.
_DRAFT_CACHE_KIB: Final = 32 * KIB

HEADER_FIELDS: Final = tuple(field.name for field in fields(VolumeHeader))
COUNTERS: Final = ("next_vnode", "next_uniquifier", "max_data_version")
# What the contents were a restored state of; see `change_set.Origin`.
ORIGIN: Final = ("origin_incarnation", "origin_counter", "origin_at")
_TEXT_FIELDS: Final = frozenset({"name", "incarnation", "offline_message", "origin_incarnation"})

_HEADER_COLUMNS: Final = ",\n    ".join(
    f"{name} {'TEXT' if name in _TEXT_FIELDS else 'INTEGER'} NOT NULL"
    for name in HEADER_FIELDS + COUNTERS + ORIGIN
)

# The two tables that are not as they were in older versions.
HEADER_TABLE: Final = f"""
CREATE TABLE header (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    {_HEADER_COLUMNS},
    checksum BLOB NOT NULL
) STRICT;
"""
# `acl` is a directory's access list; `changed` is the change counter with which the row was last
# written.
VNODES_TABLE: Final = """
CREATE TABLE vnodes (
    vnode INTEGER PRIMARY KEY,
    uniquifier INTEGER NOT NULL,
    type INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    "group" INTEGER NOT NULL,
    link_count INTEGER NOT NULL,
    length INTEGER NOT NULL,
    data_version INTEGER NOT NULL,
    client_mtime_ns INTEGER NOT NULL,
    server_mtime_ns INTEGER NOT NULL,
    parent_vnode INTEGER NOT NULL,
    parent_uniquifier INTEGER NOT NULL,
    acl TEXT NOT NULL,
    changed INTEGER NOT NULL,
    checksum BLOB NOT NULL
) STRICT;
CREATE INDEX vnodes_by_changed ON vnodes (changed);
"""

# Since version 3: small data that lie in packs (`packs`), and which are still to be moved to one.
PACKED_TABLE: Final = f"""
CREATE TABLE packed (
    vnode INTEGER PRIMARY KEY,
    hash BLOB NOT NULL,
    pack BLOB NOT NULL,
    offset INTEGER NOT NULL,
    size INTEGER NOT NULL,
    checksum BLOB NOT NULL
) STRICT;
CREATE INDEX packed_by_pack ON packed (pack, offset, size);
CREATE INDEX inline_data_to_pack ON inline_data (vnode) WHERE length(data) >= {PACKED_MIN_BYTES};
"""

_SCHEMA: Final = f"""
{HEADER_TABLE}
{VNODES_TABLE}
CREATE TABLE entries (
    directory INTEGER NOT NULL,
    name TEXT NOT NULL,
    vnode INTEGER NOT NULL,
    uniquifier INTEGER NOT NULL,
    type INTEGER NOT NULL,
    checksum BLOB NOT NULL,
    PRIMARY KEY (directory, name)
) STRICT, WITHOUT ROWID;
CREATE TABLE inline_data (
    vnode INTEGER PRIMARY KEY,
    data BLOB NOT NULL,
    checksum BLOB NOT NULL
) STRICT;
CREATE TABLE chunks (
    vnode INTEGER NOT NULL,
    position INTEGER NOT NULL,
    hash BLOB NOT NULL,
    size INTEGER NOT NULL,
    checksum BLOB NOT NULL,
    PRIMARY KEY (vnode, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX chunks_by_hash ON chunks (hash);
CREATE TABLE garbage (hash BLOB PRIMARY KEY) STRICT, WITHOUT ROWID;
{PACKED_TABLE}
"""


def address(path: Path) -> str:
    """The URI of an existing database, as `connect` and ATTACH take it; never creates the file."""
    return f"{path.absolute().as_uri()}?mode=rw"


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode, for use under the caller's own locks.

    Never creates the file.
    """
    connection = sqlite3.connect(
        address(path),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=30.0,
    )
    # Whatever the schema of a damaged or hostile file says, no code of its choosing runs.
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def create_database(path: Path) -> sqlite3.Connection:
    """A new, empty database in WAL mode; the file must not exist."""
    path.touch(mode=0o600, exist_ok=False)
    connection = connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.executescript(f"BEGIN;{_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
    return connection


def create_draft(path: Path) -> sqlite3.Connection:
    """A new, empty database that nobody else looks at: quick to fill, gone after a crash.

    `finish_draft` makes a volume's of it. The file must not exist.
    """
    path.touch(mode=0o600, exist_ok=False)
    connection = open_draft(path)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    create_schema(connection)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return connection


def open_draft(path: Path) -> sqlite3.Connection:
    """A connection to a draft, or to a copy of a database that is to become one."""
    connection = connect(path)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA synchronous = OFF")
    # Nothing is ever rolled back: what fails is thrown away as a whole.
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute(f"PRAGMA cache_size = -{_DRAFT_CACHE_KIB}")
    return connection


def finish_draft(connection: sqlite3.Connection) -> None:
    """Ends a draft, no transaction open: it is in WAL mode as a volume's, and not synced yet."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def create_schema(connection: sqlite3.Connection) -> None:
    """Gives an empty database our tables and indexes."""
    connection.executescript(_SCHEMA)


def checkpoint(connection: sqlite3.Connection) -> bool:
    """Moves all of the WAL into the database and empties it; waits for readers.

    False if a reader was in the way for too long; then the WAL still counts.
    """
    busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    return not busy


def check_schema(connection: sqlite3.Connection) -> None:
    """EIO unless the database has exactly the tables and indexes we give it."""
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    with contextlib.closing(sqlite3.connect(":memory:")) as model:
        create_schema(model)
        expected = model.execute(query).fetchall()
    if connection.execute(query).fetchall() != expected:
        raise damaged("sqlite_master", "the schema")


def damaged(table: str, key: object) -> AfsError:
    """The error for a row that is not what was written."""
    return AfsError(AfsCode.EIO, f"a row of {table} is damaged: {key}")
