"""Mends rows of which a little was damaged, where their checksum proves that it was mended right.

A candidate for what the row was is believed only if the row's checksum is the candidate's: 64 bits,
so that a few thousand tries do not find a wrong one. What is tried: one bit flipped anywhere in the
row (memory and disks do that), and values that other rows know too.
"""

# ruff: noqa: S608 - the names of tables put into queries here are our own
from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from afs.types import VnodeType
from afs.volume.check_finding import FindingKind, Findings
from afs.volume.checksum import CHECKSUM_BYTES
from afs.volume.chunk_store import ChunkStore
from afs.volume.file_data import HASH_BYTES
from afs.volume.salvage_copy import Copied, DamagedRow, is_whole

_INTEGER_BITS: Final = 63
# Bits of a text or of bytes that are tried, each for some microseconds.
_BITS_TRIED_MAX: Final = 8192
# Rows that are tried; each costs some milliseconds.
_ROWS_TRIED_MAX: Final = 2000
# Columns of a vnode's row that other rows know.
_UNIQUIFIER, _TYPE, _LINKS, _LENGTH, _PARENT, _PARENT_UNIQUIFIER = 1, 2, 6, 7, 11, 12
_CHUNK_POSITION, _CHUNK_HASH, _CHUNK_SIZE = 1, 2, 3
# Positions, and chunks that nobody has, that are tried for one row.
_POSITIONS_TRIED_MAX: Final = 256
_STRAYS_TRIED_MAX: Final = 10_000


def mend_rows(
    connection: sqlite3.Connection,
    copied: Copied,
    chunks: ChunkStore,
    strays: Callable[[], Iterable[bytes]],
    findings: Findings,
) -> bool:
    """Puts back the rows that can be mended; the rest stays in `copied`. True if there were any.

    Args:
        connection: the copy.
        copied: its damaged rows.
        chunks: the group's chunks.
        strays: tells of chunks that nobody has: a damaged row may have had one of them.
        findings: where to tell.
    """
    known_strays: list[bytes] | None = None
    tried = copied.damaged
    copied.damaged = []
    for number, row in enumerate(tried):
        values = None
        if number < _ROWS_TRIED_MAX:
            values = mended(row, list(_hints(connection, row, chunks)))
            if values is None and row.table == "chunks" and row.values[-1]:
                if known_strays is None:
                    known_strays = list(islice(strays(), _STRAYS_TRIED_MAX))
                values = mended(row, [{_CHUNK_HASH: digest} for digest in known_strays])
                if values is not None:
                    chunks.pin([values[_CHUNK_HASH]])
                    copied.pinned.append(values[_CHUNK_HASH])
        if values is None:
            copied.damaged.append(row)
        else:
            marks = ", ".join("?" * len(values))
            connection.execute(
                f"INSERT OR IGNORE INTO {row.table} VALUES ({marks})",
                values,
            )
        findings.add(
            FindingKind.ROW,
            _place(row),
            "its checksum is wrong" if row.values[-1] else "it is lost",
            "left out" if values is None else "mended: its checksum proves it",
            repaired=True,
        )
    return bool(tried)


def _place(row: DamagedRow) -> str:
    """Which row it is, as far as it says so itself."""
    values = row.values
    match row.table:
        case "entries":
            return f"name {values[1]!a} in directory {values[0]}"
        case "chunks":
            return f"chunk of vnode {values[0]}, position {values[1]}"
        case "inline_data" | "packed":
            return f"data of vnode {values[0]}"
        case "header":
            return "header"
        case _:
            return f"vnode {values[0]}"


def _hints(
    connection: sqlite3.Connection, row: DamagedRow, chunks: ChunkStore
) -> Iterator[dict[int, Any]]:
    """What other rows know of this one, value by value, and all together."""
    together: dict[int, Any] = {}
    if row.table == "vnodes":
        together = _vnode_hints(connection, row.values[0])
    elif row.table == "chunks":
        digest = row.values[_CHUNK_HASH]
        if isinstance(digest, bytes) and len(digest) == HASH_BYTES:
            with contextlib.suppress(OSError):
                together = {_CHUNK_SIZE: os.stat(chunks.path(digest)).st_size}
        yield from ({_CHUNK_POSITION: position} for position in range(_POSITIONS_TRIED_MAX))
    for column, value in together.items():
        yield {column: value}
    if len(together) > 1:
        yield together


def _vnode_hints(connection: sqlite3.Connection, number: object) -> dict[int, Any]:
    hints: dict[int, Any] = {}
    name = connection.execute(
        "SELECT uniquifier, type, directory FROM entries WHERE vnode = ? LIMIT 1", (number,)
    ).fetchone()
    kind = None
    if name is not None:
        hints[_UNIQUIFIER], kind, hints[_PARENT] = name
        hints[_TYPE] = kind
        parent = connection.execute(
            "SELECT uniquifier FROM vnodes WHERE vnode = ?", (name[2],)
        ).fetchone()
        if parent is not None:
            hints[_PARENT_UNIQUIFIER] = parent[0]
    if number == 1 or kind == VnodeType.DIRECTORY:
        entries, subdirectories = connection.execute(
            "SELECT count(*), coalesce(sum(type = 2), 0) FROM entries WHERE directory = ?",
            (number,),
        ).fetchone()
        hints |= {_LENGTH: entries, _LINKS: 2 + subdirectories}
        return hints
    hints[_LINKS] = 1
    data = connection.execute(
        "SELECT length(data) FROM inline_data WHERE vnode = :number"
        " UNION ALL SELECT size FROM packed WHERE vnode = :number",
        {"number": number},
    ).fetchone()
    if data is not None:
        hints[_LENGTH] = data[0]
    return hints


def mended(row: DamagedRow, hints: Sequence[dict[int, Any]] = ()) -> tuple[Any, ...] | None:
    """The row as it was written; None if that cannot be found out.

    Args:
        row: as it was found.
        hints: values by column that the row may have had, as other rows tell.
    """
    for hint in hints:
        values = tuple(hint.get(column, value) for column, value in enumerate(row.values))
        if is_whole(row.table, values):
            return values
    if not isinstance(row.values[-1], bytes) or len(row.values[-1]) != CHECKSUM_BYTES:
        return None
    for column, value in enumerate(row.values):
        for candidate in _flipped(value):
            values = (*row.values[:column], candidate, *row.values[column + 1 :])
            if is_whole(row.table, values):
                return values
    return None


def _flipped(value: object) -> Iterator[int | str | bytes]:
    """The value with each of its bits flipped."""
    if isinstance(value, int):
        for bit in range(_INTEGER_BITS):
            yield value ^ 1 << bit
        return
    if isinstance(value, str):
        for data in _flipped_bytes(value.encode("utf-8", "surrogateescape")):
            yield data.decode("utf-8", "surrogateescape")
        return
    if isinstance(value, bytes):
        yield from _flipped_bytes(value)


def _flipped_bytes(data: bytes) -> Iterator[bytes]:
    if 8 * len(data) > _BITS_TRIED_MAX:
        return
    changed = bytearray(data)
    for index in range(len(data)):
        for bit in range(8):
            changed[index] ^= 1 << bit
            yield bytes(changed)
            changed[index] ^= 1 << bit
