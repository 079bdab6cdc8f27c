"""Whatever goes wrong between volserver and fileserver: nothing half made is left.

The fileserver is a fake whose n-th answer is refused, lost before or after the command was carried
out, or followed by a restart of the fileserver (R7, T24).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode, AfsError
from afs.v1 import vol_server_pb2 as pb
from afs.volume.partition import Partition
from tests.conftest import LogEvents
from tests.volserverd.fake_fssync import (
    CHECKED_OUT,
    ERROR,
    ONLINE,
    FakeFileServer,
    FakeVolume,
    Fault,
    fake_fileserver,
)
from tests.volserverd.running import PATIENCE_S, RunningVolServer, refused, volserver
from volserverd.vldb.names import FIRST_VOLUME_ID

pytestmark = pytest.mark.blocking_ok

DEMO = FIRST_VOLUME_ID
BACKUP = DEMO + 2

Act = Callable[[RunningVolServer, bytes], Awaitable[Any]]
# Name, whether a volume demo with a backup exists before, what is done, and FSSync commands of it.
OPERATIONS: dict[str, tuple[bool, Act, int]] = {
    "create": (False, lambda vos, _: vos.create("demo"), 1),
    "restore new": (False, lambda vos, dump: vos.restore(dump, "demo"), 1),
    "delete": (True, lambda vos, _: vos.delete("demo"), 6),
    "backup": (True, lambda vos, _: vos.backup("demo"), 6),
    "dump": (True, lambda vos, _: vos.dump("demo"), 3),
    "restore over": (True, lambda vos, dump: vos.restore(dump, "demo", overwrite=True), 3),
    "set quota": (True, lambda vos, _: vos.set_quota(777, "demo"), 3),
    "offline": (True, lambda vos, _: vos.offline("demo"), 3),
}
CASES = [
    pytest.param(name, step, fault, id=f"{name}-{step}-{fault.name}")
    for name, (_, _, count) in OPERATIONS.items()
    for step in range(count)
    for fault in Fault
]


async def settled(vos: RunningVolServer, fake: FakeFileServer) -> None:
    """Returns when no operation runs and nothing is owed to the fileserver."""
    async with asyncio.timeout(PATIENCE_S):
        while await vos.transactions() or vos.daemon.checkouts.debts:
            await asyncio.sleep(0.01)


async def prepare(vos: RunningVolServer, fake: FakeFileServer, exists: bool) -> bytes:
    """A dump, and the volume demo with its backup if it is to exist."""
    await vos.create("source")
    dump = await vos.dump("source")
    await vos.delete("source")
    if exists:
        await vos.create("demo", volume_id=1000)
        await vos.backup("demo")
    fake.commands.clear()
    return dump


def on_disk(root: Path) -> set[int]:
    """The ids of the databases on the partition, whatever they are."""
    return {int(path.stem) for path in (root / "vicepa").glob("groups/*/*.db")}


def openable(root: Path) -> set[int]:
    """The ids of the volumes on the partition that are whole and that nobody holds."""
    partition = Partition.open(root / "vicepa", holder="test")
    found = set()
    for volume_id in partition.volumes():
        partition.open_volume(volume_id).close()
        found.add(volume_id)
    partition.close()
    return found


@pytest.mark.parametrize(("name", "step", "fault"), CASES)
async def test_nothing_half_made_is_left(
    tmp_path: Path, name: str, step: int, fault: Fault
) -> None:
    """R7: after any fault, volumes on disk, location entries and the fileserver agree."""
    exists, act, _ = OPERATIONS[name]
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        dump = await prepare(vos, fake, exists)
        fake.faults = {step: fault}
        failed: AfsError | None = None
        try:
            await act(vos, dump)
        except AfsError as error:
            failed = error
        assert len(fake.commands) > step, "the fault was never met: correct the table above"
        await settled(vos, fake)
        fake.faults = {}
        left = on_disk(tmp_path)
        assert left <= {1000, 1002} or left == {min(left)}, f"temporary or half made: {left}"
        assert openable(tmp_path) == left
        assert set(fake.volumes) == left, "the fileserver knows what there is, and nothing else"
        states = {volume.state for volume in fake.volumes.values()}
        assert CHECKED_OUT not in states, "a volume was kept"
        entries = {entry.name: entry for entry in await vos.entries()}
        assert set(entries) == ({"demo"} if left else set())
        if left:
            assert entries["demo"].locked_for == ""
            assert (entries["demo"].backup_id in left) == (entries["demo"].backup_id != 0)
        if fault is Fault.RESTARTED_AFTER and name != "offline":
            assert failed is None, "a restart of the fileserver is worked through (T24)"
        if failed is None and name == "delete":
            assert not left
        # And the next operation finds nothing in its way.
        if left:
            await vos.backup("demo")
            await vos.delete("demo")
        assert (await vos.create("demo")).state == ONLINE


async def test_a_restarted_fileserver_is_asked_again_before_the_volume_is_touched(
    tmp_path: Path,
) -> None:
    """T24: the fileserver forgets the checkout; the volserver takes the volume anew, then works."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo")
        fake.commands.clear()
        fake.faults = {0: Fault.RESTARTED_AFTER}
        await vos.set_quota(5, "demo")
        assert [command for command, _ in fake.commands] == ["NEEDVOLUME", "NEEDVOLUME", "ON"]


