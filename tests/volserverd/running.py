"""A volserver in the test's process, and calls to it over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from afs.errors import AfsCode, AfsError
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.runtime.clock import Clock
from afs.v1 import vol_server_pb2 as pb
from afs.v1 import vol_server_pb2_grpc, volume_location_pb2, volume_location_pb2_grpc
from volserverd.app import VolserverDaemon
from volserverd.config import VolserverdConfig

# Nothing here takes long; a test that waits this long has failed.
PATIENCE_S = 20.0
FILE_SERVER = "127.0.0.1:7000"


class VolServerCalls:
    """Calls a volserver by its addresses."""

    def __init__(self, vol_server: str, location: str) -> None:
        self.location_address = location
        self.channel = open_channel(vol_server)
        self.location_channel = open_channel(location)
        self.stub: Any = vol_server_pb2_grpc.VolServerStub(self.channel)
        self.location_stub: Any = volume_location_pb2_grpc.VolumeLocationStub(self.location_channel)

    async def close(self) -> None:
        """Hangs up."""
        await self.channel.close()
        await self.location_channel.close()

    async def call(self, method: Any, request: Any) -> Any:
        """What a unary call answers; AfsError for a failure."""
        try:
            return await method(request, timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None

    async def stream(self, method: Any, request: Any) -> list[Any]:
        """Everything a streaming call answers; AfsError for a failure."""
        try:
            return [message async for message in method(request, timeout=PATIENCE_S)]
        except grpc.aio.AioRpcError as error:
            raise afs_error_from_rpc(error) from None

    # --- VolServer --------------------------------------------------------------------------------

    async def create(self, name: str = "demo", **further: Any) -> Any:
        """Create."""
        request = pb.CreateRequest(name=name, **further)
        return (await self.call(self.stub.Create, request)).volume

    async def delete(self, volume: str = "demo") -> int:
        """Delete."""
        answer = await self.call(self.stub.Delete, pb.DeleteRequest(volume=volume))
        return int(answer.volume_id)

    async def backup(self, volume: str = "demo") -> list[pb.BackupResponse]:
        """Backup: all messages."""
        return await self.stream(self.stub.Backup, pb.BackupRequest(volume=volume))

    async def dump(self, volume: str = "demo") -> bytes:
        """Dump."""
        messages = await self.stream(self.stub.Dump, pb.DumpRequest(volume=volume))
        return b"".join(message.data for message in messages)

    async def restore(
        self, data: bytes | Iterable[bytes], name: str = "demo", **opening: Any
    ) -> Any:
        """Restore."""
        pieces = [data] if isinstance(data, bytes) else data

        async def requests() -> AsyncIterator[pb.RestoreRequest]:
            yield pb.RestoreRequest(open=pb.RestoreOpen(name=name, **opening))
            for piece in pieces:
                yield pb.RestoreRequest(data=piece)

        return await self.call(self.stub.Restore, requests())

    async def offline(self, volume: str = "demo") -> Any:
        """Offline."""
        return (await self.call(self.stub.Offline, pb.OfflineRequest(volume=volume))).volume

    async def online(self, volume: str = "demo") -> Any:
        """Online."""
        return await self.call(self.stub.Online, pb.OnlineRequest(volume=volume))

    async def set_quota(self, max_quota_kib: int, volume: str = "demo") -> Any:
        """SetFields."""
        request = pb.SetFieldsRequest(volume=volume, max_quota_kib=max_quota_kib)
        return (await self.call(self.stub.SetFields, request)).volume

    async def examine(self, volume: str = "demo") -> Any:
        """Examine."""
        return await self.call(self.stub.Examine, pb.ExamineRequest(volume=volume))

    async def listed(self, partition: str = "") -> list[pb.VolumeDetail]:
        """ListVolumes."""
        request = pb.ListVolumesRequest(partition=partition)
        return list((await self.call(self.stub.ListVolumes, request)).volumes)

    async def transactions(self) -> list[pb.TransactionInfo]:
        """ListTransactions."""
        request = pb.ListTransactionsRequest()
        return list((await self.call(self.stub.ListTransactions, request)).transactions)

    async def idle(self) -> None:
        """Returns when no transaction runs."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.transactions():
                await asyncio.sleep(0.01)

    # --- VolumeLocation ---------------------------------------------------------------------------

    async def entry(self, name: str = "demo") -> Any:
        """GetEntry by name."""
        request = volume_location_pb2.GetEntryRequest(name=name)
        return (await self.call(self.location_stub.GetEntry, request)).entry

    async def entries(self) -> list[pb.VolumeEntry]:
        """ListEntries."""
        request = volume_location_pb2.ListEntriesRequest()
        return list((await self.call(self.location_stub.ListEntries, request)).entries)


class RunningVolServer(VolServerCalls):
    """A volserver in this process, and calls to it."""

    def __init__(self, daemon: VolserverDaemon) -> None:
        super().__init__(daemon.addresses[0], (daemon.location_addresses or ["127.0.0.1:1"])[0])
        self.daemon = daemon

    async def settled(self) -> None:
        """Returns when no operation runs and nothing is owed to the fileserver."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.transactions() or self.daemon.checkouts.debts:
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Hangs up and stops the volserver."""
        await super().close()
        await self.daemon.stop()


@asynccontextmanager
async def volserver(
    root: Path, *, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[RunningVolServer]:
    """A volserver of the partition `root/vicepa`, with the fileserver of `root/run`."""
    settings = {
        "listen": ["127.0.0.1:0"],
        "location_listen": ["127.0.0.1:0"],
        "run_dir": root / "run",
        "partitions": [root / "vicepa"],
        "vldb": root / "vldb.sqlite3",
        "file_server": FILE_SERVER,
        # Tests that want a damaged volume salvaged say so.
        "salvage_poll_s": 3600.0,
        **settings,
    }
    running = RunningVolServer(await VolserverDaemon.start(VolserverdConfig(**settings), clock))
    try:
        yield running
    finally:
        await running.close()


def refused(code: AfsCode, text: str = "") -> pytest.RaisesExc[AfsError]:
    """Expects an AfsError of this code whose one line of detail contains the text."""
    return pytest.RaisesExc(
        AfsError,
        check=lambda error: (
            error.code is code and text in error.detail and "\n" not in error.detail
        ),
    )
