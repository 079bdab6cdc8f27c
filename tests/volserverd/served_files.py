"""Files of a volume, written and read through the fileserver that serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.types import root_fid
from afs.v1 import file_server_pb2 as pb
from afs.v1 import file_server_pb2_grpc, types_pb2
from afs.wire import fid_to_wire

_PIECE_BYTES = 1024 * 1024
_DEADLINE_S = 20.0


class ServedFiles:
    """The files in a volume's root directory, at one fileserver."""

    def __init__(self, file_server: str, volume_id: int) -> None:
        self._channel = open_channel(file_server)
        self._stub: Any = file_server_pb2_grpc.FileServerStub(self._channel)
        self._root = fid_to_wire(root_fid(volume_id))

    async def __aenter__(self) -> ServedFiles:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    async def write(self, name: str, data: bytes) -> None:
        """The file has this data; made if it is not there. AfsError for a failure."""
        try:
            await self._store(await self._fid(name), data)
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None

    async def read(self, name: str) -> bytes:
        """The file's data. AfsError for a failure."""
        try:
            request = pb.LookupRequest(directory=self._root, name=name)
            found = await self._stub.Lookup(request, timeout=_DEADLINE_S)
            reading = self._stub.FetchData(
                pb.FetchDataRequest(fid=found.status.fid), timeout=_DEADLINE_S
            )
            return b"".join([piece.data async for piece in reading])
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None

    async def _fid(self, name: str) -> types_pb2.Fid:
        try:
            request = pb.LookupRequest(directory=self._root, name=name)
            found = await self._stub.Lookup(request, timeout=_DEADLINE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            create = pb.CreateFileRequest(directory=self._root, name=name)
            found = await self._stub.CreateFile(create, timeout=_DEADLINE_S)
        fid: types_pb2.Fid = found.status.fid
        return fid

    async def _store(self, fid: types_pb2.Fid, data: bytes) -> None:
        async def requests() -> AsyncIterator[pb.StoreDataRequest]:
            yield pb.StoreDataRequest(open=pb.StoreDataOpen(fid=fid, truncate_to=0))
            for start in range(0, len(data), _PIECE_BYTES):
                yield pb.StoreDataRequest(data=data[start : start + _PIECE_BYTES])

        await self._stub.StoreData(requests(), timeout=_DEADLINE_S)
