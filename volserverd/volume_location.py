"""VolumeLocation: the location database over gRPC."""

from __future__ import annotations

from typing import Any

from afs.errors import AfsCode, AfsError
from afs.v1 import volume_location_pb2 as pb
from afs.v1 import volume_location_pb2_grpc
from volserverd.locations import Locations
from volserverd.vldb.entry import entry_from_wire, entry_to_wire
from volserverd.vldb.names import VolumeReference, parse_reference


class VolumeLocationServicer(volume_location_pb2_grpc.VolumeLocationServicer):
    """The servicer of `afs.v1.VolumeLocation`."""

    def __init__(self, locations: Locations) -> None:
        self._locations = locations

    async def GetEntry(self, request: pb.GetEntryRequest, _: Any) -> pb.GetEntryResponse:
        """The entry of a volume, by name (with or without suffix) or any of its ids. VNOVOL."""
        match request.WhichOneof("by"):
            case "name":
                reference = parse_reference(request.name)
            case "volume_id" if request.volume_id:
                reference = VolumeReference(str(request.volume_id), request.volume_id)
            case _:
                raise AfsError(AfsCode.EINVAL, "GetEntry without a volume: expected name or id")
        return pb.GetEntryResponse(entry=entry_to_wire(await self._locations.get(reference)))

    async def ListEntries(self, request: pb.ListEntriesRequest, _: Any) -> pb.ListEntriesResponse:
        """Entries in order of their names."""
        entries = await self._locations.entries(request.after, request.limit)
        return pb.ListEntriesResponse(entries=[entry_to_wire(entry) for entry in entries])

    async def CreateEntry(self, request: pb.CreateEntryRequest, _: Any) -> pb.CreateEntryResponse:
        """Adds an entry; VVOLEXISTS, EINVAL, ENAMETOOLONG."""
        entry = await self._locations.create(entry_from_wire(request.entry))
        return pb.CreateEntryResponse(entry=entry_to_wire(entry))

    async def ReplaceEntry(
        self, request: pb.ReplaceEntryRequest, _: Any
    ) -> pb.ReplaceEntryResponse:
        """Changes an entry; EAGAIN (ABORTED) for an old version."""
        entry = await self._locations.replace(entry_from_wire(request.entry))
        return pb.ReplaceEntryResponse(entry=entry_to_wire(entry))

    async def DeleteEntry(self, request: pb.DeleteEntryRequest, _: Any) -> pb.DeleteEntryResponse:
        """Deletes an entry; VBUSY if it is locked for something else."""
        await self._locations.delete(request.read_write_id, request.locked_for)
        return pb.DeleteEntryResponse()

    async def Lock(self, request: pb.LockRequest, _: Any) -> pb.LockResponse:
        """Locks an entry; VBUSY names the operation that has the lock."""
        entry = await self._locations.lock(request.read_write_id, request.operation)
        return pb.LockResponse(entry=entry_to_wire(entry))

    async def Unlock(self, request: pb.UnlockRequest, _: Any) -> pb.UnlockResponse:
        """Unlocks an entry, whoever locked it."""
        await self._locations.unlock(request.read_write_id)
        return pb.UnlockResponse()
