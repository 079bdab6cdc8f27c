"""FileServer: the data of files, as streams in bounded memory at any file size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from afs.access.requirements import file_server_rights
from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES
from afs.runtime.interceptors import Context
from afs.runtime.request_stream import whole_stream
from afs.types import Fid
from afs.v1 import file_server_pb2 as pb
from afs.volume.volume import DataSnapshot, StoreData, Volume
from afs.wire import check_length, fid_from_wire, set_status_from_wire, status_to_wire
from afsd import access
from afsd.call_preamble import calling_host
from afsd.file_server_base import FileServerBase
from afsd.incoming_data import IncomingData


class DataMethods(FileServerBase):
    """FetchData and StoreData."""

    async def FetchData(
        self,
        request: pb.FetchDataRequest,
        _context: Context,
    ) -> AsyncIterator[pb.FetchDataResponse]:
        """Status and promise first, then the data as it was at that moment, in pieces.

        While one piece is sent the next is read, and no more: that is all the memory a stream
        takes.
        """
        fid = fid_from_wire(request.fid)
        offset = check_length(request.offset, "offset")
        length = check_length(request.length, "length")
        attached = self._volumes.use(fid.volume)
        _, callback = await self._status(
            attached, fid, calling_host.get(), file_server_rights("FetchData")
        )
        opened = await attached.open(_open, attached.volume, fid, offset, length)
        reading: asyncio.Future[bytes] | None = None
        try:
            yield pb.FetchDataResponse(
                status=status_to_wire(opened.snapshot.vnode), callback=callback
            )
            piece, opened.first = opened.first, b""
            position = offset + len(piece)
            while piece:
                reading = None
                if position < opened.end:
                    # Also notices that the volume is being taken away (VBUSY).
                    reading = attached.start(opened.read, position)
                yield pb.FetchDataResponse(data=piece)
                if reading is None:
                    break
                piece = await asyncio.shield(reading)
                position += len(piece)
        finally:
            attached.release(opened, after=reading)

    async def StoreData(
        self,
        request_iterator: AsyncIterator[pb.StoreDataRequest],
        context: Context,
    ) -> pb.StoreDataResponse:
        """Puts a stream of data into a file, all or nothing; durable when answered."""
        requests = whole_stream(request_iterator, context)
        first = await anext(requests, None)
        if first is None or not first.HasField("open"):
            raise AfsError(AfsCode.EINVAL, "the first message of StoreData has no `open`")
        header = first.open
        fid = fid_from_wire(header.fid)
        offset = check_length(header.offset, "offset")
        truncate_to = (
            check_length(header.truncate_to, "truncate_to")
            if header.HasField("truncate_to")
            else None
        )
        set_status = set_status_from_wire(header.set_status)
        if set_status.length is not None:
            raise AfsError(
                AfsCode.EINVAL, "StoreData sets no length by set_status: expected truncate_to"
            )
        expected = (
            header.expected_data_version if header.HasField("expected_data_version") else None
        )
        attached = self._volumes.use(fid.volume)
        await access.require(attached, fid, file_server_rights("StoreData"))
        incoming = IncomingData(attached, fid, offset)
        try:
            await incoming.add(first.data)
            async for message in requests:
                if message.HasField("open"):
                    raise AfsError(AfsCode.EINVAL, "a second `open` in one StoreData")
                await incoming.add(message.data)
            staged = await incoming.finish()
        except BaseException:
            incoming.discard()
            raise
        # The data may have taken long to come.
        await access.require(attached, fid, file_server_rights("StoreData"))
        along = access.status_along(set_status)
        mutation = StoreData(fid, staged, truncate_to, along, expected)
        outcome = await self._change(attached, mutation, incoming)
        assert outcome.vnode is not None
        return pb.StoreDataResponse(
            status=status_to_wire(outcome.vnode),
            callback=self._writers_promise(attached, outcome.vnode),
        )


class _OpenedData:
    """A snapshot with its first piece read."""

    def __init__(self, snapshot: DataSnapshot, end: int, first: bytes) -> None:
        self.snapshot = snapshot
        self.end = end
        self.first = first

    def read(self, position: int) -> bytes:
        """The piece at `position`, up to the end of what was asked for; in a thread."""
        return self.snapshot.read(position, min(DATA_PIECE_BYTES, self.end - position))

    def close(self) -> None:
        self.snapshot.close()


def _open(volume: Volume, fid: Fid, offset: int, length: int) -> _OpenedData:
    """Opens a file and reads the first piece in one visit to a thread: most files are no longer."""
    snapshot = volume.snapshot(fid)
    try:
        end = snapshot.vnode.length
        if length:
            end = min(end, offset + length)
        opened = _OpenedData(snapshot, end, b"")
        if offset < end:
            opened.first = opened.read(offset)
        return opened
    except BaseException:
        snapshot.close()
        raise
