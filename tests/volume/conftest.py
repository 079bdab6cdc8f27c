"""The volumes that the tests work on: every test of the common suite runs over both stores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from afs.types import Fid, root_fid
from afs.volume.memory_store import MemoryVolume
from afs.volume.partition import Partition
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import Volume
from tests.volume.building import WallClock

VOLUME_ID = 536870913


@pytest.fixture
def clock() -> WallClock:
    """The wall clock of the volumes of a test."""
    return WallClock()


@pytest.fixture
def partition(tmp_path: Path) -> Iterator[Partition]:
    """An empty partition."""
    with_partition = Partition.open(tmp_path / "vicepa", holder="test")
    yield with_partition
    with_partition.close()


@pytest.fixture
def disk_volume(partition: Partition, clock: WallClock) -> Iterator[SqliteVolume]:
    """An empty read-write volume on disk."""
    volume = partition.create_volume(volume_id=VOLUME_ID, name="test", clock_ns=clock)
    yield volume
    volume.close()


@pytest.fixture(params=["memory", "sqlite"])
def volume(request: pytest.FixtureRequest, clock: WallClock) -> Volume:
    """An empty read-write volume, in memory and on disk."""
    if request.param == "memory":
        return MemoryVolume.create(VOLUME_ID, "test", clock_ns=clock)
    on_disk: SqliteVolume = request.getfixturevalue("disk_volume")
    return on_disk


@pytest.fixture
def root(volume: Volume) -> Fid:
    """The volume's root directory."""
    return root_fid(volume.volume_id)
