"""What we compare with: a gRPC server that does nothing but gRPC.

`python -m bench.bare_server DIRECTORY` prints its port and serves until it is stopped. `Empty`
answers an empty message; `Download` streams as many pieces as the request says; `Upload` writes
what arrives to a new file in DIRECTORY, in a thread, and answers when that is on disk: a new one,
because what we compare writes new files too, and a file that is written over finds its pages in
memory. `Listen` streams whatever `Push` is called with, to everybody who listens, until they hang
up.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any, Final

import grpc.aio
import uvloop

from afs.limits import DATA_PIECE_BYTES, MAX_MESSAGE_BYTES
from afs.runtime.malloc import tune_malloc

SERVICE: Final = "bench.Bare"


async def _empty(request: bytes, _context: Any) -> bytes:  # noqa: ARG001 - gRPC's signature
    return b""


async def _download(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    piece = os.urandom(DATA_PIECE_BYTES)
    for _ in range(int(request)):
        yield piece


def _uploader(directory: Path) -> Any:
    numbers = count()

    async def upload(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        path = directory / f"upload.{next(numbers)}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            async for piece in requests:
                await asyncio.to_thread(os.write, descriptor, piece)
            await asyncio.to_thread(os.fsync, descriptor)
        finally:
            os.close(descriptor)
        return b""

    return upload


class FanOut:
    """Messages that are pushed to everybody who listens."""

    def __init__(self) -> None:
        self._listeners: set[asyncio.Queue[bytes]] = set()

    async def listen(self, request: bytes, _context: Any) -> AsyncIterator[bytes]:
        """A first message, which says that it listens, and then what is pushed."""
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            yield request
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    async def push(self, request: bytes, _context: Any) -> bytes:
        """Answers when it is on its way, as FSSYNC does."""
        for queue in self._listeners:
            queue.put_nowait(request)
        return b""


async def serve(directory: Path) -> None:
    """Serves on a free port of 127.0.0.1, which it prints."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
            # Our clients ping while nothing is pushed; by default they would be hung up on.
            ("grpc.http2.min_recv_ping_interval_without_data_ms", 100),
            ("grpc.http2.max_ping_strikes", 0),
        ]
    )
    fan_out = FanOut()
    handlers: dict[str, Any] = {
        "Empty": grpc.unary_unary_rpc_method_handler(_empty),
        "Download": grpc.unary_stream_rpc_method_handler(_download),
        "Upload": grpc.stream_unary_rpc_method_handler(_uploader(directory)),
        "Listen": grpc.unary_stream_rpc_method_handler(fan_out.listen),
        "Push": grpc.unary_unary_rpc_method_handler(fan_out.push),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    tune_malloc()
    uvloop.run(serve(Path(sys.argv[1])))
