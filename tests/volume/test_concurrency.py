"""Many threads, and a second program on the same partition, at the same time."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import CHUNK_BYTES, INLINE_MAX_BYTES
from afs.types import Fid, VolumeType, root_fid
from afs.volume.partition import Partition
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.verify import check_rows
from afs.volume.volume import CreateFile, DataSnapshot, Outcome, RemoveFile, StoreData, Volume
from tests.volume.building import chunk_files, collect_all, listing, make_file, noise, stage

STORES = 60
LENGTHS = [100, INLINE_MAX_BYTES + 1, CHUNK_BYTES + 5, 3 * CHUNK_BYTES]
CLONE_ID = 99


def data_of(version: int) -> bytes:
    """What a file holds at a DataVersion."""
    return b"" if version == 1 else noise(LENGTHS[version % len(LENGTHS)], version % 7)


def check_snapshot(snapshot: DataSnapshot) -> int:
    """Fails unless the data is that of the snapshot's DataVersion, which it returns."""
    version = snapshot.vnode.data_version
    expected = data_of(version)
    assert snapshot.vnode.length == len(expected)
    for offset in range(0, len(expected), CHUNK_BYTES):
        assert snapshot.read(offset, CHUNK_BYTES) == expected[offset : offset + CHUNK_BYTES]
    return version


def write_versions(volume: Volume, fid: Fid) -> None:
    """Stores one version after the other, each in the place of the one before."""
    for version in range(2, STORES + 2):
        staged = stage(volume, fid, data_of(version))
        [answer] = volume.apply([StoreData(fid, staged, 0, expected_data_version=version - 1)])
        assert isinstance(answer, Outcome)
        seen = volume.cached_vnode(fid)
        assert seen is not None
        assert seen.data_version == version


def read_versions(volume: Volume, fid: Fid, done: threading.Event) -> None:
    """Reads until told to stop: versions hold what they should, and never go back."""
    last = 0
    while not done.is_set():
        with volume.snapshot(fid) as snapshot:
            version = check_snapshot(snapshot)
        assert version >= last
        cached = volume.cached_vnode(fid)
        last = cached.data_version if cached else last


def churn(volume: Volume, seed: int) -> None:
    """Makes and removes files whose chunks other files have too."""
    choice = random.Random(seed)
    root = root_fid(volume.volume_id)
    for number in range(STORES):
        name = f"{seed}-{number}"
        fid = make_file(volume, name, data=data_of(choice.randint(2, 9)))
        if choice.random() < 0.3:
            stage(volume, fid, data_of(choice.randint(2, 9))).discard()
        if choice.random() < 0.8:
            [answer] = volume.apply([RemoveFile(root, name)])
            assert isinstance(answer, Outcome)


def clone_and_delete(partition: Partition, volume: SqliteVolume, done: threading.Event) -> None:
    """What a volserver does meanwhile: clones, reads the clone, deletes it."""
    while not done.is_set():
        partition.clone_volume(volume, volume_id=CLONE_ID, name="c", type=VolumeType.BACKUP)
        clone = partition.open_volume(CLONE_ID)
        for entry in listing(clone).values():
            with clone.snapshot(entry.fid) as snapshot:
                snapshot.read(0, snapshot.vnode.length)
        clone.close()
        partition.delete_volume(CLONE_ID)


@pytest.mark.slow
def test_readers_writers_and_collectors_do_not_disturb_each_other(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Every reader sees one whole version, whatever is stored, removed, collected and cloned."""
    other_program = Partition.open(partition.path, holder="volserverd")
    fid = make_file(disk_volume, "versions")
    done = threading.Event()

    def collect() -> None:
        while not done.is_set():
            disk_volume.collect()

    endless: list[Callable[[], None]] = [
        *[lambda: read_versions(disk_volume, fid, done)] * 3,
        lambda: clone_and_delete(other_program, disk_volume, done),
        collect,
    ]
    finite: list[Callable[[], None]] = [
        lambda: write_versions(disk_volume, fid),
        lambda: churn(disk_volume, 1),
        lambda: churn(disk_volume, 2),
    ]
    with ThreadPoolExecutor(len(endless) + len(finite)) as threads:
        running = [threads.submit(work) for work in endless]
        try:
            for work in [threads.submit(work) for work in finite]:
                work.result()
        finally:
            done.set()
        for work in running:
            work.result()
    collect_all(disk_volume)
    used = set()
    with disk_volume.reading() as moment:
        used = {row[0].hex() for row in moment.connection.execute("SELECT hash FROM chunks")}
    assert {path.name for path in chunk_files(partition.path)} == used
    disk_volume.close()
    check_rows(disk_volume.path)
    other_program.close()


def test_closing_while_others_read_and_write(disk_volume: SqliteVolume) -> None:
    """Whoever comes too late gets VOFFLINE, and the volume is closed cleanly."""
    root = root_fid(disk_volume.volume_id)
    fid = make_file(disk_volume, "a", data=data_of(2))
    begun = threading.Barrier(4)

    def read() -> AfsCode:
        begun.wait()
        while True:
            try:
                with disk_volume.snapshot(fid) as snapshot:
                    snapshot.read(0, 100)
                disk_volume.lookup(root, "a")
            except AfsError as error:
                return error.code

    def write() -> AfsCode:
        begun.wait()
        number = 0
        while True:
            number += 1
            [answer] = disk_volume.apply([CreateFile(root, f"f{number}")])
            if isinstance(answer, AfsError):
                return answer.code

    with ThreadPoolExecutor(3) as threads:
        tasks = [threads.submit(read), threads.submit(read), threads.submit(write)]
        begun.wait()
        disk_volume.close()
        assert {task.result() for task in tasks} == {AfsCode.VOFFLINE}
    check_rows(disk_volume.path)
    assert disk_volume.path.with_suffix(".seal").exists()


def test_data_of_any_size_takes_little_memory(disk_volume: SqliteVolume) -> None:
    """Neither writing nor reading 64 MiB holds more than a few MiB at a time."""
    import tracemalloc

    fid = make_file(disk_volume, "a")
    piece = noise(CHUNK_BYTES - 1)
    tracemalloc.start()
    try:
        staged = disk_volume.stage(fid, 3)
        for _ in range(64):
            staged.write(piece)
        staged.finish()
        [answer] = disk_volume.apply([StoreData(fid, staged)])
        assert isinstance(answer, Outcome)
        with disk_volume.snapshot(fid) as snapshot:
            for offset in range(0, snapshot.vnode.length, CHUNK_BYTES):
                snapshot.read(offset, CHUNK_BYTES)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 8 * CHUNK_BYTES
