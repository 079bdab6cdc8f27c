"""The volumes of this fileserver as those see them who serve files, and how they come and go.

Theory of operation
    `use` answers from one dictionary that holds the volumes that are online and nothing else. A
    method that calls `use` and then registers a promise, without awaiting in between, registers it
    while the volume is online: it comes before every mark of a later give-back, and is caught by
    that mark.

    Who comes back to a volume that it found online and that is not any more is told what has become
    of it since: VMOVED if it has moved, also in the middle of a stream.

    At the start every copy on every partition is opened; `core.volume_copies` says which one is the
    volume.

Whole-volume work goes through `volume_table`, which is this with FSSync's commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple, TypeVar
from weakref import WeakValueDictionary

import structlog

from afs.errors import AfsCode, AfsError
from afs.types import ChangeMark, VolumeHeader
from afs.volume.group_commit import GroupCommit
from afs.volume.partition import Partition, PartitionUsage
from afs.volume.volume import Volume
from afsd.attached_volume import AttachedVolume
from afsd.core.volume_copies import (
    IN_TRANSIT_DETAIL,
    Copy,
    copy_that_failed,
    record_without_attachment,
)
from afsd.core.volume_rules import VolumeState
from afsd.core.volume_state import VolumeRecord

_log = structlog.get_logger(__name__)

T = TypeVar("T")


class InTransitError(AfsError):
    """A volume is not attached because it is half of a move."""

    def __init__(self, volume_id: int, partition: str) -> None:
        super().__init__(
            AfsCode.VBUSY, f"volume {volume_id} on partition {partition} is {IN_TRANSIT_DETAIL}"
        )


@dataclass(slots=True)
class VolumeEntry:
    """One volume this fileserver knows.

    `header` is the one last seen (None: never attached); while the volume is out it may be out of
    date. `changing` is True while an operation attaches or detaches it.
    """

    volume_id: int
    partition: Partition
    record: VolumeRecord
    header: VolumeHeader | None = None
    attached: AttachedVolume | None = None
    changing: bool = False

    @property
    def state(self) -> VolumeState:
        """Where the volume is at this moment."""
        return VolumeState.CHANGING if self.changing else self.record.state

    @property
    def latest_header(self) -> VolumeHeader | None:
        """The header: the present one while the volume is online, else the one last seen."""
        return self.header if self.attached is None else self.attached.volume.header()


class _OpenedCopy(NamedTuple):
    """What became of opening one copy at the start; attached or not, as `copy` says."""

    copy: Copy
    entry: VolumeEntry
    detail: str


class VolumeEntries:
    """All volumes of the given partitions.

    Args:
        partitions: open ones.
        executor: threads for what serves files.
        whole_volume_executor: threads for attaching and detaching, which must not wait for the
            others (I2).
        open_volume: opens a volume of a partition.
    """

    def __init__(
        self,
        partitions: Sequence[Partition],
        *,
        executor: Executor,
        whole_volume_executor: Executor,
        open_volume: Callable[[Partition, int], Volume] = Partition.open_volume,
    ) -> None:
        self._partitions = {partition.name: partition for partition in partitions}
        self._executor = executor
        self._whole_volume_executor = whole_volume_executor
        self._open_volume = open_volume
        self._entries: dict[int, VolumeEntry] = {}
        self._online: dict[int, AttachedVolume] = {}
        # Of those volumes that an operation is under way for.
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()

    # --- for those who serve files ----------------------------------------------------------------

    def use(self, volume_id: int) -> AttachedVolume:
        """The volume, online.

        Raises:
            AfsError: VNOVOL for an unknown one, VBUSY for one that is taken or changing, VOFFLINE,
                VSALVAGE, VMOVED.
        """
        attached = self._online.get(volume_id)
        if attached is None:
            raise self._refusal(volume_id)
        return attached

    def _refusal(self, volume_id: int) -> AfsError:
        """What a caller is told who cannot use a volume, or not the one that it began with."""
        entry = self._entries.get(volume_id)
        if entry is None:
            return _unknown(volume_id)
        record = entry.record
        match entry.state:
            case VolumeState.ONLINE:
                return AfsError(AfsCode.VBUSY, f"volume {volume_id} was taken away: try again")
            case VolumeState.OFFLINE:
                message = entry.header.offline_message if entry.header is not None else ""
                return AfsError(
                    AfsCode.VOFFLINE, f"volume {volume_id} is off-line{message and f': {message}'}"
                )
            case VolumeState.ERROR:
                return AfsError(AfsCode.VSALVAGE, f"volume {volume_id} is damaged: {record.detail}")
            case VolumeState.MOVED:
                return AfsError(
                    AfsCode.VMOVED, f"volume {volume_id} has moved to another fileserver"
                )
            case VolumeState.CHECKED_OUT:
                return AfsError(
                    AfsCode.VBUSY,
                    f"volume {volume_id} is taken for work on the whole volume: try again",
                )
            case _:
                return AfsError(
                    AfsCode.VBUSY, f"volume {volume_id} is being attached or detached: try again"
                )

    def entry(self, volume_id: int) -> VolumeEntry:
        """What is known of a volume; AfsError(VNOVOL) for an unknown one."""
        entry = self._entries.get(volume_id)
        if entry is None:
            raise _unknown(volume_id)
        return entry

    def entries(self) -> Iterator[VolumeEntry]:
        """All volumes, in order of their ids."""
        return iter(sorted(self._entries.values(), key=lambda entry: entry.volume_id))

    async def usage(self, partition: Partition) -> PartitionUsage:
        """How full a partition is."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, partition.usage)

    def _keep(self, entry: VolumeEntry, record: VolumeRecord | None) -> None:
        """Keeps what is known of a volume; one that is ONLINE is in use from here on."""
        if record is None:
            self._entries.pop(entry.volume_id, None)
            return
        self._entries[entry.volume_id] = entry
        entry.record = record
        if record.state is VolumeState.ONLINE and entry.attached is not None:
            self._online[entry.volume_id] = entry.attached

    # --- attaching and detaching ------------------------------------------------------------------

    async def attach_all(self) -> None:
        """Attaches every volume of every partition; those that cannot be are logged."""
        copies: dict[int, list[Partition]] = {}
        for partition in self._partitions.values():
            for volume_id in await self._in_thread(partition.volumes):
                copies.setdefault(volume_id, []).append(partition)
        await asyncio.gather(
            *(self._attach_at_start(volume_id, where) for volume_id, where in copies.items())
        )

    async def _attach_at_start(self, volume_id: int, partitions: Sequence[Partition]) -> None:
        """Attaches the copy of a volume that can be; without one, notes what is wrong."""
        opened: list[_OpenedCopy] = []
        for partition in partitions:
            opened.append(await self._open_copy(volume_id, partition))
            if opened[-1].copy is Copy.ATTACHED:
                break
        copy, entry, detail = max(opened, key=lambda each: each.copy)
        for partition in partitions:
            if partition is not entry.partition:
                _log.warning(
                    "volume.copy_ignored",
                    volume=volume_id,
                    partition=partition.name,
                    the_volume_is_on=entry.partition.name,
                )
        if copy is Copy.ATTACHED:
            await self._begin(entry)
        else:
            self._keep(entry, record_without_attachment(copy, detail))

    async def _open_copy(self, volume_id: int, partition: Partition) -> _OpenedCopy:
        """Attaches a copy if it can be."""
        entry = VolumeEntry(volume_id, partition, VolumeRecord(VolumeState.CHANGING))
        try:
            await self._attach(entry)
        except InTransitError as error:
            _log.info("volume.left_in_transit", volume=volume_id, partition=partition.name)
            return _OpenedCopy(Copy.IN_TRANSIT, entry, error.detail)
        except AfsError as error:
            is_there = volume_id in await self._in_thread(partition.volumes)
            copy = copy_that_failed(error.code, is_there=is_there)
            if copy is not Copy.GONE:
                _log.warning(
                    "volume.attach_failed",
                    volume=volume_id,
                    partition=partition.name,
                    code=error.code.name,
                    detail=error.detail,
                )
            return _OpenedCopy(copy, entry, error.detail)
        return _OpenedCopy(Copy.ATTACHED, entry, "")

    async def _begin(self, entry: VolumeEntry) -> None:
        """Has an attached volume in use, unless it is to stay off-line."""
        assert entry.header is not None, "it is attached"
        if entry.header.leave_offline:
            mark = await self._detach(entry)
            self._keep(entry, VolumeRecord(VolumeState.OFFLINE, mark=mark))
        else:
            self._keep(entry, VolumeRecord(VolumeState.ONLINE, mark=_mark_of(entry.header)))

    async def _attach(self, entry: VolumeEntry) -> ChangeMark:
        """Opens a volume where its entry says; InTransitError for half of a move."""
        volume_id, partition = entry.volume_id, entry.partition
        volume = await self._in_thread(self._open_volume, partition, volume_id)
        header = volume.header()
        if header.in_transit:
            await self._in_thread(volume.close)
            raise InTransitError(volume_id, partition.name)
        commits = GroupCommit(volume, self._executor)
        entry.attached = AttachedVolume(
            volume, partition, commits, self._executor, lambda: self._refusal(volume_id)
        )
        entry.header = header
        _log.info("volume.attached", volume=volume_id, name=header.name, partition=partition.name)
        return _mark_of(header)

    async def _detach(self, entry: VolumeEntry) -> ChangeMark:
        attached = entry.attached
        assert attached is not None, f"volume {entry.volume_id} is ONLINE but not attached"
        self._online.pop(entry.volume_id, None)
        try:
            header = entry.header = await attached.detach(self._whole_volume_executor)
        finally:
            entry.attached = None
        _log.info("volume.detached", volume=entry.volume_id, partition=entry.partition.name)
        return _mark_of(header)

    def marks(self) -> dict[int, ChangeMark]:
        """How each volume that could be attached was then."""
        return {
            entry.volume_id: entry.record.mark
            for entry in self.entries()
            if entry.record.mark is not None
            and entry.record.state in (VolumeState.ONLINE, VolumeState.OFFLINE)
        }

    async def detach_all(self) -> dict[int, ChangeMark]:
        """Detaches every volume; after the servers were drained.

        Returns:
            How each was then; without those that could not be detached properly.
        """
        marks: dict[int, ChangeMark] = {}
        for entry in self.entries():
            if entry.attached is not None:
                try:
                    marks[entry.volume_id] = await self._detach(entry)
                except AfsError as error:
                    _log.warning(
                        "volume.detach_failed",
                        volume=entry.volume_id,
                        code=error.code.name,
                        detail=error.detail,
                    )
        return marks

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._whole_volume_executor, function, *args
        )


def _unknown(volume_id: int) -> AfsError:
    return AfsError(AfsCode.VNOVOL, f"this fileserver has no volume {volume_id}")


def _mark_of(header: VolumeHeader) -> ChangeMark:
    return ChangeMark(header.incarnation, header.change_counter)
