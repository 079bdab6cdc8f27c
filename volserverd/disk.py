"""The partitions on disk, as the volserver uses them: everything in threads, nothing in the loop.

What runs here touches volumes that were taken from the fileserver, with two exceptions that disturb
nobody: `header` reads the header of a volume that the fileserver serves (SQLite's readers do not
wait for its writer), and `ids` lists names of files.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_UINT32
from afs.types import VolumeHeader, VolumeType
from afs.volume import sqlite_tables
from afs.volume.dump import dump_pieces
from afs.volume.partition import Partition, PartitionUsage
from afs.volume.remnant import Remnant, remnants, remove_remnant, set_aside
from afs.volume.restore import Restore
from afs.volume.sqlite_errors import afs_errors
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import SetVolumeFields
from volserverd.vldb.names import FIRST_TEMPORARY_ID

T = TypeVar("T")

# Name of the lock that this kind of daemon holds on a partition.
HOLDER: Final = "volserverd"
_THREADS: Final = 8


class Disk:
    """All partitions of this volserver.

    Every method raises AfsError VNOVOL, VBUSY (the volume is open elsewhere), VSALVAGE, VDISKFULL
    or VIO. One that was cancelled is carried out all the same.
    """

    def __init__(self, partitions: Sequence[Partition], executor: ThreadPoolExecutor) -> None:
        self._executor = executor
        self._temporary_ids: set[int] = set()
        self.partitions = {partition.name: partition for partition in partitions}

    @classmethod
    async def open(cls, paths: Sequence[Path]) -> Disk:
        """Opens and locks the partitions; errors as `Partition.open`."""
        executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="disk")
        opened: list[Partition] = []
        loop = asyncio.get_running_loop()
        try:
            for path in paths:
                opening = partial(Partition.open, path, holder=HOLDER)
                partition = await loop.run_in_executor(executor, opening)
                opened.append(partition)
        except BaseException:
            for partition in opened:
                partition.close()
            executor.shutdown(wait=False)
            raise
        return cls(opened, executor)

    async def close(self) -> None:
        """Lets go of the partitions."""
        for partition in self.partitions.values():
            await self.run(partition.close)
        self._executor.shutdown(wait=False)

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """What a function returns that may block."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        return await asyncio.shield(future)

    def partition(self, name: str) -> Partition:
        """The partition of that name; "" is the first one. EINVAL if we have none of it."""
        if not name:
            return next(iter(self.partitions.values()))
        if name not in self.partitions:
            raise AfsError(
                AfsCode.EINVAL,
                f"partition {name!r}: this volserver has {', '.join(self.partitions)}",
            )
        return self.partitions[name]

    async def ids(self, partition: Partition) -> list[int]:
        """The ids of all volumes on a partition, temporary clones included."""
        return await self.run(partition.volumes)

    async def has(self, partition: Partition, volume_id: int) -> bool:
        """True if the volume is on the partition."""
        return volume_id in await self.ids(partition)

    async def find(self, volume_id: int) -> Partition | None:
        """The partition that has the volume; None if none has."""
        for partition in self.partitions.values():
            if await self.has(partition, volume_id):
                return partition
        return None

    async def header(self, partition: Partition, volume_id: int) -> VolumeHeader:
        """A volume's header as of its last commit, whoever has the volume. VSALVAGE if damaged."""
        return await self.run(_header, partition, volume_id)

    async def usage(self, partition: Partition) -> PartitionUsage:
        """How large the partition is, and what is free."""
        return await self.run(partition.usage)

    async def create(
        self,
        partition: Partition,
        *,
        volume_id: int,
        name: str,
        backup_id: int,
        max_quota_kib: int,
    ) -> None:
        """A new, empty read-write volume."""
        await self.run(_create, partition, volume_id, name, backup_id, max_quota_kib)

    async def delete(self, partition: Partition, volume_id: int) -> None:
        """Deletes a volume, damaged or not; done when it is gone already."""
        if await self.has(partition, volume_id):
            await self.run(partition.delete_volume, volume_id)

    async def set_aside(self, partition: Partition, volume_id: int) -> None:
        """Makes a volume a remnant: no volume any more, but a move back can build on it."""
        await self.run(set_aside, partition, volume_id)

    async def remnants(self, partition: Partition) -> list[Remnant]:
        """What was set aside on a partition, the oldest first."""
        return await self.run(remnants, partition)

    async def remove_remnant(self, partition: Partition, remnant: Remnant) -> None:
        """Removes what was set aside."""
        await self.run(remove_remnant, partition, remnant)

    async def set_fields(
        self, partition: Partition, volume_id: int, fields: SetVolumeFields
    ) -> VolumeHeader:
        """Changes a volume's header; the header as it was before. Nothing to change: no commit."""
        return await self.run(_set_fields, partition, volume_id, fields)

    async def clone(
        self,
        partition: Partition,
        volume_id: int,
        *,
        clone_id: int,
        name: str,
        type: VolumeType = VolumeType.BACKUP,
        backup_id: int = 0,
        source_fields: SetVolumeFields | None = None,
    ) -> None:
        """Clones a volume, over an older clone of that id; `source_fields` go to its own header."""
        make = partial(
            partition.clone_volume, volume_id=clone_id, name=name, type=type, backup_id=backup_id
        )
        await self.run(_clone, partition, volume_id, make, source_fields)

    async def clone_temporary(self, partition: Partition, volume_id: int) -> int:
        """Clones a volume to an id that no volume has; the id, until `delete_temporary`."""
        clone_id = await self.temporary_id()
        try:
            header = await self.header(partition, volume_id)
            await self.clone(partition, volume_id, clone_id=clone_id, name=header.name)
        except AfsError:
            self._temporary_ids.discard(clone_id)
            raise
        return clone_id

    async def temporary_id(self) -> int:
        """An id that no volume has, until `delete_temporary`."""
        taken = {each for other in self.partitions.values() for each in await self.ids(other)}
        number = next(
            number
            for number in range(FIRST_TEMPORARY_ID, MAX_UINT32)
            if number not in taken and number not in self._temporary_ids
        )
        self._temporary_ids.add(number)
        return number

    def is_temporary(self, clone_id: int) -> bool:
        """True for a temporary clone of an operation that is running."""
        return clone_id in self._temporary_ids

    async def delete_temporary(self, partition: Partition, clone_id: int) -> None:
        """Deletes a temporary clone, or whatever else came to that id; done if nothing did."""
        await self.delete(partition, clone_id)
        self._temporary_ids.discard(clone_id)

    async def pieces(
        self, partition: Partition, volume_id: int, *, since: int = 0
    ) -> Iterator[bytes]:
        """A dump of a volume, piece by piece; each `next` blocks, and the end closes the volume.

        With `since`: of what changed after that change counter.
        """
        volume = await self.run(partition.open_volume, volume_id)

        def dump() -> Iterator[bytes]:
            try:
                yield from dump_pieces(volume, since=since)
            finally:
                volume.close()

        return dump()

    async def restore(self, partition: Partition, volume_id: int, name: str) -> Restore:
        """A place for a dump to come in; the volume itself is not touched by it."""
        return await self.run(partial(Restore, partition, volume_id=volume_id, name=name))


