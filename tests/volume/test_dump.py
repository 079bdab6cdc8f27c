"""Dumps: what goes round comes round, and a bad dump changes nothing (R9)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import INLINE_MAX_BYTES
from afs.types import Fid, SetStatus, VnodeType, VolumeType, root_fid
from afs.v1 import dump_pb2
from afs.volume.dump import dump_pieces, dump_volume
from afs.volume.dump_frames import MAGIC, FrameKind, FrameReader, FrameWriter
from afs.volume.partition import Partition
from afs.volume.restore import Restore, restore_volume
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.verify import check_rows
from afs.volume.volume import Link, RemoveFile, Rename, SetVolumeFields, StoreStatus
from tests.volume.building import (
    MIB,
    chunk_files,
    collect_all,
    contents,
    do,
    listing,
    make_dir,
    make_file,
    make_symlink,
    noise,
    staged_files,
    store,
)
from tests.volume.comparing import inside

COPY_ID = 1000


@pytest.fixture
def filled(disk_volume: SqliteVolume) -> SqliteVolume:
    """A volume with one of everything."""
    root = root_fid(disk_volume.volume_id)
    make_file(disk_volume, "large", data=noise(2 * MIB + 5))
    sparse = make_file(disk_volume, "sparse", data=noise(INLINE_MAX_BYTES + 1))
    store(disk_volume, sparse, b"end", 10 * MIB)
    do(disk_volume, StoreStatus(sparse, SetStatus(length=11 * MIB)))
    make_file(disk_volume, "small", data=b"small")
    make_file(disk_volume, "empty")
    make_symlink(disk_volume, "link", "d/0")
    directory = make_dir(disk_volume, "d", make_dir(disk_volume, "above"))
    do(disk_volume, Rename(disk_volume.lookup(root, "above").fid, "d", root, "d"))
    for number in range(5):
        make_file(disk_volume, str(number), directory, b"x" * number)
    do(disk_volume, Link(directory, "twin", disk_volume.lookup(directory, "0").fid))
    do(disk_volume, StoreStatus(directory, SetStatus(mode=0o1700, owner=5, group=6)))
    return disk_volume


def dump_of(volume: SqliteVolume) -> bytes:
    """A dump in one piece."""
    return b"".join(dump_pieces(volume))


def test_a_dump_restores_to_the_same_volume(partition: Partition, filled: SqliteVolume) -> None:
    """A new volume has the contents, attributes and numbers of the dump, and its own identity."""
    with closing(
        restore_volume(partition, dump_pieces(filled), volume_id=COPY_ID, name="copy")
    ) as copy:
        assert inside(copy) == inside(filled)
        header, source = copy.header(), filled.header()
        assert (header.volume_id, header.name, header.type) == (
            COPY_ID,
            "copy",
            VolumeType.READ_WRITE,
        )
        assert (header.used_kib, header.file_count) == (source.used_kib, source.file_count)
        assert header.incarnation != source.incarnation
        assert copy.state.next_uniquifier == filled.state.next_uniquifier
        make_file(copy, "new")
        again = b"".join(dump_pieces(copy))
    check_rows(copy.path)
    assert len(again) > len(MAGIC)
    assert staged_files(partition.path) == []


def test_a_dump_may_come_in_any_pieces(partition: Partition, filled: SqliteVolume) -> None:
    """One byte at a time, at the boundaries of messages or all at once: the same."""
    dump = dump_of(filled)
    header_part, rest = dump[:3000], dump[3000:]
    pieces = [bytes([byte]) for byte in header_part] + [rest[:70_000], rest[70_000:], b""]
    with closing(restore_volume(partition, pieces, volume_id=COPY_ID, name="copy")) as copy:
        assert inside(copy) == inside(filled)


def test_dumping_tells_progress_and_sees_one_moment(
    partition: Partition, filled: SqliteVolume
) -> None:
    """A volume that changes while it is dumped is dumped as it was when the dump began."""
    before = inside(filled)
    told: list[tuple[int, int]] = []
    written: list[bytes] = []

    def write(piece: bytes) -> None:
        if not written:
            do(filled, RemoveFile(root_fid(filled.volume_id), "sparse"))
            store(
                filled, filled.lookup(root_fid(filled.volume_id), "large").fid, b"x", truncate_to=0
            )
            collect_all(filled)
        written.append(piece)

    dump_volume(filled, write, lambda done, total: told.append((done, total)))
    # A file has two names.
    count = len(before) - 1
    assert told == [(done, count) for done in range(1, count + 1)]
    with closing(restore_volume(partition, written, volume_id=COPY_ID, name="copy")) as copy:
        assert inside(copy) == before


def test_a_long_directory_and_a_long_file_take_several_frames(
    partition: Partition, filled: SqliteVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit in one frame goes on in the next."""
    monkeypatch.setattr("afs.volume.dump._ITEMS_PER_FRAME", 2)
    dump = dump_of(filled)
    kinds = [frame.kind for frame in FrameReader().feed(dump)]
    # The root has 7 entries, `d` 6, the large file 3 chunks.
    assert kinds.count(FrameKind.MORE) == 3 + 2 + 1
    with closing(restore_volume(partition, [dump], volume_id=COPY_ID, name="copy")) as copy:
        assert inside(copy) == inside(filled)


