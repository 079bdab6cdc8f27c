"""Programs that write and read through the cluster's clients, and a judge of what they were told.

Theory of operation
    Each file has one program that writes it, through one client, version after version; programs at
    all clients read. A version's bytes say which one it is and carry their own hash. Everything is
    noted with this machine's steady clock, which all containers share; at the end the history goes
    through the checker of the simulator, in the order of time: a read may not tell of a version
    older than the protocol allows. A write that failed may or may not have been done: it counts as
    not acknowledged.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import grpc.aio

from afs.runtime.channel import open_channel
from afs.types import Fid
from afs.v1 import cache_manager_pb2 as pb
from afs.v1 import cache_manager_pb2_grpc
from tests.sim.checker import Change, Checker

# A call that lasts longer than this has not been answered; a fault of ours lasts less.
CALL_TIMEOUT_S: Final = 20.0
# Of a program that found its file unavailable.
RETRY_S: Final = 0.1
PAUSE_S: Final = 0.02
# Sizes around what lies in a volume's database (16 KiB) and what is one chunk (1 MiB).
SIZES: Final = (100, 4_000, 40_000, 1_500_000)
_HASH_BYTES: Final = 32
_NUMBER_BYTES: Final = 8


def contents(version: int, size: int) -> bytes:
    """The bytes of one version: its number, noise, and the hash of both."""
    body = version.to_bytes(_NUMBER_BYTES, "big") + random.Random(version).randbytes(size)
    return body + hashlib.sha256(body).digest()


def version_of(data: bytes) -> int:
    """Which version these bytes are; 0 for an empty file."""
    if not data:
        return 0
    body, digest = data[:-_HASH_BYTES], data[-_HASH_BYTES:]
    assert hashlib.sha256(body).digest() == digest, f"damaged: {len(data)} bytes, {data[:16]!r}"
    return int.from_bytes(body[:_NUMBER_BYTES], "big")


@dataclass(frozen=True, slots=True)
class Read:
    """One answered read."""

    client: str
    path: str
    version: int
    called_at: float
    answered_at: float
    from_cache: bool


@dataclass(frozen=True, slots=True)
class Write:
    """One acknowledged write."""

    client: str
    path: str
    version: int
    acked_at: float


@dataclass(slots=True)
class History:
    """What happened, in no order."""

    reads: list[Read] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)

    def acknowledged(self, path: str) -> int:
        """The newest version of a file that was acknowledged; 0 for none."""
        return max((write.version for write in self.writes if write.path == path), default=0)

    def judge(self, lease_s: float) -> Checker:
        """Raises ViolationError unless every read was as new as the protocol demands."""
        # Clocks of one machine run alike.
        checker = Checker(strict=False, lease_s=lease_s, slowest_rate=1.0)
        numbers = {
            path: number for number, path in enumerate(sorted({w.path for w in self.writes}))
        }
        for write in sorted(self.writes, key=lambda each: each.acked_at):
            fid = Fid(1, numbers[write.path], 1)
            change = Change({fid: write.version}, by_volume=False, writer=write.client)
            checker.acked(change, write.acked_at)
        for read in self.reads:
            if read.path in numbers:
                checker.read(
                    read.client,
                    Fid(1, numbers[read.path], 1),
                    read.version,
                    floor=0,
                    called_at=read.called_at,
                    answered_at=read.answered_at,
                    from_cache=read.from_cache,
                )
        return checker


class Client:
    """One client of the cluster, as programs on its machine use it."""

    def __init__(self, name: str, channel: grpc.aio.Channel, history: History) -> None:
        self.name = name
        self._stub: Any = cache_manager_pb2_grpc.CacheManagerStub(channel)
        self._history = history

    async def write(self, path: str, version: int, size: int) -> bool:
        """Writes a version; False if it was not acknowledged."""
        data = contents(version, size)

        async def requests() -> AsyncIterator[pb.WriteRequest]:
            yield pb.WriteRequest(open=pb.WriteOpen(path=path, create=True, truncate=True))
            for begin in range(0, len(data), 256 * 1024):
                yield pb.WriteRequest(data=data[begin : begin + 256 * 1024])

        try:
            await self._stub.Write(requests(), timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            self._failed("write", error)
            return False
        self._history.writes.append(Write(self.name, path, version, time.monotonic()))
        return True

    async def read(self, path: str) -> Read | None:
        """Reads a file; None if it was not answered."""
        called_at = time.monotonic()
        data, from_cache = bytearray(), False
        try:
            async for answer in self._stub.Read(pb.ReadRequest(path=path), timeout=CALL_TIMEOUT_S):
                data += answer.data
                from_cache |= answer.source == pb.ANSWER_SOURCE_CACHE
        except grpc.aio.AioRpcError as error:
            self._failed("read", error)
            return None
        version = version_of(bytes(data))
        read = Read(self.name, path, version, called_at, time.monotonic(), from_cache)
        self._history.reads.append(read)
        return read

    def _failed(self, what: str, error: grpc.aio.AioRpcError) -> None:
        self._history.failures[f"{what} {error.code().name}: {error.details()}"[:200]] += 1

    async def counters(self) -> dict[str, int]:
        """What the client counts."""
        answer = await self._stub.GetStatus(pb.GetStatusRequest(), timeout=CALL_TIMEOUT_S)
        return dict(answer.counters)

    async def make_directory(self, path: str) -> None:
        """A new directory."""
        await self._stub.MakeDir(pb.CacheMakeDirRequest(path=path), timeout=CALL_TIMEOUT_S)


class Workload:
    """Programs at work on the files of one volume, until it is left.

    Args:
        clients: those that take part.
        volume: its name.
        history: where everything is noted.
        files: how many.
    """

    def __init__(
        self, clients: Sequence[Client], volume: str, history: History, files: int = 6
    ) -> None:
        self._clients = clients
        self.paths = [f"/{volume}/file{number}" for number in range(files)]
        self.history = history
        self._version = 0
        self._stopping = False

    def next_version(self) -> int:
        """A number that no version had."""
        self._version += 1
        return self._version

    async def prepare(self) -> None:
        """Every file is there, in its first version, and read by everybody."""
        for number, path in enumerate(self.paths):
            done = await self._writer(number).write(path, self.next_version(), SIZES[0])
            assert done, self.history.failures
        for path in self.paths:
            for client in self._clients:
                assert await client.read(path), self.history.failures

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Programs write and read meanwhile; whatever they were doing is ended at the end."""
        self._stopping = False
        programs = [
            *(self._keep_writing(number) for number in range(len(self.paths))),
            *(self._keep_reading(client) for client in self._clients),
        ]
        tasks = [asyncio.create_task(program) for program in programs]
        try:
            yield
        finally:
            self._stopping = True
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def settled(self, clients: Iterable[Client]) -> None:
        """Every file is what was last acknowledged, or a later write of which nobody knows.

        Asked of each of these clients, which must answer.
        """
        for client in clients:
            for path in self.paths:
                read = None
                while read is None:
                    read = await client.read(path)
                newest = self.history.acknowledged(path)
                assert read.version >= newest, f"{path}: {read} but {newest} was acknowledged"

    def _writer(self, number: int) -> Client:
        return self._clients[number % len(self._clients)]

    async def _keep_writing(self, number: int) -> None:
        rng = random.Random(number)
        client, path = self._writer(number), self.paths[number]
        while not self._stopping:
            done = await client.write(path, self.next_version(), rng.choice(SIZES))
            await asyncio.sleep(PAUSE_S if done else RETRY_S)

    async def _keep_reading(self, client: Client) -> None:
        rng = random.Random(client.name)
        while not self._stopping:
            read = await client.read(rng.choice(self.paths))
            await asyncio.sleep(PAUSE_S if read else RETRY_S)


@asynccontextmanager
async def clients(addresses: dict[str, str], history: History) -> AsyncIterator[dict[str, Client]]:
    """Connections to clients, by name."""
    channels = {name: open_channel(address) for name, address in addresses.items()}
    try:
        yield {name: Client(name, channel, history) for name, channel in channels.items()}
    finally:
        for channel in channels.values():
            await channel.close()
