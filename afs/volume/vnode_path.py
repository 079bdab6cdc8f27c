"""What a vnode is called, for people who read findings; names may be damaged too."""

from __future__ import annotations

import re
import sqlite3
from typing import Final

# A subject of a finding that is about one vnode: its Fid, or a row of it.
_VNODE: Final = re.compile(r"^\d+\.(\d+)\b|\bvnode (\d+)\b")
# Directories above a vnode that are walked up; more are a loop, or nothing that people read.
_DEPTH_MAX: Final = 256
_NAME: Final = (
    "SELECT e.name, e.directory FROM vnodes v JOIN entries e ON e.directory = v.parent_vnode"
    " AND e.vnode = v.vnode AND e.uniquifier = v.uniquifier WHERE v.vnode = ? LIMIT 1"
)


def path_of_subject(connection: sqlite3.Connection, subject: str) -> str:
    """The path, from the volume's root, of the vnode that a finding is about; "" if unknown."""
    found = _VNODE.search(subject)
    return path_of(connection, int(found[1] or found[2])) if found else ""


def path_of(connection: sqlite3.Connection, number: int) -> str:
    """The path of a vnode, from the volume's root; "" if it has none that can be told."""
    names: list[str] = []
    for _ in range(_DEPTH_MAX):
        if number == 1:
            return "/" + "/".join(reversed(names))
        try:
            row = connection.execute(_NAME, (number,)).fetchone()
        except (sqlite3.Error, OverflowError):
            # A damaged database, or a number that none is.
            return ""
        if row is None:
            return ""
        name, number = row
        names.append(name)
    return ""
