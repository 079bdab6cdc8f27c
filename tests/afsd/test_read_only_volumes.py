"""Read-only and backup volumes: one promise for all of it, no changes, and what a release tells."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode
from afs.limits import PROMISE_LIFETIMES_S, READ_ONLY_PROMISE_LIFETIME_S
from afs.types import BreakReason, Fid, VolumeType, root_fid
from afs.v1 import file_server_debug_pb2, file_server_debug_pb2_grpc, fssync_pb2
from afs.v1 import file_server_pb2 as pb
from afs.volume.partition import Partition
from afs.volume.volume import CreateFile
from afs.wire import fid_from_wire, fid_to_wire
from tests.afsd.running import ROOT, VOLUME, Client, RunningFileServer, fileserver, refused

CLONE = VOLUME + 1
WHOLE = (CLONE, 0, 0)
TYPES = pytest.mark.parametrize("type", [VolumeType.READ_ONLY, VolumeType.BACKUP])
_holders = count()


async def on_disk(root: Path, work: Callable[[Partition], None]) -> None:
    """What a volserver does on the partition."""
    path = root / "vicepa"
    await asyncio.to_thread(lambda: work(Partition.open(path, holder=f"cloner{next(_holders)}")))


def clone(type: VolumeType, *names: str) -> Callable[[Partition], None]:
    """Makes files in the volume, then a clone of it over the one there may be."""

    def work(partition: Partition) -> None:
        volume = partition.open_volume(VOLUME)
        volume.apply([CreateFile(ROOT, name) for name in names])
        partition.clone_volume(volume, volume_id=CLONE, name="v.clone", type=type)
        volume.close()

    return work


async def release(
    root: Path,
    running: RunningFileServer,
    type: VolumeType,
    *names: str,
    reason: fssync_pb2.FsyncReason.ValueType = fssync_pb2.FSYNC_FOR_RELEASE,
) -> fssync_pb2.VolumeOpResponse:
    """Takes the volume and the clone, makes the clone anew, and gives both back."""
    for volume in (VOLUME, CLONE):
        await running.fssync("NEEDVOLUME", volume, reason=reason)
    await on_disk(root, clone(type, *names))
    answer = await running.fssync("VOL_ON", CLONE, partition="vicepa")
    await running.fssync("VOL_ON", VOLUME)
    return answer


async def promises(running: RunningFileServer, client: Client) -> list[tuple[int, int, int]]:
    """What a client holds on the clone, as the fileserver sees it."""
    stub = file_server_debug_pb2_grpc.FileServerDebugStub(client.channel)
    request = file_server_debug_pb2.DumpCallBacksRequest(
        fid=fid_to_wire(Fid(*WHOLE)), host_uuid=client.uuid
    )
    found = [message async for message in stub.DumpCallBacks(request)]
    fids = [each.fid for part in found for each in part.callbacks]
    return [(fid.volume, fid.vnode, fid.uniquifier) for fid in fids]


def covers_all(callback: Any) -> bool:
    """Whether a promise is one on the whole volume, with its lifetime."""
    whole: bool = callback.whole_volume
    lifetime = READ_ONLY_PROMISE_LIFETIME_S if whole else PROMISE_LIFETIMES_S[-1][1]
    assert callback.expires_in_s == lifetime
    return whole


@TYPES
async def test_one_promise_covers_the_volume(tmp_path: Path, type: VolumeType) -> None:
    """Whichever method gives it, the client holds one promise, on `volume.0.0`."""
    async with fileserver(tmp_path) as running:
        await release(tmp_path, running, type, "a", "b")
        client = await running.client()
        root = root_fid(CLONE)
        lookup = pb.LookupRequest(directory=fid_to_wire(root), name="a")
        found = await client.call(client.files.Lookup, lookup)
        file = fid_from_wire(found.status.fid)
        request = pb.BulkStatusRequest(fids=[fid_to_wire(root), fid_to_wire(file)])
        bulk = (await client.call(client.files.BulkStatus, request)).results
        read = pb.ReadDirRequest(directory=fid_to_wire(root))
        given = [
            (await client.status(root)).callback,
            found.callback,
            found.directory_callback,
            *(result.callback for result in bulk),
            (await client.fetch(file))[0].callback,
            (await client.stream(client.files.ReadDir, read))[0].directory_callback,
        ]
        assert all(covers_all(callback) for callback in given)
        assert await promises(running, client) == [WHOLE]
        assert (await running.fssync("VOL_QUERY", CLONE)).volume.holders == 1
        assert not covers_all((await client.status(ROOT)).callback)


@TYPES
async def test_a_release_tells_every_reader_once(tmp_path: Path, type: VolumeType) -> None:
    """T22, I6: the clone's own id is broken, with why; then everybody reads the new state."""
    async with fileserver(tmp_path) as running:
        await release(tmp_path, running, type, "a")
        clients = [await running.client() for _ in range(3)]
        for client in clients:
            assert await client.names(root_fid(CLONE)) == ["a"]
        answer = await release(tmp_path, running, type, "b")
        assert answer.callbacks_marked == 3
        for client in clients:
            assert (await client.broken(WHOLE)).reason == BreakReason.VOLUME_RELEASED
            assert await client.names(root_fid(CLONE)) == ["a", "b"]
            assert len(client.breaks) == 1


