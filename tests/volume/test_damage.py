"""Damage is told, never served: a flipped byte or a cut file anywhere ends in EIO or VSALVAGE."""

from __future__ import annotations

import random
import shutil
import sqlite3
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.types import Fid, VnodeType, root_fid
from afs.volume.partition import Partition
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import Volume
from tests.volume.building import (
    MIB,
    chunk_files,
    contents,
    flip_byte,
    make_dir,
    make_file,
    make_files,
    make_symlink,
    noise,
    store,
)

FILES = {"large": noise(2 * MIB + 5), "small": noise(5000), "empty": b""}


@pytest.fixture
def filled(disk_volume: SqliteVolume) -> SqliteVolume:
    """A volume with one of everything."""
    make_files(disk_volume, root_fid(disk_volume.volume_id), FILES)
    directory = make_dir(disk_volume, "d")
    many = {f"file number {number}": str(number).encode() for number in range(200)}
    make_files(disk_volume, directory, many)
    make_symlink(disk_volume, "s", "target")
    return disk_volume


def everything(volume: Volume) -> dict[str, object]:
    """All that a volume serves, by path."""
    found: dict[str, object] = {}
    waiting = [("", root_fid(volume.volume_id))]
    while waiting:
        path, directory = waiting.pop()
        for entry in volume.entries(directory, "", 10_000):
            where = f"{path}/{entry.name}"
            vnode = volume.lookup(directory, entry.name)
            data: object = None
            if vnode.type is VnodeType.DIRECTORY:
                waiting.append((where, vnode.fid))
            elif vnode.type is VnodeType.SYMLINK:
                data = volume.read_link(vnode.fid)
            else:
                data = contents(volume, vnode.fid)
            found[where] = (vnode, data)
    return found


def crash(volume: SqliteVolume) -> None:
    """Leaves the volume's files as a crash would: no seal, everything else in place."""
    volume.close()
    volume.path.with_suffix(".seal").unlink()


def test_a_flipped_byte_in_a_chunk_is_found_when_it_is_read(
    partition: Partition, filled: SqliteVolume
) -> None:
    """EIO for what the chunk covers, again and again; the rest of the file is served."""
    fid = filled.lookup(root_fid(filled.volume_id), "large").fid
    tail = next(path for path in chunk_files(partition.path) if path.stat().st_size == 5)
    flip_byte(tail, 2)
    for _ in range(2):
        with filled.snapshot(fid) as snapshot:
            assert snapshot.read(0, 2 * MIB) == FILES["large"][: 2 * MIB]
            for length in (1, 5):
                with pytest.raises(AfsError) as raised:
                    snapshot.read(2 * MIB, length)
                assert raised.value.code is AfsCode.EIO


@pytest.mark.parametrize("how", ["missing", "cut", "longer", "empty"])
def test_a_chunk_that_is_not_whole_is_found(
    partition: Partition, filled: SqliteVolume, how: str
) -> None:
    """EIO for a chunk that is gone, or has not the bytes it had."""
    fid = filled.lookup(root_fid(filled.volume_id), "large").fid
    for path in chunk_files(partition.path):
        data = path.read_bytes()
        if how == "missing":
            path.unlink()
        else:
            path.write_bytes({"cut": data[:-1], "longer": data + b"x", "empty": b""}[how])
    with pytest.raises(AfsError, match="EIO"):
        contents(filled, fid)


def test_a_store_does_not_build_on_a_damaged_chunk(
    partition: Partition, filled: SqliteVolume
) -> None:
    """Data merged into a damaged chunk is refused (EIO); a whole new chunk heals it."""
    fid = filled.lookup(root_fid(filled.volume_id), "large").fid
    before = filled.vnode(fid)
    for path in chunk_files(partition.path):
        flip_byte(path, 0)
    with pytest.raises(AfsError, match="EIO"):
        store(filled, fid, b"x", 100)
    assert filled.vnode(fid) == before
    store(filled, fid, FILES["large"])
    assert contents(filled, fid) == FILES["large"]


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("vnodes", "length"),
        ("vnodes", "mode"),
        ("vnodes", "data_version"),
        ("vnodes", "type"),
        ("vnodes", "parent_vnode"),
        ("vnodes", "checksum"),
        ("entries", "vnode"),
        ("entries", "name"),
        ("inline_data", "data"),
        ("chunks", "hash"),
        ("chunks", "size"),
    ],
)
def test_a_changed_row_is_found_when_it_is_read(
    partition: Partition, filled: SqliteVolume, table: str, column: str
) -> None:
    """A row whose checksum does not fit raises EIO, whichever column was changed."""
    filled.close()
    connection = sqlite3.connect(filled.path)
    change = {"name": "name || 'x'", "hash": "randomblob(32)", "data": "zeroblob(length(data))"}
    value = change.get(column, "randomblob(8)" if column == "checksum" else f"{column} + 1")
    connection.execute(f"UPDATE {table} SET {column} = {value}")
    connection.commit()
    connection.close()
    # Sealed anew, as if the damage had happened while the volume was in use.
    filled.path.with_suffix(".seal").unlink()
    volume = SqliteVolume(filled.path, partition.group_for(filled.volume_id).chunks)
    with pytest.raises(AfsError) as raised:
        everything(volume)
    assert raised.value.code is AfsCode.EIO
    volume.close()
    filled.path.with_suffix(".seal").unlink()
    with pytest.raises(AfsError) as raised:
        partition.open_volume(filled.volume_id)
    assert raised.value.code is AfsCode.VSALVAGE


