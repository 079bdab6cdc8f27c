"""The connections that read a volume's database, beside the one that writes it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from afs.volume import sqlite_schema
from afs.volume.sqlite_errors import afs_errors

# Idle connections kept; more are opened while needed and closed afterwards.
_IDLE_MAX: Final = 8


class Moment(NamedTuple):
    """A connection within a read transaction, and the vnode cache's version before it."""

    connection: sqlite3.Connection
    version: int


class ReaderPool:
    """Connections in WAL mode: each sees one moment, and none waits for a commit.

    Args:
        path: the database.
        version: the vnode cache's version.
    """

    def __init__(self, path: Path, version: Callable[[], int]) -> None:
        self._path = path
        self._version = version
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    @contextlib.contextmanager
    def moment(self) -> Iterator[Moment]:
        """A connection that sees one moment, which begins with the first look.

        Damage raises EIO.
        """
        with afs_errors():
            connection = self._take()
            try:
                version = self._version()
                connection.execute("BEGIN")
                yield Moment(connection, version)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                self._put_back(connection)

    def close(self) -> None:
        """Closes the idle connections, and those in use when they are put back."""
        self._closed = True
        while self._idle:
            # A reader that is just done may empty the list at the same time.
            with contextlib.suppress(IndexError):
                self._idle.pop().close()

    def _take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            connection = sqlite_schema.connect(self._path)
            connection.execute("PRAGMA query_only = ON")
            return connection

    def _put_back(self, connection: sqlite3.Connection) -> None:
        if len(self._idle) >= _IDLE_MAX:
            connection.close()
            return
        self._idle.append(connection)
        # Looked at last: `close` sets it before it closes those it finds.
        if self._closed:
            self.close()
