"""kill -9 at any moment: what was acknowledged is there, all else as a whole or not at all."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from afs.types import root_fid
from afs.volume import sqlite_tables as rows
from afs.volume.partition import Partition
from afs.volume.verify import check_rows
from tests.volume.building import chunk_files, collect_all, contents, listing, noise, staged_files
from tests.volume.writing_child import CLONE_ID, VOLUME_ID

ROUNDS = int(os.environ.get("KILL_ROUNDS", "25"))
# (seed, length): what a file holds; None: there is no such file.
State = tuple[int, int] | None


class Story:
    """What the children of a test said: what each file must hold, and what it may hold instead."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, State] = {}
        self.under_way: dict[str, State] = {}

    def hear(self, line: list[object]) -> None:
        """Takes in one line of a child."""
        match line:
            case ["begin", str(name), int(seed), int(length)]:
                self.under_way[name] = None if length < 0 else (seed, length)
            case ["done", str(name)]:
                self.acknowledged[name] = self.under_way.pop(name)

    def check(self, name: str, data: bytes | None) -> None:
        """Fails unless a file holds what it must; from now on that is what it holds."""
        possible = [self.acknowledged.get(name)]
        if name in self.under_way:
            possible.append(self.under_way[name])
        for state in possible:
            expected = None if state is None else noise(state[1], state[0]) if state[1] else b""
            if expected == data:
                self.acknowledged[name] = state
                return
        pytest.fail(
            f"{name} holds {None if data is None else len(data)} bytes: expected {possible}"
        )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    """A writing process is killed again and again; each time the volume holds what it said."""
    seed = int(os.environ.get("KILL_SEED", str(random.SystemRandom().getrandbits(32))))
    print(f"KILL_SEED={seed} repeats this run")  # noqa: T201
    choice = random.Random(seed)
    story = Story()
    changes = 0
    for _ in range(ROUNDS):
        changes += run_and_kill(tmp_path / "vicepa", choice, story)
        check(tmp_path / "vicepa", story)
    assert changes > ROUNDS


def run_and_kill(path: Path, choice: random.Random, story: Story) -> int:
    """Runs a child and kills it after a while; how many changes it acknowledged."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.volume.writing_child", path, str(choice.getrandbits(32))],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    done = 0
    # Some live for a moment, some for a few hundred changes.
    life_s = choice.choice([0.0, 0.01, 0.05, 0.2, 0.5]) * choice.random()
    killer = threading.Timer(life_s, child.send_signal, [signal.SIGKILL])
    with child:
        for raw in child.stdout:
            if not raw.endswith(b"\n"):
                break
            line = json.loads(raw)
            if line == ["ready"]:
                killer.start()
            story.hear(line)
            done += line[0] == "done"
    assert child.returncode == -signal.SIGKILL, "the child ended by itself"
    killer.join()
    return done


def check(path: Path, story: Story) -> None:
    """Opens the volume and compares; then no chunk is missing and none is left over."""
    partition = Partition.open(path, holder="parent")
    volume = partition.open_volume(VOLUME_ID)
    found = listing(volume)
    for name in sorted({*found, *story.acknowledged, *story.under_way}):
        story.check(name, contents(volume, found[name].fid) if name in found else None)
    story.under_way.clear()
    assert volume.vnode(root_fid(VOLUME_ID)).length == len(found)
    if CLONE_ID in partition.volumes():
        clone = partition.open_volume(CLONE_ID)
        for entry in listing(clone).values():
            contents(clone, entry.fid)
        clone.close()
        partition.delete_volume(CLONE_ID)
    collect_all(volume)
    with volume.reading() as moment:
        assert {bytes.fromhex(path.name) for path in chunk_files(path)} == set(
            rows.read_hashes(moment.connection)
        )
    assert staged_files(path) == []
    volume.close()
    check_rows(volume.path)
    assert {item.name.partition(".")[0] for item in volume.path.parent.glob("*.db*")} == {"5"}
    partition.close()
