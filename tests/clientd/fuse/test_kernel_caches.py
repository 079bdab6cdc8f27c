"""What the kernel is told when something is stale, and who waits for that."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest

from afs.types import Fid, Vnode, VnodeType, root_fid
from clientd.core.entry import CacheEntry
from clientd.fuse import abi
from clientd.fuse.kernel_caches import KernelCaches
from clientd.fuse.nodes import NO_DATA, ROOT_REALM, Node, Nodes
from clientd.fuse.notifier import Notifier
from clientd.fuse.session import Session
from clientd.journal import Journal
from clientd.volume_calls import VolumeCalls
from tests.fakes import FakeClock

VOLUME = cast(VolumeCalls, cast(Any, "the volume"))
DIRECTORY = root_fid(1)
FILE = Fid(1, 2, 2)


class Slow(Notifier):
    """A notifier whose writes end when a test says so."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.begun: list[Sequence[bytes]] = []
        self.writing: list[asyncio.Future[None]] = []
        self.patient = True

    def begin(self, messages: Sequence[bytes]) -> asyncio.Future[None]:
        self.begun.append(messages)
        self.writing.append(asyncio.get_running_loop().create_future())
        return self.writing[-1]

    async def done_soon(self, writing: asyncio.Future[None], messages: int) -> bool:
        if not self.patient:
            return False
        await asyncio.wait([writing])
        return True


class Servers:
    """Knows one status of every vnode, relied on for 5 s."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.data_version = 1

    def now(self) -> float:
        return self.clock.now()

    def known(self, fid: Fid) -> CacheEntry:
        kind = VnodeType.DIRECTORY if fid == DIRECTORY else VnodeType.FILE
        vnode = Vnode(fid, kind, 0o644, 0, 0, 1, 10, self.data_version, 0, 0, DIRECTORY)
        return CacheEntry(fid, vnode)

    def trusted_for(self, fid: Fid) -> tuple[CacheEntry, float]:
        return self.known(fid), 5.0


class Bench:
    """The caches of a kernel that knows a directory and a file in it, and what it was told."""

    def __init__(self) -> None:
        self.told, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.told.setblocking(False)
        ours.setblocking(False)
        self.servers = Servers()
        self.journal = Journal(self.servers.clock)
        self.nodes = Nodes(VOLUME, DIRECTORY)
        self.session = Session(ours.detach(), on_end=lambda: None)
        self.session.minor = abi.NEWEST_MINOR
        self.notifier = Slow()
        self.caches = KernelCaches(
            self.nodes, self.session, self.notifier, cast(Any, self.servers), self.journal
        )
        self.file: Node = self.nodes.told(ROOT_REALM, VOLUME, FILE, VnodeType.FILE)
        self.directory = self.nodes.root
        self.caches.note_attributes(self.file, 5.0)
        self.caches.note_name(self.directory, b"f", 5.0)
        self.servers.clock.advance(2.0)

    def at_once(self) -> list[bytes]:
        """What was told in the loop since the last look."""
        found: list[bytes] = []
        while True:
            try:
                found.append(os.read(self.told.fileno(), 4096))
            except BlockingIOError:
                return found


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    """A kernel's caches."""
    running = Bench()
    yield running
    for writing in running.notifier.writing:
        if not writing.done():
            writing.set_result(None)
    await running.caches.close()
    await running.session.close()
    await running.notifier.close()
    running.told.close()


async def test_nothing_stale_is_nothing_to_wait_for(bench: Bench) -> None:
    """So a break is acknowledged in the step in which it came."""
    assert bench.caches.settle() is None
    # Nobody told the kernel of this one.
    bench.caches.stale(Fid(1, 9, 9))
    assert bench.caches.settle() is None
    assert bench.at_once() == []


