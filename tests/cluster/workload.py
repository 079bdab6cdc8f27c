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
# Of what a failed call said.
MAX_SAID_CHARS: Final = 200
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
    """One acknowledged change: a write, or a release, which shows every file of a volume anew.

    `client`: who wrote; empty for a release. `versions`: what is there since then, by path.
    """

    client: str
    versions: dict[str, int]
    called_at: float
    acked_at: float

    @property
    def took_s(self) -> float:
        """From the call to its acknowledgement."""
        return self.acked_at - self.called_at


@dataclass(slots=True)
class History:
    """What happened, in no order; times are this machine's steady clock."""

    reads: list[Read] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    failures: list[tuple[float, str]] = field(default_factory=list)

    def acknowledged(self, path: str, by: float = float("inf")) -> int:
        """The newest version of a file that was acknowledged by then; 0 for none."""
        return max(
            (each.versions.get(path, 0) for each in self.writes if each.acked_at <= by), default=0
        )

    def failed(self, what: str) -> None:
        """A call was not answered as it was meant to be."""
        self.failures.append((time.monotonic(), what))

    def told_of(self, what: str) -> bool:
        """True if a program was told of a failure with these words."""
        return any(what in failure for _, failure in self.failures)

    def slowest_ack_s(self, clients: Iterable[str]) -> float:
        """How long one of these clients waited at most for the acknowledgement of a write."""
        return max(write.took_s for write in self.writes if write.client in clients)

    def forget(self) -> None:
        """Only what is still to be seen remains: the newest acknowledged version of each file."""
        newest: dict[str, Write] = {}
        for write in sorted(self.writes, key=lambda each: each.acked_at):
            for path, version in write.versions.items():
                if path not in newest or version >= newest[path].versions[path]:
                    newest[path] = write
        self.writes = [each for each in self.writes if each in newest.values()]
        self.reads.clear()
        self.failures.clear()

    def judge(self, lease_s: float) -> Checker:
        """Raises ViolationError unless every read was as new as the protocol demands."""
        # Clocks of one machine run alike.
        checker = Checker(strict=False, lease_s=lease_s, slowest_rate=1.0)
        paths = sorted({path for write in self.writes for path in write.versions})
        fids = {path: Fid(1, number, 1) for number, path in enumerate(paths)}
        # In the order of time: a client's own changes count for what it is asked from then on.
        changes = sorted(self.writes, key=lambda each: each.acked_at)
        asked = sorted(self.reads, key=lambda each: each.called_at)
        floors: list[int] = []
        for read in asked:
            while changes and changes[0].acked_at <= read.called_at:
                _acknowledge(checker, changes.pop(0), fids)
            floors.append(checker.floor(read.client, fids[read.path]) if read.path in fids else 0)
        for change in changes:
            _acknowledge(checker, change, fids)
        for read, floor in zip(asked, floors, strict=True):
            if read.path in fids:
                checker.read(
                    read.client,
                    fids[read.path],
                    read.version,
                    floor=floor,
                    called_at=read.called_at,
                    answered_at=read.answered_at,
                    from_cache=read.from_cache,
                )
        return checker


def _acknowledge(checker: Checker, write: Write, fids: dict[str, Fid]) -> None:
    versions = {fids[path]: version for path, version in write.versions.items()}
    writer = write.client or None
    checker.acked(Change(versions, by_volume=writer is None, writer=writer), write.acked_at)
    if writer:
        checker.own_change(writer, versions)


