"""The rules of names, over both stores."""

from __future__ import annotations

import pytest

from afs.errors import AfsCode, AfsError
from afs.types import BreakReason, Fid, SetStatus, VnodeType
from afs.volume.volume import (
    CreateFile,
    Link,
    MakeDir,
    MakeSymlink,
    RemoveDir,
    RemoveFile,
    Rename,
    SetVolumeFields,
    StoreStatus,
    Volume,
)
from tests.volume.building import (
    WallClock,
    contents,
    do,
    listing,
    make_dir,
    make_file,
    make_symlink,
    refusal,
    the_vnode,
)


def test_a_new_volume_has_an_empty_root(volume: Volume, root: Fid) -> None:
    """The root is vnode 1.1, a directory of mode 755, its own parent, and counts."""
    vnode = volume.vnode(root)
    assert (vnode.type, vnode.mode, vnode.link_count, vnode.length) == (
        VnodeType.DIRECTORY,
        0o755,
        2,
        0,
    )
    assert vnode.parent == root
    assert volume.entries(root, "", 10) == []
    header = volume.header()
    assert (header.used_kib, header.file_count) == (1, 1)


def test_a_created_file_is_found(volume: Volume, root: Fid, clock: WallClock) -> None:
    """A new file has the attributes given, an even vnode number, and no data."""
    status = SetStatus(mode=0o640, owner=7, group=8, client_mtime_ns=5)
    outcome = do(volume, CreateFile(root, "a", status))
    vnode = the_vnode(outcome)
    assert volume.lookup(root, "a") == volume.vnode(vnode.fid) == vnode
    assert (vnode.mode, vnode.owner, vnode.group, vnode.client_mtime_ns) == (0o640, 7, 8, 5)
    assert (vnode.type, vnode.link_count, vnode.length) == (VnodeType.FILE, 1, 0)
    assert vnode.server_mtime_ns == clock.now_ns
    assert vnode.parent == root
    assert vnode.fid.vnode % 2 == 0
    assert contents(volume, vnode.fid) == b""
    assert outcome.directory == volume.vnode(root)
    assert outcome.changed == ((root, BreakReason.DATA_CHANGED),)


def test_a_file_can_be_created_with_a_length(volume: Volume, root: Fid) -> None:
    """A length given at creation is filled with zeroes; a directory cannot have one."""
    vnode = the_vnode(do(volume, CreateFile(root, "a", SetStatus(length=100))))
    assert contents(volume, vnode.fid) == bytes(100)
    assert refusal(volume, MakeDir(root, "d", SetStatus(length=1))) is AfsCode.EINVAL


def test_directories_have_odd_numbers_and_all_else_even_ones(volume: Volume) -> None:
    """Vnode numbers tell directories (N1), and every uniquifier is new."""
    fids = [make_dir(volume, "d"), make_file(volume, "f"), make_symlink(volume, "s", "t")]
    fids += [make_dir(volume, "e"), make_dir(volume, "g")]
    assert [fid.vnode % 2 for fid in fids] == [1, 0, 0, 1, 1]
    assert len({fid.uniquifier for fid in fids}) == len({fid.vnode for fid in fids}) == len(fids)


def test_a_fid_is_never_given_twice(volume: Volume, root: Fid) -> None:
    """A file removed and created again has another Fid, and the old one names nothing."""
    old = make_file(volume, "a")
    do(volume, RemoveFile(root, "a"))
    new = make_file(volume, "a")
    assert new.uniquifier > old.uniquifier
    assert new != old
    with pytest.raises(AfsError, match="VNOVNODE"):
        volume.vnode(old)


def test_a_wrong_uniquifier_or_volume_names_no_vnode(volume: Volume, root: Fid) -> None:
    """All three numbers of a Fid must fit."""
    fid = make_file(volume, "a")
    for wrong in (fid._replace(uniquifier=99), fid._replace(volume=1), fid._replace(vnode=98)):
        assert volume.cached_vnode(wrong) is None
        with pytest.raises(AfsError, match="VNOVNODE"):
            volume.vnode(wrong)
        with pytest.raises(AfsError, match="VNOVNODE"):
            volume.snapshot(wrong)
        assert refusal(volume, StoreStatus(wrong, SetStatus(mode=0))) is AfsCode.VNOVNODE


