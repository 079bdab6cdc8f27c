"""VolServer methods that send volumes elsewhere: Move, Copy."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from afs.errors import AfsCode, AfsError
from afs.types import VolumeHeader
from afs.v1 import fssync_pb2, types_pb2, vol_server_pb2, vol_transfer_pb2
from volserverd.core import move_steps
from volserverd.core.step import Role, Step
from volserverd.finding import FoundVolume, fill_detail
from volserverd.operations import Operation
from volserverd.vldb.entry import Site, kept_backup_id
from volserverd.vldb.names import check_volume_name
from volserverd.vol_server_parts import (
    VolServerParts,
    check_entry,
    check_is_here,
    check_read_write,
    hung_up,
)
from volserverd.volume_work import VolumeWork
from volserverd.work_order import TransferOrder, WorkOrder

# What a move costs however small the volume: taking it, the last round, switching, giving it back.
_EXCLUSIVE_BASE_S: Final = 0.08
# Both sides hash and sync the database in the exclusive phase; measured on this kind of machine.
_EXCLUSIVE_METADATA_BYTES_PER_S: Final = 1e9


class MovingMethods(VolServerParts):
    """Methods that send a volume to another server or partition."""

    async def Move(
        self, request: vol_server_pb2.MoveRequest, _: Any
    ) -> AsyncIterator[vol_server_pb2.MoveResponse]:
        """Moves a read-write volume; it is in service but for a moment, also for writing.

        Clients that come here afterwards are answered VMOVED. Read-only copies stay where they are;
        the backup volume is deleted. EROFS for a volume that is not read-write, VOFFLINE for one
        that an operator took off-line, VVOLEXISTS if the target has something in its place.
        """

        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            found = await self._claim_read_write(operation, request.volume, "moved")
            self._check_elsewhere(found, request)
            order = self._order(
                found,
                TransferOrder(
                    vol_transfer_pb2.TRANSFER_MOVE,
                    request.to_server or self.services.vol_server,
                    request.to_partition,
                    dry_run=request.dry_run,
                ),
            )
            backup_id = kept_backup_id(found.read_write_id)
            has_backup = await self.services.disk.has(found.partition, backup_id)
            order.ids[Role.BACKUP] = backup_id
            work = VolumeWork(self.services, operation, order)
            if request.dry_run:
                return work, move_steps.plan_steps()
            return work, move_steps.move_steps(has_backup=has_backup)

        operation, task = self._begin("move", prepare)
        try:
            while (progress := await operation.next_progress()) is not None:
                yield vol_server_pb2.MoveResponse(progress=progress)
            work = await self.outcome(operation, task)
            if request.dry_run:
                yield vol_server_pb2.MoveResponse(plan=await self._plan(work))
            else:
                volume = _detail(work.sent_header, work.target)
                yield vol_server_pb2.MoveResponse(volume=volume, sent=work.sent_message())
        finally:
            operation.ask_to_end(hung_up())

    async def Copy(
        self, request: vol_server_pb2.CopyRequest, _: Any
    ) -> AsyncIterator[vol_server_pb2.CopyResponse]:
        """Makes a new read-write volume with the contents that a volume has now; all or nothing.

        VVOLEXISTS, EINVAL and ENAMETOOLONG for a name that no new volume can have.
        """
        check_volume_name(request.new_name)

        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            found = await self.claim(operation, request.volume)
            check_is_here(found)
            order = self._order(
                found,
                TransferOrder(
                    vol_transfer_pb2.TRANSFER_COPY,
                    request.to_server or self.services.vol_server,
                    request.to_partition,
                    new_name=request.new_name,
                ),
            )
            return VolumeWork(self.services, operation, order), move_steps.copy_steps()

        operation, task = self._begin("copy", prepare)
        try:
            while (progress := await operation.next_progress()) is not None:
                yield vol_server_pb2.CopyResponse(progress=progress)
            work = await self.outcome(operation, task)
            volume = _detail(work.sent_header, work.target)
            volume.volume_id = volume.read_write_id = work.ids[Role.COPY]
            volume.name, volume.incarnation = request.new_name, work.incarnation_there
            yield vol_server_pb2.CopyResponse(volume=volume, sent=work.sent_message())
        finally:
            operation.ask_to_end(hung_up())

    def _begin(self, name: str, prepare: Any) -> tuple[Operation, asyncio.Task[VolumeWork]]:
        """As `begin`; what a failure leaves behind is cleared up in the background."""
        begun: list[VolumeWork] = []

        async def remember(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            work, steps = await prepare(operation)
            begun.append(work)
            return work, steps

        def ended(task: asyncio.Task[VolumeWork]) -> None:
            if begun and not task.cancelled() and operation.left_something:
                work = begun[0]
                self.recovery.halves.add(work.ids.get(Role.COPY, work.ids[Role.MAIN]))

        operation, task = self.begin(name, remember, streams=True)
        task.add_done_callback(ended)
        return operation, task

    async def _claim_read_write(self, operation: Operation, volume: str, what: str) -> FoundVolume:
        found = await self.claim(operation, volume, whole_group=True)
        check_is_here(found)
        check_read_write(found, what)
        check_entry(found)
        header = await self.services.disk.header(found.partition, found.volume_id)
        if header.leave_offline:
            raise AfsError(
                AfsCode.VOFFLINE,
                f"volume {found.name} was taken off-line: put it on-line before it is {what}",
            )
        return found

    def _check_elsewhere(self, found: FoundVolume, request: vol_server_pb2.MoveRequest) -> None:
        """EINVAL if the volume is there already (VVOLEXISTS by another of our addresses)."""
        if request.to_server not in ("", self.services.vol_server):
            return
        if self.services.disk.partition(request.to_partition) is found.partition:
            raise AfsError(
                AfsCode.EINVAL,
                f"volume {found.name} is on partition {found.partition.name} of this server"
                " already",
            )

    def _order(self, found: FoundVolume, transfer: TransferOrder) -> WorkOrder:
        return WorkOrder(
            found.partition,
            fssync_pb2.FSYNC_FOR_MOVE,
            {Role.MAIN: found.volume_id},
            name=found.name,
            entry=found.entry,
            transfer=transfer,
        )

    async def _plan(self, work: VolumeWork) -> vol_server_pb2.OperationPlan:
        """What a move would do, after the round that only counted."""
        header, sent, target = work.sent_header, work.sent, work.target
        # Not of the header that was sent: that may be a temporary clone's.
        info = await self.fssync.query(work.ids[Role.MAIN])
        metadata = sent.rounds[-1].metadata_bytes
        where = f"{target.vol_server} {target.partition}"
        return vol_server_pb2.OperationPlan(
            steps=[
                f"send {sent.bytes} bytes in {sent.chunks} chunks and {sent.vnodes} vnodes to"
                f" {where}, with volume {header.name} in service",
                "send again what has changed meanwhile, at most three times",
                "take the volume out of service and send the last changes",
                f"switch the location entry to {where}",
                f"put the volume into service at {where}",
                "tell clients that it has moved",
                "delete the backup volume, set the old copy aside",
            ],
            bytes_to_send=sent.bytes,
            chunks_to_send=sent.chunks,
            clients_to_tell=info.holders if info is not None else 0,
            exclusive_s=_EXCLUSIVE_BASE_S + metadata / _EXCLUSIVE_METADATA_BYTES_PER_S,
        )


def _detail(header: VolumeHeader, target: Site) -> vol_server_pb2.VolumeDetail:
    """The volume as it is at the target."""
    detail = vol_server_pb2.VolumeDetail(
        volume_id=header.volume_id,
        partition=target.partition,
        state=fssync_pb2.VOLUME_STATE_ONLINE,
    )
    fill_detail(detail, header)
    detail.type = types_pb2.VOLUME_TYPE_READ_WRITE
    detail.read_write_id = detail.volume_id
    detail.in_transit, detail.cloned_ns = False, 0
    return detail
