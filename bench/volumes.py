"""Whole volumes as measurements need them: filled, and worked on by the volserver."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from afs.limits import DATA_PIECE_BYTES, MIB
from afs.runtime.channel import open_channel
from afs.types import Fid, root_fid
from afs.v1 import file_server_pb2, file_server_pb2_grpc, vol_server_pb2, vol_server_pb2_grpc
from afs.wire import fid_from_wire, fid_to_wire

GIB: Final = 1024 * MIB
# Files of one directory: what a large tree has.
FILES_PER_DIRECTORY: Final = 1000
# Files that are made at a time.
_LANES: Final = 32


class Contents:
    """Files of one volume, through FileServer without a client."""

    def __init__(self, files: Any, volume: int) -> None:
        self._files = files
        self._volume = volume

    async def fill(self, count: int, size: int) -> list[Fid]:
        """Makes files of random bytes, 1,000 a directory; their Fids in no order."""
        directories = -(-count // FILES_PER_DIRECTORY)
        made: list[Fid] = []
        for number in range(directories):
            begin = number * FILES_PER_DIRECTORY
            names = range(begin, min(begin + FILES_PER_DIRECTORY, count))
            directory = await self._make_directory(f"d{number}")
            lanes = (
                self._fill_lane(directory, names[lane::_LANES], size) for lane in range(_LANES)
            )
            made += [fid for lane in await asyncio.gather(*lanes) for fid in lane]
        return made

    async def change(self, fids: Iterable[Fid], size: int) -> None:
        """Gives files new random bytes."""
        for fid in fids:
            await self.store(fid, os.urandom(size))

    async def store(self, fid: Fid, data: bytes) -> None:
        """Writes a file's data."""

        async def requests() -> AsyncIterator[file_server_pb2.StoreDataRequest]:
            opening = file_server_pb2.StoreDataOpen(fid=fid_to_wire(fid), truncate_to=0)
            yield file_server_pb2.StoreDataRequest(open=opening, data=data[:DATA_PIECE_BYTES])
            for begin in range(DATA_PIECE_BYTES, len(data), DATA_PIECE_BYTES):
                piece = data[begin : begin + DATA_PIECE_BYTES]
                yield file_server_pb2.StoreDataRequest(data=piece)

        await self._files.StoreData(requests())

    async def _make_directory(self, name: str) -> Fid:
        request = file_server_pb2.MakeDirRequest(
            directory=fid_to_wire(root_fid(self._volume)), name=name
        )
        return fid_from_wire((await self._files.MakeDir(request)).status.fid)

    async def _fill_lane(self, directory: Fid, names: Sequence[int], size: int) -> list[Fid]:
        made = []
        for name in names:
            request = file_server_pb2.CreateFileRequest(
                directory=fid_to_wire(directory), name=f"f{name}"
            )
            fid = fid_from_wire((await self._files.CreateFile(request)).status.fid)
            await self.store(fid, os.urandom(size))
            made.append(fid)
        return made


@asynccontextmanager
async def contents(file_server: str, volume: int) -> AsyncIterator[Contents]:
    """The files of a volume at a fileserver."""
    async with open_channel(file_server) as channel:
        yield Contents(file_server_pb2_grpc.FileServerStub(channel), volume)


class VolServerCalls:
    """VolServer methods that answer in a stream, as one call each."""

    def __init__(self, stub: Any) -> None:
        self.stub = stub

    async def create(self, name: str, partition: str = "") -> int:
        """A new volume; its id."""
        answer = await self.stub.Create(
            vol_server_pb2.CreateRequest(name=name, partition=partition)
        )
        volume_id: int = answer.volume.volume_id
        return volume_id

    async def move(self, volume: str, server: str, partition: str) -> vol_server_pb2.Sent:
        """Moves a volume; what was sent."""
        answer = await _last(
            self.stub.Move(
                vol_server_pb2.MoveRequest(volume=volume, to_server=server, to_partition=partition)
            )
        )
        sent: vol_server_pb2.Sent = answer.sent
        return sent

    async def remove(self, volume: str) -> None:
        """Removes a volume."""
        await self.stub.Delete(vol_server_pb2.DeleteRequest(volume=volume))

    async def clone(self, volume: str, new_name: str) -> float:
        """Clones a volume; how many seconds that took."""
        request = vol_server_pb2.CloneRequest(volume=volume, new_name=new_name)
        began = time.perf_counter()
        await _last(self.stub.Clone(request))
        return time.perf_counter() - began

    async def add_site(self, volume: str, server: str, partition: str) -> None:
        """A place for read-only copies."""
        await self.stub.AddSite(
            vol_server_pb2.AddSiteRequest(volume=volume, server=server, partition=partition)
        )

    async def release(self, volume: str) -> Sequence[vol_server_pb2.SiteOutcome]:
        """Releases a volume; how that ended at each site."""
        answer = await _last(self.stub.Release(vol_server_pb2.ReleaseRequest(volume=volume)))
        sites: Sequence[vol_server_pb2.SiteOutcome] = answer.sites
        return sites

    async def dump(self, volume: str, to: Path) -> float:
        """Dumps a volume to a file; how many seconds that took."""
        began = time.perf_counter()
        with to.open("wb") as file:
            async for answer in self.stub.Dump(vol_server_pb2.DumpRequest(volume=volume)):
                file.write(answer.data)
        return time.perf_counter() - began

    async def restore(self, name: str, dump: Path, partition: str = "") -> float:
        """Makes a volume of a dump; how many seconds that took."""

        async def requests() -> AsyncIterator[vol_server_pb2.RestoreRequest]:
            yield vol_server_pb2.RestoreRequest(
                open=vol_server_pb2.RestoreOpen(name=name, partition=partition)
            )
            with dump.open("rb") as file:
                while piece := file.read(DATA_PIECE_BYTES):
                    yield vol_server_pb2.RestoreRequest(data=piece)

        began = time.perf_counter()
        await self.stub.Restore(requests())
        return time.perf_counter() - began


@asynccontextmanager
async def vol_server(address: str) -> AsyncIterator[VolServerCalls]:
    """The methods of one volserver."""
    async with open_channel(address) as channel:
        yield VolServerCalls(vol_server_pb2_grpc.VolServerStub(channel))


async def _last(answers: Any) -> Any:
    """The last message of a stream; those before it tell of progress."""
    last = [answer async for answer in answers][-1:]
    assert last, "the stream ended without an answer"
    return last[0]


def database(partition: Path, volume: int) -> Path:
    """The SQLite file of a volume."""
    (path,) = (partition / "groups").glob(f"*/{volume}.db")
    return path
