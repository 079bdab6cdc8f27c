"""Damage of packs, and of the rows that say what lies in them: found, mended, never served."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import INLINE_MAX_BYTES
from afs.types import Fid, VolumeType, root_fid
from afs.volume import sqlite_tables as rows
from afs.volume.check_finding import Finding, FindingKind
from afs.volume.check_group import check_partition
from afs.volume.dump import dump_pieces
from afs.volume.packed_rows import PackedRef, read_packed, write_packed
from afs.volume.partition import Partition
from afs.volume.restore import restore_volume
from afs.volume.salvage import salvage_volume
from afs.volume.sqlite_store import SqliteVolume
from tests.volume.building import chunk_files, collect_all, contents, make_files, noise, store
from tests.volume.conftest import VOLUME_ID
from tests.volume.planting import Planter

CLONE_ID = VOLUME_ID + 1
COUNT = 70
DATA = {f"f{number}": noise(INLINE_MAX_BYTES, number) for number in range(COUNT)}


class Packed:
    """A volume of small files, most of which lie in one pack; closed."""

    def __init__(self, partition: Partition, volume: SqliteVolume) -> None:
        self.partition = partition
        self.path = volume.path
        self.fids = make_files(volume, root_fid(VOLUME_ID), DATA)
        collect_all(volume)
        with volume.reading() as moment:
            refs = {
                name: read_packed(moment.connection, fid.vnode) for name, fid in self.fids.items()
            }
        self.refs: dict[str, PackedRef] = {name: ref for name, ref in refs.items() if ref}
        volume.close()
        [self.pack] = chunk_files(partition.path)

    def damage(self, name: str) -> None:
        """Flips a bit in the data of a file."""
        data = bytearray(self.pack.read_bytes())
        data[self.refs[name].offset + 100] ^= 4
        self.pack.write_bytes(data)

    def served(self) -> dict[str, bytes | AfsCode]:
        """What reading each file brings."""
        found: dict[str, bytes | AfsCode] = {}
        with contextlib.closing(self.partition.open_volume(VOLUME_ID)) as volume:
            for name, fid in self.fids.items():
                try:
                    found[name] = contents(volume, fid)
                except AfsError as error:
                    found[name] = error.code
        return found

    def lost(self) -> set[str]:
        """The files that cannot be read; fails if any is served wrong."""
        served = self.served()
        lost = {name for name, data in served.items() if data is AfsCode.EIO}
        assert {name: served[name] for name in DATA if name not in lost} == {
            name: DATA[name] for name in DATA if name not in lost
        }
        return lost


@pytest.fixture
def small(partition: Partition, disk_volume: SqliteVolume) -> Packed:
    """A volume of small files, most of which lie in one pack; closed."""
    return Packed(partition, disk_volume)


def subjects(findings: list[Finding], kind: FindingKind) -> set[str]:
    """What the findings of a kind are about."""
    assert {each.kind for each in findings} == {kind}
    return {each.subject for each in findings}


def fids(*those: Fid) -> set[str]:
    """As findings have them."""
    return {str(fid) for fid in those}


def test_verify_names_the_files_that_lost_data(small: Packed) -> None:
    """Of a damaged pack those whose bytes are damaged; of a missing one all, without reading."""
    small.damage("f7")
    assert list(check_partition(small.partition, deep=False)) == []
    found = list(check_partition(small.partition, deep=True))
    assert subjects(found, FindingKind.DAMAGED_CHUNK) == fids(small.fids["f7"])
    assert [each.path for each in found] == ["/f7"]
    small.pack.unlink()
    found = list(check_partition(small.partition, deep=False))
    assert subjects(found, FindingKind.MISSING_CHUNK) == fids(
        *(small.fids[name] for name in small.refs)
    )


@pytest.mark.parametrize("how", ["damaged", "missing"])
def test_salvage_marks_what_is_lost_and_saves_the_rest(small: Packed, how: str) -> None:
    """The lost ones fail for good, until they are stored anew; the volume can be dumped again."""
    expected = {"f7"} if how == "damaged" else set(small.refs)
    if how == "damaged":
        small.damage("f7")
    else:
        small.pack.unlink()
    assert small.lost() == expected
    report = salvage_volume(small.partition, VOLUME_ID)
    assert report.changed
    assert report.unrepaired == len(expected)
    assert subjects(list(report.findings), FindingKind(f"{how} chunk")) == fids(
        *(small.fids[name] for name in expected)
    )
    assert small.lost() == expected
    # Nothing needs the damaged pack any more.
    assert small.pack not in chunk_files(small.partition.path)
    again = salvage_volume(small.partition, VOLUME_ID)
    assert (again.changed, again.unrepaired) == (False, len(expected))
    with contextlib.closing(small.partition.open_volume(VOLUME_ID)) as volume:
        dump = b"".join(dump_pieces(volume))
        store(volume, small.fids["f7"], DATA["f7"], truncate_to=0)
    assert small.lost() == expected - {"f7"}
    restore_volume(small.partition, [dump], volume_id=90, name="r").close()


def test_a_lost_pack_is_taken_from_wherever_it_is(small: Packed) -> None:
    """Another group has a chunk of that name: whose it is does not matter."""
    elsewhere = small.partition.path / "groups/5/chunks" / small.pack.parent.name
    small.partition.create_volume(volume_id=5, name="other").close()
    elsewhere.mkdir()
    (elsewhere / small.pack.name).write_bytes(small.pack.read_bytes())
    small.pack.unlink()
    report = salvage_volume(small.partition, VOLUME_ID)
    assert report.unrepaired == 0
    assert not report.changed
    assert small.lost() == set()


def test_a_clone_is_salvaged_by_itself(small: Packed) -> None:
    """The volume it was made of is done with the pack; the clone says what it lost."""
    with contextlib.closing(small.partition.open_volume(VOLUME_ID)) as volume:
        small.partition.clone_volume(
            volume, volume_id=CLONE_ID, name="c", type=VolumeType.READ_ONLY
        )
    small.damage("f7")
    assert salvage_volume(small.partition, VOLUME_ID).unrepaired == 1
    assert small.pack in chunk_files(small.partition.path)
    report = salvage_volume(small.partition, CLONE_ID)
    assert [each.subject for each in report.findings] == [str(Fid(CLONE_ID, *small.fids["f7"][1:]))]
    assert small.pack not in chunk_files(small.partition.path)


def test_a_flipped_bit_in_a_reference_is_mended(small: Packed) -> None:
    """Its checksum proves which it was."""
    number = small.fids["f7"].vnode
    with Planter(small.path, VOLUME_ID) as plant:
        plant.sql("UPDATE packed SET offset = offset | 1 WHERE vnode = ?", number)
    assert small.lost() == {"f7"}
    report = salvage_volume(small.partition, VOLUME_ID)
    assert subjects(list(report.findings), FindingKind.ROW) == {f"data of vnode {number}"}
    assert report.unrepaired == 0
    assert small.lost() == set()


def test_a_lost_reference_is_lost_data(small: Packed) -> None:
    """Nobody takes the file for an empty one, nor another file's bytes for its own."""
    with Planter(small.path, VOLUME_ID) as plant:
        plant.sql("DELETE FROM packed WHERE vnode = ?", small.fids["f7"].vnode)
        plant.sql("UPDATE packed SET hash = randomblob(32) WHERE vnode = ?", small.fids["f8"].vnode)
    report = salvage_volume(small.partition, VOLUME_ID)
    assert report.unrepaired == 2
    assert small.lost() == {"f7", "f8"}


