"""Changes through the client: durable when answered, seen by the next reader, cheap here."""

from __future__ import annotations

import asyncio

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import MIB
from afs.v1 import cache_manager_pb2, types_pb2
from tests.clientd.fake_fileserver import FakeFileServer
from tests.clientd.local_program import CACHE, LocalProgram


async def test_what_was_written_is_read_from_the_cache(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A new file is at the fileserver when Write answers, and in the cache for the next reader."""
    status = await program.write("/home/f", b"content")
    assert status.length == 7
    (fid,) = (fid for fid, node in server.nodes.items() if node.data == b"content")
    assert fid.vnode == status.fid.vnode
    await program.until_leased()
    answer = await program.read("/home/f")
    assert answer.data == b"content"
    assert server.calls["FetchData"] == 0
    assert (await program.read("/home/f")).source == CACHE


async def test_writes_of_every_shape(server: FakeFileServer, program: LocalProgram) -> None:
    """In the middle, past the end, truncated, empty, and in many pieces."""
    await program.write("/home/f", b"0123456789")
    await program.write("/home/f", b"ab", offset=3, truncate=False)
    assert (await program.read("/home/f")).data == b"012ab56789"
    await program.write("/home/f", b"z", offset=12, truncate=False)
    assert (await program.read("/home/f")).data == b"012ab56789\0\0z"
    await program.write("/home/f", b"")
    assert (await program.read("/home/f")).data == b""
    big = bytes(range(256)) * 4096 * 3 + b"tail"
    await program.write("/home/f", [big[at : at + 300_000] for at in range(0, len(big), 300_000)])
    assert (await program.read("/home/f")).data == big
    assert (await program.read("/home/f", MIB - 5, 10)).data == big[MIB - 5 : MIB + 5]


async def test_write_without_create_needs_the_file(program: LocalProgram) -> None:
    """ENOENT for a file, EISDIR for a directory, EINVAL without `open`."""
    with pytest.raises(AfsError) as caught:
        await program.write("/home/missing", b"x", create=False)
    assert caught.value.code is AfsCode.ENOENT
    with pytest.raises(AfsError) as caught:
        await program.write("/home", b"x")
    assert caught.value.code is AfsCode.EISDIR


async def test_own_changes_keep_the_directory_cached(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Making and removing names edits the cached listing; the directory is not read again."""
    await program.list("/home")
    await program.until_leased()
    for number in range(5):
        await program.write(f"/home/f{number}", b"x")
    await program.make_dir("/home/d")
    await program.symlink("/home/l", "f0")
    await program.remove("/home/f1")
    await program.rename("/home/f2", "/home/d/moved")
    assert (await program.list("/home"))[0] == ["d", "f0", "f3", "f4", "l"]
    assert (await program.list("/home/d"))[0] == ["moved"]
    assert sorted(server.nodes[server.root].names) == ["d", "f0", "f3", "f4", "l"]
    before = server.calls.copy()
    assert (await program.list("/home"))[1] == CACHE
    with pytest.raises(AfsError, match="ENOENT"):
        await program.stat("/home/f1")
    assert server.calls == before
    assert server.calls["ReadDir"] <= 2


async def test_concurrent_writes_into_one_directory(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Outcomes that come out of order leave the listing right, without reading it each time."""
    await program.list("/home")
    await program.until_leased()
    await asyncio.gather(*(program.write(f"/home/f{number}", b"x") for number in range(40)))
    names, _ = await program.list("/home")
    assert names == sorted(f"f{number}" for number in range(40))
    assert server.calls["ReadDir"] <= 3


async def test_change_of_another_client_drops_the_listing(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """If ours was not the only change since, the directory is read again."""
    await program.list("/home")
    await program.until_leased()
    server.add("theirs", b"x")
    await program.write("/home/ours", b"x")
    assert (await program.list("/home"))[0] == ["ours", "theirs"]


async def test_rename_replaces_and_forgets_the_replaced(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """rename(2): what had the name is gone."""
    await program.write("/home/a", b"aaa")
    await program.write("/home/b", b"bb")
    await program.until_leased()
    await program.rename("/home/a", "/home/b")
    assert (await program.read("/home/b")).data == b"aaa"
    with pytest.raises(AfsError, match="ENOENT"):
        await program.read("/home/a")


async def test_remove_takes_trees(server: FakeFileServer, program: LocalProgram) -> None:
    """A directory that is not empty goes only with `recursive`, and then to the last vnode."""
    await program.make_dir("/home/top")
    path = "/home/top"
    for _ in range(60):
        path += "/d"
        await program.make_dir(path)
        await program.write(path + "/f", b"x")
    with pytest.raises(AfsError, match="ENOTEMPTY"):
        await program.remove("/home/top")
    await program.remove("/home/top", recursive=True)
    assert list(server.nodes) == [server.root]
    assert (await program.list("/home"))[0] == []
    with pytest.raises(AfsError, match="EINVAL"):
        await program.remove("/home")


async def test_names_that_cannot_be_are_refused(program: LocalProgram) -> None:
    """Existing names, bad names, links across volumes."""
    await program.make_dir("/home/d")
    for call, code in (
        (program.make_dir("/home/d"), AfsCode.EEXIST),
        (program.make_dir("/home/" + "n" * 256), AfsCode.ENAMETOOLONG),
        (program.make_dir("/home/missing/d"), AfsCode.ENOENT),
        (program.symlink("/home/l", ""), AfsCode.EINVAL),
        (program.remove("/home/missing"), AfsCode.ENOENT),
        (program.rename("/home/missing", "/home/x"), AfsCode.ENOENT),
        (program.rename("/home", "/home/x"), AfsCode.EINVAL),
    ):
        with pytest.raises(AfsError) as caught:
            await call
        assert caught.value.code is code


async def test_refused_store_is_repeated(server: FakeFileServer, program: LocalProgram) -> None:
    """A volume that was busy at the end of a long write gets all of it again."""
    data = bytes(range(256)) * 4096 * 2 + b"end"
    await program.write("/home/f", b"old")
    server.fails["StoreData"] = [AfsError(AfsCode.VBUSY, "busy"), AfsError(AfsCode.VBUSY, "busy")]
    await program.write("/home/f", [data[at : at + 500_000] for at in range(0, len(data), 500_000)])
    (stored,) = (node.data for node in server.nodes.values() if node.data)
    assert stored == data
    assert server.calls["StoreData"] == 4


async def test_refused_write_leaves_the_cache_right(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A write that the fileserver refuses changes nothing here either."""
    await program.write("/home/f", b"old")
    server.fails["StoreData"] = [AfsError(AfsCode.VOVERQUOTA, "quota")]
    with pytest.raises(AfsError) as caught:
        await program.write("/home/f", b"new and longer")
    assert caught.value.code is AfsCode.VOVERQUOTA
    assert (await program.read("/home/f")).data == b"old"


async def test_lost_answer_is_not_trusted(server: FakeFileServer, program: LocalProgram) -> None:
    """After a change whose answer was lost, what it was about is asked for, not remembered."""
    await program.list("/home")
    await program.until_leased()
    gate = server.hold("MakeDir")
    making = asyncio.create_task(program.make_dir("/home/d"))
    await gate.reached.wait()
    # The fileserver did it, and dies before it can say so.
    await server.restart()
    server.let_go("MakeDir")
    with pytest.raises(AfsError) as caught:
        await making
    assert caught.value.code is AfsCode.RX_CALL_DEAD
    assert (await program.list("/home"))[0] == ["d"]


async def test_refusal_after_a_lost_answer_tells_nothing(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """The first attempt of a write may have been done, or may yet be: it is not trusted."""
    await program.write("/home/f", b"old")
    await program.read("/home/f")
    await program.until_leased()
    gate = server.hold("StoreData")
    writing = asyncio.create_task(program.write("/home/f", b"new"))
    await gate.reached.wait()
    server.fails["StoreData"] = [AfsError(AfsCode.VOVERQUOTA, "quota")]
    await server.restart()
    server.let_go("StoreData")
    with pytest.raises(AfsError) as caught:
        await writing
    assert caught.value.code is AfsCode.VOVERQUOTA
    for _ in range(3):
        await program.until_leased()
        assert (await program.read("/home/f")).source != CACHE


async def test_change_ends_though_its_caller_went_away(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """The outcome of a change is taken in whoever still waits for it."""
    await program.list("/home")
    await program.until_leased()
    gate = server.hold("MakeDir")
    making = asyncio.create_task(program.make_dir("/home/d"))
    await gate.reached.wait()
    making.cancel()
    await asyncio.gather(making, return_exceptions=True)
    server.let_go("MakeDir")
    async with asyncio.timeout(10):
        while (await program.list("/home"))[0] != ["d"]:
            await asyncio.sleep(0.01)
    assert server.calls["ReadDir"] == 1


async def test_early_refusal_of_a_long_write_is_told(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """The fileserver's own reason reaches the writer, however the stream broke."""
    await program.write("/home/f", b"")
    for _ in range(60):
        server.fails["StoreData"] = [AfsError(AfsCode.VOVERQUOTA, "the quota")]
        with pytest.raises(AfsError, match="the quota") as caught:
            await program.write("/home/f", [bytes(500_000)] * 8)
        assert caught.value.code is AfsCode.VOVERQUOTA


async def test_writer_that_goes_away_changes_nothing(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A store that was broken off leaves the file as it was, and is not trusted to have."""
    await program.write("/home/f", b"old")
    await program.until_leased()
    call = program.stub.Write()
    opening = cache_manager_pb2.WriteOpen(path="/home/f", truncate=True)
    await call.write(cache_manager_pb2.WriteRequest(open=opening, data=b"new"))
    await program.until(lambda: server.calls["StoreData"] == 2)
    call.cancel()
    fid = next(fid for fid, node in server.nodes.items() if node.data)
    await program.until(lambda: program.client.services.servers.trusted(fid) is None)
    assert (await program.read("/home/f")).data == b"old"


async def test_two_who_make_the_same_file(server: FakeFileServer, program: LocalProgram) -> None:
    """One of them makes it, both write it."""
    await asyncio.gather(*(program.write("/home/f", b"%d" % number) for number in range(4)))
    assert (await program.read("/home/f")).data in (b"0", b"1", b"2", b"3")
    assert list(server.nodes[server.root].names) == ["f"]


async def test_first_message_must_open(program: LocalProgram) -> None:
    """And no other one may."""
    opening = cache_manager_pb2.WriteRequest(
        open=cache_manager_pb2.WriteOpen(path="/home/f", create=True)
    )
    for messages in ([], [cache_manager_pb2.WriteRequest(data=b"x")], [opening, opening]):
        with pytest.raises(AfsError) as caught:
            await program.call(program.stub.Write(iter(messages)))
        assert caught.value.code is AfsCode.EINVAL


async def test_attributes_are_set(server: FakeFileServer, program: LocalProgram) -> None:
    """With the file's making, and by a write without data."""
    mode = types_pb2.SetStatus(mode=0o600)
    assert (await program.write("/home/f", b"", truncate=False, set_status=mode)).mode == 0o600
    mode = types_pb2.SetStatus(mode=0o640)
    assert (await program.write("/home/f", b"", truncate=False, set_status=mode)).mode == 0o640
    await program.write("/home/f", b"", truncate=False)
    assert server.calls["StoreData"] == 1