def test_a_damaged_volume_gives_no_whole_dump(partition: Partition, filled: SqliteVolume) -> None:
    """A chunk that is damaged ends the dump with EIO, and what was written cannot be restored."""
    chunk_files(partition.path)[0].write_bytes(b"rubbish")
    written: list[bytes] = []
    with pytest.raises(AfsError, match="EIO"):
        dump_volume(filled, written.append)
    with pytest.raises(AfsError, match="EINVAL: bad dump"):
        restore_volume(partition, written, volume_id=COPY_ID, name="copy")


def test_restored_over_a_volume_only_what_changed_gets_a_new_data_version(
    partition: Partition, filled: SqliteVolume
) -> None:
    """The same Fid and contents keep their DataVersion, all else gets a new one (V3)."""
    root = root_fid(filled.volume_id)
    dump = dump_of(filled)
    large, small, empty = (filled.lookup(root, name) for name in ("large", "small", "empty"))
    directory = filled.lookup(root, "d")
    store(filled, small.fid, b"other", truncate_to=0)
    store(filled, empty.fid, b"was empty")
    store(filled, large.fid, b"?", 100)
    do(filled, StoreStatus(directory.fid, SetStatus(mode=0o777)))
    extra = make_file(filled, "extra")
    do(filled, SetVolumeFields(name="renamed", max_quota_kib=10**6))
    before = filled.state
    unchanged = filled.lookup(root, "sparse")
    filled.close()
    with closing(
        restore_volume(partition, [dump], volume_id=filled.volume_id, name="ignored")
    ) as volume:
        header = volume.header()
        assert (header.name, header.max_quota_kib) == ("renamed", 10**6)
        assert header.incarnation == before.header.incarnation
        assert header.change_counter > before.header.change_counter
        assert volume.state.next_uniquifier == before.next_uniquifier
        for old in (large, small, empty, volume.vnode(root)):
            now = volume.vnode(old.fid)
            assert now.data_version > before.max_data_version
        for old in (unchanged, directory):
            assert volume.vnode(old.fid).data_version == old.data_version
        assert volume.vnode(directory.fid).mode == directory.mode
        assert contents(volume, large.fid) == noise(2 * MIB + 5)
        with pytest.raises(AfsError, match="VNOVNODE"):
            volume.vnode(extra)
        new = make_file(volume, "new")
        assert new.uniquifier > extra.uniquifier
        assert new.vnode > extra.vnode
        versions = {volume.vnode(root).data_version}
    # Restoring the same dump again changes the root back, and its DataVersion is new once more.
    with closing(restore_volume(partition, [dump], volume_id=filled.volume_id, name="x")) as volume:
        versions.add(volume.vnode(root).data_version)
        assert volume.vnode(small.fid).data_version < max(versions)
        assert len(versions) == 2
        assert list(listing(volume)) == ["above", "d", "empty", "large", "link", "small", "sparse"]
    check_rows(volume.path)


