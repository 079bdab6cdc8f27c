"""Tells a volume from another one of the same id, before anything cached of it is compared.

Volume ids are unique within a cell and DataVersions within a volume. A fileserver that was set up
anew at the same address, or a cache directory that was used in another cell before, brings the same
numbers for other data; the volume's incarnation tells them apart. It is asked for once for every
generation of the callback channel, because a fileserver cannot become another one without losing
its channels.
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
        # The fileserver and the generation of its channel at which each volume was checked.
        self._checked: dict[int, tuple[str, int]] = {}
        self._flights: SingleFlight[tuple[int, str, int], None] = SingleFlight()

    async def check(self, server: FileServerClient, volume: int) -> None:
        """Returns when what is cached of the volume is of this very volume.

        Raises:
            AfsError: as GetVolumeStatus.
        """
        generation = self._cache.server(server.address).channel.generation
        if self._checked.get(volume) != (server.address, generation):
            await self._flights.run(
                (volume, server.address, generation), lambda: self._ask(server, volume)
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
        self._checked[volume] = (server.address, ticket.generation)
