"""Create, delete, restore, clone, rename, release and remsite, killed at every step boundary.

As `test_interrupted_moves`: each operation is held at one of its boundaries (a call to the
fileserver, to the location database, a message of a transfer), several volumes at a time, each at
another one; then one of the parties is killed with SIGKILL, and started again. Afterwards location,
disks and fileservers must agree, and every volume must be whole: as it was, or as it was to be.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from afs.errors import AfsCode, AfsError
from afs.v1 import types_pb2
from afs.v1 import vol_server_pb2 as pb
from tests.volserverd.running import refused
from tests.volserverd.served_files import ServedFiles
from tests.volserverd.test_interrupted_moves import (
    Contents,
    check_chunks,
    client,
    interrupt,
    settled,
    until_read,
)
from tests.volserverd.two_servers import PATIENCE_S, TwoServers, header_of, two_servers
from tests.volume.building import noise

pytestmark = [pytest.mark.slow, pytest.mark.blocking_ok, pytest.mark.timeout(900)]

# Volumes that are held at a time, each at a boundary of its own.
BATCH = 12
SMALL, LARGE = 100, 300_000
READ_ONLY = types_pb2.VOLUME_TYPE_READ_ONLY

Files = dict[str, bytes]
T = TypeVar("T")


@dataclass
class Prepared:
    """A volume before its operation: what is in it, and what is to be in it afterwards."""

    volume_id: int
    before: Files
    after: Files
    dump: bytes = b""


def files_of(seed: int) -> Files:
    """A small file and a large one."""
    return {"small": noise(SMALL, seed), "large": noise(LARGE, seed)}


async def write(cell: TwoServers, volume_id: int, files: Files) -> None:
    """The files are in the volume, at the first server."""
    async with ServedFiles(cell.servers[0].file_server, volume_id) as served:
        for name, data in files.items():
            await served.write(name, data)


# --- what is there before -------------------------------------------------------------------------


async def nothing(cell: TwoServers, key: str, dump: bytes) -> Prepared:
    """No volume; a dump that one can be made of."""
    return Prepared(0, {}, files_of(1), dump)


async def plain(cell: TwoServers, key: str, dump: bytes) -> Prepared:
    """A volume with a backup, and a dump of other contents."""
    files = files_of(hash(key))
    volume_id = (await cell.servers[0].vos.create(key, partition="vicepa")).volume_id
    await write(cell, volume_id, files)
    await cell.servers[0].vos.backup(key)
    return Prepared(volume_id, files, files_of(1), dump)


async def a_dump(cell: TwoServers) -> bytes:
    """A dump with the contents that `plain` restores."""
    vos = cell.servers[0].vos
    volume_id = (await vos.create("dumped", partition="vicepa")).volume_id
    await write(cell, volume_id, files_of(1))
    return await vos.dump("dumped")


async def released(cell: TwoServers, key: str, _: bytes) -> Prepared:
    """A volume that was released to a site on each server, and has changed since."""
    files, others = files_of(hash(key)), files_of(hash(key) + 1)
    vos = cell.servers[0].vos
    volume_id = (await vos.create(key, partition="vicepa")).volume_id
    await write(cell, volume_id, files)
    for server, partition in zip(cell.servers, ("vicepa", "vicepb"), strict=True):
        request = pb.AddSiteRequest(volume=key, server=server.vol_server, partition=partition)
        await vos.call(vos.stub.AddSite, request)
    await release(cell, key, None)
    await write(cell, volume_id, others)
    return Prepared(volume_id, files, others)


# --- what is done ---------------------------------------------------------------------------------


async def release(cell: TwoServers, key: str, _: Any) -> list[pb.ReleaseResponse]:
    """Release."""
    vos = cell.servers[0].vos
    return await vos.stream(vos.stub.Release, pb.ReleaseRequest(volume=key))


async def remove_site(cell: TwoServers, key: str, _: Any) -> Any:
    """Of the second server."""
    one, two = cell.servers
    request = pb.RemoveSiteRequest(volume=key, server=two.vol_server)
    return await one.vos.call(one.vos.stub.RemoveSite, request)


async def rename(cell: TwoServers, key: str, _: Any) -> Any:
    """To a name that nobody has."""
    vos = cell.servers[0].vos
    request = pb.RenameVolumeRequest(volume=key, new_name=f"{key}-new")
    return await vos.call(vos.stub.RenameVolume, request)


async def clone(cell: TwoServers, key: str, _: Any) -> Any:
    """To a volume of its own."""
    vos = cell.servers[0].vos
    return await vos.stream(vos.stub.Clone, pb.CloneRequest(volume=key, new_name=f"{key}-copy"))


Prepare = Callable[[TwoServers, str, bytes], Awaitable[Prepared]]
Act = Callable[[TwoServers, str, Prepared], Awaitable[Any]]
OPERATIONS: dict[str, tuple[Prepare, Act]] = {
    "create": (nothing, lambda cell, key, _: cell.servers[0].vos.create(key, partition="vicepa")),
    "delete": (plain, lambda cell, key, _: cell.servers[0].vos.delete(key)),
    "restore": (
        plain,
        lambda cell, key, made: cell.servers[0].vos.restore(made.dump, key, overwrite=True),
    ),
    "restore new": (
        nothing,
        lambda cell, key, made: cell.servers[0].vos.restore(made.dump, key),
    ),
    "clone": (plain, clone),
    "rename": (released, rename),
    "remsite": (released, remove_site),
    "release": (released, release),
}
HERE = ("source volserver", "source fileserver")
THERE = ("target volserver", "target fileserver")
CASES = [
    *((name, victim) for name in ("create", "delete", "restore") for victim in (*HERE, "caller")),
    *((name, victim) for name in ("restore new", "clone", "rename") for victim in HERE),
    ("remsite", "target volserver"),
    *(("release", victim) for victim in (*HERE, *THERE, "caller")),
]


@pytest.mark.parametrize(("operation", "victim"), CASES)
async def test_whoever_is_killed_at_whatever_boundary_everything_is_whole(
    tmp_path: Path, operation: str, victim: str
) -> None:
    """R7, T22, T24: at every boundary of the operation, for every party."""
    prepare, act = OPERATIONS[operation]
    async with two_servers(tmp_path) as cell, client(tmp_path, cell.location) as read:
        dump = await a_dump(cell)
        made = {"rehearsal": await prepare(cell, "rehearsal", dump)}
        cell.boundaries.passed.clear()
        await act(cell, "rehearsal", made["rehearsal"])
        count = len(cell.boundaries.passed["rehearsal"])
        assert count >= 5, cell.boundaries.passed["rehearsal"]
        await check(cell, operation, made, read)
        for first in range(0, count, BATCH):
            keys = [f"v{number}" for number in range(first, min(first + BATCH, count))]
            prepared = await asyncio.gather(*(prepare(cell, key, dump) for key in keys))
            made = dict(zip(keys, prepared, strict=True))
            if operation == "release":
                for key in keys:
                    # The client holds promises on the old state.
                    path = f"/{key}.readonly/small"
                    assert await read(path) == made[key].before["small"]
            for key in keys:
                cell.boundaries.hold(key, int(key[1:]))

            async def of_key(cell: TwoServers, key: str, made: dict[str, Prepared] = made) -> Any:
                return await act(cell, key, made[key])

            contents = {key: Contents(each.volume_id, each.before) for key, each in made.items()}
            await interrupt(cell, of_key, contents, victim)
            await check(cell, operation, made, read)


# --- held, not killed -----------------------------------------------------------------------------


@pytest.mark.parametrize("holder", ["release", "rename", "delete", "restore", "clone"])
async def test_whatever_runs_keeps_all_others_out(tmp_path: Path, holder: str) -> None:
    """R8: every other operation on the volume is refused, naming the one that runs."""
    async with two_servers(tmp_path) as cell:
        dump = await a_dump(cell)
        made = await released(cell, "demo", dump)
        cell.boundaries.hold("demo", "after one NEEDVOLUME")
        holding = asyncio.ensure_future(
            OPERATIONS[holder][1](cell, "demo", Prepared(made.volume_id, {}, {}, dump))
        )
        await cell.boundaries.until_held({"demo"}, set)
        vos = cell.servers[0].vos
        others: list[Callable[[], Awaitable[Any]]] = [
            *(
                lambda act=act: act(cell, "demo", Prepared(made.volume_id, {}, {}, dump))
                for name, (_, act) in OPERATIONS.items()
                if name not in ("create", "restore new", "remsite")
            ),
            lambda: vos.backup("demo"),
            lambda: vos.dump("demo"),
            lambda: vos.offline("demo"),
            lambda: vos.set_quota(7, "demo"),
            lambda: vos.stream(vos.stub.Move, pb.MoveRequest(volume="demo", to_partition="vicepb")),
            lambda: vos.stream(vos.stub.Copy, pb.CopyRequest(volume="demo", new_name="x")),
        ]
        for act in others:
            with refused(AfsCode.VBUSY, f"{holder} of volume {made.volume_id}"):
                await act()
        (running,) = {(each.operation, each.transaction_id) for each in await vos.transactions()}
        assert running[0] == holder
        cell.boundaries.let_go()
        await holding


async def test_an_operator_ends_a_release(tmp_path: Path) -> None:
    """EndTransaction in the middle of the sending: undone at once, and everything shows the old."""
    async with two_servers(tmp_path) as cell:
        made = await released(cell, "demo", b"")
        cell.boundaries.hold("demo", "before message chunks")
        releasing = asyncio.create_task(release(cell, "demo", None))
        await cell.boundaries.until_held({"demo"}, set)
        vos = cell.servers[0].vos
        before = await vos.entry("demo")
        (number,) = {each.transaction_id for each in await vos.transactions()}
        await vos.call(vos.stub.EndTransaction, pb.EndTransactionRequest(transaction_id=number))
        with refused(AfsCode.EAGAIN, "an operator ended the transaction"):
            await releasing
        cell.boundaries.let_go()
        await settled(cell)
        entry = await vos.entry("demo")
        assert (list(entry.sites), entry.locked_for) == (list(before.sites), "")
        for server in range(2):
            shown = await contents(cell, made.volume_id + 1, made.before, server)
            assert shown == made.before
        assert all(site.released for site in (await release(cell, "demo", None))[-1].sites)


# --- what must hold afterwards --------------------------------------------------------------------


async def check(
    cell: TwoServers,
    operation: str,
    made: dict[str, Prepared],
    read: Callable[[str], Awaitable[bytes]],
) -> None:
    """Everybody agrees, and every volume is whole."""
    await settled(cell)
    entries = {entry.name: entry for entry in await cell.servers[0].vos.entries()}
    for told in entries.values():
        check_entry(cell, told)
    for key, each in made.items():
        entry: pb.VolumeEntry | None = entries.get(key) or entries.get(f"{key}-new")
        if operation in ("create", "restore new", "delete"):
            if entry is not None:
                wanted: Files = {} if operation == "create" else each.after or each.before
                wanted = each.before if operation == "delete" else wanted
                assert await contents(cell, entry.read_write_id, wanted) == wanted
            continue
        assert entry is not None, f"{key} has no entry"
        now = await contents(cell, entry.read_write_id, each.before)
        allowed = [each.before] if operation == "clone" else [each.before, each.after]
        assert now in allowed, f"{key} is neither as it was nor as it was to be"
        if (copied := entries.get(f"{key}-copy")) is not None:
            assert await contents(cell, copied.read_write_id, each.before) == each.before
        if operation == "release":
            await check_release(cell, key, each, read)
    for server in cell.servers:
        for partition in server.partitions:
            for folder in partition.glob("groups/*"):
                check_chunks(folder)


def check_entry(cell: TwoServers, entry: pb.VolumeEntry) -> None:
    """The entry says what is on disk, and what is on disk says the entry's name."""
    names = {1: (0, entry.name), 2: (1, f"{entry.name}.readonly"), 3: (2, f"{entry.name}.backup")}
    told: dict[int, list[tuple[str, str]]] = {0: [], 1: [], 2: []}
    for site in entry.sites:
        (server,) = [each for each in cell.servers if each.vol_server == site.vol_server]
        offset, name = names[site.type]
        where = (server.root.name, site.partition)
        path = server.root / site.partition / "groups"
        databases = list(path.glob(f"*/{entry.read_write_id + offset}.db"))
        if site.type == READ_ONLY and not site.release and not databases:
            continue
        told[offset].append(where)
        assert databases, f"{entry} does not say what is on disk"
        header = header_of(databases[0])
        assert header.name == name
        if site.type == READ_ONLY:
            assert header.change_counter >= site.release, f"{entry} promises more than is there"
    for offset, places in told.items():
        on_disk = cell.copies(entry.read_write_id + offset)
        assert sorted(on_disk) == sorted(places), f"{entry} does not say what is on disk"


