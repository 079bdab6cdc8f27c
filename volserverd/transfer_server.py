"""VolTransfer: receives a volume that another volserver (or our own) sends.

Theory of operation
    Each stream is an operation, seen by `vos status`; it claims the volume, unless the sender is
    ourselves and has claimed it. The sender leads: what it says is done in order, in threads, while
    at most TRANSFER_MESSAGES_BUFFERED further messages wait.

    Whatever ends the stream before `put_in_place` leaves nothing. After it and before `put_on`
    there is half of a move on the disk, with the mark `in_transit` in its header: whether that
    lives is not the stream's to say, so it is left to `Halves`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import Any, Final

import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import TRANSFER_MESSAGES_BUFFERED
from afs.types import VolumeHeader, VolumeType
from afs.v1 import fssync_pb2, vol_transfer_pb2_grpc
from afs.v1 import vol_transfer_pb2 as pb
from afs.volume.find_data import find_data
from afs.volume.partition import Partition
from afs.volume.transfer import Transfer
from volserverd.bounded_queue import BoundedQueue
from volserverd.core.step import Step, StepKind, step
from volserverd.halves import Halves
from volserverd.operations import Operation, Operations
from volserverd.recovery import Recovery
from volserverd.vldb.names import FIRST_TEMPORARY_ID
from volserverd.work_order import VolumeServices

_log = structlog.get_logger(__name__)

# After a failure, what the sender still sends is thrown away for at most this many seconds.
_PATIENCE_S: Final = 10.0
# A fileserver that is restarted this often while a volume is swapped is in more trouble than we.
_ATTEMPTS: Final = 3
_PURPOSES: Final = {
    pb.TRANSFER_MOVE: VolumeType.READ_WRITE,
    pb.TRANSFER_COPY: VolumeType.READ_WRITE,
    pb.TRANSFER_RELEASE: VolumeType.READ_ONLY,
}


class VolTransferServicer(vol_transfer_pb2_grpc.VolTransferServicer):
    """The servicer of `afs.v1.VolTransfer`."""

    def __init__(
        self,
        services: VolumeServices,
        operations: Operations,
        recovery: Recovery,
        halves: Halves,
    ) -> None:
        self._services = services
        self._operations = operations
        self._recovery = recovery
        self._halves = halves

    async def Receive(
        self, requests: AsyncIterator[pb.ReceiveRequest], _: Any
    ) -> AsyncIterator[pb.ReceiveResponse]:
        """Receives one volume; see the module's theory of operation."""
        inbox = BoundedQueue[pb.ReceiveRequest](TRANSFER_MESSAGES_BUFFERED)
        outbox = BoundedQueue[pb.ReceiveResponse](TRANSFER_MESSAGES_BUFFERED)

        async def run(operation: Operation) -> None:
            reception = Reception(self._services, self._halves, operation, inbox, outbox)
            try:
                await self._recovery.ready()
                receive = step(StepKind.RECEIVE_VOLUME, waits_for_client=True)
                await operation.work(reception, [receive])
            except AfsError as error:
                failed = pb.TransferFailed(code=error.code, detail=error.detail)
                with suppress(AfsError):
                    await outbox.put(pb.ReceiveResponse(failed=failed))
            finally:
                with suppress(AfsError):
                    await outbox.end()

        operation, task = self._operations.start("receive", run, streams=True)
        intake = asyncio.create_task(_take_in(requests, inbox, task))
        hung_up = AfsError(AfsCode.RX_CALL_DEAD, "the sending volserver hung up")
        try:
            while (answer := await outbox.get()) is not None:
                yield answer
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    await asyncio.shield(intake)
        finally:
            outbox.abort(hung_up)
            operation.ask_to_end(hung_up)
            inbox.abort(hung_up)
            intake.cancel()

    async def Fetch(self, request: pb.FetchRequest, _: Any) -> pb.FetchResponse:
        """Data that another volserver has lost; VNOVOL, or EIO if they are not here either."""
        disk = self._services.disk
        partition = await disk.find(request.volume_id)
        if partition is None:
            raise AfsError(AfsCode.VNOVOL, f"no volume {request.volume_id} here")
        return pb.FetchResponse(
            data=await disk.run(
                find_data, partition, request.volume_id, request.hash, request.vnode
            )
        )


async def _take_in(
    requests: AsyncIterator[pb.ReceiveRequest],
    inbox: BoundedQueue[pb.ReceiveRequest],
    task: asyncio.Task[None],
) -> None:
    """Puts what the sender sends into the inbox; throws it away once nobody wants it."""
    try:
        async for message in requests:
            if not task.done():
                with suppress(AfsError):
                    await inbox.put(message)
    except AfsError as error:
        inbox.abort(error)
    except Exception:
        # grpc's many ways of saying so.
        inbox.abort(AfsError(AfsCode.RX_CALL_DEAD, "the sending volserver hung up"))
    else:
        await inbox.end()


