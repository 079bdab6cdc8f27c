"""The folder of a volume group on disk: a read-write volume, its clones, and the chunks they share.

Databases come and go here in ways that a crash cannot leave half done: a new one is made as a draft
(`<id>.new-<token>.draft`), gets a temporary name (`<id>.new-<token>.db`) when its references are to
count, and is renamed again when it is put in place; one to be deleted is renamed
(`<id>.gone-<token>`) first. Each temporary one has a lock of its own name, so that a crashed
maker's leftovers can be told and cleared.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.runtime.files import fsync_dir
from afs.volume import sqlite_schema
from afs.volume.chunk_store import ChunkStore
from afs.volume.collection import collect_garbage, is_gone, remove_unreferenced
from afs.volume.flock import FileLock
from afs.volume.packed_rows import all_references
from afs.volume.seal import break_seal, database_digest, put_seal, seal_path
from afs.volume.sqlite_errors import afs_errors, sqlite_error

_REMOVAL_SLICE_CHUNKS: Final = 64
# The ending, instead of .db, of a database that is not whole yet and keeps no chunk.
DRAFT_SUFFIX: Final = ".draft"


class VolumeGroup:
    """One group's folder; `chunks` are shared by all its volumes that this process has open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.chunks = ChunkStore(path)

    def make(self) -> None:
        """Makes the folder, durably; a no-op if it is there."""
        if (self.path / "staging").is_dir():
            return
        for folder in (self.path, self.path / "chunks", self.path / "staging"):
            folder.mkdir(mode=0o700, exist_ok=True)
        fsync_dir(self.path)
        fsync_dir(self.path.parent)

    def database(self, volume_id: int) -> Path:
        """Where the database of a volume lies."""
        return self.path / f"{volume_id}.db"

    def volumes(self) -> list[int]:
        """The ids of the volumes that are complete."""
        return [
            int(path.stem)
            for path in self.path.glob("*.db")
            if path.stem.isascii() and path.stem.isdigit()
        ]

    @contextlib.contextmanager
    def new_database(self, volume_id: int) -> Iterator[Path]:
        """A temporary name for a database to be made.

        Whatever still has it at the end is discarded.
        """
        path = self.path / f"{volume_id}.new-{secrets.token_hex(8)}.db"
        lock = FileLock.take(path.with_suffix(".lock"))
        assert lock is not None, "the name was made up just now"
        try:
            yield path
        finally:
            try:
                for suffix in ("", "-wal", "-shm"):
                    draft = draft_path(path)
                    draft.with_name(draft.name + suffix).unlink(missing_ok=True)
                if path.exists():
                    self.discard(path)
            finally:
                lock.release(remove=True)

    def publish(self, draft: sqlite3.Connection, path: Path) -> None:
        """Ends the draft of a database and gives it its temporary name.

        From now on its references count in collections: the caller holds the group's lock, and has
        made sure that the chunks are there. Nothing is durable before `put_in_place`.
        """
        sqlite_schema.finish_draft(draft)
        os.rename(draft_path(path), path)

    def put_in_place(self, new: Path, volume_id: int) -> None:
        """Renames a complete database over the volume's old one, if any; durable on return.

        Nobody has either open, and the caller holds the volume's lock. Chunks that only the old one
        used are removed.
        """
        path = self.database(volume_id)
        replaces = path.exists()
        noted = _inherit_garbage(new, path) if replaces else True
        # The disk and the processor are at work at the same time.
        with ThreadPoolExecutor(1, thread_name_prefix="seal") as hashing:
            settle(new, synced=False)
            digest = hashing.submit(database_digest, new)
            _sync(new)
        if replaces:
            # Should we crash before the renaming, the old one is whole without its WAL.
            _settle_if_possible(path)
        # Locked, nobody looks into either for garbage meanwhile.
        with self.chunks.lock(exclusive=True):
            # Without a seal the volume is checked row by row: right for either, should we crash
            # here.
            break_seal(path)
            # A WAL that outlived its database would be taken for the new one's.
            _remove_wal(path)
            os.rename(new, path)
            _remove_wal(new)
            fsync_dir(self.path)
        changed = self._collect_all(path)
        if not noted:
            self._remove_strays()
        with self.chunks.lock(exclusive=False):
            put_seal(path, None if changed else digest.result())

    def discard(self, path: Path) -> None:
        """Removes a database, and those chunks that nothing else refers to."""
        if not is_gone(path):
            gone = path.with_name(f"{path.stem.partition('.')[0]}.gone-{secrets.token_hex(8)}.db")
            _settle_if_possible(path)
            seal_path(path).unlink(missing_ok=True)
            with self.chunks.lock(exclusive=True):
                _remove_wal(path)
                os.rename(path, gone)
            fsync_dir(self.path)
            path = gone
        hashes = self._hashes(path)
        for digests in _in_slices(iter(hashes or ())):
            remove_unreferenced(digests, self.chunks, without=path)
        path.unlink()
        _remove_wal(path)
        fsync_dir(self.path)
        if hashes is None:
            self._remove_strays()

    def clear_leftovers(self) -> None:
        """Discards what crashed makers and deleters left here."""
        for path in self.path.glob("*.*-*.db"):
            lock = FileLock.take(path.with_suffix(".lock"))
            if lock is not None:
                try:
                    self.discard(path)
                    self._clear_staging(path.stem)
                finally:
                    lock.release(remove=True)
        for stale in self.path.glob("*.*-*.lock"):
            if not stale.with_suffix(".db").exists() and (lock := FileLock.take(stale)) is not None:
                for draft in self.path.glob(f"{stale.stem}{DRAFT_SUFFIX}*"):
                    draft.unlink()
                self._clear_staging(stale.stem)
                lock.release(remove=True)

    def _clear_staging(self, owner: str) -> None:
        """Removes what a crashed maker staged, and what of that nothing refers to."""
        leftovers = self.chunks.clear_leftovers(owner)
        for digests in _in_slices(iter(leftovers)):
            remove_unreferenced(digests, self.chunks)

    def remove_if_empty(self) -> None:
        """Removes the folder if there is no database in it."""
        with self.chunks.lock(exclusive=True):
            if not any(self.path.glob("*.db")) and not any(self.path.glob(f"*{DRAFT_SUFFIX}")):
                shutil.rmtree(self.path, ignore_errors=True)
        fsync_dir(self.path.parent)

    def _collect_all(self, path: Path) -> bool:
        """Collects a volume's garbage; whether that changed its database."""
        with afs_errors(), contextlib.closing(sqlite_schema.connect(path)) as connection:
            begin: bytes | None = b""
            while begin is not None:
                after = collect_garbage(connection, path, self.chunks, begin, set(), wait=True)
                # A damaged neighbour: the garbage stays noted.
                begin = None if after == begin else after
            return connection.total_changes > 0

    def _remove_strays(self) -> None:
        """Removes every chunk that no database refers to."""
        for prefix in range(256):
            for digests in _in_slices(iter(list(self.chunks.stored(prefix)))):
                remove_unreferenced(digests, self.chunks)

    def _hashes(self, path: Path) -> list[bytes] | None:
        """The chunks a database refers to; None if it cannot be read."""
        try:
            with contextlib.closing(sqlite_schema.connect(path)) as connection:
                query = f"{all_references(connection)} UNION SELECT hash FROM garbage"  # noqa: S608
                return [row[0] for row in connection.execute(query)]
        except sqlite3.Error:
            return None


