"""CallPreamble: the interceptor in front of every client RPC (M7).

A host that is owed breaks, or a reset, acknowledges them before its call is begun, and once more
before the answer
leaves, in case it came to be owed some meanwhile: from the moment a change is acknowledged, no host
gets an answer before the break it is owed (I3, R3).
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import grpc
import grpc.aio

from afs.errors import AfsCode, AfsError
from afs.runtime.interceptors import Context, Continuation, Handler, rebuilt
from afs.runtime.listening import UNIX_PREFIX
from afs.runtime.tls import uris_of, used_tls
from afsd.callbacks import CallBacks

HOST_UUID_METADATA: Final = "afs-host-uuid"

# UUID of the host that makes the current call; None for a caller without a name.
calling_host: ContextVar[str | None] = ContextVar("calling_host", default=None)


@lru_cache(maxsize=4096)
def _canonical(value: str | bytes) -> str:
    """The UUID in its usual spelling, so that a host has one name."""
    try:
        return str(UUID(value if isinstance(value, str) else value.decode("ascii")))
    except ValueError:
        raise AfsError(
            AfsCode.EINVAL,
            f"{HOST_UUID_METADATA} {value[:64]!r} is no UUID: expected 32 hexadecimal digits",
        ) from None


def host_of(context: Context) -> str | None:
    """The host that a call's metadata names; None if it names none.

    Where callers have certificates, a host is known by its own.

    Raises:
        AfsError: EINVAL if the name is no UUID; EPERM for a host that the certificate is not for.
    """
    for key, value in context.invocation_metadata() or ():
        if key == HOST_UUID_METADATA:
            host = _canonical(value)
            if used_tls() is not None and not _is_certified(context, host):
                raise AfsError(
                    AfsCode.EPERM, f"the caller's certificate is not that of host {host}"
                )
            return host
    return None


def _is_certified(context: Context, host: str) -> bool:
    """Unix sockets let in whom their mode lets in, and know no certificates."""
    return context.peer().startswith(UNIX_PREFIX) or any(
        uri.rpartition("/host/")[2] == host for uri in uris_of(context)
    )


class CallPreamble(grpc.aio.ServerInterceptor):
    """Stands before the methods of one service.

    Args:
        callbacks: knows what hosts are owed.
        service: full name of the service ("afs.v1.FileServer"); others pass untouched.
    """

    def __init__(self, callbacks: CallBacks, service: str) -> None:
        self._callbacks = callbacks
        self._prefix = f"/{service}/"
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of the call, with the preamble before it and the check behind it."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or not method.startswith(self._prefix):
            return handler
        known = self._wrapped.get(method)
        if known is None or known[0] is not handler:
            known = self._wrapped[method] = handler, self._wrap(handler)
        return known[1]

    def _wrap(self, handler: Handler) -> Handler:
        behavior: Any = (
            handler.unary_unary
            or handler.unary_stream
            or handler.stream_unary
            or handler.stream_stream
        )
        if inspect.isasyncgenfunction(behavior):
            wrapper: Any = self._stream(behavior)
        elif inspect.iscoroutinefunction(behavior):
            wrapper = self._call(behavior)
        else:
            # A generated method that stands for what is not implemented: nothing is answered that
            # could be stale.
            return handler
        return rebuilt(handler, wrapper)

    async def _before_answer(self, host: str, context: Context) -> None:
        """The second look. Between the last ack and our turn the host may be owed another break.

        A host that does not acknowledge gets no answer; since what it asked for may have been done,
        it is not told an abort code either, which would mean that nothing was.
        """
        while not self._callbacks.may_answer(host):
            try:
                await self._callbacks.call_preamble(host)
            except AfsError as error:
                await context.abort(grpc.StatusCode.UNAVAILABLE, error.detail)

    def _call(self, behavior: Any) -> Any:
        callbacks = self._callbacks

        async def call(request: Any, context: Context) -> Any:
            host = host_of(context)
            calling_host.set(host)
            if host is None:
                return await behavior(request, context)
            if not callbacks.may_answer(host):
                await callbacks.call_preamble(host)
            try:
                return await behavior(request, context)
            finally:
                # An error is an answer as well.
                await self._before_answer(host, context)

        return call

    def _stream(self, behavior: Any) -> Any:
        callbacks = self._callbacks

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            host = host_of(context)
            calling_host.set(host)
            if host is not None and not callbacks.may_answer(host):
                await callbacks.call_preamble(host)
            try:
                async for response in behavior(request, context):
                    if host is not None:
                        await self._before_answer(host, context)
                    yield response
            finally:
                if host is not None:
                    await self._before_answer(host, context)

        return stream