class Reception:
    """One volume on its way in: the worker of its operation."""

    def __init__(
        self,
        services: VolumeServices,
        halves: Halves,
        operation: Operation,
        inbox: BoundedQueue[pb.ReceiveRequest],
        outbox: BoundedQueue[pb.ReceiveResponse],
    ) -> None:
        self._services = services
        self._halves = halves
        self._operation = operation
        self._inbox = inbox
        self._outbox = outbox
        self._transfer: Transfer | None = None
        self._begun = False
        # On our disk, and neither in service nor said to be nobody's.
        self._is_half = False

    def interrupt(self, error: AfsError) -> None:
        """Ends the conversation."""
        self._inbox.abort(error)
        self._outbox.abort(error)

    async def perform(self, _: Step) -> None:
        """Leads the conversation to its end; AfsError if it fails."""
        opening = await self._next()
        if opening is None or opening.WhichOneof("kind") != "open":
            raise _unexpected(opening, "open")
        partition = self._services.disk.partition(opening.open.partition)
        try:
            await self._open(opening.open, partition)
            while (message := await self._next()) is not None:
                began = self._operation.now()
                await self._do(message, opening.open, partition)
                _log.debug(
                    "transfer.message_done",
                    kind=message.WhichOneof("kind"),
                    seconds=round(self._operation.now() - began, 4),
                )
        finally:
            await self._leave(opening.open.volume_id)

    async def _next(self) -> pb.ReceiveRequest | None:
        message = await self._inbox.get()
        self._operation.touch()
        return message

    async def _answer(self, **kind: Any) -> None:
        await self._outbox.put(pb.ReceiveResponse(**kind))

    async def _open(self, opening: pb.TransferOpen, partition: Partition) -> None:
        services, disk = self._services, self._services.disk
        kind = _check(opening)
        if opening.sender != services.identity:
            self._operation.claim([opening.volume_id], opening.name)
        await self._check_place(opening, partition)
        transfer = self._transfer = await disk.run(
            partial(
                Transfer,
                partition,
                volume_id=opening.volume_id,
                name=opening.name,
                type=kind,
                read_write_id=opening.read_write_id,
            )
        )
        base = transfer.base
        await self._answer(
            ready=pb.TransferReady(
                base_incarnation="" if base is None else base.incarnation,
                base_change_counter=0 if base is None else base.change_counter,
                file_server=services.file_server,
                vol_server=services.vol_server,
                partition=partition.name,
                identity=services.identity,
            )
        )

    async def _check_place(self, opening: pb.TransferOpen, partition: Partition) -> None:
        """VVOLEXISTS if something is there that is not to be replaced."""
        disk, volume_id = self._services.disk, opening.volume_id
        if opening.purpose == pb.TRANSFER_RELEASE or not await disk.has(partition, volume_id):
            return
        header = await disk.header(partition, volume_id)
        if opening.purpose == pb.TRANSFER_COPY or not header.in_transit:
            raise AfsError(
                AfsCode.VVOLEXISTS, f"volume {volume_id} exists on partition {partition.name}"
            )

    async def _do(
        self, message: pb.ReceiveRequest, opening: pb.TransferOpen, partition: Partition
    ) -> None:
        transfer, run = self._transfer, self._services.disk.run
        match message.WhichOneof("kind"):
            case "round" if transfer is not None:
                if not self._begun:
                    await run(partial(transfer.begin, on_base=message.round.on_base))
                    self._begun = True
            case "dump" if transfer is not None:
                await run(transfer.feed, message.dump)
            case "end_of_dump" if transfer is not None:
                await self._take_chunks(transfer, dry_run=opening.dry_run)
            case "put_in_place" if transfer is not None and not opening.dry_run:
                await self._put_in_place(transfer, message.put_in_place, opening, partition)
            case "put_on" if self._is_half:
                seconds = await self._halves.put_on(partition, opening.volume_id)
                self._is_half = False
                await self._answer(on=pb.VolumeOn(give_back_s=seconds))
            case _:
                raise _unexpected(message, "something else now")

    async def _take_chunks(self, transfer: Transfer, *, dry_run: bool) -> None:
        """Asks for the chunks that are lacking, page by page, and takes them in."""
        run = self._services.disk.run
        pages = transfer.missing()
        page: list[bytes] = await run(next, pages, [])
        total_bytes, total_chunks = transfer.missing_bytes, transfer.missing_chunks
        if dry_run:
            missing = pb.MissingChunks(
                last=True, total_bytes=total_bytes, total_chunks=total_chunks
            )
            await self._answer(missing=missing)
            return
        while True:
            following: list[bytes] = await run(next, pages, [])
            missing = pb.MissingChunks(
                hashes=page,
                last=not following,
                total_bytes=total_bytes,
                total_chunks=total_chunks,
            )
            await self._answer(missing=missing)
            lacking = len(page)
            while lacking > 0:
                message = await self._next()
                if message is None or message.WhichOneof("kind") != "chunks":
                    raise _unexpected(message, "chunks")
                await run(_take_all, transfer, list(message.chunks.data))
                lacking -= len(message.chunks.data)
            if not following:
                break
            page = following
        await run(transfer.finish_round)
        await self._answer(round_received=pb.RoundReceived())

    async def _put_in_place(
        self,
        transfer: Transfer,
        wanted: pb.PutInPlace,
        opening: pb.TransferOpen,
        partition: Partition,
    ) -> None:
        now, began = self._operation.now, self._operation.now()
        if wanted.swap:
            header = await self._swap(transfer, opening.volume_id, partition)
        else:
            put = partial(transfer.put_in_place, in_transit=wanted.in_transit)
            # Also if this fails half-way: `Halves` looks what there is.
            self._is_half = wanted.in_transit
            header = await self._services.disk.run(put)
        in_place = pb.VolumeInPlace(
            incarnation=header.incarnation,
            change_counter=header.change_counter,
            exclusive_s=now() - began if wanted.swap else 0.0,
        )
        await self._answer(in_place=in_place)

    async def _swap(self, transfer: Transfer, volume_id: int, partition: Partition) -> VolumeHeader:
        """Puts the volume in place over the one in service; the fileserver breaks its promises.

        A fileserver that is restarted meanwhile has the volume open again, which its lock tells:
        then it is taken once more (T24).
        """
        checkouts, disk = self._services.checkouts, self._services.disk
        try:
            for attempts_left in reversed(range(_ATTEMPTS)):
                try:
                    if await disk.has(partition, volume_id):
                        await _take_if_known(self._services, volume_id, partition)
                    put = partial(transfer.put_in_place, in_transit=False)
                    header: VolumeHeader = await disk.run(put)
                    break
                except AfsError as error:
                    if error.code is not AfsCode.VBUSY or not attempts_left:
                        raise
        except AfsError:
            if checkouts.holds(volume_id):
                with suppress(AfsError):
                    await checkouts.give_back(volume_id)
            raise
        if checkouts.holds(volume_id):
            await checkouts.give_back(volume_id)
        else:
            await checkouts.introduce(volume_id, partition.name)
        return header

    async def _leave(self, volume_id: int) -> None:
        """Whatever was not put in place is gone; half of a move is left to `Halves`."""
        if self._transfer is not None:
            await self._services.disk.run(self._transfer.close)
        if self._is_half:
            _log.info("transfer.left_half", volume=volume_id)
            self._halves.add(volume_id)


