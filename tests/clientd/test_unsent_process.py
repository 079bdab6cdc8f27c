"""What could not be stored, with real processes: killed, started again, and the command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from afs.types import Fid
from afs.v1 import cache_manager_pb2 as pb
from tests.clientd.fake_fileserver import FakeFileServer, lasting_location
from tests.clientd.local_program import PATIENCE_S
from tests.clientd.test_process import Process, running_process


async def said(output: asyncio.StreamReader) -> str:
    """The next word of the writer; its log's lines have several."""
    while " " in (line := (await output.readline()).decode()):
        pass
    return line.strip()


async def write_and_die(folder: Path, location: str, fid: Fid, server: FakeFileServer) -> str:
    """A clientd whose program writes while the fileserver is away, killed after the flush."""
    arguments = [str(folder), location, *map(str, fid), "written"]
    writer = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.clientd.unsent_writer",
        *arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert writer.stdout is not None
    assert writer.stdin is not None
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert await said(writer.stdout) == "open"
            await server.stop()
            writer.stdin.write(b"go\n")
            return await said(writer.stdout)
    finally:
        writer.kill()
        await writer.wait()


async def afsctl(process: Process, *words: str) -> tuple[int, str]:
    """Exit status and output of an `afsctl fs` command."""
    command = [sys.executable, "-m", "afsctl", "fs", *words, f"--client={process.address}"]
    ran = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await ran.communicate()
    assert ran.returncode is not None
    return ran.returncode, output.decode()


async def unsent(process: Process) -> list[pb.UnsentStore]:
    """What waits to be stored, or is in conflict."""
    stub = process.program.stub
    response = await process.program.call(stub.ListUnsent(pb.ListUnsentRequest()))
    return list(response.stores)


async def check_until(process: Process, wanted: Callable[[list[pb.UnsentStore]], bool]) -> None:
    """Has servers checked, and so what is unsent tried, until it is as wanted."""
    stub = process.program.stub
    async with asyncio.timeout(PATIENCE_S):
        while not wanted(await unsent(process)):
            await process.program.call(stub.CheckServers(pb.CheckServersRequest()))
            await asyncio.sleep(0.05)


async def test_killed_client_loses_nothing_that_a_flush_was_refused_for(
    server: FakeFileServer, tmp_path: Path
) -> None:
    """Kill -9 right after close(2) has failed: the next life lists it, and stores it."""
    fid = server.add("f", b"old content")
    async with lasting_location(server) as location:
        assert await write_and_die(tmp_path, location, fid, server) == "RX_CALL_DEAD"
        async with running_process(tmp_path, location) as process:
            status, output = await afsctl(process, "unsent", "--json")
            assert status == 0, output
            (store,) = json.loads(output)
            assert (store["number"], store["state"], store["written_bytes"]) == (1, "waiting", 7)
            await server.start(server.address)
            await check_until(process, lambda stores: not stores)
            assert server.nodes[fid].data == b"writtentent"
            _, output = await afsctl(process, "unsent")
            assert output == "Everything that was written is stored.\n"


async def test_conflict_is_exported_and_discarded(server: FakeFileServer, tmp_path: Path) -> None:
    """The file was changed meanwhile: what was written is a file of its own, at its place."""
    fid = server.add("f", b"old content")
    async with lasting_location(server) as location:
        assert await write_and_die(tmp_path, location, fid, server) == "RX_CALL_DEAD"
        server.change(fid, b"theirs")
        await server.start(server.address)
        async with running_process(tmp_path, location) as process:
            conflict = pb.UNSENT_STATE_CONFLICT
            await check_until(process, lambda stores: [each.state for each in stores] == [conflict])
            _, output = await afsctl(process, "unsent")
            assert str(fid) in output
            _, output = await afsctl(process, "checkservers")
            assert "0 waiting, 1 in conflict" in output
            exported = tmp_path / "exported"
            status, output = await afsctl(process, "unsent", "export", "1", str(exported))
            assert status == 0, output
            assert "4 B that were not written are zeroes" in output
            assert exported.read_bytes() == b"written\0\0\0\0"
            status, output = await afsctl(process, "unsent", "export", "1", str(exported))
            assert (status, "is there already" in output) == (1, True)
            status, output = await afsctl(process, "unsent", "discard", "1")
            assert status == 0, output
            assert await unsent(process) == []
    assert server.nodes[fid].data == b"theirs"
