"""Calls to other volservers, whose failures are told in AFS codes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import grpc.aio

from afs.errors import AfsCode, AfsError
from afs.limits import FSSYNC_TAKE_DEADLINE_S
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.v1 import vol_server_pb2_grpc, vol_transfer_pb2_grpc

# Seconds that a volserver may take to say what it has.
LOOK_DEADLINE_S: Final = 10.0
# To rename a copy, or delete one, it takes the volume from its fileserver.
RENAME_DEADLINE_S: Final = FSSYNC_TAKE_DEADLINE_S
REMOVE_DEADLINE_S: Final = 2 * FSSYNC_TAKE_DEADLINE_S


@asynccontextmanager
async def volserver_at(address: str) -> AsyncIterator[vol_server_pb2_grpc.VolServerAsyncStub]:
    """Another volserver's methods.

    Raises:
        AfsError: for a call in the block that failed, what that volserver answered; RX_CALL_DEAD
            if it did not; EINVAL if there is none at this address.
    """
    async with _channel_to(address) as channel:
        stub: vol_server_pb2_grpc.VolServerAsyncStub = vol_server_pb2_grpc.VolServerStub(channel)
        yield stub


@asynccontextmanager
async def transfers_at(address: str) -> AsyncIterator[vol_transfer_pb2_grpc.VolTransferAsyncStub]:
    """Another volserver's VolTransfer; as `volserver_at`."""
    async with _channel_to(address) as channel:
        stub: vol_transfer_pb2_grpc.VolTransferAsyncStub = vol_transfer_pb2_grpc.VolTransferStub(
            channel
        )
        yield stub


@asynccontextmanager
async def _channel_to(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(address) as channel:
        try:
            yield channel
        except grpc.aio.AioRpcError as rpc_error:
            error = afs_error_from_rpc(rpc_error)
            if error.code is AfsCode.RX_CALL_DEAD:
                text = f"volserver {address} does not answer ({rpc_error.code().name})"
                raise AfsError(error.code, text) from None
            if error.code is AfsCode.RXGEN_OPCODE:
                text = f"at {address} is no volserver of this version"
                raise AfsError(AfsCode.EINVAL, text) from None
            raise error from None
