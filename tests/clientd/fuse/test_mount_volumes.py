"""Volumes in a mount: mount points, quotas, read-only volumes, releases and moves."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from afs.v1 import file_server_pb2 as pb
from tests.clientd.fuse.mounted import do, needs_fuse
from tests.clientd.fuse.test_programs_view import errno_of
from tests.clientd.local_program import LocalProgram
from tests.clientd.several_servers import Servers, clients, make_mount_point, several_servers

pytestmark = [pytest.mark.root, needs_fuse]


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """Two fileservers, the first with the volume `home`, the second with `work`."""
    async with several_servers(tmp_path) as running:
        await running.create("home")
        await running.create("work", 1)
        yield running


@pytest.fixture
async def programs(servers: Servers, tmp_path: Path) -> AsyncIterator[list[LocalProgram]]:
    """Two clients, of which the first is mounted."""
    async with clients(tmp_path, servers, 2) as running:
        (tmp_path / "afs").mkdir()
        await running[0].client.mounts.mount(tmp_path / "afs")
        yield running


@pytest.fixture
def root(programs: list[LocalProgram], tmp_path: Path) -> Path:
    """The mount."""
    return tmp_path / "afs"


async def test_mount_point_is_a_directory(
    programs: list[LocalProgram], root: Path, servers: Servers
) -> None:
    """It is entered, is no link, and is neither removed nor linked across."""
    await programs[0].write("/work/f", b"at work")
    await make_mount_point(programs[0], "/home/w", "#work.")

    def work() -> None:
        assert (root / "home/w").is_dir()
        assert not (root / "home/w").is_symlink()
        assert (root / "home/w/f").read_bytes() == b"at work"
        assert os.listdir(root / "home/w") == ["f"]
        (entry,) = os.scandir(root / "home")
        assert entry.is_dir(follow_symlinks=False)
        assert errno_of((root / "home/w").rmdir) == errno.EBUSY
        (root / "home/g").write_bytes(b"x")
        assert errno_of(lambda: os.rename(root / "home/g", root / "home/w/g")) == errno.EXDEV
        assert errno_of(lambda: os.link(root / "home/g", root / "home/w/g")) == errno.EXDEV
        (root / "home/w").rename(root / "home/play")
        assert (root / "home/play/f").read_bytes() == b"at work"
        assert (root / "home/play/..").stat().st_ino == (root / "home").stat().st_ino

    await do(work)
    # Removed by another client: the name goes, the volume stays.
    await programs[1].remove("/home/play")
    assert not await do((root / "home/play").exists)
    assert await do((root / "work/f").read_bytes) == b"at work"


async def test_volume_may_be_mounted_twice_and_in_itself(
    programs: list[LocalProgram], root: Path
) -> None:
    """Each place is a directory of its own; that they are the same one is in st_ino."""
    for name in ("one", "two"):
        await make_mount_point(programs[0], f"/home/{name}", "#work.")
    await make_mount_point(programs[0], "/work/self", "#work.")

    def work() -> None:
        (root / "home/one/f").write_bytes(b"x")
        here, there = (
            os.open(root / "home/one", os.O_RDONLY),
            os.open(root / "home/two", os.O_RDONLY),
        )
        assert (root / "home/two/self/self/f").read_bytes() == b"x"
        assert os.readlink(f"/proc/self/fd/{here}") == str(root / "home/one")
        assert os.readlink(f"/proc/self/fd/{there}") == str(root / "home/two")
        assert os.stat(here).st_ino == (root / "home/two/self").stat().st_ino
        os.close(here)
        os.close(there)
        (root / "home/one/f").unlink()
        assert not (root / "home/two/self/f").exists()

    await do(work)


async def test_mount_point_without_volume_is_there_but_leads_nowhere(
    programs: list[LocalProgram], root: Path
) -> None:
    """ENODEV, also for those who list the directory with attributes."""
    await make_mount_point(programs[0], "/home/nowhere", "#nothing.")
    await programs[0].write("/home/f", b"x")

    def work() -> None:
        assert sorted(os.listdir(root / "home")) == ["f", "nowhere"]
        assert errno_of((root / "home/nowhere").stat) == errno.ENODEV
        assert (root / "home/f").stat().st_size == 1

    await do(work)


async def test_read_only_volume_is_not_written(
    programs: list[LocalProgram], root: Path, servers: Servers
) -> None:
    """EROFS, whatever is tried."""
    await programs[0].write("/home/f", b"x")
    await servers.release("home", 0, 0)
    path = root / "home.readonly"

    def work() -> None:
        assert (path / "f").read_bytes() == b"x"
        for attempt in (
            lambda: (path / "f").write_bytes(b"y"),
            lambda: (path / "new").touch(),
            (path / "d").mkdir,
            (path / "f").unlink,
            lambda: (path / "f").chmod(0o600),
            lambda: (path / "f").rename(path / "g"),
            lambda: os.truncate(path / "f", 0),
        ):
            assert errno_of(attempt) == errno.EROFS

    await do(work)


async def test_release_is_seen_by_who_has_files_open(
    programs: list[LocalProgram], root: Path, servers: Servers
) -> None:
    """Data, names and missing names of the read-only volume."""
    await programs[1].write("/home/f", b"old")
    await servers.release("home", 0, 0)
    path = root / "home.readonly"

    def before() -> int:
        assert not (path / "g").exists()
        descriptor = os.open(path / "f", os.O_RDONLY)
        assert os.pread(descriptor, 10, 0) == b"old"
        return descriptor

    descriptor = await do(before)
    await programs[1].write("/home/f", b"new")
    await programs[1].write("/home/g", b"x")
    await servers.release("home", 0, 0)
    await programs[0].until(
        lambda: programs[0].client.services.journal.counters()["breaks_received"] > 0
    )

    def after() -> None:
        assert os.pread(descriptor, 10, 0) == b"new"
        assert (path / "g").read_bytes() == b"x"
        os.close(descriptor)

    await do(after)


async def test_volume_moves_under_open_files(
    programs: list[LocalProgram], root: Path, servers: Servers
) -> None:
    """Read, written and stored at the new fileserver by handles that were opened before."""
    await programs[0].write("/home/f", b"one")

    def opened() -> int:
        descriptor = os.open(root / "home/f", os.O_RDWR)
        assert os.pread(descriptor, 10, 0) == b"one"
        os.pwrite(descriptor, b"two", 3)
        return descriptor

    descriptor = await do(opened)
    await servers.move("home", 0, 1)

    def work() -> None:
        assert os.pread(descriptor, 10, 0) == b"onetwo"
        os.fsync(descriptor)
        os.close(descriptor)
        (root / "home/g").write_bytes(b"new")

    await do(work)
    assert (await programs[1].read("/home/f")).data == b"onetwo"
    assert (await programs[1].read("/home/g")).data == b"new"


async def test_full_volume_is_edquot_at_close(
    programs: list[LocalProgram], root: Path, servers: Servers
) -> None:
    """What does not fit is refused by fsync(2) and close(2), and given up by the last close."""
    volume = await programs[0].client.services.volumes.named("home")
    request = pb.SetVolumeStatusRequest(volume=volume.volume_id, max_quota_kib=64)
    await volume.call(lambda stub: stub.SetVolumeStatus, request)

    def work() -> None:
        (root / "home/f").write_bytes(b"small")
        descriptor = os.open(root / "home/f", os.O_WRONLY)
        os.write(descriptor, bytes(100_000))
        assert errno_of(lambda: os.fsync(descriptor)) == errno.EDQUOT
        assert errno_of(lambda: os.close(descriptor)) == errno.EDQUOT
        while (root / "home/f").read_bytes() != b"small":
            pass
        found = os.statvfs(root / "home")
        assert found.f_blocks * found.f_bsize == 64 * 1024

    await do(work)