def test_cached_vnode_tells_of_a_vnode_just_changed(volume: Volume) -> None:
    """After a commit what is in memory is what was committed."""
    fid = make_file(volume, "a")
    changed = the_vnode(do(volume, StoreStatus(fid, SetStatus(mode=0o600))))
    assert volume.cached_vnode(fid) == changed


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0b"])
def test_a_name_that_cannot_stand_in_a_directory_is_refused(
    volume: Volume, root: Fid, name: str
) -> None:
    """Every method that takes a name refuses those (EINVAL)."""
    make_file(volume, "f")
    for mutation in (
        CreateFile(root, name),
        MakeDir(root, name),
        MakeSymlink(root, name, "t"),
        RemoveFile(root, name),
        RemoveDir(root, name),
        Rename(root, "f", root, name),
        Rename(root, name, root, "g"),
    ):
        assert refusal(volume, mutation) is AfsCode.EINVAL
    with pytest.raises(AfsError, match="EINVAL"):
        volume.lookup(root, name)


def test_a_name_may_have_255_bytes(volume: Volume, root: Fid) -> None:
    """The limit counts bytes of UTF-8; one more is ENAMETOOLONG."""
    make_file(volume, "ä" * 127 + "b")
    assert refusal(volume, CreateFile(root, "ä" * 128)) is AfsCode.ENAMETOOLONG
    assert refusal(volume, CreateFile(root, "\udc80")) is AfsCode.EINVAL


def test_a_taken_name_is_refused(volume: Volume, root: Fid) -> None:
    """No creation replaces what is there."""
    fid = make_file(volume, "a", data=b"kept")
    for mutation in (
        CreateFile(root, "a"),
        MakeDir(root, "a"),
        MakeSymlink(root, "a", "t"),
        Link(root, "a", fid),
    ):
        assert refusal(volume, mutation) is AfsCode.EEXIST
    assert contents(volume, fid) == b"kept"


def test_names_are_refused_in_what_is_no_directory(volume: Volume, root: Fid) -> None:
    """A file has no entries (ENOTDIR)."""
    fid = make_file(volume, "a")
    for mutation in (CreateFile(fid, "x"), RemoveFile(fid, "x"), Rename(root, "a", fid, "x")):
        assert refusal(volume, mutation) is AfsCode.ENOTDIR
    with pytest.raises(AfsError, match="ENOTDIR"):
        volume.lookup(fid, "x")
    with pytest.raises(AfsError, match="ENOTDIR"):
        volume.entries(fid, "", 1)


def test_entries_come_in_the_order_of_their_bytes(volume: Volume, root: Fid) -> None:
    """Names sort by UTF-8, and a listing goes on after the last name of the one before."""
    names = ["b", "a", "Z", "ä", "\U0001f600", "ﬀ", "a1", "_"]
    for name in names:
        make_file(volume, name)
    found: list[str] = []
    while part := volume.entries(root, found[-1] if found else "", 3):
        found += [entry.name for entry in part]
    assert found == sorted(names, key=lambda name: name.encode())


def test_a_symlink_keeps_its_target(volume: Volume, root: Fid) -> None:
    """A link's length is its target's in UTF-8; targets that cannot be are refused."""
    fid = make_symlink(volume, "s", "../ä")
    assert volume.read_link(fid) == "../ä"
    assert volume.vnode(fid).length == 5
    assert refusal(volume, MakeSymlink(root, "t", "")) is AfsCode.EINVAL
    assert refusal(volume, MakeSymlink(root, "t", "a\0")) is AfsCode.EINVAL
    assert refusal(volume, MakeSymlink(root, "t", "a" * 4096)) is AfsCode.ENAMETOOLONG
    with pytest.raises(AfsError, match="EINVAL"):
        volume.read_link(root)
    with pytest.raises(AfsError, match="EINVAL"):
        volume.snapshot(fid)


def test_links_share_one_file(volume: Volume, root: Fid) -> None:
    """A second name counts, and the file goes with its last one."""
    fid = make_file(volume, "a", data=b"x")
    outcome = do(volume, Link(root, "b", fid))
    assert the_vnode(outcome).link_count == 2
    assert dict(outcome.changed) == {
        root: BreakReason.DATA_CHANGED,
        fid: BreakReason.STATUS_CHANGED,
    }
    gone = do(volume, RemoveFile(root, "a"))
    assert the_vnode(gone).link_count == 1
    assert gone.changed[1] == (fid, BreakReason.STATUS_CHANGED)
    assert contents(volume, volume.lookup(root, "b").fid) == b"x"
    gone = do(volume, RemoveFile(root, "b"))
    assert the_vnode(gone).link_count == 0
    assert gone.changed[1] == (fid, BreakReason.REMOVED)


