"""From SQLite's errors to AFS codes."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from typing import Final

from afs.errors import AfsCode, AfsError

_FULL: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE})
# SQLITE_ERROR is what our fixed statements meet when the schema is not the one we wrote.
_DAMAGED: Final = frozenset(
    {
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_ERROR,
    }
)


def sqlite_error(error: sqlite3.Error) -> AfsError:
    """The AfsError for an exception that reading or writing a database raised.

    VDISKFULL for a full disk, EIO for damage (a text that is not UTF-8 included), VIO for all else.
    """
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # What Python raises itself while it turns a row into values.
        return AfsError(AfsCode.EIO, f"the volume's database is damaged: {error}")
    if code in _FULL or code & 0xFF in _FULL:
        return AfsError(AfsCode.VDISKFULL, "the volume's database cannot grow: the disk is full")
    if code & 0xFF in _DAMAGED or code == sqlite3.SQLITE_IOERR_SHORT_READ:
        return AfsError(AfsCode.EIO, f"the volume's database is damaged: {error}")
    return AfsError(AfsCode.VIO, f"the volume's database cannot be used: {error}")


@contextlib.contextmanager
def afs_errors() -> Iterator[None]:
    """Turns what a damaged database or a failing disk raises in its body into AfsError."""
    try:
        yield
    except sqlite3.Error as error:
        raise sqlite_error(error) from error