async def test_a_backup_made_anew_is_given_back(tmp_path: Path) -> None:
    """Clients are told that it was given back: it was taken for a clone, not for a release."""
    async with fileserver(tmp_path) as running:
        await release(tmp_path, running, VolumeType.BACKUP, "a")
        client = await running.client()
        await client.status(root_fid(CLONE))
        for_clone = fssync_pb2.FSYNC_FOR_CLONE
        await release(tmp_path, running, VolumeType.BACKUP, "b", reason=for_clone)
        assert (await client.broken(WHOLE)).reason == BreakReason.VOLUME_GIVEN_BACK


async def test_a_release_of_the_same_state_tells_nobody(tmp_path: Path) -> None:
    """M5b: a clone has incarnation and counter of its source, so the same state is the same."""
    async with fileserver(tmp_path) as running:
        await release(tmp_path, running, VolumeType.READ_ONLY, "a")
        client = await running.client()
        await client.status(root_fid(CLONE))
        answer = await release(tmp_path, running, VolumeType.READ_ONLY)
        assert answer.callbacks_marked == 0
        assert client.breaks == []


@TYPES
async def test_what_is_read_only_is_not_changed(tmp_path: Path, type: VolumeType) -> None:
    """EROFS for every change there is; the promise of who tried it stays as it was."""
    async with fileserver(tmp_path) as running:
        await release(tmp_path, running, type, "a")
        client = await running.client()
        root = root_fid(CLONE)
        lookup = pb.LookupRequest(directory=fid_to_wire(root), name="a")
        file = fid_from_wire((await client.call(client.files.Lookup, lookup)).status.fid)
        before = await client.status(file)
        set_mode = pb.StoreStatusRequest(fid=fid_to_wire(file))
        set_mode.set_status.mode = 0o600
        at, target = fid_to_wire(root), fid_to_wire(file)
        for method, request in (
            (client.files.StoreStatus, set_mode),
            (client.files.CreateFile, pb.CreateFileRequest(directory=at, name="n")),
            (client.files.MakeDir, pb.MakeDirRequest(directory=at, name="n")),
            (client.files.Symlink, pb.SymlinkRequest(directory=at, name="n", target="t")),
            (client.files.Link, pb.LinkRequest(directory=at, name="n", target=target)),
            (client.files.RemoveFile, pb.RemoveFileRequest(directory=at, name="a")),
            (client.files.RemoveDir, pb.RemoveDirRequest(directory=at, name="a")),
            (
                client.files.Rename,
                pb.RenameRequest(old_directory=at, old_name="a", new_directory=at, new_name="n"),
            ),
        ):
            async with refused(AfsCode.EROFS):
                await client.call(method, request)
        for pieces in ((), (b"x",), (bytes(3 << 20),)):
            async with refused(AfsCode.EROFS):
                await client.store(file, *pieces)
        after = await client.status(file)
        assert after.status == before.status
        assert await promises(running, client) == [WHOLE]
        assert client.breaks == []


async def test_a_promise_on_a_volume_is_given_up(tmp_path: Path) -> None:
    """By the Fid it was given on."""
    async with fileserver(tmp_path) as running:
        await release(tmp_path, running, VolumeType.READ_ONLY, "a")
        client = await running.client()
        await client.status(root_fid(CLONE))
        request = pb.GiveUpCallBacksRequest(fids=[fid_to_wire(Fid(*WHOLE))])
        assert (await client.call(client.files.GiveUpCallBacks, request)).given_up == 1
        assert await promises(running, client) == []
        assert (await release(tmp_path, running, VolumeType.READ_ONLY, "b")).callbacks_marked == 0
