"""The fileservers the client deals with, and the look-out for moments at which it stood still."""

from __future__ import annotations

import asyncio
import zlib

import structlog

from afs.runtime.clock import Clock
from afs.types import Fid
from afs.v1 import cache_manager_pb2 as pb
from clientd.core.cache import VnodeCache
from clientd.core.entry import CacheEntry
from clientd.core.stall import TURN_S, StallDetector
from clientd.fileserver_client import FileServerClient
from clientd.journal import Journal
from clientd.kernel_door import KernelDoor
from clientd.volume_location import VolumeLocation

_log = structlog.get_logger(__name__)


class FileServers:
    """All fileservers, each with its client, made when first needed.

    Args:
        host_uuid: who we are.
        cache: what is remembered of vnodes.
        location: told of volumes that moved.
        kernel: told of what is stale.
        clock: steady time.
        journal: counts and tells.
    """

    def __init__(
        self,
        *,
        host_uuid: str,
        cache: VnodeCache,
        location: VolumeLocation,
        kernel: KernelDoor,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._host_uuid = host_uuid
        self._cache = cache
        self._location = location
        self._kernel = kernel
        self._clock = clock
        self._journal = journal
        self._clients: dict[str, FileServerClient] = {}
        self._stall = StallDetector(clock.now())
        self._turning = asyncio.create_task(self._turn())

    def at(self, address: str) -> FileServerClient:
        """The client of the fileserver at an address."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = FileServerClient(
                address,
                host_uuid=self._host_uuid,
                cache=self._cache,
                kernel=self._kernel,
                clock=self._clock,
                journal=self._journal,
                on_volume_gone=self._location.forget,
            )
        return client

    def is_lost(self, address: str) -> bool:
        """True if the fileserver was dealt with and cannot be reached at this moment."""
        client = self._clients.get(address)
        return client is not None and client.is_lost

    def away_for_s(self, address: str) -> float:
        """For how long there has been no channel to the fileserver; 0 if it was never needed."""
        client = self._clients.get(address)
        return client.channel.away_for_s if client is not None else 0.0

    def rank(self, address: str) -> int:
        """Among equal sites the one of the lowest rank is asked; each host has an order of its own.

        So the hosts of a cell share the sites of a read-only volume.
        """
        return zlib.crc32(f"{self._host_uuid} {address}".encode())

    def trusted(self, fid: Fid) -> CacheEntry | None:
        """The cached entry, if it may be answered from now; looks first whether we stood still."""
        now = self._clock.now()
        if self._stall.look(now):
            self._stalled()
        return self._cache.trusted(fid, now)

    def trusted_for(self, fid: Fid) -> tuple[CacheEntry | None, float]:
        """As `trusted`, and for how many seconds; None and 0 if it may not be answered from."""
        now = self._clock.now()
        if self._stall.look(now):
            self._stalled()
        entry = self._cache.trusted(fid, now)
        if entry is None or entry.promise is None:
            return None, 0.0
        return entry, self._cache.relied_on_until(entry.promise) - now

    def known(self, fid: Fid) -> CacheEntry | None:
        """The cached entry, whether or not it may be answered from."""
        return self._cache.peek(fid)

    def now(self) -> float:
        """Steady seconds."""
        return self._clock.now()

    async def stop(self) -> None:
        """Gives promises back and closes all connections."""
        self._turning.cancel()
        await asyncio.gather(self._turning, return_exceptions=True)
        await asyncio.gather(*(client.stop() for client in self._clients.values()))

    async def check(self) -> None:
        """Asks every fileserver for a sign of life; one that has restarted is noticed by it."""
        await asyncio.gather(*(client.check() for client in self._clients.values()))

    def statuses(self) -> list[pb.ServerStatus]:
        """For GetStatus and CheckServers."""
        now = self._clock.now()
        return [
            pb.ServerStatus(
                address=server.address,
                channel=server.channel.describe(now),
                lease_remaining_s=server.channel.lease_remaining_s(now),
                epoch=server.channel.epoch,
            )
            for server in self._cache.servers()
        ]

    async def _turn(self) -> None:
        while True:
            await asyncio.sleep(TURN_S)
            if self._stall.turn(self._clock.now()):
                self._stalled()

    def _stalled(self) -> None:
        self._journal.count("stalls")
        self._journal.tell("process.stalled")
        _log.info("process.stalled")
        self._kernel.all_stale()
        for client in self._clients.values():
            client.channel.on_stall()