def test_a_flipped_byte_anywhere_in_a_sealed_database_is_found(
    partition: Partition, filled: SqliteVolume
) -> None:
    """A cleanly detached volume does not come online if any byte of it changed."""
    filled.close()
    good = filled.path.read_bytes()
    random_places = random.Random(1)
    places = [0, 24, 99, 100, len(good) - 1, *random_places.sample(range(len(good)), 30)]
    for place in places:
        flip_byte(filled.path, place)
        with pytest.raises(AfsError) as raised:
            partition.open_volume(filled.volume_id)
        assert raised.value.code is AfsCode.VSALVAGE
        filled.path.write_bytes(good)
    volume = partition.open_volume(filled.volume_id)
    assert len(everything(volume)) == 205
    volume.close()


def test_a_flipped_byte_after_a_crash_is_found_or_harmless(
    partition: Partition, filled: SqliteVolume
) -> None:
    """Without a seal, a damaged volume either stays offline or serves exactly what it held."""
    good = everything(filled)
    crash(filled)
    intact = filled.path.read_bytes()
    random_places = random.Random(2)
    found = 0
    for place in random_places.sample(range(len(intact)), 150):
        flip_byte(filled.path, place)
        try:
            volume = partition.open_volume(filled.volume_id)
        except AfsError as error:
            found += error.code is AfsCode.VSALVAGE
        else:
            assert everything(volume) == good
            crash(volume)
        for leftover in filled.path.parent.glob(f"{filled.path.name}-*"):
            leftover.unlink()
        filled.path.write_bytes(intact)
    assert found > 30


@pytest.mark.parametrize("sealed", [True, False])
def test_a_cut_database_is_found(partition: Partition, filled: SqliteVolume, sealed: bool) -> None:
    """A database cut off anywhere, or empty, does not come online."""
    filled.close() if sealed else crash(filled)
    good = filled.path.read_bytes()
    for length in (
        0,
        1,
        99,
        100,
        4095,
        4096,
        8192,
        len(good) // 2,
        len(good) - 4096,
        len(good) - 1,
    ):
        filled.path.write_bytes(good[:length])
        with pytest.raises(AfsError) as raised:
            partition.open_volume(filled.volume_id)
        assert raised.value.code is AfsCode.VSALVAGE


def test_another_volumes_database_is_not_taken_for_it(
    partition: Partition, filled: SqliteVolume
) -> None:
    """A database under a wrong name, and one that is no volume's, are VSALVAGE."""
    filled.close()
    partition.create_volume(volume_id=77, name="other").close()
    group = partition.path / "groups" / "77"
    shutil.copy(filled.path, group / "77.db")
    shutil.copy(filled.path.with_suffix(".seal"), group / "77.seal")
    with pytest.raises(AfsError, match="VSALVAGE"):
        partition.open_volume(77)
    (group / "77.db").unlink()
    (group / "77.seal").unlink()
    connection = sqlite3.connect(group / "77.db")
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(AfsError, match="VSALVAGE"):
        partition.open_volume(77)


def test_a_damaged_volume_does_not_disturb_others(
    partition: Partition, filled: SqliteVolume
) -> None:
    """One volume's damage leaves the others alone, and no chunk is collected on its word."""
    other = partition.create_volume(volume_id=77, name="other", read_write_id=filled.volume_id)
    fid = make_file(other, "x", data=noise(MIB, 9))
    filled.close()
    Path(filled.path).write_bytes(b"rubbish")
    store(other, fid, b"", truncate_to=0)
    other.collect()
    assert len(chunk_files(partition.path)) == 4
    with pytest.raises(AfsError, match="VSALVAGE"):
        partition.open_volume(filled.volume_id)
    assert other.vnode(Fid(77, 1, 1)).length == 1
    other.close()
