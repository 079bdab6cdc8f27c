"""A daemon as a process: starting, failing to start, signals, exit status, logs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest

from afs.errors import AfsCode
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.runtime.malloc import tune_malloc
from afs.v1 import callback_channel_pb2_grpc, file_server_pb2, file_server_pb2_grpc

# The tests themselves wait for files that the process writes.
pytestmark = pytest.mark.blocking_ok

DEADLINE_S = 30.0


class _Process:
    """A running example daemon."""

    def __init__(self, process: asyncio.subprocess.Process, ready: Path, synced: Path) -> None:
        self._process = process
        self._ready = ready
        self.synced = synced

    async def addresses(self) -> list[str]:
        """Where it listens; waits until it does."""
        async with asyncio.timeout(DEADLINE_S):
            while not self._ready.exists() or not self._ready.read_text():
                assert self._process.returncode is None, "the daemon ended before it was ready"
                await asyncio.sleep(0.01)
        return self._ready.read_text().splitlines()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal."""
        self._process.send_signal(number)

    async def end(self) -> tuple[int, str]:
        """The exit status and standard error, once it has ended."""
        async with asyncio.timeout(DEADLINE_S):
            _, err = await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode, err.decode()


@asynccontextmanager
async def _daemon(tmp_path: Path, *flags: str) -> AsyncIterator[_Process]:
    """Starts the example daemon; whatever happens, it does not outlive the test."""
    ready, synced = tmp_path / "ready", tmp_path / "synced"
    arguments = [
        "-m",
        "tests.runtime.example_daemon",
        "--ready",
        str(ready),
        "--synced",
        str(synced),
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        *flags,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    try:
        yield _Process(process, ready, synced)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_stops_gracefully(tmp_path: Path, number: signal.Signals) -> None:
    """SIGTERM and SIGINT drain, sync and exit 0; a callback channel does not hold it up."""
    async with _daemon(tmp_path, "--log-format=json", "--grace-s=300") as daemon:
        (address,) = await daemon.addresses()
        async with open_channel(address) as channel:
            call = callback_channel_pb2_grpc.CallBackChannelStub(channel).Attach()
            await call.read()
            daemon.signal(number)
            status, err = await daemon.end()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
    assert status == 0
    assert daemon.synced.exists()
    assert afs_error_from_rpc(caught.value).code in (AfsCode.VRESTARTING, AfsCode.RX_CALL_DEAD)
    events = [json.loads(line) for line in err.splitlines()]
    assert [event["event"] for event in events] == [
        "daemon.started",
        "daemon.stop_began",
        "example.synced",
        "daemon.stopped",
    ]
    assert events[1]["reason"] == number.name


async def test_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Who asks a second time does not wait for a call that never ends."""
    async with _daemon(tmp_path, "--grace-s=300") as daemon:
        (address,) = await daemon.addresses()
        async with open_channel(address) as channel:
            stub = file_server_pb2_grpc.FileServerStub(channel)
            await stub.FetchStatus(file_server_pb2.FetchStatusRequest())
            hanging = asyncio.ensure_future(stub.GetTime(file_server_pb2.GetTimeRequest()))
            # Once a later call is answered, the earlier one has arrived as well.
            await stub.FetchStatus(file_server_pb2.FetchStatusRequest())
            daemon.signal(signal.SIGTERM)
            async with asyncio.timeout(DEADLINE_S):
                while await _is_answered(stub):
                    pass
            daemon.signal(signal.SIGTERM)
            status, _ = await daemon.end()
            with pytest.raises(grpc.aio.AioRpcError):
                await hanging
    assert status == 128 + signal.SIGTERM
    assert not daemon.synced.exists()


async def _is_answered(stub: file_server_pb2_grpc.FileServerAsyncStub) -> bool:
    try:
        await stub.FetchStatus(file_server_pb2.FetchStatusRequest(), timeout=1)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_signal_during_a_slow_start(tmp_path: Path) -> None:
    """A daemon that is still starting when it is asked to stop gives up and exits 0."""
    async with _daemon(tmp_path, "--startup=hang") as daemon:
        await daemon.addresses()
        daemon.signal(signal.SIGTERM)
        status, err = await daemon.end()
    assert (status, err) == (0, "")


async def test_failed_start_is_one_line(tmp_path: Path) -> None:
    """What can happen in operation keeps it from starting with one line, exit 1."""
    async with _daemon(tmp_path, "--startup=fail") as daemon:
        status, err = await daemon.end()
    assert (status, err) == (1, "exampled: partition vicepa is in use by another process\n")


async def test_taken_address_is_one_line(tmp_path: Path) -> None:
    """A second daemon on a taken port or socket is refused with one line; the first lives."""
    socket = f"unix:{tmp_path}/s.sock"
    async with _daemon(tmp_path, "--listen=127.0.0.1:0", f"--listen={socket}") as first:
        addresses = await first.addresses()
        for address in addresses:
            second_dir = tmp_path / "second"
            second_dir.mkdir(exist_ok=True)
            async with _daemon(second_dir, f"--listen={address}") as second:
                status, err = await second.end()
            assert status == 1
            assert err.startswith("exampled: cannot listen on ")
            assert address in err
            assert err.count("\n") == 1
        async with open_channel(addresses[1]) as channel:
            assert await _is_answered(file_server_pb2_grpc.FileServerStub(channel))


async def test_impossible_run_directory_is_one_line(tmp_path: Path) -> None:
    """An OSError at start is one line, exit 1."""
    (tmp_path / "file").touch()
    async with _daemon(tmp_path, f"--listen=unix:{tmp_path}/file/s.sock") as daemon:
        status, err = await daemon.end()
    assert status == 1
    assert err.startswith("exampled: ")
    assert "Not a directory" in err or "File exists" in err
    assert err.count("\n") == 1


async def test_bug_at_start_shows_its_traceback(tmp_path: Path) -> None:
    """A bug of ours is not dressed up as an error of operation."""
    async with _daemon(tmp_path, "--startup=crash") as daemon:
        status, err = await daemon.end()
    assert status == 1
    assert "ZeroDivisionError" in err
    assert "Traceback" in err


async def test_bad_flag_exits_2(tmp_path: Path) -> None:
    """A bad value is one line, exit 2."""
    async with _daemon(tmp_path, "--grace-s=soon") as daemon:
        status, err = await daemon.end()
    assert status == 2
    assert err.count("\n") == 1


async def test_killed_daemon_leaves_a_socket_that_the_next_one_replaces(tmp_path: Path) -> None:
    """After kill -9 the daemon can be started again on the same unix socket."""
    flags = [f"--listen=unix:{tmp_path}/s.sock"]
    async with _daemon(tmp_path, *flags) as first:
        await first.addresses()
        first.signal(signal.SIGKILL)
        assert (await first.end())[0] == -signal.SIGKILL
    (tmp_path / "ready").unlink()
    async with _daemon(tmp_path, *flags) as second:
        (address,) = await second.addresses()
        async with open_channel(address) as channel:
            assert await _is_answered(file_server_pb2_grpc.FileServerStub(channel))
        second.signal(signal.SIGTERM)
        assert (await second.end())[0] == 0
    assert not os.path.lexists(tmp_path / "s.sock")


def test_malloc_can_be_tuned() -> None:
    """The thresholds are taken by glibc; elsewhere nothing happens."""
    tune_malloc()
