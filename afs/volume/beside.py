"""Connections to a volume's database beside whoever has it open: they read, and disturb nobody.

In WAL mode readers wait for no writer and no writer for them. Such a connection does not write even
when it is the last one to be closed.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

# A database is only ever locked against readers for a moment, while its WAL begins or ends.
_PATIENCE_S: Final = 5.0


def connect_to_read(path: Path) -> sqlite3.Connection:
    """A read-only connection in autocommit mode; sqlite3.Error if there is no such database."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_PATIENCE_S,
    )
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection
