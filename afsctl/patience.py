"""Tries again while a volume or its server is away for a moment: restarted, cloned, given back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import grpc
import grpc.aio

from afs.limits import RETRY_FIRST_S, RETRY_MAX_S, RETRY_TOTAL_S

T = TypeVar("T")

# grpc.aio's words when a server answers a stream of requests before its end and the answer is lost
# under the failure of the next write. Made again, the call nearly always tells the true reason.
# Source: grpc/grpc issue 36066, open in grpcio 1.85.
_LOST_ANSWER: Final = "Internal error from Core"


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The answer to a call, made again for RETRY_TOTAL_S while it ends with UNAVAILABLE.

    A call that was answered UNAVAILABLE may have been carried out all the same, so what is called
    must be able to meet its own traces.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + RETRY_TOTAL_S
    pause_s = RETRY_FIRST_S
    while True:
        try:
            return await call()
        except grpc.aio.AioRpcError as error:
            if not _may_pass(error) or loop.time() + pause_s > deadline:
                raise
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, RETRY_MAX_S)


def _may_pass(error: grpc.aio.AioRpcError) -> bool:
    if error.code() is grpc.StatusCode.INTERNAL:
        return error.details() == _LOST_ANSWER
    return error.code() is grpc.StatusCode.UNAVAILABLE
