"""FileServerDebug: the tables and events of the callback machine, for people."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final
from uuid import UUID

from afs.errors import AfsCode, AfsError
from afs.runtime.clock import Clock
from afs.runtime.interceptors import Context
from afs.types import Fid
from afs.v1 import file_server_debug_pb2, file_server_debug_pb2_grpc, file_server_pb2
from afs.wire import fid_to_wire
from afsd.callbacks import CallBacks
from afsd.core.hosts import CallBack, Host
from afsd.core.locks import Lock, Waiter

# CallBackInfos in one message: about 100 KiB. Also how many are looked at before the event loop has
# a turn.
_PER_MESSAGE: Final = 1000


class FileServerDebugServicer(file_server_debug_pb2_grpc.FileServerDebugServicer):
    """Shows hosts, promises, counters and events. Changes nothing.

    Args:
        callbacks: whose state.
        clock: steady time.
        request_counts: calls so far by full method name.
    """

    def __init__(
        self, callbacks: CallBacks, clock: Clock, request_counts: Callable[[], dict[str, int]]
    ) -> None:
        self._callbacks = callbacks
        self._clock = clock
        self._request_counts = request_counts

    async def DumpHosts(
        self,
        request: file_server_debug_pb2.DumpHostsRequest,  # noqa: ARG002
        _context: Context,
    ) -> file_server_debug_pb2.DumpHostsResponse:
        """Every host, with its flags as they are now."""
        hosts = self._callbacks.machine.hosts.values()
        return file_server_debug_pb2.DumpHostsResponse(hosts=[self._host(host) for host in hosts])

    def _host(self, host: Host) -> file_server_debug_pb2.HostInfo:
        now = self._clock.now()
        return file_server_debug_pb2.HostInfo(
            uuid=host.uuid,
            address=host.address,
            client=host.client,
            flags=_names(host),
            callbacks=host.session.promises
            + sum(mark.promises.sessions[host.session] for mark in host.delayed),
            breaks_outstanding=len(host.outstanding) + len(host.delayed),
            calls_waiting=len(host.waiting_calls),
            lease_remaining_s=max(0.0, host.session.lease_end - now),
            last_heard_s_ago=now - host.last_heard,
        )

    async def DumpCallBacks(
        self,
        request: file_server_debug_pb2.DumpCallBacksRequest,
        _context: Context,
    ) -> AsyncIterator[file_server_debug_pb2.DumpCallBacksResponse]:
        """Every promise, or those on one volume or file, or of one host; in no order.

        Raises:
            AfsError: EINVAL if `host_uuid` is no UUID.
        """
        host = _uuid(request.host_uuid)
        wanted = request.fid
        found: list[file_server_debug_pb2.CallBackInfo] = []
        for looked_at, (fid, callback, later) in enumerate(self._callbacks.machine.callbacks(), 1):
            if (
                (not wanted.volume or fid.volume == wanted.volume)
                and (
                    not wanted.vnode
                    or (fid.vnode, fid.uniquifier) == (wanted.vnode, wanted.uniquifier)
                )
                and (host is None or callback.session.host.uuid == host)
            ):
                found.append(self._callback(fid, callback, later=later))
            if looked_at % _PER_MESSAGE == 0:
                if found:
                    yield file_server_debug_pb2.DumpCallBacksResponse(callbacks=found)
                    found = []
                await asyncio.sleep(0)
        if found:
            yield file_server_debug_pb2.DumpCallBacksResponse(callbacks=found)

    def _callback(
        self, fid: Fid, callback: CallBack, *, later: bool
    ) -> file_server_debug_pb2.CallBackInfo:
        host = callback.session.host
        return file_server_debug_pb2.CallBackInfo(
            fid=fid_to_wire(fid),
            host_uuid=host.uuid,
            flags=(["FE_LATER", "CB_DELAYED"] if later else []) + _names(host),
            expires_in_s=callback.expires_at - self._clock.now(),
        )

    async def DumpLocks(
        self,
        request: file_server_debug_pb2.DumpLocksRequest,  # noqa: ARG002
        _context: Context,
    ) -> AsyncIterator[file_server_debug_pb2.DumpLocksResponse]:
        """Every file lock and who waits for one, file by file."""
        found = list(self._callbacks.locks.table.all())
        for at in range(0, len(found), _PER_MESSAGE):
            now = self._clock.now()
            yield file_server_debug_pb2.DumpLocksResponse(
                locks=[_lock(each, now) for each in found[at : at + _PER_MESSAGE]]
            )

    async def GetCounters(
        self,
        request: file_server_debug_pb2.GetCountersRequest,  # noqa: ARG002
        _context: Context,
    ) -> file_server_debug_pb2.GetCountersResponse:
        """How often things happened since the start, and how much there is now."""
        machine = self._callbacks.machine
        locks = self._callbacks.locks.table
        counters = {
            **machine.counters,
            **locks.counters,
            "locks": len(locks),
            "promises": machine.table.size,
            "hosts": len(machine.hosts),
            "volumes_marked_now": len(machine.later.marked),
            "later_work": machine.later.work_left,
            "watch_events_dropped": self._callbacks.watch_events_dropped,
            **{f"calls{name}": count for name, count in self._request_counts().items()},
        }
        return file_server_debug_pb2.GetCountersResponse(
            counters=counters,
            break_policy=self._callbacks.policy.name,
            epoch=self._callbacks.epoch,
        )

    async def Watch(
        self,
        request: file_server_debug_pb2.WatchRequest,  # noqa: ARG002
        context: Context,
    ) -> AsyncIterator[file_server_debug_pb2.WatchResponse]:
        """Events from now on; `watch.lagged` tells how many a slow reader has missed."""
        # A client that has these headers knows that it misses nothing from here on.
        await context.send_initial_metadata(())
        async for watched in self._callbacks.watch():
            if watched.dropped:
                yield file_server_debug_pb2.WatchResponse(
                    event="watch.lagged", count=watched.dropped
                )
            yield watched.event


def _lock(each: Lock | Waiter, now: float) -> file_server_debug_pb2.LockInfo:
    waits = isinstance(each, Waiter)
    return file_server_debug_pb2.LockInfo(
        fid=fid_to_wire(each.fid),
        host_uuid=each.host,
        type=file_server_pb2.LockType.ValueType(each.type),
        waits=waits,
        expires_in_s=(each.until if isinstance(each, Waiter) else each.expires_at) - now,
    )


def _names(host: Host) -> list[str]:
    return [flag.name for flag in host.flags if flag.name is not None]


def _uuid(text: str) -> str | None:
    if not text:
        return None
    try:
        return str(UUID(text))
    except ValueError:
        raise AfsError(
            AfsCode.EINVAL, f"host_uuid {text[:64]!r} is no UUID: expected 32 hexadecimal digits"
        ) from None
