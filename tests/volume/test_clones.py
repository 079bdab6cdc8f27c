"""Clones of every type: what they share with their source, and what they do not."""

from __future__ import annotations

import pytest

from afs.errors import AfsError
from afs.types import Fid, VolumeType, root_fid
from afs.volume.partition import Partition
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.verify import check_rows
from afs.volume.volume import RemoveFile, SetVolumeFields
from tests.volume.building import (
    MIB,
    chunk_files,
    collect_all,
    contents,
    do,
    listing,
    make_file,
    noise,
    store,
)

READ_ONLY_ID = 536870914
OTHER_ID = 536870916


def cloned(
    partition: Partition, source: SqliteVolume, volume_id: int, type: VolumeType
) -> SqliteVolume:
    """A clone, open."""
    partition.clone_volume(source, volume_id=volume_id, name=f"c{volume_id}", type=type)
    return partition.open_volume(volume_id)


@pytest.mark.parametrize("type", [VolumeType.READ_ONLY, VolumeType.BACKUP])
def test_a_clone_says_which_state_it_shows(
    partition: Partition, disk_volume: SqliteVolume, type: VolumeType
) -> None:
    """Incarnation, change counter and DataVersions are those of the source at that moment (M5b)."""
    fid = make_file(disk_volume, "a", data=b"1")
    marks = []
    for data in (b"2", b"3"):
        store(disk_volume, fid, data)
        for _ in range(2):
            clone = cloned(partition, disk_volume, READ_ONLY_ID, type)
            header, source = clone.header(), disk_volume.header()
            assert (header.incarnation, header.change_counter) == (
                source.incarnation,
                source.change_counter,
            )
            there = clone.vnode(fid._replace(volume=READ_ONLY_ID))
            assert there.data_version == disk_volume.vnode(fid).data_version
            # A clone's counter is its source's: it must not run ahead of it.
            do(clone, SetVolumeFields(offline_message="for a while"))
            assert clone.header().change_counter == source.change_counter
            marks.append(clone.header().change_counter)
            clone.close()
    assert marks[0] == marks[1] < marks[2] == marks[3]


def test_a_read_write_clone_is_a_volume_of_its_own(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """It can be changed, has its own identity, and shares chunks; so do clones of the clone."""
    fid = make_file(disk_volume, "a", data=noise(2 * MIB))
    clone = cloned(partition, disk_volume, OTHER_ID, VolumeType.READ_WRITE)
    header, source = clone.header(), disk_volume.header()
    assert (header.type, header.read_write_id) == (VolumeType.READ_WRITE, OTHER_ID)
    assert (header.cloned_ns, header.backup_id) == (0, 0)
    assert header.incarnation != source.incarnation
    there = fid._replace(volume=OTHER_ID)
    store(clone, there, noise(MIB, 2))
    store(disk_volume, fid, noise(MIB, 3), MIB)
    backup = cloned(partition, clone, OTHER_ID + 2, VolumeType.BACKUP)
    assert backup.header().read_write_id == OTHER_ID
    assert backup.path.parent == clone.path.parent == disk_volume.path.parent
    for volume in (clone, disk_volume):
        collect_all(volume)
    assert len(chunk_files(partition.path)) == 4
    assert contents(disk_volume, fid) == noise(2 * MIB)[:MIB] + noise(MIB, 3)
    assert contents(clone, there) == noise(MIB, 2) + noise(2 * MIB)[MIB:]
    assert contents(backup, fid._replace(volume=OTHER_ID + 2)) == contents(clone, there)
    for volume in (clone, backup):
        volume.close()
        check_rows(volume.path)


def test_deleting_either_leaves_the_others_chunks_alone(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Source or clone may go first; the last one takes the group along."""
    fid = make_file(disk_volume, "a", data=noise(2 * MIB))
    clone = cloned(partition, disk_volume, OTHER_ID, VolumeType.READ_WRITE)
    store(clone, fid._replace(volume=OTHER_ID), noise(MIB, 2))
    disk_volume.close()
    partition.delete_volume(disk_volume.volume_id)
    collect_all(clone)
    assert contents(clone, fid._replace(volume=OTHER_ID)) == noise(MIB, 2) + noise(2 * MIB)[MIB:]
    assert len(chunk_files(partition.path)) == 2
    # Its own clones still find it, in a group that is named by a volume that is no more.
    third = cloned(partition, clone, OTHER_ID + 1, VolumeType.READ_ONLY)
    do(clone, RemoveFile(root_fid(OTHER_ID), "a"))
    clone.close()
    partition.delete_volume(OTHER_ID)
    assert contents(third, Fid(OTHER_ID + 1, fid.vnode, fid.uniquifier))
    third.close()
    partition.delete_volume(OTHER_ID + 1)
    assert list((partition.path / "groups").iterdir()) == []


def test_no_clone_replaces_a_read_write_volume(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Not its source, not another read-write clone of it, and a read-write clone nothing at all."""
    cloned(partition, disk_volume, OTHER_ID, VolumeType.READ_WRITE).close()
    cloned(partition, disk_volume, READ_ONLY_ID, VolumeType.READ_ONLY).close()
    for volume_id, type in (
        (disk_volume.volume_id, VolumeType.READ_ONLY),
        (OTHER_ID, VolumeType.BACKUP),
        (OTHER_ID, VolumeType.READ_WRITE),
        (READ_ONLY_ID, VolumeType.READ_WRITE),
    ):
        with pytest.raises(AfsError, match="VVOLEXISTS"):
            partition.clone_volume(disk_volume, volume_id=volume_id, name="x", type=type)
    assert len(listing(disk_volume)) == 0


def test_a_relative_is_made_in_the_group_of_its_family(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Whichever of a read-write volume and its clones comes first: they share one group."""
    clone = cloned(partition, disk_volume, OTHER_ID, VolumeType.READ_WRITE)
    cloned(partition, clone, OTHER_ID + 1, VolumeType.READ_ONLY).close()
    clone.close()
    partition.delete_volume(OTHER_ID)
    group = disk_volume.path.parent
    assert partition.group_for(OTHER_ID).path == group
    assert partition.group_for(OTHER_ID + 2, OTHER_ID).path == group
    # The next number belongs to another family.
    assert partition.group_for(OTHER_ID - 1).path.name == str(OTHER_ID - 1)
