"""Looks at every row of a volume's database.

For one that was not cleanly detached, and before a restored one is put in place.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.types import Vnode, VnodeType
from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import VolumeState, used_kib
from afs.volume.file_data import is_inline, positions
from afs.volume.sqlite_errors import afs_errors
from afs.volume.sqlite_schema import damaged

_HEADER_BYTES: Final = 100


def check_header(path: Path) -> None:
    """VSALVAGE unless a file is a database of ours of this version.

    Looks at its first bytes only.
    """
    with path.open("rb") as file:
        head = file.read(_HEADER_BYTES)
    size = path.stat().st_size
    if len(head) < _HEADER_BYTES or not head.startswith(b"SQLite format 3\0"):
        raise _damaged(path, "it does not begin as an SQLite database")
    if int.from_bytes(head[68:72], "big") != sqlite_schema.APPLICATION_ID:
        raise _damaged(path, "it is no volume's database")
    if (version := int.from_bytes(head[60:64], "big")) != sqlite_schema.SCHEMA_VERSION:
        raise _damaged(path, f"its version is {version}: expected {sqlite_schema.SCHEMA_VERSION}")
    page_bytes = int.from_bytes(head[16:18], "big")
    page_bytes = 65536 if page_bytes == 1 else page_bytes
    if not page_bytes or size % page_bytes:
        raise _damaged(
            path, f"its size of {size} bytes is not whole pages of {page_bytes}: it was cut off"
        )


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
    """EIO unless the rows of a database fit together.

    Counts, names, data, the counters in the header.
    """
    volume_id = state.header.volume_id
    vnodes: dict[int, Vnode] = {}
    for vnode in rows.read_vnodes(connection, volume_id):
        vnodes[vnode.fid.vnode] = vnode
        _check_data(connection, vnode)
        if vnode.fid.vnode >= state.next_vnode or vnode.fid.uniquifier >= state.next_uniquifier:
            raise damaged("header", f"vnode {vnode.fid} is beyond its counters")
        if vnode.data_version > state.max_data_version:
            raise damaged("header", f"vnode {vnode.fid} is beyond its DataVersion")
    root = vnodes.get(1)
    if root is None or (root.fid.uniquifier, root.type, root.parent) != (
        1,
        VnodeType.DIRECTORY,
        root.fid,
    ):
        raise damaged("vnodes", "the root directory")
    _check_names(connection, vnodes, volume_id)
    used = sum(used_kib(vnode) for vnode in vnodes.values())
    if (used, len(vnodes)) != (state.header.used_kib, state.header.file_count):
        raise damaged("header", f"it counts {state.header.file_count} vnodes: found {len(vnodes)}")


def _check(connection: sqlite3.Connection) -> None:
    sqlite_schema.check_schema(connection)
    # The full check, because a damaged index of chunks would make chunks in use look like garbage.
    found = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if found is None or found[0] != "ok":
        raise AfsError(AfsCode.EIO, str(found[0] if found else "no answer to integrity_check"))
    check_tree(connection, rows.read_state(connection))


def _check_data(connection: sqlite3.Connection, vnode: Vnode) -> None:
    number = vnode.fid.vnode
    if vnode.type is VnodeType.DIRECTORY:
        return
    if vnode.type is VnodeType.SYMLINK or is_inline(vnode.length):
        if len(rows.read_inline(connection, number)) != vnode.length:
            raise damaged("inline_data", f"vnode {number} has not {vnode.length} bytes")
        return
    end = positions(vnode.length)
    for position, _ in rows.read_chunk_refs(connection, number, 0, 2**62):
        if position >= end:
            raise damaged("chunks", f"vnode {number}, position {position} lies beyond its end")


def _check_names(connection: sqlite3.Connection, vnodes: dict[int, Vnode], volume_id: int) -> None:
    """EIO unless every entry leads to its vnode, and every vnode has as many names as it says."""
    names: dict[int, int] = {}
    for vnode in vnodes.values():
        if vnode.type is not VnodeType.DIRECTORY:
            continue
        subdirectories = 0
        entries = rows.read_entries(connection, volume_id, vnode.fid.vnode, "", -1)
        for entry in entries:
            target = vnodes.get(entry.fid.vnode)
            if target is None or (target.fid, target.type, target.parent) != (
                entry.fid,
                entry.type,
                vnode.fid,
            ):
                raise damaged(
                    "entries", f"directory {vnode.fid}, name {entry.name!r} leads nowhere"
                )
            names[entry.fid.vnode] = names.get(entry.fid.vnode, 0) + 1
            subdirectories += entry.type is VnodeType.DIRECTORY
        if (len(entries), 2 + subdirectories) != (vnode.length, vnode.link_count):
            raise damaged(
                "entries",
                f"directory {vnode.fid} has {len(entries)} entries: expected {vnode.length}",
            )
    for number, vnode in vnodes.items():
        expected = vnode.link_count
        if vnode.type is VnodeType.DIRECTORY:
            expected = 0 if number == 1 else 1
        if names.get(number, 0) != expected:
            raise damaged(
                "vnodes", f"vnode {vnode.fid} has {names.get(number, 0)} names: expected {expected}"
            )
    total = connection.execute("SELECT count(*) FROM entries").fetchone()[0]
    if total != sum(names.values()):
        raise damaged("entries", "there are names in no directory")
    _check_reachable(vnodes)


def _check_reachable(vnodes: dict[int, Vnode]) -> None:
    """EIO unless every directory leads up to the root (N4): no loops, no islands."""
    good = {1}
    for number, vnode in vnodes.items():
        if vnode.type is not VnodeType.DIRECTORY:
            continue
        way: list[int] = []
        seen: set[int] = set()
        while number not in good:
            if number in seen or number not in vnodes:
                raise damaged("vnodes", f"directory {vnode.fid} does not lie under the root")
            seen.add(number)
            way.append(number)
            number = vnodes[number].parent.vnode
        good.update(way)


def _damaged(path: Path, detail: str) -> AfsError:
    return AfsError(AfsCode.VSALVAGE, f"volume {path.stem} is damaged: {detail}")
