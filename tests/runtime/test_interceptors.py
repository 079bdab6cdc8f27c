"""Errors on their way from a servicer to a client, over real sockets, for every kind of call."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from afs.errors import ABORT_CODE_TRAILER, AfsCode, AfsError
from afs.limits import MAX_DETAIL_CHARS, MIB
from afs.runtime.channel import afs_error_from_rpc
from afs.runtime.interceptors import RequestCounter
from afs.v1 import (
    callback_channel_pb2,
    callback_channel_pb2_grpc,
    file_server_pb2,
    file_server_pb2_grpc,
)
from tests.conftest import LogEvents
from tests.runtime.services import Channel, Scripted, serving

Caller = Callable[[grpc.aio.Channel], Awaitable[Any]]


async def _messages(*messages: Any) -> AsyncIterator[Any]:
    for message in messages:
        yield message


async def fetch_status(channel: grpc.aio.Channel) -> Any:
    """One request, one response."""
    stub = file_server_pb2_grpc.FileServerStub(channel)
    return await stub.FetchStatus(file_server_pb2.FetchStatusRequest())


async def fetch_data(channel: grpc.aio.Channel) -> Any:
    """One request, many responses."""
    stub = file_server_pb2_grpc.FileServerStub(channel)
    return [piece async for piece in stub.FetchData(file_server_pb2.FetchDataRequest())]


async def store_data(channel: grpc.aio.Channel) -> Any:
    """Many requests, one response."""
    stub = file_server_pb2_grpc.FileServerStub(channel)
    return await stub.StoreData(_messages(file_server_pb2.StoreDataRequest()))


async def attach(channel: grpc.aio.Channel) -> Any:
    """Many requests, many responses."""
    stub = callback_channel_pb2_grpc.CallBackChannelStub(channel)
    return [message async for message in stub.Attach(_messages())]


ALL_KINDS = pytest.mark.parametrize("call", [fetch_status, fetch_data, store_data, attach])


async def _fail(call: Caller, act: Callable[[Any], Any]) -> grpc.aio.AioRpcError:
    """The error a client sees when the servicer does this."""
    async with serving(files=Scripted(act), channel=Channel(act)) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel)
    return caught.value


def _raiser(error: BaseException) -> Callable[[Any], None]:
    def act(_context: Any) -> None:
        raise error

    return act


@ALL_KINDS
async def test_afs_error_arrives_whole(call: Caller) -> None:
    """An AfsError arrives with its gRPC status, its detail and its AFS code."""
    error = await _fail(call, _raiser(AfsError(AfsCode.VNOVOL, "volume 7 is not here")))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert error.details() == "volume 7 is not here"
    again = afs_error_from_rpc(error)
    assert (again.code, again.detail) == (AfsCode.VNOVOL, "volume 7 is not here")


@ALL_KINDS
@pytest.mark.expects_error_event
async def test_bug_tells_an_incident_only(call: Caller, log_events: LogEvents) -> None:
    """An unexpected exception is logged under an id; the client learns the id only."""
    error = await _fail(call, _raiser(ZeroDivisionError("the secret")))
    assert error.code() is grpc.StatusCode.INTERNAL
    found = re.fullmatch(r"internal error, incident ([0-9a-f]{8})", error.details() or "")
    assert found
    (event,) = log_events.named("call.failed")
    assert event["log_level"] == "error"
    assert event["incident"] == found[1]
    assert isinstance(event["exc_info"], ZeroDivisionError)
    assert afs_error_from_rpc(error).code is AfsCode.VNOSERVICE


@pytest.mark.parametrize("call", [fetch_status, store_data])
async def test_servicers_own_abort_passes(call: Caller) -> None:
    """A servicer that aborts the call itself is not interfered with."""

    class Aborting(Scripted):
        async def FetchStatus(self, request: Any, context: Any) -> Any:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "mine")

        async def StoreData(self, request_iterator: Any, context: Any) -> Any:
            await context.abort(grpc.StatusCode.OUT_OF_RANGE, "mine")

    async with serving(files=Aborting()) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel)
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert caught.value.details() == "mine"


async def test_detail_of_any_text_is_sent_as_one_short_line() -> None:
    """Line ends, lone surrogates and pages of text in a detail do not break the answer."""
    error = await _fail(fetch_status, _raiser(AfsError(AfsCode.EINVAL, "a\nb\udcffü" + "x" * 5000)))
    detail = error.details()
    assert detail is not None
    assert detail.startswith("a b\\udcffüx")
    assert len(detail) == MAX_DETAIL_CHARS


async def test_servicers_trailers_are_kept() -> None:
    """Trailers that the servicer had set arrive beside the AFS code."""

    def act(context: Any) -> None:
        context.set_trailing_metadata((("afs-other", "x"),))
        raise AfsError(AfsCode.VBUSY, "busy")

    error = await _fail(fetch_status, act)
    assert set(error.trailing_metadata()) == {("afs-other", "x"), (ABORT_CODE_TRAILER, "110")}


async def test_method_not_implemented() -> None:
    """A method the servicer does not have answers UNIMPLEMENTED with RXGEN_OPCODE."""
    async with serving() as (_, channel):
        stub = file_server_pb2_grpc.FileServerStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.FetchACL(file_server_pb2.FetchACLRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert afs_error_from_rpc(caught.value).code is AfsCode.RXGEN_OPCODE


@pytest.mark.expects_error_event
async def test_synchronous_method_of_ours_is_a_bug(log_events: LogEvents) -> None:
    """A method that forgot its `async` is answered as an internal error, and logged."""

    class Synchronous(Scripted):
        def FetchStatus(self, request: Any, context: Any) -> Any:
            return file_server_pb2.FetchStatusResponse()

    async with serving(files=Synchronous()) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fetch_status(channel)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert log_events.named("call.failed")


async def test_unknown_method_is_answered_by_grpc() -> None:
    """A method that no service has is UNIMPLEMENTED."""
    counter = RequestCounter()
    async with serving(interceptors=[counter]) as (_, channel):
        raw: Any = channel
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw.unary_unary("/afs.v1.FileServer/Nonsense")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert counter.counts() == {}


@pytest.mark.parametrize("method", ["FetchStatus", "FetchData", "StoreData"])
async def test_garbage_request_is_the_callers_fault(method: str) -> None:
    """Bytes that are no message answer INVALID_ARGUMENT."""
    garbage = b"\xff\xff\xff"
    async with serving() as (_, channel):
        raw: Any = channel
        path = f"/afs.v1.FileServer/{method}"
        if method == "FetchStatus":
            answer = raw.unary_unary(path)(garbage)
        elif method == "FetchData":
            answer = raw.unary_stream(path)(garbage).read()
        else:
            answer = raw.stream_unary(path)(_messages(garbage))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await answer
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert afs_error_from_rpc(caught.value).code is AfsCode.EINVAL


async def test_early_refusal_reaches_a_client_that_is_sending() -> None:
    """A client in the middle of a stream hears the true reason, every time (grpc issue 36066)."""

    class Refusing(Scripted):
        async def StoreData(self, request_iterator: Any, context: Any) -> Any:
            await anext(request_iterator)
            raise AfsError(AfsCode.VDISKFULL, "full")

    async def requests() -> AsyncIterator[Any]:
        for _ in range(10):
            yield file_server_pb2.StoreDataRequest(data=bytes(MIB))

    codes = []
    async with serving(files=Refusing()) as (_, channel):
        stub = file_server_pb2_grpc.FileServerStub(channel)
        for _ in range(25):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.StoreData(requests())
            codes.append(afs_error_from_rpc(caught.value).code)
    assert set(codes) == {AfsCode.VDISKFULL}


async def test_client_that_goes_on_for_ever_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    """I7: a client that goes on sending after its call has failed is not heard for ever."""
    monkeypatch.setattr("afs.runtime.interceptors.HEAR_OUT_S", 0.1)

    async def requests() -> AsyncIterator[Any]:
        while True:
            yield file_server_pb2.StoreDataRequest()

    class Refusing(Scripted):
        async def StoreData(self, request_iterator: Any, context: Any) -> Any:
            raise AfsError(AfsCode.VDISKFULL, "full")

    async with serving(files=Refusing()) as (_, channel), asyncio.timeout(20):
        stub = file_server_pb2_grpc.FileServerStub(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.StoreData(requests())


async def test_silent_client_is_answered() -> None:
    """A client that holds its stream open without sending hears of the failure all the same."""

    async def requests() -> AsyncIterator[Any]:
        yield file_server_pb2.StoreDataRequest()
        await asyncio.Event().wait()

    class Refusing(Scripted):
        async def StoreData(self, request_iterator: Any, context: Any) -> Any:
            raise AfsError(AfsCode.VDISKFULL, "full")

    async with serving(files=Refusing()) as (_, channel), asyncio.timeout(20):
        stub = file_server_pb2_grpc.FileServerStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.StoreData(requests())
    assert afs_error_from_rpc(caught.value).code is AfsCode.VDISKFULL


class _Refusing(grpc.aio.ServerInterceptor):
    """An inner interceptor that lets nobody in."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        raise AfsError(AfsCode.RX_CALL_DEAD, "not you")


