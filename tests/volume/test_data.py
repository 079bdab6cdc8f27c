"""Reading and storing data, over both stores."""

from __future__ import annotations

import itertools

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import CHUNK_BYTES, INLINE_MAX_BYTES, MAX_FILE_BYTES
from afs.types import BreakReason, Fid, SetStatus
from afs.volume.volume import RemoveFile, SetVolumeFields, StoreData, StoreStatus, Volume
from tests.volume.building import (
    collect_all,
    contents,
    do,
    make_dir,
    make_file,
    make_symlink,
    noise,
    refusal,
    stage,
    store,
    the_vnode,
)

# On, just below and just above every boundary.
LENGTHS = [
    0,
    1,
    INLINE_MAX_BYTES - 1,
    INLINE_MAX_BYTES,
    INLINE_MAX_BYTES + 1,
    CHUNK_BYTES - 1,
    CHUNK_BYTES,
    CHUNK_BYTES + 1,
    2 * CHUNK_BYTES,
    2 * CHUNK_BYTES + 12345,
]


@pytest.mark.parametrize("length", LENGTHS)
def test_what_is_stored_is_read(volume: Volume, length: int) -> None:
    """Data of any length comes back, in whatever pieces it was written and is read."""
    fid = make_file(volume, "a")
    data = noise(length)
    staged = volume.stage(fid, 0)
    for start in range(0, length, 100_000):
        staged.write(data[start : start + 100_000])
    staged.finish()
    outcome = do(volume, StoreData(fid, staged))
    assert the_vnode(outcome).length == staged.length == length
    assert outcome.changed == ((fid, BreakReason.DATA_CHANGED),)
    with volume.snapshot(fid) as snapshot:
        assert snapshot.read(0, length + 10) == data
        pieces = [snapshot.read(start, 300_001) for start in range(0, length, 300_001)]
        assert b"".join(pieces) == data
        assert snapshot.read(length, 1) == b""
        assert snapshot.read(length + CHUNK_BYTES, 1) == b""


@pytest.mark.parametrize("old_length", LENGTHS)
def test_data_is_laid_over_what_was_there(volume: Volume, old_length: int) -> None:
    """A store resizes first, then puts its data in, zeroes between the old end and its offset."""
    old = noise(old_length, 1)
    for number, (offset, length, truncate_to) in enumerate(
        itertools.product(
            [0, 5, CHUNK_BYTES - 3, CHUNK_BYTES, 2 * CHUNK_BYTES + 7],
            [1, 6, CHUNK_BYTES + 5],
            [None, 0, 3, CHUNK_BYTES + 1],
        )
    ):
        new = noise(length, 2)
        fid = make_file(volume, str(number), data=old)
        store(volume, fid, new, offset, truncate_to=truncate_to)
        expected = old if truncate_to is None else old[:truncate_to].ljust(truncate_to, b"\0")
        expected = expected[:offset].ljust(offset, b"\0") + new + expected[offset + length :]
        assert contents(volume, fid) == expected, (offset, length, truncate_to)
        assert volume.vnode(fid).length == len(expected)


@pytest.mark.parametrize("old_length", LENGTHS)
def test_a_length_truncates_and_extends_with_zeroes(volume: Volume, old_length: int) -> None:
    """What is cut off never comes back when the file grows again."""
    data = noise(old_length)
    full = 2 * CHUNK_BYTES + 99
    for new_length in LENGTHS:
        fid = make_file(volume, str(new_length), data=data)
        outcome = do(volume, StoreStatus(fid, SetStatus(length=new_length)))
        assert outcome.changed == ((fid, BreakReason.DATA_CHANGED),)
        assert contents(volume, fid) == data[:new_length].ljust(new_length, b"\0")
        do(volume, StoreStatus(fid, SetStatus(length=full)))
        assert contents(volume, fid) == data[:new_length][:full].ljust(full, b"\0")


def test_every_store_gives_a_new_data_version(volume: Volume) -> None:
    """The DataVersion grows with each change of the data (N5), of no bytes included."""
    fid = make_file(volume, "a")
    versions = [volume.vnode(fid).data_version]
    versions += [the_vnode(store(volume, fid, data)).data_version for data in (b"x", b"x", b"")]
    assert versions == sorted(set(versions))


