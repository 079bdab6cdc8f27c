"""Data of files on a mount, call by call (`docs/posix.md`)."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from afs.limits import KIB, MIB
from tests.mounted.conftest import Mounts
from tests.mounted.failing import fails_with

pytestmark = pytest.mark.root


def test_read_and_write_anywhere(here: Path, there: Path) -> None:
    """Pread and pwrite at any offset; what was never written is zeros."""
    descriptor = os.open(here / "f", os.O_RDWR | os.O_CREAT)
    try:
        assert os.pwrite(descriptor, b"end", 3 * MIB) == 3
        assert os.pwrite(descriptor, b"start", 0) == 5
        assert os.pread(descriptor, 8, 0) == b"start\0\0\0"
        assert os.pread(descriptor, 10, 3 * MIB) == b"end"
        assert os.pread(descriptor, 10, 4 * MIB) == b""
    finally:
        os.close(descriptor)
    data = (there / "f").read_bytes()
    assert data == b"start" + bytes(3 * MIB - 5) + b"end"


def test_large_files(here: Path, there: Path) -> None:
    """A file of many pieces comes back as it was written, also after a change in its middle."""
    data = bytearray(os.urandom(5 * MIB + 123))
    (here / "f").write_bytes(data)
    assert (there / "f").read_bytes() == data
    data[2 * MIB : 2 * MIB + 100] = bytes(100)
    with (there / "f").open("r+b") as file:
        file.seek(2 * MIB)
        file.write(bytes(100))
    assert (here / "f").read_bytes() == data


def test_append(here: Path, there: Path) -> None:
    """O_APPEND writes at the end of what is there when the file is opened."""
    for path in (here, there, here, there):
        with (path / "log").open("a") as file:
            file.write("line\n")
    assert (here / "log").read_text() == "line\n" * 4


def test_truncate(here: Path, there: Path) -> None:
    """Shorter and longer, by name and by descriptor; what is new is zeros."""
    (here / "f").write_bytes(b"0123456789")
    os.truncate(here / "f", 4)
    assert (there / "f").read_bytes() == b"0123"
    with (there / "f").open("r+b") as file:
        file.truncate(8)
        file.seek(0)
        assert file.read() == b"0123\0\0\0\0"
    assert (here / "f").read_bytes() == b"0123\0\0\0\0"
    (here / "f").open("w").close()
    assert (there / "f").stat().st_size == 0


def test_closed_is_stored(here: Path, there: Path) -> None:
    """When close returns, the other client reads the new data, every time."""
    for number in range(50):
        (here / "f").write_text(str(number))
        assert (there / "f").read_text() == str(number)


def test_fsync_is_stored(here: Path, there: Path) -> None:
    """What was written and synced is there for others while the file is still open."""
    with (here / "f").open("wb", buffering=0) as file:
        file.write(b"first")
        os.fsync(file.fileno())
        assert (there / "f").read_bytes() == b"first"
        file.write(b" second")
        os.fdatasync(file.fileno())
        assert (there / "f").read_bytes() == b"first second"


def test_an_open_file_shows_its_own_writes(here: Path) -> None:
    """Two descriptors of one client see each other's writes at once."""
    with (here / "f").open("wb", buffering=0) as writer, (here / "f").open("rb") as reader:
        writer.write(b"data")
        assert reader.read() == b"data"
        assert (here / "f").stat().st_size == 4


def test_mmap_reads_and_writes(here: Path, there: Path) -> None:
    """A shared mapping shows the data, and what is written to it is stored by msync and close."""
    (here / "f").write_bytes(bytes(3 * mmap.PAGESIZE))
    with (here / "f").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[10:14] = b"here"
        mapped.flush()
        assert (there / "f").read_bytes()[10:14] == b"here"
        mapped[mmap.PAGESIZE : mmap.PAGESIZE + 4] = b"also"
    assert (there / "f").read_bytes()[mmap.PAGESIZE : mmap.PAGESIZE + 4] == b"also"


def test_mmap_shows_what_others_closed(here: Path, there: Path) -> None:
    """A mapping that is there already shows what another client stored meanwhile."""
    (here / "f").write_bytes(b"old!" * KIB)
    with (there / "f").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        assert mapped[:4] == b"old!"
        (here / "f").write_bytes(b"new!" * KIB)
        assert mapped[:4] == b"new!"
        mapped.close()


def test_execute(here: Path, there: Path) -> None:
    """A program on the mount runs, and one without the x bit does not."""
    shutil.copy("/bin/true", here / "program")
    subprocess.run([there / "program"], check=True, timeout=60)
    (here / "program").chmod(0o644)
    with fails_with(errno.EACCES):
        subprocess.run([there / "program"], check=True, timeout=60)


def test_fallocate_is_not_offered(here: Path) -> None:
    """Space is not set aside; posix_fallocate, which may write zeros instead, works."""
    with (here / "f").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 10 * KIB)
    assert (here / "f").stat().st_size == 10 * KIB


def test_holes_are_not_told(here: Path) -> None:
    """SEEK_DATA and SEEK_HOLE answer as for a file without holes, which is always right."""
    with (here / "f").open("w+b") as file:
        file.truncate(10 * KIB)
        file.flush()
        assert os.lseek(file.fileno(), 0, os.SEEK_DATA) == 0
        assert os.lseek(file.fileno(), 0, os.SEEK_HOLE) == 10 * KIB


def test_copying_within_the_kernel(here: Path, there: Path) -> None:
    """copy_file_range and sendfile copy, whatever way the kernel takes."""
    (here / "f").write_bytes(b"data" * KIB)
    with (here / "f").open("rb") as source, (here / "g").open("wb") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), 4 * KIB) == 4 * KIB
    with (here / "f").open("rb") as source, (here / "h").open("wb") as target:
        assert os.sendfile(target.fileno(), source.fileno(), 0, 4 * KIB) == 4 * KIB
    assert (there / "g").read_bytes() == (there / "h").read_bytes() == b"data" * KIB


def test_nameless_files_are_not_offered(here: Path) -> None:
    """O_TMPFILE is refused; programs make a file and remove its name instead."""
    with fails_with(errno.EOPNOTSUPP, errno.EISDIR):
        os.open(here, os.O_TMPFILE | os.O_RDWR)


def test_quota(mounts: Mounts, volume: str, here: Path) -> None:
    """Beyond the volume's quota close and fsync fail with EDQUOT; what was there stays."""
    (here / "f").write_bytes(b"before")
    mounts.afsctl("fs", "setquota", f"/{volume}", "1024")
    descriptor = os.open(here / "f", os.O_WRONLY)
    with fails_with(errno.EDQUOT):
        os.write(descriptor, os.urandom(2 * MIB))
        os.fsync(descriptor)
    # What could not be stored is told once more, or not, to who closes it.
    with suppress(OSError):
        os.close(descriptor)
    mounts.afsctl("fs", "setquota", f"/{volume}", "0")
    (here / "g").write_bytes(b"after")
    assert (here / "g").read_bytes() == b"after"


def test_a_write_that_is_interrupted_by_the_end_of_its_program(here: Path, there: Path) -> None:
    """A killed program's files are closed by the kernel: what it wrote is stored, or nothing."""
    program = "import os, sys, signal; f = open(sys.argv[1], 'wb', buffering=0); f.write(b'data');"
    program += "os.kill(os.getpid(), signal.SIGKILL)"
    subprocess.run([sys.executable, "-c", program, here / "f"], check=False, timeout=60)
    assert (there / "f").read_bytes() in (b"", b"data")
    (there / "f").unlink()
