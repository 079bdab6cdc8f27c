"""The database file of the PTDB: its tables and its version.

entries   users (id above 0) and groups (below 0). owner_id 0: administrators'.
members   users that are in groups.
ids       every id that was ever given. Rows stay when an entry is deleted: an id is never given
          twice, or what an access list gives to the dead would be the new one's.
"""

from __future__ import annotations

from typing import Final

from afs.access.caller import (
    ADMINISTRATORS_ID,
    ANYUSER_ID,
    AUTHUSER_ID,
    SYSTEM_ADMINISTRATORS,
    SYSTEM_ANYUSER,
    SYSTEM_AUTHUSER,
)
from volserverd.embedded_database import DatabaseKind

# Source: OpenAFS ptserver.h; ids down to -205 are those of groups that it has from the start.
FIRST_GROUP_ID: Final = -206

_SYSTEM: Final = (
    (ADMINISTRATORS_ID, SYSTEM_ADMINISTRATORS),
    (ANYUSER_ID, SYSTEM_ANYUSER),
    (AUTHUSER_ID, SYSTEM_AUTHUSER),
)

PROTECTION_DATABASE: Final = DatabaseKind(
    "protection database",
    # "LPDB" in ASCII.
    application_id=0x4C504442,
    version=1,
    tables=(
        """
        CREATE TABLE entries (
            id INTEGER PRIMARY KEY,
            name TEXT NOT NULL UNIQUE,
            owner_id INTEGER NOT NULL,
            creator_id INTEGER NOT NULL,
            created_ns INTEGER NOT NULL
        ) STRICT""",
        "CREATE INDEX entries_by_owner ON entries (owner_id)",
        """
        CREATE TABLE members (
            group_id INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE,
            user_id INTEGER NOT NULL REFERENCES entries ON DELETE CASCADE,
            PRIMARY KEY (group_id, user_id)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX members_by_user ON members (user_id)",
        "CREATE TABLE ids (id INTEGER PRIMARY KEY) STRICT",
        *(
            statement
            for number, name in _SYSTEM
            for statement in (
                f"INSERT INTO ids VALUES ({number})",  # noqa: S608 ours
                f"INSERT INTO entries VALUES ({number}, '{name}', {ADMINISTRATORS_ID}, 0, 0)",  # noqa: S608
            )
        ),
    ),
)
