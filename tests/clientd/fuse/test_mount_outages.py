"""A mount while the fileserver is away: programs get errors or wait, and no write vanishes."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.clientd.fake_fileserver import FakeFileServer, lasting_location
from tests.clientd.fuse.mounted import PATIENCE_S, do, needs_fuse
from tests.clientd.fuse.test_programs_view import errno_of
from tests.clientd.local_program import LocalProgram, running_client
from tests.clientd.test_outages import QUICK, away, unsent, until_sent

pytestmark = [pytest.mark.root, needs_fuse]

_READ = "import sys; print('begun', flush=True); print(open(sys.argv[1]).read(), flush=True)"


@asynccontextmanager
async def mounted(server: FakeFileServer, folder: Path, **keys: Any) -> AsyncIterator[LocalProgram]:
    """A mounted client that does not wait long; `home` is at `folder / "afs/home"`."""
    (folder / "afs").mkdir()
    async with (
        lasting_location(server) as location,
        running_client(folder, location, **(QUICK | keys)) as program,
    ):
        await program.client.mounts.mount(folder / "afs")
        try:
            yield program
        finally:
            await program.client.mounts.stop()


async def test_close_says_that_the_fileserver_is_away(
    server: FakeFileServer, tmp_path: Path
) -> None:
    """ETIMEDOUT for close(2) and for readers; what was written is stored and seen afterwards."""
    fid = server.add("f", b"old")
    async with mounted(server, tmp_path) as program:
        path = tmp_path / "afs/home/f"

        def write() -> int:
            assert path.read_bytes() == b"old"
            descriptor = os.open(path, os.O_WRONLY)
            os.write(descriptor, b"newer")
            return descriptor

        descriptor = await do(write)
        async with away(server, program):
            assert await do(errno_of, lambda: os.close(descriptor)) == errno.ETIMEDOUT
            assert await do(errno_of, path.read_bytes) == errno.ETIMEDOUT
            (store,) = await unsent(program)
            assert (store.name, store.on_disk) == ("f", True)
            assert server.nodes[fid].data == b"old"
        # Also before it is stored: it is the newest that this machine has.
        assert await do(path.read_bytes) == b"newer"
        await until_sent(program)
        assert server.nodes[fid].data == b"newer"
        assert await do(path.read_bytes) == b"newer"


async def test_conflict_shows_what_the_fileserver_has(
    server: FakeFileServer, tmp_path: Path
) -> None:
    """Not what was written here and is kept aside, whatever the kernel had cached."""
    fid = server.add("f", b"old")
    async with mounted(server, tmp_path) as program:
        path = tmp_path / "afs/home/f"

        def write() -> int:
            descriptor = os.open(path, os.O_RDWR)
            os.write(descriptor, b"mine")
            assert os.pread(descriptor, 10, 0) == b"mine"
            return descriptor

        descriptor = await do(write)
        async with away(server, program):
            assert await do(errno_of, lambda: os.close(descriptor)) == errno.ETIMEDOUT
            server.change(fid, b"theirs")
        await until_sent(program)
        assert len(await unsent(program)) == 1
        assert await do(path.read_bytes) == b"theirs"
        assert server.nodes[fid].data == b"theirs"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
async def test_waiting_program_can_be_interrupted(
    number: signal.Signals, server: FakeFileServer, tmp_path: Path
) -> None:
    """By a signal; another one waits on, and reads when the fileserver is back."""
    server.add("f", b"content")
    async with mounted(server, tmp_path, on_outage="wait") as program:
        path = tmp_path / "afs/home/f"
        assert await do(os.listdir, path.parent) == ["f"]
        async with away(server, program):
            readers = [
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", _READ, str(path)),
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                for _ in range(2)
            ]
            impatient, patient = readers
            async with asyncio.timeout(PATIENCE_S):
                for reader in readers:
                    assert reader.stdout is not None
                    assert await reader.stdout.readline() == b"begun\n"
                done, _ = await asyncio.wait(
                    [asyncio.ensure_future(reader.wait()) for reader in readers], timeout=0.5
                )
                assert not done
                impatient.send_signal(number)
                assert await impatient.wait() != 0
        async with asyncio.timeout(PATIENCE_S):
            output, _ = await patient.communicate()
        assert output == b"content\n"
