"""Databases that SQLite cannot read: what is left is kept, and nothing is served that was not."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing

import pytest

from afs.errors import AfsCode, AfsError
from afs.types import Fid, Vnode, VnodeType, root_fid
from afs.volume.check_finding import FindingKind
from afs.volume.partition import Partition
from afs.volume.salvage import salvage_volume
from afs.volume.salvage_pages import DatabasePages
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import RemoveFile, Volume
from tests.volume.building import (
    MIB,
    chunk_files,
    contents,
    do,
    make_dir,
    make_file,
    make_files,
    make_symlink,
    noise,
    store,
)
from tests.volume.conftest import VOLUME_ID

PAGE = 4096
ROOT = root_fid(VOLUME_ID)
# What a vnode serves: a link's target, a file's bytes; None for a directory.
Served = dict[Fid, tuple[str, Vnode, object]]


def served(volume: Volume) -> Served:
    """All that a volume serves, by Fid; an EIO is what it says. Anything else fails the test."""
    found: Served = {}
    waiting = [("", ROOT)]
    while waiting:
        path, directory = waiting.pop()
        for entry in volume.entries(directory, "", 100_000):
            where = f"{path}/{entry.name}"
            assert entry.fid not in found, "everything has one name here"
            vnode = volume.lookup(directory, entry.name)
            data: object = None
            try:
                if vnode.type is VnodeType.DIRECTORY:
                    waiting.append((where, vnode.fid))
                elif vnode.type is VnodeType.SYMLINK:
                    data = volume.read_link(vnode.fid)
                else:
                    data = contents(volume, vnode.fid)
            except AfsError as error:
                data = error.code
            found[vnode.fid] = (where, vnode, data)
    return found


class Wreck:
    """A volume of some hundred files, whose database is damaged again and again."""

    def __init__(self, volume: SqliteVolume, partition: Partition) -> None:
        self.partition = partition
        self.path = volume.path
        choice = random.Random(1)
        directories = [ROOT]
        for number in range(8):
            parent = directories[-1] if number % 2 else ROOT
            directories.append(make_dir(volume, f"d{number}", parent))
        for number, directory in enumerate(directories):
            lengths = [choice.choice([0, 10, 3000, 16_000, 40_000]) for _ in range(25)]
            files = {f"f{number}.{at}": noise(length, at) for at, length in enumerate(lengths)}
            make_files(volume, directory, files)
        sparse = make_file(volume, "sparse", data=noise(100_000, 7))
        store(volume, sparse, noise(100_000, 8), offset=5 * MIB)
        for number in range(20):
            make_symlink(volume, f"s{number}", f"to {number}")
        # Their rows are still on free pages.
        for number in range(25):
            do(volume, RemoveFile(directories[3], f"f3.{number}"))
        self.good = served(volume)
        volume.close()
        self.intact = self.path.read_bytes()
        self.pages = len(self.intact) // PAGE
        self._chunks = {path: path.read_bytes() for path in chunk_files(partition.path)}

    def salvage(self, damaged: bytes) -> tuple[Served, set[FindingKind]]:
        """What is served after a salvage of the damaged database, and what was found."""
        for path in self.path.parent.glob(f"{VOLUME_ID}.db-*"):
            path.unlink()
        self.path.with_suffix(".seal").unlink(missing_ok=True)
        self.path.write_bytes(damaged)
        for path, chunk in self._chunks.items():
            path.write_bytes(chunk)
        report = salvage_volume(self.partition, VOLUME_ID)
        with closing(self.partition.open_volume(VOLUME_ID)) as volume:
            now = served(volume)
        for fid, (where, vnode, data) in now.items():
            assert fid in self.good, f"{where} was removed long ago"
            was = self.good[fid]
            assert where == was[0] or "__ORPHAN" in where
            assert data == was[2] or data is AfsCode.EIO, f"{where} holds something else"
            assert vnode.data_version >= was[1].data_version
        again = salvage_volume(self.partition, VOLUME_ID)
        assert not again.changed, "a salvaged volume is sound"
        return now, {each.kind for each in report.findings}

    def zeroed(self, *numbers: int) -> bytes:
        """The database with some pages zeroed; page 1 is the first."""
        data = bytearray(self.intact)
        for number in numbers:
            data[(number - 1) * PAGE : number * PAGE] = bytes(PAGE)
        return bytes(data)


@pytest.fixture
def wreck(disk_volume: SqliteVolume, partition: Partition) -> Wreck:
    """A volume to be damaged."""
    return Wreck(disk_volume, partition)


def test_every_row_of_a_sound_database_is_read(wreck: Wreck) -> None:
    """Page by page is found what SQLite finds, and nothing else that looks like a row."""
    with closing(DatabasePages(wreck.path)) as pages:
        found = list(pages.rows())
        assert (pages.damaged_pages, pages.truncated) == (0, False)
    with closing(sqlite3.connect(wreck.path)) as connection:
        for table, in_table, columns in (
            ("vnodes", True, 16),
            ("inline_data", True, 3),
            ("entries", False, 6),
            ("chunks", False, 5),
        ):
            rows = set(connection.execute(f"SELECT * FROM {table}"))
            read = [
                row.values
                for row in found
                if row.in_table == in_table and len(row.values) == columns
            ]
            assert len(read) == len(rows)
            assert set(read) == rows


def test_without_its_first_page_nothing_is_lost(wreck: Wreck) -> None:
    """The schema, the list of free pages, all that says what the file is: gone, and not needed."""
    now, kinds = wreck.salvage(wreck.zeroed(1))
    assert FindingKind.DATABASE in kinds
    assert now.keys() == wreck.good.keys()
    assert all(data == wreck.good[fid][2] for fid, (_, _, data) in now.items())


@pytest.mark.slow
def test_one_lost_page_loses_what_was_on_it(wreck: Wreck) -> None:
    """Every 17th page in turn: most files are all there, and a hole is still known to be one."""
    [sparse] = [fid for fid, (where, _, _) in wreck.good.items() if where == "/sparse"]
    numbers = range(2, wreck.pages + 1, 17)
    holes_known = 0
    for number in numbers:
        now, _ = wreck.salvage(wreck.zeroed(number))
        whole = {fid for fid, (_, _, data) in now.items() if data == wreck.good[fid][2]}
        assert len(whole) > len(wreck.good) * 0.6
        holes_known += sparse in whole
    assert holes_known > len(numbers) * 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        lambda data, choice: _flip(data, choice, 1),
        lambda data, choice: _flip(data, choice, 30),
        lambda data, choice: _random_pages(data, choice, 4),
        lambda data, choice: data[: choice.randrange(len(data) // 2, len(data))],
    ],
    ids=["a bit", "many bits", "random pages", "cut off"],
)
def test_whatever_happens_nothing_wrong_is_served(
    wreck: Wreck, how: Callable[[bytes, random.Random], bytes]
) -> None:
    """Files are as they were, or fail with EIO, or are not there; removed ones do not come back."""
    choice = random.Random(5)
    for _ in range(4):
        wreck.salvage(how(wreck.intact, choice))


def test_what_was_committed_and_is_only_in_the_wal_counts(
    partition: Partition, disk_volume: SqliteVolume
) -> None:
    """A crash left a WAL: what it holds was acknowledged, and is salvaged too."""
    make_file(disk_volume, "first", data=b"1")
    disk_volume.close()
    volume = partition.open_volume(VOLUME_ID)
    make_file(volume, "second", data=b"2")
    database, wal = volume.path, volume.path.with_name(volume.path.name + "-wal")
    files = database.read_bytes(), wal.read_bytes()
    volume.close()
    database.write_bytes(files[0][: 9 * PAGE] + bytes(PAGE) + files[0][10 * PAGE :])
    wal.write_bytes(files[1])
    database.with_suffix(".seal").unlink()
    salvage_volume(partition, VOLUME_ID)
    with closing(partition.open_volume(VOLUME_ID)) as volume:
        assert {contents(volume, entry.fid) for entry in volume.entries(ROOT, "", 10)} == {
            b"1",
            b"2",
        }


@pytest.mark.parametrize("data", [b"", b"x", b"SQLite format 3\0" + bytes(84), bytes(50_000)])
def test_rubbish_is_an_empty_volume(
    partition: Partition, disk_volume: SqliteVolume, data: bytes
) -> None:
    """Nothing of it is left: a root directory, a header made again, and that is said."""
    disk_volume.close()
    disk_volume.path.write_bytes(data)
    disk_volume.path.with_suffix(".seal").unlink()
    report = salvage_volume(partition, VOLUME_ID)
    assert {FindingKind.DATABASE, FindingKind.HEADER, FindingKind.VNODE} == {
        each.kind for each in report.findings
    }
    with closing(partition.open_volume(VOLUME_ID)) as volume:
        assert volume.entries(ROOT, "", 10) == []


def _flip(data: bytes, choice: random.Random, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(count):
        changed[choice.randrange(len(changed))] ^= 1 << choice.randrange(8)
    return bytes(changed)


def _random_pages(data: bytes, choice: random.Random, count: int) -> bytes:
    changed = bytearray(data)
    for _ in range(count):
        at = choice.randrange(len(changed) // PAGE) * PAGE
        changed[at : at + PAGE] = choice.randbytes(PAGE)
    return bytes(changed)
