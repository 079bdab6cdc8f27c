"""clientd as a process: frozen and thawed, killed and started again, stopped, misconfigured."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from afs.limits import STALL_S
from afs.runtime.channel import open_channel
from tests.clientd.fake_fileserver import FakeFileServer
from tests.clientd.local_program import CACHE, PATIENCE_S, REVALIDATED, LocalProgram


class Process:
    """A clientd process, on a unix socket under `folder`."""

    def __init__(self, popen: subprocess.Popen[bytes], folder: Path) -> None:
        self.popen = popen
        self.log = folder / "log"
        self.address = f"unix:{folder / 'cm.sock'}"
        # The program only needs to know where to call.
        client: Any = SimpleNamespace(addresses=[self.address])
        self.program = LocalProgram(client)

    async def until_serving(self) -> Process:
        """Waits until health says so."""
        channel = open_channel(self.address)
        stub = health_pb2_grpc.HealthStub(channel)
        async with asyncio.timeout(PATIENCE_S):
            while True:
                try:
                    await stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
                except grpc.aio.AioRpcError:
                    assert self.popen.poll() is None, self.log.read_text()
                    await asyncio.sleep(0.05)
                else:
                    break
        await channel.close()
        return self

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Sends the signal and waits for the end."""
        await self.program.channel.close()
        self.popen.send_signal(number)
        return await asyncio.to_thread(self.popen.wait, PATIENCE_S)


def start(folder: Path, location: str, *flags: str) -> subprocess.Popen[bytes]:
    """Starts a clientd."""
    command = [
        sys.executable,
        "-m",
        "clientd",
        f"--listen=unix:{folder / 'cm.sock'}",
        f"--location={location}",
        f"--cache-dir={folder / 'cache'}",
        *flags,
    ]
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, stderr=log)


@asynccontextmanager
async def running_process(folder: Path, location: str, *flags: str) -> AsyncIterator[Process]:
    """A clientd process that serves; killed in the end if it still runs."""
    popen = await asyncio.to_thread(start, folder, location, *flags)
    process = Process(popen, folder)
    try:
        yield await process.until_serving()
    finally:
        await process.program.channel.close()
        if process.popen.poll() is None:
            process.popen.kill()
            await asyncio.to_thread(process.popen.wait)


async def warm(process: Process, path: str) -> None:
    """Reads until the answer comes from the cache."""
    async with asyncio.timeout(PATIENCE_S):
        while (await process.program.read(path)).source != CACHE:
            pass


async def test_thawed_client_first_answers_with_the_new_content(
    server: FakeFileServer, tmp_path: Path
) -> None:
    """Stopped for less than a lease, with a break and a read waiting for it (I8)."""
    fid = server.add("f", b"old")
    async with running_process(tmp_path, server.address) as process:
        await warm(process, "/home/f")
        os.kill(process.popen.pid, signal.SIGSTOP)
        try:
            server.change(fid, b"new")
            server.send_break([fid])
            reading = asyncio.create_task(process.program.read("/home/f"))
            # Time has to pass for there to be a stall.
            await asyncio.sleep(STALL_S + 0.3)
        finally:
            os.kill(process.popen.pid, signal.SIGCONT)
        assert (await reading).data == b"new"
        assert (await process.program.counters())["stalls"] >= 1
        await warm(process, "/home/f")
        assert await process.end() == 0


def indexed(cache: Path) -> int:
    """Pieces in the index of a running client."""
    with closing(sqlite3.connect(f"file:{cache / 'index.sqlite3'}?mode=ro", uri=True)) as database:
        (count,) = database.execute("SELECT count(*) FROM piece").fetchone()
        return int(count)


async def test_killed_client_keeps_its_cache(server: FakeFileServer, tmp_path: Path) -> None:
    """Kill -9 at any moment: what the index knew is revalidated, not fetched, and right."""
    data = {f"f{number}": os.urandom(5000 + number) for number in range(30)}
    for name, content in data.items():
        server.add(name, content)
    async with running_process(tmp_path, server.address) as process:
        for name, content in data.items():
            assert (await process.program.read(f"/home/{name}")).data == content
        async with asyncio.timeout(PATIENCE_S):
            while await asyncio.to_thread(indexed, tmp_path / "cache") < 10:
                await asyncio.sleep(0.05)
        await process.end(signal.SIGKILL)
    async with running_process(tmp_path, server.address) as process:
        sources = []
        for name, content in data.items():
            answer = await process.program.read(f"/home/{name}")
            assert answer.data == content
            sources.append(answer.source)
        assert REVALIDATED in sources
        assert await process.end() == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cache-limit-bytes=12"], "cache-limit-bytes"),
        (["--cache-limit-bytes=much"], "cache-limit-bytes"),
        (["--no-such-flag"], "no-such-flag"),
    ],
)
def test_bad_configuration_is_one_line(arguments: list[str], words: str) -> None:
    """Exit status 2, and the key is named."""
    done = subprocess.run(
        [sys.executable, "-m", "clientd", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_unusable_cache_directory_is_one_line(tmp_path: Path) -> None:
    """Exit status 1."""
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "clientd", f"--cache-dir={tmp_path / 'file' / 'cache'}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
