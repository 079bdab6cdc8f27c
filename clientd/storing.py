"""Stores what is dirty of a file, and keeps it in the cache under its new DataVersion.

Theory of operation
    What is dirty goes out in parts (`core.dirty_map`), each of them one StoreData: all of it is
    durable, or nothing. A part that carries bytes of the fileserver's own file along, to fill a
    hole, says which DataVersion they are of: if the file has another one by then, it is put
    together anew. Otherwise the last close wins, as in AFS: what others changed meanwhile stays as
    it is, except for the very bytes that are stored.

    A store whose answer was lost is repeated: the same bytes at the same place do no harm twice.

    After a store nothing is fetched again that is here (`stored_pieces`). Pieces that were written
    as a whole, or whose rest is at hand, enter the cache under the new DataVersion; the other
    pieces get it, if ours was the only change since the one that they are of.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES
from afs.types import SetStatus, Vnode
from afs.v1 import file_server_pb2 as pb
from afs.wire import fid_to_wire, set_status_to_wire
from clientd.core.cache import VnodeCache
from clientd.core.dirty_map import Part
from clientd.core.piece import piece_count
from clientd.core.promise import Ticket
from clientd.disk_cache import DiskCache
from clientd.early_store import EarlyStore
from clientd.fileserver_client import OUTCOME_UNKNOWN_S, AnswerLostError
from clientd.fileservers import FileServers
from clientd.journal import Journal
from clientd.local_file import LocalFile
from clientd.pieces import Pieces
from clientd.statuses import Statuses, callback_of
from clientd.stored_pieces import StoredPieces

# A file that others change faster than a store of it can be put together is given up on.
MAX_ATTEMPTS: Final = 8


# What is told of a file that is not there any more.
_GONE: Final = frozenset({AfsCode.VNOVNODE, AfsCode.EISDIR})


class ConflictError(Exception):
    """A file is not what a kept store was for; says what happened to it."""


class Storing:
    """Stores dirty files.

    Args:
        cache: takes in the outcomes.
        disk: keeps what was stored.
        servers: the time, and what may be trusted.
        statuses: tells files' statuses.
        pieces: what is at hand of files.
        journal: counts.
    """

    def __init__(
        self,
        *,
        cache: VnodeCache,
        disk: DiskCache,
        servers: FileServers,
        statuses: Statuses,
        pieces: Pieces,
        journal: Journal,
    ) -> None:
        self._cache = cache
        self._servers = servers
        self._statuses = statuses
        self._pieces = pieces
        self._disk = disk
        self._stored_pieces = StoredPieces(disk, pieces)
        self._journal = journal

    async def store(self, file: LocalFile) -> None:
        """Stores all that is dirty; called by who has the file's turn.

        Raises:
            AfsError: as StoreData; what is not stored is dirty still.
        """
        for attempt in range(MAX_ATTEMPTS):
            base = await self._base(file)
            length = base.length if base is not None else 0
            try:
                for part in file.map.parts(length, partial(self._is_here, base)):
                    expected = base.data_version if part.needs_base and base else None
                    await self._store_part(file, part, base, expected)
            except AfsError as error:
                if error.code is not AfsCode.EAGAIN or attempt + 1 == MAX_ATTEMPTS:
                    raise
                # The break that tells us is on its way.
                self._cache.distrust([file.fid])
            else:
                file.drop()
                return

    def begin(self, file: LocalFile, part: Part) -> EarlyStore:
        """Begins to store a part that is all of what is dirty, and grows at its end."""
        self._journal.count("store_data_calls")
        return EarlyStore(file, part.start, opening_of(file, part, None))

    async def store_kept(self, file: LocalFile, stored: Callable[[Vnode], Awaitable[None]]) -> None:
        """Stores what is dirty of a file that has a record, if the file is what it was then.

        Args:
            file: called by who has its turn.
            stored: called after each part with what the fileserver's file is then.

        Raises:
            ConflictError: it is not, or is gone.
            AfsError: as StoreData.
        """
        record = file.record
        assert record is not None
        expected = record.data_version
        try:
            for part in file.map.parts(record.base_length, lambda *_: False):
                after = await self._store_part(file, part, None, expected, record.incarnation)
                expected = after.data_version
                await stored(after)
        except AfsError as error:
            if error.code in _GONE:
                raise ConflictError(f"the file was removed: {error.detail}") from None
            if error.code is not AfsCode.EAGAIN:
                raise
            if not await self._is_there(file):
                raise ConflictError(f"the file was changed: {error.detail}") from None
            file.drop()

    async def _is_there(self, file: LocalFile) -> bool:
        """True if the fileserver's file has all that is dirty: it was stored, or is the same."""
        self._cache.distrust([file.fid])
        vnode = (await self._statuses.status(file.volume, file.fid)).vnode
        reach, is_cut = file.map.reach, file.map.cut is not None
        if vnode.length < reach or (is_cut and vnode.length > reach):
            return False
        for start, end in file.map.ranges():
            at = start
            while at < end:
                number = at // DATA_PIECE_BYTES
                first = number * DATA_PIECE_BYTES
                stop = min(end, first + DATA_PIECE_BYTES)
                theirs = await self._pieces.piece(file.volume, vnode, number)
                if theirs[at - first : stop - first] != await file.written(at, stop):
                    return False
                at = stop
        return True

    async def _base(self, file: LocalFile) -> Vnode | None:
        """The fileserver's file as far as that matters for what is to be sent."""
        entry = self._servers.trusted(file.fid)
        if entry is None and len(file.map.ranges()) <= 1:
            # One run goes as it is, whatever the file is like.
            entry = self._cache.peek(file.fid)
            return entry.status if entry is not None else None
        if entry is not None:
            return entry.status
        return (await self._statuses.status(file.volume, file.fid)).vnode

    def _is_here(self, base: Vnode | None, start: int, end: int) -> bool:
        first, last = start // DATA_PIECE_BYTES, piece_count(end)
        return base is not None and all(
            self._pieces.is_here(base, number) for number in range(first, last)
        )

    async def _store_part(
        self,
        file: LocalFile,
        part: Part,
        base: Vnode | None,
        expected: int | None,
        incarnation: str | None = None,
    ) -> Vnode:
        """Stores a part; the fileserver's file afterwards.

        Args:
            file: whose part.
            part: what to store.
            base: the fileserver's file, for what is not dirty of the part.
            expected: EAGAIN if the file has another DataVersion than this; None for any.
            incarnation: EAGAIN if the volume has another one than this; None for any.
        """
        self._journal.count("store_data_calls")
        sent = 0

        async def messages() -> AsyncGenerator[pb.StoreDataRequest, None]:
            nonlocal sent
            # Known by now, because the volume's fileserver is.
            if incarnation is not None and incarnation != self._disk.incarnation(file.fid.volume):
                raise AfsError(AfsCode.EAGAIN, f"volume {file.fid.volume} is another one")
            yield pb.StoreDataRequest(open=opening_of(file, part, file.mtime_ns, expected))
            at = part.start
            while at < part.end:
                end = min(part.end, (at // DATA_PIECE_BYTES + 1) * DATA_PIECE_BYTES)
                yield pb.StoreDataRequest(data=await self._bytes(file, base, at, end))
                sent += end - at
                at = end

        volume = file.volume
        try:
            response, ticket = await volume.store(
                lambda stub: stub.StoreData,
                messages,
                may_repeat=lambda: True,
                progress=lambda: sent,
            )
        except AfsError as error:
            if isinstance(error, AnswerLostError):
                self.distrust(file)
            raise
        except BaseException:
            self.distrust(file)
            raise
        return await self.stored(file, part, response, ticket)

    async def stored(
        self, file: LocalFile, part: Part, response: pb.StoreDataResponse, ticket: Ticket
    ) -> Vnode:
        """Takes in that the fileserver stored a part, and what the file is now."""
        entry = self._cache.peek(file.fid)
        before = entry.status if entry is not None else None
        after = file.volume.take_in_changed(response.status, callback_of(response), ticket)
        self._journal.count("bytes_stored", part.end - part.start)
        await self._stored_pieces.take_in(file, part, before, after)
        file.stored(part)
        return after

    async def set_mtime(self, file: LocalFile, mtime_ns: int) -> None:
        """Says when a file was written to that has just been stored.

        Raises:
            AfsError: as StoreStatus.
        """
        request = pb.StoreStatusRequest(
            fid=fid_to_wire(file.fid),
            set_status=set_status_to_wire(SetStatus(client_mtime_ns=mtime_ns)),
        )
        try:
            response, ticket = await file.volume.call(lambda stub: stub.StoreStatus, request)
        except AnswerLostError:
            self.distrust(file)
            raise
        file.volume.take_in_changed(response.status, callback_of(response), ticket)

    def distrust(self, file: LocalFile) -> None:
        """A store's outcome is not known."""
        self._cache.distrust([file.fid], self._servers.now() + OUTCOME_UNKNOWN_S)

    async def _bytes(self, file: LocalFile, base: Vnode | None, start: int, end: int) -> bytes:
        """Bytes of one piece as local programs see them."""

        async def base_piece(number: int) -> bytes:
            assert base is not None, "a part that needs no base has no bytes of it"
            return await self._pieces.piece(file.volume, base, number)

        return await file.read(
            base.length if base is not None else 0, start, end - start, base_piece
        )


def opening_of(
    file: LocalFile, part: Part, mtime_ns: int | None, expected: int | None = None
) -> pb.StoreDataOpen:
    """The first message of a part's StoreData."""
    return pb.StoreDataOpen(
        fid=fid_to_wire(file.fid),
        offset=part.start,
        truncate_to=part.truncate_to,
        set_status=set_status_to_wire(SetStatus(client_mtime_ns=mtime_ns)),
        expected_data_version=expected,
    )
