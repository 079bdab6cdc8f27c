"""The salvager finds planted damage of every kind, and repairs it without making data up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.types import Fid, VnodeType, VolumeType, root_fid
from afs.volume import salvage_copy
from afs.volume.check_finding import FINDINGS_TOLD_MAX, Finding, FindingKind
from afs.volume.partition import Partition
from afs.volume.salvage import SalvageReport, salvage_volume
from afs.volume.salvage_case import SalvageOptions
from afs.volume.salvage_header import KnownIdentity
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import Link, SetVolumeFields
from tests.volume.building import (
    MIB,
    WallClock,
    chunk_files,
    code_of,
    contents,
    do,
    flip_byte,
    listing,
    make_dir,
    make_file,
    make_files,
    make_symlink,
    noise,
    staged_files,
    store,
)
from tests.volume.conftest import VOLUME_ID
from tests.volume.planting import Planter

ROOT = root_fid(VOLUME_ID)
BIG = noise(2 * MIB + 5)


class Tree:
    """A volume with one of everything, closed."""

    def __init__(self, volume: SqliteVolume) -> None:
        self.path = volume.path
        self.directory = make_dir(volume, "d")
        self.inner = make_dir(volume, "inner", self.directory)
        self.deep = make_dir(volume, "deep", self.inner)
        self.small = make_file(volume, "small", self.directory, noise(5000))
        self.empty = make_file(volume, "empty", self.directory)
        self.big = make_file(volume, "big", self.inner, BIG)
        self.link = make_symlink(volume, "link", "to/somewhere")
        do(volume, Link(self.directory, "second", self.small))
        volume.close()
        self.original = self.path.read_bytes()

    def plant(self) -> Planter:
        """Somebody who damages it."""
        return Planter(self.path, VOLUME_ID)


@pytest.fixture
def tree(disk_volume: SqliteVolume) -> Tree:
    """A volume with one of everything, closed."""
    return Tree(disk_volume)


def kinds(report: SalvageReport) -> list[FindingKind]:
    """What was found, without the seal that planting may have broken."""
    return [each.kind for each in report.findings if each.kind is not FindingKind.SEAL]


def the(report: SalvageReport, kind: FindingKind) -> Finding:
    """The one finding of a kind."""
    [finding] = [each for each in report.findings if each.kind is kind]
    return finding


def files(folder: Path) -> dict[Path, bytes]:
    """All files, without those that SQLite makes for whoever reads."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


def reopened(partition: Partition) -> SqliteVolume:
    """The volume, which passes the full check of one that was not cleanly detached."""
    path = partition.group_for(VOLUME_ID).database(VOLUME_ID)
    path.with_suffix(".seal").unlink(missing_ok=True)
    return partition.open_volume(VOLUME_ID)


def test_a_sound_volume_is_left_as_it_is(partition: Partition, tree: Tree) -> None:
    """Nothing is found, nothing changes: not the change counter, not a byte."""
    report = salvage_volume(partition, VOLUME_ID)
    assert report == SalvageReport((), changed=False, unrepaired=0)
    assert tree.path.read_bytes() == tree.original


def test_orphans_get_a_name_in_the_root(partition: Partition, tree: Tree) -> None:
    """A file without a name and a directory without one are called as AFS calls them."""
    with tree.plant() as plant:
        plant.unname(["link", "inner"])
    report = salvage_volume(partition, VOLUME_ID)
    assert [kind for kind in kinds(report) if kind is not FindingKind.LINKS] == [
        FindingKind.ORPHAN
    ] * 2
    assert (report.changed, report.unrepaired) == (True, 0)
    volume = reopened(partition)
    file = f"__ORPHANFILE__.{tree.link.vnode}.{tree.link.uniquifier}"
    directory = f"__ORPHANDIR__.{tree.inner.vnode}.{tree.inner.uniquifier}"
    assert set(listing(volume)) == {"d", file, directory}
    assert volume.read_link(volume.lookup(ROOT, file).fid) == "to/somewhere"
    assert volume.vnode(tree.inner).parent == ROOT
    assert contents(volume, volume.lookup(tree.inner, "big").fid) == BIG
    volume.close()


