"""A whole fileserver in the test's process, and clients that call it over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import grpc.aio
import pytest

from afs.errors import AfsCode, AfsError
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.types import Fid, root_fid
from afs.v1 import (
    callback_channel_pb2,
    callback_channel_pb2_grpc,
    file_server_pb2_grpc,
    fssync_pb2,
    fssync_pb2_grpc,
)
from afs.v1 import file_server_pb2 as pb
from afs.volume.partition import Partition
from afs.wire import fid_from_wire, fid_to_wire
from afsd.app import FileServerDaemon
from afsd.config import AfsdConfig

VOLUME = 536870913
SECOND_VOLUME = 536870916
ROOT = root_fid(VOLUME)
# Nothing here takes long; a test that waits this long has failed.
PATIENCE_S = 20.0

T = TypeVar("T")


class Break(NamedTuple):
    """One break that a client was sent."""

    targets: tuple[tuple[int, int, int], ...]
    reason: int
    sequence: int


class Client:
    """One client of the fileserver, with a callback channel once `attach` was called.

    Attributes:
        breaks: what it was sent, oldest first.
        resets, kept: how often it was told to forget its promises, and to keep them.
        session: what it holds, by the name that hello gives it.
        acks: whether it acknowledges breaks; a hung client does not.
    """

    def __init__(self, address: str, *, anonymous: bool = False) -> None:
        self.uuid = str(uuid4())
        self.metadata: tuple[tuple[str, str], ...] = (
            () if anonymous else (("afs-host-uuid", self.uuid),)
        )
        self.breaks: list[Break] = []
        self.resets = 0
        self.kept = 0
        self.session: callback_channel_pb2.CallBackSession | None = None
        self.acks = True
        self.channel = open_channel(address)
        self.files = file_server_pb2_grpc.FileServerStub(self.channel)
        self._attach: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()

    async def attach(self) -> Client:
        """Opens the callback channel; returns when the first message was acknowledged."""
        stub = callback_channel_pb2_grpc.CallBackChannelStub(self.channel)
        self._attach = stub.Attach(metadata=self.metadata)
        hello = callback_channel_pb2.Hello(client="test", resumes=self.session)
        await self._attach.write(callback_channel_pb2.AttachRequest(hello=hello))
        self._reader = asyncio.create_task(self._read())
        await self.until(lambda: self.resets + self.kept > 0)
        # Any call returns only when the fileserver has seen the ack of the reset (I3).
        await self.call(self.files.GetTime, pb.GetTimeRequest())
        return self

    async def _read(self) -> None:
        async for message in self._attach:
            kind = message.WhichOneof("message")
            if kind == "init_callback_state":
                init = message.init_callback_state
                if init.kept:
                    self.kept += 1
                else:
                    self.resets += 1
                    self.session = callback_channel_pb2.CallBackSession(
                        epoch=init.epoch, sequence=init.sequence
                    )
                await self.ack(init.sequence)
            elif kind == "break":
                told = getattr(message, "break")
                targets = tuple((t.volume, t.vnode, t.uniquifier) for t in told.targets)
                self.breaks.append(Break(targets, told.reason, told.sequence))
                if self.acks:
                    await self.ack(told.sequence)
            async with self._changed:
                self._changed.notify_all()

    def of_next_life(self, address: str) -> Client:
        """The same client, holding what it holds, that is to call the restarted fileserver."""
        again = Client(address)
        again.uuid, again.metadata, again.session = self.uuid, self.metadata, self.session
        return again

    async def ack(self, sequence: int) -> None:
        """Acknowledges a message."""
        ack = callback_channel_pb2.Ack(sequence=sequence)
        await self._attach.write(callback_channel_pb2.AttachRequest(ack=ack))

    async def until(self, condition: Any) -> None:
        """Waits until something that changes with a message is true."""
        async with asyncio.timeout(PATIENCE_S), self._changed:
            await self._changed.wait_for(condition)

    async def until_closed(self) -> None:
        """Waits until the fileserver has ended the callback channel."""
        assert self._reader is not None
        async with asyncio.timeout(PATIENCE_S):
            with suppress(grpc.aio.AioRpcError):
                await self._reader

    async def broken(self, target: Sequence[int]) -> Break:
        """The first break of a Fid, as soon as it is there."""

        def found() -> list[Break]:
            return [told for told in self.breaks if tuple(target) in told.targets]

        await self.until(found)
        return found()[0]

    async def close(self) -> None:
        """Hangs up."""
        if self._reader is not None:
            self._attach.cancel()
            self._reader.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
                await self._reader
        await self.channel.close()

    # --- calls ------------------------------------------------------------------------------------

    async def call(self, method: Any, request: Any) -> Any:
        """What a unary call answers; AfsError for a failure."""
        try:
            return await method(request, metadata=self.metadata, timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None

    async def stream(self, method: Any, request: Any) -> list[Any]:
        """Everything a streaming call answers; AfsError for a failure."""
        try:
            call = method(request, metadata=self.metadata, timeout=PATIENCE_S)
            return [message async for message in call]
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None

    async def status(self, fid: Fid) -> Any:
        """FetchStatus."""
        return await self.call(self.files.FetchStatus, pb.FetchStatusRequest(fid=fid_to_wire(fid)))

    async def create(self, name: str, directory: Fid = ROOT) -> Fid:
        """A new empty file."""
        request = pb.CreateFileRequest(directory=fid_to_wire(directory), name=name)
        return fid_from_wire((await self.call(self.files.CreateFile, request)).status.fid)

    async def make_dir(self, name: str, directory: Fid = ROOT) -> Fid:
        """A new directory."""
        request = pb.MakeDirRequest(directory=fid_to_wire(directory), name=name)
        return fid_from_wire((await self.call(self.files.MakeDir, request)).status.fid)

    async def store(self, fid: Fid, *pieces: bytes, **header: Any) -> Any:
        """StoreData of some pieces."""

        async def requests() -> AsyncIterator[pb.StoreDataRequest]:
            yield pb.StoreDataRequest(open=pb.StoreDataOpen(fid=fid_to_wire(fid), **header))
            for piece in pieces:
                yield pb.StoreDataRequest(data=piece)

        return await self.call(self.files.StoreData, requests())

    async def fetch(self, fid: Fid, offset: int = 0, length: int = 0) -> tuple[Any, bytes]:
        """FetchData: its first message, and the data."""
        request = pb.FetchDataRequest(fid=fid_to_wire(fid), offset=offset, length=length)
        first, *rest = await self.stream(self.files.FetchData, request)
        return first, b"".join(message.data for message in rest)

    async def names(self, directory: Fid = ROOT) -> list[str]:
        """The names in a directory."""
        request = pb.ReadDirRequest(directory=fid_to_wire(directory))
        answers = await self.stream(self.files.ReadDir, request)
        return [entry.name for answer in answers for entry in answer.entries]


class RunningFileServer:
    """A fileserver with its clients."""

    def __init__(self, daemon: FileServerDaemon) -> None:
        self.daemon = daemon
        self._clients: list[Client] = []
        self._fssync = open_channel(daemon.fssync_addresses[0])

    async def client(
        self, *, anonymous: bool = False, shows: tuple[tuple[str, str], ...] = ()
    ) -> Client:
        """A client, attached unless it is anonymous; `shows` is further metadata of its calls."""
        client = Client(self.daemon.addresses[0], anonymous=anonymous)
        client.metadata += shows
        self._clients.append(client)
        return client if anonymous else await client.attach()

    async def fssync(
        self, command: str, volume: int = VOLUME, program: str = "volserver", **further: Any
    ) -> fssync_pb2.VolumeOpResponse:
        """One FSSync command, by its name without the prefix."""
        request = fssync_pb2.VolumeOpRequest(
            command=fssync_pb2.FsyncCommand.Value(f"FSYNC_{command}"),
            volume_id=volume,
            program=program,
            **further,
        )
        try:
            return await fssync_pb2_grpc.FSSyncStub(self._fssync).VolumeOp(
                request, timeout=PATIENCE_S
            )
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None

    def watch_breaks(self, volume: int = VOLUME) -> Any:
        """FSSync.WatchBreaks, under way."""
        request = fssync_pb2.WatchBreaksRequest(volume_id=volume)
        return fssync_pb2_grpc.FSSyncStub(self._fssync).WatchBreaks(request, timeout=PATIENCE_S)

    async def close(self) -> None:
        """Hangs up all clients and stops the fileserver."""
        for client in self._clients:
            await client.close()
        await self._fssync.close()
        await self.daemon.stop()


def make_volumes(partition: Path, *volumes: int, max_quota_kib: int = 0) -> None:
    """New empty volumes on a partition, which may be new as well."""
    partition.mkdir(parents=True, exist_ok=True)
    opened = Partition.open(partition, holder="test")
    for volume in volumes:
        opened.create_volume(
            volume_id=volume, name=f"v{volume}", max_quota_kib=max_quota_kib
        ).close()
    opened.close()


@asynccontextmanager
async def fileserver(
    root: Path,
    volumes: Sequence[int] = (VOLUME, SECOND_VOLUME),
    *,
    max_quota_kib: int = 0,
    partitions: Sequence[str] = ("vicepa",),
    listen: str = "127.0.0.1:0",
    **settings: Any,
) -> AsyncIterator[RunningFileServer]:
    """A fileserver on these partitions under `root`.

    The volumes are made on the first one if that is new.
    """
    paths = [root / name for name in partitions]
    if not paths[0].exists():
        await asyncio.to_thread(make_volumes, paths[0], *volumes, max_quota_kib=max_quota_kib)
    config = AfsdConfig(listen=[listen], run_dir=root / "run", partitions=paths, **settings)
    running = RunningFileServer(await FileServerDaemon.start(config))
    try:
        yield running
    finally:
        await running.close()


@asynccontextmanager
async def refused(*codes: AfsCode) -> AsyncIterator[None]:
    """What is inside must fail with one of these codes and one line of detail."""
    with pytest.raises(AfsError) as caught:
        yield
    assert caught.value.code in codes, caught.value
    assert caught.value.detail
    assert "\n" not in caught.value.detail
