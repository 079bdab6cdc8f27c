"""One client of a fileserver, as measurements need it.

Attached, holding promises, acknowledging or not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

from afs.limits import CHANNEL_LEASE_S, LEASE_RENEWALS_PER_LEASE, MAX_BULK_FIDS
from afs.runtime.channel import open_channel
from afs.types import Fid
from afs.v1 import callback_channel_pb2 as pb
from afs.v1 import callback_channel_pb2_grpc, file_server_pb2, file_server_pb2_grpc
from afs.wire import fid_to_wire


def steady_s() -> float:
    """The steady clock that the daemons of this machine use as well."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class AttachedHost:
    """A host with a UUID and a channel of its own.

    Args:
        address: of the fileserver.
        acks: whether it acknowledges breaks; to the fileserver, one that does not is dead. Resets
            it acknowledges.

    Attributes:
        acks: the same, from now on.
        files: stub of FileServer.
        metadata: names the host in a call.
    """

    def __init__(self, address: str, *, acks: bool = True) -> None:
        self.acks = acks
        self.metadata = (("afs-host-uuid", str(uuid4())),)
        self._channel = open_channel(address)
        self.files: Any = file_server_pb2_grpc.FileServerStub(self._channel)
        self._attach: Any = None
        # Two writes at a time would be the end of the stream.
        self._writing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._told: dict[int, float] = {}
        self._came = asyncio.Condition()
        self._reset = asyncio.Event()

    async def __aenter__(self) -> Self:
        stub: Any = callback_channel_pb2_grpc.CallBackChannelStub(self._channel)
        self._attach = stub.Attach(metadata=self.metadata)
        await self._send(pb.AttachRequest(hello=pb.Hello(client="bench")))
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._renew())]
        await self._reset.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        self._attach.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def take_promise(self, fid: Fid) -> None:
        """FetchStatus, which gives a promise."""
        request = file_server_pb2.FetchStatusRequest(fid=fid_to_wire(fid))
        answer = await self.files.FetchStatus(request, metadata=self.metadata)
        assert answer.HasField("callback"), "no promise was given"

    async def take_promises(self, fids: Sequence[Fid]) -> None:
        """BulkStatus of many vnodes."""
        for start in range(0, len(fids), MAX_BULK_FIDS):
            some = [fid_to_wire(fid) for fid in fids[start : start + MAX_BULK_FIDS]]
            request = file_server_pb2.BulkStatusRequest(fids=some)
            answer = await self.files.BulkStatus(request, metadata=self.metadata)
            assert all(result.HasField("callback") for result in answer.results)

    async def told_of(self, volume: int) -> float:
        """Steady time at which a break of the volume came; waits for it."""
        async with self._came:
            await self._came.wait_for(lambda: volume in self._told)
        return self._told.pop(volume)

    async def _read(self) -> None:
        async for message in self._attach:
            came = steady_s()
            kind = message.WhichOneof("message")
            if kind == "probe":
                continue
            body = getattr(message, kind)
            if kind == "break":
                for target in body.targets:
                    self._told[target.volume] = came
                async with self._came:
                    self._came.notify_all()
            if self.acks or kind == "init_callback_state":
                await self._send(pb.AttachRequest(ack=pb.Ack(sequence=body.sequence)))
                self._reset.set()

    async def _send(self, request: pb.AttachRequest) -> None:
        async with self._writing:
            await self._attach.write(request)

    async def _renew(self) -> None:
        number = 0
        while True:
            number += 1
            await self._send(pb.AttachRequest(renew_lease=pb.RenewLease(number=number)))
            await asyncio.sleep(CHANNEL_LEASE_S / LEASE_RENEWALS_PER_LEASE)
