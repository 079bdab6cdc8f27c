"""The volumes of this fileserver: which are attached, who has the others, and how they come and go.

Theory of operation
    `core.volume_state` decides; this table carries out. Each volume has at most one operation under
    way (a lock of its own), so a slow attachment holds up nobody else. While one is being attached
    or detached its state is CHANGING.

    `use` answers from one dictionary that holds the volumes that are online and nothing else. A
    method that calls `use` and then registers a promise, without awaiting in between, registers it
    while the volume is online: it comes before every mark of a later give-back, and is caught by
    that mark.

    An operation that began runs to its end, whatever becomes of the call that asked for it: see
    `FSSyncServicer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import NoReturn, TypeVar
from weakref import WeakValueDictionary

import structlog

from afs.errors import AfsCode, AfsError
from afs.types import VolumeHeader
from afs.volume.group_commit import GroupCommit
from afs.volume.partition import Partition, PartitionUsage
from afs.volume.volume import Volume
from afsd.attached_volume import AttachedVolume
from afsd.core import volume_state
from afsd.core.volume_rules import PASSING_COMMANDS, FsyncCommand, FsyncReason, Step, VolumeState
from afsd.core.volume_state import ChangeMark, Decision, VolumeRecord

_log = structlog.get_logger(__name__)

T = TypeVar("T")


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


class VolumeTable:
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
            self._refuse(volume_id)
        return attached

    def _refuse(self, volume_id: int) -> NoReturn:
        entry = self.entry(volume_id)
        record = entry.record
        match entry.state:
            case VolumeState.OFFLINE:
                message = entry.header.offline_message if entry.header is not None else ""
                raise AfsError(
                    AfsCode.VOFFLINE, f"volume {volume_id} is off-line{message and f': {message}'}"
                )
            case VolumeState.ERROR:
                raise AfsError(AfsCode.VSALVAGE, f"volume {volume_id} is damaged: {record.detail}")
            case VolumeState.MOVED:
                raise AfsError(
                    AfsCode.VMOVED, f"volume {volume_id} has moved to another fileserver"
                )
            case VolumeState.CHECKED_OUT:
                raise AfsError(
                    AfsCode.VBUSY,
                    f"volume {volume_id} is taken for work on the whole volume: try again",
                )
            case _:
                raise AfsError(
                    AfsCode.VBUSY, f"volume {volume_id} is being attached or detached: try again"
                )

    def entry(self, volume_id: int) -> VolumeEntry:
        """What is known of a volume; AfsError(VNOVOL) for an unknown one."""
        entry = self._entries.get(volume_id)
        if entry is None:
            raise AfsError(AfsCode.VNOVOL, f"this fileserver has no volume {volume_id}")
        return entry

    def entries(self) -> Iterator[VolumeEntry]:
        """All volumes, in order of their ids."""
        return iter(sorted(self._entries.values(), key=lambda entry: entry.volume_id))

    async def usage(self, partition: Partition) -> PartitionUsage:
        """How full a partition is."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, partition.usage)

    # --- for FSSync -------------------------------------------------------------------------------

    def partition(self, name: str) -> Partition | None:
        """The partition of that name, if it is one of this fileserver's."""
        return self._partitions.get(name)

    async def operate(
        self,
        volume_id: int,
        command: FsyncCommand,
        reason: FsyncReason,
        program: str,
        partition: str,
    ) -> Decision:
        """Carries out an FSSync command.

        Whoever asked breaks the callbacks, if the decision says so, before doing anything else: the
        volume may be online already.

        Args:
            volume_id: the volume.
            command: any but VOL_LISTVOLUMES.
            reason: what for.
            program: who asks.
            partition: where the volume is expected; empty where any is right.
        """
        if command in PASSING_COMMANDS:
            return self._pass(volume_id, command, reason, program, partition)
        lock = self._locks.setdefault(volume_id, asyncio.Lock())
        async with lock:
            return await self._operate(volume_id, command, reason, program, partition)

    def _pass(
        self,
        volume_id: int,
        command: FsyncCommand,
        reason: FsyncReason,
        program: str,
        partition: str,
    ) -> Decision:
        """A command that only looks or breaks; it waits for nobody."""
        entry = self._entries.get(volume_id)
        record = None if entry is None else replace(entry.record, state=entry.state)
        decision = volume_state.decide(record, command, reason, program)
        if entry is not None and not self._is_in(entry, partition):
            return volume_state.refuse(
                decision, FsyncReason.WRONG_PARTITION, self._wrong_partition(entry)
            )
        return decision

    async def _operate(
        self,
        volume_id: int,
        command: FsyncCommand,
        reason: FsyncReason,
        program: str,
        partition: str,
    ) -> Decision:
        entry = self._entries.get(volume_id)
        decision = volume_state.decide(entry.record if entry else None, command, reason, program)
        if entry is not None and not self._is_in(entry, partition):
            return volume_state.refuse(
                decision, FsyncReason.WRONG_PARTITION, self._wrong_partition(entry)
            )
        if entry is None:
            if partition and partition not in self._partitions:
                text = f"this fileserver has no partition {partition}"
                return volume_state.refuse(decision, FsyncReason.WRONG_PARTITION, text)
            if decision.step is not Step.ATTACH:
                return decision
            where = await self._find(volume_id, partition)
            if where is None:
                text = f"there is no volume {volume_id} on partition {partition or '(any)'}"
                return volume_state.attach_failed(decision, AfsCode.VNOVOL, text)
            # Attached under a placeholder: a failure that leaves no record behind removes it again.
            entry = VolumeEntry(volume_id, where, VolumeRecord(VolumeState.CHANGING))
            self._entries[volume_id] = entry
        entry.changing = decision.step is not Step.NOTHING
        before = decision.before
        try:
            decision = await self._carry_out(entry, decision)
        except BaseException:
            # A bug of ours, or the end of the process: nothing may stay CHANGING for ever, nor be
            # ONLINE without being attached.
            entry.changing = False
            lost = before is not None and before.state is VolumeState.ONLINE
            if lost and entry.attached is None:
                before = VolumeRecord(VolumeState.ERROR, detail="detaching it ended unexpectedly")
            self._keep(entry, before)
            raise
        entry.changing = False
        self._keep(entry, decision.record)
        if decision.record != before:
            _log.info(
                "volume.state_changed",
                volume=volume_id,
                command=command.name,
                program=program,
                before=before.state.name if before else "UNKNOWN",
                after=decision.record.state.name if decision.record else "UNKNOWN",
            )
        return decision

    async def _carry_out(self, entry: VolumeEntry, decision: Decision) -> Decision:
        """Attaches or detaches as decided; the final decision."""
        if decision.step is Step.ATTACH:
            try:
                return volume_state.attached(decision, await self._attach(entry))
            except AfsError as error:
                _log.warning(
                    "volume.attach_failed",
                    volume=entry.volume_id,
                    code=error.code.name,
                    detail=error.detail,
                )
                return volume_state.attach_failed(decision, error.code, error.detail)
        if decision.step is Step.DETACH:
            try:
                return volume_state.detached(decision, await self._detach(entry))
            except AfsError as error:
                _log.warning(
                    "volume.detach_failed",
                    volume=entry.volume_id,
                    code=error.code.name,
                    detail=error.detail,
                )
                return volume_state.detach_failed(decision, error.detail)
        return decision

    def _keep(self, entry: VolumeEntry, record: VolumeRecord | None) -> None:
        """Keeps what is known of a volume; one that is ONLINE is in use from here on."""
        if record is None:
            self._entries.pop(entry.volume_id, None)
            return
        entry.record = record
        if record.state is VolumeState.ONLINE and entry.attached is not None:
            self._online[entry.volume_id] = entry.attached

    # --- attaching and detaching ------------------------------------------------------------------

    async def attach_all(self) -> None:
        """Attaches every volume of every partition; those that cannot be are logged."""
        for partition in self._partitions.values():
            found = await self._in_thread(partition.volumes)
            await asyncio.gather(
                *(self._attach_at_start(partition, volume_id) for volume_id in found)
            )

    async def _attach_at_start(self, partition: Partition, volume_id: int) -> None:
        if volume_id in self._entries:
            _log.warning(
                "volume.attach_failed",
                volume=volume_id,
                partition=partition.name,
                detail=f"already on partition {self._entries[volume_id].partition.name}",
            )
            return
        entry = VolumeEntry(volume_id, partition, VolumeRecord(VolumeState.CHANGING))
        self._entries[volume_id] = entry
        try:
            mark = await self._attach(entry)
        except AfsError as error:
            detail = error.detail
            _log.warning(
                "volume.attach_failed", volume=volume_id, code=error.code.name, detail=detail
            )
            # Another process has had it since before we started: the program that took it from our
            # predecessor.
            taken = error.code is AfsCode.VBUSY
            entry.record = VolumeRecord(
                VolumeState.CHECKED_OUT if taken else VolumeState.ERROR, detail=detail
            )
            return
        if entry.header is not None and entry.header.leave_offline:
            await self._detach(entry)
            entry.record = VolumeRecord(VolumeState.OFFLINE, mark=mark)
            return
        self._keep(entry, VolumeRecord(VolumeState.ONLINE, mark=mark))

    async def _attach(self, entry: VolumeEntry) -> ChangeMark:
        volume = await self._in_thread(self._open_volume, entry.partition, entry.volume_id)
        commits = GroupCommit(volume, self._executor)
        entry.attached = AttachedVolume(volume, entry.partition, commits, self._executor)
        header = entry.header = volume.header()
        _log.info(
            "volume.attached",
            volume=entry.volume_id,
            name=header.name,
            partition=entry.partition.name,
        )
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

    async def _find(self, volume_id: int, partition: str) -> Partition | None:
        """The partition that has a volume on disk; the named one, or the first that has it."""
        for name, candidate in self._partitions.items():
            if partition in ("", name) and volume_id in await self._in_thread(candidate.volumes):
                return candidate
        return None

    async def _in_thread(self, function: Callable[..., T], *args: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._whole_volume_executor, function, *args
        )

    @staticmethod
    def _is_in(entry: VolumeEntry, partition: str) -> bool:
        return partition in ("", entry.partition.name)

    @staticmethod
    def _wrong_partition(entry: VolumeEntry) -> str:
        return f"volume {entry.volume_id} is on partition {entry.partition.name}"


def _mark_of(header: VolumeHeader) -> ChangeMark:
    return ChangeMark(header.incarnation, header.change_counter)
