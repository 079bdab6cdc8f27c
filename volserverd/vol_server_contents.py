"""VolServer methods that copy contents: Backup, Dump, Restore."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from afs.errors import AfsCode, AfsError
from afs.limits import DUMP_PIECES_BUFFERED
from afs.v1 import fssync_pb2, vol_server_pb2
from volserverd.core import steps
from volserverd.core.step import Role, Step
from volserverd.dump_intake import DumpIntake
from volserverd.finding import FoundVolume
from volserverd.operations import Operation
from volserverd.piece_queue import PieceQueue
from volserverd.vldb.entry import kept_backup_id
from volserverd.vldb.names import check_volume_name
from volserverd.vol_server_parts import (
    EXCLUSIVE_BASE_S,
    VolServerParts,
    check_entry,
    check_is_here,
    check_read_write,
    hung_up,
)
from volserverd.volume_work import VolumeWork
from volserverd.work_order import WorkOrder


class ContentsMethods(VolServerParts):
    """Methods that copy a volume's contents."""

    async def Backup(
        self, request: vol_server_pb2.BackupRequest, _: Any
    ) -> AsyncIterator[vol_server_pb2.BackupResponse]:
        """Clones a read-write volume to its backup volume, NAME.backup, over the one before.

        The read-write volume is out of service while its metadata are copied; that breaks none of
        its callbacks, unless the volume was not made by Create or Restore: then its header gets the
        backup's id now, once. EROFS for a volume that is not read-write.
        """

        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            found = await self.claim(operation, request.volume, whole_group=True)
            check_is_here(found)
            check_read_write(found, "backed up")
            entry = check_entry(found)
            backup_id = kept_backup_id(found.read_write_id)
            order = WorkOrder(
                found.partition,
                fssync_pb2.FSYNC_FOR_CLONE,
                {Role.MAIN: found.volume_id, Role.BACKUP: backup_id},
                name=found.name,
                entry=entry,
            )
            has_backup = await self.services.disk.has(found.partition, backup_id)
            work = VolumeWork(self.services, operation, order)
            return work, steps.backup_steps(has_backup=has_backup)

        operation, task = self.begin("backup", prepare)
        try:
            while (progress := await operation.next_progress()) is not None:
                yield vol_server_pb2.BackupResponse(progress=progress)
            work = await self.outcome(operation, task)
            yield vol_server_pb2.BackupResponse(
                volume=await self.detail(work.partition, work.ids[Role.BACKUP])
            )
        finally:
            operation.ask_to_end(hung_up())

    async def Dump(
        self, request: vol_server_pb2.DumpRequest, _: Any
    ) -> AsyncIterator[vol_server_pb2.DumpResponse]:
        """Sends a volume's contents as they are now; the volume is back in service meanwhile.

        A dump that breaks off has no trailer, and no Restore takes it. With `since`, only what
        changed after that change counter; EINVAL for one that the volume has not reached.
        """
        pieces = PieceQueue(DUMP_PIECES_BUFFERED)

        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            found = await self.claim(operation, request.volume)
            check_is_here(found)
            header = await self.services.disk.header(found.partition, found.volume_id)
            if request.since > header.change_counter:
                raise AfsError(
                    AfsCode.EINVAL,
                    f"volume {found.name} is at change {header.change_counter}: there is nothing"
                    f" since {request.since}",
                )
            order = WorkOrder(
                found.partition,
                fssync_pb2.FSYNC_FOR_DUMP,
                {Role.MAIN: found.volume_id},
                name=found.name,
                entry=found.entry,
                since=request.since,
                pieces=pieces,
            )
            return VolumeWork(self.services, operation, order), steps.dump_steps()

        operation, task = self.begin("dump", prepare, streams=True)
        task.add_done_callback(lambda done: _abort(pieces, done))
        try:
            while (piece := await pieces.get()) is not None:
                yield vol_server_pb2.DumpResponse(data=piece)
            await self.outcome(operation, task)
        finally:
            operation.ask_to_end(hung_up())

    async def Restore(
        self, requests: AsyncIterator[vol_server_pb2.RestoreRequest], _: Any
    ) -> vol_server_pb2.RestoreResponse:
        """Makes a volume of a dump, or with `overwrite` replaces the contents of one.

        The dump is received and checked as a whole first; a bad one changes nothing (EINVAL, R9),
        and until it is checked the volume stays in service. A volume that is replaced keeps its
        name, ids and quota. An incremental dump goes over a volume that has the state it was made
        from; EINVAL for any other.
        """
        opening = await anext(aiter(requests), None)
        if opening is None or not opening.HasField("open"):
            raise AfsError(AfsCode.EINVAL, "Restore begins with a message that has `open`")
        pieces = PieceQueue(DUMP_PIECES_BUFFERED)

        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            order = await self._restoration(operation, opening.open, pieces)
            plan = steps.restore_over_steps() if order.ids else steps.restore_new_steps()
            if opening.open.dry_run:
                plan = steps.restore_plan_steps(Role.MAIN if order.ids else Role.TEMPORARY)
            return VolumeWork(self.services, operation, order), plan

        operation, task = self.begin("restore", prepare, streams=True)
        task.add_done_callback(lambda done: _abort(pieces, done))
        intake = DumpIntake(requests, pieces, operation.ask_to_end)
        intake.start(opening.data)
        try:
            work = await self.outcome(operation, task)
        except AfsError:
            await intake.quiet()
            raise
        if opening.open.dry_run:
            return vol_server_pb2.RestoreResponse(plan=await self._restore_plan(work))
        return vol_server_pb2.RestoreResponse(
            volume=await self.detail(work.partition, work.ids[Role.MAIN]),
            give_back_s=work.give_back_s,
        )

    async def _restoration(
        self, operation: Operation, request: vol_server_pb2.RestoreOpen, pieces: PieceQueue
    ) -> WorkOrder:
        """What is restored where; `ids` is empty for a new volume."""
        found: FoundVolume | None = None
        try:
            found = await self.claim(operation, request.name)
        except AfsError as error:
            if error.code is not AfsCode.VNOVOL:
                raise
        if found is None:
            return WorkOrder(
                self.services.disk.partition(request.partition),
                fssync_pb2.FSYNC_FOR_RESTORE,
                {},
                name=check_volume_name(request.name),
                pieces=pieces,
            )
        if not request.overwrite:
            raise AfsError(AfsCode.VVOLEXISTS, f"volume {found.name} exists: use overwrite")
        check_is_here(found)
        check_read_write(found, "restored")
        if request.partition not in ("", found.partition.name):
            raise AfsError(
                AfsCode.EINVAL,
                f"volume {found.name} is on partition {found.partition.name},"
                f" not {request.partition}",
            )
        return WorkOrder(
            found.partition,
            fssync_pb2.FSYNC_FOR_RESTORE,
            {Role.MAIN: found.volume_id},
            name=found.name,
            entry=found.entry,
            pieces=pieces,
        )

    async def _restore_plan(self, work: VolumeWork) -> vol_server_pb2.OperationPlan:
        """What a restore would do with a dump that was found good."""
        dump = work.received
        assert dump is not None, "it was received"
        kind = f"incremental dump since change {dump.since}" if dump.since else "dump"
        lines = [
            f"receive the {kind} of volume {dump.name}: {work.received_bytes} bytes,"
            f" {dump.vnode_count} vnodes, found good",
        ]
        where, volume_id = work.partition.name, work.ids.get(Role.MAIN)
        if volume_id is None:
            lines += [
                f"create volume {work.name} on partition {where}, with these contents",
                "put it into service",
            ]
            return vol_server_pb2.OperationPlan(steps=lines)
        info = await self.fssync.query(volume_id)
        lines += [
            f"take volume {work.name} on partition {where} out of service",
            "replace its contents; what is the same keeps its DataVersion",
            "put it into service, and break its callbacks",
        ]
        return vol_server_pb2.OperationPlan(
            steps=lines,
            clients_to_tell=info.holders if info is not None else 0,
            exclusive_s=EXCLUSIVE_BASE_S,
        )


def _abort(pieces: PieceQueue, task: asyncio.Task[VolumeWork]) -> None:
    """Ends the client's side when the operation has failed."""
    error = None if task.cancelled() else task.exception()
    if isinstance(error, AfsError):
        pieces.abort(error)
    elif error is not None:
        pieces.abort(AfsError(AfsCode.VNOSERVICE, "internal error"))
