"""Calls to one fileserver: metadata, tickets, deadlines, retries, and the errors in AFS codes."""

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
from afs.types import Vnode
from afs.v1 import callback_channel_pb2_grpc, file_server_pb2, file_server_pb2_grpc, types_pb2
from afs.wire import status_from_wire
from clientd.callback_channel import CallBackChannel
from clientd.core.cache import VnodeCache
from clientd.core.promise import PromiseOffer, Ticket
from clientd.core.validation import Verdict
from clientd.journal import Journal
from clientd.retry import Patience, was_refused
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
            clock=clock,
            journal=journal,
            on_volume_gone=on_volume_gone,
        )
        self._attachable = True
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
        repeatable: bool = True,
    ) -> tuple[Response, Ticket]:
        """Calls, again if need be.

        Args:
            method: of `stub`.
            request: what to send.
            repeatable: False for a change that done twice is not the same as done once: it is
                tried again only if the fileserver refused it, not if the answer was lost.

        Raises:
            AfsError: what the fileserver answered; RX_CALL_DEAD if it cannot be reached.
        """
        patience = Patience(self._clock.now())
        while True:
            await self._wait_attached(ATTACH_PATIENCE_S if repeatable else CALL_TIMEOUT_S)
            ticket = self._cache.ticket(self.address, self._clock.now())
            call = method(request, metadata=self._metadata, timeout=CALL_TIMEOUT_S)
            try:
                response = await call
            except grpc.aio.AioRpcError as rpc_error:
                repeat = repeatable or was_refused(rpc_error)
                await self._wait_to_repeat(rpc_error, patience, repeat=repeat)
                continue
            await self._look_at_epoch(call)
            return response, ticket

    async def stream(
        self,
        method: grpc.aio.UnaryStreamMultiCallable[Request, Response],
        request: Request,
    ) -> AsyncGenerator[tuple[Response, Ticket], None]:
        """Yields the messages of a stream; tried again until the first one came, not after.

        To be closed by who uses it (`aclosing`).

        Raises:
            AfsError: as `call`.
        """
        patience = Patience(self._clock.now())
        while True:
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
                return
            except grpc.aio.AioRpcError as rpc_error:
                if begun:
                    raise self._error(rpc_error) from None
                await self._wait_to_repeat(rpc_error, patience, repeat=True)
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
        *,
        may_repeat: Callable[[], bool],
    ) -> tuple[Response, Ticket]:
        """Sends a stream and returns its answer.

        Args:
            method: of `stub`.
            messages: begins the stream; called once for each attempt.
            may_repeat: whether `messages` can be begun again, asked after a failed attempt.
        """
        patience = Patience(self._clock.now())
        while True:
            await self._wait_attached(ATTACH_PATIENCE_S)
            ticket = self._cache.ticket(self.address, self._clock.now())
            call = method(metadata=self._metadata)
            try:
                response = await Upload(call, CALL_TIMEOUT_S).send(messages)
            except TimeoutError:
                raise self._silent() from None
            except grpc.aio.AioRpcError as rpc_error:
                await self._wait_to_repeat(rpc_error, patience, repeat=may_repeat())
                continue
            finally:
                call.cancel()
            await self._look_at_epoch(call)
            return response, ticket

    # --- replies ---

    def take_in(
        self, status: types_pb2.FileStatus, callback: types_pb2.CallBack | None, ticket: Ticket
    ) -> tuple[Vnode, Verdict]:
        """Applies a status that was asked for."""
        vnode = self._vnode(status)
        verdict = self._cache.apply_fetched(ticket, vnode, offer(callback), self._clock.now())
        if verdict is Verdict.BROKEN_ON_THE_WAY:
            self._journal.count("replies_overtaken_by_breaks")
        return vnode, verdict

    def take_in_changed(
        self, status: types_pb2.FileStatus, callback: types_pb2.CallBack | None, ticket: Ticket
    ) -> Vnode:
        """Applies the status after a change of our own."""
        vnode = self._vnode(status)
        self._cache.apply_changed(ticket, vnode, offer(callback), self._clock.now())
        return vnode

    def _vnode(self, status: types_pb2.FileStatus) -> Vnode:
        try:
            return status_from_wire(status)
        except AfsError as error:
            raise AfsError(
                AfsCode.VIO, f"fileserver {self.address} sent a status that is none: {error.detail}"
            ) from None

    # --- within ---

    async def _wait_attached(self, patience_s: float) -> None:
        """Waits for the callback channel, so that the call gets promises; not for ever."""
        if self.channel.attached.is_set():
            self._attachable = True
        elif self._attachable:
            try:
                async with asyncio.timeout(patience_s):
                    await self.channel.attached.wait()
            except TimeoutError:
                # Nobody else waits until it has been attached once more.
                self._attachable = False

    async def _look_at_epoch(self, call: Any) -> None:
        """Notices a fileserver that has restarted before the callback channel does."""
        for key, value in await call.initial_metadata() or ():
            if key == "afs-epoch":
                self.channel.on_epoch_seen(int(value))

    async def _wait_to_repeat(
        self, rpc_error: grpc.aio.AioRpcError, patience: Patience, *, repeat: bool
    ) -> None:
        """Waits before the next attempt, or raises what the call ended with."""
        error = self._error(rpc_error)
        if was_refused(rpc_error) and error.code is AfsCode.RX_CALL_DEAD:
            self.channel.on_held_down()
        wait_s = patience.wait_s(error, self._clock.now()) if repeat else None
        if wait_s is None:
            raise error
        self._journal.count("retries")
        await asyncio.sleep(wait_s)

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


def offer(callback: types_pb2.CallBack | None) -> PromiseOffer | None:
    """The promise in a reply; None if the message is absent or empty of time."""
    if callback is None or callback.expires_in_s == 0:
        return None
    return PromiseOffer(callback.expires_in_s, callback.sequence, callback.epoch)
