"""A load generator.

`python -m bench.load ADDRESS METHOD CALLS CONCURRENCY [FID]` prints calls per second. METHOD is
`Empty` (of bench.bare_server) or `FetchStatus` (FID as volume.vnode.uniquifier). The number of
calls bounds it; it stops by itself. It shows the token in BENCH_SHOWS, and speaks TLS with the
certificate that AFS_TLS_CERTIFICATE and AFS_TLS_CA name.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import uvloop

from afs.runtime.channel import open_channel
from afs.runtime.outgoing import OneToken, show_tokens
from afs.types import Fid
from afs.v1 import file_server_pb2, file_server_pb2_grpc
from afs.wire import fid_to_wire
from afsctl.addresses import use_given_tls
from bench.bare_server import SERVICE

SHOWS_VARIABLE: Final = "BENCH_SHOWS"


async def run(address: str, method: str, calls: int, concurrency: int, fid: Fid) -> float:
    """Makes the calls; how many a second."""
    async with open_channel(address) as channel:
        call: Callable[[], Awaitable[object]]
        if method == "Empty":
            empty: Any = channel.unary_unary(f"/{SERVICE}/Empty")

            def call() -> Awaitable[object]:
                answer: Awaitable[object] = empty(b"")
                return answer
        else:
            stub = file_server_pb2_grpc.FileServerStub(channel)
            request = file_server_pb2.FetchStatusRequest(fid=fid_to_wire(fid))

            def call() -> Awaitable[object]:
                answer: Awaitable[object] = stub.FetchStatus(request)
                return answer

        async def caller(count: int) -> None:
            for _ in range(count):
                await call()

        # Connect first, and have the server's caches warm.
        await caller(50)
        began = time.perf_counter()
        await asyncio.gather(*(caller(calls // concurrency) for _ in range(concurrency)))
        return calls // concurrency * concurrency / (time.perf_counter() - began)


if __name__ == "__main__":
    use_given_tls()
    if token := os.environ.get(SHOWS_VARIABLE):
        show_tokens(OneToken(token))
    _, to, name, how_many, at_a_time, *rest = sys.argv
    numbers = [int(part) for part in rest[0].split(".")] if rest else [1, 1, 1]
    print(uvloop.run(run(to, name, int(how_many), int(at_a_time), Fid(*numbers))))
