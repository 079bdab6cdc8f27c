"""Attributes of files on a mount, call by call (`docs/posix.md`)."""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path

import pytest

from afs.limits import KIB
from tests.mounted.conftest import Mounts
from tests.mounted.failing import fails_with
from tests.mounted.waiting import wait_until

pytestmark = pytest.mark.root


def test_modes(here: Path, there: Path) -> None:
    """Chmod is seen by the other client at once."""
    (here / "f").touch(mode=0o600)
    for mode in (0o755, 0o400, 0o644):
        (here / "f").chmod(mode)
        assert stat.S_IMODE((there / "f").stat().st_mode) == mode


def test_owner_and_group(here: Path, there: Path) -> None:
    """Chown is kept, and seen by the other client."""
    (here / "f").touch()
    os.chown(here / "f", 1234, 2345)
    shown = (there / "f").stat()
    assert (shown.st_uid, shown.st_gid) == (1234, 2345)


def test_times(here: Path, there: Path) -> None:
    """The time of change is kept to the nanosecond; the time of access is not kept at all."""
    (here / "f").write_text("data")
    os.utime(here / "f", ns=(1, 1_500_000_000_123_456_789))
    shown = (there / "f").stat()
    assert shown.st_mtime_ns == 1_500_000_000_123_456_789
    assert shown.st_atime_ns == shown.st_mtime_ns
    before = time.time() - 5
    os.utime(here / "f")
    assert (there / "f").stat().st_mtime >= before


def test_a_write_changes_the_time(here: Path, there: Path) -> None:
    """What was written shows in mtime, here at once and elsewhere after close."""
    (here / "f").write_text("data")
    os.utime(here / "f", ns=(1, 1_500_000_000_000_000_000))
    with (there / "f").open("a") as file:
        file.write("more")
    assert (here / "f").stat().st_mtime_ns > 1_500_000_000_000_000_000


def test_sizes_and_blocks(here: Path, there: Path) -> None:
    """Length, blocks and block size are what du and cp go by."""
    (here / "f").write_bytes(bytes(10 * KIB))
    shown = (there / "f").stat()
    assert shown.st_size == 10 * KIB
    assert shown.st_blocks * 512 >= 10 * KIB
    assert shown.st_blksize >= 4 * KIB


def test_numbers_of_files_stay(here: Path, there: Path) -> None:
    """A file keeps its inode number over rename and change, and no two files share one."""
    for name in ("a", "b"):
        (here / name).touch()
    numbers = [(here / name).stat().st_ino for name in ("a", "b")]
    assert numbers[0] != numbers[1]
    (here / "a").write_text("data")
    (here / "a").rename(here / "c")
    assert (here / "c").stat().st_ino == numbers[0] == (there / "c").stat().st_ino


def test_extended_attributes_are_refused(here: Path) -> None:
    """There are none: setting one fails as on a file system without them."""
    (here / "f").touch()
    with fails_with(errno.EOPNOTSUPP):
        os.setxattr(here / "f", "user.note", b"value")
    with fails_with(errno.EOPNOTSUPP, errno.ENODATA):
        os.getxattr(here / "f", "user.note")
    with fails_with(errno.EOPNOTSUPP):
        os.listxattr(here / "f")


def test_space(mounts: Mounts, volume: str, here: Path) -> None:
    """Statvfs tells of the volume: its quota is its size, what it holds is used."""
    mounts.afsctl("fs", "setquota", f"/{volume}", "100000")
    (here / "f").write_bytes(os.urandom(1000 * KIB))

    def shown() -> bool:
        space = os.statvfs(here)
        used_kib = (space.f_blocks - space.f_bfree) * space.f_frsize // KIB
        return space.f_blocks * space.f_frsize == 100_000 * KIB and used_kib >= 1000

    wait_until(shown)
    assert os.statvfs(here).f_namemax == 255


def test_access(here: Path) -> None:
    """access(2) goes by the mode."""
    (here / "f").touch(mode=0o600)
    assert os.access(here / "f", os.R_OK | os.W_OK)
    assert not os.access(here / "f", os.X_OK)
    (here / "f").chmod(0o700)
    assert os.access(here / "f", os.X_OK)


def test_a_read_only_volume(mounts: Mounts, volume: str, here: Path) -> None:
    """In a backup volume everything is there, and every change is EROFS."""
    (here / "f").write_text("yesterday")
    mounts.afsctl("vos", "backup", volume)
    (here / "f").write_text("today")
    backup = mounts.first / f"{volume}.backup"
    assert (backup / "f").read_text() == "yesterday"
    with fails_with(errno.EROFS):
        (backup / "f").write_text("changed")
    with fails_with(errno.EROFS):
        (backup / "g").touch()
    with fails_with(errno.EROFS):
        (backup / "f").unlink()
    with fails_with(errno.EROFS):
        (backup / "f").chmod(0o600)