async def test_attributes_are_told_at_once(bench: Bench) -> None:
    """Without a thread; once, as long as the kernel was not told anew."""
    bench.caches.stale(FILE)
    assert bench.caches.settle() is None
    assert bench.at_once() == [abi.inval_inode(bench.file.id, data=False)]
    bench.caches.stale(FILE)
    assert bench.caches.settle() is None
    assert bench.at_once() == []


async def test_attributes_of_an_open_file_are_told_in_a_thread(bench: Bench) -> None:
    """The kernel may be doing away with its inode, and wait for a READ that is with us."""
    bench.file.opens = 1
    bench.caches.stale(FILE)
    settling = bench.caches.settle()
    assert settling is not None
    assert bench.at_once() == []
    assert bench.notifier.begun == [[abi.inval_inode(bench.file.id, data=False)]]
    bench.notifier.writing[0].set_result(None)
    await settling
    bench.caches.note_attributes(bench.file, 5.0)
    bench.caches.changed(FILE)
    assert bench.at_once() == []
    assert len(bench.notifier.begun) == 2


async def test_what_has_run_out_is_not_told(bench: Bench) -> None:
    """The kernel asks by itself."""
    bench.servers.clock.advance(10.0)
    bench.caches.stale(FILE)
    bench.caches.stale(DIRECTORY)
    assert bench.caches.settle() is None
    assert bench.at_once() == []


async def test_names_are_told_in_a_thread(bench: Bench) -> None:
    """And waited for."""
    bench.caches.stale(DIRECTORY)
    settling = bench.caches.settle()
    assert settling is not None
    entry = abi.inval_entry(bench.directory.id, b"f", expire_only=True)
    assert bench.notifier.begun == [[entry]]
    bench.notifier.writing[0].set_result(None)
    await settling
    assert bench.caches.settle() is None


async def test_later_break_waits_for_what_is_being_told_already(bench: Bench) -> None:
    """Its own promise had ended before; but the kernel does not know that yet."""
    bench.caches.stale(DIRECTORY)
    first = bench.caches.settle()
    second = bench.caches.settle()
    assert first is not None
    assert second is not None
    bench.caches.note_name(bench.directory, b"g", 5.0)
    bench.caches.stale(DIRECTORY)
    third = bench.caches.settle()
    assert third is not None
    bench.notifier.writing[1].set_result(None)
    await asyncio.sleep(0)
    assert not any(settling.done() for settling in (first, second, third))
    bench.notifier.writing[0].set_result(None)
    await asyncio.gather(first, second, third)


async def test_directory_whose_lock_is_held_needs_a_new_epoch(bench: Bench) -> None:
    """Which takes no lock; older kernels have to be told all the same."""
    bench.directory.busy = 1
    bench.caches.stale(DIRECTORY)
    assert bench.caches.settle() is None
    assert bench.at_once() == [abi.inc_epoch()]
    bench.session.minor = abi.INC_EPOCH_MINOR - 1
    bench.caches.note_name(bench.directory, b"f", 5.0)
    bench.caches.stale(DIRECTORY)
    assert bench.caches.settle() is not None
    assert len(bench.notifier.begun) == 1


async def test_oldest_kernels_cut_names_off(bench: Bench) -> None:
    """They cannot have them expire."""
    bench.session.minor = abi.EXPIRE_ONLY_MINOR - 1
    bench.caches.stale(DIRECTORY)
    assert bench.caches.settle() is not None
    entry = abi.inval_entry(bench.directory.id, b"f", expire_only=False)
    assert bench.notifier.begun == [[entry]]


async def test_patience_ends_with_a_new_epoch(bench: Bench) -> None:
    """The notification is stuck; the break is acknowledged, and no name is relied on."""
    bench.notifier.patient = False
    bench.caches.stale(DIRECTORY)
    settling = bench.caches.settle()
    assert settling is not None
    await settling
    assert not bench.notifier.writing[0].done()
    assert bench.at_once() == [abi.inc_epoch()]


