"""Statuses that may be answered: cached under a promise, or asked for, once for all who want it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import NamedTuple

from afs.errors import AfsCode, AfsError
from afs.types import Fid, Vnode
from afs.v1 import file_server_pb2 as pb
from afs.v1 import types_pb2
from afs.wire import fid_to_wire
from clientd.core.cache import VnodeCache
from clientd.fileservers import FileServers
from clientd.journal import Journal
from clientd.single_flight import SingleFlight
from clientd.volume_calls import VolumeCalls


class Source(IntEnum):
    """Where an answer came from; the highest of its parts counts. Numbers as in `AnswerSource`."""

    CACHE = 1
    REVALIDATED = 2
    FILE_SERVER = 3


class Known(NamedTuple):
    """A vnode's status and where it came from."""

    vnode: Vnode
    source: Source


class Statuses:
    """Tells the status of a vnode as it is at some moment after the question.

    Args:
        cache: what is remembered.
        servers: whom to ask.
        journal: counts.
    """

    def __init__(self, cache: VnodeCache, servers: FileServers, journal: Journal) -> None:
        self._cache = cache
        self._servers = servers
        self._journal = journal
        self._flights: SingleFlight[Fid, Known] = SingleFlight()

    async def status(
        self,
        volume: VolumeCalls,
        fid: Fid,
        fetch: Callable[[], Awaitable[Known]] | None = None,
    ) -> Known:
        """The vnode's status: cached under a promise, or fetched.

        Args:
            volume: the one it is in.
            fid: the vnode.
            fetch: how to ask; FetchStatus unless given.

        A reply that was overtaken by a break answers those who asked before it was requested, and
        nobody else (R10).

        Raises:
            AfsError: as FetchStatus.
        """
        fetched: Known | None = None
        while True:
            entry = self._servers.trusted(fid)
            if entry is not None:
                return Known(entry.status, fetched.source if fetched else Source.CACHE)
            landed = await self._flights.run(fid, fetch or (lambda: self._fetch(volume, fid)))
            if landed.asked_before:
                return landed.value
            fetched = landed.value

    def waiting(self, fid: Fid) -> int:
        """How many wait for the vnode's status."""
        return self._flights.waiting(fid)

    async def _fetch(self, volume: VolumeCalls, fid: Fid) -> Known:
        before = self._cache.get(fid)
        version = before.status.data_version if before is not None else None
        self._journal.count("fetch_status_calls")
        request = pb.FetchStatusRequest(fid=fid_to_wire(fid))
        try:
            response, ticket = await volume.call(lambda stub: stub.FetchStatus, request)
        except AfsError as error:
            if error.code is AfsCode.VNOVNODE:
                self._cache.forget(fid)
            raise
        vnode, _ = volume.take_in(response.status, callback_of(response), ticket)
        self._journal.tell("status.fetched", server=ticket.server, fids=(fid,))
        if vnode.data_version == version:
            self._journal.count("revalidated")
            return Known(vnode, Source.REVALIDATED)
        return Known(vnode, Source.FILE_SERVER)


def callback_of(
    response: pb.FetchStatusResponse
    | pb.FetchDataResponse
    | pb.StoreDataResponse
    | pb.StoreStatusResponse
    | pb.CreateFileResponse
    | pb.MakeDirResponse
    | pb.SymlinkResponse
    | pb.ReadLinkResponse,
) -> types_pb2.CallBack | None:
    """The promise in a response; None if there is none."""
    return response.callback if response.HasField("callback") else None
