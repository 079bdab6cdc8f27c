"""Daemons as processes: killed at every step of every operation, and stopped (R7, T24)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from afs.errors import AfsError
from afs.types import root_fid
from afs.v1 import file_server_pb2, file_server_pb2_grpc, fssync_pb2, vol_server_pb2
from afs.wire import fid_to_wire
from tests.volserverd.processes import PATIENCE_S, Daemons, daemons
from tests.volserverd.running import VolServerCalls

pytestmark = pytest.mark.slow

Act = Callable[[VolServerCalls, str, bytes], Awaitable[Any]]
OPERATIONS: dict[str, Act] = {
    "backup": lambda vos, name, _: vos.backup(name),
    "delete": lambda vos, name, _: vos.delete(name),
    "restore": lambda vos, name, dump: vos.restore(dump, name, overwrite=True),
    "dump": lambda vos, name, _: vos.dump(name),
    "salvage": lambda vos, name, _: vos.stream(
        vos.stub.Salvage, vol_server_pb2.SalvageRequest(volume=name)
    ),
    "create": lambda vos, name, _: vos.create(f"{name}-new"),
    "restore-new": lambda vos, name, dump: vos.restore(dump, f"{name}-new"),
}
ONLINE = fssync_pb2.VOLUME_STATE_ONLINE


async def until_online(cell: Daemons) -> dict[int, fssync_pb2.VolumeInfo]:
    """What the fileserver knows as soon as no volume is out any more."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        volumes = await cell.relay.volumes()
        if all(volume.state == ONLINE for volume in volumes.values()):
            return volumes
        out = [volume for volume in volumes.values() if volume.state != ONLINE]
        assert asyncio.get_running_loop().time() < deadline, f"still out: {out}"
        await asyncio.sleep(0.02)


async def check_agreement(cell: Daemons, vos: VolServerCalls) -> None:
    """Disk, fileserver and location database tell of the same volumes, all in service, unlocked."""
    served = await until_online(cell)
    listed = {volume.volume_id for volume in await vos.listed()}
    assert set(served) == listed
    on_disk = {int(path.stem) for path in (cell.root / "vicepa").glob("groups/*/*.db")}
    assert on_disk == listed, "nothing half made, no temporary clone"
    entries = await vos.entries()
    assert [entry.locked_for for entry in entries if entry.locked_for] == []
    told_of = {entry.read_write_id for entry in entries}
    told_of |= {entry.backup_id for entry in entries if entry.backup_id}
    assert told_of == listed
    async with grpc.aio.insecure_channel(cell.files_address) as channel:
        stub: Any = file_server_pb2_grpc.FileServerStub(channel)
        for volume_id in listed:
            request = file_server_pb2.FetchStatusRequest(fid=fid_to_wire(root_fid(volume_id)))
            await stub.FetchStatus(request, timeout=PATIENCE_S)


async def attempt(act: Act, vos: VolServerCalls, name: str, dump: bytes) -> bool:
    """Whether an operation succeeded."""
    try:
        await act(vos, name, dump)
    except AfsError:
        return False
    return True


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("name", "moment"),
    [
        # Between two commands for those that do most between them, right after each for all.
        ("backup", "before"),
        ("delete", "before"),
        *((name, "after") for name in OPERATIONS),
    ],
)
async def test_a_volserver_killed_at_any_step_is_cleared_up_after(
    tmp_path: Path, name: str, moment: str
) -> None:
    """R7: kill -9 at every FSSync command; the next start gives all back, nothing is half made."""
    async with daemons(tmp_path) as cell:
        vos = VolServerCalls(cell.vos_address, cell.location_address)
        await vos.create("source")
        dump = await vos.dump("source")
        killed = True
        step = 0
        while killed:
            volume = f"v{step}"
            await vos.create(volume)
            await vos.backup(volume)
            hooks = getattr(cell.relay, moment)
            hooks[len(cell.relay.commands) + step] = cell.volserverd.kill
            await attempt(OPERATIONS[name], vos, volume, dump)
            killed = not hooks
            hooks.clear()
            if killed:
                await cell.volserverd.start()
                await vos.close()
                vos = VolServerCalls(cell.vos_address, cell.location_address)
                # The first operation waits for the recovery.
                await vos.create(f"after{step}")
                await check_agreement(cell, vos)
            step += 1
        assert step > 1, "it was killed at least once"
        await vos.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["backup", "delete", "restore", "dump", "salvage"])
async def test_a_fileserver_killed_at_any_step_gets_everything_back(
    tmp_path: Path, name: str
) -> None:
    """T24: the fileserver is killed and restarted right after it answered, at every command."""
    async with daemons(tmp_path) as cell:
        vos = VolServerCalls(cell.vos_address, cell.location_address)
        await vos.create("source")
        dump = await vos.dump("source")

        async def restart() -> None:
            await cell.afsd.kill()
            await cell.afsd.start()

        step, killed = 0, True
        while killed:
            volume = f"v{step}"
            await vos.create(volume)
            await vos.backup(volume)
            cell.relay.after[len(cell.relay.commands) + step] = restart
            succeeded = await attempt(OPERATIONS[name], vos, volume, dump)
            killed = not cell.relay.after
            cell.relay.after.clear()
            await vos.idle()
            await check_agreement(cell, vos)
            assert succeeded, f"a restart of the fileserver at command {step} is worked through"
            step += 1
        assert step > 1, "it was killed at least once"
        await vos.close()


async def test_sigterm_ends_it_with_status_0(tmp_path: Path) -> None:
    """A graceful stop: exit status 0, and the volume in work is given back first."""
    async with daemons(tmp_path) as cell:
        vos = VolServerCalls(cell.vos_address, cell.location_address)
        await vos.create("demo")
        arrived, go_on = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            arrived.set()
            await go_on.wait()

        cell.relay.after[len(cell.relay.commands)] = wait
        working = asyncio.create_task(attempt(OPERATIONS["backup"], vos, "demo", b""))
        await arrived.wait()
        stopping = asyncio.create_task(cell.volserverd.stop())
        go_on.set()
        assert await stopping == 0
        await working
        volumes = await cell.relay.volumes()
        assert {volume.state for volume in volumes.values()} == {ONLINE}
        await vos.close()
