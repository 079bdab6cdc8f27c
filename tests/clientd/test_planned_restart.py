"""A fileserver's process is restarted, and its clients' promises outlive that, or surely do not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from afsd.callback_state import FILE, SET_ASIDE
from tests.afsd.test_process import Process, process
from tests.clientd.fake_fileserver import FakeFileServer
from tests.clientd.local_program import CACHE, LocalProgram, running_client
from tests.clientd.test_coherence import make_volume

pytestmark = pytest.mark.blocking_ok

FILES = [f"/home/f{number}" for number in range(5)]
CALLS = (
    "fetch_status_calls",
    "fetch_data_calls",
    "lookup_calls",
    "read_dir_calls",
    "volume_status_calls",
)


class Cell:
    """A fileserver in a process of its own, a fake location service, and clients in this one."""

    def __init__(self, root: Path, stack: AsyncExitStack, location: FakeFileServer) -> None:
        self.root = root
        self.location = location
        self.location_address = location.address
        self.run_dir = root / "run"
        self._stack = stack
        self._listen = "127.0.0.1:0"
        self.afsd: Process

    async def start(self) -> None:
        """Starts the fileserver, always at the same address."""
        self.afsd = await self._stack.enter_async_context(process(self.root, listen=self._listen))
        self._listen = self.location.address = self.afsd.address

    async def client(self, name: str) -> LocalProgram:
        """A client that has just started."""
        (self.root / name).mkdir()
        running = running_client(self.root / name, self.location_address)
        return await self._stack.enter_async_context(running)


@asynccontextmanager
async def cell_of(root: Path) -> AsyncIterator[Cell]:
    """A cell with a fileserver that runs."""
    await asyncio.to_thread(make_volume, root / "vicepa")
    async with AsyncExitStack() as stack:
        location = await FakeFileServer().start()
        stack.push_async_callback(location.stop)
        cell = Cell(root, stack, location)
        await cell.start()
        yield cell


async def read_all(program: LocalProgram) -> dict[str, tuple[bytes, int]]:
    """All files, and where their contents came from."""
    answers = {path: await program.read(path) for path in FILES}
    return {path: (answer.data, answer.source) for path, answer in answers.items()}


async def warm(program: LocalProgram) -> None:
    """The client holds promises on all files and their directory."""
    for _ in range(2):
        await read_all(program)
        await program.list("/home")
    await program.until_leased()


async def back(program: LocalProgram, before: dict[str, int]) -> dict[str, int]:
    """Waits until the client is attached to a new life of the fileserver; its counters."""

    async def attached_anew() -> bool:
        now = await program.counters()
        seen = sum(now[name] - before[name] for name in ("resumptions", "resets_received"))
        return seen > 0

    async with asyncio.timeout(20):
        while not await attached_anew():
            await asyncio.sleep(0.01)
    await program.until_leased()
    return await program.counters()


async def test_promises_outlive_a_planned_restart(tmp_path: Path) -> None:
    """I9: after SIGTERM and a start the next reads come from the cache, and nobody is reset."""
    async with cell_of(tmp_path) as cell:
        one, two = await cell.client("one"), await cell.client("two")
        for path in FILES:
            await one.write(path, path.encode())
        await warm(one)
        await warm(two)
        before = [await one.counters(), await two.counters()]
        await cell.afsd.stop()
        assert (cell.run_dir / FILE).exists()
        await cell.start()
        assert not (cell.run_dir / FILE).exists()
        for program, counted in zip((one, two), before, strict=True):
            counters = await back(program, counted)
            assert counters["resumptions"] == 1
            assert await read_all(program) == {path: (path.encode(), CACHE) for path in FILES}
            assert (await program.list("/home"))[1] == CACHE
            after = await program.counters()
            for name in (*CALLS, "resets_received"):
                assert after[name] == counted[name], name
        # And what was kept is broken like any other promise.
        await one.write(FILES[0], b"new")
        assert (await two.read(FILES[0])).data == b"new"
        assert (await two.counters())["breaks_received"] == before[1]["breaks_received"] + 1


async def test_what_a_stopping_fileserver_is_asked_waits_for_the_next(tmp_path: Path) -> None:
    """A read that comes while the fileserver is away is answered by what the client kept."""
    async with cell_of(tmp_path) as cell:
        one = await cell.client("one")
        for path in FILES:
            await one.write(path, path.encode())
        await warm(one)
        await cell.afsd.stop()
        waiting = asyncio.create_task(read_all(one))
        await cell.start()
        found = await waiting
        assert {path: data for path, (data, _) in found.items()} == {
            path: path.encode() for path in FILES
        }


async def test_killed_fileserver_resets_everybody(tmp_path: Path) -> None:
    """I9: kill -9 leaves nothing behind: reset, as ever; also after a planned restart."""
    async with cell_of(tmp_path) as cell:
        one = await cell.client("one")
        await one.write(FILES[0], b"content")
        for ends in ("planned", "killed", "killed"):
            await one.read(FILES[0])
            await one.until_leased()
            before = await one.counters()
            if ends == "planned":
                await cell.afsd.stop()
            else:
                cell.afsd.process.kill()
                await cell.afsd.process.wait()
                assert not (cell.run_dir / FILE).exists()
            await cell.start()
            counters = await back(one, before)
            kept = counters["resumptions"] - before["resumptions"]
            assert kept == (ends == "planned")
            assert counters["resets_received"] - before["resets_received"] == (not kept)
            assert (await one.read(FILES[0])).data == b"content"


def flip(path: Path) -> None:
    """One bit is wrong."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """The end is missing."""
    os.truncate(path, path.stat().st_size - 7)


def garbage(path: Path) -> None:
    """Something else altogether."""
    path.write_bytes(os.urandom(500))


def of_another_epoch(path: Path) -> None:
    """Another life began and ended since."""
    (path.parent / "epoch").write_text(f"{int((path.parent / 'epoch').read_text()) + 1}\n")


@pytest.mark.parametrize("damage", [flip, cut, garbage, of_another_epoch])
async def test_damaged_state_is_set_aside_and_everybody_reset(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """The event names path and reason; clients are reset and read fresh data."""
    async with cell_of(tmp_path) as cell:
        one, two = await cell.client("one"), await cell.client("two")
        for path in FILES:
            await one.write(path, b"old")
        await warm(two)
        before = await two.counters()
        await cell.afsd.stop()
        damage(cell.run_dir / FILE)
        await cell.start()
        (event,) = [
            each for each in cell.afsd.events if each["event"] == "callback_state.set_aside"
        ]
        assert event["path"] == str(cell.run_dir / SET_ASIDE)
        assert event["reason"]
        assert event["level"] == "warning"
        assert [path.name for path in cell.run_dir.glob("callbacks*")] == [SET_ASIDE]
        for path in FILES:
            await one.write(path, b"new")
        counters = await back(two, before)
        assert counters["resumptions"] == 0
        assert counters["resets_received"] == before["resets_received"] + 1
        assert {data for data, _ in (await read_all(two)).values()} == {b"new"}
