"""Moves and copies with one of the parties killed at every step boundary (T21, T22, T24, R7).

Each operation is held at one of its boundaries (a call to the fileserver, to the location database,
a message of the transfer), several volumes at a time, each at another one. Then one of the parties
is killed with SIGKILL, and started again. Afterwards location, disks and fileservers must agree on
exactly one copy, with all its data, nothing half made may be left, and a client that held a promise
must see the next change.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from afs.errors import AfsError
from afs.runtime.channel import open_channel
from afs.v1 import cache_manager_pb2, cache_manager_pb2_grpc, fssync_pb2, types_pb2
from afs.v1 import vol_server_pb2 as pb
from afs.volume.packed_rows import all_references
from tests.volserverd.processes import Process
from tests.volserverd.served_files import ServedFiles
from tests.volserverd.two_servers import PATIENCE_S, Server, TwoServers, header_of, two_servers
from tests.volume.building import noise

pytestmark = [pytest.mark.slow, pytest.mark.blocking_ok, pytest.mark.timeout(600)]

# Volumes that are held at a time, each at a boundary of its own.
BATCH = 10
MIB = 1024 * 1024


@dataclass
class Contents:
    """What is in a volume."""

    volume_id: int
    files: dict[str, bytes]


async def make(cell: TwoServers, key: str) -> Contents:
    """A volume on the first server, with small and large files and a backup volume."""
    one = cell.servers[0]
    created = await one.vos.create(key, partition="vicepa")
    files = {"small": noise(100, hash(key)), "large": noise(2 * MIB + 5, hash(key))}
    async with ServedFiles(one.file_server, created.volume_id) as served:
        for name, data in files.items():
            await served.write(name, data)
    await one.vos.backup(key)
    return Contents(created.volume_id, files)


Act = Callable[[TwoServers, str], Awaitable[Any]]


async def move(cell: TwoServers, key: str) -> Any:
    """To the other server."""
    one, two = cell.servers
    request = pb.MoveRequest(volume=key, to_server=two.vol_server, to_partition="vicepa")
    return await one.vos.stream(one.vos.stub.Move, request)


async def move_within(cell: TwoServers, key: str) -> Any:
    """To the other partition of the same server."""
    one = cell.servers[0]
    request = pb.MoveRequest(volume=key, to_partition="vicepb")
    return await one.vos.stream(one.vos.stub.Move, request)


async def copy(cell: TwoServers, key: str) -> Any:
    """To a new volume on the other server."""
    one, two = cell.servers
    request = pb.CopyRequest(volume=key, new_name=f"{key}-copy", to_server=two.vol_server)
    return await one.vos.stream(one.vos.stub.Copy, request)


OPERATIONS: dict[str, Act] = {"move": move, "move within": move_within, "copy": copy}
VICTIMS: dict[str, Callable[[TwoServers], Process]] = {
    "source volserver": lambda cell: cell.servers[0].volserverd,
    "target volserver": lambda cell: cell.servers[1].volserverd,
    "source fileserver": lambda cell: cell.servers[0].afsd,
    "target fileserver": lambda cell: cell.servers[1].afsd,
}


@pytest.mark.parametrize(
    ("operation", "victim"),
    [
        *(("move", victim) for victim in (*VICTIMS, "caller")),
        *(("move within", victim) for victim in ("source volserver", "source fileserver")),
        *(("copy", victim) for victim in ("source volserver", "target volserver")),
    ],
)
async def test_whoever_is_killed_at_whatever_boundary_one_whole_copy_is_left(
    tmp_path: Path, operation: str, victim: str
) -> None:
    """R7, T21, T24: at every boundary of the operation, for every party."""
    act = OPERATIONS[operation]
    async with two_servers(tmp_path) as cell, client(tmp_path, cell.location) as read:
        rehearsal = await make(cell, "rehearsal")
        cell.boundaries.passed.clear()
        await act(cell, "rehearsal")
        count = len(cell.boundaries.passed["rehearsal"])
        assert count > 20, cell.boundaries.passed["rehearsal"]
        await check(cell, {"rehearsal": rehearsal}, read)
        for first in range(0, count, BATCH):
            keys = [f"v{number}" for number in range(first, min(first + BATCH, count))]
            made = await asyncio.gather(*(make(cell, key) for key in keys))
            volumes = dict(zip(keys, made, strict=True))
            for key, contents in volumes.items():
                # The client holds promises on what moves.
                assert await read(f"/{key}/small") == contents.files["small"]
            for key in volumes:
                cell.boundaries.hold(key, int(key[1:]))
            await interrupt(cell, act, volumes, victim)
            await check(cell, volumes, read)


async def test_no_promise_outlives_the_switch_though_nobody_tells_that_the_volume_moved(
    tmp_path: Path,
) -> None:
    """T21: a source volserver that dies right after the switch leaves no client with old data.

    Its fileserver lives and renews leases, and the target serves as soon as the entry says so.
    """
    async with two_servers(tmp_path) as cell, client(tmp_path, cell.location) as read:
        contents = await make(cell, "moved")
        assert await read("/moved/small") == contents.files["small"]
        cell.boundaries.hold("moved", "after ReplaceEntry")
        moving = asyncio.create_task(attempt(move, cell, "moved"))
        await cell.boundaries.until_held({"moved"}, set)
        one, two = cell.servers
        await one.volserverd.kill()
        cell.boundaries.let_go()
        await asyncio.wait([moving])
        changed = b"changed" + contents.files["small"]
        async with ServedFiles(two.file_server, contents.volume_id) as served:
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    # Until the target has put its half into service.
                    with suppress(AfsError, grpc.aio.AioRpcError):
                        await served.write("small", changed)
                        break
                    await asyncio.sleep(0.05)
        assert await read("/moved/small") == changed


async def interrupt(cell: TwoServers, act: Act, volumes: dict[str, Contents], victim: str) -> None:
    """Starts the operations, kills the victim when all stand where they are to, starts it again."""
    tasks = {key: asyncio.create_task(attempt(act, cell, key)) for key in volumes}

    def ended() -> set[str]:
        return {key for key, task in tasks.items() if task.done()}

    await cell.boundaries.until_held(set(volumes), ended)
    if victim == "caller":
        for task in tasks.values():
            task.cancel()
        await asyncio.wait(tasks.values())
        cell.boundaries.let_go()
        return
    process = VICTIMS[victim](cell)
    await process.kill()
    cell.boundaries.let_go()
    if victim.endswith("fileserver"):
        # The volservers wait for it.
        await process.start()
        await asyncio.wait(tasks.values())
    else:
        await asyncio.wait(tasks.values())
        await process.start()
        for server in cell.servers:
            await server.hang_up()


async def attempt(act: Act, cell: TwoServers, key: str) -> None:
    """Does it; a failure is what is to be expected."""
    with suppress(AfsError):
        await act(cell, key)


# --- what must hold afterwards --------------------------------------------------------------------


async def check(
    cell: TwoServers, volumes: dict[str, Contents], read: Callable[[str], Awaitable[bytes]]
) -> None:
    """Everybody agrees on one whole copy, nothing is left half made, promises were broken."""
    await settled(cell)
    entries = {entry.name: entry for entry in await cell.servers[0].vos.entries()}
    for key, contents in volumes.items():
        server = check_copies(cell, entries[key])
        async with ServedFiles(server.file_server, contents.volume_id) as served:
            for name, data in contents.files.items():
                assert await served.read(name) == data, f"{key}/{name} is not whole"
            changed = b"changed" + contents.files["small"]
            await served.write("small", changed)
        await until_read(read, f"/{key}/small", changed)
        if (copied := entries.get(f"{key}-copy")) is not None:
            server = check_copies(cell, copied)
            async with ServedFiles(server.file_server, copied.read_write_id) as served:
                for name, data in contents.files.items():
                    assert await served.read(name) == data, f"{key}-copy/{name} is not whole"
    known = {entry.read_write_id for entry in entries.values()}
    known |= {entry.backup_id for entry in entries.values()}
    for server in cell.servers:
        for path in server.databases():
            assert int(path.stem.removesuffix(".remnant")) in known, f"{path} is nobody's"
        assert await server.vos.transactions() == []
        for partition in server.partitions:
            for folder in partition.glob("groups/*"):
                check_chunks(folder)


def check_chunks(folder: Path) -> None:
    """Every chunk of a volume group is some database's, and none is half written."""
    referred = set[str]()
    for path in folder.glob("*.db"):
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            query = f"{all_references(database)} UNION SELECT hash FROM garbage"
            rows = database.execute(query)
            referred |= {digest.hex() for (digest,) in rows}
    stored = {path.name for path in folder.glob("chunks/*/*")}
    assert stored <= referred, f"chunks leaked in {folder}"
    assert list(folder.glob("staging/*")) == [], f"chunks were left half written in {folder}"


