"""Writes of local programs: on their way to the fileserver as they come, kept for another try.

Theory of operation
    The first message opens; then data streams through to StoreData, which makes all of it durable
    or nothing. What came is also kept in a spool, so that a store that was refused (volume busy,
    fileserver restarting) or whose answer was lost can be repeated: the same bytes at the same
    offset do no harm twice. The spool is memory at first, then a nameless file in the cache
    directory, which goes with the process; where the cache has no room for it, it is given up, and
    the store with it if it fails.

    When the store is answered, so is the writer; what was written is then in the cache if the
    write made up the whole file.

    A change whose outcome stays unknown is dealt with as in `changes`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES
from afs.types import SetStatus, Vnode, VnodeType
from afs.v1 import cache_manager_pb2
from afs.v1 import file_server_pb2 as pb
from afs.wire import check_length, fid_to_wire, set_status_from_wire, set_status_to_wire
from clientd.core.cache import VnodeCache
from clientd.core.piece import PieceKey
from clientd.disk_cache import DiskCache
from clientd.fileserver_client import OUTCOME_UNKNOWN_S, AnswerLostError
from clientd.fileservers import FileServers
from clientd.journal import Journal
from clientd.path_walk import Absent, CellRoot, PathWalk, Place
from clientd.spool import Spool
from clientd.statuses import Statuses, callback_of
from clientd.vnode_changes import VnodeChanges

NOTHING: Final = SetStatus()


class Writing:
    """Writes files.

    Args:
        cache: takes in the outcomes.
        disk: keeps what was written.
        walk: finds the files.
        statuses: tells files' statuses.
        servers: the time.
        changes: makes the files that are not there.
        journal: counts.
    """

    def __init__(
        self,
        cache: VnodeCache,
        disk: DiskCache,
        walk: PathWalk,
        statuses: Statuses,
        servers: FileServers,
        changes: VnodeChanges,
        journal: Journal,
    ) -> None:
        self._cache = cache
        self._disk = disk
        self._walk = walk
        self._statuses = statuses
        self._servers = servers
        self._changes = changes
        self._journal = journal

    async def write(
        self, options: cache_manager_pb2.WriteOpen, data: AsyncIterator[bytes]
    ) -> Vnode:
        """Writes what comes; durable at the fileserver when it returns.

        Args:
            options: the request's first message.
            data: the bytes, as they come.

        Raises:
            AfsError: ENOENT unless `create`; EISDIR; else as StoreData.
        """
        offset = check_length(options.offset, "offset")
        set_status = set_status_from_wire(options.set_status)
        place, created = await self._walk.attempt(lambda: self._open(options, set_status))
        if created is not None:
            set_status = NOTHING
        first = await anext(data, b"")
        if not first and created is not None:
            return created
        if not first and not options.truncate and set_status == NOTHING:
            return (await self._statuses.status(place.volume, place.fid)).vnode
        opening = pb.StoreDataOpen(
            fid=fid_to_wire(place.fid),
            offset=offset,
            truncate_to=0 if options.truncate else None,
            set_status=set_status_to_wire(set_status),
        )
        with Spool(self._disk) as spool:
            vnode = await self._store(place, opening, first, data, spool)
            if (options.truncate or created is not None) and offset == 0:
                await self._keep(vnode, spool)
        return vnode

    async def _open(
        self, options: cache_manager_pb2.WriteOpen, set_status: SetStatus
    ) -> tuple[Place, Vnode | None]:
        """The file to write to, and its status if it was made for that."""
        found = await self._walk.find_or_absent(options.path)
        if isinstance(found, Absent) and options.create:
            try:
                vnode = await self._changes.make_file(
                    found.volume, found.parent, found.name, set_status
                )
            except AfsError as error:
                if error.code is not AfsCode.EEXIST:
                    raise
                # Somebody else was faster.
                found = await self._walk.find(options.path)
            else:
                return (
                    Place(
                        found.volume,
                        vnode.fid,
                        vnode.type,
                        found.parent,
                        found.name,
                        found.source,
                    ),
                    vnode,
                )
        if isinstance(found, Absent):
            raise AfsError(AfsCode.ENOENT, f"{options.path}: there is no {found.name!r}")
        if isinstance(found, CellRoot) or found.type is not VnodeType.FILE:
            raise AfsError(AfsCode.EISDIR, f"{options.path} is not a file")
        return found, None

    async def _store(
        self,
        place: Place,
        opening: pb.StoreDataOpen,
        first: bytes,
        data: AsyncIterator[bytes],
        spool: Spool,
    ) -> Vnode:
        """Sends the data as it comes, from the spool again if need be."""
        self._journal.count("store_data_calls")
        ended = False

        async def messages() -> AsyncGenerator[pb.StoreDataRequest, None]:
            nonlocal ended
            yield pb.StoreDataRequest(open=opening)
            async for piece in spool.replay():
                yield pb.StoreDataRequest(data=piece)
            if spool.empty and first:
                await spool.add(first)
                for piece in _pieces(first):
                    yield pb.StoreDataRequest(data=piece)
            while not ended:
                more = await anext(data, None)
                if more is None:
                    ended = True
                    return
                await spool.add(more)
                for piece in _pieces(more):
                    yield pb.StoreDataRequest(data=piece)

        volume = place.volume
        try:
            response, ticket = await volume.store(
                lambda stub: stub.StoreData,
                messages,
                may_repeat=lambda: spool.complete,
                progress=lambda: spool.length,
            )
            vnode = volume.take_in_changed(response.status, callback_of(response), ticket)
        except AfsError as error:
            if isinstance(error, AnswerLostError):
                self._cache.distrust([place.fid], self._servers.now() + OUTCOME_UNKNOWN_S)
            raise
        except BaseException:
            self._cache.distrust([place.fid], self._servers.now() + OUTCOME_UNKNOWN_S)
            raise
        self._journal.count("bytes_stored", spool.length)
        return vnode

    async def _keep(self, vnode: Vnode, spool: Spool) -> None:
        """Keeps what was written in the cache, if it is all of the file."""
        if not spool.complete or spool.length != vnode.length:
            return
        await self._disk.keep_only(vnode.fid, vnode.data_version)
        number = 0
        async for piece in spool.replay():
            if not await self._disk.put(PieceKey(vnode.fid, vnode.data_version, number), piece):
                return
            number += 1


def _pieces(data: bytes) -> list[bytes]:
    """The data in pieces that fit a message."""
    if len(data) <= DATA_PIECE_BYTES:
        return [data] if data else []
    return [data[at : at + DATA_PIECE_BYTES] for at in range(0, len(data), DATA_PIECE_BYTES)]
