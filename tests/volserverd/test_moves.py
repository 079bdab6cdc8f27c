"""Moves and copies that nothing disturbs, and those that must be refused or undone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode
from afs.runtime.channel import open_channel
from afs.v1 import cache_manager_pb2 as cm
from afs.v1 import cache_manager_pb2_grpc
from afs.v1 import vol_server_pb2 as pb
from tests.volserverd.processes import Process
from tests.volserverd.running import refused
from tests.volserverd.served_files import ServedFiles
from tests.volserverd.two_servers import PATIENCE_S, Server, TwoServers, header_of, two_servers
from tests.volume.building import noise
from volserverd.app import VolserverDaemon
from volserverd.config import VolserverdConfig
from volserverd.deeds import move_deeds

pytestmark = [pytest.mark.slow, pytest.mark.blocking_ok]

KIB = 1024


class Client:
    """A clientd, and calls to it."""

    def __init__(self, address: str) -> None:
        self._channel = open_channel(address)
        self._stub: Any = cache_manager_pb2_grpc.CacheManagerStub(self._channel)

    async def read(self, path: str) -> bytes:
        """A file."""
        reading = self._stub.Read(cm.ReadRequest(path=path), timeout=PATIENCE_S)
        return b"".join([piece.data async for piece in reading])

    async def write(self, path: str, data: bytes) -> None:
        """A file; made if it is not there."""

        async def requests() -> AsyncIterator[cm.WriteRequest]:
            yield cm.WriteRequest(open=cm.WriteOpen(path=path, create=True, truncate=True))
            yield cm.WriteRequest(data=data)

        await self._stub.Write(requests(), timeout=PATIENCE_S)

    async def counters(self) -> dict[str, int]:
        """What it has done."""
        answer = await self._stub.GetStatus(cm.GetStatusRequest(), timeout=PATIENCE_S)
        return dict(answer.counters)

    async def close(self) -> None:
        """Hangs up."""
        await self._channel.close()


@asynccontextmanager
async def clientd(cell: TwoServers) -> AsyncIterator[Client]:
    """A client of the cell."""
    address = f"unix:{cell.root}/c.sock"
    process = Process(
        "clientd",
        address,
        *("--listen", address, "--location", cell.location),
        *("--cache-dir", f"{cell.root}/cache", "--run-dir", f"{cell.root}/run-c"),
    )
    await process.start()
    client = Client(address)
    try:
        yield client
    finally:
        await client.close()
        await process.kill()


async def move(
    source: Server, target: Server, volume: str = "demo", partition: str = "", **further: Any
) -> pb.MoveResponse:
    """Moves a volume; the last answer."""
    request = pb.MoveRequest(
        volume=volume, to_server=target.vol_server, to_partition=partition, **further
    )
    answers: list[pb.MoveResponse] = await source.vos.stream(source.vos.stub.Move, request)
    assert any(answer.HasField("progress") for answer in answers)
    return answers[-1]


async def fill(server: Server, volume_id: int, count: int, size: int) -> dict[str, bytes]:
    """Files in a volume."""
    files = {f"f{number}": noise(size, number) for number in range(count)}
    async with ServedFiles(server.file_server, volume_id) as served:
        for name, data in files.items():
            await served.write(name, data)
    return files


async def contents(server: Server, volume_id: int, names: dict[str, bytes]) -> dict[str, bytes]:
    """What a server says is in the files of these names."""
    async with ServedFiles(server.file_server, volume_id) as served:
        return {name: await served.read(name) for name in names}


async def test_a_move_back_sends_only_what_has_changed(tmp_path: Path) -> None:
    """The old copy is set aside; a move back builds on it, and on nothing that is not there."""
    async with two_servers(tmp_path) as cell:
        one, two = cell.servers
        volume_id = (await one.vos.create("demo")).volume_id
        files = await fill(one, volume_id, 60, 64 * KIB)
        there = await move(one, two)
        assert there.volume.partition == "vicepa"
        assert there.sent.chunks == 60
        assert there.sent.vnodes == 61
        assert await contents(two, volume_id, files) == files
        files["f7"] = noise(64 * KIB, 1000)
        async with ServedFiles(two.file_server, volume_id) as served:
            await served.write("f7", files["f7"])
        back = await move(two, one)
        assert back.sent.chunks == 1
        assert back.sent.bytes < 0.05 * there.sent.bytes
        assert await contents(one, volume_id, files) == files
        assert cell.copies(volume_id) == [("one", "vicepa")]
        detail = (await one.vos.examine()).volume
        assert detail.incarnation == there.volume.incarnation
        with refused(AfsCode.VMOVED, "is not here"):
            await two.vos.examine()


async def test_a_writer_sees_a_delay_and_no_error(tmp_path: Path) -> None:
    """While a volume moves between servers and partitions, every write succeeds and is kept."""
    async with two_servers(tmp_path) as cell, clientd(cell) as client:
        one, two = cell.servers
        volume_id = (await one.vos.create("demo")).volume_id
        await fill(one, volume_id, 20, 200 * KIB)
        written: dict[str, bytes] = {}
        moving = True

        async def write_on() -> None:
            number = 0
            while moving:
                name, number = f"w{number % 10}", number + 1
                data = noise(30 * KIB, number)
                await client.write(f"/demo/{name}", data)
                written[name] = data

        writing = asyncio.create_task(write_on())
        for source, target, partition in (
            (one, two, "vicepa"),
            (two, two, "vicepb"),
            (two, one, "vicepa"),
        ):
            answer = await move(source, target, partition=partition)
            assert 0 < answer.sent.exclusive_s < answer.sent.total_s
            assert not writing.done()
        moving = False
        await writing
        assert await contents(one, volume_id, written) == written
        for name, data in written.items():
            assert await client.read(f"/demo/{name}") == data


async def test_clients_notice_nothing_of_a_move_within_a_server(tmp_path: Path) -> None:
    """M5b: the same incarnation and change counter come back, so that no promise is broken."""
    async with two_servers(tmp_path) as cell, clientd(cell) as client:
        one = cell.servers[0]
        volume_id = (await one.vos.create("demo", partition="vicepa")).volume_id
        files = await fill(one, volume_id, 3, 30 * KIB)
        assert await client.read("/demo/f0") == files["f0"]
        before = await client.counters()
        await move(one, one, partition="vicepb")
        assert cell.copies(volume_id) == [("one", "vicepb")]
        assert await client.read("/demo/f0") == files["f0"]
        after = await client.counters()
        for counter in ("fetch_status_calls", "fetch_data_calls", "breaks_received"):
            assert after.get(counter) == before.get(counter), counter


async def test_a_dry_run_tells_what_would_be_sent_and_changes_nothing(tmp_path: Path) -> None:
    """The plan's bytes are those that the move then sends; clients that would be told are named."""
    async with two_servers(tmp_path) as cell, clientd(cell) as client:
        one, two = cell.servers
        volume_id = (await one.vos.create("demo")).volume_id
        await fill(one, volume_id, 10, 64 * KIB)
        await client.read("/demo/f0")
        entry = await one.vos.entry()
        plan = (await move(one, two, dry_run=True)).plan
        assert await one.vos.entry() == entry
        assert cell.copies(volume_id) == [("one", "vicepa")]
        assert not list(two.databases())
        assert plan.chunks_to_send == 10
        assert plan.clients_to_tell == 1
        assert plan.exclusive_s > 0
        assert any(two.vol_server in line for line in plan.steps)
        sent = (await move(one, two)).sent
        assert plan.bytes_to_send <= sent.bytes <= plan.bytes_to_send * 1.01


