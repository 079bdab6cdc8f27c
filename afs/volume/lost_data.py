"""How a volume remembers that some of a file's data are lost: reading them fails, for good.

The salvager keeps such a file, because what is left of it may be worth a lot; but nobody may ever
take zeroes, or a shorter file, for what was there. So lost data have a mark in their place, which
no reader takes for data (EIO), and which checks of the volume accept:

*   for an inline file or a symbolic link, a row without data and with a checksum of its own kind;
*   for a position of a larger file, the chunk whose name is all zeroes, which there never is.

Storing the data anew (all of an inline file, or the whole chunk) takes the mark away.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any, Final

from afs.volume.checksum import checksum
from afs.volume.file_data import HASH_BYTES

LOST_HASH: Final = bytes(HASH_BYTES)
_KIND: Final = "lost inline_data"


def mark_inline_lost(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Notes that the bytes of inline files, or the targets of symbolic links, are lost."""
    connection.executemany(
        "INSERT OR REPLACE INTO inline_data VALUES (?, ?, ?)",
        ((number, b"", checksum(_KIND, number)) for number in numbers),
    )


def is_marked_lost(table: str, row: tuple[Any, ...]) -> bool:
    """Whether a row is the mark of lost inline data."""
    return table == "inline_data" and not row[1] and row[2] == checksum(_KIND, row[0])


def is_inline_lost(connection: sqlite3.Connection, number: int) -> bool:
    """Whether the inline data of a vnode are known to be lost."""
    row = connection.execute("SELECT * FROM inline_data WHERE vnode = ?", (number,)).fetchone()
    return row is not None and is_marked_lost("inline_data", row)
