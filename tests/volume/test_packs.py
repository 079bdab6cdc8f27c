"""Small data are moved to packs, which clones share; nobody notices, but clones cost little."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import INLINE_MAX_BYTES, PACKED_MIN_BYTES
from afs.types import Fid, VolumeType, root_fid
from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.chunk_store import ChunkStore
from afs.volume.dump import dump_pieces
from afs.volume.packed_rows import PACK_BYTES, read_packed
from afs.volume.packs import SmallData, bytes_to_pack
from afs.volume.partition import Partition
from afs.volume.restore import restore_volume
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.transfer import Transfer
from afs.volume.verify import check_rows
from afs.volume.volume import Outcome, RemoveFile, StoreData
from tests.volume.building import (
    MIB,
    chunk_files,
    collect_all,
    contents,
    do,
    listing,
    make_file,
    make_files,
    make_symlink,
    noise,
    stage,
    staged_files,
    store,
)
from tests.volume.comparing import contents_only, inside
from tests.volume.conftest import VOLUME_ID
from tests.volume.sending import send_round
from tests.volume.version_1 import make_version_2

ROOT = root_fid(VOLUME_ID)
CLONE_ID = VOLUME_ID + 1
# More than a pack's worth.
COUNT = 80


def fill(volume: SqliteVolume, count: int = COUNT, size: int = INLINE_MAX_BYTES) -> dict[str, Fid]:
    """Small files in the root directory, `f0` and so on; each has data of its own."""
    return make_files(volume, root_fid(volume.volume_id), files(count, size))


def files(count: int = COUNT, size: int = INLINE_MAX_BYTES, seed: int = 0) -> dict[str, bytes]:
    """Names and data."""
    return {f"f{number}": noise(size, 1000 * seed + number) for number in range(count)}


def packed(volume: SqliteVolume) -> dict[int, bytes]:
    """The packs that vnodes of a volume have their data in."""
    with volume.reading() as moment:
        return dict(moment.connection.execute("SELECT vnode, pack FROM packed"))


def in_database(volume: SqliteVolume) -> int:
    """How many bytes of small data are in a volume's database that might be elsewhere."""
    with volume.reading() as moment:
        return bytes_to_pack(moment.connection)