def test_a_dump_of_another_volume_takes_a_volumes_place(
    partition: Partition, filled: SqliteVolume
) -> None:
    """Fids that mean something else now have DataVersions that no client has seen."""
    other = partition.create_volume(volume_id=COPY_ID, name="other")
    fid = make_file(other, "mine", data=noise(MIB, 5))
    for number in range(20):
        store(other, fid, noise(MIB, 6 + number))
    before = other.state
    other.close()
    with closing(
        restore_volume(partition, dump_pieces(filled), volume_id=COPY_ID, name="x")
    ) as copy:
        taken = copy.vnode(fid._replace(uniquifier=2))
        assert taken.data_version > before.max_data_version
        assert contents(copy, copy.lookup(root_fid(COPY_ID), "large").fid) == noise(2 * MIB + 5)
        assert copy.header().name == "other"
    group = partition.group_for(COPY_ID).path
    assert len(list(group.glob("chunks/*/*"))) == len(chunk_files(filled.path.parents[2])) - 5


def test_a_volume_in_use_is_not_restored_over(partition: Partition, filled: SqliteVolume) -> None:
    """VBUSY at the swap, and the volume is served on; nothing of the restore is left."""
    dump = dump_of(filled)
    before, chunks = inside(filled), chunk_files(partition.path)
    with pytest.raises(AfsError, match="VBUSY"):
        restore_volume(partition, [dump], volume_id=filled.volume_id, name="x")
    assert inside(filled) == before
    assert chunk_files(partition.path) == chunks
    assert partition.volumes() == [filled.volume_id]


def test_a_volume_whose_header_is_damaged_is_not_restored_over(
    partition: Partition, filled: SqliteVolume
) -> None:
    """Its history is lost: delete it first (VSALVAGE); other damage is healed by the restore."""
    dump = dump_of(filled)
    expected = inside(filled)
    filled.close()
    good = filled.path.read_bytes()
    filled.path.write_bytes(b"rubbish" * 1000)
    with pytest.raises(AfsError) as raised:
        restore_volume(partition, [dump], volume_id=filled.volume_id, name="x")
    assert raised.value.code is AfsCode.VSALVAGE
    filled.path.write_bytes(good[: len(good) - 8192] + bytes(8192))
    with pytest.raises(AfsError, match="VSALVAGE"):
        partition.open_volume(filled.volume_id)
    with closing(restore_volume(partition, [dump], volume_id=filled.volume_id, name="x")) as volume:
        assert {path: row[:4] for path, row in inside(volume).items()} == {
            path: row[:4] for path, row in expected.items()
        }


# --- hostile dumps -------------------------------------------------------------------------------


def frames_of(dump: bytes) -> list[tuple[FrameKind, bytes]]:
    """The frames of a good dump."""
    return [(frame.kind, frame.payload) for frame in FrameReader().feed(dump)]


def assembled(frames: list[tuple[FrameKind, bytes]], *, counts: bool = True) -> bytes:
    """A dump of any frames, its checksums right; with `counts` the counts too."""
    writer = FrameWriter()
    dump = writer.start()
    for kind, payload in frames:
        if kind is FrameKind.TRAILER:
            trailer = dump_pb2.DumpTrailer.FromString(payload)
            trailer.blake3 = writer.digest
            if counts:
                trailer.vnode_count = sum(kind is FrameKind.VNODE for kind, _ in frames)
                trailer.chunk_count = sum(kind is FrameKind.CHUNK for kind, _ in frames)
            payload = trailer.SerializeToString()
        if kind is FrameKind.HEADER and counts:
            header = dump_pb2.DumpHeader.FromString(payload)
            header.vnode_count = sum(kind is FrameKind.VNODE for kind, _ in frames)
            payload = header.SerializeToString()
        dump += writer.frame(kind, payload)
    return dump


@pytest.fixture
def target(partition: Partition, filled: SqliteVolume) -> Iterator[Callable[[bytes], str]]:
    """Feeds a dump, expects it to be refused with nothing changed, and tells the detail."""
    dump_of(filled)
    victim = partition.create_volume(volume_id=COPY_ID, name="victim")
    make_file(victim, "mine", data=noise(MIB + 1, 3))
    victim.close()

    def state() -> tuple[object, ...]:
        files = [path for path in sorted(victim.path.parent.rglob("*")) if path.is_file()]
        return tuple((path, path.read_bytes()) for path in files if path.suffix != ".lock")

    before = state()

    def refuse(dump: bytes) -> str:
        with pytest.raises(AfsError) as raised:
            restore_volume(partition, [dump], volume_id=COPY_ID, name="x").close()
        assert raised.value.code is AfsCode.EINVAL, raised.value
        assert state() == before
        return raised.value.detail

    yield refuse
    with closing(partition.open_volume(COPY_ID)) as victim:
        assert list(listing(victim)) == ["mine"]


