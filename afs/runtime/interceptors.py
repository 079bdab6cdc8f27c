"""What stands in front of every servicer: errors become statuses, streams end on a drain."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog

from afs.errors import ABORT_CODE_TRAILER, AfsCode, AfsError
from afs.limits import MAX_DETAIL_CHARS

_log = structlog.get_logger(__name__)

Handler = grpc.RpcMethodHandler[Any, Any]
Context = grpc.aio.ServicerContext[Any, Any]
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns what a servicer raises into an answer; the outermost interceptor.

    AfsError becomes its gRPC status, its detail, and its code in the trailer `afs-abort-code`.
    Anything else is a bug: it is logged at level error under an incident id, and the client learns
    that id and nothing more. Cancellation and the aborts of a servicer pass.

    Args:
        endless: full names of methods ("/afs.v1.FileServerDebug/Watch") whose streams end only when
            somebody hangs up. `end_streams` ends them, so that a drain need not wait for them.
    """

    def __init__(self, endless: Collection[str] = ()) -> None:
        self._endless = set(endless)
        self._streams: set[asyncio.Task[Any]] = set()
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._draining = False

    def add_endless(self, method: str) -> None:
        """Marks one more method as endless."""
        self._endless.add(method)

    def end_streams(self) -> None:
        """Ends the endless streams with VRESTARTING, those still to come included."""
        self._draining = True
        for task in self._streams:
            task.cancel()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of the call, wrapped; None for an unknown method."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = str(handler_call_details.method)
        known = self._wrapped.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        wrapped = self._wrap(method, handler)
        self._wrapped[method] = handler, wrapped
        return wrapped

    def _wrap(self, method: str, handler: Handler) -> Handler:
        """The handler with errors answered."""
        behavior = (
            handler.stream_stream
            or handler.stream_unary
            or handler.unary_stream
            or handler.unary_unary
        )
        assert behavior is not None, f"{method} has no handler"
        wrapper: Any
        if inspect.isasyncgenfunction(behavior):
            wrapper = self._generator(method, behavior)
        else:
            assert inspect.iscoroutinefunction(behavior), f"{method} is not asynchronous"
            wrapper = self._coroutine(method, behavior)
        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return make(  # type: ignore[no-any-return]
            wrapper,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _coroutine(self, method: str, behavior: Any) -> Any:
        if method in self._endless:

            async def call_endless(request: Any, context: Context) -> Any:
                task = self._enter()
                try:
                    return await behavior(request, context)
                except BaseException as error:
                    await self._answer(method, context, error, task)
                finally:
                    self._streams.discard(task)

            return call_endless

        async def call(request: Any, context: Context) -> Any:
            try:
                return await behavior(request, context)
            except BaseException as error:
                await self._answer(method, context, error, None)

        return call

    def _generator(self, method: str, behavior: Any) -> Any:
        if method in self._endless:

            async def stream_endless(request: Any, context: Context) -> AsyncIterator[Any]:
                task = self._enter()
                try:
                    async for response in behavior(request, context):
                        yield response
                except BaseException as error:
                    await self._answer(method, context, error, task)
                finally:
                    self._streams.discard(task)

            return stream_endless

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                async for response in behavior(request, context):
                    yield response
            except BaseException as error:
                await self._answer(method, context, error, None)

        return stream

    def _enter(self) -> asyncio.Task[Any]:
        """Registers the endless stream that runs in the current task."""
        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        if self._draining:
            task.cancel()
        return task

    async def _answer(
        self, method: str, context: Context, error: BaseException, endless: asyncio.Task[Any] | None
    ) -> NoReturn:
        """Ends the call according to what its servicer raised; never returns."""
        if isinstance(error, AfsError):
            await abort(context, error)
        if isinstance(error, asyncio.CancelledError) and endless is not None and self._draining:
            if not context.done():
                endless.uncancel()
                await abort(context, AfsError(AfsCode.VRESTARTING, "the server is stopping"))
            raise error
        if not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
            raise error
        if context.done():
            # The client hung up, and the servicer tripped over the broken call before its
            # cancellation reached it.
            raise asyncio.CancelledError from error
        incident = secrets.token_hex(4)
        _log.error("call.failed", incident=incident, method=method, exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error, incident {incident}")


async def abort(context: Context, error: AfsError) -> NoReturn:
    """Ends a call with an AfsError: its gRPC status, its detail in one line, its code."""
    detail = error.detail.replace("\n", " ").encode("utf-8", "backslashreplace").decode("utf-8")
    trailer = (*(context.trailing_metadata() or ()), (ABORT_CODE_TRAILER, str(int(error.code))))
    await context.abort(error.grpc_status, detail[:MAX_DETAIL_CHARS], trailer)


class RequestCounter(grpc.aio.ServerInterceptor):
    """Counts the calls of each method.

    Unknown methods are not counted, so that nobody can fill the memory.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def counts(self) -> dict[str, int]:
        """Calls begun so far, by full method name ("/afs.v1.FileServer/FetchStatus")."""
        return dict(self._counts)

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of the call, unchanged."""
        handler = await continuation(handler_call_details)
        if handler is not None:
            method = str(handler_call_details.method)
            self._counts[method] = self._counts.get(method, 0) + 1
        return handler
