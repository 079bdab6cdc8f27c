"""The index of the disk cache, on disk: which pieces there are and what they hash to.

It is written behind and never synced: what a crash takes from it costs a fetch. What it says of a
piece is checked against the piece when that is read, so nothing rests on its being right either.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from afs.types import Fid
from clientd.core.piece import PieceKey, StoredPiece

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE piece (
    volume INTEGER NOT NULL,
    vnode INTEGER NOT NULL,
    uniquifier INTEGER NOT NULL,
    piece_index INTEGER NOT NULL,
    data_version INTEGER NOT NULL,
    length INTEGER NOT NULL,
    blake3 BLOB NOT NULL,
    used INTEGER NOT NULL,
    PRIMARY KEY (volume, vnode, uniquifier, piece_index)
) WITHOUT ROWID;
CREATE TABLE volume (
    volume INTEGER PRIMARY KEY,
    incarnation TEXT NOT NULL
);
"""

_PUT: Final = "INSERT OR REPLACE INTO piece VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_DELETE: Final = (
    "DELETE FROM piece WHERE volume = ? AND vnode = ? AND uniquifier = ? AND piece_index = ?"
)


class DiskIndex:
    """The table of pieces. Used by one thread at a time.

    Args:
        path: of the database; one that is damaged or of another schema is replaced by an empty one,
            one that cannot be made (the disk is full) by one in memory.

    Attributes:
        replaced: why the database that was there could not be used; "" if it could.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.replaced = ""
        try:
            self._db = self._open(str(path))
        except sqlite3.Error as error:
            self.replaced = str(error)
            self._remove()
            try:
                self._db = self._open(str(path))
            except sqlite3.Error:
                self._db = self._open(":memory:")

    def load(self) -> Iterator[tuple[PieceKey, StoredPiece]]:
        """All pieces, least recently used first."""
        rows = self._db.execute(
            "SELECT volume, vnode, uniquifier, data_version, piece_index, length, blake3"
            " FROM piece ORDER BY used"
        )
        for volume, vnode, uniquifier, data_version, index, length, digest in rows:
            yield (
                PieceKey(Fid(volume, vnode, uniquifier), data_version, index),
                StoredPiece(length, digest),
            )

    def update(
        self, puts: Iterable[tuple[PieceKey, StoredPiece, int]], deletes: Iterable[tuple[Fid, int]]
    ) -> None:
        """Takes pieces out and puts pieces in, in one transaction.

        Raises:
            sqlite3.Error: nothing was changed (the disk may be full).
        """
        with self._db:
            self._db.executemany(_DELETE, ((*fid, index) for fid, index in deletes))
            self._db.executemany(
                _PUT,
                (
                    (*key.fid, key.number, key.data_version, piece.length, piece.digest, used)
                    for key, piece, used in puts
                ),
            )

    def last_use(self) -> int:
        """The highest place in the order of use."""
        (used,) = self._db.execute("SELECT coalesce(max(used), 0) FROM piece").fetchone()
        return int(used)

    def incarnations(self) -> dict[int, str]:
        """Which incarnation of each volume the pieces are of."""
        return dict(self._db.execute("SELECT volume, incarnation FROM volume"))

    def note_incarnation(self, volume: int, incarnation: str) -> None:
        """The volume's pieces, from now on, are of this incarnation.

        Raises:
            sqlite3.Error: nothing was changed (the disk may be full).
        """
        with self._db:
            self._db.execute("INSERT OR REPLACE INTO volume VALUES (?, ?)", (volume, incarnation))

    def size_bytes(self) -> int:
        """What the index takes on disk."""
        return sum(path.stat().st_size for path in self._files() if path.exists())

    def close(self) -> None:
        """Lets go of the database."""
        self._db.close()

    def _files(self) -> list[Path]:
        return [self._path.with_name(self._path.name + end) for end in ("", "-wal", "-shm")]

    def _remove(self) -> None:
        for path in self._files():
            with suppress(OSError):
                path.unlink(missing_ok=True)

    @staticmethod
    def _open(where: str) -> sqlite3.Connection:
        db = sqlite3.connect(where, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")
            db.execute("PRAGMA journal_size_limit = 1048576")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if version == 0 and tables == 0:
                db.executescript(_SCHEMA + f"PRAGMA user_version = {SCHEMA_VERSION};")
            elif version != SCHEMA_VERSION:
                raise sqlite3.DatabaseError(f"schema version {version}")
            # Reads every page once: a damaged one is found now and not in the middle of work.
            (verdict,) = db.execute("PRAGMA quick_check").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(str(verdict))
        except BaseException:
            db.close()
            raise
        return db
