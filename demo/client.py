"""A program that uses one clientd: walks, reads and writes through its CacheManager."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import blake2b
from types import TracebackType
from typing import Any, Self

from afs.runtime.channel import open_channel
from afs.v1 import cache_manager_pb2 as pb
from afs.v1 import cache_manager_pb2_grpc, types_pb2

# Files that one client reads at a time.
READERS = 8


@dataclass(frozen=True, slots=True)
class Content:
    """What a read answered: a digest of the data, and whether the cache alone answered."""

    digest: str
    size: int
    from_cache: bool


def digest_of(data: bytes) -> str:
    """What contents are compared by."""
    return blake2b(data, digest_size=16).hexdigest()


class DemoClient:
    """One client.

    Attributes:
        name: for people.
    """

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self._channel = open_channel(address)
        self._stub: Any = cache_manager_pb2_grpc.CacheManagerStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._channel.close()

    async def data(self, path: str) -> bytes:
        """The contents of a file."""
        pieces = [message.data async for message in self._stub.Read(pb.ReadRequest(path=path))]
        return b"".join(pieces)

    async def read(self, path: str) -> Content:
        """Reads a file."""
        hasher, size, source = blake2b(digest_size=16), 0, pb.ANSWER_SOURCE_UNSPECIFIED
        async for message in self._stub.Read(pb.ReadRequest(path=path)):
            source = message.source or source
            hasher.update(message.data)
            size += len(message.data)
        return Content(hasher.hexdigest(), size, source == pb.ANSWER_SOURCE_CACHE)

    async def read_tree(self, root: str) -> dict[str, Content]:
        """Reads every file below a directory; by path."""
        found: dict[str, Content] = {}
        paths = [path async for path in self._files(root)]

        async def reader(mine: list[str]) -> None:
            for path in mine:
                found[path] = await self.read(path)

        await asyncio.gather(*(reader(paths[lane::READERS]) for lane in range(READERS)))
        return found

    async def _files(self, root: str) -> AsyncIterator[str]:
        directories = [root]
        while directories:
            directory = directories.pop()
            async for message in self._stub.List(pb.ListRequest(path=directory)):
                for entry in message.entries:
                    path = f"{directory}/{entry.name}"
                    if entry.type == types_pb2.VNODE_TYPE_DIRECTORY:
                        directories.append(path)
                    elif entry.type == types_pb2.VNODE_TYPE_FILE:
                        yield path

    async def write(self, path: str, data: bytes) -> None:
        """Replaces a file, or makes it; durable at the fileserver when this returns."""

        async def requests() -> AsyncIterator[pb.WriteRequest]:
            yield pb.WriteRequest(open=pb.WriteOpen(path=path, create=True, truncate=True))
            yield pb.WriteRequest(data=data)

        await self._stub.Write(requests())

    async def counters(self) -> dict[str, int]:
        """The client's own counters."""
        return dict((await self._stub.GetStatus(pb.GetStatusRequest())).counters)
