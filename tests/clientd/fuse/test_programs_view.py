"""What programs see of a mount, call by call."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.clientd.fuse.mounted import MountedCell, do, mounted_cell, needs_fuse, run

pytestmark = [pytest.mark.root, needs_fuse]


@pytest.fixture
async def mounted(tmp_path: Path) -> AsyncIterator[MountedCell]:
    """One mounted client."""
    async with mounted_cell(tmp_path) as running:
        yield running


def errno_of(work: Callable[[], object]) -> int | None:
    """The errno that something fails with; None if it does not."""
    try:
        work()
    except OSError as error:
        return error.errno
    return None


async def test_file_is_written_and_read(mounted: MountedCell) -> None:
    """At the fileserver when close(2) returns: the other door of the client reads it there."""
    path = mounted.roots[0] / "f"
    await do(path.write_bytes, b"data")
    assert await do(path.read_bytes) == b"data"
    assert (await mounted.programs[0].read("/home/f")).data == b"data"


async def test_root_lists_the_volumes_of_a_cell_without_root_cell(mounted: MountedCell) -> None:
    """And names that no volume has are not there."""
    root = mounted.roots[0].parent
    assert await do(os.listdir, root) == ["home"]
    assert await do(errno_of, (root / "nothing").stat) == errno.ENOENT
    assert await do(errno_of, (root / "new").mkdir) == errno.EROFS


async def test_new_files_and_directories_have_mode_and_owner(mounted: MountedCell) -> None:
    """As umask and caller say."""

    def work() -> list[tuple[int, int, int]]:
        directory = mounted.roots[0] / "d"
        directory.mkdir(mode=0o750)
        os.close(os.open(directory / "f", os.O_CREAT | os.O_WRONLY, 0o604))
        os.mknod(directory / "n", stat.S_IFREG | 0o600)
        os.symlink("f", directory / "s")
        found = [(directory / name).lstat() for name in ("", "f", "n", "s")]
        return [(each.st_mode, each.st_uid, each.st_nlink) for each in found]

    umask = os.umask(0o022)
    os.umask(umask)
    assert await do(work) == [
        (stat.S_IFDIR | 0o750 & ~umask, os.getuid(), 2),
        (stat.S_IFREG | 0o604 & ~umask, os.getuid(), 1),
        (stat.S_IFREG | 0o600 & ~umask, os.getuid(), 1),
        (stat.S_IFLNK | 0o777, os.getuid(), 1),
    ]


async def test_other_nodes_cannot_be_made(mounted: MountedCell) -> None:
    """A fifo, for example."""
    path = mounted.roots[0] / "fifo"
    assert await do(errno_of, lambda: os.mkfifo(path)) == errno.EPERM


async def test_attributes_are_set(mounted: MountedCell) -> None:
    """Mode, owner, group, times, length; UTIME_NOW."""

    def work() -> None:
        path = mounted.roots[0] / "f"
        path.write_bytes(b"0123456789")
        path.chmod(0o4711)
        os.chown(path, 12, 34)
        os.utime(path, ns=(5, 1_000_000_007))
        found = path.stat()
        # Another owner takes the set-user-id bit away.
        assert (found.st_mode, found.st_uid, found.st_gid) == (stat.S_IFREG | 0o711, 12, 34)
        assert found.st_mtime_ns == 1_000_000_007
        os.truncate(path, 3)
        assert path.read_bytes() == b"012"
        os.truncate(path, 5)
        assert path.read_bytes() == b"012\0\0"
        os.utime(path)
        assert path.stat().st_mtime_ns > found.st_mtime_ns

    await do(work)


async def test_time_that_is_set_while_data_is_unflushed_stays(mounted: MountedCell) -> None:
    """As tar and cp -p do it: write, set the time, close."""

    def work() -> int:
        path = mounted.roots[0] / "f"
        with path.open("wb", buffering=0) as file:
            file.write(b"data")
            os.utime(file.fileno(), ns=(1, 1_000_000_007))
        return path.stat().st_mtime_ns

    assert await do(work) == 1_000_000_007
    status = (await mounted.programs[0].stat("/home/f")).status
    assert status.client_mtime_ns == 1_000_000_007


async def test_append_and_exclusive_and_truncating_opens(mounted: MountedCell) -> None:
    """O_APPEND, O_EXCL, O_TRUNC."""

    def work() -> bytes:
        path = mounted.roots[0] / "f"
        path.write_bytes(b"one")
        with path.open("ab") as file:
            file.write(b"two")
        assert errno_of(lambda: os.open(path, os.O_CREAT | os.O_EXCL)) == errno.EEXIST
        assert path.read_bytes() == b"onetwo"
        with path.open("wb"):
            pass
        assert path.stat().st_size == 0
        with path.open("r+b") as file:
            file.seek(5)
            file.write(b"x")
        return path.read_bytes()

    assert await do(work) == b"\0\0\0\0\0x"


async def test_writes_are_seen_before_they_are_flushed(mounted: MountedCell) -> None:
    """By every handle on this machine, in data and length."""

    def work() -> None:
        path = mounted.roots[0] / "f"
        with path.open("wb", buffering=0) as writer, path.open("rb", buffering=0) as reader:
            writer.write(b"abc")
            assert path.stat().st_size == 3
            assert reader.read() == b"abc"
            writer.write(b"def")
            assert reader.read() == b"def"

    await do(work)


async def test_fsync_of_a_reader_stores_what_others_wrote(mounted: MountedCell) -> None:
    """It is about the file, whoever asks."""

    def work() -> tuple[int, int]:
        path = mounted.roots[0] / "f"
        writer = os.open(path, os.O_CREAT | os.O_WRONLY)
        reader = os.open(path, os.O_RDONLY)
        os.write(writer, b"data")
        os.fsync(reader)
        return writer, reader

    descriptors = await do(work)
    assert (await mounted.programs[0].read("/home/f")).data == b"data"
    for descriptor in descriptors:
        await do(os.close, descriptor)


async def test_names_are_moved(mounted: MountedCell) -> None:
    """Over existing files and empty directories, between directories; what is not empty stays."""

    def work() -> None:
        root = mounted.roots[0]
        for name in ("a", "b", "b/sub", "empty"):
            (root / name).mkdir()
        (root / "a/f").write_bytes(b"new")
        (root / "b/g").write_bytes(b"old")
        (root / "a/f").rename(root / "b/g")
        assert (root / "b/g").read_bytes() == b"new"
        assert os.listdir(root / "a") == []
        (root / "a").rename(root / "empty")
        assert errno_of(lambda: (root / "empty").rename(root / "b")) == errno.ENOTEMPTY
        (root / "b").rename(root / "empty/inner")
        assert (root / "empty/inner/g").read_bytes() == b"new"
        assert sorted(os.listdir(root)) == ["empty"]

    await do(work)


async def test_hard_links_stay_in_a_directory(mounted: MountedCell) -> None:
    """As AFS has it: elsewhere they are refused like links across file systems."""

    def work() -> None:
        root = mounted.roots[0]
        (root / "d").mkdir()
        (root / "f").write_bytes(b"1")
        os.link(root / "f", root / "g")
        assert (root / "f").stat().st_nlink == 2
        assert (root / "f").stat().st_ino == (root / "g").stat().st_ino
        assert errno_of(lambda: os.link(root / "f", root / "d/f")) == errno.EXDEV
        assert sorted(os.listdir(root)) == ["d", "f", "g"]
        (root / "f").unlink()
        assert (root / "g").stat().st_nlink == 1
        assert (root / "g").read_bytes() == b"1"

    await do(work)


async def test_removed_file_is_there_until_it_is_closed(mounted: MountedCell) -> None:
    """Read and written meanwhile; nothing of it is left afterwards."""

    def work() -> list[str]:
        path = mounted.roots[0] / "f"
        with path.open("w+b", buffering=0) as file:
            file.write(b"abc")
            path.unlink()
            assert not path.exists()
            assert os.fstat(file.fileno()).st_nlink == 0
            file.write(b"def")
            file.seek(0)
            assert file.read() == b"abcdef"
        return os.listdir(mounted.roots[0])

    left = await do(work)
    while left:
        left = await do(os.listdir, mounted.roots[0])


async def test_replaced_file_is_there_until_it_is_closed(mounted: MountedCell) -> None:
    """Renamed over while it is open: its readers go on, everybody else sees the new one."""

    def work() -> None:
        root = mounted.roots[0]
        (root / "f").write_bytes(b"old")
        with (root / "f").open("rb", buffering=0) as file:
            assert file.read(1) == b"o"
            (root / "g").write_bytes(b"new")
            (root / "g").rename(root / "f")
            assert file.read() == b"ld"
            assert (root / "f").read_bytes() == b"new"

    await do(work)
    while await do(os.listdir, mounted.roots[0]) != ["f"]:
        pass


async def test_directory_is_read_whole_while_it_is_emptied(mounted: MountedCell) -> None:
    """Positions are stable: every name comes once (rm -r rests on that)."""
    names = {f"file-{number:03}" for number in range(300)}

    def work() -> None:
        root = mounted.roots[0] / "d"
        root.mkdir()
        for name in names:
            (root / name).touch()
        seen: list[str] = []
        with os.scandir(root) as entries:
            for entry in entries:
                seen.append(entry.name)
                (root / entry.name).unlink()
        assert sorted(seen) == sorted(names)
        root.rmdir()

    await do(work)


_MAP = """
import mmap, os, pathlib, sys
path = pathlib.Path(sys.argv[1])
path.write_bytes(b"." * 10_000)
with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
    assert memory[:3] == b"..."
    memory[5000:5003] = b"abc"
    memory.flush()
    os.fsync(file.fileno())
