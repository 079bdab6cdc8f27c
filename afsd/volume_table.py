"""What FSSync does with the volumes of this fileserver: taken, given back, brought elsewhere.

Theory of operation
    `core.volume_state` decides; this table carries out. Each volume has at most one operation under
    way (a lock of its own), so a slow attachment holds up nobody else. While one is being attached
    or detached its state is CHANGING.

    A volume is on one partition. The program that has it may put it on-line on another one, where
    it has made a copy of it; that is its place from then on, and what is left on the old one is
    nothing to the fileserver any more.

    An operation that began runs to its end, whatever becomes of the call that asked for it: see
    `FSSyncServicer`.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import structlog

from afs.errors import AfsCode, AfsError
from afs.volume.partition import Partition
from afsd.core import volume_state
from afsd.core.volume_rules import (
    PASSING_COMMANDS,
    FsyncCommand,
    FsyncReason,
    Step,
    VolumeState,
)
from afsd.core.volume_state import Decision, VolumeRecord
from afsd.volume_entries import InTransitError, VolumeEntries, VolumeEntry

_log = structlog.get_logger(__name__)


class VolumeTable(VolumeEntries):
    """The volumes, and what FSSync does with them."""

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
        where = await self._place(volume_id, entry, decision, partition)
        if isinstance(where, Decision):
            return where
        if entry is None:
            # Attached under a placeholder: a failure that leaves no record behind removes it again.
            entry = VolumeEntry(volume_id, where, VolumeRecord(VolumeState.CHANGING))
            self._entries[volume_id] = entry
        entry.changing = decision.step is not Step.NOTHING
        before, place_before, entry.partition = decision.before, entry.partition, where
        try:
            decision = await self._carry_out(entry, decision)
        except BaseException:
            # A bug of ours, or the end of the process: nothing may stay CHANGING for ever, nor be
            # ONLINE without being attached.
            entry.changing = False
            entry.partition = place_before
            lost = before is not None and before.state is VolumeState.ONLINE
            if lost and entry.attached is None:
                before = VolumeRecord(VolumeState.ERROR, detail="detaching it ended unexpectedly")
            self._keep(entry, before)
            raise
        entry.changing = False
        if decision.record == before:
            # Nothing came of it: the volume is where it was.
            entry.partition = place_before
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

    async def _place(
        self, volume_id: int, entry: VolumeEntry | None, decision: Decision, partition: str
    ) -> Partition | Decision:
        """The partition that a command is about; without one, the decision that it ends with."""
        if partition not in ("", *self._partitions):
            text = f"this fileserver has no partition {partition}"
            return volume_state.refuse(decision, FsyncReason.WRONG_PARTITION, text)
        if entry is None:
            if decision.step is not Step.ATTACH:
                return decision
            text = f"there is no volume {volume_id} on partition {partition or '(any)'}"
            return await self._find(volume_id, partition) or volume_state.attach_failed(
                decision, AfsCode.VNOVOL, text
            )
        if self._is_in(entry, partition):
            return entry.partition
        text = self._wrong_partition(entry)
        if decision.rule.elsewhere:
            elsewhere = await self._find(volume_id, partition)
            if elsewhere is not None:
                return elsewhere
            text = f"there is no volume {volume_id} on partition {partition}"
        return volume_state.refuse(decision, FsyncReason.WRONG_PARTITION, text)

    async def _carry_out(self, entry: VolumeEntry, decision: Decision) -> Decision:
        """Attaches or detaches as decided; the final decision."""
        if decision.step is Step.ATTACH:
            try:
                return volume_state.attached(decision, await self._attach(entry))
            except InTransitError as error:
                return volume_state.refuse(decision, FsyncReason.BAD_STATE, error.detail)
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

    async def _find(self, volume_id: int, partition: str) -> Partition | None:
        """The partition that has a volume on disk; the named one, or the first that has it."""
        for name, candidate in self._partitions.items():
            if partition in ("", name) and volume_id in await self._in_thread(candidate.volumes):
                return candidate
        return None

    @staticmethod
    def _is_in(entry: VolumeEntry, partition: str) -> bool:
        return partition in ("", entry.partition.name)

    @staticmethod
    def _wrong_partition(entry: VolumeEntry) -> str:
        return f"volume {entry.volume_id} is on partition {entry.partition.name}"