def test_small_data_leave_the_database_by_and_by(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """What is left there is less than a pack; contents and header are as before, also reopened."""
    made = fill(disk_volume)
    before, state = inside(disk_volume), disk_volume.state
    assert in_database(disk_volume) == COUNT * INLINE_MAX_BYTES
    collect_all(disk_volume)
    assert in_database(disk_volume) < PACK_BYTES
    assert len(packed(disk_volume)) + in_database(disk_volume) // INLINE_MAX_BYTES == COUNT
    assert {path.name for path in chunk_files(partition.path)} == {
        pack.hex() for pack in packed(disk_volume).values()
    }
    assert staged_files(partition.path) == []
    assert (inside(disk_volume), disk_volume.state) == (before, state)
    disk_volume.close()
    check_rows(disk_volume.path)
    with contextlib.closing(partition.open_volume(VOLUME_ID)) as again:
        assert (inside(again), again.state) == (before, state)
        assert contents(again, made["f7"]) == files()["f7"]


def test_little_data_stay_in_the_database(disk_volume: SqliteVolume) -> None:
    """A reference would be as long as they are (P2); targets of links are data like others."""
    make_files(disk_volume, ROOT, {f"t{n}": noise(PACKED_MIN_BYTES - 1, n) for n in range(50)})
    link = make_symlink(disk_volume, "link", "x" * 2000)
    fill(disk_volume)
    collect_all(disk_volume)
    assert len(packed(disk_volume)) >= PACK_BYTES // INLINE_MAX_BYTES
    assert disk_volume.read_link(link) == "x" * 2000
    assert (
        not {listing(disk_volume)[f"t{n}"].fid.vnode for n in range(50)}
        & packed(disk_volume).keys()
    )


def test_a_clone_copies_no_packed_data(partition: Partition, disk_volume: SqliteVolume) -> None:
    """It shares the packs: each goes when the last volume that needs it does."""
    made = files(4 * COUNT)
    for begin in range(0, len(made), COUNT):
        make_files(disk_volume, ROOT, dict(list(made.items())[begin : begin + COUNT]))
        collect_all(disk_volume)
    before, packs = inside(disk_volume), chunk_files(partition.path)
    partition.clone_volume(disk_volume, volume_id=CLONE_ID, name="c", type=VolumeType.BACKUP)
    database = disk_volume.path.with_name(f"{CLONE_ID}.db")
    assert database.stat().st_size < 3 * PACK_BYTES
    assert chunk_files(partition.path) == packs
    for name in made:
        do(disk_volume, RemoveFile(ROOT, name))
    collect_all(disk_volume)
    assert chunk_files(partition.path) == packs
    with contextlib.closing(partition.open_volume(CLONE_ID)) as clone:
        assert inside(clone) == before
    partition.delete_volume(CLONE_ID)
    assert chunk_files(partition.path) == []


def test_packed_data_are_changed_as_any_others(disk_volume: SqliteVolume) -> None:
    """Overwritten in the middle, cut, extended beyond what is small, removed."""
    made = fill(disk_volume)
    collect_all(disk_volume)
    where = packed(disk_volume)
    first, second, third, fourth = (made[f"f{n}"] for n in range(4))
    assert {fid.vnode for fid in (first, second, third, fourth)} <= where.keys()
    data = files()
    store(disk_volume, first, b"new", 100)
    assert contents(disk_volume, first) == data["f0"][:100] + b"new" + data["f0"][103:]
    store(disk_volume, second, b"", truncate_to=10)
    assert contents(disk_volume, second) == data["f1"][:10]
    store(disk_volume, third, noise(MIB), INLINE_MAX_BYTES)
    assert contents(disk_volume, third) == data["f2"] + noise(MIB)
    do(disk_volume, RemoveFile(ROOT, "f3"))
    assert where.keys() - packed(disk_volume).keys() == {
        fid.vnode for fid in (first, second, third, fourth)
    }
    collect_all(disk_volume)
    assert contents(disk_volume, made["f5"]) == data["f5"]
    disk_volume.close()
    check_rows(disk_volume.path)


def test_a_pack_of_which_little_is_needed_goes(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """What is needed is taken back and packed anew, so that room is not kept by what is gone."""
    made = fill(disk_volume, 4 * COUNT)
    collect_all(disk_volume)
    full = len(chunk_files(partition.path))
    kept = {name: fid for number, (name, fid) in enumerate(made.items()) if number % 4 == 0}
    disk_volume.apply([RemoveFile(ROOT, name) for name in made if name not in kept])
    before = inside(disk_volume)
    collect_all(disk_volume)
    assert len(chunk_files(partition.path)) <= full // 2
    assert inside(disk_volume) == before
    assert in_database(disk_volume) < PACK_BYTES
    disk_volume.close()
    check_rows(disk_volume.path)


def test_who_never_pauses_has_data_packed_all_the_same(disk_volume: SqliteVolume) -> None:
    """Without a moment for `collect`, changes themselves pay before there is too much."""
    for number in range(6):
        made = make_files(
            disk_volume,
            ROOT,
            {f"{number}/{n}".replace("/", "-"): noise(INLINE_MAX_BYTES, n) for n in range(COUNT)},
        )
    assert made
    assert in_database(disk_volume) <= 5 * PACK_BYTES
    assert packed(disk_volume)


def test_a_reader_never_sees_data_move(disk_volume: SqliteVolume) -> None:
    """While data are packed, taken back and collected, every read finds what was stored."""
    made = fill(disk_volume, 20)
    steady = list(made.values())[:10]
    data = list(files(20).values())[:10]
    done = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not done.is_set():
            for fid, expected in zip(steady, data, strict=True):
                try:
                    if contents(disk_volume, fid) != expected:
                        wrong.append(fid)
                except AfsError as error:
                    wrong.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(6):
            more = make_files(
                disk_volume, ROOT, {f"m{n}": noise(INLINE_MAX_BYTES, n) for n in range(COUNT)}
            )
            collect_all(disk_volume)
            disk_volume.apply([RemoveFile(ROOT, name) for name in more])
            collect_all(disk_volume)
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert wrong == []


def test_damage_costs_the_file_it_is_in(partition: Partition, disk_volume: SqliteVolume) -> None:
    """Each file's bytes are verified by themselves: EIO for that one, the others are served."""
    made = fill(disk_volume)
    collect_all(disk_volume)
    with disk_volume.reading() as moment:
        ref = read_packed(moment.connection, made["f9"].vnode)
    assert ref is not None
    path = disk_volume.chunks.path(ref.pack)
    damaged = bytearray(path.read_bytes())
    damaged[ref.offset + 5] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(AfsError, match="EIO"):
        contents(disk_volume, made["f9"])
    assert contents(disk_volume, made["f8"]) == files()["f8"]
    assert contents(disk_volume, made["f10"]) == files()["f10"]


def test_on_a_full_disk_data_stay_where_they_are(
    partition: Partition, disk_volume: SqliteVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packing waits for room; garbage is collected meanwhile, and nothing is lost."""
    make_file(disk_volume, "large", data=noise(2 * MIB))
    fill(disk_volume)
    do(disk_volume, RemoveFile(ROOT, "large"))
    before = inside(disk_volume)

    def full(_: ChunkStore) -> None:
        raise AfsError(AfsCode.VDISKFULL, "full")

    with monkeypatch.context() as patch:
        patch.setattr(ChunkStore, "check_room", full)
        collect_all(disk_volume)
        assert chunk_files(partition.path) == []
        assert staged_files(partition.path) == []
        assert packed(disk_volume) == {}
        assert inside(disk_volume) == before
    collect_all(disk_volume)
    assert packed(disk_volume)
    assert inside(disk_volume) == before


def test_a_disk_that_fails_while_data_are_taken_back_has_changed_nothing(
    partition: Partition, disk_volume: SqliteVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is told, the volume can be changed all the same, and a later try succeeds."""
    made = fill(disk_volume)
    collect_all(disk_volume)
    disk_volume.apply([RemoveFile(ROOT, name) for name in list(made)[5:70]])
    before, packs = inside(disk_volume), chunk_files(partition.path)

    def fail(*_: object) -> bytes:
        raise AfsError(AfsCode.VIO, "the disk fails")

    with monkeypatch.context() as patch:
        patch.setattr(SmallData, "read_ref", fail)
        with pytest.raises(AfsError, match="VIO"):
            disk_volume.collect()
    assert inside(disk_volume) == before
    make_file(disk_volume, "new", data=b"new")
    collect_all(disk_volume)
    assert chunk_files(partition.path) != packs
    do(disk_volume, RemoveFile(ROOT, "new"))
    assert {name: value for name, value in inside(disk_volume).items() if name} == {
        name: value for name, value in before.items() if name
    }


def test_packs_are_durable_before_they_are_referred_to(
    disk_volume: SqliteVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Synced and linked, then the commit that refers to them and drops the rows (C1)."""
    fill(disk_volume)
    events: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        real_fsync(descriptor)
        events.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).parent.name)

    def link(source: Path, target: Path) -> None:
        events.append("link")
        real_link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", link)
    disk_volume._writer.set_trace_callback(lambda statement: events.append(statement.split()[0]))
    disk_volume.collect()
    first = events.index("link")
    assert "fsync staging" in events[:first]
    assert events.index("fsync chunks") < events.index("COMMIT")
    assert first < events.index("BEGIN")
    assert max(at for at, event in enumerate(events) if event == "DELETE") < events.index("COMMIT")


# --- through dumps, transfers and upgrades --------------------------------------------------------


def test_what_is_restored_is_packed(partition: Partition, disk_volume: SqliteVolume) -> None:
    """From a volume with packs or without; the dumps are the same."""
    fill(disk_volume, 2 * COUNT)
    plain = b"".join(dump_pieces(disk_volume))
    collect_all(disk_volume)
    dump = b"".join(dump_pieces(disk_volume))
    assert len(dump) == len(plain)
    for number, each in enumerate((plain, dump)):
        with contextlib.closing(
            restore_volume(partition, [each], volume_id=50 + number, name=f"r{number}")
        ) as restored:
            assert contents_only(restored) == contents_only(disk_volume)
            assert in_database(restored) < PACK_BYTES
            assert packed(restored)
    assert staged_files(partition.path) == []


def test_a_restore_knows_what_is_the_same_wherever_it_lies(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """Only what differs gets a new DataVersion, packed or not (V3)."""
    made = fill(disk_volume)
    dump = b"".join(dump_pieces(disk_volume))
    store(disk_volume, made["f3"], b"other", 0)
    collect_all(disk_volume)
    versions = {name: disk_volume.vnode(fid).data_version for name, fid in made.items()}
    disk_volume.close()
    with contextlib.closing(
        restore_volume(partition, [dump], volume_id=VOLUME_ID, name="test")
    ) as restored:
        after = {name: restored.vnode(fid).data_version for name, fid in made.items()}
        assert [name for name in made if after[name] != versions[name]] == ["f3"]
        assert contents(restored, made["f3"]) == files()["f3"]


def test_a_later_transfer_sends_what_changed_and_leaves_no_room_wasted(
    partition: Partition, disk_volume: SqliteVolume, tmp_path: Path
) -> None:
    """Read-only copies follow; what lies in packs of which little is left is packed anew there."""
    there = Partition.open(tmp_path / "vicepb", holder="test")
    made = fill(disk_volume, 2 * COUNT)
    collect_all(disk_volume)
    full = _release(disk_volume, there)
    changed = list(made)[: len(made) * 2 // 3]
    for name in changed[:3]:
        store(disk_volume, made[name], noise(INLINE_MAX_BYTES, 5000))
    little = _release(disk_volume, there)
    assert little < full / 20
    staged = [stage(disk_volume, made[name], noise(INLINE_MAX_BYTES, 77)) for name in changed]
    answers = disk_volume.apply(
        [StoreData(made[name], data) for name, data in zip(changed, staged, strict=True)]
    )
    assert all(isinstance(answer, Outcome) for answer in answers)
    disk_volume.apply([RemoveFile(ROOT, name) for name in list(made)[-10:]])
    _release(disk_volume, there)
    with contextlib.closing(there.open_volume(CLONE_ID)) as copy:
        assert contents_only(copy) == contents_only(disk_volume)
        assert in_database(copy) < PACK_BYTES
        packs = {pack.hex() for pack in packed(copy).values()}
    check_rows(copy.path)
    assert {path.name for path in chunk_files(there.path)} == packs
    used = sum(path.stat().st_size for path in chunk_files(there.path))
    assert used <= 2 * len(made) * INLINE_MAX_BYTES
    assert staged_files(there.path) == []
    there.close()


def _release(volume: SqliteVolume, there: Partition) -> int:
    """Brings the read-only copy over there up to date; how many bytes that took."""
    with Transfer(
        there,
        volume_id=CLONE_ID,
        name="test.readonly",
        type=VolumeType.READ_ONLY,
        read_write_id=VOLUME_ID,
    ) as transfer:
        sent = send_round(volume, transfer, transfer.base.change_counter if transfer.base else 0)
        transfer.put_in_place(in_transit=False)
    return sent.dump_bytes + sent.chunk_bytes


def test_a_volume_of_version_2_is_packed_before_it_is_cloned(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """It is served as it is; the first clone makes it small, and so is every clone."""
    fill(disk_volume, 10 * COUNT)
    # As an older laterfs would have it: all in the database.
    with contextlib.closing(
        restore_as_version_2(partition, b"".join(dump_pieces(disk_volume)))
    ) as old:
        before = inside(old)
        assert in_database(old) == 10 * COUNT * INLINE_MAX_BYTES
        partition.clone_volume(old, volume_id=61, name="c", type=VolumeType.BACKUP)
        assert inside(old) == before
        assert old.path.with_name("61.db").stat().st_size < 6 * PACK_BYTES
        with contextlib.closing(partition.open_volume(61)) as clone:
            assert inside(clone) == before
    check_rows(old.path)


def restore_as_version_2(partition: Partition, dump: bytes) -> SqliteVolume:
    """A volume with all its small data in the database, upgraded from version 2."""
    volume = restore_volume(partition, [dump], volume_id=60, name="old")
    with volume.reading() as moment:
        numbers = [row[0] for row in moment.connection.execute("SELECT vnode FROM packed")]
    data = {
        fid.vnode: contents(volume, fid)
        for fid in (entry.fid for entry in listing(volume).values())
        if fid.vnode in numbers
    }
    volume.close()
    with contextlib.closing(sqlite_schema.connect(volume.path)) as connection:
        connection.execute("BEGIN")
        connection.execute("DELETE FROM packed")
        rows.write_inline(connection, data.items())
        connection.execute("COMMIT")
    make_version_2(volume.path, sealed=True)
    return partition.open_volume(60)
