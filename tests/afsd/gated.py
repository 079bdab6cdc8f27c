"""A fileserver's services without sockets, over volumes whose threads a test can hold up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

from afs.types import Fid, Vnode
from afs.v1 import file_server_pb2
from afs.v1.callback_channel_pb2 import Break
from afs.volume.memory_store import MemoryVolume
from afs.volume.partition import Partition, PartitionUsage
from afs.volume.volume import DataSnapshot, Mutation, Outcome, StagedData
from afs.wire import fid_to_wire
from afsd.callbacks import CallBacks
from afsd.core.callback_machine import CallBackMachine
from afsd.core.policy import LATER
from afsd.core.settings import CallBackSettings
from afsd.file_server import FileServer
from afsd.fssync import FSSyncServicer
from afsd.fssync_lane import FssyncLane
from afsd.host_journal import HostJournal
from afsd.outbox import Outbox
from afsd.principal_names import PrincipalNames
from afsd.volume_table import VolumeTable
from tests.fakes import FakeClock

VOLUME = 7
PATIENCE_S = 20.0


class NoContext:
    """Stands for the context of a call that came over no wire: its metadata goes nowhere."""

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Nobody waits for it."""

    def add_done_callback(self, callback: Any) -> None:
        """The call never ends, as far as anybody is told."""


# For our methods, which do not look at it.
NO_CONTEXT: Any = NoContext()


class Gate:
    """A place in a thread's way: open, or closed until the test lets somebody through."""

    def __init__(self) -> None:
        self._closed = False
        self._passes = threading.Semaphore(0)
        self._arrivals = threading.Semaphore(0)

    def close(self) -> None:
        """Everybody who comes waits."""
        self._closed = True

    def let_one_through(self) -> None:
        """One of those who wait, or the next to come, goes on."""
        self._passes.release()

    def open(self) -> None:
        """Everybody goes on."""
        self._closed = False
        self._passes.release(100)

    def go_through(self) -> None:
        """Called by the thread."""
        if self._closed:
            self._arrivals.release()
            assert self._passes.acquire(timeout=PATIENCE_S), "nobody opened the gate"

    async def arrived(self) -> None:
        """Returns when one more thread stands at the gate."""
        came = await asyncio.to_thread(self._arrivals.acquire, timeout=PATIENCE_S)
        assert came, "nobody came to the gate"


class GatedVolume(MemoryVolume):
    """A volume in memory whose calls can be held up; `cold` hides what is in memory."""

    cold = False

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.gates = {
            name: Gate() for name in ("vnode", "snapshot", "stage", "apply", "lookup", "close")
        }
        # Runs in the thread after a lookup, before its answer gets back.
        self.after_lookup: Callable[[], None] = lambda: None
        self.open_snapshots = 0
        # What closing ends with, once it is closed.
        self.close_error: Exception | None = None

    def cached_vnode(self, fid: Fid) -> Vnode | None:
        return None if self.cold else super().cached_vnode(fid)

    def vnode(self, fid: Fid) -> Vnode:
        # Held up with the answer in hand: what happens meanwhile makes it old.
        found = super().vnode(fid)
        self.gates["vnode"].go_through()
        return found

    def lookup(self, directory: Fid, name: str) -> Vnode:
        found = super().lookup(directory, name)
        self.after_lookup()
        return found

    def snapshot(self, fid: Fid, offset: int = 0, length: int | None = None) -> DataSnapshot:
        snapshot = _CountedSnapshot(self, super().snapshot(fid, offset, length))
        self.gates["snapshot"].go_through()
        return snapshot

    def stage(self, fid: Fid, offset: int) -> StagedData:
        self.gates["stage"].go_through()
        return super().stage(fid, offset)

    def apply(self, mutations: Any) -> Any:
        self.gates["apply"].go_through()
        return super().apply(mutations)

    def close(self) -> None:
        self.gates["close"].go_through()
        super().close()
        if self.close_error is not None:
            raise self.close_error


class _CountedSnapshot(DataSnapshot):
    """A snapshot whose volume knows how many are open."""

    def __init__(self, volume: GatedVolume, snapshot: DataSnapshot) -> None:
        self._volume = volume
        self._snapshot = snapshot
        self._open = True
        self.vnode = snapshot.vnode
        volume.open_snapshots += 1

    def read(self, offset: int, length: int) -> bytes:
        return self._snapshot.read(offset, length)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._volume.open_snapshots -= 1
            self._snapshot.close()


