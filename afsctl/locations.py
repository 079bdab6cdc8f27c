"""Where volumes are, as the location database says, and the fileservers met on the way."""

from __future__ import annotations

import grpc
import grpc.aio

from afs.runtime.channel import open_channel
from afs.v1 import (
    file_server_pb2_grpc,
    vol_server_pb2,
    volume_location_pb2,
    volume_location_pb2_grpc,
)
from afs.volume_sites import volume_number
from afsctl.failure import explain


class VolumeUnknownError(Exception):
    """The location database has no such volume; the text is one line for people."""


class Locations:
    """The location database, and a channel to each server met.

    Entries are remembered; who finds that a volume is not where its entry says asks for it `anew`.

    Args:
        location: address of the VolumeLocation.
    """

    def __init__(self, location: str) -> None:
        self._location = location
        self._channels: dict[str, grpc.aio.Channel] = {}
        # By name or number as asked for.
        self._entries: dict[str, vol_server_pb2.VolumeEntry] = {}

    async def close(self) -> None:
        """Closes the channels."""
        for channel in self._channels.values():
            await channel.close()

    async def entry(self, volume: str, *, anew: bool = False) -> vol_server_pb2.VolumeEntry:
        """The entry of a volume given by name or number.

        Raises:
            VolumeUnknownError: there is none.
            grpc.RpcError: the database does not answer.
        """
        if volume in self._entries and not anew:
            return self._entries[volume]
        number = volume_number(volume)
        request = volume_location_pb2.GetEntryRequest(name=volume)
        if number:
            request = volume_location_pb2.GetEntryRequest(volume_id=number)
        try:
            entry = (await self._database().GetEntry(request)).entry
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise VolumeUnknownError(explain(error)) from None
            raise
        self._entries[volume] = entry
        return entry

    async def names(self) -> list[str]:
        """The names of the cell's volumes, sorted."""
        names: list[str] = []
        while True:
            request = volume_location_pb2.ListEntriesRequest(after=names[-1] if names else "")
            entries = (await self._database().ListEntries(request)).entries
            if not entries:
                return names
            names += [entry.name for entry in entries]

    def file_server(self, address: str) -> file_server_pb2_grpc.FileServerAsyncStub:
        """The fileserver at an address."""
        stub: file_server_pb2_grpc.FileServerAsyncStub = file_server_pb2_grpc.FileServerStub(
            self._channel(address)
        )
        return stub

    def _database(self) -> volume_location_pb2_grpc.VolumeLocationAsyncStub:
        stub: volume_location_pb2_grpc.VolumeLocationAsyncStub = (
            volume_location_pb2_grpc.VolumeLocationStub(self._channel(self._location))
        )
        return stub

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = open_channel(address)
        return self._channels[address]
