"""Which small files come along when one is read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from afs.limits import MAX_BULK_FETCH_FIDS, MAX_BULK_FILE_BYTES
from afs.types import DirectoryEntry, Fid, VnodeType, root_fid
from clientd.core import reading_order as module
from clientd.core.cache import VnodeCache
from clientd.core.listing import Listing
from clientd.core.reading_order import BATCH_BYTES, FIRST_BATCH, GROWTH, SKIP, ReadingOrder
from tests.clientd.core.vnodes import SERVER, VOLUME, attached_cache, fetch, vnode

ROOT = root_fid(VOLUME)


class Rig:
    """A directory of files that are read."""

    def __init__(self, count: int, length: int = 10, directory: Fid = ROOT) -> None:
        self.cache = attached_cache()
        self.here: set[Fid] = set()
        self.order = ReadingOrder(self.cache, self.here.__contains__)
        self.files: list[Fid] = []
        self.add(count, length, directory)

    def add(self, count: int, length: int = 10, directory: Fid = ROOT) -> None:
        """A directory with its listing, all statuses known."""
        first = directory.vnode * 1_000_000
        self.files = [Fid(VOLUME, first + 2 * each, 1) for each in range(1, count + 1)]
        fetch(self.cache, vnode(directory, kind=VnodeType.DIRECTORY))
        entries = [
            DirectoryEntry(f"{number:06}", fid, VnodeType.FILE)
            for number, fid in enumerate(self.files)
        ]
        listing = Listing(entries, 1, complete=True)
        assert self.cache.keep_listing(self.cache.ticket(SERVER, 0.0), directory, listing, 0.0)
        for fid in self.files:
            fetch(self.cache, replace(vnode(fid), parent=directory, length=length))

    def read(self, number: int) -> list[int]:
        """Reads a file; numbers of those that are fetched with it, which are here afterwards."""
        found = self.order.read(self.files[number])
        self.here.update(found, {self.files[number]})
        return [self.files.index(fid) for fid in found]


def test_batches_grow_and_the_next_one_comes_when_half_is_read() -> None:
    """Nothing with the first file; every file is fetched once, and never waited for in the end."""
    rig = Rig(1000)
    assert rig.read(0) == []
    assert rig.read(1) == list(range(1, 1 + FIRST_BATCH))
    fetched = 1 + FIRST_BATCH
    sizes: list[int] = []
    for number in range(2, 1000):
        assert rig.files[number] in rig.here
        found = rig.read(number)
        if found:
            assert found == list(range(fetched, fetched + len(found)))
            fetched += len(found)
            sizes.append(len(found))
    assert fetched == 1000
    assert sizes[:3] == [FIRST_BATCH * GROWTH, FIRST_BATCH * GROWTH**2, MAX_BULK_FETCH_FIDS]


def test_reading_out_of_order_brings_nothing() -> None:
    """Backwards, far ahead, or one file again and again; after that two in order begin anew."""
    rig = Rig(300)
    for number in (200, 10, 10, 150, 9, 8, 7, 200):
        assert rig.read(number) == []
    assert rig.read(201)[:2] == [201, 202]
    assert rig.read(100) == []
    assert rig.read(101) == list(range(101, 101 + FIRST_BATCH))


def test_a_few_files_may_be_skipped() -> None:
    """Up to SKIP of them; what is here already is not fetched again."""
    rig = Rig(300)
    rig.here.update(rig.files[SKIP + 1 : SKIP + 4])
    rig.read(0)
    assert rig.read(SKIP) == [SKIP, *range(SKIP + 4, SKIP + 3 + FIRST_BATCH)]
    rig = Rig(300)
    rig.read(0)
    assert rig.read(SKIP + 1) == []


def test_larger_files_and_directories_are_left_out() -> None:
    """What is known to be too large; a directory is no file at all."""
    rig = Rig(4)
    large = rig.files[2]
    fetch(
        rig.cache,
        replace(vnode(large, 2), parent=ROOT, length=MAX_BULK_FILE_BYTES + 1),
        sequence=2,
    )
    rig.read(0)
    assert rig.read(1) == [1, 3]
    assert rig.read(2) == []


def test_a_batch_is_bounded_in_bytes() -> None:
    """As far as lengths are known."""
    rig = Rig(300, length=MAX_BULK_FILE_BYTES)
    rig.read(0)
    most = 0
    for number in range(1, 200):
        most = max(most, len(rig.read(number)))
    assert most == BATCH_BYTES // MAX_BULK_FILE_BYTES


def test_a_file_alone_is_not_fetched_in_bulk() -> None:
    """The last one of a directory, or one between others that are here."""
    rig = Rig(2)
    assert rig.read(0) == []
    assert rig.read(1) == []


def test_files_that_nobody_looked_at_come_along() -> None:
    """Of these only the place in the directory is known."""
    rig = Rig(6)
    for fid in rig.files[2:]:
        rig.cache.forget(fid)
    rig.read(0)
    rig.cache.forget(rig.files[1])
    assert rig.read(1) == [1, 2, 3, 4, 5]
    assert rig.order.read(Fid(VOLUME, 998, 1)) == []


def test_what_is_here_begins_nothing() -> None:
    """Warm reads cost nothing and are not remembered."""
    rig = Rig(300)
    rig.here.update(rig.files)
    for number in range(10):
        assert rig.read(number) == []
    rig.here.clear()
    assert rig.read(10) == []
    assert rig.read(11) == list(range(11, 11 + FIRST_BATCH))


def test_a_directory_that_is_not_listed_brings_nothing() -> None:
    """Its listing may be gone, or older than a file that was just made."""
    rig = Rig(10)
    made = Fid(VOLUME, 500, 1)
    fetch(rig.cache, replace(vnode(made), parent=ROOT))
    assert rig.order.read(made) == []
    for fid in rig.files[:2]:
        fetch(rig.cache, replace(vnode(fid), parent=Fid(VOLUME, 77, 1)), sequence=2)
        assert rig.order.read(fid) == []


def test_only_so_many_directories_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one longest unused begins anew."""
    monkeypatch.setattr(module, "MAX_DIRECTORIES", 2)
    rig = Rig(10)
    first = rig.files
    rig.read(0)
    for number in (3, 5):
        rig.add(10, directory=Fid(VOLUME, number, 1))
        rig.read(0)
    assert rig.read(1) == list(range(1, 1 + FIRST_BATCH))
    rig.files = first
    assert rig.read(1) == []


def test_a_look_at_a_large_directory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that are here already are passed over, but not all at once."""
    monkeypatch.setattr(module, "MAX_LOOKED_AT", 20)
    rig = Rig(100)
    rig.here.update(rig.files[2:60])
    rig.read(0)
    assert rig.read(1) == []
    assert rig.read(2) == []
    found = [other for number in range(3, 100) for other in rig.read(number)]
    assert found == list(range(60, 100))


def test_cache_is_only_looked_at() -> None:
    """Choosing uses nothing: what is least recently used stays so."""
    rig = Rig(20)
    before = [entry.fid for entry in rig.cache.entries()]
    for number in range(10):
        rig.read(number)
    assert [entry.fid for entry in rig.cache.entries()] == before
    assert isinstance(rig.cache, VnodeCache)
