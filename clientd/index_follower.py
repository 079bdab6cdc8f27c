"""Has the index on disk follow the books of the disk cache, a moment behind and in batches."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

import structlog

from clientd.core.piece import PieceKey, Slot, StoredPiece
from clientd.core.piece_table import PieceTable
from clientd.disk_index import DiskIndex
from clientd.journal import Journal

# The index follows this long behind.
INDEX_DELAY_S: Final = 0.5

_log = structlog.get_logger(__name__)


class IndexFollower:
    """Writes the table's changes to the index. Used in the event loop only.

    Args:
        index: where to.
        table: whose changes.
        journal: counts failures.

    Attributes:
        size_bytes: what the index takes on disk.
    """

    def __init__(self, index: DiskIndex, table: PieceTable, journal: Journal) -> None:
        self._index = index
        self._table = table
        self._journal = journal
        # A thread of its own: sqlite3 connections take turns anyway, and file work is not held up.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cache-index")
        self._timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._uses = index.last_use()
        self.size_bytes = index.size_bytes()

    def poke(self) -> None:
        """There are changes; they are written soon."""
        busy = self._writing is not None and not self._writing.done()
        if self._table.has_changes and self._timer is None and not busy:
            self._timer = asyncio.get_running_loop().call_later(INDEX_DELAY_S, self._begin)

    async def note_incarnation(self, volume: int, incarnation: str) -> None:
        """Writes which incarnation of the volume the pieces are of, ahead of any further piece."""
        with suppress(sqlite3.Error):
            await asyncio.get_running_loop().run_in_executor(
                self._thread, self._index.note_incarnation, volume, incarnation
            )

    async def close(self) -> None:
        """Writes what is left and lets go of the index."""
        if self._timer is not None:
            self._timer.cancel()
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._write()
        await asyncio.to_thread(self._let_go)

    def _let_go(self) -> None:
        self._thread.shutdown()
        self._index.close()

    def _begin(self) -> None:
        self._timer = None
        self._writing = asyncio.create_task(self._write())
        self._writing.add_done_callback(lambda _: self.poke())

    async def _write(self) -> None:
        added, removed = self._table.take_changes()
        try:
            self.size_bytes = await asyncio.get_running_loop().run_in_executor(
                self._thread, self._update, added, removed
            )
        except (sqlite3.Error, OSError) as error:
            # The disk is full, perhaps: tried again with the next changes.
            self._table.note_changed([key.slot for key, _ in added])
            self._table.note_changed(removed)
            self._journal.count("cache_write_failures")
            _log.warning("cache_index.write_failed", error=str(error))

    def _update(self, added: list[tuple[PieceKey, StoredPiece]], removed: list[Slot]) -> int:
        """In the thread: updates; returns what the index takes on disk."""
        first_use = self._uses + 1
        self._uses += len(added)
        puts = [(key, piece, first_use + at) for at, (key, piece) in enumerate(added)]
        self._index.update(puts, removed)
        return self._index.size_bytes()