async def test_a_volume_that_another_took_is_left_alone(tmp_path: Path) -> None:
    """A volume that another program has is VBUSY, and is not given back by us."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo")
        fake.volumes[DEMO] = FakeVolume(CHECKED_OUT, "salvager")
        for act in (vos.backup, vos.dump, vos.delete, vos.offline):
            with refused(AfsCode.VBUSY, "salvager"):
                await act("demo")
        assert fake.volumes[DEMO].program == "salvager"
        assert (await vos.entry("demo")).locked_for == ""


async def test_without_a_fileserver_nothing_is_done(tmp_path: Path) -> None:
    """Every operation is refused with one clear line; none touches the disk or the entries."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        dump = await prepare(vos, fake, exists=True)
    before = on_disk(tmp_path)
    async with volserver(tmp_path) as vos:
        entries = await vos.entries()
        acts: list[Callable[[], Awaitable[Any]]] = [
            lambda: vos.create("new"),
            lambda: vos.delete("demo"),
            lambda: vos.backup("demo"),
            lambda: vos.dump("demo"),
            lambda: vos.restore(dump, "demo", overwrite=True),
            lambda: vos.offline("demo"),
            lambda: vos.online("demo"),
            lambda: vos.examine("demo"),
            lambda: vos.listed(),
        ]
        results = await asyncio.gather(*(act() for act in acts), return_exceptions=True)
        for result in results:
            assert isinstance(result, AfsError)
            assert result.code is AfsCode.RX_CALL_DEAD
            assert "fileserver does not answer" in result.detail
        assert await vos.entries() == entries
        assert await vos.transactions() == []
    assert on_disk(tmp_path) == before


async def test_a_fileserver_that_comes_back_is_found_at_once(tmp_path: Path) -> None:
    """After an outage the next operation succeeds, without waiting for a reconnect backoff."""
    async with volserver(tmp_path) as vos:
        async with fake_fileserver(tmp_path) as fake:
            await vos.create("demo")
        with refused(AfsCode.RX_CALL_DEAD):
            await vos.examine("demo")
        async with fake_fileserver(tmp_path, fake):
            assert (await vos.examine("demo")).volume.state == ONLINE
            await vos.backup("demo")


@pytest.mark.parametrize("next_at_once", [False, True])
async def test_a_give_back_is_owed_until_it_is_answered(tmp_path: Path, next_at_once: bool) -> None:
    """The fileserver is away when the volume should go back: it gets it when it returns."""
    async with volserver(tmp_path) as vos:
        async with fake_fileserver(tmp_path) as fake:
            await vos.create("demo")
            fake.gates["ON"] = asyncio.Event()
            working = asyncio.create_task(vos.set_quota(9, "demo"))
            await fake.arrived.wait()
        # The server is gone with the give-back unanswered.
        with refused(AfsCode.RX_CALL_DEAD):
            await working
        assert fake.state(DEMO) == CHECKED_OUT
        assert vos.daemon.checkouts.debts == [DEMO]
        fake.gates.clear()
        async with fake_fileserver(tmp_path, fake):
            if next_at_once:
                # It hurries the give-back, and then takes the volume as usual.
                await vos.set_quota(10, "demo")
            await settled(vos, fake)
            assert fake.state(DEMO) == ONLINE
            assert vos.daemon.checkouts.debts == []


