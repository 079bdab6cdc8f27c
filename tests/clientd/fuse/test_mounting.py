"""Mounting and unmounting: what is refused, what is left behind."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from clientd.fuse.mount_table import FILE_SYSTEM, is_dead, mounted_at, unmount
from clientd.fuse.mounting import KernelMount
from tests.clientd.fake_fileserver import FakeFileServer
from tests.clientd.fuse.mounted import PATIENCE_S, do, mounted_cell, needs_fuse
from tests.clientd.local_program import LocalProgram
from tests.clientd.test_process import running_process, start

pytestmark = [pytest.mark.root, needs_fuse]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """An empty directory; whatever is mounted there in the end is taken away."""
    path = tmp_path / "afs"
    path.mkdir()
    yield path
    unmount(path)


async def until_gone(path: Path) -> None:
    """Waits until nothing is mounted there."""
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.to_thread(mounted_at, path) is not None:
            await asyncio.sleep(0.01)


async def until_ended(popen: subprocess.Popen[bytes]) -> None:
    """Waits until a process is gone."""
    await asyncio.to_thread(popen.wait, PATIENCE_S)


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("missing", AfsCode.ENOENT, "No such file"),
        ("file", AfsCode.ENOTDIR, "is not a directory"),
        ("full", AfsCode.ENOTEMPTY, "is not empty"),
    ],
)
async def test_only_an_empty_directory_is_mounted_at(
    tmp_path: Path, name: str, code: AfsCode, text: str
) -> None:
    """One clear line names the place."""
    (tmp_path / "file").touch()
    (tmp_path / "full" / "something").mkdir(parents=True)
    with pytest.raises(AfsError, match=text) as refused:
        await KernelMount.make(tmp_path / name, allow_other=False)
    assert refused.value.code is code
    assert str(tmp_path / name) in refused.value.detail


async def test_mount_and_unmount_by_the_door(program: LocalProgram, place: Path) -> None:
    """CacheManager.Mount and Unmount; GetStatus names the place; a second mount is refused."""
    await program.client.mounts.mount(place)
    assert (await program.status()).mount_point == str(place)
    with pytest.raises(AfsError, match="already mounted"):
        await program.client.mounts.mount(place)
    await program.client.mounts.unmount()
    assert mounted_at(place) is None
    assert (await program.status()).mount_point == ""
    with pytest.raises(AfsError, match="no mount"):
        await program.client.mounts.unmount()


async def test_place_where_something_is_mounted_is_refused(tmp_path: Path) -> None:
    """Two clients never share one."""
    async with mounted_cell(tmp_path, clients=2) as mounted:
        first, second = (program.client.mounts for program in mounted.programs)
        await second.unmount()
        with pytest.raises(AfsError, match="something is mounted there"):
            await second.mount(Path(first.path))


async def test_somebody_elses_unmount_is_noticed(program: LocalProgram, place: Path) -> None:
    """The client lets go, and can mount anew."""
    await program.client.mounts.mount(place)
    await asyncio.to_thread(unmount, place)
    await program.until(lambda: program.client.mounts.current is None)
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await program.client.mounts.mount(place)
                break
            except AfsError:
                await asyncio.sleep(0.01)


async def test_killed_client_leaves_no_dead_mount(
    server: FakeFileServer, tmp_path: Path, place: Path
) -> None:
    """Its guard takes the mount away (SIGKILL)."""
    async with running_process(tmp_path, server.address, f"--mount={place}") as process:
        assert mounted_at(place) is not None
        process.popen.send_signal(signal.SIGKILL)
        await until_ended(process.popen)
        await until_gone(place)


async def test_stopped_client_unmounts(server: FakeFileServer, tmp_path: Path, place: Path) -> None:
    """SIGTERM: nothing is left, exit status 0."""
    async with running_process(tmp_path, server.address, f"--mount={place}") as process:
        assert await process.end() == 0
        assert mounted_at(place) is None


async def test_dead_mount_of_an_earlier_life_is_taken_away(
    program: LocalProgram, place: Path
) -> None:
    """Also when its guard was killed, too."""
    died = await asyncio.create_subprocess_exec(
        *("python3", "-c", _MOUNT_AND_DIE, str(place)), stderr=subprocess.PIPE
    )
    assert await died.wait() == 0
    assert await asyncio.to_thread(is_dead, place)
    await program.client.mounts.mount(place)
    assert not await do(is_dead, place)


async def test_mount_point_that_cannot_be_is_said_in_one_line(
    server: FakeFileServer, tmp_path: Path
) -> None:
    """Clientd ends with status 1 and one line."""
    popen = await asyncio.to_thread(start, tmp_path, server.address, "--mount=/proc/version")
    await until_ended(popen)
    assert popen.returncode == 1
    lines = [
        line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("clientd:")
    ]
    assert lines == ["clientd: mount point /proc/version is not a directory"]


_MOUNT_AND_DIE = """
import os, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
from clientd.fuse import mount_table
descriptor = os.open("/dev/fuse", os.O_RDWR)
mount_table.mount(Path(sys.argv[1]), f"fd={descriptor},rootmode=40000,user_id=0,group_id=0")
"""


async def test_stopped_client_stores_what_was_written(
    server: FakeFileServer, tmp_path: Path, place: Path
) -> None:
    """By a program that has not closed it yet."""
    fid = server.add("f", b"")
    async with running_process(tmp_path, server.address, f"--mount={place}") as process:

        def write() -> int:
            descriptor = os.open(place / "home/f", os.O_WRONLY)
            os.write(descriptor, b"data")
            return descriptor

        descriptor = await do(write)
        assert server.nodes[fid].data == b""
        assert await process.end() == 0
        assert server.nodes[fid].data == b"data"
        with pytest.raises(OSError, match=r"endpoint|abort"):
            await do(os.close, descriptor)


async def test_removed_open_file_of_a_killed_client_goes_with_the_next_mount(
    server: FakeFileServer, tmp_path: Path, place: Path
) -> None:
    """Its other name was written down."""
    server.add("f", b"x")
    async with running_process(tmp_path, server.address, f"--mount={place}") as process:

        def remove() -> int:
            descriptor = os.open(place / "home/f", os.O_RDONLY)
            (place / "home/f").unlink()
            return descriptor

        descriptor = await do(remove)
        (name,) = server.nodes[server.root].names
        assert name.startswith(".__afs")
        process.popen.send_signal(signal.SIGKILL)
        await until_ended(process.popen)
        await until_gone(place)
    await do(os.close, descriptor)
    async with running_process(tmp_path, server.address, f"--mount={place}"):
        async with asyncio.timeout(PATIENCE_S):
            while server.nodes[server.root].names:
                await asyncio.sleep(0.01)


@pytest.mark.skipif(shutil.which("fusermount3") is None, reason="needs the program fusermount3")
async def test_others_than_root_mount_by_the_program(
    server: FakeFileServer, program: LocalProgram, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hands the descriptor over, and unmounts."""
    server.add("f", b"data")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    await program.client.mounts.mount(place)
    found = mounted_at(place)
    assert found is not None
    assert found.type == FILE_SYSTEM
    assert await do((place / "home/f").read_bytes) == b"data"
    await program.client.mounts.unmount()
    assert mounted_at(place) is None


async def test_unmount_closes_what_is_open(
    server: FakeFileServer, program: LocalProgram, place: Path
) -> None:
    """What was written is stored, what was removed goes, and nothing is held by anybody."""
    written, removed = server.add("f", b""), server.add("g", b"x")
    await program.client.mounts.mount(place)

    def work() -> list[int]:
        descriptors = [os.open(place / f"home/{name}", os.O_RDWR) for name in "fg"]
        os.write(descriptors[0], b"data")
        (place / "home/g").unlink()
        return descriptors

    descriptors = await do(work)
    open_files = program.client.services.open_files
    assert open_files.is_open(written)
    await program.client.mounts.unmount()
    assert server.nodes[written].data == b"data"
    assert list(server.nodes[server.root].names) == ["f"]
    assert not open_files.is_open(written)
    assert not open_files.is_open(removed)
    for descriptor in descriptors:
        with pytest.raises(OSError, match=r"endpoint|abort"):
            await do(os.close, descriptor)