with path.open("r+b", buffering=0) as file, mmap.mmap(file.fileno(), 0) as memory:
    file.write(b"xyz")
    assert memory[:4] == b"xyz."
"""


async def test_mapped_memory_is_the_file(mounted: MountedCell) -> None:
    """Reads see what is written; writes are flushed."""
    await run(_MAP, mounted.roots[0] / "f")
    data = (await mounted.programs[0].read("/home/f")).data
    assert data == b"xyz" + b"." * 4997 + b"abc" + b"." * 4997


async def test_what_does_not_exist_here_is_refused_cleanly(mounted: MountedCell) -> None:
    """Extended attributes, preallocation, names that are no text or too long."""

    def work() -> None:
        path = mounted.roots[0] / "f"
        path.write_bytes(b"")
        for _ in range(2):
            assert errno_of(lambda: os.getxattr(path, "user.x")) == errno.ENOTSUP
            assert errno_of(lambda: os.setxattr(path, "user.x", b"1")) == errno.ENOTSUP
        with path.open("r+b") as file:
            # The C library writes instead where that is refused.
            os.posix_fallocate(file.fileno(), 0, 10)
        assert path.stat().st_size == 10
        name = os.fsencode(mounted.roots[0]) + b"/\xff"
        assert errno_of(lambda: os.stat(name)) == errno.ENOENT
        assert errno_of(lambda: os.mkdir(name)) == errno.EILSEQ
        assert errno_of(lambda: os.symlink("target", name)) == errno.EILSEQ
        assert errno_of(lambda: os.symlink(b"\xff", path.with_name("s"))) == errno.EILSEQ
        assert errno_of(lambda: os.rename(path, name)) == errno.EILSEQ
        assert errno_of(lambda: os.link(path, name)) == errno.EILSEQ
        long_name = mounted.roots[0] / ("n" * 256)
        assert errno_of(long_name.stat) == errno.ENAMETOOLONG
        assert errno_of(long_name.mkdir) == errno.ENAMETOOLONG

    await do(work)


async def test_symbolic_links_are_followed_by_the_kernel(mounted: MountedCell) -> None:
    """Relative ones here, absolute ones anywhere."""

    def work() -> None:
        root = mounted.roots[0]
        (root / "d").mkdir()
        (root / "d/f").write_bytes(b"data")
        (root / "s").symlink_to("d/f")
        (root / "a").symlink_to(root / "d")
        assert (root / "s").read_bytes() == b"data"
        assert (root / "a/f").read_bytes() == b"data"
        assert os.readlink(root / "s") == "d/f"
        assert (root / "s").lstat().st_size == 3

    await do(work)


async def test_file_system_says_its_size(mounted: MountedCell) -> None:
    """statfs(2) of a volume: what its partition has free."""
    found = await do(os.statvfs, mounted.roots[0])
    assert found.f_blocks >= found.f_bavail > 0
    assert found.f_namemax == 255


async def test_permissions_mean_something(mounted: MountedCell) -> None:
    """Another user is refused what the mode does not allow."""

    def work() -> None:
        secret = mounted.roots[0] / "secret"
        secret.write_bytes(b"x")
        secret.chmod(0o600)
        assert os.access(secret, os.R_OK)
        pid = os.fork()
        if not pid:
            os.setuid(12345)
            os._exit(errno_of(lambda: os.open(secret, os.O_RDONLY)) or 0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == errno.EACCES

    mounted.roots[0].parent.parent.chmod(0o755)
    await do(work)
