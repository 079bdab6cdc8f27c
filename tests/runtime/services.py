"""Small servicers and servers that the tests of the runtime drive over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio

from afs.runtime.channel import open_channel
from afs.runtime.server import DaemonServer
from afs.v1 import (
    callback_channel_pb2,
    callback_channel_pb2_grpc,
    file_server_pb2,
    file_server_pb2_grpc,
)

FILE_SERVER = "afs.v1.FileServer"
CALLBACK_CHANNEL = "afs.v1.CallBackChannel"


# The stubs call every method abstract; here most are meant to be missing.
_FileServer: Any = file_server_pb2_grpc.FileServerServicer


class Scripted(_FileServer):  # type: ignore[misc]
    """A FileServer whose methods do what the test says, one of each kind of call."""

    def __init__(self, act: Callable[[Any], Any] | None = None) -> None:
        self.act = act or (lambda _context: None)
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def FetchStatus(self, request: Any, context: Any) -> file_server_pb2.FetchStatusResponse:
        self.act(context)
        return file_server_pb2.FetchStatusResponse()

    async def GetTime(self, request: Any, context: Any) -> file_server_pb2.GetTimeResponse:
        """Answers when the test lets it."""
        self.entered.set()
        await self.release.wait()
        return file_server_pb2.GetTimeResponse()

    async def FetchData(
        self, request: Any, context: Any
    ) -> AsyncIterator[file_server_pb2.FetchDataResponse]:
        yield file_server_pb2.FetchDataResponse()
        self.act(context)

    async def StoreData(
        self, request_iterator: Any, context: Any
    ) -> file_server_pb2.StoreDataResponse:
        async for _ in request_iterator:
            pass
        self.act(context)
        return file_server_pb2.StoreDataResponse()


class Channel(callback_channel_pb2_grpc.CallBackChannelServicer):
    """A CallBackChannel that probes once and then waits for ever."""

    def __init__(self, act: Callable[[Any], Any] | None = None) -> None:
        self.act = act or (lambda _context: None)
        self.ended: list[type[BaseException]] = []
        self.gone = asyncio.Event()

    async def Attach(
        self, request_iterator: Any, context: Any
    ) -> AsyncIterator[callback_channel_pb2.AttachResponse]:
        try:
            yield callback_channel_pb2.AttachResponse()
            self.act(context)
            await asyncio.Event().wait()
        except BaseException as error:
            self.ended.append(type(error))
            self.gone.set()
            raise


@asynccontextmanager
async def serving(
    *,
    files: Scripted | None = None,
    channel: Channel | None = None,
    addresses: Sequence[str] = ("127.0.0.1:0",),
    interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    options: Sequence[tuple[str, Any]] = (),
) -> AsyncIterator[tuple[DaemonServer, grpc.aio.Channel]]:
    """A server with these servicers, and a channel to its first address."""
    server = DaemonServer(interceptors, options=options)
    server.add(
        file_server_pb2_grpc.add_FileServerServicer_to_server, files or Scripted(), FILE_SERVER
    )
    server.add(
        callback_channel_pb2_grpc.add_CallBackChannelServicer_to_server,
        channel or Channel(),
        CALLBACK_CHANNEL,
    )
    real = await server.listen(addresses)
    await server.start()
    try:
        async with open_channel(real[0]) as client:
            yield server, client
    finally:
        await server.stop(0)
