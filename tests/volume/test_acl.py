"""Access lists of directories on disk: stored, inherited, dumped, cloned, and of old volumes."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest

from afs.access.acl import AccessList, Right
from afs.errors import AfsCode
from afs.types import BreakReason, Fid, VolumeType, whole_volume_fid
from afs.v1 import dump_pb2
from afs.volume.dump import dump_pieces
from afs.volume.dump_frames import FrameKind, FrameReader, FrameWriter
from afs.volume.partition import Partition
from afs.volume.restore import restore_volume
from afs.volume.salvage import salvage_volume
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.verify import check_rows
from afs.volume.volume import (
    CreateFile,
    Link,
    MakeSymlink,
    Outcome,
    RemoveFile,
    Rename,
    SetVolumeFields,
    StoreAcl,
    Volume,
)
from tests.volume.building import do, make_dir, make_file, refusal, the_vnode
from tests.volume.version_1 import make_version_2
from tests.volume.version_3 import make_version_3

READERS = AccessList({-101: Right.READ | Right.LOOKUP}).text()
WRITERS = AccessList({1: Right(127), -207: Right.WRITE}, {2: Right.WRITE}).text()
RESTORED_ID = 536870920


def test_new_directories_have_the_list_of_their_parent(volume: Volume, root: Fid) -> None:
    """A list is copied when a directory is made, and not followed afterwards; files have none."""
    assert volume.vnode(root).acl == ""
    do(volume, StoreAcl(root, READERS))
    made = make_dir(volume, "d")
    assert volume.vnode(made).acl == READERS
    assert volume.vnode(make_file(volume, "f", made)).acl == ""
    do(volume, StoreAcl(root, WRITERS))
    assert volume.vnode(root).acl == WRITERS
    assert volume.vnode(made).acl == READERS
    do(volume, Rename(root, "d", root, "e"))
    assert volume.vnode(made).acl == READERS


def test_files_whose_rights_change_are_told_of(
    volume: Volume, root: Fid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promises on a directory and on the files in it are to be broken, not those further down.

    Of a directory with too many files those of the whole volume are.
    """
    made = make_dir(volume, "d")
    make_file(volume, "deep", made)
    file = make_file(volume, "f")
    do(volume, Link(root, "g", file))
    link = the_vnode(do(volume, MakeSymlink(root, "s", "f"))).fid
    expected = {root, file, link}
    assert set(do(volume, StoreAcl(root, READERS)).changed) == {
        (fid, BreakReason.STATUS_CHANGED) for fid in expected
    }
    new, stored = volume.apply([CreateFile(root, "new"), StoreAcl(root, WRITERS)])
    assert isinstance(new, Outcome)
    assert isinstance(stored, Outcome)
    assert {fid for fid, _ in stored.changed} == expected | {the_vnode(new).fid}
    _, stored = volume.apply([RemoveFile(root, "new"), StoreAcl(root, WRITERS)])
    assert isinstance(stored, Outcome)
    assert {fid for fid, _ in stored.changed} == expected
    monkeypatch.setattr("afs.volume.namespace.ACL_FILES_TOLD_MAX", 3)
    whole = whole_volume_fid(volume.volume_id)
    assert [fid for fid, _ in do(volume, StoreAcl(root, READERS)).changed] == [root, whole]


def test_rename_may_be_kept_from_replacing(volume: Volume, root: Fid) -> None:
    """Who may insert and not delete moves something in, and nothing away."""
    make_file(volume, "a")
    make_file(volume, "b")
    assert refusal(volume, Rename(root, "a", root, "b", may_replace=False)) is AfsCode.EACCES
    do(volume, Rename(root, "a", root, "c", may_replace=False))
    do(volume, Rename(root, "c", root, "c", may_replace=False))


def test_change_of_a_list_is_a_change_of_the_volume(volume: Volume, root: Fid) -> None:
    """Its counter grows (M5b), and the directory's data stay what they are."""
    before = volume.header().change_counter
    version = volume.vnode(root).data_version
    do(volume, StoreAcl(root, READERS))
    assert volume.header().change_counter == before + 1
    assert volume.vnode(root).data_version == version


def test_what_cannot_have_a_list_is_refused(volume: Volume, root: Fid) -> None:
    """Files, what is not there, and texts that are no list."""
    file = make_file(volume, "f")
    assert refusal(volume, StoreAcl(file, READERS)) is AfsCode.ENOTDIR
    assert refusal(volume, StoreAcl(root._replace(uniquifier=7), READERS)) is AfsCode.VNOVNODE
    assert refusal(volume, StoreAcl(root, "+1:999")) is AfsCode.EINVAL
    assert volume.vnode(root).acl == ""


def test_lists_outlive_a_restart(partition: Partition, disk_volume: SqliteVolume) -> None:
    """What was acknowledged is on disk, and its checksum with it."""
    root = Fid(disk_volume.volume_id, 1, 1)
    do(disk_volume, StoreAcl(root, WRITERS))
    disk_volume.close()
    check_rows(disk_volume.path)
    with closing(partition.open_volume(disk_volume.volume_id)) as again:
        assert again.vnode(root).acl == WRITERS
    assert not salvage_volume(partition, disk_volume.volume_id).changed


