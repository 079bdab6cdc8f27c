"""Two clients of the real fileserver: what one was answered, the other sees at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.volume.partition import Partition
from afsd.app import FileServerDaemon
from afsd.config import AfsdConfig
from tests.clientd.fake_fileserver import VOLUME, FakeFileServer
from tests.clientd.local_program import CACHE, LocalProgram, running_client

SEEDS = range(3)


def make_volume(partition: Path) -> None:
    """A partition with the volume `home`."""
    partition.mkdir()
    opened = Partition.open(partition, holder="test")
    opened.create_volume(volume_id=VOLUME, name="home").close()
    opened.close()


class RealCell:
    """A real fileserver, a fake location service, and clients."""

    def __init__(self, folder: Path, location: FakeFileServer) -> None:
        self.folder = folder
        self.location = location
        self.location_address = location.address
        self.fileserver: FileServerDaemon | None = None
        self.programs: list[LocalProgram] = []

    async def start_fileserver(self) -> None:
        """At the same address as before, if there was one."""
        port = [] if self.fileserver is None else self.fileserver.addresses
        config = AfsdConfig(
            listen=port or ["127.0.0.1:0"],
            partitions=[self.folder / "vicepa"],
            run_dir=self.folder / "run",
        )
        self.fileserver = await FileServerDaemon.start(config)
        self.location.address = self.fileserver.addresses[0]


@asynccontextmanager
async def real_cell(folder: Path, clients: int = 2) -> AsyncIterator[RealCell]:
    """A cell with a real fileserver."""
    await asyncio.to_thread(make_volume, folder / "vicepa")
    async with AsyncExitStack() as stack:
        location = await FakeFileServer().start()
        stack.push_async_callback(location.stop)
        cell = RealCell(folder, location)
        await cell.start_fileserver()
        for number in range(clients):
            (folder / str(number)).mkdir()
            client = running_client(folder / str(number), cell.location_address)
            cell.programs.append(await stack.enter_async_context(client))
        yield cell
        assert cell.fileserver is not None
        # First the clients, which give their promises back.
        await stack.aclose()
        await cell.fileserver.stop()


@pytest.mark.parametrize("seed", SEEDS)
async def test_random_work_of_two_clients_is_seen_at_once(tmp_path: Path, seed: int) -> None:
    """Every answer, of either client, is what a plain tree of names and bytes says."""
    choose = random.Random(seed)
    async with real_cell(tmp_path) as cell:
        model: dict[str, bytes | None] = {"/home": None}
        for _ in range(150):
            await one_step(choose, choose.choice(cell.programs), model)
            await compare(choose, choose.choice(cell.programs), model)
        for program in cell.programs:
            for path, content in model.items():
                if content is not None:
                    assert (await program.read(path)).data == content


async def one_step(
    choose: random.Random, program: LocalProgram, model: dict[str, bytes | None]
) -> None:
    """One change, by one client and to the model."""
    directories = [path for path, content in model.items() if content is None]
    path = f"{choose.choice(directories)}/{choose.choice('abcd')}"
    known = path in model
    match choose.choice(["write", "write", "write", "make", "remove", "rename"]):
        case "write" if model.get(path, b"") is not None:
            content = choose.randbytes(choose.choice([0, 10, 5000, 70_000]))
            await program.write(path, content)
            model[path] = content
        case "make" if not known and path.count("/") < 5:
            await program.make_dir(path)
            model[path] = None
        case "remove" if known:
            await program.remove(path, recursive=True)
            for gone in [each for each in model if each == path or each.startswith(path + "/")]:
                del model[gone]
        case "rename" if known and model[path] is not None:
            target = f"{choose.choice(directories)}/{choose.choice('abcd')}"
            if model.get(target, b"") is not None:
                await program.rename(path, target)
                model[target] = model.pop(path)
        case _:
            pass


async def compare(
    choose: random.Random, program: LocalProgram, model: dict[str, bytes | None]
) -> None:
    """One look, of one client and at the model."""
    path = choose.choice(list(model))
    content = model[path]
    if content is not None:
        assert (await program.read(path)).data == content
        assert (await program.stat(path)).status.length == len(content)
    else:
        names = sorted(each.rpartition("/")[2] for each in model if each.rpartition("/")[0] == path)
        assert (await program.list(path))[0] == names
    missing = f"{path}/z"
    with pytest.raises(AfsError) as caught:
        await program.stat(missing)
    assert caught.value.code in (AfsCode.ENOENT, AfsCode.ENOTDIR)


async def test_acknowledged_writes_outlive_the_fileserver(tmp_path: Path) -> None:
    """After a restart nothing acknowledged is lost, and the other client reads nothing stale."""
    async with real_cell(tmp_path) as cell:
        one, two = cell.programs
        for number in range(10):
            await one.write(f"/home/f{number}", b"first")
            await two.read(f"/home/f{number}")
        for number in range(10):
            await one.write(f"/home/f{number}", b"second")
        assert cell.fileserver is not None
        await cell.fileserver.stop()
        await cell.start_fileserver()
        for number in range(10):
            assert (await two.read(f"/home/f{number}")).data == b"second"


async def test_warm_reads_reach_no_fileserver(tmp_path: Path) -> None:
    """Counted by the client: after the first round nobody is asked."""
    async with real_cell(tmp_path) as cell:
        one, two = cell.programs
        for number in range(10):
            await one.write(f"/home/f{number}", b"content")
        for _ in range(2):
            for number in range(10):
                await two.read(f"/home/f{number}")
                await two.stat(f"/home/f{number}")
            await two.list("/home")
            await two.until_leased()
        before = await two.counters()
        for number in range(10):
            assert (await two.read(f"/home/f{number}")).source == CACHE
            assert (await two.stat(f"/home/f{number}")).source == CACHE
        assert (await two.list("/home"))[1] == CACHE
        after = await two.counters()
        for name in ("fetch_status_calls", "fetch_data_calls", "read_dir_calls", "lookup_calls"):
            assert after[name] == before[name]


async def test_many_writers_of_one_file_and_one_reader(tmp_path: Path) -> None:
    """What the reader sees never goes back, and is never a mixture."""
    async with real_cell(tmp_path, clients=3) as cell:
        *writers, reader = cell.programs
        await writers[0].write("/home/f", content(0))
        acknowledged = 0

        async def write(program: LocalProgram, numbers: range) -> None:
            nonlocal acknowledged
            for number in numbers:
                await program.write("/home/f", content(number))
                acknowledged = max(acknowledged, number)

        async def read() -> None:
            seen = 0
            while seen < 40:
                answer = await reader.read("/home/f")
                number = int(answer.data[:8])
                assert answer.data == content(number)
                assert answer.status.data_version >= seen_version[0]
                seen_version[0] = answer.status.data_version
                seen = max(seen, acknowledged)

        seen_version = [0]
        async with asyncio.timeout(60):
            await asyncio.gather(
                write(writers[0], range(1, 41, 2)), write(writers[1], range(2, 41, 2)), read()
            )


def content(number: int) -> bytes:
    """A file whose every part tells its number."""
    return b"%08d" % number * 3000
