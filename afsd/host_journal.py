"""Remembers over a crash which hosts may hold promises of ours.

After the restart each of them is reset before its first answer (I9).
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import structlog

_log = structlog.get_logger(__name__)


class HostJournal:
    """UUIDs of hosts that attached, in a small database.

    Attributes:
        known: the hosts that may hold promises of an earlier life of this fileserver.
        was_damaged: the database could not be read and was set aside: anybody may hold promises, so
            the fileserver must let one channel lease pass before it answers.
    """

    def __init__(self, path: Path) -> None:
        """Opens the journal, or begins one. Blocks on the disk."""
        self._path = path
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="host-journal")
        self.was_damaged = False
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            aside = path.with_suffix(".damaged")
            _log.warning("host_journal.set_aside", path=str(aside), reason=str(error))
            for suffix in ("", "-wal", "-shm"):
                damaged = path.with_name(path.name + suffix)
                if damaged.exists():
                    damaged.replace(aside.with_name(aside.name + suffix))
            self.was_damaged = True
            self._open()

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE IF NOT EXISTS host (uuid TEXT PRIMARY KEY) WITHOUT ROWID")
        if self._db.execute("PRAGMA quick_check").fetchone() != ("ok",):
            raise sqlite3.DatabaseError("integrity check failed")
        self.known = {uuid for (uuid,) in self._db.execute("SELECT uuid FROM host ORDER BY uuid")}

    async def remember(self, uuid: str) -> None:
        """Returns when the host is on disk."""
        if uuid not in self.known:
            await asyncio.get_running_loop().run_in_executor(
                self._thread, self._db.execute, "INSERT OR IGNORE INTO host VALUES (?)", (uuid,)
            )
            self.known.add(uuid)

    def forget(self, uuid: str) -> None:
        """The host holds nothing any more. Need not be durable: it costs one needless reset."""
        if uuid in self.known:
            self.known.discard(uuid)
            self._thread.submit(self._db.execute, "DELETE FROM host WHERE uuid = ?", (uuid,))

    def close(self) -> None:
        """Writes what is left and closes the database."""
        self._thread.shutdown()
        self._db.close()
