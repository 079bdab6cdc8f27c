"""When an open volume's small data are moved to packs, and out of them again (`packs`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from afs.limits import MIB
from afs.volume.chunk_store import ChunkStore
from afs.volume.packed_rows import PACK_BYTES
from afs.volume.packs import (
    PACKS_AT_ONCE,
    build_packs,
    bytes_to_pack,
    is_to_be_packed,
    is_underused,
    move_to_packs,
    take_back,
)

# With more to pack than this, changes wait for it: else those who store without a pause, so that
# the volume is never idle, would fill its database after all.
_PRESSING_BYTES: Final = PACKS_AT_ONCE * PACK_BYTES
# Free pages of a database that are worth writing it anew before it is copied, and only if they are
# more than half of it.
_FREE_BYTES_MAX: Final = 8 * MIB


class Packing:
    """Packs small data of one open volume; used under its write lock.

    Args:
        writer: the volume's writing connection.
        chunks: the group's chunks.
        owner: the stem of the database.
        to_pack: bytes of small data in the database that are to be packed.
        transaction: runs a function in a transaction that is durable when it returns.
        forgotten: told of packs that were linked, and to which nothing refers after all.
    """

    def __init__(
        self,
        writer: sqlite3.Connection,
        chunks: ChunkStore,
        owner: str,
        to_pack: int,
        transaction: Callable[[Callable[[], object]], None],
        forgotten: Callable[[Iterable[bytes]], None],
    ) -> None:
        self._writer = writer
        self._chunks = chunks
        self._owner = owner
        self._transaction = transaction
        self._forgotten = forgotten
        # At most so many bytes are to be packed: what is replaced is not counted off.
        self._bytes = to_pack
        # Packs of which something is lost, so that not all of it can be taken back.
        self._damaged: set[bytes] = set()

    def note(self, data: Iterable[bytes | None]) -> None:
        """Takes note of small data that were committed; packs some if there are too many."""
        self._bytes += sum(len(each) for each in data if each and is_to_be_packed(each))
        if self._bytes >= _PRESSING_BYTES:
            self._pack()

    def step(self, garbage: Sequence[bytes]) -> bool:
        """Packs a little of what is to be packed; whether anything was done.

        Args:
            garbage: chunks and packs that files let go of.
        """
        for digest in garbage:
            if digest not in self._damaged and is_underused(self._writer, self._chunks, digest):
                self._take_back(digest)
                return True
        return self._bytes >= PACK_BYTES and self._pack()

    def pack_for_copy(self) -> bool:
        """Packs what is far too much to be copied: an older laterfs may have written it.

        True if the database is mostly free then, so that it is worth being written anew.
        """
        while self._bytes >= _PRESSING_BYTES and self._pack():
            pass
        pages, free, page_bytes = (
            self._writer.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return bool(2 * free > pages and free * page_bytes > _FREE_BYTES_MAX)

    def _pack(self) -> bool:
        staging = self._chunks.open_staging(self._owner)
        try:
            built = build_packs(self._writer, staging.put, PACKS_AT_ONCE)
            if built:
                staging.make_durable()
                with self._chunks.lock(exclusive=False):
                    staging.ensure_linked()
                    self._transaction(lambda: move_to_packs(self._writer, built))
        except BaseException:
            self._forgotten(staging.forget())
            raise
        staging.let_go()
        self._bytes = bytes_to_pack(self._writer)
        return bool(built)

    def _take_back(self, pack: bytes) -> None:
        def take() -> None:
            if not take_back(self._writer, self._chunks, pack):
                self._damaged.add(pack)

        self._transaction(take)
        self._bytes = bytes_to_pack(self._writer)
