"""Group commit: one transaction for all that arrived while the last one ran."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from afs.errors import AfsError
from afs.limits import CHUNK_BYTES, GROUP_COMMIT_MAX
from afs.types import Fid
from afs.volume.group_commit import GroupCommit
from afs.volume.memory_store import MemoryVolume
from afs.volume.partition import Partition
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import CreateFile, MakeDir, Mutation, Outcome, RemoveFile, Volume
from tests.volume.building import chunk_files, listing, make_file, noise


class GatedVolume(MemoryVolume):
    """A volume whose commits wait for the test."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.gate = threading.Event()
        self.batches: list[int] = []

    def apply(self, mutations: Sequence[Mutation]) -> list[Outcome | AfsError]:
        """Commits when the gate is open."""
        self.gate.wait()
        self.batches.append(len(mutations))
        return super().apply(mutations)


@pytest.fixture
async def executor() -> AsyncIterator[ThreadPoolExecutor]:
    """Two threads."""
    with ThreadPoolExecutor(2) as threads:
        yield threads


async def test_changes_are_committed_and_answered(
    volume: Volume, root: Fid, executor: ThreadPoolExecutor
) -> None:
    """Every change gets its own answer, good or bad."""
    commits = GroupCommit(volume, executor)
    answers = await asyncio.gather(
        *(commits.submit(CreateFile(root, f"f{number % 50}")) for number in range(100)),
        return_exceptions=True,
    )
    assert sum(isinstance(answer, Outcome) for answer in answers) == 50
    assert all(isinstance(answer, Outcome | AfsError) for answer in answers)
    assert len(await commits.read(volume.entries, root, "", 100)) == 50
    await commits.drain()


async def test_what_arrives_during_a_commit_shares_the_next(executor: ThreadPoolExecutor) -> None:
    """A batch is all that waits, up to the limit, in order of arrival."""
    volume = GatedVolume.create(5, "v")
    assert isinstance(volume, GatedVolume)
    commits = GroupCommit(volume, executor)
    root = Fid(5, 1, 1)
    count = GROUP_COMMIT_MAX + 10
    first = asyncio.create_task(commits.submit(MakeDir(root, "first")))
    # The first commit is under way when the others arrive.
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    others = [asyncio.create_task(commits.submit(CreateFile(root, str(n)))) for n in range(count)]
    await asyncio.sleep(0)
    volume.gate.set()
    await asyncio.gather(first, *others)
    assert volume.batches == [1, GROUP_COMMIT_MAX, 10]
    numbers = [
        answer.vnode.fid.vnode for answer in [task.result() for task in others] if answer.vnode
    ]
    assert numbers == sorted(numbers)


async def test_a_cancelled_caller_disturbs_nobody(executor: ThreadPoolExecutor) -> None:
    """The others of its batch are answered, and later changes too."""
    volume = GatedVolume.create(5, "v")
    assert isinstance(volume, GatedVolume)
    commits = GroupCommit(volume, executor)
    root = Fid(5, 1, 1)
    tasks = [asyncio.create_task(commits.submit(CreateFile(root, str(n)))) for n in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    volume.gate.set()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(done[1], asyncio.CancelledError)
    assert isinstance(done[0], Outcome)
    assert isinstance(done[2], Outcome)
    assert (await commits.submit(MakeDir(root, "later"))).vnode is not None


async def test_drain_waits_for_all_that_was_submitted(executor: ThreadPoolExecutor) -> None:
    """After drain nothing is queued and no thread works for the volume."""
    volume = GatedVolume.create(5, "v")
    assert isinstance(volume, GatedVolume)
    commits = GroupCommit(volume, executor)
    task = asyncio.create_task(commits.submit(CreateFile(Fid(5, 1, 1), "a")))
    await asyncio.sleep(0)
    drained = asyncio.create_task(commits.drain())
    await asyncio.sleep(0)
    assert not drained.done()
    volume.gate.set()
    await drained
    assert list(listing(volume)) == ["a"]
    await task
    await commits.drain()


@pytest.mark.blocking_ok
async def test_garbage_is_collected_when_there_is_nothing_else_to_do(
    partition: Partition, disk_volume: SqliteVolume, executor: ThreadPoolExecutor
) -> None:
    """A removed file's chunks are gone once the queue is drained."""
    make_file(disk_volume, "a", data=noise(3 * CHUNK_BYTES))
    commits = GroupCommit(disk_volume, executor)
    await commits.submit(RemoveFile(Fid(disk_volume.volume_id, 1, 1), "a"))
    await commits.drain()
    assert chunk_files(partition.path) == []


@pytest.mark.blocking_ok
async def test_a_closed_volume_answers_each_change(
    disk_volume: SqliteVolume, executor: ThreadPoolExecutor
) -> None:
    """VOFFLINE reaches every caller."""
    commits = GroupCommit(disk_volume, executor)
    disk_volume.close()
    with pytest.raises(AfsError, match="VOFFLINE"):
        await commits.submit(CreateFile(Fid(disk_volume.volume_id, 1, 1), "a"))
