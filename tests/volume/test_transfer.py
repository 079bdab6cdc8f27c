"""Transfers: what arrives is what was sent, and only what is lacking is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from afs.errors import AfsError
from afs.types import SetStatus, VolumeHeader, VolumeType, root_fid
from afs.volume import sqlite_tables as rows
from afs.volume.dump import dump_pieces
from afs.volume.file_data import ChunkRef
from afs.volume.lost_data import LOST_HASH, mark_inline_lost
from afs.volume.partition import Partition
from afs.volume.remnant import remnants, set_aside
from afs.volume.restore import restore_volume
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.transfer import Transfer
from afs.volume.verify import check_rows
from afs.volume.volume import Link, RemoveFile, Rename, SetVolumeFields, StoreStatus
from tests.volume.building import (
    MIB,
    WallClock,
    chunk_files,
    collect_all,
    do,
    make_dir,
    make_file,
    make_symlink,
    noise,
    staged_files,
    store,
)
from tests.volume.comparing import inside
from tests.volume.sending import Sent, send_round

READ_ONLY_ID = 536870914


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Partition]:
    """The partition that receives."""
    partition = Partition.open(tmp_path / "vicepb", holder="target")
    yield partition
    partition.close()


@pytest.fixture
def filled(disk_volume: SqliteVolume) -> SqliteVolume:
    """A volume with one of everything."""
    make_file(disk_volume, "large", data=noise(3 * MIB + 5))
    make_file(disk_volume, "small", data=b"small")
    make_symlink(disk_volume, "link", "d/0")
    directory = make_dir(disk_volume, "d")
    for number in range(5):
        make_file(disk_volume, str(number), directory, b"x" * number)
    do(disk_volume, Link(directory, "twin", disk_volume.lookup(directory, "0").fid))
    return disk_volume


def moving(target: Partition, volume: SqliteVolume) -> Transfer:
    """A transfer of the volume itself."""
    return Transfer(
        target,
        volume_id=volume.volume_id,
        name=volume.header().name,
        type=VolumeType.READ_WRITE,
        read_write_id=volume.volume_id,
        clock_ns=WallClock(5_000_000_000),
    )


def releasing(target: Partition, volume: SqliteVolume) -> Transfer:
    """A transfer of the next state of its read-only volume."""
    return Transfer(
        target,
        volume_id=READ_ONLY_ID,
        name="test.readonly",
        type=VolumeType.READ_ONLY,
        read_write_id=volume.volume_id,
        clock_ns=WallClock(5_000_000_000),
    )


def change_everything(volume: SqliteVolume) -> None:
    """Changes of each kind."""
    root = root_fid(volume.volume_id)
    store(volume, volume.lookup(root, "large").fid, noise(MIB, 9), MIB)
    do(volume, RemoveFile(root, "link"))
    directory = volume.lookup(root, "d").fid
    new = make_dir(volume, "new")
    do(volume, Rename(directory, "3", root, "three"))
    do(volume, Rename(root, "d", new, "inner"))
    do(volume, RemoveFile(directory, "twin"))
    do(volume, RemoveFile(directory, "4"))
    do(volume, StoreStatus(directory, SetStatus(mode=0o700)))
    make_file(volume, "fresh", new, noise(2 * MIB, 3))


def identity(header: VolumeHeader) -> tuple[object, ...]:
    """What clients and other servers go by."""
    return (
        header.incarnation,
        header.change_counter,
        header.file_count,
        header.used_kib,
        header.max_quota_kib,
        header.updated_ns,
    )


def test_a_volume_moves_with_its_identity(target: Partition, filled: SqliteVolume) -> None:
    """Fids, DataVersions, counters and header are those of the source; the mark is set."""
    do(filled, SetVolumeFields(max_quota_kib=10**6, backup_id=7, offline_message="soon"))
    with moving(target, filled) as transfer:
        assert transfer.base is None
        sent = send_round(filled, transfer)
        assert (sent.chunks, sent.chunk_bytes) == (4, 3 * MIB + 5)
        header = transfer.put_in_place(in_transit=True)
    assert identity(header) == identity(filled.header())
    assert (header.in_transit, header.backup_id, header.offline_message) == (True, 7, "soon")
    assert header.created_ns == filled.header().created_ns
    with closing(target.open_volume(filled.volume_id)) as volume:
        assert volume.header() == header
        assert inside(volume) == inside(filled)
        assert volume.state.next_vnode == filled.state.next_vnode
        assert volume.state.next_uniquifier == filled.state.next_uniquifier
        assert volume.state.max_data_version == filled.state.max_data_version
        do(volume, SetVolumeFields(in_transit=False))
        assert volume.header().change_counter == header.change_counter
        make_file(volume, "new")
    check_rows(volume.path)
    assert staged_files(target.path) == []


def test_later_rounds_send_what_changed(target: Partition, filled: SqliteVolume) -> None:
    """Each round brings the changes since the one before: removals, renames and all."""
    with moving(target, filled) as transfer:
        send_round(filled, transfer)
        since = filled.header().change_counter
        change_everything(filled)
        second = send_round(filled, transfer, since)
        assert second.chunks == 3
        since = filled.header().change_counter
        store(filled, filled.lookup(root_fid(filled.volume_id), "small").fid, b"other")
        third = send_round(filled, transfer, since)
        assert (third.chunks, third.dump_bytes < 1000) == (0, True)
        # And nothing at all.
        assert send_round(filled, transfer, filled.header().change_counter).chunks == 0
        header = transfer.put_in_place(in_transit=False)
    assert identity(header) == identity(filled.header())
    with closing(target.open_volume(filled.volume_id)) as volume:
        assert inside(volume) == inside(filled)
        collect_all(volume)
    check_rows(volume.path)
    assert len(chunk_files(target.path)) == 6


def test_a_release_sends_only_what_the_site_lacks(
    partition: Partition, target: Partition, filled: SqliteVolume
) -> None:
    """The second time the read-only volume there is the base, and is replaced as a whole."""
    created = 0
    for number in range(3):
        with releasing(target, filled) as transfer:
            assert (transfer.base is None) == (number == 0)
            since = transfer.base.change_counter if transfer.base else 0
            sent = send_round(filled, transfer, since)
            assert sent.chunks == (4, 3, 0)[number]
            header = transfer.put_in_place(in_transit=False)
        assert (header.type, header.volume_id) == (VolumeType.READ_ONLY, READ_ONLY_ID)
        assert header.read_write_id == filled.volume_id
        assert identity(header) == identity(filled.header())
        assert created in (0, header.created_ns)
        created = header.created_ns
        with closing(target.open_volume(READ_ONLY_ID)) as volume:
            assert inside(volume) == inside(filled)
        if number == 0:
            change_everything(filled)
    collect_all(filled)
    assert {path.name for path in chunk_files(target.path)} == {
        path.name for path in chunk_files(partition.path)
    }


def test_a_base_that_is_in_use_stays_as_it_is(target: Partition, filled: SqliteVolume) -> None:
    """Readers of the read-only volume see the old state until the new one is put in place."""
    with releasing(target, filled) as transfer:
        send_round(filled, transfer)
        transfer.put_in_place(in_transit=False)
    old = target.open_volume(READ_ONLY_ID)
    before = inside(old)
    change_everything(filled)
    with releasing(target, filled) as transfer:
        assert transfer.base is not None
        send_round(filled, transfer, transfer.base.change_counter)
        with pytest.raises(AfsError, match="VBUSY"):
            transfer.put_in_place(in_transit=False)
        assert inside(old) == before
        old.close()
        transfer.put_in_place(in_transit=False)
    with closing(target.open_volume(READ_ONLY_ID)) as volume:
        assert inside(volume) == inside(filled)


def test_a_copy_has_an_identity_of_its_own(target: Partition, filled: SqliteVolume) -> None:
    """Another id: a fresh incarnation, the same contents."""
    with Transfer(
        target, volume_id=77, name="copy", type=VolumeType.READ_WRITE, read_write_id=77
    ) as transfer:
        send_round(filled, transfer)
        header = transfer.put_in_place(in_transit=False)
    assert (header.volume_id, header.name, header.read_write_id) == (77, "copy", 77)
    assert header.incarnation != filled.header().incarnation
    with closing(target.open_volume(77)) as copy:
        assert inside(copy) == inside(filled)
        store(copy, copy.lookup(root_fid(77), "small").fid, b"1")


def test_between_partitions_of_a_group_chunks_are_shared(
    partition: Partition, filled: SqliteVolume
) -> None:
    """On a partition that has a relative of the volume nothing is sent that it has."""
    with releasing(partition, filled) as transfer:
        assert send_round(filled, transfer).chunks == 0
        transfer.put_in_place(in_transit=False)
    assert len(chunk_files(partition.path)) == 4
    filled.close()
    partition.delete_volume(filled.volume_id)
    assert len(chunk_files(partition.path)) == 4


def test_a_transfer_given_up_leaves_nothing(target: Partition, filled: SqliteVolume) -> None:
    """Ended anywhere before it is put in place, it takes back all it wrote."""

    def nothing(_: Transfer) -> None:
        pass

    def begun(transfer: Transfer) -> None:
        transfer.begin(on_base=False)

    def half_a_dump(transfer: Transfer) -> None:
        begun(transfer)
        transfer.feed(b"".join(dump_pieces(filled, chunks=False))[:500])

    def a_dump(transfer: Transfer) -> None:
        begun(transfer)
        for piece in dump_pieces(filled, chunks=False):
            transfer.feed(piece)

    def some_chunks(transfer: Transfer) -> None:
        a_dump(transfer)
        hashes = [digest for page in transfer.missing() for digest in page]
        for digest in hashes[:2]:
            transfer.take_chunk(filled.chunks.read(digest))

    def a_round(transfer: Transfer) -> None:
        send_round(filled, transfer)

    def half_a_second_round(transfer: Transfer) -> None:
        a_round(transfer)
        counter = filled.header().change_counter
        transfer.feed(b"".join(dump_pieces(filled, since=counter, chunks=False))[:-10])

    steps: list[Callable[[Transfer], None]] = [
        nothing,
        begun,
        half_a_dump,
        a_dump,
        some_chunks,
        a_round,
        half_a_second_round,
    ]
    for step in steps:
        with moving(target, filled) as transfer:
            step(transfer)
        assert chunk_files(target.path) == []
        assert staged_files(target.path) == []
        assert target.volumes() == []


def test_only_what_was_asked_for_is_taken(target: Partition, filled: SqliteVolume) -> None:
    """A chunk that nobody asked for, or a damaged one, ends the transfer; so does a lacking one."""
    with moving(target, filled) as transfer:
        transfer.begin(on_base=False)
        for piece in dump_pieces(filled, chunks=False):
            transfer.feed(piece)
        hashes = [digest for page in transfer.missing() for digest in page]
        assert (transfer.missing_chunks, transfer.missing_bytes) == (4, 3 * MIB + 5)
        with pytest.raises(AfsError, match=r"EINVAL: chunk .* was not asked for"):
            transfer.take_chunk(b"anything")
        good = filled.chunks.read(hashes[0])
        transfer.take_chunk(good)
        with pytest.raises(AfsError, match="EINVAL"):
            transfer.take_chunk(good)
        with pytest.raises(AfsError, match="EINVAL: 3 chunks did not come"):
            transfer.finish_round()


def test_a_round_fits_its_base(target: Partition, filled: SqliteVolume) -> None:
    """Increments since anything else than what is there are refused, and name both."""
    counter = filled.header().change_counter
    with moving(target, filled) as transfer:
        with pytest.raises(AfsError, match="EINVAL"):
            transfer.begin(on_base=True)
        send_round(filled, transfer)
        with pytest.raises(AfsError, match="EINVAL"):
            transfer.begin(on_base=False)
        change_everything(filled)
        with pytest.raises(AfsError, match=rf"from change {counter - 1} .*: expected {counter} "):
            send_round(filled, transfer, counter - 1)
    with moving(target, filled) as transfer:
        transfer.begin(on_base=False)
        with pytest.raises(AfsError, match="EINVAL: bad dump: it is none that volservers send"):
            transfer.feed(b"".join(dump_pieces(filled)))


def test_a_volume_that_is_there_is_not_overwritten(target: Partition, filled: SqliteVolume) -> None:
    """VVOLEXISTS for a read-write volume, unless it is half of a move."""
    with moving(target, filled) as transfer:
        send_round(filled, transfer)
        transfer.put_in_place(in_transit=True)
    for expected in (True, False):
        with moving(target, filled) as transfer:
            send_round(filled, transfer)
            if expected:
                transfer.put_in_place(in_transit=False)
                continue
            with pytest.raises(AfsError, match="VVOLEXISTS"):
                transfer.put_in_place(in_transit=True)
    with closing(target.open_volume(filled.volume_id)) as volume:
        assert inside(volume) == inside(filled)


def test_a_damaged_base_is_none(target: Partition, filled: SqliteVolume) -> None:
    """A read-only volume that is damaged is sent anew and replaced."""
    with releasing(target, filled) as transfer:
        send_round(filled, transfer)
        transfer.put_in_place(in_transit=False)
    path = target.group_for(READ_ONLY_ID).database(READ_ONLY_ID)
    path.write_bytes(path.read_bytes()[:-4096] + b"rubbish" * 585 + b"x")
    with releasing(target, filled) as transfer:
        assert transfer.base is None
        assert send_round(filled, transfer, sent=Sent()).chunks == 0
        transfer.put_in_place(in_transit=False)
    with closing(target.open_volume(READ_ONLY_ID)) as volume:
        assert inside(volume) == inside(filled)


@pytest.mark.parametrize("damage", [False, True])
def test_a_move_back_builds_on_the_remnant(
    partition: Partition, target: Partition, filled: SqliteVolume, damage: bool
) -> None:
    """What a volume left behind when it moved away is not sent again; then the remnant is gone."""
    volume_id = filled.volume_id
    with moving(target, filled) as transfer:
        send_round(filled, transfer)
        transfer.put_in_place(in_transit=False)
    filled.close()
    set_aside(partition, volume_id)
    assert len(chunk_files(partition.path)) == 4
    if damage:
        [remnant] = remnants(partition)
        remnant.path.write_bytes(remnant.path.read_bytes()[:-1])
    with closing(target.open_volume(volume_id)) as volume:
        change_everything(volume)
        with moving(partition, volume) as transfer:
            assert (transfer.base is None) == damage
            since = transfer.base.change_counter if transfer.base else 0
            assert send_round(volume, transfer, since).chunks == 3
            header = transfer.put_in_place(in_transit=True)
        assert identity(header) == identity(volume.header())
        with closing(partition.open_volume(volume_id)) as back:
            assert inside(back) == inside(volume)
    assert remnants(partition) == []
    assert {path.name for path in chunk_files(target.path)} >= {
        path.name for path in chunk_files(partition.path)
    }


def test_what_is_known_to_be_lost_stays_so(
    partition: Partition, target: Partition, filled: SqliteVolume
) -> None:
    """A salvaged volume can be dumped and moved: lost data are lost there too, nothing else is."""
    root = root_fid(filled.volume_id)
    large, small = (filled.lookup(root, name).fid for name in ("large", "small"))
    link = filled.lookup(root, "link").fid
    mark_inline_lost(filled._writer, [small.vnode, link.vnode])
    rows.write_chunk_refs(filled._writer, large.vnode, [(1, ChunkRef(LOST_HASH, MIB))])
    with moving(target, filled) as transfer:
        assert send_round(filled, transfer).chunks == 3
        transfer.put_in_place(in_transit=False)
    restore_volume(partition, dump_pieces(filled), volume_id=77, name="copy").close()
    for volume_id, where in ((filled.volume_id, target), (77, partition)):
        with closing(where.open_volume(volume_id)) as volume:
            there = large._replace(volume=volume_id)
            with volume.snapshot(there) as snapshot:
                assert snapshot.read(0, MIB) == noise(3 * MIB + 5)[:MIB]
                with pytest.raises(AfsError, match="EIO"):
                    snapshot.read(MIB, 1)
            with pytest.raises(AfsError, match="EIO"):
                volume.snapshot(small._replace(volume=volume_id))
            with pytest.raises(AfsError, match="EIO"):
                volume.read_link(link._replace(volume=volume_id))
        check_rows(volume.path)
