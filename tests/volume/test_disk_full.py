"""A full disk refuses with VDISKFULL, loses nothing, and leaves the volume usable."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.types import Fid, SetStatus, VolumeType, root_fid
from afs.volume.dump import dump_pieces
from afs.volume.partition import Partition
from afs.volume.restore import restore_volume
from afs.volume.volume import CreateFile, RemoveFile, StoreStatus
from tests.volume.building import (
    MIB,
    collect_all,
    contents,
    do,
    listing,
    make_file,
    noise,
    refusal,
    store,
)

SIZE_MIB = 12


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", path],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def fill(disk: Path) -> Path:
    """Fills the file system to the last byte; removing the file makes room again."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


@pytest.mark.root
def test_a_full_disk_refuses_data_and_keeps_the_rest(small_disk: Path) -> None:
    """Data that does not fit is refused, what is acknowledged stays, removing makes room."""
    partition = Partition.open(small_disk / "vicepa", holder="test")
    volume = partition.create_volume(volume_id=5, name="v")
    root = root_fid(5)
    kept: list[Fid] = []

    def store_until_full() -> None:
        for number in range(2 * SIZE_MIB):
            fid = make_file(volume, f"f{number}")
            store(volume, fid, noise(MIB, number))
            kept.append(fid)

    with pytest.raises(AfsError) as raised:
        store_until_full()
    assert raised.value.code is AfsCode.VDISKFULL
    assert len(kept) > SIZE_MIB / 3
    for number, fid in enumerate(kept):
        assert contents(volume, fid) == noise(MIB, number)
    for number in range(4):
        do(volume, RemoveFile(root, f"f{number}"))
    collect_all(volume)
    again = make_file(volume, "again", data=noise(2 * MIB, 99))
    volume.close()
    volume = partition.open_volume(5)
    assert contents(volume, again) == noise(2 * MIB, 99)
    for number, fid in enumerate(kept[4:], 4):
        assert contents(volume, fid) == noise(MIB, number)
    volume.close()
    partition.close()


@pytest.mark.root
@pytest.mark.parametrize("closed_while_full", [True, False])
def test_a_commit_that_finds_no_room_changes_nothing(
    small_disk: Path, closed_while_full: bool
) -> None:
    """When others fill the disk to the last byte, a commit fails as a whole; later all is well."""
    partition = Partition.open(small_disk / "vicepa", holder="test")
    volume = partition.create_volume(volume_id=5, name="v")
    fid = make_file(volume, "a", data=noise(12_000))
    ballast = fill(small_disk)
    assert refusal(volume, CreateFile(root_fid(5), "b")) is AfsCode.VDISKFULL
    # Changes of status are let through, until the database itself finds no room.
    acknowledged = volume.vnode(fid)
    for mode in range(2000):
        before = volume.state
        [answer] = volume.apply([StoreStatus(fid, SetStatus(mode=mode))])
        if isinstance(answer, AfsError):
            assert answer.code is AfsCode.VDISKFULL
            break
        assert answer.vnode is not None
        acknowledged = answer.vnode
    else:
        pytest.fail("2000 commits found room on a full disk")
    assert volume.vnode(fid) == acknowledged
    assert volume.state == before
    if closed_while_full:
        volume.close()
        ballast.unlink()
        volume = partition.open_volume(5)
    else:
        ballast.unlink()
    assert volume.vnode(fid) == acknowledged
    assert contents(volume, fid) == noise(12_000)
    make_file(volume, "c", data=noise(50_000))
    volume.close()
    volume = partition.open_volume(5)
    assert list(listing(volume)) == ["a", "c"]
    volume.close()
    partition.close()


@pytest.mark.root
def test_a_full_disk_stops_new_volumes_clones_and_restores(small_disk: Path) -> None:
    """Each is refused with VDISKFULL, leaves nothing behind, and works once there is room."""
    partition = Partition.open(small_disk / "vicepa", holder="test")
    volume = partition.create_volume(volume_id=5, name="v")
    make_file(volume, "a", data=noise(3 * MIB))
    dump = list(dump_pieces(volume))
    ballast = fill(small_disk)

    def clone() -> None:
        partition.clone_volume(volume, volume_id=6, name="v.backup", type=VolumeType.BACKUP)

    def restore() -> None:
        restore_volume(partition, dump, volume_id=7, name="w").close()

    def create() -> None:
        partition.create_volume(volume_id=8, name="x").close()

    for work in (clone, restore, create):
        with pytest.raises(AfsError) as raised:
            work()
        assert raised.value.code is AfsCode.VDISKFULL
    assert partition.volumes() == [5]
    assert {path.stem for path in small_disk.glob("vicepa/groups/*/*.db")} == {"5"}
    ballast.unlink()
    for work in (clone, restore, create):
        work()
    assert partition.volumes() == [5, 6, 7, 8]
    volume.close()
    partition.close()


@pytest.mark.root
def test_a_restore_that_does_not_fit_changes_nothing(small_disk: Path) -> None:
    """VDISKFULL in the middle of a dump gives all its room back."""
    partition = Partition.open(small_disk / "vicepa", holder="test")
    volume = partition.create_volume(volume_id=5, name="v")
    make_file(volume, "a", data=noise(6 * MIB))
    dump = list(dump_pieces(volume))
    volume.close()
    before = partition.usage().free_kib
    with pytest.raises(AfsError) as raised:
        restore_volume(partition, dump, volume_id=7, name="w")
    assert raised.value.code is AfsCode.VDISKFULL
    assert partition.volumes() == [5]
    assert partition.usage().free_kib >= before - 64
    partition.close()
