"""Volumes are checked while they are in use: what is found is damage, and nothing is disturbed."""

from __future__ import annotations

import threading
from pathlib import Path

from afs.types import VolumeType, root_fid
from afs.volume.check_finding import Finding, FindingKind
from afs.volume.check_group import check_partition
from afs.volume.partition import Partition
from afs.volume.salvage import salvage_volume
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import RemoveFile
from tests.volume.building import (
    MIB,
    chunk_files,
    contents,
    do,
    flip_byte,
    make_file,
    noise,
    store,
)
from tests.volume.conftest import VOLUME_ID
from tests.volume.planting import Planter

ROOT = root_fid(VOLUME_ID)


def check(partition: Partition, *, deep: bool = True) -> list[Finding]:
    """All that is found."""
    return list(check_partition(partition, deep=deep))


def test_a_volume_that_is_written_to_all_the_time_has_nothing_wrong(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Chunks come, go and are collected under the check's eyes; none of that is damage."""
    stop = threading.Event()
    rounds = 0

    def write() -> None:
        nonlocal rounds
        while not stop.is_set():
            fid = make_file(disk_volume, f"f{rounds}", data=noise(2 * MIB, rounds))
            store(disk_volume, fid, noise(100, rounds), MIB)
            if rounds:
                do(disk_volume, RemoveFile(ROOT, f"f{rounds - 1}"))
            disk_volume.collect()
            rounds += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(10):
            assert check(partition) == []
    finally:
        stop.set()
        writer.join()
    assert rounds > 1


def test_damaged_chunks_are_told_for_each_file_that_has_them(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """In the volume and in its clone; only reading them tells, and a missing one is always told."""
    make_file(disk_volume, "one", data=noise(2 * MIB))
    make_file(disk_volume, "two", data=noise(2 * MIB))
    partition.clone_volume(
        disk_volume, volume_id=VOLUME_ID + 2, name="test.backup", type=VolumeType.BACKUP
    )
    first, second = chunk_files(partition.path)
    flip_byte(first, 7)
    assert check(partition, deep=False) == []
    found = check(partition)
    assert [each.kind for each in found] == [FindingKind.DAMAGED_CHUNK] * 4
    assert {each.volume_id for each in found} == {VOLUME_ID, VOLUME_ID + 2}
    second.write_bytes(b"")
    first.unlink()
    found = check(partition, deep=False)
    assert [each.kind for each in found].count(FindingKind.MISSING_CHUNK) == 4
    assert [each.kind for each in found].count(FindingKind.DAMAGED_CHUNK) == 4


def test_what_is_known_to_be_lost_is_told_again(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """A salvaged volume with a lost file is served, and verified: the loss is not forgotten."""
    fid = make_file(disk_volume, "small", data=b"small")
    disk_volume.close()
    with Planter(disk_volume.path, VOLUME_ID) as plant:
        plant.sql("DELETE FROM inline_data")
    salvage_volume(partition, VOLUME_ID)
    volume = partition.open_volume(VOLUME_ID)
    [finding] = check(partition)
    assert (finding.kind, finding.subject) == (FindingKind.LOST_DATA, str(fid))
    store(volume, fid, b"again", truncate_to=0)
    assert check(partition) == []
    assert contents(volume, fid) == b"again"
    volume.close()


def test_only_one_volume_is_looked_at_on_request(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Others' damage, and what is nobody's, is then not told."""
    partition.create_volume(volume_id=77, name="other").close()
    with Planter(partition.path / "groups/77/77.db", 77) as plant:
        plant.change_vnode(1, link_count=9)
    stray = Path(disk_volume.path.parent / "chunks" / "ab" / ("ab" * 32))
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"x")
    assert list(check_partition(partition, deep=True, only={VOLUME_ID})) == []
    assert [each.kind for each in check_partition(partition, deep=True, only={77})] == [
        FindingKind.DATABASE
    ]
    assert sorted(each.kind for each in check(partition)) == [
        FindingKind.DATABASE,
        FindingKind.STRAY_CHUNK,
    ]
