"""Reads a stream of requests to its end, and tells its end from its being broken off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from afs.runtime.interceptors import Context

T = TypeVar("T")


async def whole_stream(requests: AsyncIterator[T], context: Context) -> AsyncIterator[T]:
    """Yields the requests; returns only if the client said that these were all.

    When a client cancels its call, or dies, grpc.aio first ends the stream of requests as if the
    client had finished, and cancels the servicer some turns of the loop later (measured: one turn
    in nine cases of ten, several hundred in the others). A servicer that acts on the end of the
    stream would take half of a file for the whole. The initial metadata is sent in between: its
    completion comes out of gRPC's queue behind the news of the cancellation, so that this raises
    CancelledError if the stream was broken off.

    Args:
        requests: the servicer's request iterator.
        context: the servicer's context; its initial metadata has not been sent yet.
    """
    async for request in requests:
        yield request
    await context.send_initial_metadata(())
