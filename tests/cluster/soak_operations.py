"""Whole-volume operations on volumes in use, drawn at random."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc.aio

from afs.runtime.channel import open_channel
from afs.v1 import types_pb2, volume_location_pb2
from afs.v1 import vol_server_pb2 as pb
from afs.v1.volume_location_pb2_grpc import VolumeLocationStub
from tests.cluster.stage import Stage

# Where a volume may be moved to: server and partition. Not the small one, which faults fill.
PLACES: Final = (("1", "vicepa"), ("1", "vicepb"), ("2", "vicepa"))
# A call of an operation that lasts longer is given up; the volserver ends it by itself.
TIMEOUT_S: Final = 60.0

# An operator who took a volume off-line puts it on again, fault or not.
ONLINE_ATTEMPTS, ONLINE_AGAIN_S = 10, 1.0

Operation = Callable[[Stage, random.Random], Awaitable[None]]


class DamageError(Exception):
    """Something was found in a volume that no fault may have done."""


async def site_of(on: Stage) -> Any:
    """Where the read-write volume is."""
    async with open_channel(on.cluster.address("location")) as channel:
        stub: Any = VolumeLocationStub(channel)
        request = volume_location_pb2.GetEntryRequest(name=on.volume)
        entry = (await stub.GetEntry(request, timeout=TIMEOUT_S)).entry
    return next(site for site in entry.sites if site.type == types_pb2.VOLUME_TYPE_READ_WRITE)


async def _server_of(on: Stage) -> str:
    vol_server: str = (await site_of(on)).vol_server
    return vol_server.removeprefix("volserverd-")[0]


async def _volserver_of(on: Stage) -> Any:
    return on.vol_servers[await _server_of(on)]


async def _exhaust(answers: Any) -> None:
    async for _ in answers:
        pass


async def move(on: Stage, rng: random.Random) -> None:
    """To another server or partition."""
    site = await site_of(on)
    here = (site.vol_server.removeprefix("volserverd-")[0], site.partition)
    server, partition = rng.choice([place for place in PLACES if place != here])
    request = pb.MoveRequest(
        volume=on.volume, to_server=f"volserverd-{server}:7005", to_partition=partition
    )
    await _exhaust(on.vol_servers[here[0]].Move(request, timeout=TIMEOUT_S))


async def give_back(on: Stage, rng: random.Random) -> None:
    """Off-line and on-line again."""
    volserver = await _volserver_of(on)
    await volserver.Offline(pb.OfflineRequest(volume=on.volume), timeout=TIMEOUT_S)
    online = pb.OnlineRequest(volume=on.volume)
    for attempts_left in reversed(range(ONLINE_ATTEMPTS)):
        try:
            await volserver.Online(online, timeout=TIMEOUT_S)
            return
        except grpc.aio.AioRpcError:
            if not attempts_left:
                raise
            await asyncio.sleep(ONLINE_AGAIN_S)


async def release(on: Stage, rng: random.Random) -> None:
    """To the sites on both servers."""
    await on.release(await _server_of(on))


async def backup(on: Stage, rng: random.Random) -> None:
    """The backup volume made anew."""
    volserver = await _volserver_of(on)
    await _exhaust(volserver.Backup(pb.BackupRequest(volume=on.volume), timeout=TIMEOUT_S))


async def salvage(on: Stage, rng: random.Random) -> None:
    """Checked, and nothing found that had to be repaired."""
    volserver = await _volserver_of(on)
    request = pb.SalvageRequest(volume=on.volume)
    async for answer in volserver.Salvage(request, timeout=TIMEOUT_S):
        if answer.HasField("finding"):
            raise DamageError(f"a salvage of {on.volume} found {answer.finding}")


async def clone(on: Stage, rng: random.Random) -> None:
    """A volume of its own with what is in it now, and gone again."""
    volserver, name = await _volserver_of(on), _other_name(on, rng)
    request = pb.CloneRequest(volume=on.volume, new_name=name)
    await _exhaust(volserver.Clone(request, timeout=TIMEOUT_S))
    await volserver.Delete(pb.DeleteRequest(volume=name), timeout=TIMEOUT_S)


async def dump_and_restore(on: Stage, rng: random.Random) -> None:
    """Dumped, restored under another name on the other server, and that one gone again."""
    server, name = await _server_of(on), _other_name(on, rng)
    there = on.vol_servers["2" if server == "1" else "1"]
    dump = on.vol_servers[server].Dump(pb.DumpRequest(volume=on.volume), timeout=TIMEOUT_S)
    pieces = [answer.data async for answer in dump]

    async def requests() -> AsyncIterator[pb.RestoreRequest]:
        yield pb.RestoreRequest(open=pb.RestoreOpen(name=name, partition="vicepa"))
        for data in pieces:
            yield pb.RestoreRequest(data=data)

    await there.Restore(requests(), timeout=TIMEOUT_S)
    await there.Delete(pb.DeleteRequest(volume=name), timeout=TIMEOUT_S)


def _other_name(on: Stage, rng: random.Random) -> str:
    return f"{on.volume}.{rng.randrange(16**8):08x}"


OPERATIONS: Final[dict[str, Operation]] = {
    "move": move,
    "give-back": give_back,
    "release": release,
    "backup": backup,
    "salvage": salvage,
    "clone and remove": clone,
    "dump, restore and remove": dump_and_restore,
}
