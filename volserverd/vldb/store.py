"""The location database: entries by name and id, durable when answered.

Synchronous; used by one thread at a time (`volserverd.locations` sees to that). Every method blocks
on the disk and raises AfsError VDISKFULL or VIO where the disk fails; then nothing has changed.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.types import VolumeType
from volserverd.embedded_database import EmbeddedDatabase
from volserverd.vldb.entry import Entry, Site, kept_backup_id, kept_read_only_id
from volserverd.vldb.names import (
    FIRST_TEMPORARY_ID,
    IDS_PER_VOLUME,
    VolumeReference,
    check_volume_name,
)
from volserverd.vldb.schema import LOCATION_DATABASE

MAX_ENTRIES_PER_ANSWER: Final = 1000
# Source: OpenAFS vldbint.xg, NMAXNSERVERS.
MAX_SITES: Final = 13
# Bytes of an address, a partition's name, or what a lock is for.
MAX_TEXT_BYTES: Final = 255


class VolumeLocationStore:
    """The location database in one SQLite file."""

    def __init__(self, database: EmbeddedDatabase) -> None:
        self._database = database
        self._connection = database.connection
        self._one, self._execute = database.one, database.execute
        self._reading, self._changing = database.reading, database.changing

    @classmethod
    def open(cls, path: Path) -> VolumeLocationStore:
        """Opens the database file, made anew if there is none; errors as `EmbeddedDatabase`."""
        return cls(EmbeddedDatabase(LOCATION_DATABASE, path))

    def close(self) -> None:
        """Lets go of the file."""
        self._database.close()

    def get(self, reference: VolumeReference) -> Entry:
        """The entry of the volume that is meant. VNOVOL if there is none."""
        with self._reading():
            entry = self._find(reference)
        if entry is None:
            raise _no_entry(reference.text)
        return entry

    def entries(self, after: str, limit: int) -> list[Entry]:
        """Up to `limit` entries whose names sort after `after`, by their bytes.

        Raises:
            AfsError: EINVAL for a limit outside 0 to MAX_ENTRIES_PER_ANSWER; 0 means that many.
        """
        if not 0 <= limit <= MAX_ENTRIES_PER_ANSWER:
            raise AfsError(AfsCode.EINVAL, f"limit {limit}: expected 0 to {MAX_ENTRIES_PER_ANSWER}")
        with self._reading():
            rows = self._connection.execute(
                "SELECT * FROM entries WHERE name > ? ORDER BY name LIMIT ?",
                (after, limit or MAX_ENTRIES_PER_ANSWER),
            ).fetchall()
            return [self._entry(row) for row in rows]

    def create(self, entry: Entry) -> Entry:
        """Adds an entry; an id of 0 is chosen, and never was given before.

        Also keeps the next two ids for the volume's read-only and backup volumes.

        Raises:
            AfsError: VVOLEXISTS for a name or an id that is or was taken; EINVAL and ENAMETOOLONG
                for what no entry can hold; VLIMIT when all ids were given.
        """
        check_volume_name(entry.name)
        _check_texts(entry)
        with self._changing():
            if self._one("SELECT 1 FROM entries WHERE name = ?", entry.name):
                raise AfsError(AfsCode.VVOLEXISTS, f"volume {entry.name} exists")
            read_write_id = self._give_ids(entry.read_write_id)
            new = replace(entry, read_write_id=read_write_id, version=1)
            self._check_ids(new)
            self._write(new)
        return new

    def replace(self, entry: Entry) -> Entry:
        """Changes an entry; its lock stays as it is.

        Raises:
            AfsError: EAGAIN unless `entry.version` is the stored one; VNOVOL; VVOLEXISTS for a name
                that another entry has; EINVAL and ENAMETOOLONG as for `create`.
        """
        check_volume_name(entry.name)
        _check_texts(entry)
        with self._changing():
            stored = self._by_id(entry.read_write_id)
            if stored.version != entry.version:
                raise AfsError(
                    AfsCode.EAGAIN,
                    f"the entry of volume {stored.name} has version {stored.version},"
                    f" not {entry.version}: read it again",
                )
            if self._one(
                "SELECT 1 FROM entries WHERE name = ? AND read_write_id <> ?",
                entry.name,
                entry.read_write_id,
            ):
                raise AfsError(AfsCode.VVOLEXISTS, f"volume {entry.name} exists")
            new = replace(entry, version=stored.version + 1, locked_for=stored.locked_for)
            self._check_ids(new)
            self._write(new)
        return new

    def delete(self, read_write_id: int, locked_for: str) -> None:
        """Deletes an entry; its ids stay given.

        Raises:
            AfsError: VNOVOL; VBUSY if it is locked for anything but `locked_for`.
        """
        with self._changing():
            stored = self._by_id(read_write_id)
            if stored.locked_for not in ("", locked_for):
                raise _locked(stored)
            self._execute("DELETE FROM entries WHERE read_write_id = ?", read_write_id)

    def lock(self, read_write_id: int, operation: str) -> Entry:
        """Locks an entry for an operation, which others are shown.

        Raises:
            AfsError: VNOVOL; VBUSY, naming the operation that holds the lock; EINVAL for an empty
                or too long `operation`.
        """
        if not operation or len(operation.encode()) > MAX_TEXT_BYTES:
            raise AfsError(
                AfsCode.EINVAL,
                f"operation {operation[:32]!r}: expected a text of 1 to {MAX_TEXT_BYTES} bytes",
            )
        with self._changing():
            stored = self._by_id(read_write_id)
            if stored.locked_for:
                raise _locked(stored)
            return self._set_lock(stored, operation)

    def unlock(self, read_write_id: int) -> Entry:
        """Unlocks an entry, whoever locked it; one that is not locked stays as it is. VNOVOL."""
        with self._changing():
            stored = self._by_id(read_write_id)
            return self._set_lock(stored, "") if stored.locked_for else stored

    # --- inside a transaction ---------------------------------------------------------------------

    def _set_lock(self, entry: Entry, operation: str) -> Entry:
        new = replace(entry, locked_for=operation, version=entry.version + 1)
        self._execute(
            "UPDATE entries SET locked_for = ?, version = ? WHERE read_write_id = ?",
            new.locked_for,
            new.version,
            new.read_write_id,
        )
        return new

    def _find(self, reference: VolumeReference) -> Entry | None:
        if reference.volume_id:
            row = self._connection.execute(
                "SELECT entries.* FROM entries JOIN ids USING (read_write_id)"
                " WHERE ids.volume_id = ?",
                (reference.volume_id,),
            ).fetchone()
        else:
            row = self._connection.execute(
                "SELECT * FROM entries WHERE name = ?", (reference.name,)
            ).fetchone()
        return None if row is None else self._entry(row)

    def _by_id(self, read_write_id: int) -> Entry:
        row = self._connection.execute(
            "SELECT * FROM entries WHERE read_write_id = ?", (read_write_id,)
        ).fetchone()
        if row is None:
            raise _no_entry(str(read_write_id))
        return self._entry(row)

    def _entry(self, row: tuple[int, str, int, int, int, str]) -> Entry:
        read_write_id, name, read_only_id, backup_id, version, locked_for = row
        sites = self._connection.execute(
            "SELECT file_server, vol_server, partition, type, release FROM sites"
            " WHERE read_write_id = ? ORDER BY position",
            (read_write_id,),
        )
        return Entry(
            name=name,
            read_write_id=read_write_id,
            read_only_id=read_only_id,
            backup_id=backup_id,
            sites=tuple(
                Site(file_server, vol_server, partition, VolumeType(kind), release)
                for file_server, vol_server, partition, kind, release in sites
            ),
            version=version,
            locked_for=locked_for,
        )

    def _write(self, entry: Entry) -> None:
        self._execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (read_write_id) DO UPDATE SET name = excluded.name,"
            " read_only_id = excluded.read_only_id, backup_id = excluded.backup_id,"
            " version = excluded.version, locked_for = excluded.locked_for",
            entry.read_write_id,
            entry.name,
            entry.read_only_id,
            entry.backup_id,
            entry.version,
            entry.locked_for,
        )
        self._execute("DELETE FROM sites WHERE read_write_id = ?", entry.read_write_id)
        self._connection.executemany(
            "INSERT INTO sites VALUES (?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    entry.read_write_id,
                    position,
                    site.file_server,
                    site.vol_server,
                    site.partition,
                    int(site.type),
                    site.release,
                )
                for position, site in enumerate(entry.sites)
            ],
        )

    def _give_ids(self, wanted: int) -> int:
        """Gives three ids in a row, from `wanted` on or, if that is 0, the next free ones."""
        first = wanted or self._next_free_ids()
        if first + IDS_PER_VOLUME > FIRST_TEMPORARY_ID:
            if wanted:
                raise AfsError(
                    AfsCode.EINVAL,
                    f"volume id {wanted}: expected at most {FIRST_TEMPORARY_ID - IDS_PER_VOLUME}",
                )
            raise AfsError(AfsCode.VLIMIT, "all volume ids were given")
        taken = self._last_given(first)
        if taken is not None:
            raise AfsError(
                AfsCode.VVOLEXISTS, f"volume id {taken} was given before: ids are not given twice"
            )
        self._connection.executemany(
            "INSERT INTO ids VALUES (?, ?)",
            [(first + offset, first) for offset in range(IDS_PER_VOLUME)],
        )
        if not wanted:
            self._execute("UPDATE counter SET next_volume_id = ?", first + IDS_PER_VOLUME)
        return first

    def _next_free_ids(self) -> int:
        """The next three ids nobody ever had: the counter's, past any that were asked for."""
        row = self._one("SELECT next_volume_id FROM counter")
        assert row is not None, "the counter's row is made with the database"
        first = int(row[0])
        while (taken := self._last_given(first)) is not None:
            first = taken + 1
        return first

    def _last_given(self, first: int) -> int | None:
        row = self._one(
            "SELECT max(volume_id) FROM ids WHERE volume_id BETWEEN ? AND ?",
            first,
            first + IDS_PER_VOLUME - 1,
        )
        return None if row is None or row[0] is None else int(row[0])

    @staticmethod
    def _check_ids(entry: Entry) -> None:
        """EINVAL for ids that are not the ones kept for this volume."""
        for field, volume_id, kept in (
            ("read_only_id", entry.read_only_id, kept_read_only_id(entry.read_write_id)),
            ("backup_id", entry.backup_id, kept_backup_id(entry.read_write_id)),
        ):
            if volume_id not in (0, kept):
                raise AfsError(
                    AfsCode.EINVAL,
                    f"{field} {volume_id} of volume {entry.name}: expected 0 or {kept}",
                )


def _no_entry(text: str) -> AfsError:
    return AfsError(AfsCode.VNOVOL, f"the location database has no volume {text}")


def _locked(entry: Entry) -> AfsError:
    return AfsError(
        AfsCode.VBUSY, f"the entry of volume {entry.name} is locked for: {entry.locked_for}"
    )


def _check_texts(entry: Entry) -> None:
    """EINVAL for addresses or partitions that no entry can hold."""
    if len(entry.sites) > MAX_SITES:
        raise AfsError(
            AfsCode.EINVAL,
            f"volume {entry.name}: {len(entry.sites)} sites, expected <= {MAX_SITES}",
        )
    for site in entry.sites:
        for field in ("file_server", "vol_server", "partition"):
            text: str = getattr(site, field)
            if not text or len(text.encode("utf-8", "surrogatepass")) > MAX_TEXT_BYTES:
                raise AfsError(
                    AfsCode.EINVAL,
                    f"{field} {text[:32]!r} of a site: expected a text of 1 to {MAX_TEXT_BYTES}"
                    " bytes",
                )