def test_a_cut_dump_is_refused(filled: SqliteVolume, target: Callable[[bytes], str]) -> None:
    """A dump cut anywhere, at the boundary of a frame above all, changes nothing."""
    dump = dump_of(filled)
    frames = frames_of(dump)
    whole = FrameWriter()
    ends = [0, len(whole.start())]
    for kind, payload in frames:
        ends.append(ends[-1] + len(whole.frame(kind, payload)))
    assert ends.pop() == len(dump)
    for end in {*ends, 1, len(MAGIC), len(dump) - 1, *(end + 3 for end in ends)}:
        assert "ends too early" in target(dump[:end])


def test_a_flipped_byte_in_a_dump_is_found(
    filled: SqliteVolume, target: Callable[[bytes], str]
) -> None:
    """Whatever byte is changed, the dump is refused."""
    dump = dump_of(filled)
    places = random.Random(3)
    small_part = [*range(60), *range(len(dump) - 60, len(dump))]
    for place in [*small_part, *places.sample(range(len(dump)), 40)]:
        damaged = bytearray(dump)
        damaged[place] ^= 1 << place % 8
        target(bytes(damaged))


def test_frames_out_of_place_are_refused(
    filled: SqliteVolume, target: Callable[[bytes], str]
) -> None:
    """Missing, repeated and moved frames, and bytes after the end, all with right checksums."""
    frames = frames_of(dump_of(filled))
    header, *middle, trailer = frames
    chunks = [frame for frame in middle if frame[0] is FrameKind.CHUNK]
    vnodes = [frame for frame in middle if frame[0] is FrameKind.VNODE]
    for bad in (
        [*middle, trailer],
        [header, header, *middle, trailer],
        [middle[0], header, *middle[1:], trailer],
        [header, trailer],
        [header, *vnodes, *chunks, trailer],
        [header, *chunks, *reversed(vnodes), trailer],
        [header, chunks[0], *middle, trailer],
        [header, *middle, vnodes[-1], trailer],
        [header, *middle[:-1], trailer],
        [header, (FrameKind.MORE, vnodes[0][1]), *middle, trailer],
        [
            header,
            *middle,
            (FrameKind.CHUNK, dump_pb2.DumpChunk(data=b"unused").SerializeToString()),
            trailer,
        ],
        [header, *middle, (FrameKind.VNODE, b"\xff\xff\xff"), trailer],
        [header, *middle, (FrameKind.CHUNK, b""), trailer],
    ):
        target(assembled(bad))
    good = assembled(frames)
    assert "follow its end" in target(good + b"x")
    assert "follow its end" in target(good + good)


def test_wrong_counts_are_refused(filled: SqliteVolume, target: Callable[[bytes], str]) -> None:
    """The header's and the trailer's counts must be what came."""
    header, *middle, trailer = frames_of(dump_of(filled))
    for field in (
        "vnode_count",
        "next_vnode",
        "next_uniquifier",
        "change_counter",
        "max_quota_kib",
    ):
        message = dump_pb2.DumpHeader.FromString(header[1])
        for value in (0, 2, 2**32 - 1 if field.startswith("next") else 2**64 - 1):
            if (field, value) in {
                (name, v) for name in ("change_counter", "max_quota_kib") for v in (0, 2)
            }:
                continue
            if field.startswith("next") and value > 2:
                continue
            setattr(message, field, value)
            frames = [(FrameKind.HEADER, message.SerializeToString()), *middle, trailer]
            target(assembled(frames, counts=False))
    for field in ("vnode_count", "chunk_count"):
        last = dump_pb2.DumpTrailer.FromString(trailer[1])
        setattr(last, field, getattr(last, field) + 1)
        frames = [header, *middle, (FrameKind.TRAILER, last.SerializeToString())]
        target(assembled(frames, counts=False))


def test_absurd_lengths_are_refused_at_once(target: Callable[[bytes], str]) -> None:
    """A frame that says it is huge is refused before anybody waits for it."""
    start = FrameWriter().start()
    for length in (2**31, 2**32 - 1, 2 * MIB):
        assert "a frame of" in target(start + b"\x01" + length.to_bytes(4, "little") + bytes(100))
    assert "begin as one" in target(b"\0" * 1000)
    assert "version" in target(MAGIC + (9).to_bytes(4, "little") + bytes(100))


