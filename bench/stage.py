"""What measurements share: a cell, a bare server beside it, processes and their figures."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from afs.runtime.channel import open_channel
from afs.types import Fid, root_fid
from afs.v1 import file_server_pb2, file_server_pb2_grpc, vol_server_pb2, vol_server_pb2_grpc
from afs.wire import fid_from_wire, fid_to_wire
from afsctl.cell import Cell, Settings


@contextmanager
def cell(
    settings: Settings | None = None,
    *,
    clients: int = 0,
    servers: int = 1,
    break_policy: str = "later",
    programs: Mapping[str, Sequence[str]] | None = None,
) -> Iterator[Cell]:
    """A cell in a directory of its own, on the disk that holds the checkout."""
    with (
        scratch() as directory,
        Cell.start(
            directory,
            clients=clients,
            servers=servers,
            settings=settings,
            break_policy=break_policy,
            programs=programs,
        ) as running,
    ):
        yield running


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what a measurement writes, gone afterwards: in var/, as cells are.

    A memory file system would flatter every fsync.
    """
    var = Path("var")
    var.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=var) as folder:
        yield Path(folder).absolute()


@contextmanager
def bare_server() -> Iterator[tuple[str, int]]:
    """The server we compare with; its address and process id."""
    with (
        scratch() as directory,
        subprocess.Popen(
            [sys.executable, "-m", "bench.bare_server", str(directory)],
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield f"127.0.0.1:{int(process.stdout.readline())}", process.pid
        finally:
            process.terminate()


async def create_volume(where: Cell, name: str) -> int:
    """A new volume; its id."""
    async with open_channel(where.vol_server) as channel:
        stub = vol_server_pb2_grpc.VolServerStub(channel)
        answer = await stub.Create(vol_server_pb2.CreateRequest(name=name, partition="vicepa"))
        return answer.volume.volume_id


async def create_files(where: Cell, volume: int, count: int) -> list[Fid]:
    """Empty files in the root of a volume, many at a time."""
    directory = fid_to_wire(root_fid(volume))
    async with file_server(where) as stub:

        async def create(numbers: Sequence[int]) -> list[Fid]:
            made = []
            for number in numbers:
                request = file_server_pb2.CreateFileRequest(directory=directory, name=f"f{number}")
                made.append(fid_from_wire((await stub.CreateFile(request)).status.fid))
            return made

        lanes = 64
        made = await asyncio.gather(*(create(range(lane, count, lanes)) for lane in range(lanes)))
    return [fid for lane in made for fid in lane]


@asynccontextmanager
async def file_server(where: Cell) -> AsyncIterator[Any]:
    """A stub of the cell's fileserver, without a host UUID."""
    async with open_channel(where.file_server) as channel:
        yield file_server_pb2_grpc.FileServerStub(channel)


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_memory_mib(pid: int) -> float:
    """The most memory a process has used so far, in MiB."""
    return _status_mib(pid, "VmHWM")


def memory_mib(pid: int) -> float:
    """The memory a process uses now, in MiB."""
    return _status_mib(pid, "VmRSS")


def _status_mib(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {key} in /proc")
