"""A small database of the cell in one SQLite file: made, locked, upgraded, and changed durably.

Synchronous, and used by one thread at a time. A file that is empty or not ours is never taken for
a new database, which would give all ids once more.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from afs.errors import AfsCode, AfsError
from afs.runtime.files import fsync_dir


@dataclass(frozen=True)
class DatabaseKind:
    """What tells one kind of database from others.

    Attributes:
        name: as it stands in messages.
        application_id: SQLite's mark in the file.
        version: of the tables.
        tables: statements that make them, and the first rows.
        upgrades: by version: what makes the next one of it, in one transaction.
    """

    name: str
    application_id: int
    version: int
    tables: Sequence[str]
    upgrades: Mapping[int, Sequence[str]] = field(default_factory=dict)


class EmbeddedDatabase:
    """An open database. Every method raises AfsError VDISKFULL, VIO or EIO where the disk fails.

    Args:
        kind: what it is.
        path: the file; made anew if there is none.

    Raises:
        AfsError: VBUSY if another process has it, VSALVAGE if it is damaged, VNOSERVICE for a file
            that is no such database or of a newer version, VIO for what the system refuses.
    """

    def __init__(self, kind: DatabaseKind, path: Path) -> None:
        self._kind: Final = kind
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(kind, path)
        except OSError as error:
            raise AfsError(AfsCode.VIO, f"{kind.name} {path}: {error.strerror or error}") from None
        try:
            self.connection = _connect(kind, path)
        except sqlite3.DatabaseError as error:
            os.close(self._lock)
            raise AfsError(AfsCode.VSALVAGE, f"{kind.name} {path}: {error}") from None
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Lets go of the file."""
        self.connection.close()
        os.close(self._lock)

    def one(self, statement: str, *values: object) -> tuple[Any, ...] | None:
        """The first row; None if there is none."""
        row: tuple[Any, ...] | None = self.connection.execute(statement, values).fetchone()
        return row

    def execute(self, statement: str, *values: object) -> None:
        """Runs a statement that answers nothing."""
        self.connection.execute(statement, values)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Errors of the block in AFS codes."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._disk_error(error) from None

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One transaction, on disk when left; rolled back on any error."""
        with self.reading():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    self.connection.execute("ROLLBACK")
                raise

    def _disk_error(self, error: sqlite3.Error) -> AfsError:
        name = self._kind.name
        code = getattr(error, "sqlite_errorcode", None)
        if code == sqlite3.SQLITE_FULL:
            return AfsError(AfsCode.VDISKFULL, f"the disk of the {name} is full")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return AfsError(AfsCode.EIO, f"the {name} is damaged: {error}")
        return AfsError(AfsCode.VIO, f"the {name} cannot be used: {error}")


def _lock(kind: DatabaseKind, path: Path) -> int:
    descriptor = os.open(
        path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AfsError(
            AfsCode.VBUSY, f"{kind.name} {path} is in use by another volserver"
        ) from None
    return descriptor


def _connect(kind: DatabaseKind, path: Path) -> sqlite3.Connection:
    if not path.exists():
        _make(kind, path)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        # First of all: nothing is written to a file that is not ours.
        version = _check(kind, connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        _upgrade(kind, connection, version)
    except BaseException:
        connection.close()
        raise
    return connection


def _make(kind: DatabaseKind, path: Path) -> None:
    """Makes an empty database, under another name first: an empty file is always damage."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    connection = sqlite3.connect(temporary, isolation_level=None)
    try:
        connection.execute("BEGIN")
        for statement in kind.tables:
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {kind.application_id}")
        connection.execute(f"PRAGMA user_version = {kind.version}")
        connection.execute("COMMIT")
    finally:
        connection.close()
    temporary.rename(path)
    fsync_dir(path.parent)


def _upgrade(kind: DatabaseKind, connection: sqlite3.Connection, version: int) -> None:
    """Makes a database of an older version one of ours; durable on return, or as it was."""
    if version == kind.version:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for older in range(version, kind.version):
            for statement in kind.upgrades[older]:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {kind.version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _check(kind: DatabaseKind, connection: sqlite3.Connection, path: Path) -> int:
    """The version of a database that is ours and whole; errors as `EmbeddedDatabase`."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application_id != kind.application_id:
        raise AfsError(AfsCode.VNOSERVICE, f"{path} is not a {kind.name}")
    if version != kind.version and version not in kind.upgrades:
        raise AfsError(
            AfsCode.VNOSERVICE,
            f"{kind.name} {path} has version {version}: expected at most {kind.version}",
        )
    (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise AfsError(AfsCode.VSALVAGE, f"{kind.name} {path} is damaged: {verdict}")
    return int(version)
