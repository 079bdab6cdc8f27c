"""Tells a volume from another one of the same id, before anything cached of it is compared.

Volume ids are unique within a cell and DataVersions within a volume. A fileserver that was set up
anew at the same address, or a cache directory that was used in another cell before, brings the same
numbers for other data; the volume's incarnation tells them apart. It is asked for again whenever
the fileserver may have become another one: see `ChannelState.identity`.
"""

from __future__ import annotations

from afs.errors import AfsCode, AfsError
from afs.v1 import file_server_pb2 as pb
from clientd.core.cache import VnodeCache
from clientd.disk_cache import DiskCache
from clientd.fileserver_client import FileServerClient
from clientd.journal import Journal
from clientd.single_flight import SingleFlight


class VolumeIdentity:
    """Checks volumes' incarnations.

    Args:
        cache: forgets statuses of another volume.
        disk: forgets data of another volume.
        journal: counts and tells.
    """

    def __init__(self, cache: VnodeCache, disk: DiskCache, journal: Journal) -> None:
        self._cache = cache
        self._disk = disk
        self._journal = journal
        # The fileserver, and its identity, at which each volume was checked.
        self._checked: dict[int, tuple[str, int]] = {}
        self._flights: SingleFlight[tuple[int, str, int], None] = SingleFlight()

    async def check(self, server: FileServerClient, volume: int) -> None:
        """Returns when what is cached of the volume is of this very volume.

        Raises:
            AfsError: as GetVolumeStatus.
        """
        identity = self._cache.server(server.address).channel.identity
        if self._checked.get(volume) != (server.address, identity):
            await self._flights.run(
                (volume, server.address, identity), lambda: self._ask(server, volume)
            )

    async def _ask(self, server: FileServerClient, volume: int) -> None:
        self._journal.count("volume_status_calls")
        request = pb.GetVolumeStatusRequest(volume=volume)
        try:
            response, ticket = await server.call(server.stub.GetVolumeStatus, request)
            incarnation = response.status.incarnation
        except AfsError as error:
            if error.code is not AfsCode.RXGEN_OPCODE:
                raise
            # An older fileserver, which cannot tell.
            ticket, incarnation = self._cache.ticket(server.address, 0.0), ""
        if incarnation and await self._disk.be_of(volume, incarnation):
            self._cache.flush_volume(volume)
            self._journal.tell("volume.replaced", server=server.address, count=1)
        channel = self._cache.server(server.address).channel
        if ticket.generation == channel.generation:
            self._checked[volume] = (server.address, channel.identity)
