"""The protection database of the cell, asked over gRPC."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import grpc.aio

from afs.identity.memberships import Membership
from afs.limits import PROTECTION_DEADLINE_S
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.v1 import protection_pb2 as pb
from afs.v1 import protection_pb2_grpc


class ProtectionClient:
    """Asks the Protection service. A call that gets no answer is RX_CALL_DEAD.

    Args:
        address: where it is served, beside VolumeLocation.
    """

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._stub: protection_pb2_grpc.ProtectionAsyncStub = protection_pb2_grpc.ProtectionStub(
            self._channel
        )

    async def membership(self, name: str) -> Membership:
        """What counts for a user's rights."""
        answer = await self._call(self._stub.GetMembership, pb.GetMembershipRequest(name=name))
        return Membership(answer.id, frozenset(answer.ids))

    async def translate(
        self, names: Collection[str] = (), ids: Collection[int] = ()
    ) -> dict[str, int]:
        """Ids by name, of those names and ids that there are."""
        answer = await self._call(self._stub.Translate, pb.TranslateRequest(names=names, ids=ids))
        return {entry.name: entry.id for entry in answer.entries}

    async def close(self) -> None:
        """Hangs up."""
        await self._channel.close()

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            return await method(request, timeout=PROTECTION_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None
