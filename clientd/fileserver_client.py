"""Single calls to one fileserver: metadata, tickets, deadlines, and the errors in AFS codes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from afs.errors import AfsCode, AfsError
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.runtime.clock import Clock
from afs.v1 import callback_channel_pb2_grpc, file_server_pb2, file_server_pb2_grpc
from clientd.callback_channel import CallBackChannel
from clientd.core.cache import VnodeCache
from clientd.core.promise import Ticket
from clientd.journal import Journal
from clientd.kernel_door import KernelDoor
from clientd.retry import was_refused
from clientd.upload import Upload, is_made_up

# A fileserver answers within a break deadline or a lease; one that takes longer hangs.
CALL_TIMEOUT_S: Final = 30.0
CHECK_TIMEOUT_S: Final = 2.0
# A change whose answer was lost may still be under way at the fileserver, which does not break the
# writer's own promise: what it is about is not trusted for so long.
OUTCOME_UNKNOWN_S: Final = CALL_TIMEOUT_S
# Calls wait this long for a callback channel, so that they get promises; then they go without.
ATTACH_PATIENCE_S: Final = 3.0
# After an outage the fileserver is looked for this often: it is on the same network, and a refused
# connection costs nothing.
_RECONNECT_MAX_MS: Final = 1000

Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)


class AnswerLostError(AfsError):
    """The fileserver may or may not have done what was asked; its answer did not come."""


class FileServerClient:
    """One fileserver: its channel, its callback channel, and the calls to it.

    Args:
        address: host:port.
        host_uuid: who we are.
        cache: takes in statuses and promises.
        kernel: knows what is stale before a break is acknowledged.
        clock: steady time.
        journal: counts and tells.
        on_volume_gone: told the id of a volume that moved or was deleted.
    """

    def __init__(
        self,
        address: str,
        *,
        host_uuid: str,
        cache: VnodeCache,
        kernel: KernelDoor,
        clock: Clock,
        journal: Journal,
        on_volume_gone: Callable[[int], None],
    ) -> None:
        self.address = address
        self._metadata = (("afs-host-uuid", host_uuid),)
        self._cache = cache
        self._clock = clock
        self._journal = journal
        options = [("grpc.max_reconnect_backoff_ms", _RECONNECT_MAX_MS)]
        self._calls = open_channel(address, options=options)
        # A connection of its own: breaks must not queue behind bulk data.
        self._breaks = open_channel(address, options=options)
        self.stub: file_server_pb2_grpc.FileServerAsyncStub = file_server_pb2_grpc.FileServerStub(
            self._calls
        )
        self.channel = CallBackChannel(
            address,
            callback_channel_pb2_grpc.CallBackChannelStub(self._breaks),
            host_uuid=host_uuid,
            cache=cache,
            kernel=kernel,
            clock=clock,
            journal=journal,
            on_volume_gone=on_volume_gone,
        )
        self._attachable = True
        self._attached_before = False
        self._attaching = asyncio.create_task(self.channel.run())

    async def stop(self) -> None:
        """Gives promises back, as far as the fileserver listens; closes the connections."""
        if self.channel.attached.is_set():
            # Those that are not given back run out by themselves.
            with suppress(grpc.aio.AioRpcError):
                await self.stub.GiveUpAllCallBacks(
                    file_server_pb2.GiveUpAllCallBacksRequest(),
                    metadata=self._metadata,
                    timeout=1.0,
                )
        self._attaching.cancel()
        await asyncio.gather(self._attaching, return_exceptions=True)
        await self._breaks.close()
        await self._calls.close()

    @property
    def is_lost(self) -> bool:
        """True while there is no callback channel though there was one, or should be by now."""
        return not self.channel.attached.is_set() and (
            self._attached_before or not self._attachable
        )

    async def check(self) -> None:
        """Asks for a sign of life; says nothing if there is none."""
        call = self.stub.GetTime(
            file_server_pb2.GetTimeRequest(), metadata=self._metadata, timeout=CHECK_TIMEOUT_S
        )
        try:
            await call
        except grpc.aio.AioRpcError:
            return
        await self._look_at_epoch(call)

    # --- calls ---

    async def call(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        *,
        attach_patience_s: float = ATTACH_PATIENCE_S,
    ) -> tuple[Response, Ticket]:
        """Calls once.

        Args:
            method: of `stub`.
            request: what to send.
            attach_patience_s: how long to wait for the callback channel first.

        Raises:
            AfsError: what the fileserver refused with; nothing was done.
            AnswerLostError: RX_CALL_DEAD and its kin: it may have been done.
        """
        await self._wait_attached(attach_patience_s)
        ticket = self._cache.ticket(self.address, self._clock.now())
        call = method(request, metadata=self._metadata, timeout=CALL_TIMEOUT_S)
        try:
            response = await call
        except grpc.aio.AioRpcError as rpc_error:
            raise self._failed(rpc_error) from None
        await self._look_at_epoch(call)
        return response, ticket

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
    ) -> AsyncGenerator[tuple[Response, Ticket], None]:
        """Calls once and yields the messages of the answer.

        To be closed by who uses it (`aclosing`).

        Raises:
            AfsError: as `call`.
        """
        await self._wait_attached(ATTACH_PATIENCE_S)
        ticket = self._cache.ticket(self.address, self._clock.now())
        call = method(request, metadata=self._metadata)
        begun = False
        try:
            while (message := await self._next(call)) is not None:
                if not begun:
                    begun = True
                    await self._look_at_epoch(call)
                yield message, ticket
        except grpc.aio.AioRpcError as rpc_error:
            raise self._failed(rpc_error) from None
        finally:
            call.cancel()

    async def _next(self, call: Any) -> Any:
        """The next message of a stream; None at its end."""
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                message = await call.read()
        except TimeoutError:
            raise self._silent() from None
        return None if message is grpc.aio.EOF else message

    async def store(
        self,
        method: grpc.aio.StreamUnaryMultiCallable[Request, Response],
        messages: Callable[[], AsyncGenerator[Request, None]],
    ) -> tuple[Response, Ticket]:
        """Sends a stream once and returns its answer.

        Args:
            method: of `stub`.
            messages: begins the stream.

        Raises:
            AfsError: as `call`.
        """
        await self._wait_attached(ATTACH_PATIENCE_S)
        ticket = self._cache.ticket(self.address, self._clock.now())
        call = method(metadata=self._metadata)
        try:
            response = await Upload(call, CALL_TIMEOUT_S).send(messages)
        except TimeoutError:
            raise self._silent() from None
        except grpc.aio.AioRpcError as rpc_error:
            raise self._failed(rpc_error) from None
        finally:
            call.cancel()
        await self._look_at_epoch(call)
        return response, ticket

    # --- within ---

    async def _wait_attached(self, patience_s: float) -> None:
        """Waits for the callback channel, so that the call gets promises; not for ever."""
        if self.channel.attached.is_set():
            self._attachable = self._attached_before = True
        elif self._attachable:
            try:
                # Nobody waits for one that has been away for longer than that.
                async with asyncio.timeout(max(0.0, patience_s - self.channel.away_for_s)):
                    await self.channel.attached.wait()
                self._attached_before = True
            except TimeoutError:
                # Nobody else waits until it has been attached once more.
                self._attachable = False

    async def _look_at_epoch(self, call: Any) -> None:
        """Notices a fileserver that has restarted before the callback channel does."""
        for key, value in await call.initial_metadata() or ():
            if key == "afs-epoch":
                self.channel.on_epoch_seen(int(value))

    def _failed(self, rpc_error: grpc.aio.AioRpcError) -> AfsError:
        """What a call ended with; notices what that tells of our channel."""
        error = self._error(rpc_error)
        if was_refused(rpc_error) and error.code is AfsCode.RX_CALL_DEAD:
            self.channel.on_held_down()
        return error

    def _silent(self) -> AfsError:
        return AnswerLostError(
            AfsCode.RX_CALL_DEAD,
            f"fileserver {self.address} did nothing for {CALL_TIMEOUT_S:g} s",
        )

    def _error(self, rpc_error: grpc.aio.AioRpcError) -> AfsError:
        """The AFS error; it names the fileserver where gRPC made it up."""
        error = afs_error_from_rpc(rpc_error)
        if was_refused(rpc_error):
            return error
        if is_made_up(rpc_error):
            return AnswerLostError(
                AfsCode.RX_CALL_DEAD, f"fileserver {self.address}: its answer was lost"
            )
        return AnswerLostError(error.code, f"fileserver {self.address}: {error.detail}")
