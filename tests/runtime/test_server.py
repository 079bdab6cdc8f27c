"""A daemon's server over real sockets: addresses, health, reflection, drain."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_MESSAGE_BYTES
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.runtime.listening import claim_unix_socket
from afs.runtime.server import DaemonServer
from afs.v1 import (
    callback_channel_pb2,
    callback_channel_pb2_grpc,
    file_server_pb2,
    file_server_pb2_grpc,
)
from tests.runtime.services import CALLBACK_CHANNEL, FILE_SERVER, Channel, Scripted, serving

# Making ready to listen blocks for a moment, before the daemon serves anybody.
pytestmark = pytest.mark.blocking_ok

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def _status(channel: grpc.aio.Channel, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def _refusal(address: str) -> AfsError:
    """The error of listening on an address."""
    server = DaemonServer()
    with pytest.raises(AfsError) as caught:
        await server.listen([address])
    assert "\n" not in caught.value.detail
    return caught.value


async def test_port_zero_becomes_the_real_one() -> None:
    """Listening on port 0 tells the port that was chosen, and a client reaches it there."""
    server = DaemonServer()
    (address,) = await server.listen(["127.0.0.1:0"])
    await server.start()
    assert not address.endswith(":0")
    async with open_channel(address) as channel:
        assert await _status(channel) == SERVING
    await server.stop(0)


async def test_unix_socket_is_private_and_goes_with_the_server(tmp_path: Path) -> None:
    """A unix socket has mode 0600, its directory is made, and a stop removes it."""
    path = tmp_path / "run" / "fssync.sock"
    async with serving(addresses=[f"unix:{path}"]) as (_, channel):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await _status(channel) == SERVING
    assert not path.exists()


async def test_taken_port_is_refused() -> None:
    """A second server on a taken port is refused with one line that names it."""
    server = DaemonServer()
    (address,) = await server.listen(["127.0.0.1:0"])
    await server.start()
    error = await _refusal(address)
    assert error.code is AfsCode.VBUSY
    assert address in error.detail
    await server.stop(0)


async def test_port_taken_by_a_stranger_is_refused() -> None:
    """A port that a program without grpc listens on is refused, by every name of the host."""
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = stranger.getsockname()[1]
        assert (await _refusal(f"127.0.0.1:{port}")).code is AfsCode.VBUSY
        assert (await _refusal(f"localhost:{port}")).code is AfsCode.VBUSY


async def test_live_unix_socket_is_refused(tmp_path: Path) -> None:
    """A unix socket somebody listens on is refused, ours and a stranger's, and goes on working."""
    path = tmp_path / "ours.sock"
    async with serving(addresses=[f"unix:{path}"]) as (_, channel):
        assert (await _refusal(f"unix:{path}")).code is AfsCode.VBUSY
        assert await _status(channel) == SERVING
    strange = tmp_path / "strange.sock"
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(strange))
        stranger.listen()
        assert (await _refusal(f"unix:{strange}")).code is AfsCode.VBUSY


async def test_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    """A socket that a killed daemon left behind does not hinder the next one."""
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(addresses=[f"unix:{path}"]) as (_, channel):
        assert await _status(channel) == SERVING


async def test_file_in_place_of_a_socket_is_never_removed(tmp_path: Path) -> None:
    """A path that holds something else than a socket is refused and left alone."""
    path = tmp_path / "precious"
    path.write_text("data")
    assert (await _refusal(f"unix:{path}")).code is AfsCode.EINVAL
    assert path.read_text() == "data"


def test_only_one_of_two_claims_a_path(tmp_path: Path) -> None:
    """Of two daemons that start at once on a stale socket one wins; the other may come later."""
    first = claim_unix_socket(tmp_path / "s")
    with pytest.raises(AfsError):
        claim_unix_socket(tmp_path / "s")
    first.release()
    claim_unix_socket(tmp_path / "s").release()


@pytest.mark.parametrize(
    "address", ["", "7000", "host:", "host:65536", "host:-1", "host:x", ":7000", "host:٧٠", "a b:1"]
)
async def test_address_that_is_none(address: str) -> None:
    """What is no address is named in the refusal."""
    error = await _refusal(address)
    assert error.code is AfsCode.EINVAL
    assert address in error.detail


async def test_address_of_another_machine_is_refused() -> None:
    """An address that this machine does not have is refused by the system's own words."""
    assert (await _refusal("192.0.2.1:7000")).code is AfsCode.VNOSERVICE


async def test_unix_path_too_long(tmp_path: Path) -> None:
    """A path that no socket address can hold is refused before grpc cuts it short."""
    assert (await _refusal(f"unix:{tmp_path}/{'x' * 120}")).code is AfsCode.EINVAL


async def test_ipv6_address() -> None:
    """An IPv6 address is written with brackets, both ways."""
    server = DaemonServer()
    try:
        (address,) = await server.listen(["[::1]:0"])
    except AfsError as error:
        pytest.skip(f"no IPv6 loopback here: {error}")
    assert address.startswith("[::1]:")
    await server.start()
    async with open_channel(address) as channel:
        assert await _status(channel) == SERVING
    await server.stop(0)


async def test_health_by_service() -> None:
    """Health answers for the whole and for each service, and as the daemon sets it."""
    async with serving() as (server, channel):
        assert await _status(channel) == SERVING
        assert await _status(channel, FILE_SERVER) == SERVING
        await server.set_serving(CALLBACK_CHANNEL, serving=False)
        assert await _status(channel, CALLBACK_CHANNEL) == NOT_SERVING
        assert await _status(channel, FILE_SERVER) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _status(channel, "afs.v1.Nonsense")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def _one(message: Any) -> AsyncIterator[Any]:
    yield message


