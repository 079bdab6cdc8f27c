"""VolServer: whole-volume work. The methods are in three files, by kind; those to come are here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from afs.errors import AfsCode, AfsError
from afs.v1 import vol_server_pb2 as pb
from afs.v1 import vol_server_pb2_grpc
from volserverd.vol_server_changes import ChangingMethods
from volserverd.vol_server_contents import ContentsMethods
from volserverd.vol_server_listing import ListingMethods


class VolServerServicer(
    ChangingMethods, ContentsMethods, ListingMethods, vol_server_pb2_grpc.VolServerServicer
):
    """The servicer of `afs.v1.VolServer`."""

    async def Clone(self, _: pb.CloneRequest, __: Any) -> AsyncIterator[pb.CloneResponse]:
        """Not yet: RXGEN_OPCODE."""
        for response in _not_yet("Clone"):
            yield response

    async def Move(self, _: pb.MoveRequest, __: Any) -> AsyncIterator[pb.MoveResponse]:
        """Not yet: RXGEN_OPCODE."""
        for response in _not_yet("Move"):
            yield response

    async def Copy(self, _: pb.CopyRequest, __: Any) -> AsyncIterator[pb.CopyResponse]:
        """Not yet: RXGEN_OPCODE."""
        for response in _not_yet("Copy"):
            yield response

    async def Release(self, _: pb.ReleaseRequest, __: Any) -> AsyncIterator[pb.ReleaseResponse]:
        """Not yet: RXGEN_OPCODE."""
        for response in _not_yet("Release"):
            yield response

    async def AddSite(self, _: pb.AddSiteRequest, __: Any) -> pb.AddSiteResponse:
        """Not yet: RXGEN_OPCODE."""
        _not_yet("AddSite")
        return pb.AddSiteResponse()

    async def RemoveSite(self, _: pb.RemoveSiteRequest, __: Any) -> pb.RemoveSiteResponse:
        """Not yet: RXGEN_OPCODE."""
        _not_yet("RemoveSite")
        return pb.RemoveSiteResponse()


def _not_yet(method: str) -> list[Any]:
    """Refuses; the return type makes a generator of who asks."""
    raise AfsError(AfsCode.RXGEN_OPCODE, f"VolServer.{method} is not implemented yet")