def test_orphans_are_removed_on_request(partition: Partition, tree: Tree) -> None:
    """With all that lies under them, and their chunks."""
    with tree.plant() as plant:
        plant.unname(["inner"])
    report = salvage_volume(partition, VOLUME_ID, options=SalvageOptions(remove_orphans=True))
    assert kinds(report).count(FindingKind.ORPHAN) == 3
    volume = reopened(partition)
    assert set(listing(volume)) == {"d", "link"}
    assert volume.header().file_count == 5
    assert chunk_files(partition.path) == []
    volume.close()


def test_an_orphan_does_not_take_the_place_of_a_file(partition: Partition, tree: Tree) -> None:
    """A name that is taken is not taken away."""
    name = f"__ORPHANFILE__.{tree.link.vnode}.{tree.link.uniquifier}"
    volume = partition.open_volume(VOLUME_ID)
    make_file(volume, name, data=b"mine")
    volume.close()
    with tree.plant() as plant:
        plant.unname(["link"])
    salvage_volume(partition, VOLUME_ID)
    volume = reopened(partition)
    assert contents(volume, volume.lookup(ROOT, name).fid) == b"mine"
    assert volume.lookup(ROOT, f"{name}.1").fid == tree.link
    volume.close()


def test_a_loop_is_cut_and_its_directories_are_reachable_again(
    partition: Partition, tree: Tree
) -> None:
    """Two directories that lie in each other: one becomes an orphan, nothing is lost (N4)."""
    with tree.plant() as plant:
        plant.unname(["inner"])
        plant.name(tree.deep, "inner", tree.inner, VnodeType.DIRECTORY)
        plant.change_vnode(tree.inner.vnode, parent=tree.deep)
        plant.change_vnode(tree.deep.vnode, length=1, link_count=3)
        plant.change_vnode(tree.directory.vnode, length=3, link_count=2)
    with pytest.raises(AfsError, match="VSALVAGE"):
        reopened(partition)
    report = salvage_volume(partition, VOLUME_ID)
    assert kinds(report) == [FindingKind.LOOP, FindingKind.ORPHAN]
    assert the(report, FindingKind.LOOP).subject == str(tree.inner)
    volume = reopened(partition)
    orphan = volume.lookup(ROOT, f"__ORPHANDIR__.{tree.inner.vnode}.{tree.inner.uniquifier}")
    assert set(listing(volume, orphan.fid)) == {"big", "deep"}
    assert listing(volume, tree.deep) == {}
    volume.close()


def test_link_counts_are_counted_anew(partition: Partition, tree: Tree) -> None:
    """Wrong link counts of files, and wrong counts of directories."""
    with tree.plant() as plant:
        plant.change_vnode(tree.small.vnode, link_count=7)
        plant.change_vnode(tree.directory.vnode, link_count=9)
        plant.change_vnode(tree.inner.vnode, length=77)
    report = salvage_volume(partition, VOLUME_ID)
    assert kinds(report) == [FindingKind.LINKS] * 3
    volume = reopened(partition)
    assert volume.vnode(tree.small).link_count == 2
    assert volume.vnode(tree.directory).link_count == 3
    assert volume.vnode(tree.inner).length == 2
    volume.close()


def test_names_that_lead_nowhere_are_removed(partition: Partition, tree: Tree) -> None:
    """No vnode, another uniquifier, a directory that is not there, and the root itself."""
    with tree.plant() as plant:
        plant.name(ROOT, "gone", Fid(VOLUME_ID, 4000, 4000), VnodeType.FILE)
        plant.name(ROOT, "old", tree.small._replace(uniquifier=999), VnodeType.FILE)
        plant.name(Fid(VOLUME_ID, 4001, 1), "nowhere", tree.small, VnodeType.FILE)
        plant.name(tree.deep, "up", ROOT, VnodeType.DIRECTORY)
    report = salvage_volume(partition, VOLUME_ID)
    assert kinds(report) == [FindingKind.NAME] * 4
    assert report.unrepaired == 0
    volume = reopened(partition)
    assert set(listing(volume)) == {"d", "link"}
    assert contents(volume, tree.small) == noise(5000)
    volume.close()


