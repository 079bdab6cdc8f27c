"""A cell of three servers as processes: what its clients notice of moves, releases and crashes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from afs.limits import MIB
from afs.v1 import cache_manager_pb2
from afs.v1 import vol_server_pb2 as pb
from afsctl.cell import Cell
from tests.clientd.local_program import CACHE, REVALIDATED, LocalProgram
from tests.clientd.several_servers import make_mount_point
from tests.volserverd.running import VolServerCalls

_names = count(1)


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """Three servers and two clients, for all tests here; each makes its own volumes."""
    with Cell.start(tmp_path_factory.mktemp("cell"), servers=3, clients=2) as running:
        yield running


class Work:
    """Programs on the two clients, and an operator.

    Attributes:
        programs: one on each client.
        volume: the name of a new volume, on the first server.
    """

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.programs = [LocalProgram(_client(address)) for address in cell.addresses.clients]
        self.volume = f"volume-{next(_names)}"
        self._operators = [
            VolServerCalls(server.vol_server, cell.addresses.location) for server in cell.servers
        ]

    async def close(self) -> None:
        """Hangs up."""
        for program in self.programs:
            await program.channel.close()
        for operator in self._operators:
            await operator.close()

    async def create(self) -> None:
        """Makes the volume."""
        await self._operators[0].create(self.volume, partition="vicepa")

    async def move(self, source: int, target: int) -> pb.Sent:
        """Moves the volume; returns what was sent."""
        operator = self._operators[source]
        request = pb.MoveRequest(
            volume=self.volume,
            to_server=self.cell.servers[target].vol_server,
            to_partition="vicepa",
        )
        answers = await operator.stream(operator.stub.Move, request)
        sent: pb.Sent = answers[-1].sent
        return sent

    async def add_site(self, server: int) -> None:
        """A read-only site."""
        operator = self._operators[0]
        request = pb.AddSiteRequest(
            volume=self.volume, server=self.cell.servers[server].vol_server, partition="vicepa"
        )
        await operator.call(operator.stub.AddSite, request)

    async def release(self) -> None:
        """Releases the volume to all sites."""
        operator = self._operators[0]
        request = pb.ReleaseRequest(volume=self.volume)
        answers = await operator.stream(operator.stub.Release, request)
        assert all(site.released for site in answers[-1].sites), answers[-1]

    def server_of(self, address: str) -> int:
        """Which server has this fileserver."""
        return [server.file_server for server in self.cell.servers].index(address)


def _client(address: str) -> Any:
    # The program only needs to know where to call.
    return SimpleNamespace(addresses=[address])


@asynccontextmanager
async def _working(cell: Cell) -> AsyncIterator[Work]:
    work = Work(cell)
    try:
        await work.create()
        yield work
    finally:
        await work.close()


@pytest.fixture
async def work(cell: Cell) -> AsyncIterator[Work]:
    """Programs on the clients, and a new volume."""
    async with _working(cell) as working:
        yield working


async def until_broken(program: LocalProgram, before: dict[str, int]) -> None:
    """Waits until the client has heard one more break than before."""
    async with asyncio.timeout(20):
        while (await program.counters())["breaks_received"] <= before["breaks_received"]:
            await asyncio.sleep(0.01)


async def test_writer_and_reader_work_on_while_the_volume_moves(work: Work) -> None:
    """Round the servers: no error, nothing lost, nothing acknowledged is read in an older state."""
    writer, reader = work.programs
    path = f"/{work.volume}/f"
    acknowledged = 0
    moving = True

    async def write() -> None:
        nonlocal acknowledged
        while moving:
            await writer.write(path, b"%08d" % (acknowledged + 1) * 3000)
            acknowledged += 1

    async def read() -> None:
        while moving:
            if least := acknowledged:
                answer = await reader.read(path)
                assert int(answer.data[:8]) >= least
                assert answer.data == answer.data[:8] * 3000
            await asyncio.sleep(0)

    async def move() -> None:
        nonlocal moving
        try:
            for source, target in ((0, 1), (1, 2), (2, 0), (0, 2)):
                done = acknowledged
                await work.move(source, target)
                async with asyncio.timeout(20):
                    while acknowledged < done + 3:
                        await asyncio.sleep(0.01)
        finally:
            moving = False

    await asyncio.gather(write(), read(), move())
    assert int((await reader.read(path)).data[:8]) == acknowledged
    in_use = (await reader.stat(f"/{work.volume}")).volume.in_use
    assert work.server_of(in_use) == 2


async def test_write_under_way_survives_a_move(work: Work) -> None:
    """What was sent to the old server is sent to the new one from the client's spool."""
    writer, reader = work.programs
    first, second = os.urandom(6 * MIB), os.urandom(3 * MIB + 5)
    half, go_on = asyncio.Event(), asyncio.Event()

    async def requests() -> AsyncIterator[cache_manager_pb2.WriteRequest]:
        opening = cache_manager_pb2.WriteOpen(path=f"/{work.volume}/big", create=True)
        yield cache_manager_pb2.WriteRequest(open=opening)
        for at in range(0, len(first), MIB):
            yield cache_manager_pb2.WriteRequest(data=first[at : at + MIB])
        half.set()
        await go_on.wait()
        for at in range(0, len(second), MIB):
            yield cache_manager_pb2.WriteRequest(data=second[at : at + MIB])

    writing = asyncio.create_task(writer.call(writer.stub.Write(requests())))
    await half.wait()
    await work.move(0, 1)
    go_on.set()
    assert (await writing).status.length == len(first) + len(second)
    assert (await reader.read(f"/{work.volume}/big")).data == first + second