async def test_what_cannot_be_moved_is_refused_and_stays(tmp_path: Path) -> None:
    """One clear line each, and nothing has changed."""
    async with two_servers(tmp_path) as cell:
        one, two = cell.servers
        volume_id = (await one.vos.create("demo", partition="vicepa")).volume_id
        await one.vos.backup()
        entry = await one.vos.entry()
        with refused(AfsCode.EROFS, "not read-write"):
            await move(one, two, "demo.backup")
        with refused(AfsCode.VNOVOL, "no volume"):
            await move(one, two, "other")
        with refused(AfsCode.EINVAL, "partition 'vicepz'"):
            await move(one, two, partition="vicepz")
        with refused(AfsCode.EINVAL, "already"):
            await move(one, one, partition="vicepa")
        nowhere = pb.MoveRequest(volume="demo", to_server="127.0.0.1:1")
        with refused(AfsCode.RX_CALL_DEAD, "127.0.0.1:1"):
            await one.vos.stream(one.vos.stub.Move, nowhere)
        settled = await one.vos.entry()
        assert (settled.sites, settled.locked_for) == (entry.sites, "")
        await one.vos.offline()
        with refused(AfsCode.VOFFLINE, "off-line"):
            await move(one, two)
        assert cell.copies(volume_id) == [("one", "vicepa")]


async def test_a_move_that_an_operator_ends_is_undone(tmp_path: Path) -> None:
    """EndTransaction in the middle of the sending: at once, and the target keeps nothing."""
    async with two_servers(tmp_path) as cell:
        one, two = cell.servers
        volume_id = (await one.vos.create("demo")).volume_id
        files = await fill(one, volume_id, 3, 64 * KIB)
        cell.boundaries.name(volume_id, "demo")
        cell.boundaries.hold("demo", "before message chunks")
        moving = asyncio.create_task(move(one, two))
        await cell.boundaries.until_held({"demo"}, set)
        (transaction,) = {each.transaction_id for each in await one.vos.transactions()}
        request = pb.EndTransactionRequest(transaction_id=transaction)
        await one.vos.call(one.vos.stub.EndTransaction, request)
        with refused(AfsCode.EAGAIN, "an operator ended"):
            await moving
        cell.boundaries.let_go()
        await one.vos.idle()
        await two.vos.idle()
        assert not list(two.databases())
        assert (await one.vos.entry()).locked_for == ""
        assert await contents(one, volume_id, files) == files


