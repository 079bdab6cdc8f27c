"""Reads directories and files of a volume from its FileServer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial

import grpc.aio

from afs.errors import AfsError
from afs.limits import MAX_BULK_FIDS
from afs.types import DirectoryEntry
from afs.v1 import file_server_pb2, types_pb2
from afs.wire import entry_from_wire, fid_to_wire
from afsctl.failure import CommandError, explain
from afsctl.volume_access import Server, VolumeAccess

_FetchCall = grpc.aio.UnaryStreamCall[
    file_server_pb2.FetchDataRequest, file_server_pb2.FetchDataResponse
]


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory's status and entries, sorted by the UTF-8 of their names."""

    status: types_pb2.FileStatus
    entries: list[DirectoryEntry]


async def read_directory(
    volume: VolumeAccess, directory: types_pb2.Fid, *, patient: bool = False
) -> Listing:
    """A directory's status and entries, as of one moment.

    Raises:
        CommandError: an entry has a name that none can have.
        grpc.RpcError: the call failed.
    """

    async def read(server: Server) -> Listing:
        status = types_pb2.FileStatus()
        entries: list[DirectoryEntry] = []
        async for message in server.ReadDir(file_server_pb2.ReadDirRequest(directory=directory)):
            if message.HasField("directory_status"):
                status = message.directory_status
            try:
                entries += [entry_from_wire(entry) for entry in message.entries]
            except AfsError as error:
                raise CommandError(
                    f"the fileserver answered a directory that is none: {explain(error)}"
                ) from None
        return Listing(status, entries)

    return await volume.ask(read, patient=patient)


async def read_statuses(
    volume: VolumeAccess, entries: list[DirectoryEntry]
) -> list[types_pb2.FileStatus | None]:
    """The status of each entry, in order; None for one that has just gone."""
    statuses: list[types_pb2.FileStatus | None] = []
    for start in range(0, len(entries), MAX_BULK_FIDS):
        fids = [fid_to_wire(entry.fid) for entry in entries[start : start + MAX_BULK_FIDS]]
        answer = await volume.ask(partial(_bulk_status, fids=fids))
        statuses += [
            result.status if result.HasField("status") else None for result in answer.results
        ]
    return statuses


async def _bulk_status(
    server: Server, *, fids: list[types_pb2.Fid]
) -> file_server_pb2.BulkStatusResponse:
    return await server.BulkStatus(file_server_pb2.BulkStatusRequest(fids=fids))


class FileReader:
    """One file being fetched: its status, then its data.

    Args:
        volume: the way to the volume.
        fid: of the file.
        patient: also waits for a volume that is off-line, and for a server that is not there.
    """

    def __init__(self, volume: VolumeAccess, fid: types_pb2.Fid, *, patient: bool = False) -> None:
        self._volume = volume
        self._fid = fid
        self._patient = patient
        self._call: _FetchCall | None = None
        self._received_bytes = 0
        self.status = types_pb2.FileStatus()

    async def open(self) -> types_pb2.FileStatus:
        """The file's status; before `pieces`. Raises grpc.RpcError."""
        self.status = await self._volume.ask(self._fetch, patient=self._patient)
        return self.status

    async def pieces(self) -> AsyncIterator[bytes]:
        """The data, piece by piece. Where the volume goes away in the middle, it is followed.

        Raises:
            EOFError: the stream ended before the file's length was reached, or the file was changed
                while the volume was away.
            grpc.RpcError: the call failed.
        """
        while True:
            data = await self._volume.ask(self._next_piece, patient=self._patient)
            if data is None:
                break
            self._received_bytes += len(data)
            yield data
        if self._received_bytes != self.status.length:
            raise EOFError(
                f"the fileserver sent {self._received_bytes} of {self.status.length} bytes"
            )

    def cancel(self) -> None:
        """Ends the call; a no-op when it has ended."""
        if self._call is not None:
            self._call.cancel()

    async def _next_piece(self, server: Server) -> bytes | None:
        """The next piece; None at the end. After a failure the rest is fetched anew."""
        if self._call is None:
            status = await self._fetch(server)
            if status.data_version != self.status.data_version:
                raise EOFError("the file was changed while it was being read")
        assert self._call is not None
        try:
            message = await self._call.read()
        except BaseException:
            self._call = None
            raise
        return message.data if isinstance(message, file_server_pb2.FetchDataResponse) else None

    async def _fetch(self, server: Server) -> types_pb2.FileStatus:
        """Starts to fetch what is not received yet; answers the file's status."""
        request = file_server_pb2.FetchDataRequest(fid=self._fid, offset=self._received_bytes)
        call = server.FetchData(request)
        first = await call.read()
        if not isinstance(first, file_server_pb2.FetchDataResponse):
            raise EOFError("the fileserver sent no status")
        self._call = call
        return first.status
