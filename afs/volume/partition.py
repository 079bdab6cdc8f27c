"""A partition: the directory that holds volume groups, and who may use what in it.

Layout: `groups/<read-write id>/<volume id>.db` with `.lock` and `.seal` beside it, and the group's
`chunks/` and `staging/`. A daemon holds `<holder>.lock` of the partition while it runs, so a second
of its kind is refused; and the lock of each volume it has open, so that no volume is ever open
twice, whatever FSSync says.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from afs.errors import AfsCode, AfsError
from afs.limits import KIB
from afs.runtime.files import fsync_dir
from afs.types import VolumeHeader, VolumeType
from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.change_set import NO_ORIGIN
from afs.volume.chunk_store import disk_error, disk_errors
from afs.volume.flock import FileLock
from afs.volume.seal import check_seal
from afs.volume.sqlite_errors import afs_errors
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.sqlite_upgrade import upgrade
from afs.volume.verify import check_header, check_rows
from afs.volume.volume_group import VolumeGroup, draft_path
from afs.volume.volume_header import check_volume_name, new_header, new_volume


@dataclass(frozen=True, slots=True)
class PartitionUsage:
    """Room on a partition, in KiB."""

    size_kib: int
    free_kib: int


class Partition:
    """An open partition; safe to use from several threads."""

    def __init__(self, path: Path, lock: FileLock) -> None:
        self.path = path
        self.name = path.name
        self._lock = lock
        self._groups: dict[int, VolumeGroup] = {}
        self._groups_lock = threading.Lock()

    @classmethod
    def open(cls, path: Path, *, holder: str) -> Partition:
        """Opens a partition for one daemon; makes its layout in an empty directory.

        Args:
            path: the directory; made if it is missing.
            holder: what kind of daemon asks, for instance "afsd": one of a kind at a time.

        Raises:
            AfsError: EINVAL for something else than a partition or an empty directory; VBUSY if
                another of the same kind has it; VDISKFULL, VIO.
        """
        path = path.absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            foreign = [
                item
                for item in os.listdir(path)
                if item not in ("groups", "lost+found") and not item.endswith(".lock")
            ]
        except (NotADirectoryError, FileExistsError):
            raise AfsError(AfsCode.EINVAL, f"partition {path} is no directory") from None
        except OSError as error:
            raise disk_error(error, f"partition {path} cannot be used") from error
        groups = path / "groups"
        if foreign and not groups.is_dir():
            raise AfsError(
                AfsCode.EINVAL,
                f"{path} is no partition: expected an empty directory, found {foreign[0]!r}",
            )
        lock = FileLock.take(path / f"{holder}.lock")
        if lock is None:
            raise AfsError(AfsCode.VBUSY, f"partition {path} is in use by another {holder}")
        try:
            groups.mkdir(mode=0o700, exist_ok=True)
            fsync_dir(path)
            partition = cls(path, lock)
            for item in groups.iterdir():
                if item.name.isascii() and item.name.isdigit():
                    partition._group(int(item.name)).clear_leftovers()
        except OSError as error:
            lock.release()
            raise disk_error(error, f"partition {path} cannot be used") from error
        except BaseException:
            lock.release()
            raise
        return partition

    def volumes(self) -> list[int]:
        """The ids of the volumes on the partition, sorted."""
        return sorted(volume_id for group in self._all_groups() for volume_id in group.volumes())

    def open_volume(
        self, volume_id: int, *, clock_ns: Callable[[], int] = time.time_ns
    ) -> SqliteVolume:
        """Opens a volume; it is then this process's alone until it is closed.

        Raises:
            AfsError: VNOVOL; VBUSY if it is open already, here or elsewhere; VSALVAGE if it is
            damaged.
        """
        group = self._find(volume_id)
        lock = self._take(group, volume_id)
        try:
            return self._open(group, volume_id, lock, clock_ns)
        except BaseException:
            lock.release()
            raise

    def volume_header(self, volume_id: int) -> VolumeHeader:
        """The header of a volume as of its last commit, whoever has it open.

        Raises:
            AfsError: VNOVOL; VSALVAGE if it is damaged.
        """
        path = self._find(volume_id).database(volume_id)
        try:
            with afs_errors(), contextlib.closing(sqlite_schema.connect(path)) as connection:
                return rows.read_state(connection).header
        except AfsError as error:
            raise _salvage(volume_id, error) from error

    def create_volume(
        self,
        *,
        volume_id: int,
        name: str,
        type: VolumeType = VolumeType.READ_WRITE,
        read_write_id: int | None = None,
        max_quota_kib: int = 0,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> SqliteVolume:
        """A new volume with an empty root directory (mode 0o755), open; durable on return.

        Raises:
            AfsError: VVOLEXISTS; EINVAL, ENAMETOOLONG for what no volume can have; VDISKFULL, VIO.
        """
        header = new_header(
            volume_id, name, type, read_write_id, max_quota_kib, secrets.token_hex(8), clock_ns()
        )
        group = self.group_for(volume_id, header.read_write_id)
        with disk_errors():
            group.make()
            lock = self._take(group, volume_id)
            try:
                if self._path(volume_id) is not None:
                    raise AfsError(
                        AfsCode.VVOLEXISTS, f"volume {volume_id} exists on partition {self.name}"
                    )
                with group.new_database(volume_id) as path:
                    state, root = new_volume(header, header.created_ns)
                    with afs_errors():
                        draft = sqlite_schema.create_draft(draft_path(path))
                        with contextlib.closing(draft):
                            rows.write_vnodes(draft, [root], header.change_counter)
                            rows.write_state(draft, state)
                            group.publish(draft, path)
                    group.put_in_place(path, volume_id)
                return self._open(group, volume_id, lock, clock_ns)
            except BaseException:
                lock.release()
                raise

    def clone_volume(
        self,
        source: SqliteVolume,
        *,
        volume_id: int,
        name: str,
        type: VolumeType,
        backup_id: int = 0,
    ) -> None:
        """Makes a clone of a volume as it is at this moment, in its group; durable on return.

        Copies the database, no chunks. A READ_ONLY or BACKUP clone may replace an older one of its
        id. It has the incarnation and the change counter of its source: what shows the same state
        says so, wherever it lies, and giving back a clone made anew of an unchanged volume breaks
        nothing (M5b). A READ_WRITE clone is a volume of its own: a fresh incarnation, and its own
        id as `read_write_id`; its deletion, or its source's, leaves the other's chunks alone. Its
        `backup_id` is what is given here.

        Raises:
            AfsError: VBUSY if a volume of that id is open; VVOLEXISTS if it is a read-write volume
                or no clone of this group; VDISKFULL, VIO.
        """
        check_volume_name(name)
        group = self._group(int(source.path.parent.name))
        with disk_errors():
            existing = self._path(volume_id)
            if existing is not None and (
                existing.parent != group.path
                or type is VolumeType.READ_WRITE
                or volume_id in (source.volume_id, source.header().read_write_id)
                or self._is_read_write(volume_id)
            ):
                raise AfsError(
                    AfsCode.VVOLEXISTS,
                    f"volume {volume_id} exists and is no clone of volume {source.volume_id}",
                )
            lock = self._take(group, volume_id)
            try:
                with group.new_database(volume_id) as path:
                    self._copy(group, source, path, volume_id, name, type, backup_id)
                    group.put_in_place(path, volume_id)
            finally:
                lock.release()

    def delete_volume(self, volume_id: int) -> None:
        """Removes a volume, damaged or not, and the chunks that only it used; durable on return.

        Raises:
            AfsError: VNOVOL; VBUSY if it is open; VIO.
        """
        group = self._find(volume_id)
        lock = self._take(group, volume_id)
        try:
            with disk_errors():
                group.discard(group.database(volume_id))
                group.chunks.clear_leftovers(str(volume_id))
        finally:
            lock.release(remove=True)
        with disk_errors():
            group.remove_if_empty()

    def usage(self) -> PartitionUsage:
        """The partition's size and what is free of it."""
        with disk_errors():
            room = os.statvfs(self.path)
        return PartitionUsage(
            room.f_blocks * room.f_frsize // KIB, room.f_bavail * room.f_frsize // KIB
        )

    def close(self) -> None:
        """Lets go of the partition; its volumes are closed before."""
        self._lock.release()

    # --- inside ---

    def _open(
        self, group: VolumeGroup, volume_id: int, lock: FileLock, clock_ns: Callable[[], int]
    ) -> SqliteVolume:
        path = group.database(volume_id)
        # Reading a database as a plain file lets go of the locks that a connection of this process
        # has on it (POSIX); the only one there can be belongs to a collection, which the lock keeps
        # out.
        with disk_errors(), group.chunks.lock(exclusive=False):
            version = check_header(path)
            sealed = check_seal(path)
        if version < sqlite_schema.SCHEMA_VERSION:
            upgrade(path)
        if not sealed:
            check_rows(path)
        try:
            volume = SqliteVolume(path, group.chunks, clock_ns=clock_ns, release=lock.release)
        except AfsError as error:
            raise _salvage(volume_id, error) from error
        if volume.volume_id != volume_id:
            volume.close()
            raise AfsError(
                AfsCode.VSALVAGE,
                f"the database of volume {volume_id} says it is volume {volume.volume_id}",
            )
        with disk_errors(), group.chunks.lock(exclusive=True):
            leftovers = group.chunks.clear_leftovers(str(volume_id))
        volume.add_strays(leftovers)
        return volume

    def _copy(
        self,
        group: VolumeGroup,
        source: SqliteVolume,
        path: Path,
        volume_id: int,
        name: str,
        type: VolumeType,
        backup_id: int,
    ) -> None:
        """Writes a clone's database: the source's, with another header."""
        writable = type is VolumeType.READ_WRITE
        old: VolumeHeader | None = None
        if group.database(volume_id).exists():
            # A damaged clone is replaced by a new one.
            with contextlib.suppress(AfsError):
                old = self.volume_header(volume_id)
        source.make_small()
        # From copying the references to their commit nothing may collect the chunks.
        with group.chunks.lock(exclusive=False), afs_errors(), contextlib.ExitStack() as stack:
            source.copy_database(draft_path(path))
            connection = sqlite_schema.open_draft(draft_path(path))
            stack.callback(connection.close)
            state = rows.read_state(connection)
            now_ns = source.now_ns()
            header = replace(
                state.header,
                volume_id=volume_id,
                name=name,
                type=type,
                read_write_id=volume_id if writable else state.header.read_write_id,
                backup_id=backup_id,
                incarnation=secrets.token_hex(8) if writable else state.header.incarnation,
                created_ns=old.created_ns if old else now_ns,
                cloned_ns=0 if writable else now_ns,
                offline_message="",
                leave_offline=False,
                in_transit=False,
            )
            if writable:
                # What the contents were restored from is known of the source only.
                state = replace(state, origin=NO_ORIGIN)
            connection.execute("BEGIN")
            connection.execute("DELETE FROM garbage")
            rows.write_state(connection, replace(state, header=header))
            connection.execute("COMMIT")
            group.publish(connection, path)

    def group_for(self, volume_id: int, read_write_id: int | None = None) -> VolumeGroup:
        """The group a volume is in, or would be made in.

        That is the group of its read-write volume (None: itself) and that one's clones, if the
        partition has one of them, so that they share chunks.
        """
        family = read_write_id or volume_id
        # Ids are given in threes: read-write, read-only, backup.
        for relative in (volume_id, family, family + 1, family + 2):
            path = self._path(relative)
            if path is not None and (
                relative in (volume_id, family) or self._is_clone_of(relative, family)
            ):
                return self._group(int(path.parent.name))
        return self._group(family)

    def group_at(self, folder: Path) -> VolumeGroup:
        """The group whose folder this is."""
        return self._group(int(folder.name))

    def _is_read_write(self, volume_id: int) -> bool:
        """Whether a volume says that it is read-write; a damaged one says nothing."""
        with contextlib.suppress(AfsError):
            return self.volume_header(volume_id).type is VolumeType.READ_WRITE
        return False

    def _is_clone_of(self, volume_id: int, read_write_id: int) -> bool:
        with contextlib.suppress(AfsError):
            return self.volume_header(volume_id).read_write_id == read_write_id
        return False

    def _group(self, read_write_id: int) -> VolumeGroup:
        # One object a group, so that the pins of all its volumes are in one place.
        with self._groups_lock:
            return self._groups.setdefault(
                read_write_id, VolumeGroup(self.path / "groups" / str(read_write_id))
            )

    def _all_groups(self) -> list[VolumeGroup]:
        names = [item.name for item in (self.path / "groups").iterdir()]
        return [self._group(int(name)) for name in names if name.isascii() and name.isdigit()]

    def _path(self, volume_id: int) -> Path | None:
        """The volume's database; None if there is none."""
        groups = self.path / "groups"
        for path in (
            groups / str(volume_id) / f"{volume_id}.db",
            *groups.glob(f"*/{volume_id}.db"),
        ):
            if path.exists():
                return path
        return None

    def _find(self, volume_id: int) -> VolumeGroup:
        path = self._path(volume_id)
        if path is None:
            raise AfsError(AfsCode.VNOVOL, f"no volume {volume_id} on partition {self.name}")
        return self._group(int(path.parent.name))

    def _take(self, group: VolumeGroup, volume_id: int) -> FileLock:
        lock = FileLock.take(group.path / f"{volume_id}.lock")
        if lock is None:
            raise AfsError(AfsCode.VBUSY, f"volume {volume_id} is in use by another program")
        return lock


def _salvage(volume_id: int, error: AfsError) -> AfsError:
    """What damage is called when a whole volume cannot be used for it; other errors as they are."""
    if error.code is not AfsCode.EIO:
        return error
    return AfsError(AfsCode.VSALVAGE, f"volume {volume_id} is damaged: {error.detail}")