class Client:
    """One client of the cluster, as programs on its machine use it."""

    def __init__(self, name: str, address: str, history: History) -> None:
        self.name = name
        self._history = history
        self._channels: list[grpc.aio.Channel] = []
        self._address = ""
        self.connect(address)

    def connect(self, address: str) -> None:
        """From now on the client is called at this address."""
        if address == self._address:
            return
        self._address = address
        channel = open_channel(address)
        self._channels.append(channel)
        self._stub: Any = cache_manager_pb2_grpc.CacheManagerStub(channel)

    async def close(self) -> None:
        """Ends its connections."""
        for channel in self._channels:
            await channel.close()

    async def write(self, path: str, version: int, size: int) -> bool:
        """Writes a version; False if it was not acknowledged."""
        data = contents(version, size)

        async def requests() -> AsyncIterator[pb.WriteRequest]:
            yield pb.WriteRequest(open=pb.WriteOpen(path=path, create=True, truncate=True))
            for begin in range(0, len(data), 256 * 1024):
                yield pb.WriteRequest(data=data[begin : begin + 256 * 1024])

        called_at = time.monotonic()
        try:
            await self._stub.Write(requests(), timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            self._failed(f"write {path}", error)
            return False
        except asyncio.CancelledError:
            # Also how gRPC tells that a connection broke while it took our messages.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self._history.failed(f"{self.name}: write {path}: the connection broke")
            return False
        write = Write(self.name, {path: version}, called_at, time.monotonic())
        self._history.writes.append(write)
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
            self._failed(f"read {path}", error)
            return None
        version = version_of(bytes(data))
        read = Read(self.name, path, version, called_at, time.monotonic(), from_cache)
        self._history.reads.append(read)
        return read

    def _failed(self, what: str, error: grpc.aio.AioRpcError) -> None:
        said = f"{self.name}: {what}: {error.code().name}: {error.details()}"
        self._history.failed(said[:MAX_SAID_CHARS])


class Workload:
    """Programs at work on the files of one volume, until it is left.

    Args:
        clients: those that take part.
        volume: its name.
        history: where everything is noted.
        files: how many.
        pause_s: between two calls of a program.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        volume: str,
        history: History,
        *,
        files: int = 6,
        pause_s: float = PAUSE_S,
    ) -> None:
        self._clients = clients
        self.paths = [f"/{volume}/file{number}" for number in range(files)]
        self.history = history
        # Written once.
        self.paths_at_rest: list[str] = []
        # The same in the read-only volume, once there is one.
        self.released: list[str] = []
        self._volume = volume
        self._pause_s = pause_s
        self._version = 0
        self._stopping = False

    def next_version(self) -> int:
        """A number that no version had."""
        self._version += 1
        return self._version

    def was_released(self, called_at: float) -> None:
        """The read-only volume shows what was acknowledged before its release was asked for."""
        versions = {
            self._read_only(path): self.history.acknowledged(path, by=called_at)
            for path in self.paths
        }
        self.history.writes.append(Write("", versions, called_at, time.monotonic()))
        self.released = list(versions)

    def _read_only(self, path: str) -> str:
        return path.replace(self._volume, f"{self._volume}.readonly")

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

        Asked of each of these clients, which must answer; of files at rest each is asked some.
        """
        those = list(clients)
        await asyncio.gather(
            *(
                self._settled(client, [*self.paths, *self.paths_at_rest[number :: len(those)]])
                for number, client in enumerate(those)
            )
        )

    async def _settled(self, client: Client, paths: Iterable[str]) -> None:
        for path in paths:
            while (read := await client.read(path)) is None:
                await asyncio.sleep(RETRY_S)
            newest = self.history.acknowledged(path)
            assert read.version >= newest, f"{path}: {read} but {newest} was acknowledged"

    def _writer(self, number: int) -> Client:
        return self._clients[number % len(self._clients)]

    async def _keep_writing(self, number: int) -> None:
        rng = random.Random(number)
        client, path = self._writer(number), self.paths[number]
        while not self._stopping:
            done = await client.write(path, self.next_version(), rng.choice(SIZES))
            await asyncio.sleep(self._pause_s if done else RETRY_S)

    async def _keep_reading(self, client: Client) -> None:
        rng = random.Random(client.name)
        while not self._stopping:
            read = await client.read(rng.choice([*self.paths, *self.released]))
            await asyncio.sleep(self._pause_s if read else RETRY_S)


@asynccontextmanager
async def clients(addresses: dict[str, str], history: History) -> AsyncIterator[dict[str, Client]]:
    """Connections to clients, by name."""
    connected = {name: Client(name, address, history) for name, address in addresses.items()}
    try:
        yield connected
    finally:
        for client in connected.values():
            await client.close()
