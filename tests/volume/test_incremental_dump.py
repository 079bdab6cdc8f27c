"""Incremental dumps, restored over what they are increments of."""

from __future__ import annotations

from contextlib import closing

import pytest

from afs.errors import AfsError
from afs.types import SetStatus, VnodeType, VolumeType, root_fid
from afs.v1 import dump_pb2
from afs.volume.dump import dump_pieces
from afs.volume.dump_frames import FrameKind, FrameReader, FrameWriter
from afs.volume.partition import Partition
from afs.volume.restore import Restore, restore_volume
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.verify import check_rows
from afs.volume.volume import Link, RemoveFile, Rename, SetVolumeFields, StoreStatus
from tests.volume.building import (
    MIB,
    chunk_files,
    do,
    make_dir,
    make_file,
    make_files,
    make_symlink,
    noise,
    staged_files,
    store,
)
from tests.volume.comparing import contents_only

COPY_ID = 1000


@pytest.fixture
def filled(disk_volume: SqliteVolume) -> SqliteVolume:
    """A volume with one of everything."""
    make_file(disk_volume, "large", data=noise(2 * MIB + 5))
    make_file(disk_volume, "small", data=b"small")
    make_symlink(disk_volume, "link", "d/0")
    directory = make_dir(disk_volume, "d")
    for number in range(5):
        make_file(disk_volume, str(number), directory, b"x" * number)
    do(disk_volume, Link(directory, "twin", disk_volume.lookup(directory, "0").fid))
    make_dir(disk_volume, "inner", directory)
    return disk_volume


def change_everything(volume: SqliteVolume) -> None:
    """Changes of each kind."""
    root = root_fid(volume.volume_id)
    store(volume, volume.lookup(root, "large").fid, noise(MIB, 9), MIB)
    do(volume, RemoveFile(root, "link"))
    directory = volume.lookup(root, "d").fid
    new = make_dir(volume, "new")
    do(volume, Rename(directory, "3", root, "three"))
    do(volume, Rename(root, "d", new, "d"))
    do(volume, RemoveFile(directory, "twin"))
    do(volume, RemoveFile(directory, "4"))
    do(volume, StoreStatus(directory, SetStatus(mode=0o700)))
    make_file(volume, "fresh", new, noise(2 * MIB, 3))


def dump_of(volume: SqliteVolume, since: int = 0) -> bytes:
    """A dump in one piece."""
    return b"".join(dump_pieces(volume, since=since))


def counter_of(volume: SqliteVolume) -> int:
    """The change counter."""
    return volume.header().change_counter


def restored(partition: Partition, dump: bytes, volume_id: int = COPY_ID) -> None:
    """Restores a dump and closes the volume."""
    restore_volume(partition, [dump], volume_id=volume_id, name="copy").close()


def test_a_full_dump_and_its_increments_make_the_same_volume(
    partition: Partition, filled: SqliteVolume
) -> None:
    """Restored one after the other they give what the volume is now; none can be left out."""
    full, first = dump_of(filled), counter_of(filled)
    change_everything(filled)
    one, second = dump_of(filled, first), counter_of(filled)
    make_file(filled, "last", data=b"last")
    two = dump_of(filled, second)
    assert len(two) < len(one) < len(full) + 3 * MIB
    restored(partition, full)
    with pytest.raises(AfsError, match=rf"EINVAL: .* from change {second} of .* is at change"):
        restored(partition, two)
    restored(partition, one)
    # What is said of the volume changes none of its contents.
    with closing(partition.open_volume(COPY_ID)) as copy:
        do(copy, SetVolumeFields(backup_id=7, offline_message="x"))
    restored(partition, two)
    with closing(partition.open_volume(COPY_ID)) as copy:
        assert contents_only(copy) == contents_only(filled)
        assert copy.state.next_uniquifier == filled.state.next_uniquifier
    check_rows(copy.path)
    assert staged_files(partition.path) == []


def test_an_increment_is_refused_over_anything_else(
    partition: Partition, filled: SqliteVolume
) -> None:
    """A volume changed since, another volume, no volume: EINVAL, and nothing is changed."""
    full, first = dump_of(filled), counter_of(filled)
    change_everything(filled)
    increment = dump_of(filled, first)
    chunks = chunk_files(partition.path)
    with pytest.raises(AfsError, match=rf"EINVAL: .* from change {first} of .* no volume 1000"):
        restored(partition, increment)
    assert partition.volumes() == [filled.volume_id]
    partition.create_volume(volume_id=99, name="other").close()
    with pytest.raises(AfsError, match="EINVAL: the dump is incremental"):
        restored(partition, increment, 99)
    restored(partition, full)
    with closing(partition.open_volume(COPY_ID)) as copy:
        make_file(copy, "mine")
        before = contents_only(copy)
    with pytest.raises(AfsError, match="EINVAL: the dump is incremental"):
        restored(partition, increment)
    with closing(partition.open_volume(COPY_ID)) as copy:
        assert contents_only(copy) == before
        assert "/mine" in before
    assert set(chunks) <= set(chunk_files(partition.path))