def changed_vnodes(dump: bytes, change: Callable[[dump_pb2.DumpVnode], bool | None]) -> bytes:
    """A dump in which `change` changed vnodes (it says False for those it left alone)."""
    frames = []
    count = 0
    for kind, payload in frames_of(dump):
        if kind is FrameKind.VNODE:
            message = dump_pb2.DumpVnode.FromString(payload)
            if change(message) is not False:
                count += 1
                payload = message.SerializeToString()
        frames.append((kind, payload))
    assert count
    return assembled(frames)


def on(
    kind: VnodeType, change: Callable[[dump_pb2.DumpVnode], object]
) -> Callable[[dump_pb2.DumpVnode], bool]:
    """Changes vnodes of one kind only, of directories those with entries, of files with chunks."""

    def guarded(message: dump_pb2.DumpVnode) -> bool:
        if int(message.status.type) != kind or not (
            message.entries or message.chunks or kind is VnodeType.SYMLINK
        ):
            return False
        change(message)
        return True

    return guarded


def set_status(field: str, value: int) -> Callable[[dump_pb2.DumpVnode], None]:
    """Sets one field of a status."""
    return lambda message: setattr(message.status, field, value)


def set_entry(field: str, value: object) -> Callable[[dump_pb2.DumpVnode], None]:
    """Sets one field of the first entry."""
    return lambda message: setattr(message.entries[0], field, value)


def set_chunk(field: str, value: object) -> Callable[[dump_pb2.DumpVnode], None]:
    """Sets one field of the first chunk."""
    return lambda message: setattr(message.chunks[0], field, value)


