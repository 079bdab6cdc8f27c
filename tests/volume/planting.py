"""Damage, planted in a volume that nobody has open."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from afs.types import DirectoryEntry, Fid, Vnode, VnodeType
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import VolumeState
from afs.volume.seal import put_seal, seal_path


class Planter:
    """Changes a database behind everybody's back, and seals it as if nothing had been done.

    Rows written by its methods have right checksums: what is wrong is only how they fit together.

    Args:
        path: the database.
        volume_id: whose it is.
    """

    def __init__(self, path: Path, volume_id: int) -> None:
        self._path = path
        self._volume_id = volume_id
        self.connection = sqlite3.connect(path, isolation_level=None)

    def __enter__(self) -> Planter:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.connection.close()
        seal_path(self._path).unlink(missing_ok=True)
        put_seal(self._path)

    def sql(self, statement: str, *parameters: object) -> None:
        """Any statement."""
        self.connection.execute(statement, parameters)

    def vnode(self, number: int) -> Vnode:
        """A vnode."""
        found = rows.read_vnode(self.connection, self._volume_id, number)
        assert found is not None
        return found

    def change_vnode(self, number: int, **values: Any) -> None:
        """A vnode with other values."""
        state = rows.read_state(self.connection)
        changed = replace(self.vnode(number), **values)
        rows.write_vnodes(self.connection, [changed], state.header.change_counter)

    def remove_vnode(self, number: int) -> None:
        """A vnode's row is gone."""
        self.sql("DELETE FROM vnodes WHERE vnode = ?", number)

    def name(self, directory: Fid, name: str, fid: Fid, type: VnodeType) -> None:
        """One more name."""
        rows.write_entries(self.connection, [(directory.vnode, DirectoryEntry(name, fid, type))])

    def unname(self, names: Iterable[str]) -> None:
        """Names are gone, wherever they were."""
        for name in names:
            self.sql("DELETE FROM entries WHERE name = ?", name)

    def change_state(self, **values: Any) -> None:
        """Other counters, or another header (`header=`)."""
        state: VolumeState = rows.read_state(self.connection)
        rows.write_state(self.connection, replace(state, **values))

    def state(self) -> VolumeState:
        """The header and counters."""
        return rows.read_state(self.connection)
