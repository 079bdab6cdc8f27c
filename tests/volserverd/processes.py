"""Real daemons as processes, with a relay between them that sees every FSSync command."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from afs.runtime.channel import open_channel
from afs.v1 import fssync_pb2, fssync_pb2_grpc

PATIENCE_S = 30.0


class Process:
    """A daemon, started anew as often as needed.

    Attributes:
        flags: of its command line, from the next start on.
    """

    def __init__(self, module: str, address: str, *flags: str) -> None:
        self._module = module
        self.flags = flags
        self._address = address
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it; returns when it serves."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", self._module, *self.flags),
            stderr=asyncio.subprocess.DEVNULL,
        )
        async with open_channel(self._address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            await check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=PATIENCE_S)

    async def kill(self) -> None:
        """Kill -9; a no-op if it is dead."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM; its exit status."""
        assert self._process is not None
        self._process.terminate()
        return await asyncio.wait_for(self._process.wait(), PATIENCE_S)


Hook = Callable[[], Awaitable[None]]


class Relay(fssync_pb2_grpc.FSSyncServicer):
    """Passes FSSync calls on to the real fileserver.

    Attributes:
        commands: what was passed on, without queries and lists.
        before, after: called at the n-th such command, from 0: before it is passed on, or before
            its answer is.
    """

    def __init__(self, upstream: str) -> None:
        self._channel = open_channel(upstream)
        self.stub: Any = fssync_pb2_grpc.FSSyncStub(self._channel)
        self.commands: list[str] = []
        self.before: dict[int, Hook] = {}
        self.after: dict[int, Hook] = {}

    async def VolumeOp(
        self, request: fssync_pb2.VolumeOpRequest, context: Any
    ) -> fssync_pb2.VolumeOpResponse:
        """Passes one command on."""
        looks = request.command in (fssync_pb2.FSYNC_VOL_QUERY, fssync_pb2.FSYNC_VOL_LISTVOLUMES)
        number = len(self.commands)
        if not looks:
            self.commands.append(fssync_pb2.FsyncCommand.Name(request.command))
            if hook := self.before.pop(number, None):
                await hook()
        answer: fssync_pb2.VolumeOpResponse
        try:
            answer = await self.stub.VolumeOp(request, wait_for_ready=True, timeout=PATIENCE_S)
        except grpc.aio.AioRpcError as error:
            await context.abort(
                error.code(), error.details(), tuple(error.trailing_metadata() or ())
            )
        if not looks and (hook := self.after.pop(number, None)):
            await hook()
        return answer

    async def WatchBreaks(
        self, request: fssync_pb2.WatchBreaksRequest, context: Any
    ) -> AsyncIterator[fssync_pb2.WatchBreaksResponse]:
        """Passes a watch on."""
        try:
            async for answer in self.stub.WatchBreaks(request):
                yield answer
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details())

    async def volumes(self) -> dict[int, fssync_pb2.VolumeInfo]:
        """What the real fileserver knows."""
        request = fssync_pb2.VolumeOpRequest(command=fssync_pb2.FSYNC_VOL_LISTVOLUMES)
        answer = await self.stub.VolumeOp(request, wait_for_ready=True, timeout=PATIENCE_S)
        return {volume.volume_id: volume for volume in answer.volumes}

    async def close(self) -> None:
        """Hangs up."""
        await self._channel.close()


class Daemons:
    """A fileserver and a volserver as processes, the relay between them, and where they are."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files_address = f"unix:{root}/f.sock"
        self.vos_address = f"unix:{root}/v.sock"
        self.location_address = f"unix:{root}/l.sock"
        self.relay = Relay(f"unix:{root}/run/fssync.sock")
        shared = ("--run-dir", f"{root}/run", "--partitions", f"{root}/vicepa")
        self.afsd = Process("afsd", self.files_address, "--listen", self.files_address, *shared)
        self.volserverd = Process(
            "volserverd",
            self.vos_address,
            *("--listen", self.vos_address, "--location-listen", self.location_address),
            *("--fssync", f"unix:{root}/relay.sock", "--vldb", f"{root}/vldb.sqlite3"),
            *("--file-server", self.files_address),
            *shared,
        )


@asynccontextmanager
async def daemons(root: Path) -> AsyncIterator[Daemons]:
    """Both daemons, running."""
    made = Daemons(root)
    server = grpc.aio.server()
    fssync_pb2_grpc.add_FSSyncServicer_to_server(made.relay, server)
    server.add_insecure_port(f"unix:{root}/relay.sock")
    await server.start()
    try:
        await made.afsd.start()
        await made.volserverd.start()
        yield made
    finally:
        await made.volserverd.kill()
        await made.afsd.kill()
        await server.stop(None)
        await made.relay.close()
