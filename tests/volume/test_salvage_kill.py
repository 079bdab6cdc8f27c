"""kill -9 before each thing that a salvage asks of the disk: it has changed all or nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from afs.types import VolumeType, root_fid
from afs.volume.check_finding import FindingKind
from afs.volume.partition import Partition
from afs.volume.salvage import salvage_volume
from tests.volume.building import (
    MIB,
    chunk_files,
    contents,
    listing,
    make_dir,
    make_file,
    noise,
    staged_files,
)
from tests.volume.planting import Planter
from tests.volume.salvage_child import VOLUME_ID

# Every k-th step; KILL_EVERY=1 takes them all.
EVERY = int(os.environ.get("KILL_EVERY", "4"))
BIG = noise(2 * MIB + 7)
ORPHANS = 2


def prepare(folder: Path) -> None:
    """A volume with a backup, two orphans, a lost header and a lost chunk that is elsewhere."""
    for name in ("vicepa", "vicepb"):
        with (
            closing(Partition.open(folder / name, holder="test")) as partition,
            closing(partition.create_volume(volume_id=VOLUME_ID, name="v")) as volume,
        ):
            directory = make_dir(volume, "d")
            make_file(volume, "big", directory, BIG)
            make_file(volume, "small", directory, b"small")
            if name == "vicepa":
                partition.clone_volume(
                    volume, volume_id=VOLUME_ID + 2, name="v.backup", type=VolumeType.BACKUP
                )
    with Planter(volume.path.parents[3] / "vicepa/groups/5/5.db", VOLUME_ID) as plant:
        plant.unname(["d", "small"])
        plant.sql("DELETE FROM header")
    chunk_files(folder / "vicepa")[0].unlink()


def check(folder: Path) -> str:
    """Whether the volume is as it was ("old") or salvaged ("new"); nothing in between."""
    partition = Partition.open(folder / "vicepa", holder="test")
    elsewhere = Partition.open(folder / "vicepb", holder="test")
    names = {path.name for path in partition.path.glob("groups/*/*")}
    left = {name for name in names if ".new-" in name or ".gone-" in name}
    assert left == set(), "a crashed salvage leaves nothing that the next opening does not clear"
    report = salvage_volume(partition, VOLUME_ID, elsewhere=[elsewhere])
    kinds = [each.kind for each in report.findings]
    orphans = kinds.count(FindingKind.ORPHAN)
    assert orphans in (0, ORPHANS)
    assert (FindingKind.HEADER in kinds) == bool(orphans)
    assert report.unrepaired == 0
    for volume_id in (VOLUME_ID, VOLUME_ID + 2):
        with closing(partition.open_volume(volume_id)) as volume:
            found = listing(volume, root_fid(volume_id))
            [directory] = [entry for entry in found.values() if entry.fid.vnode % 2]
            big = volume.lookup(directory.fid, "big").fid
            assert contents(volume, big) == BIG
    assert len(chunk_files(partition.path)) == 3
    assert staged_files(partition.path) == []
    partition.close()
    elsewhere.close()
    return "old" if orphans else "new"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_salvage_killed_at_any_step_has_changed_all_or_nothing(tmp_path: Path) -> None:
    """Every step: the volume is as damaged as before or salvaged, and can be salvaged (again)."""
    prepare(tmp_path / "prepared")
    states = []
    with subprocess.Popen(
        [sys.executable, "-m", "tests.volume.salvage_child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        answer, number = "", 1 - EVERY
        while not answer.startswith("done"):
            number += EVERY
            folder = tmp_path / "killed"
            shutil.copytree(tmp_path / "prepared", folder)
            child.stdin.write(f"{folder / 'vicepa'}\t{number}\n")
            child.stdin.flush()
            answer = child.stdout.readline().strip()
            assert answer in ("killed", "done 0")
            states.append(check(folder))
            shutil.rmtree(folder)
        child.stdin.close()
    assert states == ["old"] * states.count("old") + ["new"] * states.count("new")
    assert states.count("old") > 10 // EVERY
    assert states.count("new") > 3 // EVERY
