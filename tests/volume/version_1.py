"""Turns a volume's database into what versions 1 and 2 of the schema hold: to test upgrades."""

from __future__ import annotations

import contextlib
from pathlib import Path

from afs.volume import sqlite_schema
from afs.volume.checksum import checksum
from afs.volume.seal import put_seal, seal_path
from tests.volume.version_3 import make_version_3

HEADER_1 = """
CREATE TABLE header (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    volume_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    type INTEGER NOT NULL,
    read_write_id INTEGER NOT NULL,
    backup_id INTEGER NOT NULL,
    incarnation TEXT NOT NULL,
    max_quota_kib INTEGER NOT NULL,
    used_kib INTEGER NOT NULL,
    file_count INTEGER NOT NULL,
    created_ns INTEGER NOT NULL,
    updated_ns INTEGER NOT NULL,
    cloned_ns INTEGER NOT NULL,
    change_counter INTEGER NOT NULL,
    offline_message TEXT NOT NULL,
    leave_offline INTEGER NOT NULL,
    next_vnode INTEGER NOT NULL,
    next_uniquifier INTEGER NOT NULL,
    max_data_version INTEGER NOT NULL,
    checksum BLOB NOT NULL
) STRICT
"""
VNODES_1 = """
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
    checksum BLOB NOT NULL
) STRICT
"""


def make_version_2(path: Path, *, sealed: bool) -> None:
    """Rewrites the database of a volume that nobody has open, and that has no packs."""
    make_version_3(path, sealed=False)
    with contextlib.closing(sqlite_schema.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM packed").fetchone() == (0,)
        connection.executescript(
            "BEGIN; DROP TABLE packed; DROP INDEX inline_data_to_pack; PRAGMA user_version = 2;"
            " COMMIT"
        )
        assert sqlite_schema.checkpoint(connection)
    seal_path(path).unlink(missing_ok=True)
    if sealed:
        put_seal(path)


def make_version_1(path: Path, *, sealed: bool) -> None:
    """Rewrites the database of a volume that nobody has open."""
    make_version_2(path, sealed=False)
    with contextlib.closing(sqlite_schema.connect(path)) as connection:
        header = connection.execute("SELECT * FROM header").fetchone()
        # Without in_transit (17th), the origin and the checksum.
        values = (*header[1:16], *header[17:20])
        vnodes = [row[:13] for row in connection.execute("SELECT * FROM vnodes")]
        connection.executescript(
            f"BEGIN; DROP TABLE header; DROP TABLE vnodes; {HEADER_1}; {VNODES_1};"
        )
        connection.execute(
            f"INSERT INTO header VALUES (1, {', '.join('?' * 19)})",
            (*values, checksum("header", *values)),
        )
        connection.executemany(
            f"INSERT INTO vnodes VALUES ({', '.join('?' * 14)})",
            [(*row, checksum("vnodes", *row)) for row in vnodes],
        )
        connection.execute("PRAGMA user_version = 1")
        connection.execute("COMMIT")
        assert sqlite_schema.checkpoint(connection)
    seal_path(path).unlink(missing_ok=True)
    if sealed:
        put_seal(path)