async def _take_if_known(services: VolumeServices, volume_id: int, partition: Partition) -> None:
    try:
        await services.checkouts.take(volume_id, partition.name, fssync_pb2.FSYNC_FOR_RELEASE)
    except AfsError as error:
        if error.code is not AfsCode.VNOVOL:
            raise


def _take_all(transfer: Transfer, chunks: list[bytes]) -> None:
    for chunk in chunks:
        transfer.take_chunk(chunk)


def _check(opening: pb.TransferOpen) -> VolumeType:
    """The type that the volume will have; EINVAL for an opening that makes no sense."""
    kind = _PURPOSES.get(opening.purpose)
    if kind is None or int(opening.type) != kind:
        raise AfsError(
            AfsCode.EINVAL,
            f"a transfer for purpose {opening.purpose} of a volume of type {opening.type}",
        )
    if not 0 < opening.volume_id < FIRST_TEMPORARY_ID:
        raise AfsError(
            AfsCode.EINVAL,
            f"volume id {opening.volume_id}: expected 1 to {FIRST_TEMPORARY_ID - 1}",
        )
    return kind


def _unexpected(message: pb.ReceiveRequest | None, expected: str) -> AfsError:
    if message is None:
        return AfsError(AfsCode.RX_CALL_DEAD, "the sending volserver ended the transfer")
    return AfsError(
        AfsCode.EINVAL, f"the sender says {message.WhichOneof('kind')}: expected {expected}"
    )
