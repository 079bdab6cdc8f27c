"""A full disk refuses with VDISKFULL, loses nothing, and leaves the volume usable."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.types import root_fid
from afs.volume.partition import Partition
from afs.volume.volume import CreateFile, RemoveFile
from tests.volume.building import (
    MIB,
    collect_all,
    contents,
    do,
    listing,
    make_file,
    noise,
    refusal,
    stage,
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


@pytest.mark.root
def test_a_full_disk_refuses_data_and_keeps_the_rest(small_disk: Path) -> None:
    """Data that does not fit is refused, what was acknowledged stays, and removing makes room again."""
    partition = Partition.open(small_disk / "vicepa", holder="test")
    volume = partition.create_volume(volume_id=5, name="v")
    root = root_fid(5)
    kept = []
    with pytest.raises(AfsError) as raised:
        for number in range(2 * SIZE_MIB):
            fid = make_file(volume, f"f{number}")
            store(volume, fid, noise(MIB, number))
            kept.append((fid, number))
    assert raised.value.code is AfsCode.VDISKFULL
    assert len(kept) > SIZE_MIB / 3
    for fid, number in kept:
        assert contents(volume, fid) == noise(MIB, number)
    for _, number in kept[:4]:
        do(volume, RemoveFile(root, f"f{number}"))
    collect_all(volume)
    fid = make_file(volume, "again", data=noise(2 * MIB, 99))
    assert contents(volume, fid) == noise(2 * MIB, 99)
    volume.close()
    volume = partition.open_volume(5)
    assert contents(volume, fid) == noise(2 * MIB, 99)
    for fid, number in kept[4:]:
        assert contents(volume, fid) == noise(MIB, number)
    volume.close()
    partition.close()


@pytest.mark.root
def test_a_commit_that_finds_no_room_changes_nothing(small_disk: Path) -> None:
    """When others fill the disk to the last byte, commits fail as a whole and work again later."""
    partition = Partition.open(small_disk / "vicepa", holder="test")
    volume = partition.create_volume(volume_id=5, name="v")
    root = root_fid(5)
    fid = make_file(volume, "a", data=b"kept")
    staged = stage(volume, fid, noise(12_000))
    ballast = small_disk / "ballast"
    with ballast.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    before = volume.state
    # Refused before they begin, and, because their room check passes, refused by the database
    # itself.
    assert refusal(volume, CreateFile(root, "b")) is AfsCode.VDISKFULL
    answers = []
    for number in range(2000):
        answers = volume.apply([RemoveFile(root, "none" if number else "a")])
        if isinstance(answers[0], AfsError) and answers[0].code is AfsCode.VDISKFULL:
            break
    staged.discard()
    ballast.unlink()
    assert volume.state.header.change_counter <= before.header.change_counter + 1
    make_file(volume, "c", data=noise(50_000))
    assert "c" in listing(volume)
    volume.close()
    volume = partition.open_volume(5)
    assert "c" in listing(volume)
    volume.close()
    partition.close()


@pytest.mark.root
def test_a_volume_that_cannot_be_created_leaves_nothing(small_disk: Path) -> None:
    """On a full disk, making or cloning a volume is refused and can be done once there is room."""
    partition = Partition.open(small_disk / "vicepa", holder="test")
    with (
        (small_disk / "ballast").open("wb", buffering=0) as file,
        pytest.raises(OSError, match="No space"),
    ):
        while True:
            file.write(bytes(4096))
    with pytest.raises(AfsError) as raised:
        partition.create_volume(volume_id=5, name="v")
    assert raised.value.code is AfsCode.VDISKFULL
    assert partition.volumes() == []
    (small_disk / "ballast").unlink()
    partition.create_volume(volume_id=5, name="v").close()
    partition.close()
