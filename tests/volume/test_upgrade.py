"""Volumes of an older laterfs are opened, and what they know stays."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest

from afs.errors import AfsError
from afs.types import root_fid
from afs.volume import sqlite_schema
from afs.volume.dump import dump_pieces
from afs.volume.partition import Partition
from afs.volume.restore import restore_volume
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.verify import check_rows
from afs.volume.volume import SetVolumeFields
from tests.volume.building import MIB, contents, do, listing, make_dir, make_file, noise
from tests.volume.version_1 import make_version_1


@pytest.mark.parametrize("sealed", [True, False])
def test_a_volume_of_version_1_is_upgraded_when_it_is_opened(
    partition: Partition, disk_volume: SqliteVolume, sealed: bool
) -> None:
    """Contents, header and counters are as they were, sealed or not, and so it is when reopened."""
    large = make_file(disk_volume, "large", data=noise(2 * MIB))
    make_file(disk_volume, "small", make_dir(disk_volume, "d"), b"small")
    before = disk_volume.state
    vnode = disk_volume.vnode(large)
    disk_volume.close()
    make_version_1(disk_volume.path, sealed=sealed)
    assert partition.volume_header(disk_volume.volume_id) == before.header
    for _ in range(2):
        again = partition.open_volume(disk_volume.volume_id)
        assert again.state == before
        assert again.vnode(large) == vnode
        assert contents(again, large) == noise(2 * MIB)
        again.close()
        check_rows(again.path)
    changed = partition.open_volume(disk_volume.volume_id)
    make_file(changed, "new")
    assert set(listing(changed)) == {"large", "d", "new"}
    changed.close()
    check_rows(changed.path)


def test_an_upgrade_that_was_only_in_the_wal_is_not_done_twice(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """After a crash between commit and checkpoint the file still says version 1."""
    make_file(disk_volume, "a", data=b"x")
    before = disk_volume.state
    disk_volume.close()
    path = disk_volume.path
    make_version_1(path, sealed=False)
    old = path.read_bytes()
    partition.open_volume(disk_volume.volume_id).close()
    path.with_suffix(".seal").unlink()
    upgraded = path.read_bytes()
    # The same state as a WAL over the old file: the upgraded pages written there.
    with contextlib.closing(sqlite3.connect(":memory:")) as source:
        source.deserialize(_rollback_mode(upgraded))
        path.write_bytes(old)
        keeper = sqlite_schema.connect(path)
        keeper.execute("PRAGMA wal_autocheckpoint = 0")
        source.backup(keeper)
        wal = path.with_name(path.name + "-wal").read_bytes()
        keeper.close()
    path.write_bytes(old)
    path.with_name(path.name + "-wal").write_bytes(wal)
    again = partition.open_volume(disk_volume.volume_id)
    assert again.state == before
    again.close()
    check_rows(path)


def test_a_damaged_row_stops_the_upgrade(partition: Partition, disk_volume: SqliteVolume) -> None:
    """VSALVAGE, and the row does not get a fresh checksum."""
    make_file(disk_volume, "a", data=b"x")
    disk_volume.close()
    make_version_1(disk_volume.path, sealed=False)
    with contextlib.closing(sqlite_schema.connect(disk_volume.path)) as connection:
        connection.execute("UPDATE vnodes SET mode = mode + 1 WHERE vnode = 2")
    for _ in range(2):
        with pytest.raises(AfsError, match=r"VSALVAGE: .* vnode 2"):
            partition.open_volume(disk_volume.volume_id)


def test_a_dump_is_restored_over_a_volume_of_version_1(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Its history goes on, though nobody opened it since laterfs was upgraded."""
    make_file(disk_volume, "a", data=b"x")
    dump = b"".join(dump_pieces(disk_volume))
    before = disk_volume.header()
    disk_volume.close()
    make_version_1(disk_volume.path, sealed=True)
    restored = restore_volume(partition, [dump], volume_id=disk_volume.volume_id, name="x")
    assert restored.header().incarnation == before.incarnation
    assert restored.header().change_counter > before.change_counter
    restored.close()


def test_every_change_stamps_the_vnodes_it_touched(disk_volume: SqliteVolume) -> None:
    """`changed` is the counter of the commit that wrote the row; a clone's rows keep theirs."""
    fid = make_file(disk_volume, "a", data=b"x")
    counter = disk_volume.header().change_counter
    with disk_volume.reading() as moment:
        stamps = dict(moment.connection.execute("SELECT vnode, changed FROM vnodes"))
    assert stamps == {1: counter - 1, fid.vnode: counter}
    assert root_fid(disk_volume.volume_id).vnode == 1


def test_the_mark_of_a_move_is_no_change(partition: Partition, disk_volume: SqliteVolume) -> None:
    """Setting or clearing `in_transit` keeps the change counter (M5b), and survives reopening."""
    volume = disk_volume
    counter = volume.header().change_counter
    do(volume, SetVolumeFields(in_transit=True))
    assert (volume.header().in_transit, volume.header().change_counter) == (True, counter)
    volume.close()
    again = partition.open_volume(volume.volume_id)
    assert again.header().in_transit
    do(again, SetVolumeFields(in_transit=False))
    assert (again.header().in_transit, again.header().change_counter) == (False, counter)
    do(again, SetVolumeFields(in_transit=False, leave_offline=True))
    assert again.header().change_counter == counter + 1
    again.close()


def _rollback_mode(database: bytes) -> bytes:
    """The database as one that is not in WAL mode: SQLite can only hold such ones in memory."""
    return database[:18] + b"\x01\x01" + database[20:]