@pytest.mark.parametrize("happened", [False, True])
async def test_a_lost_answer_to_the_switch_is_looked_up(tmp_path: Path, happened: bool) -> None:
    """The location database broke off: whether the site was switched is what the entry says."""
    async with two_servers(tmp_path) as cell:
        one, two = cell.servers
        volume_id = (await one.vos.create("demo")).volume_id
        files = await fill(one, volume_id, 2, KIB)
        cell.locations.lost["ReplaceEntry"] = happened
        await move(one, two)
        assert cell.locations.lost == {}
        assert cell.copies(volume_id) == [("two", "vicepa")]
        assert (await one.vos.entry()).locked_for == ""
        assert await contents(two, volume_id, files) == files


@pytest.mark.parametrize("happened", [False, True])
async def test_a_switch_that_nobody_knows_of_is_neither_done_nor_undone(
    tmp_path: Path, happened: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The location database stays away: the volume waits, and goes where the entry says at last."""
    monkeypatch.setattr(move_deeds, "_SWITCH_DEADLINE_S", 0.5)
    async with two_servers(tmp_path) as cell:
        one, two = cell.servers
        await one.volserverd.stop()
        daemon = await VolserverDaemon.start(
            VolserverdConfig(
                listen=[one.real_vol_server],
                location=cell.location,
                vol_server=one.vol_server,
                file_server=one.file_server,
                fssync=f"unix:{one.root}/relay.sock",
                run_dir=one.root / "run",
                partitions=one.partitions,
            )
        )
        try:
            await one.hang_up()
            volume_id = (await one.vos.create("demo", partition="vicepa")).volume_id
            files = await fill(one, volume_id, 2, 64 * KIB)
            cell.locations.lost["ReplaceEntry"] = happened
            cell.locations.away_after_loss = True
            with refused(AfsCode.RX_CALL_DEAD, "nobody knows"):
                await move(one, two)
            assert cell.copies(volume_id) == [("one", "vicepa"), ("two", "vicepa")]
            assert all(header_of(path).in_transit for path in one.databases())
            cell.locations.away = False
            server, place = (two, "two") if happened else (one, "one")
            async with asyncio.timeout(PATIENCE_S):
                while daemon.halves.waiting or cell.copies(volume_id) != [(place, "vicepa")]:
                    await asyncio.sleep(0.02)
            assert await contents(server, volume_id, files) == files
            assert (await one.vos.entry()).locked_for == ""
        finally:
            await daemon.stop()


async def test_a_volume_with_a_damaged_chunk_stays_where_it_is(tmp_path: Path) -> None:
    """A chunk that is not what its name says is not sent: the move fails, and says why."""
    async with two_servers(tmp_path) as cell:
        one, two = cell.servers
        volume_id = (await one.vos.create("demo", partition="vicepa")).volume_id
        await fill(one, volume_id, 3, 64 * KIB)
        chunk = next(one.partitions[0].glob("groups/*/chunks/*/*"))
        chunk.chmod(0o600)
        chunk.write_bytes(b"damaged")
        with refused(AfsCode.EIO, "damaged"):
            await move(one, two)
        assert cell.copies(volume_id) == [("one", "vicepa")]
        assert (await one.vos.entry()).locked_for == ""
        await two.vos.idle()
        assert not list(two.databases())


async def test_a_copy_is_a_volume_of_its_own(tmp_path: Path) -> None:
    """Same contents; its own name, id, entry and incarnation, and its own changes from then on."""
    async with two_servers(tmp_path) as cell:
        one, two = cell.servers
        original = await one.vos.create("demo")
        files = await fill(one, original.volume_id, 3, 64 * KIB)
        request = pb.CopyRequest(volume="demo", new_name="other", to_server=two.vol_server)
        answers = await one.vos.stream(one.vos.stub.Copy, request)
        made = answers[-1].volume
        assert made.name == "other"
        assert made.incarnation == (await two.vos.examine("other")).volume.incarnation
        assert made.incarnation != (await one.vos.examine("demo")).volume.incarnation
        assert (await one.vos.entry("other")).locked_for == ""
        async with ServedFiles(two.file_server, made.volume_id) as served:
            await served.write("f0", b"changed")
        assert await contents(one, original.volume_id, files) == files
        with refused(AfsCode.VVOLEXISTS):
            await one.vos.stream(one.vos.stub.Copy, request)
        assert await contents(two, made.volume_id, {"f1": b""}) == {"f1": files["f1"]}


async def test_a_remnant_goes_when_its_time_is_over(tmp_path: Path) -> None:
    """What a move left behind goes, with its chunks, at a volserver that keeps it for no time."""
    async with two_servers(tmp_path) as cell:
        one, two = cell.servers
        volume_id = (await one.vos.create("demo", partition="vicepa")).volume_id
        await fill(one, volume_id, 3, 64 * KIB)
        await move(one, two)
        (left,) = one.databases()
        assert left.name == f"{volume_id}.remnant.db"
        await one.volserverd.stop()
        one.volserverd.flags += ("--remnant-lifetime-s", "0")
        await one.volserverd.start()
        async with asyncio.timeout(PATIENCE_S):
            while list(one.partitions[0].glob("groups/*")):
                await asyncio.sleep(0.02)