HOSTILE: dict[str, Callable[[dump_pb2.DumpVnode], bool | None]] = {
    "name with a slash": on(VnodeType.DIRECTORY, set_entry("name", "a/b")),
    "name ..": on(VnodeType.DIRECTORY, set_entry("name", "..")),
    "name with NUL": on(VnodeType.DIRECTORY, set_entry("name", "a\0b")),
    "empty name": on(VnodeType.DIRECTORY, set_entry("name", "")),
    "long name": on(VnodeType.DIRECTORY, set_entry("name", "a" * 256)),
    "entry of an unknown type": on(VnodeType.DIRECTORY, set_entry("type", 9)),
    "entry of another type": on(VnodeType.DIRECTORY, set_entry("type", VnodeType.SYMLINK)),
    "entry that leads nowhere": on(
        VnodeType.DIRECTORY, lambda m: setattr(m.entries[0].fid, "vnode", 998)
    ),
    "entry of another volume": on(
        VnodeType.DIRECTORY, lambda m: setattr(m.entries[0].fid, "volume", 1)
    ),
    "loop": on(VnodeType.DIRECTORY, lambda m: m.entries[0].fid.CopyFrom(m.status.fid)),
    "the same name twice": on(
        VnodeType.DIRECTORY, lambda m: setattr(m.entries[1], "name", m.entries[0].name)
    ),
    "one entry too few": on(VnodeType.DIRECTORY, lambda m: m.entries.pop()),
    "one entry too many": on(
        VnodeType.DIRECTORY,
        lambda m: m.entries.add(name="zz", fid=m.entries[0].fid, type=m.entries[0].type),
    ),
    "directory with data": on(VnodeType.DIRECTORY, lambda m: setattr(m, "inline_data", b"x")),
    "directory that is a file": on(VnodeType.DIRECTORY, set_status("type", VnodeType.FILE)),
    "links miscounted": on(VnodeType.DIRECTORY, set_status("link_count", 77)),
    "parent elsewhere": on(VnodeType.DIRECTORY, lambda m: setattr(m.status.parent, "vnode", 997)),
    "unknown type": on(VnodeType.FILE, set_status("type", 4)),
    "absurd mode": on(VnodeType.FILE, set_status("mode", 2**31)),
    "absurd length": on(VnodeType.FILE, set_status("length", 2**63)),
    "shorter than its chunks": on(VnodeType.FILE, set_status("length", INLINE_MAX_BYTES + 1)),
    "chunks of an inline file": on(VnodeType.FILE, set_status("length", 1)),
    "DataVersion 0": on(VnodeType.FILE, set_status("data_version", 0)),
    "absurd DataVersion": on(VnodeType.FILE, set_status("data_version", 2**64 - 1)),
    "file with a target": on(VnodeType.FILE, lambda m: setattr(m, "symlink_target", "x")),
    "file of no links": on(VnodeType.FILE, set_status("link_count", 0)),
    "vnode 0": on(VnodeType.FILE, lambda m: setattr(m.status.fid, "vnode", 0)),
    "vnode beyond the counters": on(
        VnodeType.FILE, lambda m: setattr(m.status.fid, "vnode", 2**31)
    ),
    "uniquifier beyond the counters": on(
        VnodeType.FILE, lambda m: setattr(m.status.fid, "uniquifier", 2**31)
    ),
    "unknown chunk": on(VnodeType.FILE, set_chunk("hash", bytes(32))),
    "short hash": on(VnodeType.FILE, set_chunk("hash", b"x")),
    "chunk of no bytes": on(VnodeType.FILE, set_chunk("size", 0)),
    "chunk longer than itself": on(VnodeType.FILE, set_chunk("size", 2**31)),
    "chunk beyond the end": on(VnodeType.FILE, set_chunk("position", 2**63)),
    "chunks out of order": on(
        VnodeType.FILE, lambda m: setattr(m.chunks[-1], "position", m.chunks[0].position)
    ),
    "link with NUL": on(VnodeType.SYMLINK, lambda m: setattr(m, "symlink_target", "d/\0")),
    "link without target": on(VnodeType.SYMLINK, lambda m: setattr(m, "symlink_target", "")),
    "link with data": on(VnodeType.SYMLINK, lambda m: setattr(m, "inline_data", b"x")),
    "link lost and there": on(VnodeType.SYMLINK, lambda m: setattr(m, "data_lost", True)),
    "directory that is lost": on(VnodeType.DIRECTORY, lambda m: setattr(m, "data_lost", True)),
    "link of another length": on(VnodeType.SYMLINK, lambda m: setattr(m, "symlink_target", "d/01")),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_dump_is_refused(
    filled: SqliteVolume, target: Callable[[bytes], str], what: str
) -> None:
    """Contents that no volume could have are refused, however right their checksums are."""
    target(changed_vnodes(dump_of(filled), HOSTILE[what]))


def test_islands_and_loops_of_directories_are_refused(
    partition: Partition, disk_volume: SqliteVolume, filled: SqliteVolume
) -> None:
    """Two directories that hold each other and hang on nothing are no volume."""
    first = make_dir(filled, "first")
    second = make_dir(filled, "second", first)

    def change(message: dump_pb2.DumpVnode) -> bool:
        number = message.status.fid.vnode
        if number == 1:
            kept = [entry for entry in message.entries if entry.name != "first"]
            del message.entries[:]
            message.entries.extend(kept)
            message.status.length -= 1
            message.status.link_count -= 1
        elif number == first.vnode:
            message.status.parent.vnode = second.vnode
            message.status.parent.uniquifier = second.uniquifier
        elif number == second.vnode:
            message.entries.add(
                name="x",
                fid={"volume": first.volume, "vnode": first.vnode, "uniquifier": first.uniquifier},
                type=VnodeType.DIRECTORY,
            )
            message.status.length, message.status.link_count = 1, 3
        else:
            return False
        return True

    dump = changed_vnodes(dump_of(filled), change)
    with pytest.raises(AfsError, match=r"EINVAL: bad dump: .* does not lie under the root"):
        restore_volume(partition, [dump], volume_id=COPY_ID, name="copy")
    assert partition.volumes() == [disk_volume.volume_id]


def test_a_restore_given_up_leaves_nothing(partition: Partition, filled: SqliteVolume) -> None:
    """Closed at any point before it is put in place, a restore takes back all it wrote."""
    dump = dump_of(filled)
    chunks = chunk_files(partition.path)
    for length in (0, 500, len(dump) // 2, len(dump)):
        with Restore(partition, volume_id=COPY_ID, name="copy") as restore:
            restore.feed(dump[:length])
            if length == len(dump):
                restore.finish()
        assert chunk_files(partition.path) == chunks
        assert staged_files(partition.path) == []
        assert partition.volumes() == [filled.volume_id]
    assert Fid(COPY_ID, 1, 1).volume not in partition.volumes()
