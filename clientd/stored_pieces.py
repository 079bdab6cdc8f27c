"""Keeps what was stored of a file in the cache: nothing of it is fetched again that was here."""

from __future__ import annotations

from typing import Final

from afs.errors import AfsError
from afs.limits import DATA_PIECE_BYTES
from afs.types import Vnode
from clientd.core.dirty_map import Kind, Part, Segment
from clientd.core.piece import PieceKey, StoredPiece
from clientd.core.stored_part import StoredPart
from clientd.disk_cache import DiskCache
from clientd.local_file import LocalFile
from clientd.pieces import Pieces

# Pieces that are put together of old and new bytes after one store: each takes 1 MiB of memory
# meanwhile. More are fetched again when they are wanted.
MAX_MERGED_PIECES: Final = 16


class StoredPieces:
    """Takes what was stored into the cache.

    Args:
        disk: where pieces are kept.
        pieces: what is at hand of files.
    """

    def __init__(self, disk: DiskCache, pieces: Pieces) -> None:
        self._disk = disk
        self._pieces = pieces

    async def take_in(
        self, file: LocalFile, part: Part, before: Vnode | None, after: Vnode
    ) -> None:
        """A part was stored, and is still dirty in `file`.

        Args:
            file: whose part.
            part: what was stored.
            before: the last that was known of the fileserver's file before.
            after: what it is now.
        """
        if before is not None and after.data_version != before.data_version + 1:
            # Somebody else changed it as well.
            before = None
        stored = StoredPart(part, None if before is None else before.length, after.length)
        # Of old bytes first, while they are here under their old DataVersion.
        whole: dict[int, bytes] = {}
        for number in stored.touched:
            if self._has_old_bytes(file, stored, number) and len(whole) < MAX_MERGED_PIECES:
                data = await self._put_together(file, stored, number, before)
                if data is not None:
                    whole[number] = data
        if before is not None:
            await self._disk.carry_over(
                file.fid, before.data_version, after.data_version, stored.is_same
            )
        await self._disk.keep_only(file.fid, after.data_version)
        for number in stored.touched:
            key = PieceKey(file.fid, after.data_version, number)
            if await self._adopt(file, stored, key):
                continue
            data = whole.pop(number, None)
            if data is None and not self._has_old_bytes(file, stored, number):
                data = await self._put_together(file, stored, number, None)
            if data is not None:
                self._pieces.keep(key, data)
                await self._disk.put_behind(key, data)

    async def _adopt(self, file: LocalFile, stored: StoredPart, key: PieceKey) -> bool:
        """Makes the file of a piece that was written as a whole the cache's."""
        start, end = stored.span(key.number)
        piece = file.pieces.file_of(key.number)
        if (
            piece is None
            or piece.length != end - start
            or stored.sent(key.number) != (start, end)
            or not file.map.covers(start, end)
            or not file.pieces.give_away(key.number)
        ):
            return False
        return await self._disk.adopt(key, piece.path, StoredPiece(piece.length, piece.digest))

    def _inner(self, file: LocalFile, stored: StoredPart, number: int) -> list[Segment]:
        base_length = 0 if stored.base_length is None else stored.base_length
        return list(file.map.segments(*stored.sent(number), base_length))

    def _has_old_bytes(self, file: LocalFile, stored: StoredPart, number: int) -> bool:
        """True if the piece is not made of what is dirty, and zeroes, alone."""
        around = stored.around(number)
        return around is None or any(
            segment.kind is Kind.BASE
            for segment in [*around[0], *self._inner(file, stored, number), *around[1]]
        )

    async def _put_together(
        self, file: LocalFile, stored: StoredPart, number: int, before: Vnode | None
    ) -> bytes | None:
        """The piece as the fileserver has it now; None if not all of it is at hand."""
        around = stored.around(number)
        if around is None or (before is not None and not self._pieces.is_here(before, number)):
            return None

        async def base(wanted: int) -> bytes:
            assert before is not None
            return await self._pieces.piece(file.volume, before, wanted)

        start, end = stored.sent(number)
        try:
            inner = await file.read(stored.base_length or 0, start, end - start, base)
            old = b""
            if any(segment.kind is Kind.BASE for segment in [*around[0], *around[1]]):
                old = await base(number)
        except AfsError:
            return None
        first = number * DATA_PIECE_BYTES
        head, tail = (
            b"".join(
                old[segment.start - first : segment.end - first]
                if segment.kind is Kind.BASE
                else bytes(segment.end - segment.start)
                for segment in segments
            )
            for segments in around
        )
        return head + inner + tail
