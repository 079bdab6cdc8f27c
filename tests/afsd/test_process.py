"""The fileserver as a process: exit status, signals, kill -9, a full disk."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import MIB
from afs.types import Fid
from afs.v1 import file_server_pb2 as pb
from afs.wire import fid_from_wire, fid_to_wire
from tests.afsd.running import PATIENCE_S, ROOT, VOLUME, Client, make_volumes, refused

pytestmark = pytest.mark.blocking_ok

KILLS = 5
WRITERS = 4
# Answered writes before a kill.
WRITES = 40


def command(root: Path, **settings: str) -> list[str]:
    """The command line of a fileserver on `root`."""
    keys = {
        "log-format": "json",
        "listen": "127.0.0.1:0",
        "run-dir": str(root / "run"),
        "partitions": str(root / "vicepa"),
        **settings,
    }
    flags = [word for key, value in keys.items() for word in (f"--{key}", value)]
    return [sys.executable, "-m", "afsd", *flags]


class Process:
    """A fileserver's process that serves.

    Attributes:
        events: what it logged until it served.
    """

    def __init__(
        self, process: asyncio.subprocess.Process, address: str, events: list[dict[str, Any]]
    ) -> None:
        self.process = process
        self.address = address
        self.events = events

    async def stop(self) -> None:
        """SIGTERM, and a status of 0."""
        self.process.terminate()
        assert await asyncio.wait_for(self.process.wait(), PATIENCE_S) == 0


@asynccontextmanager
async def process(root: Path, **settings: str) -> AsyncIterator[Process]:
    """A fileserver's process; killed at the end if it still runs."""
    started = await asyncio.create_subprocess_exec(
        *command(root, **settings), stderr=asyncio.subprocess.PIPE
    )
    assert started.stderr is not None
    draining = None
    events = []
    try:
        async with asyncio.timeout(PATIENCE_S):
            while line := await started.stderr.readline():
                event = json.loads(line)
                events.append(event)
                if event["event"] == "fileserver.started":
                    break
            else:
                pytest.fail("the fileserver ended before it served")
        # Nobody may wait for us to read.
        draining = asyncio.create_task(started.stderr.read())
        yield Process(started, event["addresses"][0], events)
    finally:
        if started.returncode is None:
            started.kill()
        await started.wait()
        if draining is not None:
            await draining


