"""What we compare with: a gRPC server that does nothing but gRPC.

`python -m bench.bare_server FILE` prints its port and serves until it is stopped. `Empty` answers
an empty message; `Download` streams as many pieces as the request says; `Upload` writes what
arrives to FILE, in a thread, and answers when that is on disk.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc.aio
import uvloop

from afs.limits import DATA_PIECE_BYTES, MAX_MESSAGE_BYTES
from afs.runtime.daemon import tune_malloc

SERVICE: Final = "bench.Bare"


async def _empty(request: bytes, _context: Any) -> bytes:  # noqa: ARG001 - gRPC's signature
    return b""


async def _download(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    piece = os.urandom(DATA_PIECE_BYTES)
    for _ in range(int(request)):
        yield piece


def _uploader(path: str) -> Any:
    async def upload(requests: AsyncIterator[bytes], _context: Any) -> bytes:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            async for piece in requests:
                await asyncio.to_thread(os.write, descriptor, piece)
            await asyncio.to_thread(os.fsync, descriptor)
        finally:
            os.close(descriptor)
        return b""

    return upload


async def serve(path: str) -> None:
    """Serves on a free port of 127.0.0.1, which it prints."""
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.so_reuseport", 0),
        ]
    )
    handlers: dict[str, Any] = {
        "Empty": grpc.unary_unary_rpc_method_handler(_empty),
        "Download": grpc.unary_stream_rpc_method_handler(_download),
        "Upload": grpc.stream_unary_rpc_method_handler(_uploader(path)),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    tune_malloc()
    uvloop.run(serve(sys.argv[1]))