async def test_cached_data_outlives_move_and_restart(cell: Cell, work: Work) -> None:
    """Another server, another process of the client: the same Fids, asked about, not fetched."""
    writer, reader = work.programs
    contents = {f"/{work.volume}/f{number}": os.urandom(50_000) for number in range(5)}
    for path, content in contents.items():
        await writer.write(path, content)
        await reader.read(path)
    before = await reader.counters()
    await work.move(0, 1)
    await until_broken(reader, before)
    for path, content in contents.items():
        answer = await reader.read(path)
        assert answer.data == content
        assert answer.source in (REVALIDATED, CACHE)
    assert (await reader.counters())["bytes_fetched"] == before["bytes_fetched"]
    await asyncio.to_thread(cell.clientds[1].restart)
    await work.move(1, 2)
    for path, content in contents.items():
        assert (await reader.read(path)).data == content
    assert (await reader.counters())["bytes_fetched"] == 0


async def test_release_costs_its_readers_what_changed(work: Work) -> None:
    """A new state at two sites: one file of ten is fetched."""
    writer, reader = work.programs
    for number in range(10):
        await writer.write(f"/{work.volume}/f{number}", b"%d" % number * 20_000)
    for server in (1, 2):
        await work.add_site(server)
    await work.release()
    read_only = f"/{work.volume}.readonly"
    for number in range(10):
        assert (await reader.read(f"{read_only}/f{number}")).data == b"%d" % number * 20_000
    await writer.write(f"/{work.volume}/f3", b"new" * 20_000)
    assert (await reader.read(f"{read_only}/f3")).data == b"3" * 20_000
    before = await reader.counters()
    await work.release()
    await until_broken(reader, before)
    assert (await reader.read(f"{read_only}/f3")).data == b"new" * 20_000
    for number in (0, 1, 2, 4, 5, 6, 7, 8, 9):
        answer = await reader.read(f"{read_only}/f{number}")
        assert answer.data == b"%d" % number * 20_000
        assert answer.source in (REVALIDATED, CACHE)
    after = await reader.counters()
    assert after["bytes_fetched"] - before["bytes_fetched"] == 60_000


async def test_killed_site_is_replaced_by_the_other(cell: Cell, work: Work) -> None:
    """In the middle of a read, and for what follows."""
    writer, reader = work.programs
    block = os.urandom(MIB)
    await writer.write(f"/{work.volume}/big", [block] * 64)
    await writer.write(f"/{work.volume}/small", b"x")
    for server in (1, 2):
        await work.add_site(server)
    await work.release()
    read_only = f"/{work.volume}.readonly"
    assert (await reader.read(f"{read_only}/small")).data == b"x"
    killed = work.server_of((await reader.stat(read_only)).volume.in_use)
    got = bytearray()
    try:
        request = cache_manager_pb2.ReadRequest(path=f"{read_only}/big")
        async for response in reader.stub.Read(request):
            got += response.data
            if len(got) == 2 * MIB:
                await asyncio.to_thread(cell.servers[killed].afsd.kill9)
        assert got == block * 64
        assert (await reader.read(f"{read_only}/small")).data == b"x"
        assert (await reader.list(read_only))[0] == ["big", "small"]
        assert work.server_of((await reader.stat(read_only)).volume.in_use) == 3 - killed
    finally:
        await asyncio.to_thread(cell.servers[killed].afsd.start)


async def test_tree_over_three_servers(work: Work) -> None:
    """Mount points to volumes on other servers, one of which moves while it is looked at."""
    writer, reader = work.programs
    async with _working(work.cell) as outer, _working(work.cell) as inner:
        await inner.move(0, 1)
        await make_mount_point(writer, f"/{outer.volume}/a", f"#{inner.volume}.")
        await writer.make_dir(f"/{outer.volume}/a/b")
        await make_mount_point(writer, f"/{outer.volume}/a/b/c", f"%{work.volume}.")
        await work.move(0, 2)
        await writer.write(f"/{outer.volume}/a/b/c/f", b"deep")
        assert (await reader.read(f"/{outer.volume}/a/b/c/f")).data == b"deep"
        await inner.move(1, 2)
        assert (await reader.read(f"/{outer.volume}/a/b/c/../../b/c/f")).data == b"deep"
        answer = await reader.stat(f"/{outer.volume}/a/b/c")
        assert answer.volume.name == work.volume
        assert answer.mount_target == f"%{work.volume}."
