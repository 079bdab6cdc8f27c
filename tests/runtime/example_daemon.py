"""The smallest daemon; tests of the runtime start it as a process and send it signals."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import structlog
from pydantic import Field

from afs.errors import AfsCode, AfsError
from afs.runtime.config import DaemonConfig, load_config
from afs.runtime.daemon import run_daemon
from afs.runtime.server import DaemonServer
from afs.v1 import callback_channel_pb2_grpc, file_server_pb2_grpc
from tests.runtime.services import CALLBACK_CHANNEL, FILE_SERVER, Channel, Scripted


class ExampleConfig(DaemonConfig):
    """What tests want it to do."""

    listen: list[str] = Field(["127.0.0.1:0"], description="addresses served")
    startup: str = Field("serve", description="serve, fail, crash or hang")
    grace_s: float = Field(5.0, description="seconds given to running calls")
    ready: Path = Field(Path("ready"), description="file that gets the real addresses, a line each")
    synced: Path = Field(Path("synced"), description="file made by a graceful stop")


class ExampleDaemon:
    """A server, and a file that tells that it was stopped gracefully."""

    def __init__(self, config: ExampleConfig, server: DaemonServer) -> None:
        self._config = config
        self._server = server

    @classmethod
    async def start(cls, config: ExampleConfig) -> ExampleDaemon:
        """Serves, or does what `startup` says."""
        if config.startup == "fail":
            raise AfsError(AfsCode.VBUSY, "partition vicepa is in use by another process")
        if config.startup == "crash":
            raise ZeroDivisionError
        server = DaemonServer()
        server.add(file_server_pb2_grpc.add_FileServerServicer_to_server, Scripted(), FILE_SERVER)
        server.add(
            callback_channel_pb2_grpc.add_CallBackChannelServicer_to_server,
            Channel(),
            CALLBACK_CHANNEL,
        )
        addresses = await server.listen(config.listen)
        await server.start()
        config.ready.write_text("\n".join(addresses))
        if config.startup == "hang":
            await asyncio.Event().wait()
        return cls(config, server)

    async def stop(self) -> None:
        """Drains, then leaves the mark."""
        await self._server.stop(self._config.grace_s)
        self._config.synced.touch()
        structlog.get_logger().info("example.synced")


def main() -> int:
    """Runs it."""
    config = load_config(ExampleConfig, sys.argv[1:], "exampled", "An example.")
    return run_daemon("exampled", config, lambda: ExampleDaemon.start(config))


if __name__ == "__main__":
    sys.exit(main())
