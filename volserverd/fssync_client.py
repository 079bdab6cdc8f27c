"""FSSync, as the volserver calls it: one command, one answer, in AFS codes.

Theory of operation
    All calls share one connection. When a call finds nobody there, the connection is put aside and
    the next call makes a new one at once: a fileserver that was restarted is found without waiting
    for a reconnect backoff. Calls that are still under way on the old connection end by themselves;
    it is closed after the last.

    A call that got no answer leaves open whether the fileserver carried it out: that is
    `FssyncUnreachableError`, which callers tell from a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import grpc.aio

from afs.errors import ABORT_CODE_TRAILER, AfsCode, AfsError
from afs.limits import FSSYNC_GIVE_BACK_DEADLINE_S, FSSYNC_TAKE_DEADLINE_S
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.v1 import fssync_pb2, fssync_pb2_grpc

# Bytes of a program's name that the fileserver accepts, with room.
_MAX_PROGRAM_BYTES: Final = 200

_DENIED: Final[Mapping[int, AfsCode]] = {
    fssync_pb2.FSYNC_EXCLUSIVE: AfsCode.VBUSY,
    fssync_pb2.FSYNC_WRONG_OWNER: AfsCode.VBUSY,
    fssync_pb2.FSYNC_WRONG_PARTITION: AfsCode.VNOVOL,
    fssync_pb2.FSYNC_DAMAGED: AfsCode.VSALVAGE,
    fssync_pb2.FSYNC_NO_VOLUME: AfsCode.VNOVOL,
    fssync_pb2.FSYNC_IO_ERROR: AfsCode.VIO,
}


class FssyncUnreachableError(AfsError):
    """The fileserver did not answer; what was asked of it may have happened, or not."""


@dataclass(slots=True)
class _Link:
    """One connection, and how many calls are under way on it."""

    channel: grpc.aio.Channel
    stub: fssync_pb2_grpc.FSSyncAsyncStub
    calls: int = 0
    aside: bool = False


class FssyncClient:
    """Calls one fileserver's FSSync service.

    Args:
        address: "unix:PATH" or "host:port".
        program: who we say we are; the program that takes a volume is the one that gives it back.
    """

    def __init__(self, address: str, program: str) -> None:
        self.address = address
        self.program = program
        self._link: _Link | None = None

    async def close(self) -> None:
        """Hangs up."""
        link, self._link = self._link, None
        if link is not None:
            await link.channel.close()

    async def query(self, volume_id: int) -> fssync_pb2.VolumeInfo | None:
        """What the fileserver knows of a volume; None if it knows none of this id."""
        answer = await self._ask(
            fssync_pb2.VolumeOpRequest(command=fssync_pb2.FSYNC_VOL_QUERY, volume_id=volume_id)
        )
        if answer.response == fssync_pb2.FSYNC_UNKNOWN_VOLUME:
            return None
        check(answer, volume_id)
        return answer.volume

    async def volumes(self) -> list[fssync_pb2.VolumeInfo]:
        """All volumes the fileserver knows."""
        answer = await self._ask(
            fssync_pb2.VolumeOpRequest(command=fssync_pb2.FSYNC_VOL_LISTVOLUMES)
        )
        check(answer, 0)
        return list(answer.volumes)

    async def watch_breaks(self, volume_id: int) -> AsyncIterator[Sequence[fssync_pb2.HostNotTold]]:
        """Who may still trust a state of the volume that is no more, whenever that changes.

        Ends when it is nobody.

        Raises:
            FssyncUnreachableError: no answer, or the fileserver went away.
        """
        # A connection of its own: it may last as long as a lease.
        async with open_channel(self.address) as channel:
            stub: fssync_pb2_grpc.FSSyncAsyncStub = fssync_pb2_grpc.FSSyncStub(channel)
            request = fssync_pb2.WatchBreaksRequest(volume_id=volume_id)
            try:
                async for answer in stub.WatchBreaks(request):
                    yield answer.hosts
            except grpc.aio.AioRpcError as error:
                if _is_answer(error):
                    raise afs_error_from_rpc(error) from None
                raise self._unreachable(error) from None

    async def command(
        self,
        command: fssync_pb2.FsyncCommand.ValueType,
        volume_id: int,
        partition: str,
        reason: fssync_pb2.FsyncReason.ValueType = fssync_pb2.FSYNC_REASON_UNSPECIFIED,
    ) -> fssync_pb2.VolumeOpResponse:
        """One command about a volume; the answer may be a refusal, see `check`.

        Raises:
            FssyncUnreachableError: no answer; it may have happened.
        """
        taking = command == fssync_pb2.FSYNC_NEEDVOLUME
        return await self._call(
            fssync_pb2.VolumeOpRequest(
                command=command, reason=reason, volume_id=volume_id, partition=partition
            ),
            FSSYNC_TAKE_DEADLINE_S if taking else FSSYNC_GIVE_BACK_DEADLINE_S,
        )

    async def _ask(self, request: fssync_pb2.VolumeOpRequest) -> fssync_pb2.VolumeOpResponse:
        """A call that changes nothing: tried again on a new connection if the old one is dead."""
        try:
            return await self._call(request, FSSYNC_TAKE_DEADLINE_S)
        except FssyncUnreachableError:
            return await self._call(request, FSSYNC_TAKE_DEADLINE_S)

    async def _call(
        self, request: fssync_pb2.VolumeOpRequest, deadline_s: float
    ) -> fssync_pb2.VolumeOpResponse:
        request.program = self.program
        link = self._link
        if link is None:
            channel = open_channel(self.address)
            link = self._link = _Link(channel, fssync_pb2_grpc.FSSyncStub(channel))
        link.calls += 1
        try:
            return await link.stub.VolumeOp(request, timeout=deadline_s)
        except grpc.aio.AioRpcError as error:
            if _is_answer(error):
                raise afs_error_from_rpc(error) from None
            link.aside = True
            if self._link is link:
                self._link = None
            raise self._unreachable(error) from None
        finally:
            link.calls -= 1
            if link.aside and not link.calls:
                # Closing waits for nothing here, but is a coroutine; nobody needs its result.
                asyncio.ensure_future(link.channel.close()).add_done_callback(_forget)

    def _unreachable(self, error: grpc.aio.AioRpcError) -> FssyncUnreachableError:
        return FssyncUnreachableError(
            AfsCode.RX_CALL_DEAD,
            f"the fileserver does not answer on {self.address} ({error.code().name}):"
            " nothing is done to volumes without it",
        )


def _is_answer(error: grpc.aio.AioRpcError) -> bool:
    """True if it was the fileserver itself that refused."""
    return any(key == ABORT_CODE_TRAILER for key, _ in error.trailing_metadata() or ())


def _forget(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()


def check(answer: fssync_pb2.VolumeOpResponse, volume_id: int) -> None:
    """Raises what a refusal means: VNOVOL, VBUSY (somebody has it), VSALVAGE, VIO or VOFFLINE."""
    if answer.response == fssync_pb2.FSYNC_OK:
        return
    code = _DENIED.get(answer.reason, AfsCode.VOFFLINE)
    if answer.response == fssync_pb2.FSYNC_UNKNOWN_VOLUME:
        code = AfsCode.VNOVOL
    name = fssync_pb2.FsyncReason.Name(answer.reason)
    raise AfsError(code, f"the fileserver refused volume {volume_id} ({name}): {answer.detail}")


def program_name(run_dir: str) -> str:
    """The name of the volserver of a run directory, the same after a restart."""
    tail = run_dir.encode()[-_MAX_PROGRAM_BYTES:].decode(errors="ignore")
    return f"volserver@{tail}"
