"""A large file's store, begun while it is still being written.

Theory of operation
    A StoreData is all or nothing: the fileserver keeps what comes aside until the stream has ended.
    So the bytes of a file that is written from one end to the other can be on their way long before
    it is closed. The stream ends when the file is flushed, if what was sent is what is dirty then;
    else it is broken off, nothing of it has happened, and the file is stored as any other.

    That is so if all that is dirty is one run of bytes that only ever grew at its end. Whoever
    writes elsewhere, or truncates, has to `break_off` first. A stream that hears nothing new for
    IDLE_S is broken off too: it holds resources of the fileserver.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Final

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES, MIB
from afs.v1 import file_server_pb2 as pb
from clientd.core.dirty_map import Part
from clientd.core.promise import Ticket
from clientd.local_file import LocalFile

# A run that has grown so long is worth it.
LEAST_BYTES: Final = 4 * MIB
# A program that writes less often than this may go on for ever.
IDLE_S: Final = 5.0


class EarlyStore:
    """One StoreData that has begun.

    Args:
        file: whose run; it is dirty up to `length` at least.
        start: where the run begins.
        opening: the stream's first message.

    Attributes:
        is_broken_off: nothing comes of it.
    """

    def __init__(self, file: LocalFile, start: int, opening: pb.StoreDataOpen) -> None:
        self._file = file
        self._start = start
        self._opening = opening
        self._truncate_to = file.map.cut
        self._written = start
        self._end: int | None = None
        self._sent = 0
        self.is_broken_off = False
        self._grown = asyncio.Event()
        self._task = asyncio.create_task(self._store())

    def grow(self, end: int) -> None:
        """The run ends here now."""
        self._written = end
        if end // DATA_PIECE_BYTES > self._sent // DATA_PIECE_BYTES:
            self._grown.set()

    def follows(self, offset: int) -> bool:
        """True if bytes written there make the run grow at its end."""
        return offset == self._written

    async def finish(self) -> tuple[Part, pb.StoreDataResponse, Ticket] | None:
        """Ends the stream; the fileserver's answer, None if there is none.

        Then the fileserver may have taken it, or not; to store it again does no harm.
        """
        self._end = self._written
        self._grown.set()
        try:
            response, ticket = await asyncio.shield(self._task)
        except AfsError:
            return None
        return Part(self._start, self._end, self._truncate_to, needs_base=False), response, ticket

    def break_off(self) -> None:
        """Nothing of it happens: without its end the stream is nothing, and it is not read on."""
        self.is_broken_off = True
        self._task.cancel()
        self._task.add_done_callback(_look_at)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(IDLE_S):
                await self._grown.wait()
        except TimeoutError:
            # A code after which nobody tries again.
            text = f"nothing was written to {self._file.fid} for {IDLE_S:g} s"
            raise AfsError(AfsCode.EAGAIN, text) from None

    async def _store(self) -> tuple[pb.StoreDataResponse, Ticket]:
        return await self._file.volume.store(
            lambda stub: stub.StoreData,
            self._messages,
            may_repeat=lambda: True,
            progress=lambda: self._sent,
        )

    async def _messages(self) -> AsyncGenerator[pb.StoreDataRequest, None]:
        yield pb.StoreDataRequest(open=self._opening)
        at = self._start
        while True:
            end = (at // DATA_PIECE_BYTES + 1) * DATA_PIECE_BYTES
            if self._end is not None:
                end = min(end, self._end)
            if at == end:
                return
            if end > self._written:
                self._grown.clear()
                await self._wait()
                continue
            yield pb.StoreDataRequest(data=await self._file.written(at, end))
            at = end
            self._sent = max(self._sent, at)


def _look_at(task: asyncio.Task[Any]) -> None:
    """Nobody asks what a task that was broken off ended with."""
    if not task.cancelled():
        task.exception()
