"""What stands in front of every servicer: errors become statuses, streams end on a drain."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio
import structlog
from google.protobuf.message import DecodeError

from afs.errors import ABORT_CODE_TRAILER, AfsCode, AfsError
from afs.limits import HEAR_OUT_S, HEAR_OUT_SILENCE_S, MAX_DETAIL_CHARS

_log = structlog.get_logger(__name__)

# Quoted: these classes take type arguments in their stubs only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"


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
        self._streams: set[_EndlessStream] = set()
        self._wrapped: dict[str, tuple[Handler, Handler]] = {}
        self._draining = False

    def add_endless(self, method: str) -> None:
        """Marks one more method as endless."""
        self._endless.add(method)

    def end_streams(self) -> None:
        """Ends the endless streams with VRESTARTING, those still to come included."""
        self._draining = True
        for stream in self._streams:
            stream.end()

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Any:
        """The handler of the call, wrapped; None for an unknown method."""
        method = str(handler_call_details.method)
        try:
            handler = await continuation(handler_call_details)
        except Exception as error:
            return self._answer_at_once(method, error)
        if handler is None:
            return None
        known = self._wrapped.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        wrapped = self._wrap(method, handler)
        self._wrapped[method] = handler, wrapped
        return wrapped

    def _answer_at_once(self, method: str, error: Exception) -> Handler:
        """A handler for a call that an inner interceptor refused by raising.

        A stream-to-stream handler answers calls of all four kinds.
        """

        async def refuse(requests: Any, context: Context) -> None:
            await hear_out(requests)
            await self._answer(method, context, error)

        handler: Handler = grpc.stream_stream_rpc_method_handler(refuse)
        return handler

    def _wrap(self, method: str, handler: Handler) -> Handler:
        """The handler with errors answered."""
        behavior: Any = (
            handler.stream_stream
            or handler.stream_unary
            or handler.unary_stream
            or handler.unary_unary
        )
        if inspect.isasyncgenfunction(behavior):
            wrapper = self._generator(method, behavior, handler.request_streaming)
        else:
            if not inspect.iscoroutinefunction(behavior):
                behavior = _not_asynchronous(method, behavior)
            wrapper = self._coroutine(method, behavior, handler.request_streaming)
        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        wrapped: Handler = make(
            wrapper,
            request_deserializer=_deserializer(handler),
            response_serializer=handler.response_serializer,
        )
        return wrapped

    def _coroutine(self, method: str, behavior: Any, request_streaming: bool) -> Any:  # noqa: FBT001
        if method in self._endless:

            async def call_endless(request: Any, context: Context) -> Any:
                with self._registered() as stream:
                    try:
                        _check(request)
                        stream.check()
                        return await behavior(request, context)
                    except BaseException as error:
                        await self._answer(method, context, error, stream)

            return call_endless

        async def call(request: Any, context: Context) -> Any:
            try:
                _check(request)
                return await behavior(request, context)
            except Exception as error:
                if request_streaming and not isinstance(error, grpc.aio.AbortError):
                    await hear_out(request)
                await self._answer(method, context, error)

        return call

    def _generator(self, method: str, behavior: Any, request_streaming: bool) -> Any:  # noqa: FBT001
        if method in self._endless:

            async def stream_endless(request: Any, context: Context) -> AsyncIterator[Any]:
                with self._registered() as stream:
                    try:
                        _check(request)
                        stream.check()
                        async with aclosing(behavior(request, context)) as responses:
                            async for response in responses:
                                stream.sending = True
                                yield response
                                stream.sending = False
                                stream.check()
                    except BaseException as error:
                        await self._answer(method, context, error, stream)

            return stream_endless

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                _check(request)
                async with aclosing(behavior(request, context)) as responses:
                    async for response in responses:
                        yield response
            except Exception as error:
                if request_streaming and not isinstance(error, grpc.aio.AbortError):
                    await hear_out(request)
                await self._answer(method, context, error)

        return stream

    @contextmanager
    def _registered(self) -> Iterator[_EndlessStream]:
        """Keeps the endless stream of the current task among those that a drain ends."""
        stream = _EndlessStream(ended=self._draining)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)

    async def _answer(
        self,
        method: str,
        context: Context,
        error: BaseException,
        stream: _EndlessStream | None = None,
    ) -> NoReturn:
        """Ends the call according to what its servicer raised; never returns."""
        if isinstance(error, AfsError):
            await abort(context, error)
        if isinstance(error, asyncio.CancelledError) and stream is not None and stream.cancelled:
            # Take our own cancellation back; what remains is one of grpc's, for a client that left.
            stream.task.uncancel()
            if not _hung_up(context):
                await abort(context, _stopping())
            raise error
        if not isinstance(error, Exception) or isinstance(error, grpc.aio.AbortError):
            raise error
        if _hung_up(context):
            # The client hung up, and the servicer tripped over the broken call before its
            # cancellation reached it.
            raise asyncio.CancelledError from error
        incident = secrets.token_hex(4)
        _log.error("call.failed", incident=incident, method=method, exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, f"internal error, incident {incident}")


def rebuilt(handler: Handler, behavior: Any) -> Handler:
    """A handler of the same kind, with the same messages, and this behavior."""
    make: Any = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[handler.request_streaming, handler.response_streaming]
    made: Handler = make(
        behavior,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made


async def hear_out(requests: AsyncIterator[Any]) -> None:
    """Reads and throws away what a client still sends, before its stream is answered with an error.

    A grpc.aio client that is answered in the middle of a write loses the status, in one call of
    eight here, and sees INTERNAL "Internal error from Core". Source: grpc/grpc issue 36066, open in
    grpcio 1.85. Ends with the stream, or when the client is silent or has gone on for too long.
    """
    try:
        async with asyncio.timeout(HEAR_OUT_S):
            while True:
                async with asyncio.timeout(HEAR_OUT_SILENCE_S):
                    await anext(requests)
    except (StopAsyncIteration, TimeoutError):
        return
    except Exception:
        # Nothing can be read any more, or somebody else reads; the error itself is what matters.
        return


class _EndlessStream:
    """One call of an endless method, run by the current task."""

    def __init__(self, *, ended: bool) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.task = task
        self.cancelled = False
        # True while grpc sends a response. A cancellation would then never reach our code, and grpc
        # would neither end the call nor tell the client.
        self.sending = False
        self._ended = ended

    def end(self) -> None:
        """Ends the call: now, or as soon as the response under way is sent."""
        self._ended = True
        if not self.sending:
            self.cancelled = True
            self.task.cancel()

    def check(self) -> None:
        """Raises AfsError VRESTARTING if the call is to end."""
        if self._ended:
            raise _stopping()


def _stopping() -> AfsError:
    return AfsError(AfsCode.VRESTARTING, "the server is stopping")


def _hung_up(context: Context) -> bool:
    """True if nobody is there any more to be answered."""
    task = asyncio.current_task()
    # grpc cancels the call's task when the client hangs up, and its context does not tell.
    return context.done() or (task is not None and task.cancelling() > 0)


class _Malformed:
    """Stands for a request whose bytes are no message."""


_MALFORMED: Final = _Malformed()


def _malformed(what: str) -> AfsError:
    return AfsError(AfsCode.EINVAL, f"the {what} cannot be parsed: expected a protobuf message")


def _check(request: Any) -> None:
    """Refuses a request that could not be parsed."""
    if request is _MALFORMED:
        raise _malformed("request")


def _deserializer(handler: Handler) -> Callable[[bytes], Any] | None:
    """The handler's deserializer, with garbage answered as EINVAL and not as grpc's UNKNOWN.

    In a stream the error comes out of the servicer's read; a single request is parsed by grpc
    before any code of ours is called, so there a placeholder carries the news.
    """
    parse = handler.request_deserializer
    if parse is None:
        return None
    if handler.request_streaming:

        def parse_piece(data: bytes) -> Any:
            try:
                return parse(data)
            except DecodeError:
                raise _malformed("message") from None

        return parse_piece

    def parse_request(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return _MALFORMED

    return parse_request


def _not_asynchronous(method: str, behavior: Any) -> Any:
    """In place of a synchronous method; the generated ones stand for what is not implemented."""

    async def refuse(request: Any, context: Context) -> NoReturn:  # noqa: ARG001 - gRPC's signature
        assert behavior.__module__.endswith("_pb2_grpc"), f"{method} is not asynchronous"
        raise AfsError(AfsCode.RXGEN_OPCODE, f"{method} is not implemented by this server")

    return refuse


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
