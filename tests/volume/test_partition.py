"""Partitions: who may use what, and volumes that come and go."""

from __future__ import annotations

from pathlib import Path

import pytest

from afs.errors import AfsError
from afs.types import Fid, VolumeType, root_fid
from afs.volume.partition import Partition
from afs.volume.restore import Restore
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import CreateFile, Mutation, RemoveFile, SetVolumeFields, StoreData
from tests.volume.building import (
    MIB,
    chunk_files,
    collect_all,
    contents,
    do,
    listing,
    make_file,
    noise,
    refusal,
    stage,
    staged_files,
    store,
)

CLONE_ID = 536870915


def clone(partition: Partition, source: SqliteVolume) -> SqliteVolume:
    """A fresh backup clone, open."""
    partition.clone_volume(source, volume_id=CLONE_ID, name="test.backup", type=VolumeType.BACKUP)
    return partition.open_volume(CLONE_ID)


def test_a_partition_is_made_in_an_empty_directory(tmp_path: Path) -> None:
    """An empty or missing directory becomes a partition, and is one when opened again."""
    for _ in range(2):
        partition = Partition.open(tmp_path / "x" / "vicepb", holder="afsd")
        assert (partition.name, partition.volumes()) == ("vicepb", [])
        usage = partition.usage()
        assert 0 < usage.free_kib <= usage.size_kib
        partition.close()


def test_something_else_is_no_partition(tmp_path: Path) -> None:
    """A file, or a directory with other things in it, is refused and left alone."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "file"):
        with pytest.raises(AfsError, match=f"EINVAL: .*{path}"):
            Partition.open(path, holder="afsd")
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_a_second_daemon_of_a_kind_is_refused(tmp_path: Path) -> None:
    """An afsd and a volserverd may use a partition; a second afsd not until the first is gone."""
    first = Partition.open(tmp_path / "vicepa", holder="afsd")
    other_kind = Partition.open(tmp_path / "vicepa", holder="volserverd")
    with pytest.raises(AfsError, match=r"VBUSY: .* in use by another afsd"):
        Partition.open(tmp_path / "vicepa", holder="afsd")
    first.close()
    Partition.open(tmp_path / "vicepa", holder="afsd").close()
    other_kind.close()


def test_an_open_volume_is_nobody_elses(disk_volume: SqliteVolume, tmp_path: Path) -> None:
    """A volume that is open, here or in another process, cannot be opened, replaced or deleted."""
    other = Partition.open(tmp_path / "vicepa", holder="other")
    volume_id = disk_volume.volume_id
    with pytest.raises(AfsError, match="VBUSY"):
        other.open_volume(volume_id)
    with pytest.raises(AfsError, match="VBUSY"):
        other.delete_volume(volume_id)
    disk_volume.close()
    other.open_volume(volume_id).close()
    other.close()


def test_volumes_are_listed_created_and_deleted(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """VVOLEXISTS, VNOVOL, and after a deletion nothing is left."""
    volume_id = disk_volume.volume_id
    assert partition.volumes() == [volume_id]
    disk_volume.close()
    with pytest.raises(AfsError, match="VVOLEXISTS"):
        partition.create_volume(volume_id=volume_id, name="again")
    partition.delete_volume(volume_id)
    assert partition.volumes() == []
    assert list((partition.path / "groups").iterdir()) == []
    for use in (partition.open_volume, partition.delete_volume):
        with pytest.raises(AfsError, match="VNOVOL"):
            use(volume_id)


@pytest.mark.parametrize(
    ("volume_id", "name", "max_quota_kib"),
    [
        (0, "v", 0),
        (2**32, "v", 0),
        (1, "", 0),
        (1, "a/b", 0),
        (1, "a\nb", 0),
        (1, "v", -1),
        (1, "v", 2**63),
    ],
)
def test_an_impossible_volume_is_not_created(
    partition: Partition, volume_id: int, name: str, max_quota_kib: int
) -> None:
    """EINVAL, and nothing is left on the disk."""
    with pytest.raises(AfsError, match="EINVAL"):
        partition.create_volume(volume_id=volume_id, name=name, max_quota_kib=max_quota_kib)
    assert list((partition.path / "groups").iterdir()) == []


def test_what_was_committed_is_there_after_reopening(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Closing and opening changes nothing, and needs no check of every row."""
    fid = make_file(disk_volume, "a", data=noise(MIB + 1))
    before = disk_volume.state
    disk_volume.close()
    assert disk_volume.path.with_suffix(".seal").exists()
    again = partition.open_volume(disk_volume.volume_id)
    assert again.state == before
    assert contents(again, fid) == noise(MIB + 1)
    again.close()


def test_a_seal_goes_with_the_first_change(partition: Partition, disk_volume: SqliteVolume) -> None:
    """A sealed volume that is only read stays sealed; one that is changed is not."""
    disk_volume.close()
    again = partition.open_volume(disk_volume.volume_id)
    seal = disk_volume.path.with_suffix(".seal")
    listing(again)
    assert seal.exists()
    make_file(again, "a")
    assert not seal.exists()
    again.close()
    assert seal.exists()


