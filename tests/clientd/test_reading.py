"""Reading through the client: what is answered from the cache, and what is not."""

from __future__ import annotations

import asyncio

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import MIB
from tests.clientd.fake_fileserver import FakeFileServer
from tests.clientd.local_program import CACHE, FILE_SERVER, REVALIDATED, LocalProgram


async def test_cold_read_then_warm_read(server: FakeFileServer, program: LocalProgram) -> None:
    """The first read asks the fileserver, the second one does not."""
    server.add("hello", b"hello, world")
    cold = await program.read("/home/hello")
    assert (cold.data, cold.source) == (b"hello, world", FILE_SERVER)
    await program.until_leased()
    asked = server.calls.total()
    warm = await program.read("/home/hello")
    assert (warm.data, warm.source) == (b"hello, world", CACHE)
    assert server.calls.total() == asked


async def test_warm_stat_list_and_read_ask_nobody(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Under promises nothing reaches the fileserver, missing names included."""
    docs = server.add_dir("docs")
    server.add("a", b"a" * 10, parent=docs)
    await program.stat("/home/docs/a")
    await program.until_leased()
    await program.read("/home/docs/a")
    asked = server.calls.total()
    for _ in range(3):
        assert (await program.stat("/home/docs/a")).source == CACHE
        assert await program.list("/home/docs") == (["a"], CACHE)
        assert (await program.read("/home/docs/a")).source == CACHE
        with pytest.raises(AfsError, match="ENOENT"):
            await program.stat("/home/docs/missing")
    assert server.calls.total() == asked
    counters = await program.counters()
    assert counters["cache_hits"] >= 9


async def test_break_makes_the_next_read_fresh(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """After an acknowledged break the new content is read."""
    fid = server.add("f", b"old")
    await program.read("/home/f")
    await program.until_leased()
    server.change(fid, b"new!")
    await server.break_and_wait([fid])
    answer = await program.read("/home/f")
    assert (answer.data, answer.source) == (b"new!", FILE_SERVER)


async def test_void_promise_costs_a_status_and_no_data(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A break without a new DataVersion is answered by FetchStatus; the data is not fetched."""
    fid = server.add("f", b"same")
    await program.read("/home/f")
    await program.until_leased()
    await server.break_and_wait([fid])
    before = server.calls.copy()
    answer = await program.read("/home/f")
    assert (answer.data, answer.source) == (b"same", REVALIDATED)
    assert server.calls - before == {"FetchStatus": 1}


async def test_concurrent_readers_share_one_fetch(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Twenty readers of a cold file cost one FetchData, which brings the status along."""
    data = bytes(range(256)) * 4096 * 3
    server.add("big", data)
    await program.list("/home")
    await program.until_leased()
    before = server.calls.copy()
    answers = await asyncio.gather(*(program.read("/home/big") for _ in range(20)))
    assert all(answer.data == data for answer in answers)
    assert (server.calls - before) == {"FetchData": 1}


@pytest.mark.parametrize("message_bytes", [1000, 65536, MIB - 1, MIB])
async def test_ranges_come_right_whatever_the_pieces(
    server: FakeFileServer, program: LocalProgram, message_bytes: int
) -> None:
    """Any range of a file is what it is on the fileserver, however that cuts its messages."""
    size = MIB + 5000 if message_bytes == 1000 else 3 * MIB + 77
    server.message_bytes = message_bytes
    data = bytes(number * 7 % 251 for number in range(size))
    server.add("f", data)
    for offset, length in [(MIB - 3, 10), (0, 1), (size - 1, 5), (size, 4), (size + 9, 0), (5, 0)]:
        answer = await program.read("/home/f", offset, length)
        assert answer.data == data[offset : offset + length if length else None]
        assert answer.status.length == size


async def test_symbolic_links_are_followed(server: FakeFileServer, program: LocalProgram) -> None:
    """Relative and absolute targets, `..`, and loops."""
    docs = server.add_dir("docs")
    server.add("real", b"content", parent=docs)
    server.add("relative", target="real", parent=docs)
    server.add("absolute", target="/home/docs/relative")
    server.add("up", target="../absolute", parent=docs)
    server.add("loop", target="loop")
    for path in ("/home/docs/relative", "/home/absolute", "/home/docs/up", "/home/docs/../docs/up"):
        assert (await program.read(path)).data == b"content"
    answer = await program.stat("/home/absolute", no_follow=True)
    assert answer.symlink_target == "/home/docs/relative"
    with pytest.raises(AfsError) as caught:
        await program.read("/home/loop")
    assert caught.value.code is AfsCode.ELOOP


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("", AfsCode.EINVAL),
        ("home/f", AfsCode.EINVAL),
        ("/home/f\0", AfsCode.EINVAL),
        ("/nowhere/f", AfsCode.VNOVOL),
        ("/home/missing", AfsCode.ENOENT),
        ("/home/missing/f", AfsCode.ENOENT),
        ("/home/f/g", AfsCode.ENOTDIR),
        ("/home", AfsCode.EISDIR),
        ("/", AfsCode.EISDIR),
        ("/home/" + "n" * 256, AfsCode.ENAMETOOLONG),
        ("/home/" + "n/" * 20000, AfsCode.ENAMETOOLONG),
    ],
)
async def test_bad_paths_have_clear_errors(
    server: FakeFileServer, program: LocalProgram, path: str, code: AfsCode
) -> None:
    """Each kind of bad path has its code."""
    server.add("f", b"x")
    with pytest.raises(AfsError) as caught:
        await program.read(path)
    assert caught.value.code is code


async def test_negative_offsets_are_refused(server: FakeFileServer, program: LocalProgram) -> None:
    """Offsets and lengths below 0 are EINVAL."""
    server.add("f", b"x")
    for offset, length in ((-1, 0), (0, -1)):
        with pytest.raises(AfsError) as caught:
            await program.read("/home/f", offset, length)
        assert caught.value.code is AfsCode.EINVAL


async def test_root_lists_the_volumes(server: FakeFileServer, program: LocalProgram) -> None:
    """The path "/" is a directory of volumes."""
    server.volumes["work"] = 536870999
    assert (await program.list("/"))[0] == ["home", "work"]
    assert (await program.stat("/")).status.length == 2


async def test_without_promises_every_answer_is_asked_for(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A fileserver that promises nothing is asked each time; data is still fetched once."""
    server.gives_promises = False
    fid = server.add("f", b"one")
    assert (await program.read("/home/f")).data == b"one"
    assert (await program.read("/home/f")).source == REVALIDATED
    server.change(fid, b"two")
    assert (await program.read("/home/f")).data == b"two"
    assert server.calls["FetchData"] == 2