def test_a_store_of_nothing_only_truncates(volume: Volume) -> None:
    """Without data the offset means nothing."""
    fid = make_file(volume, "a", data=b"abcdef")
    store(volume, fid, b"", 100, truncate_to=3)
    assert contents(volume, fid) == b"abc"


def test_attributes_are_set_with_the_data(volume: Volume) -> None:
    """Data and attributes become visible in one step; a length beside data is refused."""
    fid = make_file(volume, "a")
    vnode = the_vnode(store(volume, fid, b"x", set_status=SetStatus(mode=0o400, client_mtime_ns=9)))
    assert (vnode.mode, vnode.client_mtime_ns, vnode.length) == (0o400, 9, 1)
    with pytest.raises(AfsError, match="EINVAL"):
        store(volume, fid, b"y", set_status=SetStatus(length=1))
    assert contents(volume, fid) == b"x"


def test_an_expected_data_version_guards_a_store(volume: Volume) -> None:
    """A store meant for another version of the file is refused (EAGAIN) and changes nothing."""
    fid = make_file(volume, "a", data=b"one")
    version = volume.vnode(fid).data_version
    store(volume, fid, b"two", expected_data_version=version)
    with pytest.raises(AfsError, match="EAGAIN"):
        store(volume, fid, b"bad", expected_data_version=version)
    assert contents(volume, fid) == b"two"


def test_discarded_data_leaves_no_trace(volume: Volume) -> None:
    """Data that is discarded, before or after finish, is not stored; twice is harmless."""
    fid = make_file(volume, "a", data=b"kept")
    first = volume.stage(fid, 0)
    first.write(noise(CHUNK_BYTES + 1))
    first.discard()
    second = stage(volume, fid, noise(CHUNK_BYTES + 2))
    second.discard()
    second.discard()
    collect_all(volume)
    assert contents(volume, fid) == b"kept"


def test_data_is_merged_with_the_file_as_it_is_at_the_commit(volume: Volume) -> None:
    """Two stores staged at the same time, into one chunk, both survive whatever the order."""
    data = bytearray(noise(CHUNK_BYTES + 500))
    fid = make_file(volume, "a", data=bytes(data))
    first = stage(volume, fid, b"first", 100)
    second = stage(volume, fid, b"second", 200)
    answers = volume.apply([StoreData(fid, second), StoreData(fid, first)])
    assert not any(isinstance(answer, AfsError) for answer in answers)
    data[100:105] = b"first"
    data[200:206] = b"second"
    assert contents(volume, fid) == bytes(data)


def test_staged_data_survives_the_removal_of_what_it_shares(volume: Volume, root: Fid) -> None:
    """A staged chunk stays, even if the last file with the same bytes goes meanwhile (C3)."""
    data = noise(CHUNK_BYTES)
    other = make_file(volume, "other", data=data)
    fid = make_file(volume, "a")
    staged = stage(volume, fid, data)
    do(volume, RemoveFile(root, "other"))
    collect_all(volume)
    do(volume, StoreData(fid, staged))
    assert contents(volume, fid) == data
    with pytest.raises(AfsError, match="VNOVNODE"):
        volume.vnode(other)


def test_a_snapshot_is_unmoved_by_later_changes(volume: Volume, root: Fid) -> None:
    """A reader sees the file as it was when it began, also after it was rewritten and removed."""
    data = noise(2 * CHUNK_BYTES + 10)
    for name, old in (("large", data), ("small", data[:100])):
        fid = make_file(volume, name, data=old)
        with volume.snapshot(fid) as snapshot:
            store(volume, fid, noise(CHUNK_BYTES, 2), truncate_to=0)
            collect_all(volume)
            do(volume, RemoveFile(root, name))
            collect_all(volume)
            assert snapshot.read(0, len(old)) == old
            assert snapshot.vnode.length == len(old)
        collect_all(volume)