async def test_data_of_an_open_file_is_dropped_and_of_a_closed_one_kept(bench: Bench) -> None:
    """Who opens it asks; who has it mapped does not."""
    bench.file.data_version = 1
    bench.caches.stale(FILE)
    assert bench.caches.settle() is None
    assert bench.file.data_version == 1
    bench.file.opens = 1
    bench.caches.stale(FILE)
    settling = bench.caches.settle()
    assert settling is not None
    assert bench.notifier.begun == [[abi.inval_inode(bench.file.id, data=True)]]
    assert bench.file.data_version == NO_DATA
    assert bench.file.settling is not None
    bench.notifier.writing[0].set_result(None)
    await settling
    assert bench.file.settling is None


async def test_status_of_another_version_waits_until_old_data_is_gone(bench: Bench) -> None:
    """So no attributes say that the kernel's data is right when it is not."""
    bench.file.data_version = 1
    vnode = replace(bench.servers.known(FILE).status, data_version=2)
    refreshing = asyncio.create_task(bench.caches.refresh(bench.file, vnode))
    await asyncio.sleep(0)
    assert not refreshing.done()
    bench.notifier.writing[0].set_result(None)
    await refreshing
    await bench.caches.refresh(bench.file, vnode)
    assert len(bench.notifier.begun) == 1


async def test_own_changes_of_names_are_told_unless_the_kernel_asked_for_them(
    bench: Bench,
) -> None:
    """What comes by the other door; the directory's other names stay."""
    bench.caches.note_name(bench.directory, b"g", 5.0)
    with bench.caches.expected((DIRECTORY, b"g")):
        bench.caches.names_changed(DIRECTORY, ["g"])
        assert bench.caches.settle() is None
    bench.caches.names_changed(DIRECTORY, ["g", "h"])
    assert bench.caches.settle() is not None
    entry = abi.inval_entry(bench.directory.id, b"g", expire_only=True)
    assert bench.notifier.begun == [[entry]]
    assert set(bench.directory.names or {}) == {b"f"}


async def test_own_store_by_the_other_door_drops_data_of_open_files(bench: Bench) -> None:
    """Unless it was written through the mount, or is the same."""
    bench.file.data_version, bench.file.opens = 1, 1
    bench.file.told_until = 0.0
    bench.caches.changed(FILE)
    assert bench.notifier.begun == []
    bench.servers.data_version = 2
    bench.file.files = [cast(Any, "a writer")]
    bench.caches.changed(FILE)
    assert bench.notifier.begun == []
    bench.file.files = []
    bench.caches.changed(FILE)
    assert bench.notifier.begun == [[abi.inval_inode(bench.file.id, data=True)]]


async def test_moved_name_is_relied_on_as_long_as_the_old_one_was(bench: Bench) -> None:
    """The kernel moves it with its time; where it may not be relied on, it is told of."""
    bench.caches.moved((bench.directory, b"f"), (bench.directory, b"g"), 5.0)
    assert bench.caches.settle() is None
    bench.caches.moved((bench.directory, b"g"), (bench.directory, b"h"), 0.0)
    assert bench.caches.settle() is not None
    entry = abi.inval_entry(bench.directory.id, b"h", expire_only=True)
    assert bench.notifier.begun == [[entry]]


async def test_many_are_told_in_slices(bench: Bench) -> None:
    """The loop breathes; all of them are told before the break is acknowledged."""
    nodes = [
        bench.nodes.told(ROOT_REALM, VOLUME, Fid(1, number, 1), VnodeType.FILE)
        for number in range(10, 810)
    ]
    for node in nodes:
        bench.caches.note_attributes(node, 5.0)
        bench.caches.stale(node.fid)
    settling = bench.caches.settle()
    assert settling is not None
    told: list[bytes] = []
    while not settling.done():
        told += bench.at_once()
        await asyncio.sleep(0)
    told += bench.at_once()
    assert len(told) == len(nodes)
    assert not any(node.told_until for node in nodes)