def _header(partition: Partition, volume_id: int) -> VolumeHeader:
    for path in (partition.path / "groups").glob(f"*/{volume_id}.db"):
        try:
            # Read-only: closing the last connection that may write would write, too.
            with afs_errors(), closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as db:
                return sqlite_tables.read_state(db).header
        except AfsError as error:
            if error.code is AfsCode.EIO:
                text = f"volume {volume_id} is damaged: {error.detail}"
                raise AfsError(AfsCode.VSALVAGE, text) from None
            raise
    raise AfsError(AfsCode.VNOVOL, f"no volume {volume_id} on partition {partition.name}")


def _create(
    partition: Partition, volume_id: int, name: str, backup_id: int, max_quota_kib: int
) -> None:
    volume = partition.create_volume(volume_id=volume_id, name=name, max_quota_kib=max_quota_kib)
    try:
        (outcome,) = volume.apply([SetVolumeFields(backup_id=backup_id)])
        if isinstance(outcome, AfsError):
            raise outcome
    except BaseException:
        volume.close()
        partition.delete_volume(volume_id)
        raise
    volume.close()


def _set_fields(partition: Partition, volume_id: int, fields: SetVolumeFields) -> VolumeHeader:
    volume = partition.open_volume(volume_id)
    try:
        before = volume.header()
        if _changes(before, fields):
            (outcome,) = volume.apply([fields])
            if isinstance(outcome, AfsError):
                raise outcome
        return before
    finally:
        volume.close()


def _changes(header: VolumeHeader, fields: SetVolumeFields) -> bool:
    """True if the fields would change anything: a commit for nothing breaks callbacks (M5b)."""
    return any(
        wanted is not None and wanted != getattr(header, name)
        for name, wanted in (
            ("name", fields.name),
            ("max_quota_kib", fields.max_quota_kib),
            ("backup_id", fields.backup_id),
            ("offline_message", fields.offline_message),
            ("leave_offline", fields.leave_offline),
            ("in_transit", fields.in_transit),
        )
    )


def _clone(
    partition: Partition,
    volume_id: int,
    make: Callable[[SqliteVolume], None],
    source_fields: SetVolumeFields | None,
) -> None:
    volume = partition.open_volume(volume_id)
    try:
        if source_fields is not None and _changes(volume.header(), source_fields):
            (outcome,) = volume.apply([source_fields])
            if isinstance(outcome, AfsError):
                raise outcome
        make(volume)
    finally:
        volume.close()
