"""Directories and names on a mount, call by call (`docs/posix.md`)."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.mounted.conftest import Mounts
from tests.mounted.failing import fails_with
from tests.mounted.renames import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2
from tests.mounted.waiting import wait_until

pytestmark = pytest.mark.root


def test_create_and_exclusive_create(here: Path, there: Path) -> None:
    """O_CREAT makes a file that the other client has too; O_EXCL refuses one that is there."""
    os.close(os.open(here / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o640))
    assert stat.S_IMODE((there / "new").stat().st_mode) == 0o640
    with fails_with(errno.EEXIST):
        os.open(there / "new", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_devices_fifos_and_sockets_are_refused(here: Path) -> None:
    """AFS knows files, directories and symbolic links."""
    for kind in (stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFCHR):
        with fails_with(errno.EPERM):
            os.mknod(here / "special", kind | 0o600, os.makedev(1, 3))
    os.mknod(here / "file", stat.S_IFREG | 0o600)
    assert os.listdir(here) == ["file"]


def test_directories(here: Path, there: Path) -> None:
    """Mkdir and rmdir; a directory that has something in it stays."""
    (here / "d").mkdir(mode=0o750)
    (here / "d" / "f").touch()
    assert stat.S_IMODE((there / "d").stat().st_mode) == 0o750
    with fails_with(errno.ENOTEMPTY):
        (there / "d").rmdir()
    with fails_with(errno.EISDIR):
        (here / "d").unlink()
    with fails_with(errno.ENOTDIR):
        os.rmdir(here / "d" / "f")
    (there / "d" / "f").unlink()
    (here / "d").rmdir()
    assert os.listdir(there) == []
    with fails_with(errno.ENOENT):
        os.stat(there / "d" / "f")


def test_unlink_while_open(here: Path) -> None:
    """What was removed stays readable and writable for who has it open, and leaves no name."""
    path = here / "going"
    with path.open("w+b") as file:
        file.write(b"before ")
        file.flush()
        path.unlink()
        assert not path.exists()
        file.write(b"after")
        file.seek(0)
        assert file.read() == b"before after"
        with path.open("wb") as another:
            another.write(b"another")
        assert path.read_bytes() == b"another"
    path.unlink()
    # The kernel tells of a last close when close(2) has returned already.
    wait_until(lambda: os.listdir(here) == [])


def test_unlink_leaves_other_links(here: Path, there: Path) -> None:
    """A file has as many links as names; the last one takes it along."""
    (here / "a").write_text("data")
    os.link(here / "a", here / "b")
    assert (there / "b").stat().st_nlink == 2
    assert (here / "a").stat().st_ino == (here / "b").stat().st_ino
    (here / "a").unlink()
    assert (there / "b").read_text() == "data"
    assert (there / "b").stat().st_nlink == 1


def test_links_stay_in_one_directory(here: Path) -> None:
    """A hard link into another directory is EXDEV: access lists are on directories."""
    (here / "d").mkdir()
    (here / "a").touch()
    with fails_with(errno.EXDEV):
        os.link(here / "a", here / "d" / "a")
    with fails_with(errno.EPERM):
        os.link(here / "d", here / "e")


def test_rename(here: Path, there: Path) -> None:
    """Rename moves, replaces a file and an empty directory, and nothing else."""
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    (here / "a").rename(here / "b")
    assert (there / "b").read_text() == "a"
    assert sorted(os.listdir(there)) == ["b"]
    for name in ("from", "empty", "full"):
        (here / name).mkdir()
    (here / "full" / "f").touch()
    (here / "from" / "g").touch()
    with fails_with(errno.ENOTEMPTY):
        (here / "from").rename(here / "full")
    (here / "from").rename(here / "empty")
    assert os.listdir(there / "empty") == ["g"]
    with fails_with(errno.EINVAL):
        (here / "full").rename(here / "full" / "below")
    with fails_with(errno.EISDIR):
        (here / "b").rename(here / "full")
    with fails_with(errno.ENOTDIR):
        (here / "full").rename(here / "b")


def test_a_renamed_directory_takes_all_along(here: Path, there: Path) -> None:
    """What is below a directory is found under its new name by both clients, open files too."""
    (here / "one" / "two").mkdir(parents=True)
    (here / "one" / "two" / "f").write_text("data")
    with (there / "one" / "two" / "f").open() as file:
        (here / "one").rename(here / "other")
        assert (there / "other" / "two" / "f").read_text() == "data"
        assert not (there / "one").exists()
        assert file.read() == "data"


def test_rename_flags(here: Path) -> None:
    """RENAME_NOREPLACE keeps what is there; RENAME_EXCHANGE is not offered."""
    (here / "a").write_text("a")
    (here / "b").write_text("b")
    with fails_with(errno.EEXIST):
        renameat2(here / "a", here / "b", RENAME_NOREPLACE)
    renameat2(here / "a", here / "c", RENAME_NOREPLACE)
    assert sorted(os.listdir(here)) == ["b", "c"]
    with fails_with(errno.EINVAL):
        renameat2(here / "b", here / "c", RENAME_EXCHANGE)


def test_volumes_are_file_systems_of_their_own(mounts: Mounts, here: Path) -> None:
    """Rename and link from one volume into another are EXDEV, as between two disks."""
    other = mounts.first / mounts.make_volume()
    (here / "a").touch()
    with fails_with(errno.EXDEV):
        (here / "a").rename(other / "a")
    with fails_with(errno.EXDEV):
        os.link(here / "a", other / "a")


def test_symbolic_links(here: Path, there: Path) -> None:
    """A symbolic link keeps its target as it is, and is followed or not as asked."""
    (here / "file").write_text("data")
    (here / "link").symlink_to("file")
    (here / "broken").symlink_to("/no/such/place")
    assert os.readlink(there / "broken") == "/no/such/place"
    assert (there / "link").read_text() == "data"
    assert (there / "link").lstat().st_size == len("file")
    with fails_with(errno.ENOENT):
        os.stat(there / "broken")
    with fails_with(errno.EINVAL):
        os.readlink(here / "file")
    with fails_with(errno.ELOOP):
        os.open(here / "link", os.O_RDONLY | os.O_NOFOLLOW)


def test_long_names(here: Path) -> None:
    """255 bytes are a name, 256 are not."""
    (here / ("n" * 255)).touch()
    assert os.listdir(here) == ["n" * 255]
    with fails_with(errno.ENAMETOOLONG):
        (here / ("n" * 256)).touch()


def test_names_of_any_script(here: Path, there: Path) -> None:
    """Names are UTF-8; a name that is not is refused, and nothing is made."""
    for name in ("grün", "日本語", "with space", "new\nline", "-rf", "#home"):
        (here / name).touch()
    assert len(os.listdir(there)) == 6
    assert (there / "日本語").exists()
    with fails_with(errno.EINVAL, errno.EILSEQ):
        os.close(os.open(os.fsencode(here) + b"/\xff", os.O_CREAT))
    assert len(os.listdir(there)) == 6


def test_listing_a_large_directory(here: Path, there: Path) -> None:
    """Each entry comes exactly once, also while others are removed; its kind comes along."""
    for number in range(1500):
        (here / f"{number:04}").touch()
    (here / "directory").mkdir()
    with os.scandir(there) as entries:
        kinds = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
    assert len(kinds) == 1501
    assert [name for name, is_directory in kinds.items() if is_directory] == ["directory"]
    seen = []
    with os.scandir(there) as entries:
        for entry in entries:
            seen.append(entry.name)
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
    assert len(seen) == len(set(seen)) == 1501
    assert os.listdir(here) == ["directory"]


def test_dot_and_dot_dot(here: Path) -> None:
    """They lead where they should, through the kernel and by the file system's own numbers."""
    (here / "d").mkdir()
    assert (here / "d" / "..").stat().st_ino == here.stat().st_ino
    assert (here / "d" / ".").stat().st_ino == (here / "d").stat().st_ino


def test_a_file_made_elsewhere_appears(here: Path, there: Path) -> None:
    """A name that was not there, and was asked for, is there as soon as another client made it."""
    for number in range(20):
        name = f"f{number}"
        assert not (there / name).exists()
        (here / name).write_text(name)
        assert (there / name).read_text() == name
        (here / name).unlink()
        assert not (there / name).exists()


def test_a_mount_point_leads_into_its_volume(mounts: Mounts, here: Path, there: Path) -> None:
    """Where a volume is mounted its root directory is; `..` leads back, and rmdir does not go."""
    name = mounts.make_volume()
    mounts.afsctl("fs", "mkmount", f"/{here.name}/sub", name)
    (here / "sub" / "f").write_text("data")
    assert (mounts.second / name / "f").read_text() == "data"
    assert (there / "sub").stat().st_dev == there.stat().st_dev
    assert os.path.isdir(there / "sub")
    assert os.path.realpath(there / "sub" / "..") == os.path.realpath(there)
