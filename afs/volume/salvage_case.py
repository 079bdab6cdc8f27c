"""What the parts of a salvage share: the copy they work on, and what they have done to it."""

# ruff: noqa: S608 - the names of tables put into queries here are our own
from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from afs.types import Vnode, VolumeType
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import VolumeState
from afs.volume.check_finding import FindingKind, Findings

_SLICE_ROWS: Final = 1000


@dataclass(frozen=True, slots=True)
class SalvageOptions:
    """What the operator wants.

    Args:
        remove_orphans: vnodes that no name leads to are removed, instead of named in the root.
        remove_damaged: files whose data are lost, in part or whole, are removed.
        deep: also reads every chunk and compares it with its hash.
    """

    remove_orphans: bool = False
    remove_damaged: bool = False
    deep: bool = True


@dataclass(slots=True)
class Case:
    """One volume that is being salvaged; a transaction is open on its copy.

    Attributes:
        connection: the copy.
        state: the header and counters as they will be; valid from the header's check on.
        fresh: the DataVersion of whatever is changed: no vnode of the volume ever had it.
        counter: the change counter that changed vnodes are stamped with.
        changed: the volume is not any more what it was.
        doubted: some rows are lost, so that counts that do not fit any more say nothing new.
    """

    connection: sqlite3.Connection
    volume_id: int
    findings: Findings
    options: SalvageOptions
    now_ns: int
    state: VolumeState
    fresh: int
    counter: int
    changed: bool = False
    doubted: bool = False

    def prepare(self) -> None:
        """Makes the tables of what was changed, in its contents or not, and of what lost data."""
        self.connection.execute(
            "CREATE TEMP TABLE touched (vnode INTEGER PRIMARY KEY, contents INTEGER NOT NULL)"
        )
        for table in ("incomplete", "hopeless"):
            self.connection.execute(f"CREATE TEMP TABLE {table} (vnode INTEGER PRIMARY KEY)")

    def touch(self, number: int, *, contents: bool) -> None:
        """Notes that a vnode changes: it is written once, at the end, with all its counts."""
        self.changed = True
        self.connection.execute(
            "INSERT INTO touched VALUES (?, ?)"
            " ON CONFLICT DO UPDATE SET contents = max(contents, excluded.contents)",
            (number, contents),
        )

    def lose(
        self, number: int, subject: object, detail: str, kind: FindingKind = FindingKind.LOST_DATA
    ) -> None:
        """Notes that data of a file are lost for good."""
        self.connection.execute("INSERT OR IGNORE INTO incomplete VALUES (?)", (number,))
        removed = self.options.remove_damaged
        action = "the file is removed" if removed else "the file stays, and reading it there fails"
        self.findings.add(kind, subject, detail, action, repaired=removed)

    def remove_lost_files(self) -> None:
        """Removes the files that are to go because they lost data, and their names."""
        self._remove_files("hopeless")
        if self.options.remove_damaged:
            self._remove_files("incomplete")

    def _remove_files(self, listed: str) -> None:
        where = f"FROM entries WHERE vnode IN (SELECT vnode FROM temp.{listed})"
        for (directory,) in self.found("robbed", f"SELECT DISTINCT directory {where}"):
            self.touch(directory, contents=True)
        self.connection.execute(f"DELETE {where}")
        files = self.connection.execute(f"SELECT vnode FROM temp.{listed}").fetchall()
        if files:
            self.remove_vnodes(number for (number,) in files)

    def vnode(self, number: int) -> Vnode | None:
        """The vnode with a number."""
        return rows.read_vnode(self.connection, self.volume_id, number)

    def put(self, vnode: Vnode) -> None:
        """Writes a vnode."""
        self.changed = True
        rows.write_vnodes(self.connection, [vnode], self.counter)

    def put_fresh(self, vnode: Vnode) -> None:
        """Writes a vnode whose contents are not what they were."""
        self.put(
            replace(
                vnode,
                data_version=self.fresh,
                client_mtime_ns=vnode.client_mtime_ns or self.now_ns,
                server_mtime_ns=self.now_ns,
            )
        )

    def remove_vnodes(self, numbers: Iterable[int]) -> None:
        """Removes vnodes with their data and what stands in them; the names remain."""
        self.changed = True
        one_each = [(number,) for number in numbers]
        for statement in (
            "DELETE FROM vnodes WHERE vnode = ?",
            "DELETE FROM inline_data WHERE vnode = ?",
            "DELETE FROM packed WHERE vnode = ?",
            "DELETE FROM chunks WHERE vnode = ?",
            "DELETE FROM entries WHERE directory = ?",
        ):
            self.connection.executemany(statement, one_each)

    def found(self, name: str, query: str, *parameters: object) -> Iterator[tuple[Any, ...]]:
        """What a query finds, kept aside first: the tables may be changed meanwhile.

        Args:
            name: of the temporary table it is kept in, where it remains.
            query: a SELECT.
            parameters: of the query.
        """
        self.keep_aside(name, query, *parameters)
        return self._rows(name)

    def keep_aside(self, name: str, query: str, *parameters: object) -> None:
        """Keeps what a query finds in a temporary table."""
        self.connection.execute(f"DROP TABLE IF EXISTS temp.{name}")
        self.connection.execute(f"CREATE TEMP TABLE {name} AS {query}", parameters)

    def _rows(self, name: str) -> Iterator[tuple[Any, ...]]:
        after = 0
        while part := self.connection.execute(
            f"SELECT rowid, * FROM temp.{name} WHERE rowid > ? LIMIT ?",
            (after, _SLICE_ROWS),
        ).fetchall():
            for row in part:
                yield row[1:]
            after = part[-1][0]

    @property
    def is_clone(self) -> bool:
        """Whether the volume shows a state of another one."""
        return self.state.header.type is not VolumeType.READ_WRITE
