"""What restored contents take over from the volume they replace.

No client may take old data for new.

V1  Id, name, type, group, incarnation, quota, creation time and what was said about being offline
    stay.
V2  change_counter grows; next_vnode and next_uniquifier are the larger of both: no Fid is ever
    given twice.
V3  A vnode with the same Fid, type and contents keeps its DataVersion; every other one gets a
    DataVersion that no vnode of the volume ever had. So a client that asks again refetches exactly
    what changed.
"""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Final

from blake3 import blake3

from afs.errors import AfsCode, AfsError
from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import Origin, VolumeState
from afs.volume.packed_rows import has_packs
from afs.volume.sqlite_errors import afs_errors

# The vnodes whose contents are not the same in both databases.
_DIFFERENT: Final = """
WITH
    new_chunks AS (SELECT vnode, position, hash, size FROM main.chunks),
    old_chunks AS (SELECT vnode, position, hash, size FROM old.chunks),
    new_entries AS (SELECT directory, name, vnode, uniquifier, type FROM main.entries),
    old_entries AS (SELECT directory, name, vnode, uniquifier, type FROM old.entries),
    new_small AS ({}),
    old_small AS ({})
SELECT vnode FROM (SELECT * FROM new_chunks EXCEPT SELECT * FROM old_chunks)
UNION SELECT vnode FROM (SELECT * FROM old_chunks EXCEPT SELECT * FROM new_chunks)
UNION SELECT directory FROM (SELECT * FROM new_entries EXCEPT SELECT * FROM old_entries)
UNION SELECT directory FROM (SELECT * FROM old_entries EXCEPT SELECT * FROM new_entries)
UNION SELECT new.vnode FROM new_small AS new LEFT JOIN old_small AS was
    ON new.vnode = was.vnode WHERE was.hash IS NOT new.hash
"""
# The hash of small data, wherever they lie.
_INLINE_HASHES: Final = "SELECT vnode, blake3(data) AS hash FROM {}.inline_data"
_PACKED_HASHES: Final = " UNION ALL SELECT vnode, hash FROM {}.packed"

_SAME: Final = """
SELECT new.vnode, was.data_version FROM main.vnodes AS new JOIN old.vnodes AS was
    ON (new.vnode, new.uniquifier, new.type, new.length)
     = (was.vnode, was.uniquifier, was.type, was.length)
"""


# Vnodes rewritten in one go: bounds the memory, not the transaction.
_SLICE_VNODES: Final = 5000


def carry_over(connection: sqlite3.Connection, old: Path, now_ns: int) -> None:
    """Gives a restored database the identity and the history of the one it is to replace.

    Args:
        connection: the restored database; no transaction open.
        old: the database of the volume, which nobody has open.
        now_ns: the wall clock, nanoseconds since the Unix epoch.

    Raises:
        AfsError: VSALVAGE if the old header is damaged; of other damage, all is taken to have
        changed.
    """
    before = _old_state(old)
    restored = rows.read_state(connection)
    fresh = max(before.max_data_version, restored.max_data_version) + 1
    counter = max(before.header.change_counter, restored.header.change_counter) + 1
    same = _same_contents(connection, old)
    connection.execute("BEGIN")
    for vnodes in rows.read_vnodes_in_slices(connection, restored.header.volume_id, _SLICE_VNODES):
        rows.write_vnodes(
            connection,
            [replace(vnode, data_version=same.get(vnode.fid.vnode, fresh)) for vnode in vnodes],
            counter,
        )
    header = replace(
        before.header,
        used_kib=restored.header.used_kib,
        file_count=restored.header.file_count,
        updated_ns=now_ns,
        change_counter=counter,
    )
    state = VolumeState(
        header,
        max(before.next_vnode, restored.next_vnode),
        max(before.next_uniquifier, restored.next_uniquifier),
        fresh,
        Origin(restored.origin.mark, counter),
    )
    rows.write_state(connection, state)
    connection.execute("COMMIT")


def _old_state(old: Path) -> VolumeState:
    try:
        with afs_errors(), contextlib.closing(sqlite_schema.connect(old)) as connection:
            return rows.read_state(connection)
    except AfsError as error:
        if error.code is AfsCode.EIO:
            raise AfsError(
                AfsCode.VSALVAGE,
                f"volume {old.stem} is too damaged to be restored over: delete it first",
            ) from error
        raise


def _same_contents(connection: sqlite3.Connection, old: Path) -> dict[int, int]:
    """The vnodes with the same Fid, type and contents in both: to the old one's DataVersion."""
    connection.execute("ATTACH ? AS old", (sqlite_schema.address(old),))
    connection.create_function("blake3", 1, lambda data: blake3(data).digest(), deterministic=True)
    try:
        candidates = dict(connection.execute(_SAME))
        different = _DIFFERENT.format(_small(connection, "main"), _small(connection, "old"))
        for (number,) in connection.execute(different):
            candidates.pop(number, None)
    except sqlite3.DatabaseError:
        # A damaged volume is no measure of what clients have.
        return {}
    else:
        return candidates
    finally:
        connection.execute("DETACH old")


def _small(connection: sqlite3.Connection, schema: str) -> str:
    """A query for the hashes of all small data in an attached database."""
    packed = _PACKED_HASHES if has_packs(connection, schema) else ""
    return (_INLINE_HASHES + packed).format(*[schema] * 2)
