"""Directories too large to be read whole for one name."""

from __future__ import annotations

import asyncio

import pytest

from afs.errors import AfsError
from clientd import directories
from tests.clientd.fake_fileserver import FakeFileServer
from tests.clientd.local_program import CACHE, LocalProgram


@pytest.fixture(autouse=True)
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What counts as large here."""
    monkeypatch.setattr(directories, "READ_WHOLE_NAMES", 10)
    monkeypatch.setattr(directories, "KEEP_NAMES", 50)
    monkeypatch.setattr(directories, "NAMES_PER_LOOK_UP", 2)


async def test_names_are_looked_up_one_by_one(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """And remembered under the directory's promise; a listing serves them all."""
    for number in range(20):
        server.add(f"f{number}", b"x")
    await program.stat("/home/f1")
    await program.until_leased()
    await program.stat("/home/f2")
    assert (server.calls["Lookup"], server.calls["ReadDir"]) == (2, 0)
    before = server.calls.total()
    assert (await program.stat("/home/f1")).source == CACHE
    assert (await program.stat("/home/f2")).source == CACHE
    assert server.calls.total() == before
    for _ in range(2):
        with pytest.raises(AfsError, match="ENOENT"):
            await program.stat("/home/missing")
    assert server.calls["Lookup"] == 4, "an incomplete listing says nothing of what is missing"
    await program.list("/home")
    with pytest.raises(AfsError, match="ENOENT"):
        await program.stat("/home/missing")
    assert (server.calls["Lookup"], server.calls["ReadDir"]) == (4, 1)


async def test_directory_is_read_when_that_would_have_been_cheaper(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """After so many look-ups as a listing costs; then names cost nothing."""
    for number in range(20):
        server.add(f"f{number}", b"x")
    await program.stat("/home/f0")
    await program.until_leased()
    for number in range(20):
        await program.stat(f"/home/f{number}")
    assert (server.calls["Lookup"], server.calls["ReadDir"]) == (10, 1)


async def test_directory_too_large_to_keep_is_read_each_time(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """It can be listed all the same, in several messages."""
    names = sorted(f"name{number}" for number in range(2500))
    for name in names:
        server.add(name)
    assert (await program.list("/home"))[0] == names
    await program.until_leased()
    assert (await program.list("/home"))[0] == names
    assert server.calls["ReadDir"] == 2


async def test_outcomes_out_of_order_cost_one_lookup(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """While an earlier outcome of ours is missing, names are looked up, not guessed."""
    await program.list("/home")
    await program.until_leased()
    gate = server.hold("MakeDir")
    early = asyncio.create_task(program.make_dir("/home/first"))
    await gate.reached.wait()
    await program.write("/home/second", b"x")
    assert (await program.read("/home/second")).data == b"x"
    assert server.calls["Lookup"] == 1
    server.let_go("MakeDir")
    await early
    assert (await program.list("/home"))[0] == ["first", "second"]
