"""A client that holds promises.

`python -m bench.holder ADDRESS VOLUME COUNT` prints "ready" when it does. It acknowledges resets
and breaks and renews its lease, until it is stopped (or frozen, which is what it is for). A line on
its standard input has it take all promises again.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any
from uuid import uuid4

import uvloop

from afs.limits import CHANNEL_LEASE_S, LEASE_RENEWALS_PER_LEASE, MAX_BULK_FIDS
from afs.runtime.channel import open_channel
from afs.types import root_fid
from afs.v1 import callback_channel_pb2 as pb
from afs.v1 import callback_channel_pb2_grpc, file_server_pb2, file_server_pb2_grpc
from afs.wire import fid_to_wire


async def hold(address: str, volume: int, count: int) -> None:
    """Attaches, takes promises on `count` files of the volume's root, and answers breaks."""
    metadata = (("afs-host-uuid", str(uuid4())),)
    async with open_channel(address) as channel:
        stub = file_server_pb2_grpc.FileServerStub(channel)
        listing = stub.ReadDir(
            file_server_pb2.ReadDirRequest(directory=fid_to_wire(root_fid(volume)))
        )
        fids = [entry.fid async for answer in listing for entry in answer.entries][:count]
        attach = callback_channel_pb2_grpc.CallBackChannelStub(channel).Attach(metadata=metadata)
        await attach.write(pb.AttachRequest(hello=pb.Hello(client="bench.holder")))
        known = asyncio.Event()
        tasks = [asyncio.create_task(_answer(attach, known)), asyncio.create_task(_renew(attach))]
        # From the reset on the fileserver knows this host, and holds its calls until the ack.
        await known.wait()
        lines = await _standard_input()
        while True:
            for start in range(0, len(fids), MAX_BULK_FIDS):
                request = file_server_pb2.BulkStatusRequest(
                    fids=fids[start : start + MAX_BULK_FIDS]
                )
                answer = await stub.BulkStatus(request, metadata=metadata)
                assert all(result.HasField("callback") for result in answer.results)
            print("ready", flush=True)
            if not await lines.readline():
                break
        for task in tasks:
            task.cancel()


async def _answer(attach: Any, known: asyncio.Event) -> None:
    async for message in attach:
        kind = message.WhichOneof("message")
        if kind in ("init_callback_state", "break"):
            ack = pb.Ack(sequence=getattr(message, kind).sequence)
            await attach.write(pb.AttachRequest(ack=ack))
            known.set()


async def _renew(attach: Any) -> None:
    number = 0
    while True:
        number += 1
        await attach.write(pb.AttachRequest(renew_lease=pb.RenewLease(number=number)))
        await asyncio.sleep(CHANNEL_LEASE_S / LEASE_RENEWALS_PER_LEASE)


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    uvloop.run(hold(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
