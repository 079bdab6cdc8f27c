"""Breaks while the kernel holds locks for requests that are with us: acknowledged, and never stale.

The fileserver answers no request of a host that it owes a break; so what the kernel is to be told
must not wait for the answer to such a request (see `kernel_caches`).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from afs.types import whole_volume_fid
from clientd.fuse import notifier
from clientd.fuse.abi import INC_EPOCH_MINOR
from clientd.fuse.mount_table import unmount
from tests.clientd.fake_fileserver import VOLUME, FakeFileServer
from tests.clientd.fuse.mounted import PATIENCE_S, do, needs_fuse
from tests.clientd.local_program import LocalProgram
from tests.clientd.test_process import running_process

pytestmark = [pytest.mark.root, needs_fuse]


@pytest.fixture
async def home(program: LocalProgram, tmp_path: Path) -> Path:
    """The volume in a mount."""
    path = tmp_path / "afs"
    path.mkdir()
    await program.client.mounts.mount(path)
    return path / "home"


def exists(path: Path) -> bool:
    """True if a name is there."""
    return path.exists()


def make(path: Path) -> None:
    """A new file."""
    path.touch()


@pytest.mark.parametrize(
    ("method", "work"),
    [
        ("CreateFile", lambda home: (home / "new").touch()),
        ("MakeDir", lambda home: (home / "new").mkdir()),
        ("RemoveFile", lambda home: (home / "other").unlink()),
        ("Rename", lambda home: (home / "other").rename(home / "new")),
    ],
)
async def test_directory_is_broken_while_one_of_its_names_is_being_changed(
    server: FakeFileServer,
    program: LocalProgram,
    home: Path,
    method: str,
    work: Callable[[Path], Any],
) -> None:
    """Acknowledged at once; the names that the kernel knew are looked up anew."""
    server.add("f", b"x")
    server.add("other", b"x")
    assert await do(exists, home / "f")
    assert not await do(exists, home / "g")
    await program.until_leased()
    gate = server.hold(method)
    changing = asyncio.create_task(do(work, home))
    async with asyncio.timeout(PATIENCE_S):
        await gate.reached.wait()
    server.remove("f")
    server.add("g", b"x")
    await server.break_and_wait([server.root])
    mount = program.client.mounts.current
    assert mount is not None
    if mount.session.minor >= INC_EPOCH_MINOR:
        assert (await program.counters())["kernel_epochs"] > 0
    server.let_go(method)
    await changing
    assert not await do(exists, home / "f")
    assert await do(exists, home / "g")


async def test_directory_is_broken_while_a_name_is_looked_up(
    server: FakeFileServer, program: LocalProgram, home: Path
) -> None:
    """The look-up holds the lock as well, shared with others."""
    server.add("f", b"x")
    server.add("g", b"x")
    assert await do(exists, home / "f")
    await program.until_leased()
    gate = server.hold("FetchStatus")
    looking = asyncio.create_task(do(exists, home / "g"))
    async with asyncio.timeout(PATIENCE_S):
        await gate.reached.wait()
    server.remove("f")
    await server.break_and_wait([server.root])
    server.let_go("FetchStatus")
    await looking
    assert not await do(exists, home / "f")


async def test_notification_that_is_stuck_is_not_waited_for(
    server: FakeFileServer,
    program: LocalProgram,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request that came in between, as if we did not know of it: the epoch tells, in the end."""
    server.add("f", b"x")
    assert await do(exists, home / "f")
    await program.until_leased()
    mount = program.client.mounts.current
    assert mount is not None
    gate = server.hold("CreateFile")
    making = asyncio.create_task(do(make, home / "new"))
    async with asyncio.timeout(PATIENCE_S):
        await gate.reached.wait()
    (node,) = mount.nodes.of(server.root)
    monkeypatch.setattr(node, "busy", 0)
    server.remove("f")
    await server.break_and_wait([server.root])
    assert (await program.counters())["kernel_waits_given_up"] == 1
    monkeypatch.setattr(node, "busy", 1)
    server.let_go("CreateFile")
    await making
    assert not await do(exists, home / "f")


async def test_file_is_broken_while_it_is_read(
    server: FakeFileServer, program: LocalProgram, home: Path
) -> None:
    """The page is locked until the READ is answered; whoever reads next has the new data."""
    fid = server.add("f", b"old")
    await program.until_leased()
    server.pieces_before_gate = 0
    reading = asyncio.create_task(do((home / "f").read_bytes))
    async with asyncio.timeout(PATIENCE_S):
        await server.data_gate.reached.wait()
    server.change(fid, b"new")
    await server.break_and_wait([fid])
    server.data_gate.opened.set()
    assert await reading in (b"old", b"new")
    assert await do((home / "f").read_bytes) == b"new"


async def test_volume_of_many_files_is_broken_at_once(
    server: FakeFileServer, program: LocalProgram, home: Path
) -> None:
    """Every inode and name of it (T23), in one acknowledgement."""
    count = 1500
    fids = [server.add(f"f{number:04}", b"old") for number in range(count)]

    def read_all() -> set[bytes]:
        return {(home / name).read_bytes() for name in os.listdir(home)}

    assert await do(read_all) == {b"old"}
    for fid in fids:
        server.change(fid, b"new")
    await server.break_and_wait([whole_volume_fid(VOLUME)])
    mount = program.client.mounts.current
    assert mount is not None
    assert not any(node.told_until for fid in fids for node in mount.nodes.of(fid))
    assert await do(read_all) == {b"new"}


async def test_lost_channel_ends_what_the_kernel_relies_on(
    server: FakeFileServer, program: LocalProgram, home: Path
) -> None:
    """Promises do not stand without it: the next question is asked."""
    fid = server.add("f", b"old")
    assert await do((home / "f").read_bytes) == b"old"
    await program.until_leased()
    assert await do((home / "f").read_bytes) == b"old"
    server.change(fid, b"longer")
    server.close_channels()
    await program.until(lambda: program.client.services.servers.trusted(fid) is None)
    assert await do(lambda: (home / "f").stat().st_size) == 6
    assert await do((home / "f").read_bytes) == b"longer"


async def test_programs_beside_a_frozen_client_see_nothing_old_after_its_lease(
    server: FakeFileServer, tmp_path: Path
) -> None:
    """What the kernel was told runs out by itself; the program waits for the client (I8)."""
    server.lease_s = 0.6
    fid = server.add("f", b"old")
    place = tmp_path / "afs"
    place.mkdir()
    path = place / "home/f"
    async with running_process(tmp_path, server.address, f"--mount={place}") as process:
        try:
            assert await do(path.read_bytes) == b"old"
            os.kill(process.popen.pid, signal.SIGSTOP)
            server.change(fid, b"new")
            server.send_break([fid])
            await asyncio.sleep(server.lease_s)
            reading = asyncio.create_task(do(path.read_bytes))
            done, _ = await asyncio.wait([reading], timeout=0.2)
            assert not done
            os.kill(process.popen.pid, signal.SIGCONT)
            assert await reading == b"new"
        finally:
            os.kill(process.popen.pid, signal.SIGCONT)
            await asyncio.to_thread(unmount, place)


def test_patience_is_far_below_the_break_deadline() -> None:
    """Also with 10,000 names to tell of."""
    patience_s = notifier.PATIENCE_S + 10_000 * notifier.PATIENCE_PER_MESSAGE_S
    assert patience_s < 0.5
