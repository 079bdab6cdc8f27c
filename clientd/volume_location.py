"""Where volumes are: look-ups in the VolumeLocation service, remembered until they prove wrong."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import grpc
import grpc.aio

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_UINT32
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.runtime.clock import Clock
from afs.v1 import types_pb2, vol_server_pb2, volume_location_pb2, volume_location_pb2_grpc
from clientd.journal import Journal
from clientd.single_flight import SingleFlight

# A volume that is renamed or gets another site keeps answering under its old entry, so entries are
# looked at anew after this long. VNOVOL, VMOVED and breaks of moved volumes do it at once.
LOCATION_LIFETIME_S: Final = 300.0
LOOK_UP_TIMEOUT_S: Final = 10.0
# Entries in one ListEntries answer.
LIST_LIMIT: Final = 1000

READ_ONLY_SUFFIX: Final = ".readonly"
BACKUP_SUFFIX: Final = ".backup"


@dataclass(frozen=True, slots=True)
class VolumeSite:
    """A volume and the fileserver that serves it."""

    name: str
    volume_id: int
    file_server: str


class VolumeLocation:
    """Finds volumes by name. Used in the event loop only.

    Args:
        address: of the VolumeLocation service.
    """

    def __init__(self, address: str, *, clock: Clock, journal: Journal) -> None:
        self._address = address
        self._clock = clock
        self._journal = journal
        self._channel = open_channel(address)
        self._stub: volume_location_pb2_grpc.VolumeLocationAsyncStub = (
            volume_location_pb2_grpc.VolumeLocationStub(self._channel)
        )
        self._known: dict[str, tuple[VolumeSite, float]] = {}
        self._flights: SingleFlight[str, VolumeSite] = SingleFlight()
        self._confirming: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Closes the connection."""
        for task in self._confirming:
            task.cancel()
        await asyncio.gather(*self._confirming, return_exceptions=True)
        await self._channel.close()

    async def find(self, name: str) -> VolumeSite:
        """The site to ask about the volume of that name.

        Args:
            name: with or without `.readonly` or `.backup`; a volume's number does as well.

        Raises:
            AfsError: VNOVOL if there is none; RX_CALL_DEAD if the service cannot be reached and the
                volume was not looked up before.
        """
        known = self._known.get(name)
        if known is None:
            return (await self._flights.run(name, lambda: self._look_up(name))).value
        if self._clock.now() >= known[1]:
            # What was right minutes ago most likely is; if not, the fileserver will say so. Nobody
            # waits for the confirmation.
            self._known[name] = known[0], self._clock.now() + LOCATION_LIFETIME_S
            task = asyncio.create_task(self._confirm(name))
            self._confirming.add(task)
            task.add_done_callback(self._confirming.discard)
        return known[0]

    async def confirmed(self) -> None:
        """Waits for the confirmations under way."""
        await asyncio.gather(*self._confirming)

    async def _confirm(self, name: str) -> None:
        try:
            await self._flights.run(name, lambda: self._look_up(name))
        except AfsError as error:
            if error.code is AfsCode.VNOVOL:
                self._known.pop(name, None)

    def forget(self, volume_id: int) -> None:
        """The volume is not where it was thought to be."""
        for name in [
            name for name, (site, _) in self._known.items() if site.volume_id == volume_id
        ]:
            del self._known[name]

    def forget_all(self) -> bool:
        """Looks every volume up anew when it is next needed; False if none was known."""
        known = bool(self._known)
        self._known.clear()
        return known

    async def list_volumes(self) -> list[tuple[str, int]]:
        """Names and ids of all read-write volumes of the cell, in order of their names."""
        volumes: list[tuple[str, int]] = []
        after = ""
        while True:
            self._journal.count("location_calls")
            request = volume_location_pb2.ListEntriesRequest(after=after, limit=LIST_LIMIT)
            try:
                response = await self._stub.ListEntries(
                    request, timeout=LOOK_UP_TIMEOUT_S, wait_for_ready=True
                )
            except grpc.aio.AioRpcError as error:
                raise self._error(error) from None
            volumes += [
                (entry.name, entry.read_write_id)
                for entry in response.entries
                if entry.read_write_id
            ]
            if len(response.entries) < LIST_LIMIT or response.entries[-1].name <= after:
                return volumes
            after = response.entries[-1].name

    async def _look_up(self, name: str) -> VolumeSite:
        self._journal.count("location_calls")
        try:
            entry = await self._get_entry(volume_location_pb2.GetEntryRequest(name=name))
        except AfsError as error:
            if error.code not in (AfsCode.VNOVOL, AfsCode.ENOENT):
                raise
            if not (name.isascii() and name.isdigit() and 0 < int(name) <= MAX_UINT32):
                raise AfsError(AfsCode.VNOVOL, f"there is no volume {name!r}") from None
            request = volume_location_pb2.GetEntryRequest(volume_id=int(name))
            entry = await self._get_entry(request)
        site = _choose(name, entry)
        self._known[name] = site, self._clock.now() + LOCATION_LIFETIME_S
        return site

    async def _get_entry(
        self, request: volume_location_pb2.GetEntryRequest
    ) -> vol_server_pb2.VolumeEntry:
        try:
            response = await self._stub.GetEntry(
                request, timeout=LOOK_UP_TIMEOUT_S, wait_for_ready=True
            )
        except grpc.aio.AioRpcError as error:
            raise self._error(error) from None
        return response.entry

    def _error(self, rpc_error: grpc.aio.AioRpcError) -> AfsError:
        error = afs_error_from_rpc(rpc_error)
        return AfsError(error.code, f"VolumeLocation at {self._address}: {error.detail}")


def _choose(name: str, entry: vol_server_pb2.VolumeEntry) -> VolumeSite:
    """Which of an entry's volumes the name means, and the fileserver to ask."""
    kinds: tuple[int, ...] = (types_pb2.VOLUME_TYPE_READ_WRITE,)
    wanted = entry.read_write_id
    number = int(name) if name.isascii() and name.isdigit() else 0
    if name.endswith(READ_ONLY_SUFFIX) or (number and number == entry.read_only_id):
        wanted, kinds = entry.read_only_id, (types_pb2.VOLUME_TYPE_READ_ONLY,)
    elif name.endswith(BACKUP_SUFFIX) or (number and number == entry.backup_id):
        # A backup lies where its volume does; its site may or may not be listed by itself.
        kinds = (types_pb2.VOLUME_TYPE_BACKUP, types_pb2.VOLUME_TYPE_READ_WRITE)
        wanted = entry.backup_id
    addresses = [
        site.file_server
        for kind in kinds
        for site in entry.sites
        if site.type == kind and site.file_server
    ]
    if not wanted or not addresses:
        raise AfsError(AfsCode.VNOVOL, f"volume {name!r} has no site that serves it")
    return VolumeSite(name, wanted, addresses[0])
