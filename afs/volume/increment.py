"""Lays an incremental dump over a copy of its base, and checks that both fit together.

Theory of operation
    The base is a sound volume. The dump brings vnodes that replace the base's (`replace`), or are
    new, and the list of all that exist; the base's others are gone (`keep_only`). The result is a
    sound tree if these hold, which are looked at for what the dump brought only, so that the check
    costs what has changed (`check`), not what is there:

    L1  Every name in a directory that came leads to a vnode of that type whose parent it is, and
        the directory's length and links are right.
    L2  A vnode named there has as many names there as it says (N3: all its names are in its
        parent).
    L3  A vnode that is new, gone, or was given another parent, type or number of names: the
        directory it was in, and the one it is in, came along or are gone too. So no directory that
        did not come names it.
    L4  The names in all directories are as many as the vnodes ask for: with L1 to L3, none is
        without a name.
    L5  From every directory that is new or has another parent, the way up ends at the root (N4).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Final

from afs.types import Vnode, VnodeType
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import VolumeState, used_kib
from afs.volume.dump_frames import bad_dump

_TABLES: Final = """
CREATE TEMP TABLE taken (vnode INTEGER PRIMARY KEY, moved INTEGER NOT NULL, old_parent INTEGER);
CREATE TEMP TABLE gone (vnode INTEGER PRIMARY KEY, parent INTEGER NOT NULL);
"""
_FORGOTTEN: Final = (
    "DELETE FROM entries WHERE directory = ?",
    "DELETE FROM inline_data WHERE vnode = ?",
    # What of them nothing uses any more is collected when the result is put in place.
    "INSERT OR IGNORE INTO garbage SELECT hash FROM chunks WHERE vnode = ?",
    "DELETE FROM chunks WHERE vnode = ?",
    "INSERT OR IGNORE INTO garbage SELECT pack FROM packed WHERE vnode = ?",
    "DELETE FROM packed WHERE vnode = ?",
)

# What must find nothing: what is wrong, and the query.
_MISFITS: Final = (
    (
        "directory {}, name {!r} leads nowhere",
        "SELECT e.directory, e.name FROM temp.taken t JOIN entries e ON e.directory = t.vnode"
        " JOIN vnodes d ON d.vnode = t.vnode LEFT JOIN vnodes v ON v.vnode = e.vnode"
        " WHERE v.uniquifier IS NOT e.uniquifier OR v.type IS NOT e.type OR d.type IS NOT 2"
        " OR v.parent_vnode IS NOT d.vnode OR v.parent_uniquifier IS NOT d.uniquifier LIMIT 1",
    ),
    (
        "directory {} has {} entries: expected {}",
        "SELECT d.vnode, count(e.name), d.length FROM temp.taken t"
        " JOIN vnodes d ON d.vnode = t.vnode AND d.type = 2"
        " LEFT JOIN entries e ON e.directory = d.vnode GROUP BY d.vnode"
        " HAVING d.length <> count(e.name)"
        " OR d.link_count <> 2 + coalesce(sum(e.type = 2), 0) LIMIT 1",
    ),
    (
        "vnode {} has {} names: expected {}",
        "SELECT v.vnode, n.names, iif(v.type <> 2, v.link_count, v.vnode <> 1) FROM"
        " (SELECT e.vnode, count(*) AS names FROM temp.taken t"
        " JOIN entries e ON e.directory = t.vnode GROUP BY e.vnode) n"
        " JOIN vnodes v ON v.vnode = n.vnode"
        " WHERE n.names <> iif(v.type <> 2, v.link_count, v.vnode <> 1) LIMIT 1",
    ),
    (
        "vnode {} came without the directory {} it is in",
        "SELECT v.vnode, v.parent_vnode FROM temp.taken t JOIN vnodes v ON v.vnode = t.vnode"
        " WHERE t.moved AND v.parent_vnode NOT IN (SELECT vnode FROM temp.taken) LIMIT 1",
    ),
    (
        "vnode {} came without the directory {} it was in",
        "SELECT vnode, old_parent FROM temp.taken WHERE moved AND old_parent IS NOT NULL"
        " AND old_parent NOT IN (SELECT vnode FROM temp.taken)"
        " AND old_parent NOT IN (SELECT vnode FROM temp.gone) LIMIT 1",
    ),
    (
        "vnode {} is gone, and the directory {} it was in did not come",
        "SELECT vnode, parent FROM temp.gone WHERE parent NOT IN (SELECT vnode FROM temp.taken)"
        " AND parent NOT IN (SELECT vnode FROM temp.gone) LIMIT 1",
    ),
    (
        "the root directory is none",
        "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM vnodes WHERE vnode = 1 AND uniquifier = 1"
        " AND type = 2 AND parent_vnode = 1 AND parent_uniquifier = 1)",
    ),
)


class Increment:
    """One incremental dump on its way over its base.

    Args:
        connection: the copy of the base, a transaction open.
        base: its state.
    """

    def __init__(self, connection: sqlite3.Connection, base: VolumeState) -> None:
        self._connection = connection
        self._volume_id = base.header.volume_id
        self.file_count = base.header.file_count
        self.used_kib = base.header.used_kib
        # Names that vnodes ask for, and that directories have, beyond what it was in the base.
        self._names_asked = 0
        self._names_had = 0
        connection.execute("DROP TABLE IF EXISTS temp.taken")
        connection.execute("DROP TABLE IF EXISTS temp.gone")
        for statement in _TABLES.strip().split(";\n"):
            connection.execute(statement)

    def replace(self, vnode: Vnode) -> None:
        """Makes way for a vnode, before its rows are written."""
        number = vnode.fid.vnode
        old = rows.read_vnode(self._connection, self._volume_id, number)
        moved = old is None or _place(old) != _place(vnode)
        if old is not None:
            self._discount(old)
            self._forget(number)
        self._count(vnode, 1)
        self._connection.execute(
            "INSERT INTO temp.taken VALUES (?, ?, ?)",
            (number, moved, old.parent.vnode if old is not None else None),
        )

    def keep_only(self, directories: Sequence[int], others: Sequence[int], count: int) -> None:
        """Removes all vnodes but those listed, `count` of them; as in `DumpPresent`.

        Raises:
            AfsError: EINVAL for a list that cannot be.
        """
        listed = sum(directories[1::2]) + sum(others[1::2])
        if listed != count or len(directories) % 2 or len(others) % 2:
            raise bad_dump(f"it lists {listed} vnodes: expected {count}")
        if count > self.file_count:
            raise bad_dump(f"it lists {count} vnodes: of them and its base's there are fewer")
        # What did not change is there, what did has come: as many as there should be are all.
        if count == self.file_count:
            return
        for parity, runs in ((1, directories), (0, others)):
            present = _expanded(runs, 1 if parity else 2)
            wanted = next(present, None)
            gone: list[int] = []
            for number in rows.read_numbers(self._connection, parity=parity):
                if wanted is not None and number > wanted:
                    raise bad_dump(f"vnode {wanted} did not come, and its base has none")
                if number == wanted:
                    wanted = next(present, None)
                else:
                    gone.append(number)
            if wanted is not None:
                raise bad_dump(f"vnode {wanted} did not come, and its base has none")
            for number in gone:
                self._remove(number)

    def check(self) -> None:
        """EINVAL unless the result is a sound tree; see the theory of operation."""
        for what, query in _MISFITS:
            misfit = self._connection.execute(query).fetchone()
            if misfit is not None:
                raise bad_dump(what.format(*misfit))
        if self._names_asked != self._names_had:
            raise bad_dump("a vnode has no name, or more than it says")
        self._check_ways_up()

    def _check_ways_up(self) -> None:
        """L5."""
        parent_of = "SELECT parent_vnode FROM vnodes WHERE vnode = ? AND type = 2"
        safe = {1}
        moved = (
            "SELECT t.vnode FROM temp.taken t JOIN vnodes v ON v.vnode = t.vnode"
            " WHERE t.moved AND v.type = 2"
        )
        for (number,) in self._connection.execute(moved).fetchall():
            way: set[int] = set()
            while number not in safe:
                found = self._connection.execute(parent_of, (number,)).fetchone()
                if number in way or found is None:
                    raise bad_dump(f"directory {number} does not lie under the root")
                way.add(number)
                number = found[0]
            safe |= way

    def _remove(self, number: int) -> None:
        old = rows.read_vnode(self._connection, self._volume_id, number)
        assert old is not None, "it was listed just now"
        self._discount(old)
        self._forget(number)
        self._connection.execute("DELETE FROM vnodes WHERE vnode = ?", (number,))
        self._connection.execute("INSERT INTO temp.gone VALUES (?, ?)", (number, old.parent.vnode))

    def _discount(self, old: Vnode) -> None:
        self._count(old, -1)

    def _count(self, vnode: Vnode, sign: int) -> None:
        self.file_count += sign
        self.used_kib += sign * used_kib(vnode)
        if vnode.type is VnodeType.DIRECTORY:
            self._names_had += sign * vnode.length
            self._names_asked += sign * (vnode.fid.vnode != 1)
        else:
            self._names_asked += sign * vnode.link_count

    def _forget(self, number: int) -> None:
        for statement in _FORGOTTEN:
            self._connection.execute(statement, (number,))


def _place(vnode: Vnode) -> tuple[object, ...]:
    """What a vnode's names depend on."""
    names = 1 if vnode.type is VnodeType.DIRECTORY else vnode.link_count
    return (vnode.fid, vnode.type, vnode.parent, names)


def _expanded(runs: Sequence[int], first: int) -> Iterator[int]:
    """The numbers that runs (missing, present, missing, …) stand for, from `first` on."""
    number = first
    for missing, present in zip(runs[::2], runs[1::2], strict=True):
        number += 2 * missing
        for _ in range(present):
            yield number
            number += 2
