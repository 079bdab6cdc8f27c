"""The tree: everything lies under the root, and counts say how much lies where.

A directory has one name, so directories that are not under the root either hang from one without a
name, an orphan, or go round in a loop. A loop is cut at its directory with the smallest number,
which thereby becomes an orphan.

Orphans get a name in the root: `__ORPHANDIR__.<vnode>.<uniquifier>` or `__ORPHANFILE__.…`, as AFS
calls them, or are removed with all that lies under them.

Source: OpenAFS `src/vol/vol-salvage.c`.
"""

# ruff: noqa: S608 - the names of tables put into queries here are our own
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from afs.types import DirectoryEntry, Vnode, VnodeType, root_fid
from afs.volume import sqlite_tables as rows
from afs.volume.check_finding import FindingKind
from afs.volume.salvage_case import Case

_ROOT: Final = 1
_DIRECTORIES: Final = "SELECT vnode FROM vnodes WHERE type = 2 AND vnode <> 1"
_PARENTS: Final = "SELECT vnode, directory FROM entries WHERE type = 2"
_NAMELESS_FILES: Final = (
    "SELECT vnode FROM vnodes WHERE type <> 2 AND vnode NOT IN (SELECT vnode FROM entries)"
)
_UNDER_ORPHANS: Final = (
    "WITH RECURSIVE under(vnode) AS (SELECT vnode FROM temp.orphans UNION"
    " SELECT e.vnode FROM under u JOIN entries e ON e.directory = u.vnode) SELECT vnode FROM under"
)
# Directories whose counts are wrong, and what they should be; the same for everything else.
_DIRECTORY_COUNTS: Final = (
    "SELECT d.vnode, coalesce(e.entries, 0), 2 + coalesce(e.subdirectories, 0) FROM vnodes d"
    " LEFT JOIN (SELECT directory, count(*) AS entries, sum(type = 2) AS subdirectories"
    " FROM entries GROUP BY directory) e ON e.directory = d.vnode WHERE d.type = 2"
    " AND (d.length <> coalesce(e.entries, 0)"
    " OR d.link_count <> 2 + coalesce(e.subdirectories, 0))"
)
_FILE_COUNTS: Final = (
    "SELECT v.vnode, v.length, coalesce(e.names, 0) FROM vnodes v LEFT JOIN"
    " (SELECT vnode, count(*) AS names FROM entries GROUP BY vnode) e ON e.vnode = v.vnode"
    " WHERE v.type <> 2 AND v.link_count <> coalesce(e.names, 0)"
)


def mend_tree(case: Case) -> None:
    """Cuts loops, and gives orphans a name or removes them."""
    parents: dict[int, int] = dict(case.connection.execute(_PARENTS))
    directories = [number for (number,) in case.connection.execute(_DIRECTORIES)]
    for number in _loops(directories, parents):
        _cut(case, number, parents.pop(number))
    case.keep_aside(
        "orphans",
        f"SELECT vnode FROM ({_DIRECTORIES}) WHERE vnode NOT IN (SELECT vnode FROM entries)"
        f" UNION ALL {_NAMELESS_FILES}",
    )
    if case.options.remove_orphans:
        _remove_orphans(case)
    else:
        _attach_orphans(case)


def mend_counts(case: Case) -> None:
    """Writes all that was touched, and sets counts right that were wrong."""
    for number, length, links in case.found("directory_counts", _DIRECTORY_COUNTS):
        _mend_count(case, number, length, links)
    for number, length, links in case.found("file_counts", _FILE_COUNTS):
        _mend_count(case, number, length, links)
    for (number,) in case.found("to_write", "SELECT vnode FROM touched WHERE contents"):
        vnode = case.vnode(number)
        if vnode is not None and vnode.data_version != case.fresh:
            case.put_fresh(vnode)


def _mend_count(case: Case, number: int, length: int, links: int) -> None:
    vnode = case.vnode(number)
    assert vnode is not None, "the query found it just now"
    touched = case.connection.execute("SELECT 1 FROM touched WHERE vnode = ?", (number,)).fetchone()
    if touched is None:
        what = f"{vnode.link_count} links"
        expected = f"{links}"
        if vnode.type is VnodeType.DIRECTORY:
            what, expected = f"{vnode.length} entries, {what}", f"{length}, {links}"
        case.findings.add(
            FindingKind.LINKS,
            vnode.fid,
            f"it says {what}: expected {expected}",
            "set right",
            repaired=True,
        )
    counted = replace(vnode, length=length, link_count=links)
    if vnode.type is VnodeType.DIRECTORY:
        case.touch(number, contents=True)
        case.put_fresh(counted)
    else:
        case.put(counted)


def _loops(directories: Iterable[int], parents: dict[int, int]) -> list[int]:
    """One directory of each loop, the one with the smallest number."""
    settled = {_ROOT}
    found: list[int] = []
    for start in directories:
        path: list[int] = []
        on_path: set[int] = set()
        number = start
        while number not in settled and number not in on_path:
            path.append(number)
            on_path.add(number)
            if number not in parents:
                break
            number = parents[number]
        else:
            if number in on_path:
                found.append(min(path[path.index(number) :]))
        settled.update(path)
    return found


def _cut(case: Case, number: int, directory: int) -> None:
    vnode = case.vnode(number)
    assert vnode is not None, "it is a directory of the volume"
    names = case.connection.execute(
        "SELECT name FROM entries WHERE directory = ? AND vnode = ?", (directory, number)
    ).fetchall()
    case.findings.add(
        FindingKind.LOOP,
        vnode.fid,
        f"it lies under itself, as {', '.join(repr(name) for (name,) in names)} in directory"
        f" {case.volume_id}.{directory}",
        "that name is removed",
        repaired=True,
    )
    case.connection.executemany(
        "DELETE FROM entries WHERE directory = ? AND name = ?",
        [(directory, name) for (name,) in names],
    )
    case.touch(directory, contents=True)


def _attach_orphans(case: Case) -> None:
    root = root_fid(case.volume_id)
    for (number,) in case.found("orphans_now", "SELECT vnode FROM temp.orphans"):
        vnode = case.vnode(number)
        assert vnode is not None, "it was found just now"
        name = _free_name(case, vnode)
        rows.write_entries(case.connection, [(_ROOT, DirectoryEntry(name, vnode.fid, vnode.type))])
        case.put(replace(vnode, parent=root))
        # Its counts follow from having a name again.
        case.touch(number, contents=False)
        case.touch(_ROOT, contents=True)
        case.findings.add(
            FindingKind.ORPHAN,
            vnode.fid,
            f"no name leads to this {vnode.type.name.lower()}",
            f"named {name} in the root directory",
            repaired=True,
        )


def _free_name(case: Case, vnode: Vnode) -> str:
    kind = "DIR" if vnode.type is VnodeType.DIRECTORY else "FILE"
    name = wanted = f"__ORPHAN{kind}__.{vnode.fid.vnode}.{vnode.fid.uniquifier}"
    number = 0
    while rows.read_entry(case.connection, case.volume_id, _ROOT, name) is not None:
        number += 1
        name = f"{wanted}.{number}"
    return name


def _remove_orphans(case: Case) -> None:
    for (number,) in case.found("under_orphans", _UNDER_ORPHANS):
        vnode = case.vnode(number)
        if vnode is None:
            continue
        case.findings.add(
            FindingKind.ORPHAN,
            vnode.fid,
            f"this {vnode.type.name.lower()} does not lie under the root directory",
            "removed",
            repaired=True,
        )
        case.remove_vnodes([number])