def test_dumps_hold_the_lists(partition: Partition, disk_volume: SqliteVolume) -> None:
    """A restored volume has them, and those that an incremental dump brings."""
    made = make_dir(disk_volume, "d")
    do(disk_volume, StoreAcl(made, READERS))
    whole = b"".join(dump_pieces(disk_volume))
    since = disk_volume.header().change_counter
    with closing(
        restore_volume(partition, [whole], volume_id=RESTORED_ID, name="restored")
    ) as restored:
        where = made._replace(volume=RESTORED_ID)
        assert restored.vnode(where).acl == READERS
    do(disk_volume, StoreAcl(made, WRITERS))
    incremental = b"".join(dump_pieces(disk_volume, since=since))
    with closing(
        restore_volume(partition, [incremental], volume_id=RESTORED_ID, name="restored")
    ) as restored:
        assert restored.vnode(where).acl == WRITERS


@pytest.mark.parametrize(("name", "acl"), [("d", "+1:999"), ("d", "nonsense"), ("f", READERS)])
def test_dump_with_a_list_that_cannot_be_is_refused(
    partition: Partition, disk_volume: SqliteVolume, name: str, acl: str
) -> None:
    """A bad text, or a list on a file: nothing is restored."""
    fids = {"d": make_dir(disk_volume, "d"), "f": make_file(disk_volume, "f")}
    dump = changed_acl(b"".join(dump_pieces(disk_volume)), fids[name].vnode, acl)
    with pytest.raises(Exception, match="EINVAL"):
        restore_volume(partition, [dump], volume_id=RESTORED_ID, name="restored")


def changed_acl(dump: bytes, number: int, acl: str) -> bytes:
    """The dump with another list for one vnode, and checksums that fit."""
    writer = FrameWriter()
    pieces = [writer.start()]
    for kind, payload, *_ in FrameReader().feed(dump):
        data = bytes(payload)
        if kind is FrameKind.VNODE:
            vnode = dump_pb2.DumpVnode.FromString(data)
            if vnode.status.fid.vnode == number:
                vnode.acl = acl
            data = vnode.SerializeToString()
        if kind is FrameKind.TRAILER:
            trailer = dump_pb2.DumpTrailer.FromString(data)
            trailer.blake3 = writer.digest
            data = trailer.SerializeToString()
        pieces.append(writer.frame(kind, data))
    return b"".join(pieces)


def test_clones_have_the_lists_of_their_source(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """A backup shows who could what when it was made."""
    root = Fid(disk_volume.volume_id, 1, 1)
    do(disk_volume, StoreAcl(root, READERS))
    do(disk_volume, SetVolumeFields(max_quota_kib=1000))
    partition.clone_volume(
        disk_volume, volume_id=RESTORED_ID, name="test.backup", type=VolumeType.BACKUP
    )
    with closing(partition.open_volume(RESTORED_ID)) as clone:
        assert clone.vnode(root._replace(volume=RESTORED_ID)).acl == READERS


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("make_older", [make_version_2, make_version_3])
def test_a_volume_of_an_older_version_is_upgraded_when_it_is_opened(
    partition: Partition, disk_volume: SqliteVolume, make_older: Any, sealed: bool
) -> None:
    """All is as it was, when each vnode was changed too; the lists are those of a new volume."""
    fid = make_file(disk_volume, "small", made := make_dir(disk_volume, "d"), b"small")
    state, vnode = disk_volume.state, disk_volume.vnode(fid)
    with disk_volume.reading() as moment:
        stamps = moment.connection.execute("SELECT vnode, changed FROM vnodes").fetchall()
    disk_volume.close()
    make_older(disk_volume.path, sealed=sealed)
    for _ in range(2):
        with closing(partition.open_volume(disk_volume.volume_id)) as again:
            assert (again.state, again.vnode(fid)) == (state, vnode)
            assert again.vnode(made).acl == ""
            with again.reading() as moment:
                query = "SELECT vnode, changed FROM vnodes"
                assert moment.connection.execute(query).fetchall() == stamps
        check_rows(disk_volume.path)


@pytest.mark.parametrize("make_older", [make_version_2, make_version_3])
def test_a_wreck_of_an_older_version_is_salvaged(
    partition: Partition, disk_volume: SqliteVolume, make_older: Any
) -> None:
    """A database that SQLite cannot read, of the older version, is made anew in today's."""
    make_file(disk_volume, "small", made := make_dir(disk_volume, "d"), b"small")
    disk_volume.close()
    make_older(disk_volume.path, sealed=False)
    wreck = bytearray(disk_volume.path.read_bytes())
    wreck[:4096] = bytes(4096)
    disk_volume.path.write_bytes(wreck)
    salvage_volume(partition, disk_volume.volume_id)
    with closing(partition.open_volume(disk_volume.volume_id)) as again:
        assert again.vnode(made).length == 1
        assert again.lookup(made, "small").length == 5