def test_references_of_nobody_are_removed(small: Packed) -> None:
    """A file that is gone, or has its data in the database too."""
    with Planter(small.path, VOLUME_ID) as plant:
        rows.write_inline(plant.connection, [(small.fids["f7"].vnode, DATA["f7"])])
        write_packed(plant.connection, [(9998, small.refs["f8"])])
    found = [each.kind for each in check_partition(small.partition, deep=False)]
    assert found == [FindingKind.DATABASE]
    report = salvage_volume(small.partition, VOLUME_ID)
    assert subjects(list(report.findings), FindingKind.STRAY_DATA) == {
        f"{VOLUME_ID}.{small.fids['f7'].vnode}",
        f"{VOLUME_ID}.9998",
    }
    assert list(check_partition(small.partition, deep=True)) == []
    assert small.lost() == set()


def test_a_database_that_sqlite_cannot_read_keeps_its_packs(small: Packed) -> None:
    """Its rows are read page by page, those of packs too."""
    data = bytearray(small.path.read_bytes())
    data[100:108] = bytes(8)
    small.path.write_bytes(data)
    with pytest.raises(AfsError, match="VSALVAGE"):
        small.partition.open_volume(VOLUME_ID)
    report = salvage_volume(small.partition, VOLUME_ID)
    assert report.unrepaired == 0
    assert small.lost() == set()
    assert Path(small.pack).exists()
