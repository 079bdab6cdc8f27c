"""What is cached of a directory is revalidated many vnodes at a time, and judged one by one."""

from __future__ import annotations

import asyncio

import pytest

from afs.errors import AfsCode, AfsError
from afs.types import Fid, whole_volume_fid
from clientd.core.companions import FIRST_BATCH
from tests.clientd.fake_fileserver import VOLUME, FakeFileServer
from tests.clientd.local_program import CACHE, LocalProgram

FILES = 100


async def warm(server: FakeFileServer, program: LocalProgram) -> list[Fid]:
    """A directory of files that have been read, and whose promises have all just ended."""
    fids = [server.add(f"f{number:03}", b"x") for number in range(FILES)]
    for number in range(FILES):
        await program.read(f"/home/f{number:03}")
    await program.until_leased()
    await server.break_and_wait([whole_volume_fid(VOLUME)])
    return fids


async def test_directory_is_revalidated_in_few_calls(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """One for the directory, one for its first file, then batches that grow."""
    await warm(server, program)
    before = server.calls.copy()
    for number in range(FILES):
        assert (await program.read(f"/home/f{number:03}")).data == b"x"
    calls = server.calls - before
    assert calls == {"FetchStatus": 2, "BulkStatus": 3}
    counters = await program.counters()
    assert counters["bulk_status_calls"] == 3
    assert counters["revalidated"] == FILES + 1


async def test_single_file_is_asked_about_alone(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Whoever reads one file pays for one."""
    await warm(server, program)
    before = server.calls.copy()
    await program.read("/home/f050")
    assert server.calls - before == {"FetchStatus": 2}


async def test_what_changed_is_seen(server: FakeFileServer, program: LocalProgram) -> None:
    """Companions that changed, or are gone, are taken in as such."""
    fids = await warm(server, program)
    server.change(fids[3], b"new")
    del server.nodes[fids[4]]
    for number in range(2):
        await program.read(f"/home/f{number:03}")
    before = server.calls.copy()
    assert (await program.read("/home/f003")).data == b"new"
    assert server.calls - before == {"FetchData": 1}
    assert program.client.services.cache.peek(fids[4]) is None
    with pytest.raises(AfsError) as caught:
        await program.read("/home/f004")
    assert caught.value.code is AfsCode.VNOVNODE


async def test_break_during_a_batch_wins_over_it(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """R10, for companions too: they are not trusted for what the batch says of them."""
    fids = await warm(server, program)
    await program.read("/home/f000")
    gate = server.hold("BulkStatus")
    reading = asyncio.create_task(program.read("/home/f001"))
    await gate.reached.wait()
    following = asyncio.create_task(program.read("/home/f002"))
    server.change(fids[2], b"new")
    await server.break_and_wait([whole_volume_fid(VOLUME)])
    gate.opened.set()
    assert (await reading).data == b"x"
    assert (await following).data == b"new"


async def test_who_wants_a_companion_waits_for_the_batch(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Instead of asking about it as well."""
    await warm(server, program)
    await program.read("/home/f000")
    gate = server.hold("BulkStatus")
    before = server.calls.copy()
    reading = [asyncio.create_task(program.read(f"/home/f{number:03}")) for number in range(1, 5)]
    await gate.reached.wait()
    gate.opened.set()
    answers = await asyncio.gather(*reading)
    assert {answer.data for answer in answers} == {b"x"}
    calls = server.calls - before
    assert calls["BulkStatus"] <= 2
    assert (await program.read(f"/home/f{FIRST_BATCH:03}")).source == CACHE


async def test_fileserver_that_cannot_is_asked_one_by_one(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """RXGEN_OPCODE for BulkStatus is no error for anybody."""
    await warm(server, program)
    server.fails["BulkStatus"] = [AfsError(AfsCode.RXGEN_OPCODE, "what?")]
    for number in range(3):
        assert (await program.read(f"/home/f{number:03}")).data == b"x"


async def test_statuses_are_brought_in_one_call(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Those that are trusted are not asked about, none twice; one that is gone is no error."""
    fids = [server.add(f"f{number}", b"x") for number in range(10)]
    await program.stat("/home/f0")
    await program.until_leased()
    services = program.client.services
    volume = await services.volumes.named("home")
    gone = Fid(VOLUME, 999, 999)
    before = server.calls.copy()
    await asyncio.gather(
        services.statuses.bring(volume, [*fids, gone, fids[5]]),
        services.statuses.bring(volume, fids),
    )
    assert server.calls - before == {"BulkStatus": 1}
    assert all(services.servers.trusted(fid) is not None for fid in fids)
    await services.statuses.bring(volume, fids)
    assert server.calls - before == {"BulkStatus": 1}