def test_a_part_of_a_file_can_be_asked_for(volume: Volume) -> None:
    """A snapshot of a range reads that range."""
    data = noise(4 * CHUNK_BYTES)
    fid = make_file(volume, "a", data=data)
    offset = CHUNK_BYTES + 17
    with volume.snapshot(fid, offset, CHUNK_BYTES) as snapshot:
        assert snapshot.read(offset, CHUNK_BYTES) == data[offset : offset + CHUNK_BYTES]


def test_a_file_of_the_largest_size_costs_nothing_while_empty(volume: Volume) -> None:
    """Holes are not stored: the largest file is made, written at its end, read and cut at once."""
    fid = make_file(volume, "a")
    do(volume, StoreStatus(fid, SetStatus(length=MAX_FILE_BYTES)))
    store(volume, fid, b"end", MAX_FILE_BYTES - 3)
    with volume.snapshot(fid) as snapshot:
        assert snapshot.read(MAX_FILE_BYTES - 5, 10) == b"\0\0end"
        assert snapshot.read(12345, 3) == bytes(3)
    do(volume, StoreStatus(fid, SetStatus(length=5)))
    assert contents(volume, fid) == bytes(5)


def test_lengths_and_offsets_beyond_the_limit_are_refused(volume: Volume) -> None:
    """EFBIG beyond the largest file, EINVAL below nothing."""
    fid = make_file(volume, "a")
    with pytest.raises(AfsError, match="EINVAL"):
        volume.stage(fid, -1)
    with pytest.raises(AfsError, match="EFBIG"):
        volume.stage(fid, MAX_FILE_BYTES + 1)
    staged = volume.stage(fid, MAX_FILE_BYTES - 1)
    with pytest.raises(AfsError, match="EFBIG"):
        staged.write(b"xy")
    staged.discard()
    for truncate_to in (-1, MAX_FILE_BYTES + 1):
        staged = stage(volume, fid, b"x")
        code = refusal(volume, StoreData(fid, staged, truncate_to))
        assert code is (AfsCode.EINVAL if truncate_to < 0 else AfsCode.EFBIG)
        staged.discard()
    with volume.snapshot(fid) as snapshot, pytest.raises(AfsError, match="EINVAL"):
        snapshot.read(-1, 1)


def test_quota_stops_data_as_soon_as_it_is_exceeded(volume: Volume) -> None:
    """VOVERQUOTA comes while the data is written, and at the commit if the quota shrank since."""
    fid = make_file(volume, "a", data=noise(2000))
    do(volume, SetVolumeFields(max_quota_kib=100))
    staged = volume.stage(fid, 0)
    staged.write(noise(90_000))
    with pytest.raises(AfsError, match="VOVERQUOTA"):
        staged.write(noise(20_000))
    staged.discard()
    staged = stage(volume, fid, noise(50_000))
    do(volume, SetVolumeFields(max_quota_kib=10))
    assert refusal(volume, StoreData(fid, staged)) is AfsCode.VOVERQUOTA
    staged.discard()
    assert contents(volume, fid) == noise(2000)


def test_only_files_have_data(volume: Volume) -> None:
    """EISDIR for a directory, EINVAL for a symbolic link."""
    directory, link = make_dir(volume, "d"), make_symlink(volume, "s", "t")
    for fid, code in ((directory, "EISDIR"), (link, "EINVAL")):
        with pytest.raises(AfsError, match=code):
            volume.stage(fid, 0)
        with pytest.raises(AfsError, match=code):
            volume.snapshot(fid)


def test_zeroes_are_not_stored_but_are_there(volume: Volume) -> None:
    """Zeroes written over data read back as zeroes."""
    fid = make_file(volume, "a", data=noise(3 * CHUNK_BYTES))
    store(volume, fid, bytes(CHUNK_BYTES), CHUNK_BYTES)
    store(volume, fid, bytes(10), 5)
    expected = bytearray(noise(3 * CHUNK_BYTES))
    expected[CHUNK_BYTES : 2 * CHUNK_BYTES] = bytes(CHUNK_BYTES)
    expected[5:15] = bytes(10)
    assert contents(volume, fid) == expected