def test_a_base_that_changes_meanwhile_is_noticed(
    partition: Partition, filled: SqliteVolume
) -> None:
    """The volume is online while the dump comes in: what was stored then is not lost silently."""
    full, first = dump_of(filled), counter_of(filled)
    change_everything(filled)
    increment = dump_of(filled, first)
    restored(partition, full)
    with Restore(partition, volume_id=COPY_ID, name="copy") as restore:
        restore.feed(increment)
        restore.finish()
        with closing(partition.open_volume(COPY_ID)) as copy:
            make_file(copy, "mine")
        with pytest.raises(AfsError, match=r"EINVAL: .* changed while the dump came in"):
            restore.put_in_place()
    with closing(partition.open_volume(COPY_ID)) as copy:
        assert "/mine" in contents_only(copy)


def test_an_increment_goes_over_the_volume_it_was_taken_of(
    partition: Partition, filled: SqliteVolume
) -> None:
    """Gone back to an old full dump, the volume takes the increment again (V3 for DataVersions)."""
    root = root_fid(filled.volume_id)
    full, first = dump_of(filled), counter_of(filled)
    change_everything(filled)
    increment, latest = dump_of(filled, first), contents_only(filled)
    incarnation, small = filled.header().incarnation, filled.lookup(root, "small")
    largest = filled.state.max_data_version
    filled.close()
    restored(partition, full, filled.volume_id)
    restored(partition, increment, filled.volume_id)
    with closing(partition.open_volume(filled.volume_id)) as volume:
        assert contents_only(volume) == latest
        assert volume.header().incarnation == incarnation
        assert volume.vnode(small.fid).data_version == small.data_version
        assert volume.lookup(root, "large").data_version > largest


@pytest.mark.parametrize("type", [VolumeType.BACKUP, VolumeType.READ_ONLY])
def test_clones_can_be_dumped_in_place_of_the_volume(
    partition: Partition, filled: SqliteVolume, type: VolumeType
) -> None:
    """A full dump of one backup and an increment of the next fit together."""

    def clone_dump(since: int) -> tuple[bytes, int]:
        partition.clone_volume(filled, volume_id=filled.volume_id + 2, name="x", type=type)
        with closing(partition.open_volume(filled.volume_id + 2)) as clone:
            return dump_of(clone, since), counter_of(clone)

    full, since = clone_dump(0)
    change_everything(filled)
    increment, _ = clone_dump(since)
    restored(partition, full)
    restored(partition, increment)
    with closing(partition.open_volume(COPY_ID)) as copy:
        assert contents_only(copy) == contents_only(filled)


def test_what_was_never_reached_cannot_be_dumped_since(filled: SqliteVolume) -> None:
    """EINVAL names the counter the volume is at."""
    with pytest.raises(AfsError, match=rf"EINVAL: .* is at change {counter_of(filled)}"):
        dump_of(filled, counter_of(filled) + 1)