def test_links_stay_in_one_directory(volume: Volume, root: Fid) -> None:
    """EXDEV across directories, also by renaming; EISDIR for a directory."""
    fid = make_file(volume, "a")
    directory = make_dir(volume, "d")
    assert refusal(volume, Link(directory, "b", fid)) is AfsCode.EXDEV
    assert refusal(volume, Link(root, "e", directory)) is AfsCode.EISDIR
    do(volume, Link(root, "b", fid))
    assert refusal(volume, Rename(root, "b", directory, "b")) is AfsCode.EXDEV


def test_removing_asks_for_the_right_kind(volume: Volume, root: Fid) -> None:
    """RemoveFile leaves directories alone and RemoveDir files, and full directories stay."""
    directory = make_dir(volume, "d")
    make_file(volume, "f", directory)
    assert refusal(volume, RemoveFile(root, "d")) is AfsCode.EISDIR
    assert refusal(volume, RemoveDir(root, "d")) is AfsCode.ENOTEMPTY
    assert refusal(volume, RemoveDir(directory, "f")) is AfsCode.ENOTDIR
    assert refusal(volume, RemoveFile(root, "none")) is AfsCode.ENOENT
    do(volume, RemoveFile(directory, "f"))
    outcome = do(volume, RemoveDir(root, "d"))
    assert outcome.changed == ((root, BreakReason.DATA_CHANGED), (directory, BreakReason.REMOVED))
    assert volume.vnode(root).link_count == 2
    assert refusal(volume, CreateFile(directory, "x")) is AfsCode.VNOVNODE


def test_rename_within_a_directory(volume: Volume, root: Fid) -> None:
    """The name changes, the vnode does not."""
    fid = make_file(volume, "a")
    before = volume.vnode(fid)
    outcome = do(volume, Rename(root, "a", root, "b"))
    assert outcome.vnode == before == volume.lookup(root, "b")
    assert outcome.changed == ((root, BreakReason.DATA_CHANGED),)
    assert outcome.new_directory is None
    assert list(listing(volume)) == ["b"]
    assert volume.vnode(root).length == 1


def test_rename_across_directories_replaces(volume: Volume, root: Fid) -> None:
    """The moved vnode has another parent, the replaced one is gone, counts follow."""
    source, target = make_dir(volume, "s"), make_dir(volume, "t")
    moved = make_dir(volume, "m", source)
    replaced = make_dir(volume, "m", target)
    outcome = do(volume, Rename(source, "m", target, "m"))
    assert the_vnode(outcome).parent == target
    assert outcome.directory == volume.vnode(source)
    assert outcome.new_directory == volume.vnode(target)
    assert dict(outcome.changed) == {
        source: BreakReason.DATA_CHANGED,
        target: BreakReason.DATA_CHANGED,
        moved: BreakReason.STATUS_CHANGED,
        replaced: BreakReason.REMOVED,
    }
    assert (volume.vnode(source).link_count, volume.vnode(target).link_count) == (2, 3)
    assert (volume.vnode(source).length, volume.vnode(target).length) == (0, 1)


def test_rename_refuses_what_rename_2_refuses(volume: Volume, root: Fid) -> None:
    """Kinds must fit, full directories stay, and no directory comes to lie in itself."""
    directory = make_dir(volume, "d")
    inner = make_dir(volume, "i", directory)
    make_file(volume, "f")
    assert refusal(volume, Rename(root, "f", root, "d")) is AfsCode.EISDIR
    assert refusal(volume, Rename(root, "d", root, "f")) is AfsCode.ENOTDIR
    make_dir(volume, "e")
    assert refusal(volume, Rename(root, "e", root, "d")) is AfsCode.ENOTEMPTY
    assert refusal(volume, Rename(root, "d", inner, "x")) is AfsCode.EINVAL
    assert refusal(volume, Rename(root, "d", directory, "x")) is AfsCode.EINVAL
    assert refusal(volume, Rename(root, "none", root, "x")) is AfsCode.ENOENT


def test_rename_onto_itself_does_nothing(volume: Volume, root: Fid) -> None:
    """Neither a rename to the same name nor onto a link to the same file changes anything."""
    fid = make_file(volume, "a")
    do(volume, Link(root, "b", fid))
    before = volume.header(), volume.vnode(root)
    for new_name in ("a", "b"):
        assert do(volume, Rename(root, "a", root, new_name)).changed == ()
    assert (volume.header(), volume.vnode(root)) == before
    assert list(listing(volume)) == ["a", "b"]


