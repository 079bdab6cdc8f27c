"""CacheManager: ListUnsent, ReadUnsent and DiscardUnsent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from afs.v1 import cache_manager_pb2 as pb
from afs.wire import fid_to_wire
from clientd.services import Services
from clientd.unsent_records import UnsentRecord, UnsentState

_STATES: Final = {
    UnsentState.WAITING: pb.UNSENT_STATE_WAITING,
    UnsentState.CONFLICT: pb.UNSENT_STATE_CONFLICT,
}


class UnsentMethods:
    """What could not be stored: shown, read back, given up."""

    _services: Services

    async def ListUnsent(
        self,
        request: pb.ListUnsentRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> pb.ListUnsentResponse:
        """All of it, oldest first."""
        records = self._services.open_files.unsent.all()
        return pb.ListUnsentResponse(stores=[_to_wire(record) for record in records])

    async def ReadUnsent(
        self,
        request: pb.ReadUnsentRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[pb.ReadUnsentResponse]:
        """What was written, with its places in the file."""
        unsent = self._services.open_files.unsent
        record = unsent.find(request.number)
        yield pb.ReadUnsentResponse(store=_to_wire(record))
        async with aclosing(unsent.read(record)) as pieces:
            async for offset, data in pieces:
                yield pb.ReadUnsentResponse(offset=offset, data=data)

    async def DiscardUnsent(
        self,
        request: pb.DiscardUnsentRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.DiscardUnsentResponse:
        """Gives one up."""
        files = self._services.open_files
        await files.discard(files.unsent.find(request.number))
        return pb.DiscardUnsentResponse()


def _to_wire(record: UnsentRecord) -> pb.UnsentStore:
    return pb.UnsentStore(
        number=record.number,
        fid=fid_to_wire(record.fid),
        volume=record.volume,
        state=_STATES[record.state],
        reason=record.reason,
        since_ns=record.since_ns,
        written_bytes=record.dirty_bytes,
        ranges=len(record.ranges),
        length=record.length,
        data_version=record.data_version,
        on_disk=record.is_on_disk,
        name=record.name,
    )
