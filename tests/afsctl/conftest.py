"""A stand-in cell in this process for the commands to talk to, and a way to run them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from afs.limits import DRAIN_S
from afs.runtime.server import DaemonServer
from afs.v1 import (
    file_server_pb2_grpc,
    fssync_pb2_grpc,
    vol_server_pb2_grpc,
    volume_location_pb2_grpc,
)
from afs.volume.memory_store import MemoryVolume
from afsctl.app import run
from tests.afsctl.fake_services import (
    FakeFileServer,
    FakeFSSync,
    FakeVolumeLocation,
    location_entry,
    new_volume,
)
from tests.afsctl.fake_vol_server import FakeVolServer

# Nothing answers there; commands of `vos` do not ask it either.
SECOND_FILE_SERVER = "127.0.0.1:1"


@dataclass(frozen=True, slots=True)
class FakeCell:
    """The services of a cell at one address, and the volume `home.kim` behind them.

    At `second_address` is another server, whose fileserver has no volume. `seen_metadata` are the
    methods called at the first one, each with the authorization that was shown.
    """

    address: str
    second_address: str
    volume: MemoryVolume
    file_server: FakeFileServer
    vol_server: FakeVolServer
    second: FakeVolServer
    second_file_server: FakeFileServer
    vldb: FakeVolumeLocation
    fssync: FakeFSSync
    seen_metadata: list[tuple[str, str | bytes | None]]


class _SeesMetadata(grpc.aio.ServerInterceptor):
    """Notes what callers show."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | bytes | None]] = []

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        shown = dict(details.invocation_metadata).get("authorization")
        self.seen.append((details.method, shown))
        return await continuation(details)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended and what it printed."""

    status: int
    out: str
    err: str


Afsctl = Callable[..., Ended]


@pytest.fixture
def fake_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeCell]:
    """A stand-in cell, served from a thread; the environment names its address."""
    ready: Future[tuple[FakeCell, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(ready)))
    thread.start()
    cell, loop, stop = ready.result()
    for name in ("FILE_SERVER", "VOL_SERVER", "LOCATION", "FSSYNC"):
        monkeypatch.setenv(f"AFS_{name}", cell.address)
    monkeypatch.setenv("AFS_CELL_DIR", str(tmp_path / "no-cell"))
    yield cell
    loop.call_soon_threadsafe(stop.set)
    thread.join()


@pytest.fixture
def two_servers(fake_cell: FakeCell, monkeypatch: pytest.MonkeyPatch) -> FakeCell:
    """The stand-in cell, whose VLDB has a volume of the second server, `home.lee`, too."""
    monkeypatch.delenv("AFS_VOL_SERVER")
    entry = location_entry("home.lee", fake_cell.second_address)
    entry.read_write_id += 3
    entry.sites[0].file_server = SECOND_FILE_SERVER
    fake_cell.vldb.entries.append(entry)
    fake_cell.second.detail.name = "home.lee"
    return fake_cell


@pytest.fixture
def afsctl(capfd: pytest.CaptureFixture[str]) -> Afsctl:
    """Runs a command line in this process."""

    def command(*arguments: str | Path) -> Ended:
        status = run([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ended(status, out, err)

    return command


async def _serve(
    ready: Future[tuple[FakeCell, asyncio.AbstractEventLoop, asyncio.Event]],
) -> None:
    sees = _SeesMetadata()
    server = DaemonServer([sees])
    (address,) = await server.listen(["127.0.0.1:0"])
    volume = new_volume("home.kim")
    # Methods that afsctl does not call are not there; they answer UNIMPLEMENTED.
    file_server = FakeFileServer(volume)  # type: ignore[abstract]
    vol_server = FakeVolServer()  # type: ignore[abstract]
    second = FakeVolServer()  # type: ignore[abstract]
    vldb = FakeVolumeLocation(location_entry("home.kim", address))  # type: ignore[abstract]
    second_file_server = FakeFileServer()  # type: ignore[abstract]
    fssync = FakeFSSync()  # type: ignore[abstract]
    second_server = DaemonServer()
    (second_address,) = await second_server.listen(["127.0.0.1:0"])
    cell = FakeCell(
        address,
        second_address,
        volume,
        file_server,
        vol_server,
        second,
        second_file_server,
        vldb,
        fssync,
        sees.seen,
    )
    server.add(
        file_server_pb2_grpc.add_FileServerServicer_to_server, cell.file_server, "afs.v1.FileServer"
    )
    server.add(
        vol_server_pb2_grpc.add_VolServerServicer_to_server, cell.vol_server, "afs.v1.VolServer"
    )
    server.add(fssync_pb2_grpc.add_FSSyncServicer_to_server, cell.fssync, "afs.v1.FSSync")
    server.add(
        volume_location_pb2_grpc.add_VolumeLocationServicer_to_server,
        vldb,
        "afs.v1.VolumeLocation",
    )
    second_server.add(
        vol_server_pb2_grpc.add_VolServerServicer_to_server, second, "afs.v1.VolServer"
    )
    second_server.add(
        file_server_pb2_grpc.add_FileServerServicer_to_server,
        second_file_server,
        "afs.v1.FileServer",
    )
    await server.start()
    await second_server.start()
    stop = asyncio.Event()
    ready.set_result((cell, asyncio.get_running_loop(), stop))
    await stop.wait()
    await server.stop(DRAIN_S)
    await second_server.stop(DRAIN_S)
