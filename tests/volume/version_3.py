"""Turns a volume's database into what version 3 of the schema would hold: for tests of upgrades."""

from __future__ import annotations

import contextlib
from pathlib import Path

from afs.volume import sqlite_schema
from afs.volume.checksum import checksum
from afs.volume.seal import put_seal, seal_path

VNODES_3 = """
CREATE TABLE vnodes (
    vnode INTEGER PRIMARY KEY,
    uniquifier INTEGER NOT NULL,
    type INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    owner INTEGER NOT NULL,
    "group" INTEGER NOT NULL,
    link_count INTEGER NOT NULL,
    length INTEGER NOT NULL,
    data_version INTEGER NOT NULL,
    client_mtime_ns INTEGER NOT NULL,
    server_mtime_ns INTEGER NOT NULL,
    parent_vnode INTEGER NOT NULL,
    parent_uniquifier INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    checksum BLOB NOT NULL
) STRICT;
CREATE INDEX vnodes_by_changed ON vnodes (changed)
"""


def make_version_3(path: Path, *, sealed: bool) -> None:
    """Rewrites the database of a volume that nobody has open."""
    with contextlib.closing(sqlite_schema.connect(path)) as connection:
        # Without acl (14th) and the checksum.
        vnodes = [(*row[:13], row[14]) for row in connection.execute("SELECT * FROM vnodes")]
        connection.executescript(f"BEGIN; DROP TABLE vnodes; {VNODES_3};")
        connection.executemany(
            f"INSERT INTO vnodes VALUES ({', '.join('?' * 15)})",
            [(*row, checksum("vnodes", *row)) for row in vnodes],
        )
        connection.execute("PRAGMA user_version = 3")
        connection.execute("COMMIT")
        assert sqlite_schema.checkpoint(connection)
    seal_path(path).unlink(missing_ok=True)
    if sealed:
        put_seal(path)
