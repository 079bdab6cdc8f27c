"""Looks at every row of a volume's database.

For one that was not cleanly detached, and before a restored one is put in place.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import CHUNK_BYTES, INLINE_MAX_BYTES
from afs.types import Vnode, VnodeType
from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import VolumeState, used_kib
from afs.volume.file_data import ALL_POSITIONS, is_inline
from afs.volume.lost_data import is_inline_lost
from afs.volume.packed_rows import read_packed
from afs.volume.sqlite_errors import afs_errors
from afs.volume.sqlite_schema import damaged

_HEADER_BYTES: Final = 100

# What must find nothing in a sound volume: the table to blame, what is wrong, and the query.
_MISFITS: Final = (
    (
        "vnodes",
        "the root directory",
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM vnodes WHERE vnode = 1 AND uniquifier = 1"
        " AND type = 2 AND parent_vnode = 1 AND parent_uniquifier = 1)",
    ),
    (
        "entries",
        "directory {}, name {!r} leads nowhere",
        "SELECT e.directory, e.name FROM entries e"
        " LEFT JOIN vnodes v ON v.vnode = e.vnode LEFT JOIN vnodes d ON d.vnode = e.directory"
        " WHERE v.uniquifier IS NOT e.uniquifier OR v.type IS NOT e.type OR d.type IS NOT 2"
        " OR v.parent_vnode IS NOT d.vnode OR v.parent_uniquifier IS NOT d.uniquifier LIMIT 1",
    ),
    (
        "entries",
        "directory {} has {} entries: expected {}",
        "SELECT d.vnode, coalesce(e.entries, 0), d.length FROM vnodes d LEFT JOIN"
        " (SELECT directory, count(*) AS entries, sum(type = 2) AS subdirectories FROM entries"
        " GROUP BY directory) e ON e.directory = d.vnode"
        " WHERE d.type = 2 AND (d.length <> coalesce(e.entries, 0)"
        " OR d.link_count <> 2 + coalesce(e.subdirectories, 0)) LIMIT 1",
    ),
    (
        "vnodes",
        "vnode {} has {} names: expected {}",
        "SELECT v.vnode, coalesce(e.names, 0), iif(v.type <> 2, v.link_count, v.vnode <> 1)"
        " FROM vnodes v LEFT JOIN (SELECT vnode, count(*) AS names FROM entries GROUP BY vnode) e"
        " ON e.vnode = v.vnode"
        " WHERE coalesce(e.names, 0) <> iif(v.type <> 2, v.link_count, v.vnode <> 1) LIMIT 1",
    ),
    (
        # Every directory has one name: what is not under the root then hangs in a loop (N4).
        "vnodes",
        "directory {} does not lie under the root",
        "WITH RECURSIVE under(vnode) AS (SELECT 1 UNION SELECT e.vnode FROM under u"
        " JOIN entries e ON e.directory = u.vnode WHERE e.type = 2)"
        " SELECT vnode FROM vnodes WHERE type = 2 AND vnode NOT IN under LIMIT 1",
    ),
    (
        "inline_data",
        "vnode {} is no inline file and no link",
        "SELECT i.vnode FROM inline_data i LEFT JOIN vnodes v ON v.vnode = i.vnode"
        " WHERE v.type IS NULL OR v.type = 2 OR v.type = 1 AND v.length > :inline_max LIMIT 1",
    ),
    (
        "packed",
        "vnode {} is no inline file and no link, or has data in the database too",
        "SELECT p.vnode FROM packed p LEFT JOIN vnodes v ON v.vnode = p.vnode"
        " WHERE v.type IS NULL OR v.type = 2 OR v.type = 1 AND v.length > :inline_max"
        " OR p.vnode IN (SELECT vnode FROM inline_data) LIMIT 1",
    ),
    (
        "chunks",
        "vnode {} is no file of chunks",
        "SELECT c.vnode FROM chunks c LEFT JOIN vnodes v ON v.vnode = c.vnode"
        " WHERE v.type IS NOT 1 OR v.length <= :inline_max LIMIT 1",
    ),
)


def check_header(path: Path) -> int:
    """The version of a database of ours; VSALVAGE if a file is none, or of an unknown version.

    Looks at its first bytes only.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    size = path.stat().st_size
    if len(head) < _HEADER_BYTES or not head.startswith(b"SQLite format 3\0"):
        raise _damaged(path, "it does not begin as an SQLite database")
    if int.from_bytes(head[68:72], "big") != sqlite_schema.APPLICATION_ID:
        raise _damaged(path, "it is no volume's database")
    version = int.from_bytes(head[60:64], "big")
    if not 1 <= version <= sqlite_schema.SCHEMA_VERSION:
        raise _damaged(
            path, f"its version is {version}: expected 1 to {sqlite_schema.SCHEMA_VERSION}"
        )
    page_bytes = int.from_bytes(head[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    if not page_bytes or size % page_bytes:
        raise _damaged(
            path, f"its size of {size} bytes is not whole pages of {page_bytes}: it was cut off"
        )
    return version


def check_rows(path: Path) -> None:
    """Checks a database through and through.

    Raises:
        AfsError: VSALVAGE for damage, naming the first found.
    """
    try:
        with afs_errors():
            connection = sqlite_schema.connect(path)
            try:
                _check(connection)
            finally:
                connection.close()
    except AfsError as error:
        if error.code is AfsCode.EIO:
            raise _damaged(path, error.detail) from error
        raise


def check_tree(connection: sqlite3.Connection, state: VolumeState) -> None:
    """EIO unless every row is whole and all fit together: names, links, data, counters.

    Needs little memory however large the volume is: rows are looked at one by one, and how they fit
    together is asked in SQL.
    """
    volume_id = state.header.volume_id
    vnodes = used = 0
    for vnode in rows.read_vnodes(connection, volume_id):
        vnodes += 1
        used += used_kib(vnode)
        _check_vnode(connection, vnode, state)
    for table in ("entries", "inline_data", "packed", "chunks"):
        rows.check_each(connection, table)
    if (used, vnodes) != (state.header.used_kib, state.header.file_count):
        raise damaged("header", f"it counts {state.header.file_count} vnodes: found {vnodes}")
    check_structure(connection)


def check_structure(connection: sqlite3.Connection) -> None:
    """EIO unless the rows fit together: names, links and data; each is taken to be whole itself."""
    for table, what, query in _MISFITS:
        misfit = connection.execute(query, {"inline_max": INLINE_MAX_BYTES}).fetchone()
        if misfit is not None:
            raise damaged(table, what.format(*misfit))


def _check(connection: sqlite3.Connection) -> None:
    sqlite_schema.check_schema(connection)
    # The full check, because a damaged index of chunks would make chunks in use look like garbage.
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found is None or found[0] != "ok":
        raise AfsError(AfsCode.EIO, str(found[0] if found else "no answer to integrity_check"))
    check_tree(connection, rows.read_state(connection))


def _check_vnode(connection: sqlite3.Connection, vnode: Vnode, state: VolumeState) -> None:
    """EIO unless the vnode has the data its type and length ask for, and fits the counters."""
    number = vnode.fid.vnode
    if number >= state.next_vnode or vnode.fid.uniquifier >= state.next_uniquifier:
        raise damaged("header", f"vnode {vnode.fid} is beyond its counters")
    if vnode.data_version > state.max_data_version:
        raise damaged("header", f"vnode {vnode.fid} is beyond its DataVersion")
    if (number % 2 == 1) != (vnode.type is VnodeType.DIRECTORY):
        raise damaged("vnodes", f"vnode {vnode.fid} is a {vnode.type.name.lower()}")
    if vnode.type is VnodeType.DIRECTORY:
        return
    if vnode.type is VnodeType.SYMLINK or is_inline(vnode.length):
        _check_inline(connection, vnode)
        return
    for position, ref in rows.read_chunk_refs(connection, number, 0, ALL_POSITIONS):
        if position * CHUNK_BYTES + ref.size > vnode.length:
            raise damaged("chunks", f"vnode {number}, position {position} reaches beyond its end")


def _check_inline(connection: sqlite3.Connection, vnode: Vnode) -> None:
    """EIO unless the bytes of an inline file or a link are there, or known to be lost."""
    number = vnode.fid.vnode
    try:
        # Whether the pack is there, and whole, is looked at where chunks are.
        packed = read_packed(connection, number)
        length = packed.size if packed else len(rows.read_inline(connection, number))
    except AfsError:
        if is_inline_lost(connection, number):
            return
        raise
    if length != vnode.length:
        raise damaged("inline_data", f"vnode {number} has not {vnode.length} bytes")


def _damaged(path: Path, detail: str) -> AfsError:
    return AfsError(AfsCode.VSALVAGE, f"volume {path.stem} is damaged: {detail}")
