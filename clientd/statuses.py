"""Statuses that may be answered: cached under a promise, or asked for, once for all who want it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import IntEnum
from typing import NamedTuple

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_BULK_FIDS
from afs.types import Fid, Vnode
from afs.v1 import file_server_pb2 as pb
from afs.v1 import types_pb2
from afs.wire import fid_to_wire
from clientd.core.cache import VnodeCache
from clientd.core.companions import Companions
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
        self._companions = Companions(cache)
        self._flights: SingleFlight[Fid, Known] = SingleFlight()
        # Those that come along with another one's, and the event that they have come.
        self._coming: dict[Fid, asyncio.Event] = {}

    async def status(
        self,
        volume: VolumeCalls,
        fid: Fid,
        fetch: Callable[[], Awaitable[Known]] | None = None,
        *,
        directory: Fid | None = None,
    ) -> Known:
        """The vnode's status: cached under a promise, or fetched.

        Args:
            volume: the one it is in.
            fid: the vnode.
            fetch: how to ask; FetchStatus unless given.
            directory: where it was found, if somebody goes through that: others in it, never asked
                about before, may be asked about along with it.

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
            if (coming := self._coming.get(fid)) is not None:
                await coming.wait()
                continue
            landed = await self._flights.run(
                fid, fetch or (lambda: self._fetch(volume, fid, directory))
            )
            if landed.asked_before:
                return landed.value
            fetched = landed.value

    async def bring(self, volume: VolumeCalls, fids: Sequence[Fid]) -> None:
        """Asks about those of many vnodes whose status is not trusted, all in one call.

        What cannot be told of one is no matter: whoever asks for it alone will hear.

        Raises:
            AfsError: as BulkStatus.
        """
        # A file may have several names in one directory.
        missing = [fid for fid in dict.fromkeys(fids) if self._servers.trusted(fid) is None]
        coming = {self._coming[fid] for fid in missing if fid in self._coming}
        to_ask = [fid for fid in missing if fid not in self._coming and not self.waiting(fid)]
        for at in range(0, len(to_ask), MAX_BULK_FIDS):
            batch = to_ask[at : at + MAX_BULK_FIDS]
            await self._fetch_with(volume, batch[0], batch)
        for event in coming:
            await event.wait()

    def waiting(self, fid: Fid) -> int:
        """How many wait for the vnode's status."""
        return self._flights.waiting(fid)

    async def _fetch(self, volume: VolumeCalls, fid: Fid, directory: Fid | None) -> Known:
        companions = [
            each
            for each in self._companions.of(fid, self._servers.now(), directory)
            if each not in self._coming and not self._flights.waiting(each)
        ]
        if companions:
            known = await self._fetch_with(volume, fid, companions)
            if known is not None:
                return known
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
        return self._known(vnode, version)

    async def _fetch_with(
        self, volume: VolumeCalls, fid: Fid, companions: Sequence[Fid]
    ) -> Known | None:
        """Asks about a vnode and others of its volume; None if it has to be asked about alone."""
        come = asyncio.Event()
        self._coming |= dict.fromkeys(companions, come)
        try:
            return await self._fetch_all(volume, list(dict.fromkeys([fid, *companions])))
        finally:
            for each in companions:
                del self._coming[each]
            come.set()

    async def _fetch_all(self, volume: VolumeCalls, fids: Sequence[Fid]) -> Known | None:
        """Asks about many vnodes and takes in what is said; the first one's status."""
        self._journal.count("bulk_status_calls")
        request = pb.BulkStatusRequest(fids=[fid_to_wire(fid) for fid in fids])
        try:
            response, ticket = await volume.call(lambda stub: stub.BulkStatus, request)
        except AfsError as error:
            if error.code is not AfsCode.RXGEN_OPCODE:
                raise
            # A fileserver that cannot do it.
            return None
        self._journal.tell("status.fetched", server=ticket.server, fids=fids)
        first: Known | None = None
        for number, (fid, result) in enumerate(zip(fids, response.results, strict=False)):
            if result.abort_code == AfsCode.VNOVNODE:
                self._cache.forget(fid)
            if result.abort_code or not result.HasField("status"):
                continue
            before = self._cache.peek(fid)
            version = before.status.data_version if before is not None else None
            callback = result.callback if result.HasField("callback") else None
            vnode, _ = volume.take_in(result.status, callback, ticket)
            known = self._known(vnode, version)
            if number == 0:
                first = known
        return first

    def _known(self, vnode: Vnode, version: int | None) -> Known:
        """The status that came; the DataVersion that was known before says what it is worth."""
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