def test_a_clone_stays_what_it_was(partition: Partition, disk_volume: SqliteVolume) -> None:
    """A clone has the contents of its moment, shares chunks, and refuses changes."""
    fid = make_file(disk_volume, "a", data=noise(2 * MIB))
    before = disk_volume.vnode(fid)
    backup = clone(partition, disk_volume)
    assert len(chunk_files(partition.path)) == 2
    store(disk_volume, fid, b"other", truncate_to=0)
    do(disk_volume, RemoveFile(root_fid(disk_volume.volume_id), "a"))
    collect_all(disk_volume)
    there = Fid(CLONE_ID, fid.vnode, fid.uniquifier)
    assert backup.vnode(there).data_version == before.data_version
    assert contents(backup, there) == noise(2 * MIB)
    header, source = backup.header(), disk_volume.header()
    assert (header.type, header.read_write_id) == (VolumeType.BACKUP, source.volume_id)
    assert header.cloned_ns > 0
    assert header.incarnation == source.incarnation
    assert refusal(backup, CreateFile(root_fid(CLONE_ID), "x")).name == "EROFS"
    with pytest.raises(AfsError, match="EROFS"):
        backup.stage(there, 0)
    do(backup, SetVolumeFields(offline_message="kept"))
    backup.close()
    assert sorted(partition.volumes()) == sorted([disk_volume.volume_id, CLONE_ID])


def test_a_clone_is_replaced_as_a_whole(partition: Partition, disk_volume: SqliteVolume) -> None:
    """A newer clone has the same identity and a larger change counter, and old chunks go."""
    fid = make_file(disk_volume, "a", data=noise(2 * MIB))
    first = clone(partition, disk_volume)
    before = first.header()
    with pytest.raises(AfsError, match="VBUSY"):
        clone(partition, disk_volume)
    first.close()
    store(disk_volume, fid, noise(MIB, 2), truncate_to=0)
    collect_all(disk_volume)
    assert len(chunk_files(partition.path)) == 3
    second = clone(partition, disk_volume)
    assert len(chunk_files(partition.path)) == 1
    assert second.header().incarnation == before.incarnation
    assert second.header().change_counter > before.change_counter
    assert contents(second, fid._replace(volume=CLONE_ID)) == noise(MIB, 2)
    second.close()