class FakePartition:
    """A partition that holds one volume, new each time it is opened."""

    name = "vicepa"

    def __init__(self) -> None:
        self.opened = self._new()
        # What opening ends with.
        self.open_error: Exception | None = None

    @staticmethod
    def _new() -> GatedVolume:
        volume = GatedVolume.create(VOLUME, "v")
        assert isinstance(volume, GatedVolume)
        return volume

    def volumes(self) -> list[int]:
        return [VOLUME]

    def usage(self) -> PartitionUsage:
        return PartitionUsage(1000, 500)

    def open_volume(self, _volume_id: int) -> GatedVolume:
        if self.open_error is not None:
            raise self.open_error
        if self.opened.is_closed:
            self.opened = self._new()
        return self.opened


class Rig:
    """The services, and hosts that see what they are sent."""

    def __init__(self, table: VolumeTable, partition: FakePartition, callbacks: CallBacks) -> None:
        self.table = table
        self.partition = partition
        self.callbacks = callbacks
        self.files = FileServer(
            table,
            callbacks,
            PrincipalNames(None),
            FakeClock(),
            file_server_pb2.GetCapabilitiesResponse(),
        )
        self.fssync = FSSyncServicer(table, callbacks, FssyncLane(LATER))

    @property
    def volume(self) -> GatedVolume:
        """The volume that is open."""
        return self.partition.opened

    async def host(self, uuid: str) -> Host:
        """An attached host."""
        channel, outbox = await self.callbacks.attach(uuid, "test", "test")
        host = Host(self.callbacks, uuid, channel, outbox)
        message = await outbox.next()
        self.callbacks.acked(uuid, channel, message.init_callback_state.sequence)
        return host

    def commit(self, *mutations: Mutation) -> list[Outcome]:
        """Changes the volume at once, without anybody being told."""
        outcomes = self.volume.apply(mutations)
        assert all(isinstance(outcome, Outcome) for outcome in outcomes), outcomes
        return cast(list[Outcome], outcomes)


class Host:
    """One host's end of its channel."""

    def __init__(self, callbacks: CallBacks, uuid: str, channel: int, outbox: Outbox) -> None:
        self.uuid = uuid
        self._callbacks = callbacks
        self._channel = channel
        self._outbox = outbox

    async def next_break(self) -> Break:
        """The next break it is sent; not acknowledged."""
        async with asyncio.timeout(PATIENCE_S):
            message = await self._outbox.next()
        told: Break = getattr(message, "break")
        assert told.targets, f"no break but {message}"
        return told

    def ack(self, told: Break) -> None:
        """Acknowledges a break."""
        self._callbacks.acked(self.uuid, self._channel, told.sequence)

    @property
    def was_sent_nothing(self) -> bool:
        """True if no message waits for it."""
        return not self._outbox._messages


@asynccontextmanager
async def rig(root: Path) -> AsyncIterator[Rig]:
    """The services over one volume in memory."""
    partition = FakePartition()
    journal = await asyncio.to_thread(HostJournal, root / "hosts.sqlite3")
    machine = CallBackMachine(CallBackSettings(), FakeClock().now())
    callbacks = CallBacks(machine, FakeClock(), 1, LATER, journal)
    serving, whole = ThreadPoolExecutor(4), ThreadPoolExecutor(2)
    table = VolumeTable(
        [cast(Partition, partition)],
        executor=serving,
        whole_volume_executor=whole,
        open_volume=lambda _, volume_id: partition.open_volume(volume_id),
    )
    await table.attach_all()
    try:
        yield Rig(table, partition, callbacks)
    finally:
        for gate in partition.opened.gates.values():
            gate.open()
        await table.detach_all()
        callbacks.close()
        await asyncio.to_thread(journal.close)
        serving.shutdown()
        whole.shutdown()


def status_of(fid: Fid) -> file_server_pb2.FetchStatusRequest:
    """The request for a status."""
    return file_server_pb2.FetchStatusRequest(fid=fid_to_wire(fid))
