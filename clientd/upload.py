"""Sends a stream of messages and gets the answer, also one that comes before the end of the stream.

grpc.aio loses the server's status when the server refuses a stream early and the next write fails
for that: the failed write sets the status "Internal error from Core", before the true one (which
then replaces it) or after it (then the true one is lost). Both were met here, the latter in one
refusal of a hundred. A callback of the call sees the status that was set first, so one of the two
is the true one. Source: grpc/grpc issue 36066, open in grpcio 1.85.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final

import grpc
import grpc.aio

MADE_UP_DETAILS: Final = "Internal error from Core"


class Upload:
    """One call that sends a stream.

    Args:
        call: as the stub's method returned it, without a request iterator.
        timeout_s: how long the peer may do nothing while we wait for it.
    """

    def __init__(self, call: Any, timeout_s: float) -> None:
        self._call = call
        self._timeout_s = timeout_s
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._done)

    async def send(self, messages: Callable[[], AsyncGenerator[Any, None]]) -> Any:
        """Writes the messages and waits for the answer; a refusal ends the writing early.

        Raises:
            grpc.aio.AioRpcError: what the server answered.
            TimeoutError: the peer did nothing for `timeout_s`.
        """
        try:
            async with aclosing(messages()) as to_send:
                async for message in to_send:
                    async with asyncio.timeout(self._timeout_s):
                        await self._call.write(message)
            async with asyncio.timeout(self._timeout_s):
                await self._call.done_writing()
        except (asyncio.InvalidStateError, grpc.aio.AioRpcError):
            # The call is over already: its answer, below, says why.
            pass
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._call
        except grpc.aio.AioRpcError as error:
            if is_made_up(error) and self._first is not None:
                raise self._first from None
            raise

    def _done(self, call: Any) -> None:
        self._first = grpc.aio.AioRpcError(
            _at_once(call.code()),
            _at_once(call.initial_metadata()),
            _at_once(call.trailing_metadata()),
            _at_once(call.details()),
        )


def is_made_up(error: grpc.aio.AioRpcError) -> bool:
    """True for the status that grpc.aio makes up; what the server said is not known."""
    return error.code() is grpc.StatusCode.INTERNAL and error.details() == MADE_UP_DETAILS


def _at_once(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that has nothing to wait for: the call is done."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    coroutine.close()
    raise AssertionError("the call is done, so its status is known")