def test_many_holes_in_the_numbers(
    partition: Partition, disk_volume: SqliteVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of what exists is right with gaps everywhere, also over several frames."""
    root = root_fid(disk_volume.volume_id)
    make_files(disk_volume, root, {f"f{number}": b"" for number in range(60)})
    for number in range(6):
        make_dir(disk_volume, f"d{number}")
    full, since = dump_of(disk_volume), counter_of(disk_volume)
    for number in [*range(0, 60, 2), 1, 3, 57, 59]:
        do(disk_volume, RemoveFile(root, f"f{number}"))
    monkeypatch.setattr("afs.volume.dump._RUNS_PER_FRAME", 4)
    restored(partition, full)
    restored(partition, dump_of(disk_volume, since))
    with closing(partition.open_volume(COPY_ID)) as copy:
        assert contents_only(copy) == contents_only(disk_volume)


# --- hostile increments ---------------------------------------------------------------------------


def rewritten(dump: bytes, change: dict[FrameKind, object]) -> bytes:
    """A dump with frames changed by functions of their payload (None: dropped), sums made right."""
    writer = FrameWriter()
    parts = [writer.start()]
    vnodes = 0
    for frame in FrameReader().feed(dump):
        payload: bytes | None = frame.payload
        function = change.get(frame.kind)
        if callable(function):
            payload = function(payload)
        if payload is None:
            continue
        vnodes += frame.kind is FrameKind.VNODE
        if frame.kind is FrameKind.TRAILER:
            trailer = dump_pb2.DumpTrailer.FromString(payload)
            trailer.vnode_count = vnodes
            trailer.blake3 = writer.digest
            payload = trailer.SerializeToString()
        parts.append(writer.frame(frame.kind, payload))
    return b"".join(parts)


def on_header(**fields: int | str) -> dict[FrameKind, object]:
    """Sets fields of the header."""

    def change(payload: bytes) -> bytes:
        header = dump_pb2.DumpHeader.FromString(payload)
        for name, value in fields.items():
            setattr(header, name, value)
        return header.SerializeToString()

    return {FrameKind.HEADER: change}


def on_present(**fields: list[int] | None) -> dict[FrameKind, object]:
    """Replaces the lists of what exists; None leaves one out."""

    def change(payload: bytes) -> bytes:
        message = dump_pb2.DumpPresent.FromString(payload)
        for name, value in fields.items():
            if getattr(message, name):
                del getattr(message, name)[:]
                getattr(message, name).extend(value or [])
        return message.SerializeToString()

    return {FrameKind.PRESENT: change}


def without_vnode(kind: VnodeType) -> dict[FrameKind, object]:
    """Leaves the first vnode of a type out."""
    seen: list[int] = []

    def change(payload: bytes) -> bytes | None:
        message = dump_pb2.DumpVnode.FromString(payload)
        if int(message.status.type) == kind and not seen:
            seen.append(1)
            return None
        return payload

    return {FrameKind.VNODE: change}


def on_vnode(kind: VnodeType, **fields: int) -> dict[FrameKind, object]:
    """Sets fields of the first vnode of a type: of the message, or of its status."""
    seen: list[int] = []

    def change(payload: bytes) -> bytes:
        message = dump_pb2.DumpVnode.FromString(payload)
        if int(message.status.type) == kind and not seen:
            seen.append(1)
            for name, value in fields.items():
                place = message if name == "changed" else message.status
                setattr(place, name, value)
        return message.SerializeToString()

    return {FrameKind.VNODE: change}


HOSTILE: dict[str, dict[FrameKind, object]] = {
    "since beyond the volume": on_header(since=10**6),
    "absurd since": on_header(since=2**63),
    "without incarnation": on_header(incarnation=""),
    "another incarnation": on_header(incarnation="0" * 16),
    "too many vnodes": on_header(vnode_count=2**60),
    "too few vnodes": on_header(vnode_count=1),
    "counters gone back": on_header(next_vnode=3),
    "a full one with a list": on_header(since=0),
    "without its list": {FrameKind.PRESENT: lambda _: None},
    "a list of nothing": on_present(directories=[], others=[]),
    "a list that never ends": on_present(others=[0, 2**32 - 1]),
    "a list with half a run": on_present(others=[3]),
    "a list of others": on_present(others=[500, 8]),
    "a list without the root": on_present(directories=[1, 4]),
    "changed before its time": on_vnode(VnodeType.FILE, changed=1),
    "changed in the future": on_vnode(VnodeType.FILE, changed=10**9),
    "without its directory": without_vnode(VnodeType.DIRECTORY),
    "without a file": without_vnode(VnodeType.FILE),
    "links miscounted": on_vnode(VnodeType.DIRECTORY, link_count=9),
    "names miscounted": on_vnode(VnodeType.FILE, link_count=2),
    "a directory of another length": on_vnode(VnodeType.DIRECTORY, length=1),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_increment_changes_nothing(
    partition: Partition, filled: SqliteVolume, what: str
) -> None:
    """EINVAL, and base, chunks and staging are as they were (R9)."""
    full, first = dump_of(filled), counter_of(filled)
    change_everything(filled)
    increment = dump_of(filled, first)
    restored(partition, full)
    with closing(partition.open_volume(COPY_ID)) as copy:
        before, state = contents_only(copy), copy.state
    chunks = chunk_files(partition.path)
    assert rewritten(increment, {}) == increment
    with pytest.raises(AfsError, match="EINVAL"):
        restored(partition, rewritten(increment, HOSTILE[what]))
    with closing(partition.open_volume(COPY_ID)) as copy:
        assert (contents_only(copy), copy.state) == (before, state)
    assert chunk_files(partition.path) == chunks
    assert staged_files(partition.path) == []
    # As it is, it fits.
    restored(partition, increment)


def test_a_dump_without_chunks_cannot_be_restored(
    partition: Partition, filled: SqliteVolume
) -> None:
    """It is half of a transfer: EINVAL says so."""
    dump = b"".join(dump_pieces(filled, chunks=False))
    with pytest.raises(AfsError, match="EINVAL: bad dump: it has no chunks"):
        restored(partition, dump)


def test_a_cut_or_damaged_increment_changes_nothing(
    partition: Partition, filled: SqliteVolume
) -> None:
    """Cut anywhere, or one byte changed anywhere: EINVAL (R9)."""
    full, first = dump_of(filled), counter_of(filled)
    make_file(filled, "new", data=b"new")
    do(filled, RemoveFile(root_fid(filled.volume_id), "link"))
    increment = dump_of(filled, first)
    restored(partition, full)
    with closing(partition.open_volume(COPY_ID)) as copy:
        state = copy.state
    for place in range(0, len(increment), 23):
        with pytest.raises(AfsError, match="EINVAL"):
            restored(partition, increment[:place])
        damaged = bytearray(increment)
        damaged[place] ^= 0x10
        with pytest.raises(AfsError, match="EINVAL"):
            restored(partition, bytes(damaged))
    with closing(partition.open_volume(COPY_ID)) as copy:
        assert copy.state == state
