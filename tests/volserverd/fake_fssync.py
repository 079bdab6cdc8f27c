"""An FSSync service whose answers a test directs: a real server, a made-up fileserver.

It keeps the state of volumes as the real one does, but attaches nothing: a volume is "online" when
it says so. `faults` and `gates` make it slow, deaf or dead at a chosen command.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from afs.v1 import fssync_pb2, fssync_pb2_grpc

Command = fssync_pb2.FsyncCommand
ONLINE = fssync_pb2.VOLUME_STATE_ONLINE
OFFLINE = fssync_pb2.VOLUME_STATE_OFFLINE
ERROR = fssync_pb2.VOLUME_STATE_ERROR
CHECKED_OUT = fssync_pb2.VOLUME_STATE_CHECKED_OUT


class Fault(Enum):
    """How a command goes wrong."""

    REFUSED = auto()
    # The connection breaks before, or after, the command was carried out.
    LOST_BEFORE = auto()
    LOST_AFTER = auto()
    # The fileserver is restarted right after it answered.
    RESTARTED_AFTER = auto()


@dataclass
class FakeVolume:
    """What the fake fileserver knows of a volume."""

    state: int
    program: str = ""
    reason: int = 0


@dataclass
class FakeFileServer(fssync_pb2_grpc.FSSyncServicer):
    """The state of the made-up fileserver, and what it was asked.

    Attributes:
        commands: (command without prefix, volume) of everything that takes, gives back or changes.
        faults: what goes wrong with the n-th of them, from 0.
        gates: a command whose name is here waits for the event before it is carried out.
        on_disk: whether a volume that is attached exists.
    """

    on_disk: Callable[[int], bool]
    volumes: dict[int, FakeVolume] = field(default_factory=dict)
    commands: list[tuple[str, int]] = field(default_factory=list)
    faults: dict[int, Fault] = field(default_factory=dict)
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def restart(self) -> None:
        """Forgets who has what, and attaches everything there is."""
        for volume_id in list(self.volumes):
            if self.on_disk(volume_id):
                self.volumes[volume_id] = FakeVolume(ONLINE)
            else:
                del self.volumes[volume_id]

    def state(self, volume_id: int) -> int | None:
        """The state of a volume; None if it is unknown."""
        volume = self.volumes.get(volume_id)
        return None if volume is None else volume.state

    async def VolumeOp(
        self, request: fssync_pb2.VolumeOpRequest, context: Any
    ) -> fssync_pb2.VolumeOpResponse:
        """Carries out a command, unless it is to go wrong."""
        name = Command.Name(request.command).removeprefix("FSYNC_").removeprefix("VOL_")
        if name == "QUERY":
            return self._answer(request)
        if name == "LISTVOLUMES":
            return fssync_pb2.VolumeOpResponse(
                response=fssync_pb2.FSYNC_OK, volumes=[self._info(each) for each in self.volumes]
            )
        fault = self.faults.get(len(self.commands))
        self.commands.append((name, request.volume_id))
        if name in self.gates:
            self.arrived.set()
            await self.gates[name].wait()
        if fault is Fault.REFUSED:
            return fssync_pb2.VolumeOpResponse(
                response=fssync_pb2.FSYNC_DENIED,
                reason=fssync_pb2.FSYNC_BAD_STATE,
                detail="directed by the test",
            )
        if fault is not Fault.LOST_BEFORE:
            answer = self._carry_out(name, request)
        if fault in (Fault.LOST_BEFORE, Fault.LOST_AFTER):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        if fault is Fault.RESTARTED_AFTER:
            self.restart()
        return answer

    async def WatchBreaks(
        self, request: fssync_pb2.WatchBreaksRequest, context: Any
    ) -> AsyncIterator[fssync_pb2.WatchBreaksResponse]:
        """Nobody ever holds a promise here."""
        yield fssync_pb2.WatchBreaksResponse()

    def _carry_out(
        self, name: str, request: fssync_pb2.VolumeOpRequest
    ) -> fssync_pb2.VolumeOpResponse:
        volume_id, program = request.volume_id, request.program
        volume = self.volumes.get(volume_id)
        if volume is None:
            if name not in ("ON", "ATTACH") or not self.on_disk(volume_id):
                return self._answer(request)
            self.volumes[volume_id] = FakeVolume(ONLINE)
            return self._answer(request)
        taken_by_another = volume.state == CHECKED_OUT and volume.program not in ("", program)
        if taken_by_another:
            return fssync_pb2.VolumeOpResponse(
                response=fssync_pb2.FSYNC_DENIED,
                reason=fssync_pb2.FSYNC_EXCLUSIVE,
                detail=f"taken by {volume.program}",
            )
        if volume.state == ERROR and (
            name != "NEEDVOLUME" or request.reason != fssync_pb2.FSYNC_FOR_DELETE
        ):
            return fssync_pb2.VolumeOpResponse(
                response=fssync_pb2.FSYNC_DENIED,
                reason=fssync_pb2.FSYNC_WRONG_OWNER if name == "DONE" else fssync_pb2.FSYNC_DAMAGED,
                detail="damaged",
            )
        match name:
            case "NEEDVOLUME":
                self.volumes[volume_id] = FakeVolume(CHECKED_OUT, program, request.reason)
            case "ON":
                self.volumes[volume_id] = FakeVolume(ONLINE)
            case "LEAVE_OFF":
                self.volumes[volume_id] = FakeVolume(OFFLINE)
            case "DONE":
                del self.volumes[volume_id]
                return fssync_pb2.VolumeOpResponse(response=fssync_pb2.FSYNC_OK)
        return self._answer(request)

    def _answer(self, request: fssync_pb2.VolumeOpRequest) -> fssync_pb2.VolumeOpResponse:
        if request.volume_id not in self.volumes:
            return fssync_pb2.VolumeOpResponse(
                response=fssync_pb2.FSYNC_UNKNOWN_VOLUME,
                reason=fssync_pb2.FSYNC_NO_VOLUME,
                detail="unknown here",
            )
        return fssync_pb2.VolumeOpResponse(
            response=fssync_pb2.FSYNC_OK, volume=self._info(request.volume_id)
        )

    def _info(self, volume_id: int) -> fssync_pb2.VolumeInfo:
        volume = self.volumes[volume_id]
        return fssync_pb2.VolumeInfo(
            volume_id=volume_id,
            partition="vicepa",
            state=fssync_pb2.VolumeState.ValueType(volume.state),
            program=volume.program,
            taken_for=fssync_pb2.FsyncReason.ValueType(volume.reason),
        )


@asynccontextmanager
async def fake_fileserver(
    root: Path, fake: FakeFileServer | None = None
) -> AsyncIterator[FakeFileServer]:
    """The fake on the socket `root/run/fssync.sock`, with the partition `root/vicepa`.

    Args:
        root: where.
        fake: one that goes on after it was away; None: a new one.
    """

    def on_disk(volume_id: int) -> bool:
        return any((root / "vicepa").glob(f"groups/*/{volume_id}.db"))

    fake = fake or FakeFileServer(on_disk)
    (root / "run").mkdir(exist_ok=True)
    server = grpc.aio.server()
    fssync_pb2_grpc.add_FSSyncServicer_to_server(fake, server)
    server.add_insecure_port(f"unix:{root}/run/fssync.sock")
    await server.start()
    try:
        yield fake
    finally:
        await server.stop(None)
