"""Peers that stopped answering without hanging up: frozen processes, or so it looks."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from afs.errors import AfsCode
from afs.limits import CHANNEL_LEASE_S, KEEPALIVE_TIME_S, KEEPALIVE_TIMEOUT_S
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.v1 import callback_channel_pb2_grpc
from tests.runtime.services import Channel, serving

pytestmark = pytest.mark.blocking_ok

DEADLINE_S = 30.0
# What we set from KEEPALIVE_TIME_S and KEEPALIVE_TIMEOUT_S, so short that a test can wait.
QUICK = [
    ("grpc.keepalive_time_ms", 200),
    ("grpc.keepalive_timeout_ms", 200),
    ("grpc.http2.ping_timeout_ms", 200),
]
REPOSITORY = Path(__file__).parents[2]


@asynccontextmanager
async def _process(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process that does not outlive the test; its first line says that it is ready."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            assert await process.stdout.readline()
        yield process
    finally:
        process.kill()
        await process.communicate()


_SERVER = """
import asyncio, sys
from tests.runtime.services import serving

async def main():
    async with serving(addresses=[sys.argv[1]]):
        print("ready", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""

_CLIENT = """
import asyncio, sys
from afs.runtime.channel import open_channel
from afs.v1 import callback_channel_pb2_grpc

async def main():
    async with open_channel(sys.argv[1]) as channel:
        call = callback_channel_pb2_grpc.CallBackChannelStub(channel).Attach()
        await call.read()
        print("ready", flush=True)
        await call.read()

asyncio.run(main())
"""


async def test_frozen_server_is_noticed(tmp_path: Path) -> None:
    """A stream to a server that stands still ends as RX_CALL_DEAD, though nothing comes from it."""
    address = f"unix:{tmp_path}/s"
    async with (
        _process("-c", _SERVER, address) as server,
        open_channel(address, options=QUICK) as channel,
    ):
        call = callback_channel_pb2_grpc.CallBackChannelStub(channel).Attach()
        await call.read()
        server.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
    assert afs_error_from_rpc(caught.value).code is AfsCode.RX_CALL_DEAD


async def test_frozen_client_is_noticed(tmp_path: Path) -> None:
    """The stream of a client that stands still is cancelled in the servicer, which can clean up."""
    address = f"unix:{tmp_path}/s"
    attached = Channel()
    async with (
        serving(channel=attached, addresses=[address], options=QUICK),
        _process("-c", _CLIENT, address) as client,
    ):
        client.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(DEADLINE_S):
            await attached.gone.wait()
    assert attached.ended == [asyncio.CancelledError]


async def test_frequent_pings_are_not_held_against_a_client(tmp_path: Path) -> None:
    """A client that pings as often as grpc can, once a second, keeps its idle stream."""
    address = f"unix:{tmp_path}/s"
    async with serving(addresses=[address]), open_channel(address, options=QUICK) as channel:
        call = callback_channel_pb2_grpc.CallBackChannelStub(channel).Attach()
        await call.read()
        # By default grpc hangs up on the third ping, after 3 s.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4.5):
                await call.read()


def test_dead_connection_is_replaced_before_the_lease_ran_out() -> None:
    """I8: what keepalive takes to notice a dead peer is less than the channel lease."""
    assert KEEPALIVE_TIME_S + KEEPALIVE_TIMEOUT_S < CHANNEL_LEASE_S
