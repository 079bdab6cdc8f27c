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
from volserverd.vol_server_moves import MovingMethods
from volserverd.vol_server_sites import SiteMethods


class VolServerServicer(
    ChangingMethods,
    ContentsMethods,
    ListingMethods,
    MovingMethods,
    SiteMethods,
    vol_server_pb2_grpc.VolServerServicer,
):
    """The servicer of `afs.v1.VolServer`."""

    async def Release(self, _: pb.ReleaseRequest, __: Any) -> AsyncIterator[pb.ReleaseResponse]:
        """Not yet: RXGEN_OPCODE."""
        for response in _not_yet("Release"):
            yield response


def _not_yet(method: str) -> list[Any]:
    """Refuses; the return type makes a generator of who asks."""
    raise AfsError(AfsCode.RXGEN_OPCODE, f"VolServer.{method} is not implemented yet")