async def contents(cell: TwoServers, volume_id: int, files: Files, server: int = 0) -> Files:
    """What is in the files of these names."""

    async def reading() -> Files:
        async with ServedFiles(cell.servers[server].file_server, volume_id) as served:
            return {name: await served.read(name) for name in files}

    return await patiently(reading)


async def check_release(
    cell: TwoServers, key: str, made: Prepared, read: Callable[[str], Awaitable[bytes]]
) -> None:
    """Every site shows one whole state; the next release brings all of them the present one."""
    for server in range(len(cell.servers)):
        shown = await contents(cell, made.volume_id + 1, made.before, server)
        assert shown in (made.before, made.after), f"{key} shows a mixture at server {server}"
    outcome = await patiently(lambda: release(cell, key, None))
    assert [site.released for site in outcome[-1].sites] == [True, True], outcome[-1].sites
    for server in range(len(cell.servers)):
        shown = await contents(cell, made.volume_id + 1, made.before, server)
        assert shown == made.after, f"{key} does not show the present state at server {server}"
    entry = await cell.servers[0].vos.entry(key)
    headers = [
        header_of(path)
        for server in cell.servers
        for path in server.databases()
        if path.stem in (str(made.volume_id), str(made.volume_id + 1))
    ]
    assert len({(header.incarnation, header.change_counter) for header in headers}) == 1
    numbers = {site.release for site in entry.sites if site.type == READ_ONLY}
    assert numbers == {headers[0].change_counter}
    await until_read(read, f"/{key}.readonly/small", made.after["small"])


async def patiently(act: Callable[[], Awaitable[T]]) -> T:
    """Does it when recovery, which runs a release again by itself, is not at it."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            return await act()
        except AfsError as error:
            if error.code is not AfsCode.VBUSY or asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.05)