def test_a_clone_does_not_replace_what_is_none(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Neither the read-write volume itself nor a volume of another group is overwritten."""
    partition.create_volume(volume_id=99, name="other").close()
    for volume_id in (99, disk_volume.volume_id):
        with pytest.raises(AfsError, match="VVOLEXISTS"):
            partition.clone_volume(
                disk_volume, volume_id=volume_id, name="x.backup", type=VolumeType.BACKUP
            )


def test_a_damaged_clone_can_be_replaced_and_deleted(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """What cannot be read can still be made anew, or removed."""
    make_file(disk_volume, "a", data=noise(2 * MIB))
    clone(partition, disk_volume).close()
    path = disk_volume.path.with_name(f"{CLONE_ID}.db")
    path.write_bytes(b"rubbish" * 1000)
    second = clone(partition, disk_volume)
    assert list(listing(second)) == ["a"]
    second.close()
    path.write_bytes(b"rubbish" * 1000)
    partition.delete_volume(CLONE_ID)
    assert len(chunk_files(partition.path)) == 2


def test_deleting_a_clone_takes_only_its_own_chunks(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Chunks that another volume of the group uses, or has pinned, stay."""
    fid = make_file(disk_volume, "a", data=noise(2 * MIB))
    clone(partition, disk_volume).close()
    store(disk_volume, fid, noise(MIB, 2))
    collect_all(disk_volume)
    assert len(chunk_files(partition.path)) == 3
    partition.delete_volume(CLONE_ID)
    assert len(chunk_files(partition.path)) == 2
    assert contents(disk_volume, fid) == noise(MIB, 2) + noise(2 * MIB)[MIB:]


def test_garbage_that_another_volumes_reader_needs_is_left_to_it(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """A deletion elsewhere in the group does not take a chunk away from under a reader (C3)."""
    fid = make_file(disk_volume, "a", data=noise(MIB))
    clone(partition, disk_volume).close()
    other = Partition.open(partition.path, holder="volserverd")
    with disk_volume.snapshot(fid) as snapshot:
        store(disk_volume, fid, b"", truncate_to=0)
        other.delete_volume(CLONE_ID)
        collect_all(disk_volume)
        assert snapshot.read(0, MIB) == noise(MIB)
    collect_all(disk_volume)
    assert chunk_files(partition.path) == []
    other.close()


def test_discarded_data_is_collected(partition: Partition, disk_volume: SqliteVolume) -> None:
    """Chunks of data that was never stored go, from `staging` and from their places."""
    fid = make_file(disk_volume, "a")
    staged = disk_volume.stage(fid, 0)
    staged.write(noise(3 * MIB))
    assert len(staged_files(partition.path)) == 3
    staged.finish()
    assert len(chunk_files(partition.path)) == 3
    staged.discard()
    assert staged_files(partition.path) == []
    collect_all(disk_volume)
    assert chunk_files(partition.path) == []


def test_chunks_that_a_store_made_needless_are_collected(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """What was staged and then merged, replaced or removed in the same batch leaves nothing."""
    fid = make_file(disk_volume, "merged", data=noise(MIB))
    store(disk_volume, fid, noise(MIB // 2, 1))
    twice = make_file(disk_volume, "twice")
    gone = make_file(disk_volume, "gone")
    batch: list[Mutation] = [
        StoreData(twice, stage(disk_volume, twice, noise(MIB, 2))),
        StoreData(twice, stage(disk_volume, twice, noise(MIB, 3))),
        StoreData(gone, stage(disk_volume, gone, noise(MIB, 4))),
        RemoveFile(root_fid(disk_volume.volume_id), "gone"),
    ]
    assert not any(isinstance(answer, AfsError) for answer in disk_volume.apply(batch))
    collect_all(disk_volume)
    assert len(chunk_files(partition.path)) == 2
    assert contents(disk_volume, twice) == noise(MIB, 3)
    assert contents(disk_volume, fid) == noise(MIB // 2, 1) + noise(MIB)[MIB // 2 :]


def test_a_half_made_neighbour_does_not_keep_garbage(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """A restore that has only begun holds no collection up."""
    fid = make_file(disk_volume, "a", data=noise(MIB))
    with Restore(partition, volume_id=disk_volume.volume_id, name="x"):
        store(disk_volume, fid, b"", truncate_to=0)
        collect_all(disk_volume)
        assert chunk_files(partition.path) == []


def test_strays_are_collected_after_reopening(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """What was discarded just before the volume was closed is garbage when it is opened again."""
    fid = make_file(disk_volume, "a")
    staged = disk_volume.stage(fid, 0)
    staged.write(noise(MIB))
    staged.finish()
    staged.discard()
    disk_volume.close()
    again = partition.open_volume(disk_volume.volume_id)
    collect_all(again)
    assert chunk_files(partition.path) == []
    again.close()


def test_collecting_garbage_breaks_the_seal(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """A reopened volume whose garbage is collected is sealed anew (found by test_kill)."""
    fid = make_file(disk_volume, "a", data=noise(MIB))
    store(disk_volume, fid, b"", truncate_to=0)
    disk_volume.close()
    for _ in range(3):
        again = partition.open_volume(disk_volume.volume_id)
        collect_all(again)
        again.close()
    assert chunk_files(partition.path) == []


def test_staged_data_of_a_crashed_process_is_cleared(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """What lay in `staging` goes when the volume is opened, sealed or not (found by test_kill)."""
    fid = make_file(disk_volume, "a", data=noise(MIB))
    disk_volume.close()
    group = disk_volume.path.parent
    [kept] = chunk_files(partition.path)
    for name in (kept.name, "0" * 64):
        (group / "staging" / f"{disk_volume.volume_id}+00aa+{name}").write_bytes(b"x")
    (group / "chunks" / "00").mkdir(exist_ok=True)
    (group / "chunks" / "00" / ("0" * 64)).write_bytes(b"linked, never committed")
    again = partition.open_volume(disk_volume.volume_id)
    collect_all(again)
    assert staged_files(partition.path) == []
    assert chunk_files(partition.path) == [kept]
    assert contents(again, fid) == noise(MIB)
    again.close()


def test_leftovers_of_crashed_makers_are_cleared(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Half-made and half-deleted databases are gone after the next opening of the partition."""
    make_file(disk_volume, "a", data=noise(MIB))
    disk_volume.close()
    group = disk_volume.path.parent
    database = disk_volume.path.read_bytes()
    (group / "5.new-00aa.db").write_bytes(database)
    (group / "6.gone-00bb.db").write_bytes(b"")
    (group / "6.gone-00bb.lock").write_bytes(b"")
    (group / "7.new-00cc.lock").write_bytes(b"")
    partition.close()
    again = Partition.open(partition.path, holder="test")
    assert again.volumes() == [disk_volume.volume_id]
    assert {item.name for item in group.iterdir()} == {
        "chunks",
        "chunks.lock",
        "staging",
        f"{disk_volume.volume_id}.db",
        f"{disk_volume.volume_id}.lock",
        f"{disk_volume.volume_id}.seal",
    }
    assert len(chunk_files(partition.path)) == 1
    again.close()


def test_a_running_makers_database_is_left_alone(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Opening the partition clears leftovers only; what somebody is making stays."""
    group = partition.group_for(disk_volume.volume_id)
    with group.new_database(5) as path:
        path.write_bytes(b"being made")
        Partition.open(partition.path, holder="other").close()
        assert path.read_bytes() == b"being made"
        path.unlink()