def test_a_vnode_lies_in_one_directory(partition: Partition, tree: Tree) -> None:
    """A second name of a directory, and a file's name in another directory, go; the first stay."""
    with tree.plant() as plant:
        plant.name(ROOT, "again", tree.deep, VnodeType.DIRECTORY)
        plant.name(ROOT, "elsewhere", tree.empty, VnodeType.FILE)
        plant.change_vnode(tree.big.vnode, parent=ROOT)
    salvage_volume(partition, VOLUME_ID)
    volume = reopened(partition)
    assert set(listing(volume)) == {"d", "link"}
    assert volume.vnode(tree.big).parent == tree.inner
    assert volume.lookup(tree.directory, "empty").fid == tree.empty
    volume.close()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("used_kib", lambda state: {"header": replace(state.header, used_kib=1)}),
        ("file_count", lambda state: {"header": replace(state.header, file_count=0)}),
        ("next_vnode", lambda _: {"next_vnode": 2}),
        ("next_uniquifier", lambda _: {"next_uniquifier": 2}),
        ("max_data_version", lambda _: {"max_data_version": 0}),
    ],
)
def test_wrong_counters_are_set_right(
    partition: Partition, tree: Tree, name: str, change: Callable[..., dict[str, object]]
) -> None:
    """Counters that do not fit what there is; none ever goes back."""
    with tree.plant() as plant:
        right = plant.state()
        plant.change_state(**change(right))
    report = salvage_volume(partition, VOLUME_ID)
    assert [(each.kind, each.subject) for each in report.findings] == [(FindingKind.COUNTER, name)]
    with tree.plant() as plant:
        now = plant.state()
    assert now.header.used_kib == right.header.used_kib
    assert now.header.file_count == right.header.file_count
    assert now.next_vnode >= right.next_vnode
    assert now.next_uniquifier >= right.next_uniquifier
    assert now.max_data_version >= right.max_data_version
    reopened(partition).close()


@pytest.mark.parametrize("table", ["vnodes", "entries", "inline_data", "chunks", "header"])
def test_a_flipped_bit_in_a_row_is_mended(partition: Partition, tree: Tree, table: str) -> None:
    """The checksum proves which bit it was: the row is what it was, and nothing is lost."""
    change = {
        "vnodes": "owner = owner | 4096",
        "entries": "uniquifier = uniquifier | 4096",
        # "to/somewhere" begins with 0x74.
        "inline_data": "data = CAST(X'75' || substr(data, 2) AS BLOB)"
        f" WHERE vnode = {tree.link.vnode}",
        "chunks": "size = size | 4096",
        "header": "max_quota_kib = max_quota_kib | 4096",
    }[table]
    with tree.plant() as plant:
        plant.sql(f"UPDATE {table} SET {change}")
    report = salvage_volume(partition, VOLUME_ID)
    assert report.findings
    assert set(kinds(report)) == {FindingKind.ROW}
    assert report.unrepaired == 0
    volume = reopened(partition)
    assert volume.vnode(tree.small).owner == 0
    assert volume.header().max_quota_kib == 0
    assert volume.read_link(tree.link) == "to/somewhere"
    assert contents(volume, tree.big) == BIG
    volume.close()


def test_a_lost_vnode_is_made_again_of_what_others_know(partition: Partition, tree: Tree) -> None:
    """Rows of vnodes are gone: names, places and data are kept; who may do what is lost."""
    with tree.plant() as plant:
        for fid in (tree.directory, tree.inner, tree.small, tree.link, ROOT):
            plant.remove_vnode(fid.vnode)
    report = salvage_volume(partition, VOLUME_ID)
    assert sorted(each.subject for each in report.findings if each.kind is FindingKind.VNODE) == [
        str(fid)
        for fid in sorted((ROOT, tree.directory, tree.inner, tree.small, tree.link), key=str)
    ]
    assert report.unrepaired == 0
    volume = reopened(partition)
    small = volume.lookup(tree.directory, "small")
    assert (small.fid, small.link_count, small.mode, small.owner) == (tree.small, 2, 0o600, 0)
    assert contents(volume, tree.small) == noise(5000)
    assert contents(volume, volume.lookup(tree.inner, "big").fid) == BIG
    assert volume.read_link(tree.link) == "to/somewhere"
    volume.close()


def test_a_file_whose_length_is_lost_is_not_taken_for_the_whole(
    partition: Partition, tree: Tree
) -> None:
    """What is left can be read; beyond it reading fails, as nobody knows what followed."""
    with tree.plant() as plant:
        plant.remove_vnode(tree.big.vnode)
    report = salvage_volume(partition, VOLUME_ID)
    assert report.unrepaired == 1
    volume = reopened(partition)
    with volume.snapshot(tree.big) as snapshot:
        assert snapshot.read(0, len(BIG)) == BIG
        with pytest.raises(AfsError, match="EIO"):
            snapshot.read(3 * MIB, 1)
    volume.close()


