"""Clients that hold promises, in a process: `python -m bench.holder ADDRESS VOLUME HOSTS`.

Each host attaches, renews its lease, and acknowledges resets and breaks. A line with a number on
standard input has every host take promises on that many files of the volume's root; "ready" is
printed when they have them. It ends with its standard input (or is frozen, which is what it is
for).
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

import uvloop

from afs.runtime.channel import open_channel
from afs.types import Fid, root_fid
from afs.v1 import file_server_pb2, file_server_pb2_grpc
from afs.wire import fid_from_wire, fid_to_wire
from bench.attached_host import AttachedHost

# Hosts that take promises at a time.
_LANES: Final = 4


async def _files(address: str, volume: int) -> list[Fid]:
    """The files in a volume's root, in order of their names."""
    async with open_channel(address) as channel:
        stub = file_server_pb2_grpc.FileServerStub(channel)
        request = file_server_pb2.ReadDirRequest(directory=fid_to_wire(root_fid(volume)))
        return [
            fid_from_wire(entry.fid)
            async for answer in stub.ReadDir(request)
            for entry in answer.entries
        ]


async def hold(address: str, volume: int, count: int) -> None:
    """Serves the commands on standard input."""
    fids = await _files(address, volume)
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(AttachedHost(address)) for _ in range(count)]
        lines = await _standard_input()

        async def take(some: Sequence[AttachedHost], promises: int) -> None:
            for host in some:
                await host.take_promises(fids[:promises])

        while line := await lines.readline():
            await asyncio.gather(*(take(hosts[lane::_LANES], int(line)) for lane in range(_LANES)))
            print("ready", flush=True)


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    return reader


if __name__ == "__main__":
    uvloop.run(hold(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