def run(root: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    """A fileserver that does not start: its exit status and what it says."""
    return subprocess.run(
        command(root, **settings), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


async def test_sigterm_ends_it_with_status_0(tmp_path: Path) -> None:
    """A graceful stop, with a client attached; the volume is clean and complete afterwards."""
    make_volumes(tmp_path / "vicepa", VOLUME)
    async with process(tmp_path) as running:
        client = await Client(running.address).attach()
        await client.store(await client.create("a"), b"data")
        running.process.terminate()
        assert await asyncio.wait_for(running.process.wait(), PATIENCE_S) == 0
        await client.close()
    assert not (tmp_path / "run" / "fssync.sock").exists()


async def test_what_is_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    """A second fileserver in the run directory, on the partition, on the port: status 1."""
    make_volumes(tmp_path / "vicepa", VOLUME)
    elsewhere = {"run-dir": str(tmp_path / "run2")}
    alone = {**elsewhere, "partitions": str(tmp_path / "vicepb")}
    async with process(tmp_path) as running:
        for settings, named in (
            ({}, "fssync.sock"),
            (elsewhere, "vicepa"),
            ({**alone, "listen": running.address}, running.address),
        ):
            second = await asyncio.to_thread(run, tmp_path, **settings)
            last = second.stderr.splitlines()[-1]
            assert second.returncode == 1
            assert last.startswith("afsd: ")
            assert named in last
            assert "Traceback" not in second.stderr


def test_a_bad_value_is_one_line_and_status_2(tmp_path: Path) -> None:
    """Before anything is touched."""
    bad = run(tmp_path, **{"break-deadline-s": "never"})
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1
    assert "never" in bad.stderr
    assert list(tmp_path.iterdir()) == []


def content(name: str) -> bytes:
    """What the file of a name holds: short, or long enough for chunks, by its name."""
    seed = name.encode()
    return seed * (50_000 if len(name) % 3 == 0 else 100)


async def write(index: int, turn: int, address: str, done: dict[str, bytes]) -> None:
    """Writes files until the fileserver is gone; puts down what was answered."""
    client = Client(address)
    for number in count():
        name = f"t{turn}w{index}n{number}"
        data = content(name)
        try:
            file = await client.create(name)
            done[name] = b""
            await client.store(file, data[: len(data) // 2], data[len(data) // 2 :])
            done[name] = data
        except AfsError:
            break
    await client.close()


async def read_all(client: Client) -> dict[str, bytes]:
    """Every file of the root directory."""
    found = {}
    request = pb.ReadDirRequest(directory=fid_to_wire(ROOT))
    for answer in await client.stream(client.files.ReadDir, request):
        for entry in answer.entries:
            _, found[entry.name] = await client.fetch(fid_from_wire(entry.fid))
    return found


@pytest.mark.slow
async def test_no_answered_write_is_lost_by_kill_9(tmp_path: Path) -> None:
    """I9: again and again: what was answered is there, the rest is whole or not at all."""
    make_volumes(tmp_path / "vicepa", VOLUME)
    done: dict[str, bytes] = {}
    for turn in range(KILLS):
        async with process(tmp_path) as running:
            before = len(done)
            writers = [
                asyncio.create_task(write(index, turn, running.address, done))
                for index in range(WRITERS)
            ]
            while len(done) < before + WRITES:
                await asyncio.sleep(0.005)
            running.process.kill()
            await asyncio.gather(*writers)
        async with process(tmp_path) as running:
            client = Client(running.address)
            found = await read_all(client)
            await client.close()
        assert set(done) <= set(found)
        for name, data in found.items():
            answered = done.get(name, b"")
            assert data == answered or data in (b"", content(name)), name
            assert not answered or data == answered, name
        # What was not answered and is there counts from now on.
        done.update(found)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A partition directory on a disk of 24 MiB."""
    disk = tmp_path / "vicepa"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs a mount")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.root
async def test_a_full_disk_loses_nothing(tmp_path: Path, small_disk: Path) -> None:
    """VDISKFULL for the write that does not fit; everything else is served, before and after."""
    make_volumes(small_disk, VOLUME)
    kept_data = [bytes([number]) * MIB for number in range(4)]
    async with process(tmp_path) as running:
        client = await Client(running.address).attach()
        kept, large = await client.create("kept"), await client.create("large")
        await client.store(kept, *kept_data)
        async with refused(AfsCode.VDISKFULL):
            await client.store(large, *[os.urandom(MIB) for _ in range(40)])
        async with refused(AfsCode.VDISKFULL):
            await fill_with_small_files(client)
        assert (await client.fetch(kept))[1] == b"".join(kept_data)
        assert (await client.fetch(large))[1] == b""
        request = pb.RemoveFileRequest(directory=fid_to_wire(ROOT), name="kept")
        await client.call(client.files.RemoveFile, request)
        # The room of what was removed is freed by and by.
        async with asyncio.timeout(PATIENCE_S):
            while not await fits(client, large, b"fits"):
                await asyncio.sleep(0.05)
        assert (await client.fetch(large))[1] == b"fits"
        await client.close()
        running.process.terminate()
        assert await asyncio.wait_for(running.process.wait(), PATIENCE_S) == 0


async def fill_with_small_files(client: Client) -> None:
    """Ends with VDISKFULL."""
    for number in range(10_000):
        await client.store(await client.create(f"small{number}"), os.urandom(16_000))


async def fits(client: Client, file: Fid, data: bytes) -> bool:
    """Whether a store found room."""
    try:
        await client.store(file, data)
    except AfsError as error:
        if error.code is not AfsCode.VDISKFULL:
            raise
        return False
    return True