def test_lost_inline_data_are_never_served_as_something_else(
    partition: Partition, tree: Tree
) -> None:
    """A small file and a link whose bytes are gone: EIO, for good, until they are stored anew."""
    with tree.plant() as plant:
        plant.sql("DELETE FROM inline_data")
    report = salvage_volume(partition, VOLUME_ID)
    assert kinds(report).count(FindingKind.LOST_DATA) == 2
    assert report.unrepaired == 2
    assert salvage_volume(partition, VOLUME_ID).unrepaired == 2
    volume = reopened(partition)
    for read in (contents, SqliteVolume.read_link):
        with pytest.raises(AfsError) as raised:
            read(volume, tree.small if read is contents else tree.link)
        assert raised.value.code is AfsCode.EIO
    assert contents(volume, tree.empty) == b""
    store(volume, tree.small, b"new", truncate_to=0)
    assert contents(volume, tree.small) == b"new"
    volume.close()
    report = salvage_volume(partition, VOLUME_ID)
    assert (report.changed, report.unrepaired) == (False, 1)


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_lost_chunk_leaves_the_rest_of_the_file(
    partition: Partition, tree: Tree, how: str
) -> None:
    """The range it covers fails with EIO, the finding counts as unrepaired, nothing changes."""
    tail = next(path for path in chunk_files(partition.path) if path.stat().st_size == 5)
    tail.unlink() if how == "missing" else flip_byte(tail, 1)
    report = salvage_volume(partition, VOLUME_ID)
    finding = report.findings[0]
    assert finding.kind.value == f"{how} chunk"
    assert finding.subject == f"{tree.big}, position 2"
    assert finding.path == "/d/inner/big"
    assert (report.changed, report.unrepaired) == (False, 1)
    volume = reopened(partition)
    with volume.snapshot(tree.big) as snapshot:
        assert snapshot.read(0, 2 * MIB) == BIG[: 2 * MIB]
        with pytest.raises(AfsError, match="EIO"):
            snapshot.read(2 * MIB, 1)
    volume.close()


def test_files_that_lost_data_are_removed_on_request(partition: Partition, tree: Tree) -> None:
    """With their names; then nothing is wrong any more."""
    next(path for path in chunk_files(partition.path) if path.stat().st_size == 5).unlink()
    report = salvage_volume(partition, VOLUME_ID, options=SalvageOptions(remove_damaged=True))
    assert (report.changed, report.unrepaired) == (True, 0)
    volume = reopened(partition)
    assert set(listing(volume, tree.inner)) == {"deep"}
    volume.close()
    assert chunk_files(partition.path) == []


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_lost_chunk_is_taken_from_another_copy(
    partition: Partition, tree: Tree, tmp_path: Path, how: str
) -> None:
    """Whoever has the same bytes: a chunk is named by its hash."""
    other_partition = Partition.open(tmp_path / "vicepb", holder="test")
    other = other_partition.create_volume(volume_id=77, name="other")
    make_file(other, "copy", data=BIG)
    other.close()
    for path in chunk_files(partition.path):
        path.unlink() if how == "missing" else flip_byte(path, 1)
    report = salvage_volume(partition, VOLUME_ID, elsewhere=[other_partition])
    assert [each.kind.value for each in report.findings] == [f"{how} chunk"] * 3
    assert (report.changed, report.unrepaired) == (False, 0)
    volume = reopened(partition)
    assert contents(volume, tree.big) == BIG
    volume.close()
    assert staged_files(partition.path) == []
    other_partition.close()


def test_a_lost_row_of_a_chunk_is_no_hole(partition: Partition, tree: Tree) -> None:
    """A position whose row is beyond mending is marked: zeroes there would be wrong data."""
    with tree.plant() as plant:
        plant.sql("UPDATE chunks SET size = size - 3, checksum = randomblob(8) WHERE position = 1")
    report = salvage_volume(partition, VOLUME_ID)
    assert FindingKind.LOST_DATA in kinds(report)
    volume = reopened(partition)
    with volume.snapshot(tree.big) as snapshot:
        assert snapshot.read(0, MIB) == BIG[:MIB]
        with pytest.raises(AfsError, match="EIO"):
            snapshot.read(MIB, 10)
        assert snapshot.read(2 * MIB, 5) == BIG[2 * MIB :]
    volume.close()


