"""A volume goes to another fileserver while clients use it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES, MIB, RETRY_TOTAL_S
from afs.runtime.clock import SystemClock
from afs.v1 import cache_manager_pb2 as pb
from tests.clientd.local_program import CACHE, REVALIDATED, LocalProgram
from tests.clientd.several_servers import Servers, clients, several_servers


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """Two fileservers, the first with the volume `home`."""
    async with several_servers(tmp_path) as running:
        await running.create("home")
        yield running


@pytest.fixture
async def program(servers: Servers, tmp_path: Path) -> AsyncIterator[LocalProgram]:
    """A program with a client."""
    async with clients(tmp_path, servers) as (program,):
        yield program


async def in_use(program: LocalProgram, path: str = "/home") -> str:
    """The fileserver that the client asks about a volume."""
    return (await program.stat(path)).volume.in_use


async def test_moved_volume_is_revalidated_and_not_fetched(
    servers: Servers, program: LocalProgram
) -> None:
    """Same Fids, same incarnation: what is cached costs a question and no data."""
    data = {f"f{number}": os.urandom(20_000) for number in range(5)}
    for name, content in data.items():
        await program.write(f"/home/{name}", content)
    await program.until_leased()
    assert await in_use(program) == servers.address(0)
    await servers.move("home", 0, 1)
    await until_told(program)
    before = await program.counters()
    for name, content in data.items():
        answer = await program.read(f"/home/{name}")
        assert answer.data == content
        assert answer.source in (REVALIDATED, CACHE)
    after = await program.counters()
    assert await in_use(program) == servers.address(1)
    assert after["bytes_fetched"] == before["bytes_fetched"]
    assert after["fetch_data_calls"] == before["fetch_data_calls"]
    assert after["volume_status_calls"] == before["volume_status_calls"] + 1
    await program.until_leased()
    assert (await program.read("/home/f0")).source == CACHE


async def test_break_of_a_moved_volume_is_a_look_up_and_no_error(
    servers: Servers, program: LocalProgram
) -> None:
    """The client that heard VOLUME_MOVED asks the right fileserver at once."""
    await program.write("/home/f", b"x")
    await program.until_leased()
    await servers.move("home", 0, 1)
    await until_told(program)
    retries = (await program.counters())["retries"]
    assert (await program.read("/home/f")).data == b"x"
    assert (await program.counters())["retries"] == retries


async def test_change_in_each_phase_of_a_move(servers: Servers, program: LocalProgram) -> None:
    """Between any two steps a write is only delayed, and is there afterwards."""
    await program.write("/home/f", b"0")
    for number, (source, target) in enumerate([(0, 1), (1, 0)], 1):
        await servers.copy_over("home", source, target)
        taken = asyncio.create_task(program.write(f"/home/taken{number}", b"t"))
        await until_retried(program)
        servers.switch("home", target)
        switched = asyncio.create_task(program.write(f"/home/switched{number}", b"s"))
        await until_retried(program)
        await servers.put_on("home", target)
        on = asyncio.create_task(program.write(f"/home/on{number}", b"o"))
        await until_retried(program)
        await servers.tell("home", source)
        await asyncio.gather(taken, switched, on)
        assert await in_use(program) == servers.address(target)
    names, _ = await program.list("/home")
    assert names == sorted(
        ["f", *(f"{step}{number}" for step in ("taken", "switched", "on") for number in (1, 2))]
    )


async def until_retried(program: LocalProgram) -> None:
    """Waits until a call was tried again."""
    journal = program.client.services.journal
    retries = journal.counters()["retries"]
    await program.until(lambda: journal.counters()["retries"] > retries)


async def until_told(program: LocalProgram) -> None:
    """Waits until the client has heard a break."""
    journal = program.client.services.journal
    await program.until(lambda: journal.counters()["breaks_received"] > 0)


async def test_write_under_way_goes_on_at_the_new_fileserver(
    servers: Servers, program: LocalProgram
) -> None:
    """With what it had sent already, which is kept for that."""
    first, second = os.urandom(5 * MIB), os.urandom(5 * MIB + 77)
    half = asyncio.Event()
    go_on = asyncio.Event()

    async def requests() -> AsyncIterator[pb.WriteRequest]:
        yield pb.WriteRequest(open=pb.WriteOpen(path="/home/big", create=True, truncate=True))
        for at in range(0, len(first), MIB):
            yield pb.WriteRequest(data=first[at : at + MIB])
        half.set()
        await go_on.wait()
        for at in range(0, len(second), MIB):
            yield pb.WriteRequest(data=second[at : at + MIB])

    writing = asyncio.create_task(program.call(program.stub.Write(requests())))
    await half.wait()
    await servers.move("home", 0, 1)
    go_on.set()
    assert (await writing).status.length == len(first) + len(second)
    async with clients(servers.folders[0], servers) as (other,):
        assert (await other.read("/home/big")).data == first + second


class JumpingClock(SystemClock):
    """A clock that a test moves on."""

    ahead_s = 0.0

    def now(self) -> float:
        return super().now() + self.ahead_s


async def test_long_write_is_as_patient_as_a_short_one(servers: Servers, tmp_path: Path) -> None:
    """Patience counts from when the store last went on, not from when it began."""
    clock = JumpingClock()
    half, go_on = asyncio.Event(), asyncio.Event()

    async def requests() -> AsyncIterator[pb.WriteRequest]:
        yield pb.WriteRequest(open=pb.WriteOpen(path="/home/f", create=True))
        yield pb.WriteRequest(data=b"first")
        half.set()
        await go_on.wait()
        yield pb.WriteRequest(data=b"second")

    async with clients(tmp_path, servers, clock=clock) as (program,):
        await program.list("/home")
        writing = asyncio.create_task(program.call(program.stub.Write(requests())))
        await half.wait()
        journal = program.client.services.journal
        await program.until(lambda: journal.counters()["store_data_calls"] > 0)
        clock.ahead_s = 10 * RETRY_TOTAL_S
        await servers.copy_over("home", 0, 1)
        go_on.set()
        await until_retried(program)
        servers.switch("home", 1)
        await servers.put_on("home", 1)
        await servers.tell("home", 0)
        assert (await writing).status.length == len(b"firstsecond")


async def test_write_that_ends_in_the_exclusive_phase(
    servers: Servers, program: LocalProgram
) -> None:
    """The fileserver takes no more of it; the writer sees nothing but a delay."""
    data = os.urandom(3 * MIB)
    await program.write("/home/f", b"before")
    await servers.copy_over("home", 0, 1)
    writing = asyncio.create_task(program.write("/home/f", data))
    await until_retried(program)
    servers.switch("home", 1)
    await servers.put_on("home", 1)
    await servers.tell("home", 0)
    assert (await writing).length == len(data)
    assert (await program.read("/home/f")).data == data


async def test_read_under_way_goes_on_at_the_new_fileserver(
    servers: Servers, tmp_path: Path, program: LocalProgram
) -> None:
    """The rest of the same DataVersion comes from there."""
    size = 64 * MIB
    block = os.urandom(MIB)
    await program.write("/home/big", [block] * (size // MIB))
    async with clients(servers.folders[1], servers) as (reader,):
        call = reader.stub.Read(pb.ReadRequest(path="/home/big"))
        got = bytearray()
        async for response in call:
            got += response.data
            if len(got) == 2 * DATA_PIECE_BYTES:
                await servers.move("home", 0, 1)
        assert len(got) == size
        assert bytes(got[-MIB:]) == block
        counters = await reader.counters()
        assert counters["fetch_data_calls"] >= 2
        assert counters["bytes_fetched"] == size


async def test_volume_that_is_just_put_in_place_is_waited_for(
    servers: Servers, program: LocalProgram
) -> None:
    """The entry says the new fileserver, which does not have it yet: VNOVOL is not believed."""
    await program.write("/home/f", b"x")
    await servers.copy_over("home", 0, 1)
    servers.switch("home", 1)
    async with clients(servers.folders[1], servers) as (newcomer,):
        reading = asyncio.create_task(newcomer.read("/home/f"))
        await until_retried(newcomer)
        await servers.put_on("home", 1)
        assert (await reading).data == b"x"


async def test_volume_that_nobody_has(servers: Servers, program: LocalProgram) -> None:
    """VNOVOL after a while, by name and for what is known of it."""
    await program.write("/home/f", b"x")
    await servers.copy_over("home", 0, 1)
    servers.switch("home", 1)
    await servers.tell("home", 0)
    await until_told(program)
    with pytest.raises(AfsError) as caught:
        await program.read("/home/f")
    assert caught.value.code is AfsCode.VNOVOL


async def test_volume_of_another_number_under_the_old_name(
    servers: Servers, program: LocalProgram
) -> None:
    """The entry of the number is gone: the path is walked anew, to the volume of that name."""
    await program.write("/home/f", b"x")
    await program.until_leased()
    old = servers.entry("home")
    del servers.location.entries["home"]
    await servers.create("home", 1)
    await servers.running[0].fssync("NEEDVOLUME", old.read_write_id)
    await servers.running[0].fssync("VOL_DONE", old.read_write_id)
    await until_told(program)
    assert (await program.list("/home"))[0] == []


async def test_moves_without_a_location_service(servers: Servers, program: LocalProgram) -> None:
    """What is known serves on; a moved volume is found when the service is back."""
    await program.write("/home/f", b"x")
    servers.location.answers = False
    await program.stub.CheckVolumes(pb.CheckVolumesRequest())
    assert (await program.read("/home/f")).data == b"x"
    await servers.move("home", 0, 1)
    await until_told(program)
    reading = asyncio.create_task(program.read("/home/f"))
    await until_retried(program)
    servers.location.answers = True
    assert (await reading).data == b"x"


async def test_two_clients_during_many_moves(servers: Servers, tmp_path: Path) -> None:
    """Back and forth: what one was acknowledged the other reads, and nobody sees an error."""
    async with clients(tmp_path, servers, 2) as (writer, reader):
        await writer.write("/home/f", b"%08d" % 0)
        moving = True
        acknowledged = 0

        async def write() -> None:
            nonlocal acknowledged
            number = 0
            while moving:
                number += 1
                await writer.write("/home/f", b"%08d" % number * 3000)
                acknowledged = number

        async def read() -> None:
            while moving:
                least = acknowledged
                answer = await reader.read("/home/f")
                assert int(answer.data[:8]) >= least

        async def move() -> None:
            nonlocal moving
            try:
                for number in range(6):
                    done = acknowledged
                    source, target = number % 2, (number + 1) % 2
                    await servers.move("home", source, target)
                    async with asyncio.timeout(20):
                        while acknowledged < done + 3:
                            await asyncio.sleep(0.01)
            finally:
                moving = False

        await asyncio.gather(write(), read(), move())