def check_copies(cell: TwoServers, entry: pb.VolumeEntry) -> Server:
    """The server that has the one copy there is."""
    (site,) = [site for site in entry.sites if site.type == types_pb2.VOLUME_TYPE_READ_WRITE]
    (server,) = [each for each in cell.servers if each.vol_server == site.vol_server]
    assert site.file_server == server.file_server
    where = (server.root.name, site.partition)
    assert cell.copies(entry.read_write_id) == [where], f"{entry} does not say what is on disk"
    backups = cell.copies(entry.read_write_id + 2)
    assert backups == ([where] if entry.backup_id else []), f"{entry} does not say what is on disk"
    return server


async def settled(cell: TwoServers) -> None:
    """Returns when no entry is locked, no copy is half of a move, and every volume is served."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while (why := await _unsettled(cell)) is not None:
        assert asyncio.get_running_loop().time() < deadline, why
        await asyncio.sleep(0.05)


async def _unsettled(cell: TwoServers) -> str | None:
    for entry in await cell.servers[0].vos.entries():
        if entry.locked_for:
            return f"{entry.name} is locked for {entry.locked_for}"
    for server in cell.servers:
        served = await server.fssync.volumes()
        on_disk = set[int]()
        for path in server.databases():
            if path.stem.endswith(".remnant"):
                continue
            if not path.stem.isdigit():
                return f"{path} is half made"
            on_disk.add(int(path.stem))
            if header_of(path).in_transit:
                return f"{path} is half of a move"
        for volume in served.values():
            gone = volume.state == fssync_pb2.VOLUME_STATE_MOVED
            if volume.state != fssync_pb2.VOLUME_STATE_ONLINE and not gone:
                return f"{volume} is not in service"
            if gone == (volume.volume_id in on_disk):
                return f"{volume} is not what is on disk"
        if on_disk - served.keys():
            return f"{on_disk - served.keys()} not served by {server.root.name}"
        if await server.vos.transactions():
            return f"{server.root.name} is at work"
    return None


# --- a client -------------------------------------------------------------------------------------


@asynccontextmanager
async def client(root: Path, location: str) -> AsyncIterator[Callable[[str], Awaitable[bytes]]]:
    """A client that holds promises: reads a file by its path."""
    address = f"unix:{root}/c.sock"
    process = Process(
        "clientd",
        address,
        *("--listen", address, "--location", location, "--cache-dir", f"{root}/cache"),
        *("--run-dir", f"{root}/run-c"),
    )
    await process.start()
    channel = open_channel(address)
    stub: Any = cache_manager_pb2_grpc.CacheManagerStub(channel)

    async def read(path: str) -> bytes:
        request = cache_manager_pb2.ReadRequest(path=path)
        return b"".join([piece.data async for piece in stub.Read(request, timeout=PATIENCE_S)])

    try:
        yield read
    finally:
        await channel.close()
        await process.kill()


async def until_read(read: Callable[[str], Awaitable[bytes]], path: str, expected: bytes) -> None:
    """The client sees the change, no later than the lease of its channel allows."""
    async with asyncio.timeout(20):
        while True:
            # While fileservers come back it may be refused.
            with suppress(grpc.aio.AioRpcError):
                if await read(path) == expected:
                    return
            await asyncio.sleep(0.05)
