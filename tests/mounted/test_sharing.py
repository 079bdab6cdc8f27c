"""Two clients on one file: locks, and files that are open while their volume is worked on."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mounted.conftest import Mounts
from tests.mounted.waiting import wait_until

pytestmark = pytest.mark.root

# Takes a lock, says so, and keeps it until its standard input ends.
_HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
getattr(fcntl, sys.argv[2])(file, getattr(fcntl, sys.argv[3]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held(path: Path, call: str, kind: str) -> Iterator[subprocess.Popen[str]]:
    """Another program holds a lock meanwhile."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path), call, kind],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        try:
            assert program.stdout.readline() == "held\n"
            yield program
        finally:
            program.stdin.close()
            program.wait(timeout=60)


def _can_lock(path: Path, call: str, kind: int) -> bool:
    with path.open("r+b") as file:
        try:
            getattr(fcntl, call)(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@pytest.mark.parametrize("call", ["flock", "lockf"])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["one client", "two clients"])
def test_locks_exclude_each_other(here: Path, there: Path, call: str, *, elsewhere: bool) -> None:
    """A write lock keeps every other program out, on this client and on others, until it goes."""
    (here / "f").touch()
    other = (there if elsewhere else here) / "f"
    with held(here / "f", call, "LOCK_EX"):
        assert not _can_lock(other, call, fcntl.LOCK_EX)
        assert not _can_lock(other, call, fcntl.LOCK_SH)
    wait_until(lambda: _can_lock(other, call, fcntl.LOCK_EX))


@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_read_locks_are_shared(here: Path, there: Path, call: str) -> None:
    """Any number of readers hold a lock together; a writer waits for all of them."""
    (here / "f").touch()
    with held(here / "f", call, "LOCK_SH"), held(there / "f", call, "LOCK_SH"):
        assert _can_lock(there / "f", call, fcntl.LOCK_SH)
        assert not _can_lock(there / "f", call, fcntl.LOCK_EX)
    wait_until(lambda: _can_lock(there / "f", call, fcntl.LOCK_EX))


@pytest.mark.parametrize("call", ["flock", "lockf"])
def test_a_waiting_lock_comes_when_the_other_goes(here: Path, there: Path, call: str) -> None:
    """Who waits for a lock that another client holds gets it after that client let go."""
    (here / "f").touch()
    with held(here / "f", call, "LOCK_EX") as holder:
        waiting = subprocess.Popen(
            [sys.executable, "-c", _HOLDER, str(there / "f"), call, "LOCK_EX"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert waiting.poll() is None
        assert holder.stdin is not None
        holder.stdin.close()
        out, _ = waiting.communicate(timeout=60)
        assert out == "held\n"


def test_a_killed_program_holds_no_lock(here: Path, there: Path) -> None:
    """The kernel lets go of what a killed program held, and so do we."""
    (here / "f").touch()
    with held(here / "f", "flock", "LOCK_EX") as holder:
        holder.kill()
        holder.wait(timeout=60)
        wait_until(lambda: _can_lock(there / "f", "flock", fcntl.LOCK_EX))


def test_close_to_open(here: Path, there: Path) -> None:
    """What one client closed the other one reads when it opens, whoever of the two writes."""
    (here / "f").write_text("0")
    for number in range(1, 41):
        writer, reader = (here, there) if number % 2 else (there, here)
        (writer / "f").write_text(str(number))
        assert (reader / "f").read_text() == str(number)


def test_an_open_file_shows_what_others_stored(here: Path, there: Path) -> None:
    """A descriptor that is open already reads the new data after another client closed it."""
    (here / "f").write_text("old")
    with (there / "f").open("rb", buffering=0) as file:
        assert file.read() == b"old"
        (here / "f").write_text("new")
        file.seek(0)
        assert file.read() == b"new"


def test_a_restore_shows_at_once(mounts: Mounts, volume: str, here: Path, tmp_path: Path) -> None:
    """When a restore over the volume is done, both clients show what the dump has, open or not."""
    there = mounts.second / volume
    (here / "f").write_text("yesterday")
    mounts.afsctl("vos", "dump", volume, str(tmp_path / "dump"))
    (here / "f").write_text("today")
    (here / "g").write_text("today only")
    with (there / "f").open("rb", buffering=0) as file:
        assert file.read() == b"today"
        assert (there / "g").exists()
        mounts.afsctl("vos", "restore", volume, str(tmp_path / "dump"), "--overwrite")
        wait_until(lambda: os.listdir(there) == ["f"])
        file.seek(0)
        assert file.read() == b"yesterday"
    assert (here / "f").read_text() == "yesterday"


def test_a_release_shows_at_once(mounts: Mounts, volume: str, here: Path) -> None:
    """After `vos release --wait` every client reads the new state in the read-only volume."""
    readonly = mounts.second / f"{volume}.readonly"
    (here / "f").write_text("first")
    mounts.afsctl("vos", "addsite", volume, "--server", "afsd", "--partition", "vicepa")
    mounts.afsctl("vos", "release", volume, "--wait")
    assert (readonly / "f").read_text() == "first"
    (here / "f").write_text("second")
    assert (readonly / "f").read_text() == "first"
    mounts.afsctl("vos", "release", volume, "--wait")
    assert (readonly / "f").read_text() == "second"


def test_open_files_outlive_a_move(mounts: Mounts, volume: str, here: Path, there: Path) -> None:
    """Files stay open, readable and writable, while their volume moves to another partition."""
    (here / "f").write_text("before")
    with (here / "f").open("r+b", buffering=0) as writer, (there / "f").open("rb") as reader:
        writer.write(b"BEFORE")
        mounts.afsctl("vos", "move", volume, "--to-partition", "vicepb")
        writer.write(b" and after")
        os.fsync(writer.fileno())
        assert reader.read() == b"BEFORE and after"
    assert (there / "f").read_text() == "BEFORE and after"
