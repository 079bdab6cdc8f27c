"""The database file of the VLDB: its tables and its version.

entries   one row a name. 0 in read_only_id and backup_id: there is no such volume.
sites     where an entry's volumes are, in the order they were given. `release`: for a read-only
          site the change counter that the read-write volume had when it was last released to it.
ids       every id that was ever given, and to whom. Rows stay when their entry is deleted: an id
          is never given twice, or clients would take the new volume for the old one.
counter   the next id to give.

Versions: 1 had no `release`. An older database is upgraded when it is opened, in one transaction.
"""

from __future__ import annotations

from typing import Final

from volserverd.embedded_database import DatabaseKind
from volserverd.vldb.names import FIRST_VOLUME_ID

_TABLES: Final = (
    """
    CREATE TABLE entries (
        read_write_id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        read_only_id INTEGER NOT NULL,
        backup_id INTEGER NOT NULL,
        version INTEGER NOT NULL,
        locked_for TEXT NOT NULL
    ) STRICT""",
    """
    CREATE TABLE sites (
        read_write_id INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE,
        position INTEGER NOT NULL,
        file_server TEXT NOT NULL,
        vol_server TEXT NOT NULL,
        partition TEXT NOT NULL,
        type INTEGER NOT NULL CHECK (type IN (1, 2, 3)),
        release INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (read_write_id, position)
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE ids (volume_id INTEGER PRIMARY KEY, read_write_id INTEGER NOT NULL) STRICT",
    "CREATE TABLE counter (next_volume_id INTEGER NOT NULL) STRICT",
    f"INSERT INTO counter VALUES ({FIRST_VOLUME_ID})",  # noqa: S608 ours
)
# By version: what makes the next one of it.
_UPGRADES: Final = {1: ("ALTER TABLE sites ADD COLUMN release INTEGER NOT NULL DEFAULT 0",)}

LOCATION_DATABASE: Final = DatabaseKind(
    "location database",
    # "LVDB" in ASCII.
    application_id=0x4C564442,
    version=2,
    tables=_TABLES,
    upgrades=_UPGRADES,
)
