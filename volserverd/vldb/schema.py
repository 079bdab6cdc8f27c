"""The database file of the VLDB: its tables, its version, and how it is opened.

entries   one row a name. 0 in read_only_id and backup_id: there is no such volume.
sites     where an entry's volumes are, in the order they were given. `release`: for a read-only
          site the change counter that the read-write volume had when it was last released to it.
ids       every id that was ever given, and to whom. Rows stay when their entry is deleted: an id
          is never given twice, or clients would take the new volume for the old one.
counter   the next id to give.

Versions: 1 had no `release`. An older database is upgraded when it is opened, in one transaction.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.runtime.files import fsync_dir
from volserverd.vldb.names import FIRST_VOLUME_ID

SCHEMA_VERSION: Final = 2
# "LVDB" in ASCII: keeps a mistaken path from being taken for an empty database.
APPLICATION_ID: Final = 0x4C564442

_TABLES: Final = (
    """
    CREATE TABLE entries (
        read_write_id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        read_only_id INTEGER NOT NULL,
        backup_id INTEGER NOT NULL,
        version INTEGER NOT NULL,
        locked_for TEXT NOT NULL
    ) STRICT""",
    """
    CREATE TABLE sites (
        read_write_id INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE,
        position INTEGER NOT NULL,
        file_server TEXT NOT NULL,
        vol_server TEXT NOT NULL,
        partition TEXT NOT NULL,
        type INTEGER NOT NULL CHECK (type IN (1, 2, 3)),
        release INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (read_write_id, position)
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE ids (volume_id INTEGER PRIMARY KEY, read_write_id INTEGER NOT NULL) STRICT",
    "CREATE TABLE counter (next_volume_id INTEGER NOT NULL) STRICT",
)
# By version: what makes the next one of it.
_UPGRADES: Final = {1: ("ALTER TABLE sites ADD COLUMN release INTEGER NOT NULL DEFAULT 0",)}


def open_database(path: Path) -> tuple[sqlite3.Connection, int]:
    """Opens the database, made anew if the file does not exist; blocks on the disk.

    Returns:
        The connection, which may be used from any one thread at a time, and the descriptor that
        holds the lock against a second volserver.

    Raises:
        AfsError: VBUSY if another process has it, VSALVAGE if it is damaged, VNOSERVICE for a file
            that is no such database or of a newer version, VIO for what the system refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
    except OSError as error:
        raise AfsError(
            AfsCode.VIO, f"location database {path}: {error.strerror or error}"
        ) from None
    try:
        return _connect(path), lock
    except sqlite3.DatabaseError as error:
        os.close(lock)
        raise AfsError(AfsCode.VSALVAGE, f"location database {path}: {error}") from None
    except BaseException:
        os.close(lock)
        raise


def _lock(path: Path) -> int:
    descriptor = os.open(
        path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AfsError(
            AfsCode.VBUSY, f"location database {path} is in use by another volserver"
        ) from None
    return descriptor


def _connect(path: Path) -> sqlite3.Connection:
    if not path.exists():
        _make(path)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # First of all: nothing is written to a file that is not ours.
        version = _check(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        _upgrade(connection, version)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(path: Path) -> None:
    """Makes an empty database, under another name first.

    So an empty file is always damage, never a new database that would give all ids once more.
    """
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    connection = sqlite3.connect(temporary, isolation_level=None)
    try:
        connection.execute("BEGIN")
        for statement in _TABLES:
            connection.execute(statement)
        connection.execute("INSERT INTO counter VALUES (?)", (FIRST_VOLUME_ID,))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    finally:
        connection.close()
    temporary.rename(path)
    fsync_dir(path.parent)


def _upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Makes a database of an older version one of ours; durable on return, or as it was."""
    if version == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for older in range(version, SCHEMA_VERSION):
            for statement in _UPGRADES[older]:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check(connection: sqlite3.Connection, path: Path) -> int:
    """The version of a database that is ours and whole; errors as `open_database`."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != APPLICATION_ID:
        raise AfsError(AfsCode.VNOSERVICE, f"{path} is not a volume location database")
    if version != SCHEMA_VERSION and version not in _UPGRADES:
        raise AfsError(
            AfsCode.VNOSERVICE,
            f"location database {path} has version {version}: expected at most {SCHEMA_VERSION}",
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise AfsError(AfsCode.VSALVAGE, f"location database {path} is damaged: {verdict}")
    return int(version)
