"""Takes a dump in from its client: piece by piece into a queue, and politely when it is not wanted.

A client that is still sending when it is answered can lose the answer (grpc issue 36066: its next
write fails with "Internal error from Core", and the status is gone). So what comes after the
operation has failed is read and thrown away for a while, and the client hears what was wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.v1 import vol_server_pb2
from volserverd.piece_queue import PieceQueue

# A client that sent nothing for this long is not in the middle of a write.
_QUIET_S: Final = 0.25
# In all; a client that goes on and on is answered all the same.
_PATIENCE_S: Final = 10.0


class DumpIntake:
    """One client's dump on its way into a queue.

    Args:
        requests: what the client sends.
        pieces: where it goes.
        broken: called with the reason if the client went away before it had sent all.
    """

    def __init__(
        self,
        requests: AsyncIterator[vol_server_pb2.RestoreRequest],
        pieces: PieceQueue,
        broken: Callable[[AfsError], None],
    ) -> None:
        self._requests = requests
        self._pieces = pieces
        self._broken = broken
        self._wanted = True
        self._arrived = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self, first: bytes) -> None:
        """Begins to take in, with what came along with the opening."""
        self._task = asyncio.create_task(self._run(first))

    async def _run(self, first: bytes) -> None:
        try:
            await self._take(first)
            async for message in self._requests:
                await self._take(message.data)
        except AfsError as error:
            # What the client sent was no message.
            self._broken(error)
        except Exception:
            # grpc's many ways of saying so.
            self._broken(AfsError(AfsCode.RX_CALL_DEAD, "the client hung up"))
        else:
            await self._pieces.end()

    async def _take(self, piece: bytes) -> None:
        self._arrived.set()
        if not (self._wanted and piece):
            return
        try:
            await self._pieces.put(piece)
        except AfsError:
            # The operation has failed; its own error is the client's answer.
            self._wanted = False

    async def quiet(self) -> None:
        """Returns when the client is not in the middle of sending, or after `_PATIENCE_S`."""
        assert self._task is not None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not self._task.done():
                    self._arrived.clear()
                    async with asyncio.timeout(_QUIET_S):
                        await self._arrived.wait()
        except TimeoutError:
            return
