"""What a volume has lost and another server may have: at the other sites of its entry."""

from __future__ import annotations

import asyncio

from afs.errors import AfsCode, AfsError
from afs.types import VolumeType
from afs.v1 import vol_transfer_pb2
from volserverd.peers import LOOK_DEADLINE_S, transfers_at
from volserverd.vldb.entry import Entry, Site, kept_read_only_id
from volserverd.work_order import VolumeServices

# Errors after which a server is not asked again.
_SILENT = frozenset({AfsCode.RX_CALL_DEAD, AfsCode.EINVAL})


class DataElsewhere:
    """Asks the volservers of other sites; called in a salvage's thread.

    Args:
        services: tells which sites are ours.
        entry: the volume's entry.
        loop: the event loop that the calls run in.
    """

    def __init__(
        self, services: VolumeServices, entry: Entry | None, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._entry = entry
        self._loop = loop
        # Those with the newest state first.
        self._sites = sorted(
            (site for site in (entry.sites if entry else ()) if not services.is_our_site(site)),
            key=lambda site: (site.type is not VolumeType.READ_WRITE, -site.release),
        )

    def __call__(self, digest: bytes, number: int) -> tuple[bytes, str] | None:
        """The bytes of a hash, and where they were; None if nobody who answers has them.

        Args:
            digest: of a chunk, or of a file's small data.
            number: that file's vnode number; 0 for a chunk.
        """
        for site in tuple(self._sites):
            asking = asyncio.run_coroutine_threadsafe(self._ask(site, digest, number), self._loop)
            try:
                return asking.result(), f"volserver {site.vol_server}"
            except AfsError as error:
                if error.code in _SILENT:
                    self._sites.remove(site)
        return None

    async def _ask(self, site: Site, digest: bytes, number: int) -> bytes:
        assert self._entry is not None, "it has sites"
        volume_id = self._entry.read_write_id
        if site.type is VolumeType.READ_ONLY:
            volume_id = kept_read_only_id(volume_id)
        request = vol_transfer_pb2.FetchRequest(volume_id=volume_id, hash=digest, vnode=number)
        async with transfers_at(site.vol_server) as stub:
            answer = await stub.Fetch(request, timeout=LOOK_DEADLINE_S)
        data: bytes = answer.data
        return data
