"""Small files come ahead of need, in one call, and are judged like every reply."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_BULK_FILE_BYTES
from afs.types import Fid, whole_volume_fid
from clientd import ahead as module
from clientd.core.reading_order import FIRST_BATCH
from tests.afsd.running import refused
from tests.clientd.fake_fileserver import VOLUME, FakeFileServer
from tests.clientd.local_program import CACHE, FILE_SERVER, LocalProgram, running_client

FILES = 100


def fill(server: FakeFileServer, count: int = FILES) -> list[Fid]:
    """A directory of small files."""
    return [server.add(f"f{number:03}", b"%03d" % number) for number in range(count)]


async def read(program: LocalProgram, number: int) -> int:
    """Reads a file; where the answer came from."""
    answer = await program.read(f"/home/f{number:03}")
    assert answer.data == b"%03d" % number
    return answer.source


async def test_a_directory_is_read_in_few_calls(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """One for its first file, then batches that grow; none of the rest is asked about again."""
    fill(server)
    await program.until_leased()
    before = server.calls.copy()
    sources = [await read(program, number) for number in range(FILES)]
    calls = server.calls - before
    assert calls["FetchData"] == 1
    assert calls["BulkFetch"] <= 4
    assert calls["FetchStatus"] <= 1
    assert sum(server.bulk_sizes) == FILES - 1
    assert sources[0] == FILE_SERVER
    assert sources.count(CACHE) >= FILES - 1 - calls["BulkFetch"]
    counters = await program.counters()
    assert counters["files_fetched_in_bulk"] == FILES - 1
    assert counters["bytes_fetched"] == 3 * FILES


async def test_what_came_ahead_outlives_the_client(server: FakeFileServer, tmp_path: Path) -> None:
    """It is in the disk cache like anything else, and is asked about, not fetched."""
    fill(server, 20)
    async with running_client(tmp_path, server.address) as program:
        for number in range(3):
            await read(program, number)
    async with running_client(tmp_path, server.address) as program:
        before = server.calls.copy()
        for number in range(3 + FIRST_BATCH // 2):
            await read(program, number)
        calls = server.calls - before
        assert not calls["FetchData"]
        assert not calls["BulkFetch"]


async def test_one_file_is_fetched_alone(server: FakeFileServer, program: LocalProgram) -> None:
    """Whoever reads files here and there pays for those."""
    fill(server)
    for number in (50, 20, 90, 10):
        await read(program, number)
    assert server.calls["FetchData"] == 4
    assert not server.calls["BulkFetch"]


async def test_who_wants_a_file_that_is_under_way_waits_for_it(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """It is not fetched twice."""
    fill(server, 10)
    await read(program, 0)
    gate = server.hold("BulkFetch")
    reading = [asyncio.create_task(read(program, number)) for number in range(1, 5)]
    await gate.reached.wait()
    assert not any(task.done() for task in reading)
    server.let_go("BulkFetch")
    await asyncio.gather(*reading)
    assert server.calls["FetchData"] == 1


async def test_a_break_on_the_way_wins(server: FakeFileServer, program: LocalProgram) -> None:
    """R10: what a bulk fetch brings of a file that changed meanwhile is not answered."""
    fids = fill(server, 10)
    await read(program, 0)
    await program.until_leased()
    gate = server.hold("BulkFetch")
    reading = asyncio.create_task(read(program, 1))
    await gate.reached.wait()
    server.change(fids[3], b"new")
    await server.break_and_wait([whole_volume_fid(VOLUME)])
    server.let_go("BulkFetch")
    await reading
    answer = await program.read("/home/f003")
    assert answer.data == b"new"


async def test_what_is_no_small_file_spoils_nothing(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Larger ones are fetched by themselves, empty ones not at all, removed ones are gone."""
    fids = fill(server, 12)
    server.change(fids[3], bytes(MAX_BULK_FILE_BYTES + 1))
    server.change(fids[4], b"")
    await read(program, 0)
    del server.nodes[fids[5]]
    await read(program, 1)
    assert server.calls["BulkFetch"] == 1
    assert len((await program.read("/home/f003")).data) == MAX_BULK_FILE_BYTES + 1
    assert (await program.read("/home/f004")).data == b""
    assert server.calls["FetchData"] == 2
    async with refused(AfsCode.VNOVNODE):
        await program.read("/home/f005")


async def test_an_older_fileserver_is_asked_once(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """One that has no BulkFetch serves one file at a time, and is not asked again."""
    server.fetches_in_bulk = False
    fill(server, 10)
    for number in range(10):
        await read(program, number)
    assert server.calls["FetchData"] == 10
    assert (await program.counters())["bulk_fetch_calls"] == 1


async def test_a_bulk_fetch_that_fails_costs_nothing_but_itself(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Whoever waited for it fetches for itself, and would hear from that what is wrong."""
    fill(server, 10)
    server.fails["BulkFetch"] = [AfsError(AfsCode.EIO, "damaged")]
    for number in range(10):
        await read(program, number)
    assert server.calls["BulkFetch"] == 2
    assert server.calls["FetchData"] <= 3


async def test_a_disk_that_falls_behind_is_waited_for(
    server: FakeFileServer, program: LocalProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No more is taken in than what is bounded on its way to the disk; nothing is lost by that."""
    monkeypatch.setattr(module, "MAX_UNKEPT_BYTES", 10)
    fill(server)
    for number in range(FILES):
        await read(program, number)
    assert server.calls["FetchData"] == 1
    disk = program.client.services.disk
    assert disk.file_count() == FILES
