"""FSSync: the volserver takes volumes from the fileserver and gives them back.

Theory of operation
    A command is carried out in a task of its own, so that a caller who hangs up cannot leave a
    volume half detached or a break undone (T21). In it the break comes last: with the default
    policy it marks, wakes the worker and returns (M1, M3), so the answer waits for no client (I2).
    What other policies do with their listeners is the lane's business.

    Between the moment a volume is put online and the mark nothing else runs in the event loop: a
    promise given on the old contents is always caught by the mark.

Source: the 2002 mail; OpenAFS `src/vol/fssync-server.c` for the commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from afs.errors import AfsCode, AfsError
from afs.runtime.interceptors import Context
from afs.types import VolumeHeader
from afs.v1 import fssync_pb2, fssync_pb2_grpc, types_pb2
from afs.wire import fid_from_wire, status_to_wire
from afsd.break_watch import watch_not_told
from afsd.callbacks import CallBacks
from afsd.core.volume_rules import FsyncCommand, FsyncReason, FsyncResponse
from afsd.core.volume_state import Decision
from afsd.fssync_lane import FssyncLane
from afsd.volume_entries import VolumeEntry
from afsd.volume_table import VolumeTable

# A program's name is kept as long as the volume is out, and shown to people.
MAX_PROGRAM_BYTES = 255


class FSSyncServicer(fssync_pb2_grpc.FSSyncServicer):
    """The servicer of `afs.v1.FSSync`."""

    def __init__(self, volumes: VolumeTable, callbacks: CallBacks, lane: FssyncLane) -> None:
        self._volumes = volumes
        self._callbacks = callbacks
        self._lane = lane
        self._running: set[asyncio.Task[fssync_pb2.VolumeOpResponse]] = set()

    async def VolumeOp(
        self,
        request: fssync_pb2.VolumeOpRequest,
        context: Context,
    ) -> fssync_pb2.VolumeOpResponse:
        """Carries out one command; whether it was refused, and why, is in the answer.

        Raises:
            AfsError: EINVAL for a request that makes no sense.
        """
        command, reason = _check(request)
        if command is FsyncCommand.VOL_LISTVOLUMES:
            return self._list(request.partition)
        answered = _answered(context)
        task = asyncio.ensure_future(self._operate(request, command, reason, answered))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)

    async def WatchBreaks(
        self,
        request: fssync_pb2.WatchBreaksRequest,
        _context: Context,
    ) -> AsyncIterator[fssync_pb2.WatchBreaksResponse]:
        """Who may still rely on a volume as it was; ends when nobody does any more.

        Raises:
            AfsError: EINVAL without a volume; VRESTARTING when the fileserver stops.
        """
        if not request.volume_id:
            raise AfsError(
                AfsCode.EINVAL, "WatchBreaks without a volume_id: expected 1 to 4294967295"
            )
        async for hosts in watch_not_told(self._callbacks, request.volume_id):
            now = self._callbacks.now()
            yield fssync_pb2.WatchBreaksResponse(
                hosts=[
                    fssync_pb2.HostNotTold(
                        uuid=host.uuid,
                        address=host.address,
                        lease_remaining_s=host.lease_end - now,
                    )
                    for host in hosts
                ]
            )

    async def finish(self) -> None:
        """Waits for the commands whose callers hung up."""
        while self._running:
            await asyncio.wait(self._running)

    async def _operate(
        self,
        request: fssync_pb2.VolumeOpRequest,
        command: FsyncCommand,
        reason: FsyncReason,
        answered: asyncio.Future[None],
    ) -> fssync_pb2.VolumeOpResponse:
        async with self._lane.turn(answered) as turn:
            decision = await self._volumes.operate(
                request.volume_id, command, reason, request.program, request.partition
            )
            marked = 0
            if decision.breaks is not None:
                marked = await self._callbacks.volume_changed(
                    request.volume_id, decision.breaks, turn
                )
        answer = self._answer(request.volume_id, decision)
        answer.callbacks_marked = marked
        if command is FsyncCommand.VOL_QUERY_VNODE and decision.response is FsyncResponse.OK:
            answer.vnode.CopyFrom(await self._query_vnode(request))
        return answer

    async def _query_vnode(self, request: fssync_pb2.VolumeOpRequest) -> types_pb2.FileStatus:
        """The status of a vnode, as the fileserver sees it."""
        fid = fid_from_wire(request.fid)
        if fid.volume != request.volume_id:
            raise AfsError(AfsCode.EINVAL, f"fid {fid} is not in volume {request.volume_id}")
        attached = self._volumes.use(fid.volume)
        return status_to_wire(await attached.read(attached.volume.vnode, fid))

    def _answer(self, volume_id: int, decision: Decision) -> fssync_pb2.VolumeOpResponse:
        answer = fssync_pb2.VolumeOpResponse(
            response=fssync_pb2.FsyncResponseCode.ValueType(decision.response),
            reason=fssync_pb2.FsyncReason.ValueType(decision.reason),
            detail=decision.detail,
        )
        try:
            answer.volume.CopyFrom(self._info(self._volumes.entry(volume_id)))
        except AfsError:
            # Not known, or forgotten by this very command.
            answer.volume.volume_id = volume_id
        return answer

    def _list(self, partition: str) -> fssync_pb2.VolumeOpResponse:
        if partition and self._volumes.partition(partition) is None:
            return fssync_pb2.VolumeOpResponse(
                response=fssync_pb2.FSYNC_DENIED,
                reason=fssync_pb2.FSYNC_WRONG_PARTITION,
                detail=f"this fileserver has no partition {partition}",
            )
        return fssync_pb2.VolumeOpResponse(
            response=fssync_pb2.FSYNC_OK,
            volumes=[
                self._info(entry)
                for entry in self._volumes.entries()
                if partition in ("", entry.partition.name)
            ],
        )

    def _info(self, entry: VolumeEntry) -> fssync_pb2.VolumeInfo:
        """The message about one volume."""
        record = entry.record
        info = fssync_pb2.VolumeInfo(
            volume_id=entry.volume_id,
            partition=entry.partition.name,
            state=fssync_pb2.VolumeState.ValueType(entry.state),
            program=record.program,
            taken_for=fssync_pb2.FsyncReason.ValueType(record.taken_for),
            detail=record.detail,
            holders=self._callbacks.holder_count(entry.volume_id),
        )
        header: VolumeHeader | None = entry.latest_header
        if header is not None:
            info.name = header.name
            info.type = types_pb2.VolumeType.ValueType(header.type)
            info.read_write_id = header.read_write_id
            info.change_counter = header.change_counter
            info.incarnation = header.incarnation
        return info


def _answered(context: Context) -> asyncio.Future[None]:
    """Done when the answer has left, or its caller has."""
    answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(_context: Context) -> None:
        if not answered.done():
            answered.set_result(None)

    # The stubs want a class of their own in place of a function.
    context.add_done_callback(cast("Any", done))
    return answered


def _check(request: fssync_pb2.VolumeOpRequest) -> tuple[FsyncCommand, FsyncReason]:
    """Command and reason of a request that makes sense; else AfsError(EINVAL)."""
    try:
        command = FsyncCommand(request.command)
    except ValueError:
        raise AfsError(AfsCode.EINVAL, f"command {request.command} is no FSSync command") from None
    try:
        reason = FsyncReason(request.reason)
    except ValueError:
        raise AfsError(AfsCode.EINVAL, f"reason {request.reason} is no FSSync reason") from None
    if command is FsyncCommand.VOL_LISTVOLUMES:
        return command, reason
    if not request.volume_id:
        raise AfsError(
            AfsCode.EINVAL, f"{command.name} without a volume_id: expected 1 to 4294967295"
        )
    if command in _NEED_PROGRAM and not request.program:
        raise AfsError(
            AfsCode.EINVAL, f"{command.name} without a program: expected the name of who asks"
        )
    if len(request.program.encode()) > MAX_PROGRAM_BYTES:
        raise AfsError(
            AfsCode.EINVAL,
            f"program {request.program[:32]!r}… is longer than {MAX_PROGRAM_BYTES} bytes",
        )
    return command, reason


# Commands that take, give back or change a volume, and so depend on who asks.
_NEED_PROGRAM = frozenset(
    {
        FsyncCommand.VOL_ON,
        FsyncCommand.VOL_OFF,
        FsyncCommand.NEEDVOLUME,
        FsyncCommand.VOL_LEAVE_OFF,
        FsyncCommand.VOL_MOVE,
        FsyncCommand.VOL_DONE,
        FsyncCommand.VOL_ATTACH,
        FsyncCommand.VOL_FORCE_ERROR,
    }
)
