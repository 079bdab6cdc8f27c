"""What the tables say of files' data: bytes and chunks belong to files, and fit their lengths.

Nothing is made up. A file whose bytes are lost is marked (`lost_data`), and so is a position of
which it is known that it had a chunk, or not known that it had none.
"""

# ruff: noqa: S608 - the names of tables put into queries here are our own
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from afs.limits import CHUNK_BYTES, INLINE_MAX_BYTES
from afs.types import VnodeType
from afs.volume import sqlite_tables as rows
from afs.volume.check_finding import FindingKind
from afs.volume.file_data import ChunkRef, positions
from afs.volume.lost_data import LOST_HASH, is_inline_lost, mark_inline_lost
from afs.volume.salvage_case import Case
from afs.volume.salvage_copy import Copied

# Positions without a chunk that are marked in one file; one with more holes is given up.
_HOLES_MARKED_MAX: Final = 65536

_INLINE: Final = "(v.type = 3 OR v.type = 1 AND v.length <= ?)"
_STRAY_INLINE: Final = (
    "SELECT i.vnode FROM inline_data i LEFT JOIN vnodes v ON v.vnode = i.vnode"
    f" WHERE v.vnode IS NULL OR NOT {_INLINE}"
)
_STRAY_PACKED: Final = (
    "SELECT p.vnode FROM packed p LEFT JOIN vnodes v ON v.vnode = p.vnode"
    f" WHERE v.vnode IS NULL OR NOT {_INLINE} OR p.vnode IN (SELECT vnode FROM inline_data)"
)
_NO_INLINE: Final = (
    "SELECT v.vnode, v.uniquifier, v.type, v.length FROM vnodes v"
    f" LEFT JOIN inline_data i ON i.vnode = v.vnode WHERE {_INLINE} AND i.vnode IS NULL"
    " AND v.vnode NOT IN (SELECT vnode FROM packed)"
)
_OTHER_LENGTH: Final = (
    "SELECT v.vnode, i.length FROM vnodes v JOIN (SELECT vnode, length(data) AS length"
    " FROM inline_data UNION ALL SELECT vnode, size FROM packed) i ON i.vnode = v.vnode"
    f" WHERE {_INLINE} AND v.length <> i.length"
)
_STRAY_CHUNKS: Final = (
    "SELECT c.vnode, count(*) FROM chunks c LEFT JOIN vnodes v ON v.vnode = c.vnode"
    " WHERE v.type IS NOT 1 OR v.length <= ? GROUP BY c.vnode"
)
_ODD_CHUNKS: Final = (
    "SELECT c.vnode, c.position, c.hash, c.size, v.length FROM chunks c"
    " JOIN vnodes v ON v.vnode = c.vnode"
    " WHERE c.position * ? + c.size > v.length OR c.position < 0"
)
_CHUNKED: Final = (
    "SELECT v.vnode, v.length, coalesce(c.chunks, 0) FROM vnodes v LEFT JOIN"
    " (SELECT vnode, count(*) AS chunks FROM chunks GROUP BY vnode) c ON c.vnode = v.vnode"
    " WHERE v.type = 1 AND v.length > ?"
)


_KNOWN_INLINE: Final = (
    "SELECT i.vnode, v.uniquifier, 0 FROM inline_data i JOIN vnodes v ON v.vnode = i.vnode"
    " WHERE length(i.data) = 0 AND v.length > 0 AND v.vnode NOT IN (SELECT vnode FROM incomplete)"
)
_KNOWN_CHUNKS: Final = (
    "SELECT c.vnode, v.uniquifier, c.position FROM chunks c JOIN vnodes v ON v.vnode = c.vnode"
    " WHERE c.hash = ? AND v.vnode NOT IN (SELECT vnode FROM incomplete)"
)


def mend_data(case: Case, copied: Copied) -> None:
    """Makes data fit their files, and marks what is lost."""
    _tell_known_losses(case)
    _mend_inline(case)
    for number, count in case.found("stray_chunks", _STRAY_CHUNKS, INLINE_MAX_BYTES):
        _stray(case, "chunks", number, f"{count} chunks of no file that has chunks")
    for number, position, digest, size, length in case.found(
        "odd_chunks", _ODD_CHUNKS, CHUNK_BYTES
    ):
        _trim(case, number, position, ChunkRef(digest, size), length)
    holes_are_known = copied.holes_are_known
    for row in copied.damaged:
        if row.table == "chunks":
            number, position = row.values[:2]
            marked = _mark(case, number, [position], "the row that named its chunk is lost")
            # A row that cannot have been where it was found leaves a gap somewhere else.
            holes_are_known &= bool(marked) or copied.rebuilt
    if not holes_are_known:
        _mark_holes(case)


def lost_ref(length: int, position: int) -> ChunkRef | None:
    """What stands for the lost chunk of a file; None where the file does not reach."""
    room = min(length - position * CHUNK_BYTES, CHUNK_BYTES)
    return ChunkRef(LOST_HASH, room) if position >= 0 and room > 0 else None


# --- in the database ------------------------------------------------------------------------------


