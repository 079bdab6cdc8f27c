"""Sends a volume to another volserver (or to another partition of our own): move, copy, release.

Theory of operation
    A transfer is one stream, told in `proto/afs/v1/vol_transfer.proto`. The receiver says first
    which state of the volume it has, if any (its *base*). Each round sends the metadata of what
    changed since the state before, the receiver names the chunks it lacks, and these are sent. So
    the first round may take long, with the volume in service, and the last one is short. Nothing is
    at the receiver's place before `put_in_place`.

    Memory is bounded: one message on its way from the disk, one on its way to the network.

    A receiver that fails says so in a message; from then on every call here raises that. A receiver
    that is gone or frozen is noticed by the channel's keepalive. `abort` ends a transfer from
    outside, whatever it is waiting for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any, Final, Self

import grpc.aio

from afs.errors import AfsCode, AfsError
from afs.limits import CHUNK_BYTES
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.types import ChangeMark
from afs.v1 import vol_transfer_pb2 as pb
from afs.v1 import vol_transfer_pb2_grpc
from afs.volume.dump import chunk_source, dump_pieces
from afs.volume.sqlite_store import SqliteVolume
from volserverd.disk import Disk
from volserverd.read_ahead import read_ahead

# Seconds for the receiver to say what it has.
_OPEN_DEADLINE_S: Final = 30.0
# Seconds for the end of the stream, when everything is said.
_END_DEADLINE_S: Final = 5.0

# Told how many bytes of how many were sent in this round; 0: not known yet.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class RoundSent:
    """What one round sent, and which state the receiver has now.

    With a dry run, what it would have sent. `bytes` counts metadata and chunks.
    """

    mark: ChangeMark
    bytes: int
    metadata_bytes: int
    chunks: int
    vnodes: int


class OutgoingTransfer:
    """One volume on its way to one receiver. Made by `open`, ended by `end` or `abort`.

    Every method raises AfsError: what the receiver said, RX_CALL_DEAD if it is gone, or what the
    transfer was aborted with.

    Attributes:
        ready: what the receiver said of itself.
        base: the state that the receiver has already; None if it has none.
    """

    def __init__(self, disk: Disk, channel: grpc.aio.Channel, opening: pb.TransferOpen) -> None:
        self._disk = disk
        self._channel = channel
        self._dry_run = opening.dry_run
        self._call: Any = vol_transfer_pb2_grpc.VolTransferStub(channel).Receive()
        self._answers: asyncio.Queue[pb.ReceiveResponse | None] = asyncio.Queue()
        self._failure: AfsError | None = None
        self._reader = asyncio.create_task(self._read())
        self._last: ChangeMark | None = None
        self.ready = pb.TransferReady()
        self.base: ChangeMark | None = None

    @classmethod
    async def open(cls, disk: Disk, address: str, opening: pb.TransferOpen) -> Self:
        """Opens a transfer.

        Args:
            disk: where the volumes to send are.
            address: the receiver's VolServer, "host:port" or "unix:PATH".
            opening: which volume, and what it is to be there.

        Raises:
            AfsError: EINVAL for a partition that is not there, VVOLEXISTS, VBUSY …; RX_CALL_DEAD.
        """
        transfer = cls(disk, open_channel(address), opening)
        try:
            await transfer._write(pb.ReceiveRequest(open=opening))
            answer = await transfer._answer("ready", _OPEN_DEADLINE_S)
        except AfsError as error:
            await transfer.abort(error)
            raise AfsError(error.code, f"volserver {address}: {error.detail}") from None
        except BaseException:
            await transfer.abort(AfsError(AfsCode.EAGAIN, "not opened"))
            raise
        transfer.ready = answer.ready
        if answer.ready.base_incarnation:
            transfer.base = ChangeMark(
                answer.ready.base_incarnation, answer.ready.base_change_counter
            )
        return transfer

    async def send_round(
        self, source: SqliteVolume, progress: Progress = lambda _done, _total: None
    ) -> RoundSent:
        """Sends what the receiver lacks of a volume as it is now; on its disk when this returns.

        Args:
            source: the volume itself, or a clone of it that has its incarnation and its change
                counter. It must not change during the round.
            progress: told now and then.
        """
        header = await self._disk.run(source.header)
        mark = ChangeMark(header.incarnation, header.change_counter)
        since = self._since(mark)
        on_base = since > 0 or self._last is not None
        await self._write(pb.ReceiveRequest(round=pb.RoundStart(on_base=on_base)))
        vnodes, sent = 0, 0

        def count(done: int, _total: int) -> None:
            nonlocal vnodes
            vnodes = done

        pieces = dump_pieces(source, count, since=since, chunks=False)
        async with aclosing(read_ahead(self._disk, pieces)) as reading:
            async for piece in reading:
                await self._write(pb.ReceiveRequest(dump=piece))
                sent += len(piece)
                progress(sent, 0)
        await self._write(pb.ReceiveRequest(end_of_dump=pb.EndOfDump()))
        page = (await self._answer("missing")).missing
        metadata, total, chunks = sent, sent + page.total_bytes, page.total_chunks
        if self._dry_run:
            return RoundSent(mark, total, metadata, chunks, vnodes)
        while True:
            async with aclosing(self._chunks(source, list(page.hashes))) as batches:
                async for data in batches:
                    await self._write(pb.ReceiveRequest(chunks=pb.Chunks(data=data)))
                    sent += sum(map(len, data))
                    progress(sent, total)
            if page.last:
                break
            page = (await self._answer("missing")).missing
        await self._answer("round_received")
        self._last = mark
        return RoundSent(mark, sent, metadata, chunks, vnodes)

    async def put_in_place(
        self, *, in_transit: bool = False, swap: bool = False, deadline_s: float | None = None
    ) -> pb.VolumeInPlace:
        """Has the receiver make the volume what was sent; durable when this returns.

        Args:
            in_transit: as half of a move, which nobody serves.
            swap: over a volume in service: taken from the receiver's fileserver and given back.
            deadline_s: RX_CALL_DEAD after this long; nobody knows then whether it happened.
        """
        message = pb.PutInPlace(in_transit=in_transit, swap=swap)
        await self._write(pb.ReceiveRequest(put_in_place=message))
        return (await self._answer("in_place", deadline_s)).in_place

    async def put_on(self, deadline_s: float | None = None) -> float:
        """Has the receiver put the volume into service; seconds that its fileserver took."""
        await self._write(pb.ReceiveRequest(put_on=pb.PutOn()))
        return float((await self._answer("on", deadline_s)).on.give_back_s)

    async def end(self) -> None:
        """Ends the transfer: what was not put in place is gone at the receiver. Never raises."""
        with suppress(AfsError, TimeoutError, grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async with asyncio.timeout(_END_DEADLINE_S):
                await self._call.done_writing()
                await self._reader
        await self.abort(AfsError(AfsCode.EAGAIN, "the transfer has ended"))

    async def abort(self, error: AfsError) -> None:
        """Ends the transfer at once; who waits for it gets this error. Never raises."""
        self.interrupt(error)
        await asyncio.wait([self._reader])
        await self._channel.close()

    def interrupt(self, error: AfsError) -> None:
        """As `abort`, for those who cannot wait; it must be ended all the same."""
        self._fail(error)
        self._call.cancel()

    # --- inside -----------------------------------------------------------------------------------

    def _since(self, mark: ChangeMark) -> int:
        """The change counter of the state that the receiver has; 0 if it has none to build on."""
        has = self._last or self.base
        if has is None or has.incarnation != mark.incarnation:
            return 0
        return has.change_counter if has.change_counter <= mark.change_counter else 0

    async def _chunks(
        self, source: SqliteVolume, hashes: Sequence[bytes]
    ) -> AsyncGenerator[list[bytes], None]:
        """The chunks of these hashes, in messages of about CHUNK_BYTES."""
        if not hashes:
            return
        batches = _batches(chunk_source(source, hashes))
        async with aclosing(read_ahead(self._disk, batches)) as reading:
            async for batch in reading:
                yield batch

    async def _write(self, message: pb.ReceiveRequest) -> None:
        if self._failure is not None:
            raise self._failure
        try:
            await self._call.write(message)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The reader knows why.
            await asyncio.wait([self._reader])
            raise self._why() from None
        except asyncio.CancelledError:
            if self._failure is None:
                raise
            raise self._failure from None

    async def _answer(self, kind: str, deadline_s: float | None = None) -> pb.ReceiveResponse:
        if self._failure is not None:
            raise self._failure
        try:
            async with asyncio.timeout(deadline_s):
                answer = await self._answers.get()
        except TimeoutError:
            raise AfsError(
                AfsCode.RX_CALL_DEAD,
                f"the receiving volserver did not answer within {deadline_s} s",
            ) from None
        if answer is None:
            self._answers.put_nowait(None)
            raise self._why()
        if answer.WhichOneof("kind") != kind:
            raise AfsError(
                AfsCode.RXGEN_OPCODE,
                f"the receiving volserver answered {answer.WhichOneof('kind')}: expected {kind}",
            )
        return answer

    async def _read(self) -> None:
        """Takes answers in until the stream ends."""
        try:
            async for answer in self._call:
                if answer.WhichOneof("kind") == "failed":
                    self._fail(_told(answer.failed))
                else:
                    self._answers.put_nowait(answer)
        except grpc.aio.AioRpcError as error:
            self._fail(afs_error_from_rpc(error))
        except asyncio.CancelledError:
            # The call was cancelled; nobody cancels this task.
            self._fail(_gone())
        self._fail(_gone())

    def _why(self) -> AfsError:
        """What ended the transfer."""
        return self._failure or _gone()

    def _fail(self, error: AfsError) -> None:
        if self._failure is None:
            self._failure = error
            self._answers.put_nowait(None)


def _batches(chunks: Iterator[bytes]) -> Iterator[list[bytes]]:
    """The chunks in portions of about CHUNK_BYTES, never more than twice that."""
    batch: list[bytes] = []
    size = 0
    for chunk in chunks:
        batch.append(chunk)
        size += len(chunk)
        if size >= CHUNK_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _gone() -> AfsError:
    return AfsError(AfsCode.RX_CALL_DEAD, "the receiving volserver ended the transfer")


def _told(failed: pb.TransferFailed) -> AfsError:
    try:
        return AfsError(AfsCode(failed.code), failed.detail)
    except ValueError:
        return AfsError(AfsCode.VNOSERVICE, f"code {failed.code}: {failed.detail}")
