"""Reads directories and files of a volume from a FileServer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from afs.errors import AfsError
from afs.limits import MAX_BULK_FIDS
from afs.types import DirectoryEntry
from afs.v1 import file_server_pb2, file_server_pb2_grpc, types_pb2
from afs.wire import entry_from_wire, fid_to_wire
from afsctl.failure import CommandError, explain


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory's status and entries, sorted by the UTF-8 of their names."""

    status: types_pb2.FileStatus
    entries: list[DirectoryEntry]


async def read_directory(
    server: file_server_pb2_grpc.FileServerAsyncStub, directory: types_pb2.Fid
) -> Listing:
    """A directory's status and entries, as of one moment.

    Raises:
        CommandError: an entry has a name that none can have.
        grpc.RpcError: the call failed.
    """
    status = types_pb2.FileStatus()
    entries: list[DirectoryEntry] = []
    request = file_server_pb2.ReadDirRequest(directory=directory)
    async for message in server.ReadDir(request):
        if message.HasField("directory_status"):
            status = message.directory_status
        try:
            entries += [entry_from_wire(entry) for entry in message.entries]
        except AfsError as error:
            raise CommandError(
                f"the fileserver answered a directory that is none: {explain(error)}"
            ) from None
    return Listing(status, entries)


async def read_statuses(
    server: file_server_pb2_grpc.FileServerAsyncStub, entries: list[DirectoryEntry]
) -> list[types_pb2.FileStatus | None]:
    """The status of each entry, in order; None for one that has just gone."""
    statuses: list[types_pb2.FileStatus | None] = []
    for start in range(0, len(entries), MAX_BULK_FIDS):
        fids = [fid_to_wire(entry.fid) for entry in entries[start : start + MAX_BULK_FIDS]]
        answer = await server.BulkStatus(file_server_pb2.BulkStatusRequest(fids=fids))
        statuses += [
            result.status if result.HasField("status") else None for result in answer.results
        ]
    return statuses


class FileReader:
    """One file being fetched: its status, then its data."""

    def __init__(
        self, server: file_server_pb2_grpc.FileServerAsyncStub, fid: types_pb2.Fid
    ) -> None:
        self._call = server.FetchData(file_server_pb2.FetchDataRequest(fid=fid))
        self._received_bytes = 0
        self.status = types_pb2.FileStatus()

    async def open(self) -> types_pb2.FileStatus:
        """The file's status; before `pieces`. Raises grpc.RpcError."""
        first = await self._call.read()
        if not isinstance(first, file_server_pb2.FetchDataResponse):
            raise EOFError("the fileserver sent no status")
        self.status = first.status
        return self.status

    async def pieces(self) -> AsyncIterator[bytes]:
        """The data, piece by piece.

        Raises:
            EOFError: the stream ended before the file's length was reached.
            grpc.RpcError: the call failed.
        """
        while True:
            message = await self._call.read()
            if not isinstance(message, file_server_pb2.FetchDataResponse):
                break
            self._received_bytes += len(message.data)
            yield message.data
        if self._received_bytes != self.status.length:
            raise EOFError(
                f"the fileserver sent {self._received_bytes} of {self.status.length} bytes"
            )

    def cancel(self) -> None:
        """Ends the call; a no-op when it has ended."""
        self._call.cancel()
