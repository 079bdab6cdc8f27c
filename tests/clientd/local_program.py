"""A local program's side of CacheManager, in short words, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc.aio

from afs.limits import MIB
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.runtime.clock import Clock
from afs.v1 import cache_manager_pb2 as pb
from afs.v1 import cache_manager_pb2_grpc, types_pb2
from clientd.app import Clientd
from clientd.config import ClientdConfig
from clientd.services import Services

CACHE = pb.ANSWER_SOURCE_CACHE
REVALIDATED = pb.ANSWER_SOURCE_REVALIDATED
FILE_SERVER = pb.ANSWER_SOURCE_FILE_SERVER
PATIENCE_S = 20.0


class Answer(NamedTuple):
    """What Read answered."""

    data: bytes
    source: int
    status: types_pb2.FileStatus


class LocalProgram:
    """Calls one clientd; errors come as AfsError.

    Attributes:
        client: the daemon, to look inside.
        stub: for calls that have no short word.
    """

    def __init__(self, client: Clientd) -> None:
        self.client = client
        self.channel = open_channel(client.addresses[0])
        self.stub: Any = cache_manager_pb2_grpc.CacheManagerStub(self.channel)

    async def read(self, path: str, offset: int = 0, length: int = 0) -> Answer:
        """Reads; what a client in this process fetched is in its disk cache on return."""
        data = bytearray()
        first: pb.ReadResponse | None = None
        try:
            async for response in self.stub.Read(
                pb.ReadRequest(path=path, offset=offset, length=length)
            ):
                first = first or response
                data += response.data
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None
        assert first is not None
        # The answer does not wait for the cache's disk; what a test looks at next may.
        services: Services | None = getattr(self.client, "services", None)
        if services is not None:
            await services.disk.settle()
        return Answer(bytes(data), first.source, first.status)

    async def stat(self, path: str, *, no_follow: bool = False) -> pb.StatResponse:
        """Stats."""
        request = pb.StatRequest(path=path, no_follow=no_follow)
        response: pb.StatResponse = await self.call(self.stub.Stat(request))
        return response

    async def list(self, path: str) -> tuple[list[str], int]:
        """Names and source."""
        names: list[str] = []
        source = 0
        try:
            async for response in self.stub.List(pb.ListRequest(path=path)):
                names += [entry.name for entry in response.entries]
                source = source or response.source
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None
        return names, source

    async def write(
        self, path: str, data: bytes | Iterable[bytes], **options: Any
    ) -> types_pb2.FileStatus:
        """Writes a whole file, made if need be; `options` of WriteOpen override that."""
        opening = pb.WriteOpen(path=path, **({"create": True, "truncate": True} | options))
        pieces = [data] if isinstance(data, bytes) else data

        async def requests() -> AsyncIterator[pb.WriteRequest]:
            yield pb.WriteRequest(open=opening)
            for piece in pieces:
                for at in range(0, len(piece), MIB):
                    yield pb.WriteRequest(data=piece[at : at + MIB])

        response = await self.call(self.stub.Write(requests()))
        status: types_pb2.FileStatus = response.status
        return status

    async def make_dir(self, path: str) -> types_pb2.FileStatus:
        """Makes a directory."""
        response = await self.call(self.stub.MakeDir(pb.CacheMakeDirRequest(path=path)))
        status: types_pb2.FileStatus = response.status
        return status

    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Removes."""
        await self.call(self.stub.Remove(pb.RemoveRequest(path=path, recursive=recursive)))

    async def rename(self, old: str, new: str) -> types_pb2.FileStatus:
        """Renames."""
        request = pb.CacheRenameRequest(old_path=old, new_path=new)
        response = await self.call(self.stub.Rename(request))
        status: types_pb2.FileStatus = response.status
        return status

    async def symlink(self, path: str, target: str) -> types_pb2.FileStatus:
        """Makes a symbolic link."""
        request = pb.CacheSymlinkRequest(path=path, target=target)
        response = await self.call(self.stub.Symlink(request))
        status: types_pb2.FileStatus = response.status
        return status

    async def status(self) -> pb.GetStatusResponse:
        """GetStatus."""
        response: pb.GetStatusResponse = await self.call(self.stub.GetStatus(pb.GetStatusRequest()))
        return response

    async def counters(self) -> dict[str, int]:
        """The counters of GetStatus."""
        return dict((await self.status()).counters)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Polls until something holds, for PATIENCE_S at most."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                await asyncio.sleep(0.005)

    async def until_leased(self) -> None:
        """Waits until the lease of every fileserver runs."""
        servers = self.client.services.servers
        await self.until(lambda: all(status.channel == "attached" for status in servers.statuses()))

    @staticmethod
    async def call(call: Any) -> Any:
        """The answer to any call."""
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None


def client_config(folder: Path, location: str, **keys: Any) -> ClientdConfig:
    """A configuration for tests: ephemeral port, cache under `folder`."""
    ours = {
        "listen": ["127.0.0.1:0"],
        "location": location,
        "cache_dir": folder / "cache",
        "run_dir": folder / "run",
    }
    return ClientdConfig.model_validate(ours | keys)


@asynccontextmanager
async def running_client(
    folder: Path, location: str, clock: Clock | None = None, **keys: Any
) -> AsyncIterator[LocalProgram]:
    """A clientd in this process, and a program that calls it."""
    client = await Clientd.start(client_config(folder, location, **keys), clock)
    program = LocalProgram(client)
    try:
        yield program
    finally:
        await program.channel.close()
        await client.stop()
