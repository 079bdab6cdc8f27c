"""Client channels: what a failed call means, and coming back after an outage."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc.aio import AioRpcError, Metadata

from afs.errors import ABORT_CODE_TRAILER, GRPC_STATUS, AfsCode
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.v1 import file_server_pb2, file_server_pb2_grpc
from tests.runtime.services import serving

pytestmark = pytest.mark.blocking_ok


def _error(status: grpc.StatusCode, *trailer: tuple[str, str], detail: str = "why") -> AioRpcError:
    return AioRpcError(status, Metadata(), Metadata(*trailer), detail)


@pytest.mark.parametrize("code", list(AfsCode))
def test_code_in_the_trailer_counts(code: AfsCode) -> None:
    """Every AFS code comes back as itself, with its detail."""
    error = afs_error_from_rpc(_error(GRPC_STATUS[code], (ABORT_CODE_TRAILER, str(int(code)))))
    assert (error.code, error.detail) == (code, "why")


@pytest.mark.parametrize("status", [s for s in grpc.StatusCode if s is not grpc.StatusCode.OK])
def test_every_status_has_a_meaning(status: grpc.StatusCode) -> None:
    """A status without an AFS code becomes a code of its kind; our own bugs are not retried."""
    error = afs_error_from_rpc(_error(status))
    if status in (
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.FAILED_PRECONDITION,
    ):
        assert error.code is AfsCode.VNOSERVICE
    elif status in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        assert error.code is AfsCode.RX_CALL_DEAD
    else:
        assert error.grpc_status is status


@pytest.mark.parametrize("text", ["9999", "x", ""])
def test_unknown_code_falls_back_to_the_status(text: str) -> None:
    """A code of a newer server, or garbage, is taken by its gRPC status."""
    error = afs_error_from_rpc(
        _error(grpc.StatusCode.NOT_FOUND, ("other", "1"), (ABORT_CODE_TRAILER, text), detail="")
    )
    assert error.code is AfsCode.ENOENT
    assert error.detail == "NOT_FOUND"


async def _get(channel: grpc.aio.Channel) -> None:
    stub = file_server_pb2_grpc.FileServerStub(channel)
    await stub.FetchStatus(file_server_pb2.FetchStatusRequest(), timeout=5)


async def test_channel_comes_back_by_itself(tmp_path: Path) -> None:
    """A call to an absent server fails at once; when the server is there again calls work again."""
    address = f"unix:{tmp_path}/s"
    async with open_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _get(channel)
        assert afs_error_from_rpc(caught.value).code is AfsCode.RX_CALL_DEAD
        for _ in range(2):
            async with serving(addresses=[address]), asyncio.timeout(30):
                while not await _is_answered(channel):
                    pass


async def _is_answered(channel: grpc.aio.Channel) -> bool:
    try:
        await _get(channel)
    except grpc.aio.AioRpcError:
        # The channel waits out its backoff; so do we.
        await channel.wait_for_state_change(channel.get_state(try_to_connect=True))
        return False
    return True


async def test_options_override_ours(tmp_path: Path) -> None:
    """An option given to a channel takes the place of our own."""
    address = f"unix:{tmp_path}/s"
    async with (
        serving(addresses=[address]),
        open_channel(address, options=[("grpc.max_send_message_length", 10)]) as channel,
    ):
        stub = file_server_pb2_grpc.FileServerStub(channel)
        request = file_server_pb2.LookupRequest(name="n" * 100)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Lookup(request)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
