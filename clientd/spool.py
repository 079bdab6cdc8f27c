"""What a local program wrote so far, kept until the fileserver has it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from types import TracebackType
from typing import IO, Final, Self

from afs.limits import DATA_PIECE_BYTES, MIB
from clientd.disk_cache import DiskCache

# Kept in memory up to here, then on disk.
MEMORY_BYTES: Final = MIB


class Spool:
    """Bytes in order, to be read again from the start.

    Args:
        disk: in its directory lies the spool's file, nameless, and in its accounts that file's
        size.
    """

    def __init__(self, disk: DiskCache) -> None:
        self._disk = disk
        self._reserved = 0
        self._memory: list[bytes] = []
        self._file: IO[bytes] | None = None
        self.length = 0
        self.complete = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._give_up()

    @property
    def empty(self) -> bool:
        """True if nothing was added yet."""
        return self.length == 0

    async def add(self, data: bytes) -> None:
        """Adds bytes; where they cannot be kept, `complete` is False from now on."""
        self.length += len(data)
        if not self.complete:
            return
        if self._file is None and self.length <= MEMORY_BYTES:
            self._memory.append(data)
            return
        size = self.length - self._reserved
        if not await self._disk.reserve(size):
            self._give_up()
            return
        self._reserved += size
        try:
            await asyncio.to_thread(self._write, data)
        except OSError:
            self._give_up()

    async def replay(self) -> AsyncGenerator[bytes, None]:
        """Yields all that was added, in pieces of 1 MiB and a last one; only while `complete`."""
        assert self.complete
        if self._file is None:
            whole = b"".join(self._memory)
            for at in range(0, len(whole), DATA_PIECE_BYTES):
                yield whole[at : at + DATA_PIECE_BYTES]
            return
        at = 0
        while piece := await asyncio.to_thread(self._read, at):
            yield piece
            at += len(piece)

    def _write(self, data: bytes) -> None:
        """In a thread: appends to the file, which is made when memory is full."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._disk.folder)  # noqa: SIM115 - outlives this call
            for piece in self._memory:
                self._file.write(piece)
            self._memory.clear()
        self._file.seek(0, 2)
        self._file.write(data)
        self._file.flush()

    def _read(self, at: int) -> bytes:
        """In a thread: a piece of the file."""
        assert self._file is not None
        self._file.seek(at)
        return self._file.read(DATA_PIECE_BYTES)

    def _give_up(self) -> None:
        self.complete = False
        self._memory.clear()
        if self._file is not None:
            self._file.close()
            self._file = None
        self._disk.release(self._reserved)
        self._reserved = 0