def test_stray_chunks_are_removed(partition: Partition, tree: Tree) -> None:
    """Leaked chunks go; those that are used, or that are being stored, stay."""
    group = partition.group_for(VOLUME_ID)
    stray = group.chunks.path(bytes.fromhex("ab" * 32))
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"leaked")
    report = salvage_volume(partition, VOLUME_ID)
    assert kinds(report) == [FindingKind.STRAY_CHUNK]
    assert not report.changed
    assert not stray.exists()
    assert len(chunk_files(partition.path)) == 3


def test_a_lost_header_is_made_again(partition: Partition, tree: Tree) -> None:
    """A new incarnation, so that no promise holds; numbers that were never given; the old name."""
    with tree.plant() as plant:
        before = plant.state()
        plant.sql("DELETE FROM header")
    report = salvage_volume(partition, VOLUME_ID, known=KnownIdentity(name="test"))
    assert kinds(report) == [FindingKind.HEADER]
    volume = reopened(partition)
    header = volume.header()
    assert (header.name, header.type) == ("test", VolumeType.READ_WRITE)
    assert header.incarnation != before.header.incarnation
    assert header.file_count == before.header.file_count
    assert volume.state.next_uniquifier > before.next_uniquifier
    assert volume.state.max_data_version > before.max_data_version
    volume.close()


def test_a_lost_header_takes_after_the_backup(partition: Partition, tree: Tree) -> None:
    """Without anybody who knows better, name and quota come from a neighbour in the group."""
    volume = partition.open_volume(VOLUME_ID)
    do(volume, SetVolumeFields(max_quota_kib=123456))
    partition.clone_volume(
        volume, volume_id=VOLUME_ID + 2, name="test.backup", type=VolumeType.BACKUP
    )
    volume.close()
    with tree.plant() as plant:
        plant.sql("DELETE FROM header")
    salvage_volume(partition, VOLUME_ID)
    header = partition.volume_header(VOLUME_ID)
    assert (header.name, header.max_quota_kib) == ("test", 123456)


def test_a_damaged_clone_gets_another_incarnation(partition: Partition, tree: Tree) -> None:
    """Its change counter names a state of its source, which it does not show any more."""
    volume = partition.open_volume(VOLUME_ID)
    partition.clone_volume(
        volume, volume_id=VOLUME_ID + 2, name="test.backup", type=VolumeType.BACKUP
    )
    volume.close()
    path = partition.group_for(VOLUME_ID + 2).database(VOLUME_ID + 2)
    with Planter(path, VOLUME_ID + 2) as plant:
        plant.unname(["link"])
    before = partition.volume_header(VOLUME_ID + 2)
    assert salvage_volume(partition, VOLUME_ID + 2).changed
    after = partition.volume_header(VOLUME_ID + 2)
    assert after.incarnation != before.incarnation
    assert after.type is VolumeType.BACKUP
    assert not salvage_volume(partition, VOLUME_ID).findings


def test_whoever_revalidates_refetches_what_changed(
    partition: Partition, tree: Tree, clock: WallClock
) -> None:
    """DataVersions and the change counter of what was changed are new; all else keeps them."""
    volume = partition.open_volume(VOLUME_ID)
    before = {fid: volume.vnode(fid) for fid in (ROOT, tree.directory, tree.small, tree.big)}
    header = volume.header()
    volume.close()
    with tree.plant() as plant:
        plant.unname(["inner"])
    salvage_volume(partition, VOLUME_ID, clock_ns=clock)
    volume = reopened(partition)
    after = {fid: volume.vnode(fid) for fid in before}
    assert volume.header().change_counter > header.change_counter
    assert volume.header().incarnation == header.incarnation
    highest = max(vnode.data_version for vnode in before.values())
    assert after[ROOT].data_version > highest
    assert after[tree.directory].data_version > highest
    assert after[tree.small] == before[tree.small]
    assert after[tree.big] == before[tree.big]
    volume.close()