def draft_path(database: Path) -> Path:
    """Where the draft of a database lies: it keeps no chunk, and a crash takes it away."""
    return database.with_suffix(DRAFT_SUFFIX)


def _inherit_garbage(new: Path, old: Path) -> bool:
    """Notes in a new database which chunks only the old one has; False if that cannot be read."""
    with afs_errors():
        connection = sqlite_schema.connect(new)
    try:
        connection.execute("ATTACH ? AS old", (sqlite_schema.address(old),))
        olds = f"{all_references(connection, 'old')} UNION SELECT hash FROM old.garbage"  # noqa: S608
        connection.execute(
            f"INSERT OR IGNORE INTO garbage SELECT hash FROM ({olds})"  # noqa: S608 all ours
            f" WHERE hash NOT IN ({all_references(connection)})"
        )
    except sqlite3.Error as error:
        if sqlite_error(error).code is not AfsCode.EIO:
            raise sqlite_error(error) from error
        return False
    else:
        return True
    finally:
        connection.close()


def settle(path: Path, *, synced: bool = True) -> None:
    """Moves a database's WAL into it and removes it; durable on return unless told otherwise.

    Raises:
        AfsError: VIO if a reader was in the way for too long; EIO if the database is damaged.
    """
    with afs_errors(), contextlib.closing(sqlite_schema.connect(path)) as connection:
        if not sqlite_schema.checkpoint(connection):
            raise AfsError(AfsCode.VIO, f"the database {path.name} is being read all the time")
    if synced:
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _settle_if_possible(path: Path) -> None:
    """As `settle`; a damaged database, which is about to go, is left as it is."""
    try:
        settle(path)
    except AfsError as error:
        if error.code is not AfsCode.EIO:
            raise


def _remove_wal(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _in_slices(digests: Iterator[bytes]) -> Iterator[list[bytes]]:
    while part := list(islice(digests, _REMOVAL_SLICE_CHUNKS)):
        yield part