async def test_reflection_names_and_describes_the_services() -> None:
    """Reflection lists the services and has the file that defines one."""
    async with serving() as (_, channel):
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest
        (listed,) = [a async for a in stub.ServerReflectionInfo(_one(request(list_services="")))]
        names = {service.name for service in listed.list_services_response.service}
        assert names >= {FILE_SERVER, CALLBACK_CHANNEL, "grpc.health.v1.Health"}
        (found,) = [
            a
            async for a in stub.ServerReflectionInfo(
                _one(request(file_containing_symbol=FILE_SERVER))
            )
        ]
        assert found.file_descriptor_response.file_descriptor_proto


async def test_reflection_v1_answers_as_v1alpha_does() -> None:
    """Tools that speak the newer name of the same protocol are answered too."""
    async with serving() as (_, channel):
        call = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = [answer async for answer in call(_one(request))]
        assert FILE_SERVER in {service.name for service in listed.list_services_response.service}


async def test_message_beyond_the_limit_is_refused() -> None:
    """A request larger than MAX_MESSAGE_BYTES is RESOURCE_EXHAUSTED; the server lives on."""
    async with serving() as (_, channel):
        raw: Any = channel
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw.unary_unary("/afs.v1.FileServer/FetchStatus")(b"x" * (MAX_MESSAGE_BYTES + 1))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await _status(channel) == SERVING


async def test_drain_lets_running_calls_finish_and_refuses_new_ones() -> None:
    """While a server drains a running call is still answered, a new one is not."""
    files = Scripted()
    async with serving(files=files) as (server, channel):
        stub = file_server_pb2_grpc.FileServerStub(channel)
        running = asyncio.ensure_future(stub.GetTime(file_server_pb2.GetTimeRequest()))
        await files.entered.wait()
        stopping = asyncio.ensure_future(server.stop(30))
        async with asyncio.timeout(20):
            # The stop is a task of its own: some calls may still come before it.
            while await _is_answered(stub):
                pass
        assert not running.done()
        files.release.set()
        assert await running is not None
        await stopping


async def _is_answered(stub: Any) -> bool:
    try:
        await stub.FetchStatus(file_server_pb2.FetchStatusRequest(), timeout=1)
    except grpc.aio.AioRpcError as error:
        return error.code() not in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
        )
    return True


async def test_drain_does_not_wait_for_endless_streams() -> None:
    """A callback channel is ended at once with VRESTARTING, its servicer having cleaned up."""
    attached = Channel()
    async with serving(channel=attached) as (server, channel):
        stub = callback_channel_pb2_grpc.CallBackChannelStub(channel)
        call = stub.Attach()
        await call.read()
        async with asyncio.timeout(20):
            await server.stop(60)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert afs_error_from_rpc(caught.value).code is AfsCode.VRESTARTING
        assert attached.ended == [asyncio.CancelledError]


async def test_drain_ends_streams_that_are_busy_sending() -> None:
    """Streams that send all the time are ended too, wherever in a response the drain finds them."""

    class Chatty(Channel):
        async def Attach(self, request_iterator: Any, context: Any) -> AsyncIterator[Any]:
            while True:
                yield callback_channel_pb2.AttachResponse()
                await asyncio.sleep(0)

    async def read_to_the_end(channel: grpc.aio.Channel, begun: asyncio.Semaphore) -> AfsCode:
        call = callback_channel_pb2_grpc.CallBackChannelStub(channel).Attach()
        try:
            while True:
                await call.read()
                begun.release()
        except grpc.aio.AioRpcError as error:
            return afs_error_from_rpc(error).code

    streams = 30
    begun = asyncio.Semaphore(0)
    async with serving(channel=Chatty()) as (server, channel):
        readers = [asyncio.ensure_future(read_to_the_end(channel, begun)) for _ in range(streams)]
        for _ in range(streams * 3):
            await begun.acquire()
        async with asyncio.timeout(20):
            await server.stop(60)
        # A connection that closes on the last response may swallow the status behind it.
        codes = {await reader for reader in readers}
        assert codes <= {AfsCode.VRESTARTING, AfsCode.RX_CALL_DEAD}


async def test_watcher_of_health_sees_the_drain() -> None:
    """Whoever watches the health learns of the drain at once: NOT_SERVING, or VRESTARTING."""
    async with serving() as (server, channel):
        call = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await call.read()).status == SERVING
        async with asyncio.timeout(20):
            await server.stop(60)
        try:
            status = (await call.read()).status
        except grpc.aio.AioRpcError as error:
            status = NOT_SERVING if error.code() is grpc.StatusCode.UNAVAILABLE else SERVING
    assert status == NOT_SERVING


async def test_call_that_outlasts_the_grace_is_cancelled() -> None:
    """A call that does not end in time does not keep the server from stopping."""
    files = Scripted()
    async with serving(files=files) as (server, channel):
        stub = file_server_pb2_grpc.FileServerStub(channel)
        running = asyncio.ensure_future(stub.GetTime(file_server_pb2.GetTimeRequest()))
        await files.entered.wait()
        await server.stop(0.05)
        with pytest.raises(grpc.aio.AioRpcError):
            await running
