"""CacheManager: GetStatus, DumpCache, CheckServers and Watch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import islice
from typing import Any, Final

from afs.v1 import cache_manager_pb2 as pb
from afs.v1 import types_pb2
from afs.wire import fid_to_wire, status_to_wire
from clientd.core.entry import CacheEntry
from clientd.fuse.mounts import Mounts
from clientd.journal import ClientEvent
from clientd.services import Services
from clientd.unsent import total_bytes

# Vnodes in one DumpCache message; also the work done before the loop gets its turn.
VNODES_PER_MESSAGE: Final = 500


class StatusMethods:
    """What tells of the client itself."""

    _services: Services
    _mounts: Mounts

    async def GetStatus(self, request: pb.GetStatusRequest, context: Any) -> pb.GetStatusResponse:  # noqa: ARG002
        """How much is cached, how much is promised, and what was counted."""
        services, unsent = self._services, self._services.open_files.unsent
        return pb.GetStatusResponse(
            host_uuid=services.host_uuid,
            cache_bytes=services.disk.used_bytes,
            cache_limit_bytes=services.disk.limit_bytes,
            cached_files=services.disk.file_count(),
            promises=services.cache.promise_count(services.clock.now()),
            counters=services.journal.counters(),
            servers=services.servers.statuses(),
            mount_point=self._mounts.path,
            unsent_waiting=len(unsent.waiting()),
            unsent_conflicts=unsent.conflict_count,
            unsent_bytes=total_bytes(unsent.all()),
        )

    async def DumpCache(
        self,
        request: pb.DumpCacheRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.DumpCacheResponse]:
        """Every vnode that is remembered."""
        fids = iter([entry.fid for entry in self._services.cache.entries()])
        while page := list(islice(fids, VNODES_PER_MESSAGE)):
            entries = [self._services.cache.peek(fid) for fid in page]
            yield pb.DumpCacheResponse(
                vnodes=[self._dumped(entry) for entry in entries if entry is not None]
            )
            await asyncio.sleep(0)

    def _dumped(self, entry: CacheEntry) -> pb.CachedVnode:
        services = self._services
        now = services.clock.now()
        promised = services.cache.is_trusted(entry, now)
        return pb.CachedVnode(
            fid=fid_to_wire(entry.fid),
            status=status_to_wire(entry.status),
            cached_bytes=services.disk.cached_bytes(entry.fid, entry.status.data_version),
            promised=promised,
            expires_in_s=entry.promise.expires_at - now if promised and entry.promise else 0.0,
            broken_for=types_pb2.BreakReason.ValueType(entry.broken_for or 0),
        )

    async def CheckServers(
        self,
        request: pb.CheckServersRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> pb.CheckServersResponse:
        """Asks every fileserver for a sign of life, then says how their channels are.

        What could not be stored is tried again.
        """
        services, unsent = self._services, self._services.open_files.unsent
        await services.servers.check()
        services.resending.poke()
        return pb.CheckServersResponse(
            servers=services.servers.statuses(),
            unsent_waiting=len(unsent.waiting()),
            unsent_conflicts=unsent.conflict_count,
        )

    async def Watch(
        self,
        request: pb.CacheWatchRequest,  # noqa: ARG002
        context: Any,
    ) -> AsyncIterator[pb.CacheWatchResponse]:
        """Everything that happens from now on; now is when the call's initial metadata comes."""
        async with aclosing(self._services.journal.hub.subscribe()) as events:
            first = asyncio.ensure_future(anext(events, None))
            try:
                # The subscription begins with its first step.
                await asyncio.sleep(0)
                await context.send_initial_metadata(())
                watched = await first
            finally:
                if not first.done():
                    first.cancel()
                    await asyncio.gather(first, return_exceptions=True)
            while watched is not None:
                if watched.dropped:
                    yield pb.CacheWatchResponse(event="events.dropped", count=watched.dropped)
                yield _told(watched.event)
                watched = await anext(events, None)


def _told(event: ClientEvent) -> pb.CacheWatchResponse:
    return pb.CacheWatchResponse(
        event=event.event,
        time_ns=event.time_ns,
        server=event.server,
        fids=[fid_to_wire(fid) for fid in event.fids],
        reason=types_pb2.BreakReason.ValueType(event.reason or 0),
        sequence=event.sequence,
        count=event.count,
    )