def _tell_known_losses(case: Case) -> None:
    """Says again what an earlier salvage has marked."""
    for number, uniquifier, _ in case.found("known_inline", _KNOWN_INLINE):
        if is_inline_lost(case.connection, number):
            case.lose(number, f"{case.volume_id}.{number}.{uniquifier}", "known to be lost")
    for number, uniquifier, position in case.found("known_chunks", _KNOWN_CHUNKS, LOST_HASH):
        subject = f"{case.volume_id}.{number}.{uniquifier}, position {position}"
        case.lose(number, subject, "known to be lost")


def _mend_inline(case: Case) -> None:
    for (number,) in case.found("stray_inline", _STRAY_INLINE, INLINE_MAX_BYTES):
        _stray(case, "inline_data", number, "bytes of no file that is kept so")
    for (number,) in case.found("stray_packed", _STRAY_PACKED, INLINE_MAX_BYTES):
        _stray(case, "packed", number, "a place in a pack of no file that is kept so")
    for number, uniquifier, kind, length in case.found("no_inline", _NO_INLINE, INLINE_MAX_BYTES):
        fid = f"{case.volume_id}.{number}.{uniquifier}"
        case.changed = True
        if not length and kind == VnodeType.FILE:
            rows.add_contents(case.connection, rows.NewRows(inline=[(number, b"")]))
            case.findings.add(
                FindingKind.STRAY_DATA, fid, "an empty file had no row", "made", repaired=True
            )
            continue
        mark_inline_lost(case.connection, [number])
        what = "its target" if kind == VnodeType.SYMLINK else f"all {length} bytes"
        case.lose(number, fid, f"lost: {what}")
    for number, length in case.found("other_length", _OTHER_LENGTH, INLINE_MAX_BYTES):
        _mend_length(case, number, length)


def _mend_length(case: Case, number: int, length: int) -> None:
    """A file has as many bytes as there are."""
    if not length and is_inline_lost(case.connection, number):
        return
    vnode = case.vnode(number)
    assert vnode is not None, "the query found it just now"
    case.findings.add(
        FindingKind.LENGTH,
        vnode.fid,
        f"it says {vnode.length} bytes: found {length}",
        "set right",
        repaired=True,
    )
    case.put_fresh(replace(vnode, length=length))


def _stray(case: Case, table: str, number: int, what: str) -> None:
    case.connection.execute(f"DELETE FROM {table} WHERE vnode = ?", (number,))
    case.changed = True
    case.findings.add(
        FindingKind.STRAY_DATA, f"{case.volume_id}.{number}", what, "removed", repaired=True
    )


def _trim(case: Case, number: int, position: int, ref: ChunkRef, length: int) -> None:
    """A chunk ends where its file does."""
    room = length - position * CHUNK_BYTES
    if position < 0 or room <= 0:
        case.connection.execute(
            "DELETE FROM chunks WHERE vnode = ? AND position = ?", (number, position)
        )
    else:
        rows.write_chunk_refs(case.connection, number, [(position, ref._replace(size=room))])
    case.changed = True
    case.findings.add(
        FindingKind.LENGTH,
        f"{case.volume_id}.{number}, position {position}",
        f"its chunk reaches beyond the file's {length} bytes",
        "cut off there",
        repaired=True,
    )


# --- what is lost ---------------------------------------------------------------------------------


def _mark(case: Case, number: int, places: Iterable[int], why: str) -> int:
    """Marks positions of a file as lost; how many it has that had no chunk."""
    vnode = case.vnode(number)
    marked = 0
    if vnode is None or vnode.type is not VnodeType.FILE or vnode.length <= INLINE_MAX_BYTES:
        return marked
    for position in places:
        ref = lost_ref(vnode.length, position)
        if ref is None or rows.read_chunk_ref(case.connection, number, position) is not None:
            continue
        rows.write_chunk_refs(case.connection, number, [(position, ref)])
        case.changed = True
        case.lose(number, f"{vnode.fid}, position {position}", why)
        marked += 1
    return marked


def _mark_holes(case: Case) -> None:
    """Marks every position without a chunk: any of them may have had one."""
    for number, length, chunks in case.found("chunked", _CHUNKED, INLINE_MAX_BYTES):
        holes = positions(length) - chunks
        if holes > _HOLES_MARKED_MAX:
            # Told and removed even if damaged files shall stay: as it is it would be served wrong.
            case.findings.add(
                FindingKind.LOST_DATA,
                f"{case.volume_id}.{number}",
                f"which of its {holes} positions without data had some is lost",
                "removed",
                repaired=False,
            )
            case.connection.execute("INSERT OR IGNORE INTO hopeless VALUES (?)", (number,))
        elif holes > 0:
            _mark(case, number, _holes(case, number, length), "it may have had a chunk")


def _holes(case: Case, number: int, length: int) -> Iterator[int]:
    end = positions(length)
    there = {
        position
        for (position,) in case.connection.execute(
            "SELECT position FROM chunks WHERE vnode = ?", (number,)
        )
    }
    return (position for position in range(end) if position not in there)
