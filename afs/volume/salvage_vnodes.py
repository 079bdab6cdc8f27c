"""Vnodes whose rows are lost, made again as far as other rows know them.

What a vnode is called, where it lies, its uniquifier and its type stand in the directory too, and
its data in tables of their own. What nothing else knows (mode, owner, times) gets the values that
allow least. A file of chunks whose length is lost gets one more piece at its end, which is marked
as lost: nobody takes what is left for the whole.
"""

from __future__ import annotations

from typing import Final

from afs.limits import CHUNK_BYTES, MAX_FILE_BYTES, MAX_UINT32
from afs.types import Fid, Vnode, VnodeType, root_fid
from afs.volume import sqlite_tables as rows
from afs.volume.check_finding import FindingKind
from afs.volume.file_data import ChunkRef
from afs.volume.lost_data import LOST_HASH
from afs.volume.salvage_case import Case

_MODES: Final = {VnodeType.DIRECTORY: 0o700, VnodeType.FILE: 0o600, VnodeType.SYMLINK: 0o777}
_ATTRIBUTES_LOST: Final = "made again from its name and data; mode, owner and times are lost"


def remove_impossible_vnodes(case: Case) -> None:
    """Removes vnodes that no volume can have; only a bug of ours can have written one."""
    query = (
        "SELECT vnode, uniquifier FROM vnodes WHERE type NOT IN (1, 2, 3)"
        " OR (vnode % 2 = 1) <> (type = 2) OR NOT vnode BETWEEN 1 AND ? OR length < 0"
        " OR NOT uniquifier BETWEEN 1 AND ? OR length > ? OR mode NOT BETWEEN 0 AND 4095"
    )
    for number, uniquifier in case.found("impossible", query, *_BOUNDS):
        fid = Fid(case.volume_id, number, uniquifier)
        case.findings.add(
            FindingKind.VNODE, fid, "it is no vnode that can be", "removed", repaired=True
        )
        case.remove_vnodes([number])
        case.doubted = True


_BOUNDS: Final = (MAX_UINT32, MAX_UINT32, MAX_FILE_BYTES)


def rebuild_lost_vnodes(case: Case) -> None:
    """Makes vnodes again that names, or what lies in them, tell of."""
    root = root_fid(case.volume_id)
    if case.vnode(1) is None:
        _put(case, Vnode(root, VnodeType.DIRECTORY, 0o700, 0, 0, 2, 0, 0, 0, 0, root))
    named = (
        "SELECT e.vnode, e.uniquifier, e.type, e.directory, min(e.name) FROM entries e"
        " LEFT JOIN vnodes v ON v.vnode = e.vnode WHERE v.vnode IS NULL GROUP BY e.vnode"
    )
    for number, uniquifier, kind, directory, _ in case.found("lost_named", named):
        fid = Fid(case.volume_id, number, uniquifier)
        # The parent's uniquifier is set right with the names.
        _rebuild(case, fid, kind, Fid(case.volume_id, directory, 1))
    nameless = (
        "SELECT DISTINCT e.directory FROM entries e LEFT JOIN vnodes d ON d.vnode = e.directory"
        " WHERE d.vnode IS NULL"
    )
    for (number,) in case.found("lost_nameless", nameless):
        told = case.connection.execute(
            "SELECT v.parent_uniquifier FROM entries e"
            " JOIN vnodes v ON v.vnode = e.vnode AND v.uniquifier = e.uniquifier"
            " WHERE e.directory = ? AND v.parent_vnode = ? LIMIT 1",
            (number, number),
        ).fetchone()
        if told is not None:
            _rebuild(case, Fid(case.volume_id, number, told[0]), VnodeType.DIRECTORY, root)


def _rebuild(case: Case, fid: Fid, kind: int, parent: Fid) -> None:
    number = fid.vnode
    is_directory = kind == VnodeType.DIRECTORY
    possible = 0 < number <= MAX_UINT32 and 0 < fid.uniquifier <= MAX_UINT32
    if not possible or kind not in _MODES or (number % 2 == 1) != is_directory:
        return
    if is_directory:
        length: int | None = 0
    else:
        length = _length(case, number)
    if length is None:
        # Nothing is left of it: its name will be found to lead nowhere.
        return
    type_ = VnodeType(kind)
    _put(case, Vnode(fid, type_, _MODES[type_], 0, 0, 1, length, 0, 0, 0, parent))


def _length(case: Case, number: int) -> int | None:
    """The length of a file or link in bytes, from its data; None if there are none."""
    row = case.connection.execute(
        "SELECT length(data) FROM inline_data WHERE vnode = :number"
        " UNION ALL SELECT size FROM packed WHERE vnode = :number",
        {"number": number},
    ).fetchone()
    if row is not None:
        return int(row[0])
    last = case.connection.execute(
        "SELECT max(position) FROM chunks WHERE vnode = ?", (number,)
    ).fetchone()[0]
    if last is None or (last + 2) * CHUNK_BYTES > MAX_FILE_BYTES:
        return None
    rows.write_chunk_refs(case.connection, number, [(last + 1, ChunkRef(LOST_HASH, CHUNK_BYTES))])
    case.lose(
        number,
        f"{case.volume_id}.{number}, position {last + 1}",
        "how long the file was is lost: more may have followed",
    )
    return int(last + 2) * CHUNK_BYTES


def _put(case: Case, vnode: Vnode) -> None:
    case.doubted = True
    case.findings.add(
        FindingKind.VNODE,
        vnode.fid,
        f"the row of a {vnode.type.name.lower()} is lost",
        _ATTRIBUTES_LOST,
        repaired=True,
    )
    case.put_fresh(vnode)
    case.touch(vnode.fid.vnode, contents=True)
