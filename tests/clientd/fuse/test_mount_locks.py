"""fcntl(2) and flock(2) through mounts: between programs of one machine, and between machines."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.clientd.fuse.mounted import MountedCell, do, mounted_cell, needs_fuse, run

pytestmark = [pytest.mark.root, needs_fuse]

EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB
SHARED = fcntl.LOCK_SH | fcntl.LOCK_NB


@pytest.fixture
async def mounted(tmp_path: Path) -> AsyncIterator[MountedCell]:
    """Two mounted clients, with a file."""
    async with mounted_cell(tmp_path, clients=2) as running:
        await do((running.roots[0] / "f").write_bytes, b"0")
        yield running


def is_refused(lock: Callable[[int, int], object], descriptor: int, how: int) -> bool:
    """True if somebody else has the lock."""
    try:
        lock(descriptor, how)
    except BlockingIOError:
        return True
    return False


@pytest.mark.parametrize("lock", [fcntl.lockf, fcntl.flock])
async def test_machines_exclude_each_other(
    mounted: MountedCell, lock: Callable[[int, int], object]
) -> None:
    """One writer, or several readers; close(2) lets go."""

    def work() -> None:
        one, other = (os.open(root / "f", os.O_RDWR) for root in mounted.roots)
        assert not is_refused(lock, one, EXCLUSIVE)
        assert is_refused(lock, other, EXCLUSIVE)
        assert is_refused(lock, other, SHARED)
        lock(one, fcntl.LOCK_UN)
        assert not is_refused(lock, other, SHARED)
        assert not is_refused(lock, one, SHARED)
        assert is_refused(lock, one, EXCLUSIVE)
        os.close(other)
        while is_refused(lock, one, EXCLUSIVE):
            pass
        os.close(one)

    await do(work)


async def test_lock_of_a_reader_goes_with_its_handle(mounted: MountedCell) -> None:
    """Its close(2) is not told of by FLUSH."""

    def work() -> None:
        one = os.open(mounted.roots[0] / "f", os.O_RDONLY)
        other = os.open(mounted.roots[1] / "f", os.O_RDWR)
        fcntl.lockf(one, SHARED)
        assert is_refused(fcntl.lockf, other, EXCLUSIVE)
        os.close(one)
        while is_refused(fcntl.lockf, other, EXCLUSIVE):
            pass
        os.close(other)

    await do(work)


_COUNT = """
import fcntl, pathlib, sys
path = pathlib.Path(sys.argv[1])
for _ in range(25):
    with path.open("r+b", buffering=0) as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        number = int(file.read())
        file.seek(0)
        file.write(b"%d" % (number + 1))
"""


async def test_counter_under_a_lock_loses_nothing(mounted: MountedCell) -> None:
    """What one wrote under the lock is read by whoever has it next, on whatever machine."""
    paths = [root / "f" for root in mounted.roots for _ in range(2)]
    async with asyncio.TaskGroup() as group:
        for path in paths:
            group.create_task(run(_COUNT, path))
    assert await do(paths[0].read_bytes) == b"100"


_WAIT = """
import fcntl, signal, sys
signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
with open(sys.argv[1], "r+b") as one, open(sys.argv[2], "r+b") as other:
    fcntl.lockf(one, fcntl.LOCK_EX)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        fcntl.lockf(other, fcntl.LOCK_EX)
    except ZeroDivisionError:
        print("interrupted")
"""


async def test_signal_ends_the_wait_for_a_lock(mounted: MountedCell) -> None:
    """The program's handler runs, and may end it."""
    assert await run(_WAIT, *(root / "f" for root in mounted.roots)) == "interrupted\n"


_INSERT = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
for number in range(8):
    database.execute("BEGIN IMMEDIATE")
    (count,) = database.execute("SELECT count(*) FROM t").fetchone()
    database.execute("INSERT INTO t VALUES (?, ?)", (count, sys.argv[2]))
    database.execute("COMMIT")
"""
_CHECK = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60)
print(database.execute("PRAGMA integrity_check").fetchone()[0])
print([number for number, in database.execute("SELECT number FROM t ORDER BY number")])
"""


async def test_one_database_is_used_from_two_machines(mounted: MountedCell) -> None:
    """SQLite locks bytes of its file, and both see each other's transactions, none lost."""
    paths = [root / "db" for root in mounted.roots]
    make = (
        "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('CREATE TABLE t (number, who)')"
    )
    await run(make, paths[0])
    async with asyncio.TaskGroup() as group:
        for who, path in enumerate(paths):
            group.create_task(run(_INSERT, path, who))
    for path in paths:
        assert await run(_CHECK, path) == f"ok\n{list(range(16))}\n"


async def test_what_was_written_under_a_lost_lock_is_refused(mounted: MountedCell) -> None:
    """The fileserver crashed: others may have had the file. After close(2) all is well again."""
    path = mounted.roots[0] / "f"

    def lock_and_write() -> int:
        descriptor = os.open(path, os.O_RDWR)
        fcntl.lockf(descriptor, EXCLUSIVE)
        os.write(descriptor, b"written under the lock")
        return descriptor

    def fails(work: Callable[..., object], *arguments: object) -> bool:
        try:
            work(*arguments)
        except OSError as error:
            return error.errno == errno.EIO
        return False

    def go_on(descriptor: int) -> list[bool]:
        return [
            fails(os.write, descriptor, b"more"),
            fails(os.fsync, descriptor),
            fails(fcntl.lockf, descriptor, EXCLUSIVE),
            fails(os.close, descriptor),
        ]

    descriptor = await do(lock_and_write)
    cell, (program, _) = mounted.cell, mounted.programs
    assert cell.fileserver is not None
    await cell.fileserver.stop()
    (cell.folder / "run/callbacks.state").unlink()
    await cell.start_fileserver()
    journal = program.client.services.journal
    await program.until(lambda: journal.counters()["locks_lost"] == 1)
    assert await do(go_on, descriptor) == [True] * 4

    def begin_anew() -> None:
        with path.open("r+b") as file:
            fcntl.lockf(file, EXCLUSIVE)
            file.write(b"new")

    await do(begin_anew)
    assert (await do((mounted.roots[1] / "f").read_bytes))[:3] == b"new"