def test_a_dry_run_says_all_and_changes_nothing(partition: Partition, tree: Tree) -> None:
    """The same findings, and every byte as it was."""
    with tree.plant() as plant:
        plant.unname(["link", "inner"])
    tail = next(path for path in chunk_files(partition.path) if path.stat().st_size == 5)
    tail.unlink()
    before = files(partition.path)
    dry = salvage_volume(partition, VOLUME_ID, dry_run=True)
    assert not dry.changed
    assert files(partition.path) == before
    assert salvage_volume(partition, VOLUME_ID).findings == dry.findings


def test_a_volume_in_use_is_refused(partition: Partition, disk_volume: SqliteVolume) -> None:
    """VBUSY while somebody has it open; VNOVOL if there is none; EAGAIN for half of a move."""
    with pytest.raises(AfsError) as raised:
        salvage_volume(partition, VOLUME_ID)
    assert code_of(raised.value) is AfsCode.VBUSY
    do(disk_volume, SetVolumeFields(in_transit=True))
    disk_volume.close()
    with pytest.raises(AfsError) as raised:
        salvage_volume(partition, VOLUME_ID)
    assert code_of(raised.value) is AfsCode.EAGAIN
    with pytest.raises(AfsError) as raised:
        salvage_volume(partition, 999)
    assert code_of(raised.value) is AfsCode.VNOVOL


def test_another_volumes_database_is_not_touched(partition: Partition, tree: Tree) -> None:
    """A database under a wrong name is whole, and somebody else's."""
    with tree.plant() as plant:
        plant.change_state(header=replace(plant.state().header, volume_id=77))
    before = tree.path.read_bytes()
    with pytest.raises(AfsError, match="says it is volume 77"):
        salvage_volume(partition, VOLUME_ID)
    assert tree.path.read_bytes() == before


def test_a_wrong_seal_on_a_sound_database_is_made_anew(partition: Partition, tree: Tree) -> None:
    """The rows are all there: the volume goes into service again."""
    tree.path.with_suffix(".seal").write_bytes(b"blake3 0000\n")
    with pytest.raises(AfsError, match="VSALVAGE"):
        partition.open_volume(VOLUME_ID)
    report = salvage_volume(partition, VOLUME_ID)
    assert [each.kind for each in report.findings] == [FindingKind.SEAL]
    partition.open_volume(VOLUME_ID).close()


def test_of_very_many_findings_the_number_is_told(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """At most FINDINGS_TOLD_MAX of a kind, and how many more there are."""
    count = FINDINGS_TOLD_MAX + 23
    make_files(disk_volume, ROOT, {f"f{number}": b"x" for number in range(count)})
    disk_volume.close()
    with Planter(disk_volume.path, VOLUME_ID) as plant:
        plant.sql("DELETE FROM entries")
    report = salvage_volume(partition, VOLUME_ID)
    orphans = [each for each in report.findings if each.kind is FindingKind.ORPHAN]
    assert len(orphans) == FINDINGS_TOLD_MAX + 1
    assert orphans[-1].subject == "23 more"
    volume = reopened(partition)
    assert len(listing(volume)) == count
    volume.close()


def test_nothing_of_the_copy_remains(partition: Partition, tree: Tree) -> None:
    """No draft, no WAL, no lock of one; the volume's own files alone."""
    with tree.plant() as plant:
        plant.unname(["link"])
    salvage_volume(partition, VOLUME_ID)
    names = {path.name for path in files(tree.path.parent) if path.parent == tree.path.parent}
    assert names == {
        "chunks.lock",
        f"{VOLUME_ID}.db",
        f"{VOLUME_ID}.lock",
        f"{VOLUME_ID}.seal",
    }


def test_of_more_damaged_rows_than_can_be_kept_none_becomes_a_hole(
    partition: Partition, tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are beyond counting still were there: no position of theirs reads as zeroes."""
    monkeypatch.setattr(salvage_copy, "_DAMAGED_ROWS_MAX", 1)
    with tree.plant() as plant:
        plant.sql("UPDATE chunks SET size = size - 3, checksum = randomblob(8)")
    salvage_volume(partition, VOLUME_ID)
    volume = reopened(partition)
    with volume.snapshot(tree.big) as snapshot:
        for position in range(3):
            with pytest.raises(AfsError, match="EIO"):
                snapshot.read(position * MIB, 1)
    volume.close()
