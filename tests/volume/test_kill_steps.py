"""kill -9 before each thing that whole-volume work asks of the disk: old or new, nothing between.

After each death the partitions are opened again, which clears what crashed makers left. Then every
volume is what it was or what it was to become, opens without complaint, and the chunks are exactly
those that the volumes use.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from afs.volume import sqlite_schema
from afs.volume import sqlite_tables as rows
from afs.volume.partition import Partition
from afs.volume.verify import check_rows
from tests.volume.building import chunk_files, collect_all, staged_files
from tests.volume.comparing import inside
from tests.volume.killed_child import (
    PACK_BYTES,
    PACKING_MODULES,
    SOURCE_ID,
    both,
    play,
    prepare,
)

# Every k-th step; KILL_EVERY=1 takes them all.
EVERY = int(os.environ.get("KILL_EVERY", "4"))

# The scenarios that change a volume on their way: which one.
CHANGES_ITSELF = {"move": ("vicepa", SOURCE_ID), "move_back": ("vicepb", SOURCE_ID)}

State = dict[tuple[str, int], tuple[object, ...]]


def state_of(folder: Path) -> State:
    """What volumes there are, by partition and id, and what is in them; all of it checked."""
    found: State = {}
    for partition in both(folder):
        used: set[str] = set()
        databases = list(partition.path.glob("groups/*/*.remnant.db"))
        for volume_id in partition.volumes():
            with closing(partition.open_volume(volume_id)) as volume:
                collect_all(volume)
                header = volume.header()
                found[partition.name, volume_id] = (
                    header.name,
                    header.type,
                    header.in_transit,
                    inside(volume),
                )
            check_rows(volume.path)
            databases.append(volume.path)
        for path in databases:
            with closing(sqlite_schema.connect(path)) as connection:
                used |= {digest.hex() for digest in rows.read_hashes(connection)}
        assert {path.name for path in chunk_files(partition.path)} == used
        assert staged_files(partition.path) == []
        check_names(partition)
        partition.close()
    return found


def check_names(partition: Partition) -> None:
    """Fails if there is anything but volumes, their seals and locks, and remnants."""
    for path in partition.path.glob("groups/*/*"):
        name = path.name
        assert ".new-" not in name, name
        assert ".gone-" not in name, name
        assert not name.endswith(("-wal", "-shm", "-journal")), name


@pytest.fixture(scope="module", autouse=True)
def small_packs() -> Iterator[None]:
    """Little data make a pack, here as in the children."""
    with pytest.MonkeyPatch.context() as patch:
        for module in PACKING_MODULES:
            patch.setattr(module, "PACK_BYTES", PACK_BYTES)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What each child finds."""
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "scenario",
    [
        "create",
        "delete",
        "clone",
        "clone_read_write",
        "release",
        "move",
        "move_back",
        "restore",
        "restore_increment",
        "pack",
    ],
)
def test_killed_at_any_step(prepared: Path, tmp_path: Path, scenario: str) -> None:
    """Old or new as a whole, no chunk leaks, and what was being made can be made again (R7)."""
    shutil.copytree(prepared, tmp_path / "before")
    before = state_of(tmp_path / "before")
    shutil.copytree(prepared, tmp_path / "whole")
    play(scenario, tmp_path / "whole")
    after = state_of(tmp_path / "whole")
    # What small data lie in is nothing that anybody sees.
    assert (before == after) == (scenario == "pack")
    with closing_child(scenario) as kill:
        first = 1 + len(scenario) % EVERY
        for number in range(first, 10_000, EVERY):
            folder = tmp_path / "killed"
            shutil.copytree(prepared, folder)
            how = kill(folder, number)
            found = state_of(folder)
            assert found.keys() <= before.keys() | after.keys()
            for key in before.keys() | after.keys():
                allowed = [states[key] for states in (before, after) if key in states]
                if key == CHANGES_ITSELF.get(scenario):
                    continue
                if key in found:
                    assert found[key] in allowed
                elif scenario != "move_back" or key[1] != SOURCE_ID:
                    assert len(allowed) == 1, f"{key} is gone"
            if scenario != "delete":
                assert {("vicepa", SOURCE_ID), ("vicepb", SOURCE_ID)} & found.keys()
            if how == "done":
                assert found == after
                break
            shutil.rmtree(folder)
        assert number > first + EVERY


class closing_child:  # noqa: N801 used as a function
    """The process that forks and kills; as a context, the function that tells it to."""

    def __init__(self, scenario: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.volume.killed_child", scenario],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Callable[[Path, int], str]:
        def kill(folder: Path, number: int) -> str:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(f"{folder}\t{number}\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline().strip()
            assert answer in ("killed", "done"), answer
            return answer

        return kill

    def __exit__(self, *_: object) -> None:
        with self._process:
            pass