@ALL_KINDS
async def test_inner_interceptor_may_refuse_by_raising(call: Caller) -> None:
    """An AfsError of an inner interceptor is answered like one of the servicer."""
    async with serving(interceptors=[_Refusing()]) as (_, channel):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel)
    assert afs_error_from_rpc(caught.value).code is AfsCode.RX_CALL_DEAD
    assert caught.value.details() == "not you"


async def test_calls_are_counted_by_method() -> None:
    """Every begun call counts for its method, failed ones too."""
    counter = RequestCounter()
    files = Scripted(_raiser(AfsError(AfsCode.VIO, "no")))
    async with serving(files=files, interceptors=[counter]) as (_, channel):
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError):
                await fetch_status(channel)
        with pytest.raises(grpc.aio.AioRpcError):
            await fetch_data(channel)
    assert counter.counts() == {
        "/afs.v1.FileServer/FetchStatus": 3,
        "/afs.v1.FileServer/FetchData": 1,
    }


async def test_hanging_up_is_no_incident(log_events: LogEvents) -> None:
    """A client that hangs up cancels the servicer, which cleans up; that is no error."""
    channel_servicer = Channel()
    async with serving(channel=channel_servicer) as (_, channel):
        stub = callback_channel_pb2_grpc.CallBackChannelStub(channel)
        call = stub.Attach(_messages(callback_channel_pb2.AttachRequest()))
        await call.read()
        call.cancel()
        async with asyncio.timeout(10):
            await channel_servicer.gone.wait()
    assert channel_servicer.ended == [asyncio.CancelledError]
    assert not log_events.named("call.failed")


async def test_error_after_hanging_up_is_no_incident(log_events: LogEvents) -> None:
    """A servicer that trips over a call whose client has gone is not reported as our bug."""
    tripped = asyncio.Event()

    class Tripping(Scripted):
        async def GetTime(self, request: Any, context: Any) -> Any:
            self.entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                tripped.set()
                raise ConnectionError("the peer is gone") from None

    files = Tripping()
    async with serving(files=files) as (_, channel):
        stub = file_server_pb2_grpc.FileServerStub(channel)
        call = stub.GetTime(file_server_pb2.GetTimeRequest())
        async with asyncio.timeout(10):
            await files.entered.wait()
            call.cancel()
            await tripped.wait()
    assert not log_events.named("call.failed")