def test_status_is_set(volume: Volume, root: Fid) -> None:
    """StoreStatus sets what is given and leaves the DataVersion; impossible values are refused."""
    fid = make_file(volume, "a")
    before = volume.vnode(fid)
    outcome = do(volume, StoreStatus(fid, SetStatus(mode=0o4711, owner=3, client_mtime_ns=-1)))
    after = the_vnode(outcome)
    assert (after.mode, after.owner, after.client_mtime_ns) == (0o4711, 3, -1)
    assert (after.group, after.data_version) == (before.group, before.data_version)
    assert outcome.changed == ((fid, BreakReason.STATUS_CHANGED),)
    for status in (
        SetStatus(mode=0o10000),
        SetStatus(owner=-1),
        SetStatus(group=2**32),
        SetStatus(client_mtime_ns=2**63),
        SetStatus(length=-1),
    ):
        assert refusal(volume, StoreStatus(fid, status)) is AfsCode.EINVAL
    assert refusal(volume, StoreStatus(root, SetStatus(length=0))) is AfsCode.EISDIR
    assert refusal(volume, StoreStatus(fid, SetStatus(length=2**60))) is AfsCode.EFBIG
    assert volume.vnode(fid) == after


def test_a_failed_change_leaves_the_others_of_its_batch_alone(volume: Volume, root: Fid) -> None:
    """A batch answers each change by itself, and later ones see earlier ones."""
    answers = volume.apply(
        [
            MakeDir(root, "d"),
            MakeDir(root, "d"),
            CreateFile(root, "f"),
            Rename(root, "f", root, "g"),
            RemoveDir(root, "d"),
        ]
    )
    codes = [answer.code if isinstance(answer, AfsError) else None for answer in answers]
    assert codes == [None, AfsCode.EEXIST, None, None, None]
    assert list(listing(volume)) == ["g"]
    assert volume.vnode(root).data_version == 5


def test_the_header_counts_changes_vnodes_and_kib(volume: Volume, root: Fid) -> None:
    """change_counter grows with every change; a vnode uses its length in KiB, at least 1."""
    before = volume.header()
    make_file(volume, "a", data=b"x" * 2049)
    make_dir(volume, "d")
    header = volume.header()
    assert (header.file_count, header.used_kib) == (3, 1 + 3 + 1)
    assert header.change_counter == before.change_counter + 3
    refusal(volume, MakeDir(root, "d"))
    assert volume.header() == header
    do(volume, RemoveFile(root, "a"))
    assert (volume.header().file_count, volume.header().used_kib) == (2, 2)


def test_volume_fields_are_set(volume: Volume) -> None:
    """SetVolumeFields changes what is given, counts as a change, and refuses what cannot be."""
    before = volume.header()
    do(volume, SetVolumeFields(name="other", max_quota_kib=5, offline_message="soon"))
    header = volume.header()
    assert (header.name, header.max_quota_kib, header.offline_message) == ("other", 5, "soon")
    assert (header.backup_id, header.leave_offline) == (0, False)
    assert header.change_counter > before.change_counter
    for fields in (
        SetVolumeFields(name=""),
        SetVolumeFields(name="a/b"),
        SetVolumeFields(max_quota_kib=-1),
        SetVolumeFields(backup_id=2**32),
    ):
        assert refusal(volume, fields) is AfsCode.EINVAL
    assert refusal(volume, SetVolumeFields(name="v" * 40)) is AfsCode.ENAMETOOLONG


def test_quota_is_refused_before_the_change(volume: Volume, root: Fid) -> None:
    """What would go over the quota does not happen (N6); what frees space always may."""
    fid = make_file(volume, "a")
    do(volume, SetVolumeFields(max_quota_kib=3))
    make_file(volume, "b")
    assert refusal(volume, CreateFile(root, "c")) is AfsCode.VOVERQUOTA
    assert refusal(volume, StoreStatus(fid, SetStatus(length=1025))) is AfsCode.VOVERQUOTA
    do(volume, StoreStatus(fid, SetStatus(length=1024)))
    do(volume, SetVolumeFields(max_quota_kib=1))
    do(volume, StoreStatus(fid, SetStatus(mode=0)))
    do(volume, RemoveFile(root, "b"))
    assert volume.header().used_kib == 2


def test_a_closed_volume_answers_voffline(volume: Volume, root: Fid) -> None:
    """After close everything that could block answers VOFFLINE, and closing again is harmless."""
    fid = make_file(volume, "a", data=b"x")
    snapshot = volume.snapshot(fid)
    volume.close()
    volume.close()
    assert refusal(volume, CreateFile(root, "b")) is AfsCode.VOFFLINE
    for read in (
        lambda: volume.vnode(root),
        lambda: volume.lookup(root, "a"),
        lambda: volume.entries(root, "", 1),
        lambda: volume.snapshot(fid),
        lambda: volume.stage(fid, 0),
        lambda: snapshot.read(0, 1),
    ):
        with pytest.raises(AfsError, match="VOFFLINE"):
            read()
    snapshot.close()