async def test_a_volume_that_cannot_be_given_back_is_busy(tmp_path: Path) -> None:
    """While the fileserver refuses to have a volume back, nobody else works on it."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo")
        fake.commands.clear()
        fake.faults = dict.fromkeys(range(2, 1000), Fault.REFUSED)
        with refused(AfsCode.VOFFLINE, "directed by the test"):
            await vos.set_quota(9, "demo")
        with refused(AfsCode.VBUSY, "being given back"):
            await vos.set_quota(10, "demo")
        fake.faults = {}
        await vos.set_quota(11, "demo")
        assert fake.state(DEMO) == ONLINE


async def test_two_operations_on_one_volume_exclude_each_other(tmp_path: Path) -> None:
    """R8: the second one is refused at once, naming the first; others are not disturbed."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo")
        await vos.create("other")
        fake.gates["NEEDVOLUME"] = gate = asyncio.Event()
        first = asyncio.create_task(vos.backup("demo"))
        await fake.arrived.wait()
        with refused(AfsCode.VBUSY, "backup"):
            await vos.delete("demo")
        with refused(AfsCode.VBUSY, "backup"):
            await vos.offline("demo")
        (running, *_) = await vos.transactions()
        assert (running.operation, running.volume_id in (DEMO, BACKUP)) == ("backup", True)
        assert running.step == "taking the volume from the fileserver"
        del fake.gates["NEEDVOLUME"]
        await vos.offline("other")
        gate.set()
        await first
        await vos.delete("demo")


async def test_a_fileserver_started_during_a_deletion_forgets_the_volume(tmp_path: Path) -> None:
    """It found the volume and then could not attach it; it is told all the same."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo")
        fake.gates["DONE"] = gate = asyncio.Event()
        working = asyncio.create_task(vos.delete("demo"))
        await fake.arrived.wait()
        fake.volumes[DEMO] = FakeVolume(ERROR)
        gate.set()
        await working
        assert fake.volumes == {}
        assert await vos.entries() == []


async def test_a_client_that_hangs_up_gets_its_volume_back_into_service(
    tmp_path: Path, log_events: LogEvents
) -> None:
    """Ctrl-C in the middle of a backup: undone, the volume served, the entry unlocked."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo")
        fake.gates["NEEDVOLUME"] = gate = asyncio.Event()
        working = asyncio.create_task(vos.backup("demo"))
        await fake.arrived.wait()
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        # The news is on its way through gRPC; a backup that goes on before it came may be finished.
        async with asyncio.timeout(PATIENCE_S):
            while not log_events.named("operation.asked_to_end"):
                await asyncio.sleep(0.01)
        gate.set()
        await settled(vos, fake)
        assert fake.state(DEMO) == ONLINE
        assert fake.state(BACKUP) is None
        assert (await vos.entry("demo")).locked_for == ""
        assert on_disk(tmp_path) == {DEMO}


async def test_an_operator_can_end_a_transaction(tmp_path: Path) -> None:
    """EndTransaction undoes what was begun; an unknown transaction is VNOVOL."""
    async with fake_fileserver(tmp_path) as fake, volserver(tmp_path) as vos:
        await vos.create("demo")
        fake.gates["NEEDVOLUME"] = gate = asyncio.Event()
        working = asyncio.create_task(vos.backup("demo"))
        await fake.arrived.wait()
        (running, *_) = await vos.transactions()
        request = pb.EndTransactionRequest(transaction_id=running.transaction_id)
        await vos.call(vos.stub.EndTransaction, request)
        await vos.call(vos.stub.EndTransaction, request)
        gate.set()
        with refused(AfsCode.EAGAIN, "an operator ended"):
            await working
        assert fake.state(DEMO) == ONLINE
        with refused(AfsCode.VNOVOL, "transaction"):
            await vos.call(vos.stub.EndTransaction, request)


async def test_a_stop_gives_volumes_back(tmp_path: Path) -> None:
    """SIGTERM in the middle of an operation: it is undone before the daemon ends."""
    async with fake_fileserver(tmp_path) as fake:
        async with volserver(tmp_path) as vos:
            await vos.create("demo")
            fake.gates["NEEDVOLUME"] = gate = asyncio.Event()
            working = asyncio.create_task(vos.backup("demo"))
            await fake.arrived.wait()
            stopping = asyncio.create_task(vos.daemon.stop())
            async with asyncio.timeout(PATIENCE_S):
                while not vos.daemon.operations.stopping:
                    await asyncio.sleep(0)
            gate.set()
            await stopping
            with refused(AfsCode.VRESTARTING, "stopping"):
                await working
        assert fake.state(DEMO) == ONLINE
