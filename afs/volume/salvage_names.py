"""Names: each leads to a vnode, from a directory that is that vnode's parent.

What stands in a vnode's row counts more than what stands in a directory: a name that does not fit
is taken away, and a vnode that has lost its last name is an orphan.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from afs.errors import AfsError
from afs.types import DirectoryEntry, Fid, VnodeType
from afs.volume import sqlite_tables as rows
from afs.volume.check_finding import FindingKind
from afs.volume.rules import check_entry_name
from afs.volume.salvage_case import Case

_MISLEADING: Final = (
    "SELECT e.directory, e.name, e.vnode, e.uniquifier,"
    " d.type IS NOT 2, v.vnode IS NULL OR v.uniquifier <> e.uniquifier FROM entries e"
    " LEFT JOIN vnodes d ON d.vnode = e.directory LEFT JOIN vnodes v ON v.vnode = e.vnode"
    " WHERE d.type IS NOT 2 OR v.vnode IS NULL OR v.uniquifier <> e.uniquifier OR e.vnode = 1"
)
_WRONG_TYPE: Final = (
    "SELECT e.directory, e.name, v.vnode, v.uniquifier, v.type FROM entries e"
    " JOIN vnodes v ON v.vnode = e.vnode WHERE v.type <> e.type"
)
# Names outside the parent directory, and of those vnodes the ones that also have one in it.
_ELSEWHERE: Final = (
    "SELECT e.directory, e.name, e.vnode FROM entries e JOIN vnodes v ON v.vnode = e.vnode"
    " WHERE v.parent_vnode <> e.directory"
)
_AT_HOME: Final = (
    "SELECT DISTINCT e.vnode FROM entries e JOIN vnodes v ON v.vnode = e.vnode"
    " WHERE v.parent_vnode = e.directory AND e.vnode IN (SELECT vnode FROM temp.elsewhere)"
)
_NEW_HOMES: Final = (
    "SELECT vnode, min(directory) FROM temp.elsewhere"
    " WHERE vnode NOT IN (SELECT vnode FROM temp.at_home) GROUP BY vnode"
)
_SECOND_NAMES: Final = (
    "SELECT e.directory, e.name, e.vnode FROM entries e JOIN"
    " (SELECT vnode, min(name) AS kept FROM entries WHERE type = 2 GROUP BY vnode"
    " HAVING count(*) > 1) n ON n.vnode = e.vnode WHERE e.name <> n.kept"
)
_WRONG_PARENT: Final = (
    "SELECT DISTINCT v.vnode, d.vnode, d.uniquifier FROM entries e"
    " JOIN vnodes v ON v.vnode = e.vnode JOIN vnodes d ON d.vnode = e.directory"
    " WHERE v.parent_vnode <> d.vnode OR v.parent_uniquifier <> d.uniquifier"
)


def mend_names(case: Case) -> None:
    """Takes away names that lead nowhere, and sets right what a name or a parent says wrong."""
    _remove_impossible(case)
    for directory, name, number, uniquifier, no_directory, no_vnode in case.found(
        "misleading", _MISLEADING
    ):
        why = f"it stands for {case.volume_id}.{number}.{uniquifier}, which is not there"
        if no_directory:
            why = "its directory is not there"
        elif not no_vnode:
            why = "it stands for the root directory"
        _remove(case, directory, name, why)
    for directory, name, number, uniquifier, kind in case.found("wrong_type", _WRONG_TYPE):
        entry = DirectoryEntry(name, Fid(case.volume_id, number, uniquifier), VnodeType(kind))
        rows.write_entries(case.connection, [(directory, entry)])
        case.touch(directory, contents=True)
        case.findings.add(
            FindingKind.NAME,
            _place(case, directory, name),
            "it says wrongly what it stands for",
            f"says {entry.type.name.lower()} now",
            repaired=True,
        )
    _give_each_one_home(case)
    for directory, name, number in case.found("second_names", _SECOND_NAMES):
        _remove(case, directory, name, f"directory {number} has another name")
    for number, parent, uniquifier in case.found("wrong_parent", _WRONG_PARENT):
        _set_parent(case, number, Fid(case.volume_id, parent, uniquifier))
    root = case.vnode(1)
    assert root is not None, "a lost root directory was made again"
    if root.parent != root.fid:
        _set_parent(case, 1, root.fid)


def _remove_impossible(case: Case) -> None:
    """Removes names that no directory can have; only a bug of ours can have written one."""
    # SQLite looks for what is rare; Python decides.
    query = (
        "SELECT directory, name FROM entries WHERE name IN ('', '.', '..')"
        " OR instr(name, '/') OR instr(name, char(0)) OR length(CAST(name AS BLOB)) > 255"
    )
    for directory, name in case.found("impossible_names", query):
        try:
            check_entry_name(name)
        except AfsError as error:
            _remove(case, directory, name, error.detail)


def _give_each_one_home(case: Case) -> None:
    """All names of a vnode stand in one directory, its parent."""
    if next(case.found("elsewhere", _ELSEWHERE), None) is None:
        return
    case.keep_aside("at_home", _AT_HOME)
    for number, directory in case.found("new_homes", _NEW_HOMES):
        _set_parent(case, number, Fid(case.volume_id, directory, 1))
    for directory, name, number in case.found("elsewhere", _ELSEWHERE):
        _remove(case, directory, name, f"vnode {number} lies in another directory")


def _set_parent(case: Case, number: int, parent: Fid) -> None:
    vnode = case.vnode(number)
    assert vnode is not None, "a name leads to it"
    rebuilt = case.connection.execute("SELECT 1 FROM touched WHERE vnode = ?", (number,)).fetchone()
    if rebuilt is None:
        case.findings.add(
            FindingKind.LINKS,
            vnode.fid,
            f"its parent should be {parent}: found {vnode.parent}",
            "set right",
            repaired=True,
        )
    case.put(replace(vnode, parent=parent))


def _remove(case: Case, directory: int, name: str, why: str) -> None:
    case.connection.execute(
        "DELETE FROM entries WHERE directory = ? AND name = ?", (directory, name)
    )
    case.touch(directory, contents=True)
    case.findings.add(
        FindingKind.NAME, _place(case, directory, name), why, "removed", repaired=True
    )


def _place(case: Case, directory: int, name: str) -> str:
    return f"{name!r} in directory {case.volume_id}.{directory}"
