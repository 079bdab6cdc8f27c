"""Processes that die by kill -9 just before the n-th thing they ask of the disk.

Run by `test_kill_steps`: `python -m tests.volume.killed_child SCENARIO`; for each line on its
standard input, a folder and a number n, it forks one that plays the scenario in that folder, and
answers "killed" or, once n is larger than there are steps, "done".
"""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from afs.limits import INLINE_MAX_BYTES
from afs.types import VolumeType, root_fid
from afs.volume import packed_rows, packing, packs, restore_vnodes, sqlite_schema
from afs.volume.dump import dump_pieces
from afs.volume.partition import Partition
from afs.volume.remnant import set_aside
from afs.volume.restore import Restore
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.transfer import Transfer
from afs.volume.volume import RemoveFile, SetVolumeFields
from tests.volume.building import (
    MIB,
    WallClock,
    collect_all,
    do,
    make_dir,
    make_file,
    make_files,
    noise,
    store,
)
from tests.volume.sending import send_round

# Of small data, so that little of them makes a pack.
SMALL_BYTES = INLINE_MAX_BYTES // 2
PACK_BYTES = 2 * INLINE_MAX_BYTES
PACKING_MODULES = (packed_rows, packs, packing, restore_vnodes)
SOURCE_ID, READ_ONLY_ID, BACKUP_ID, OTHER_ID = 10, 11, 12, 20
_STEPS = ("fsync", "link", "unlink", "rename", "replace", "copy_file_range", "mkdir", "rmdir")


# --- what there is before -------------------------------------------------------------------------


def prepare(folder: Path) -> None:
    """Two partitions: the source with a backup here; an older read-only state over there."""
    here, there = both(folder)
    with closing(here.create_volume(volume_id=SOURCE_ID, name="v")) as volume:
        make_file(volume, "large", data=noise(2 * MIB))
        make_file(volume, "small", data=b"small")
        make_file(volume, "gone", data=noise(MIB, 4))
        # Full packs, one of which is needed less and less, and some that is in none.
        make_small_files(volume, range(9))
        collect_all(volume)
        make_dir(volume, "d")
        release(volume, there)
        here.clone_volume(volume, volume_id=BACKUP_ID, name="v.backup", type=VolumeType.BACKUP)
        (folder / "dump").write_bytes(b"".join(dump_pieces(volume)))
        since = volume.header().change_counter
        restore(there, OTHER_ID, folder / "dump")
        change(volume, 1)
        (folder / "increment").write_bytes(b"".join(dump_pieces(volume, since=since)))
        (folder / "later dump").write_bytes(b"".join(dump_pieces(volume)))
        make_small_files(volume, range(20, 26))
    here.close()
    there.close()


def both(folder: Path) -> tuple[Partition, Partition]:
    """The two partitions."""
    return (
        Partition.open(folder / "vicepa", holder="test"),
        Partition.open(folder / "vicepb", holder="test"),
    )


def make_small_files(volume: SqliteVolume, numbers: range) -> None:
    """Small files; three fill a pack."""
    data = {f"s{number}": noise(SMALL_BYTES, number) for number in numbers}
    make_files(volume, root_fid(volume.volume_id), data)


def make_packs_small() -> None:
    """In this process little data make a pack."""
    for module in PACKING_MODULES:
        module.PACK_BYTES = PACK_BYTES  # type: ignore[attr-defined]


def change(volume: SqliteVolume, seed: int) -> None:
    """Some chunks come, some go; of a pack little is needed any more."""
    root = root_fid(volume.volume_id)
    if seed == 1:
        volume.apply([RemoveFile(root, name) for name in ("s0", "s1", "s3", "s4")])
    store(volume, volume.lookup(root, f"s{seed + 4}").fid, noise(SMALL_BYTES, seed + 300))
    store(volume, volume.lookup(root, "large").fid, noise(MIB, seed + 100), MIB)
    make_file(volume, f"new{seed}", volume.lookup(root, "d").fid, noise(MIB, seed + 200))
    if seed == 1:
        do(volume, RemoveFile(root, "gone"))


# --- what is killed -------------------------------------------------------------------------------


def release(volume: SqliteVolume, there: Partition) -> None:
    """Brings the read-only volume over there up to date."""
    with Transfer(
        there,
        volume_id=READ_ONLY_ID,
        name="v.readonly",
        type=VolumeType.READ_ONLY,
        read_write_id=SOURCE_ID,
    ) as transfer:
        send_round(volume, transfer, transfer.base.change_counter if transfer.base else 0)
        transfer.put_in_place(in_transit=False)


def move(volume: SqliteVolume, to: Partition, rounds: int = 2) -> None:
    """Moves the volume, in several rounds, up to the half that nobody serves yet."""
    with Transfer(
        to,
        volume_id=SOURCE_ID,
        name="v",
        type=VolumeType.READ_WRITE,
        read_write_id=SOURCE_ID,
    ) as transfer:
        since = transfer.base.change_counter if transfer.base else 0
        for number in range(rounds):
            send_round(volume, transfer, since)
            since = volume.header().change_counter
            if number < rounds - 1:
                change(volume, 2)
        transfer.put_in_place(in_transit=True)


def restore(partition: Partition, volume_id: int, dump: Path) -> None:
    """Restores a dump."""
    with Restore(partition, volume_id=volume_id, name="r") as restoring:
        restoring.feed(dump.read_bytes())
        restoring.finish()
        restoring.put_in_place()


def play(scenario: str, folder: Path) -> None:
    """One scenario from its beginning to its end."""
    here, there = both(folder)
    if scenario == "restore":
        restore(there, OTHER_ID, folder / "later dump")
    elif scenario == "restore_increment":
        restore(there, OTHER_ID, folder / "increment")
    elif scenario == "create":
        there.create_volume(volume_id=30, name="new").close()
    elif scenario == "delete":
        here.delete_volume(SOURCE_ID)
    else:
        play_from_source(scenario, here, there)
    here.close()
    there.close()


def play_from_source(scenario: str, here: Partition, there: Partition) -> None:
    """A scenario that needs the volume open."""
    with closing(here.open_volume(SOURCE_ID, clock_ns=WallClock())) as volume:
        match scenario:
            case "release":
                release(volume, there)
            case "move":
                move(volume, there)
            case "clone":
                here.clone_volume(
                    volume, volume_id=BACKUP_ID, name="v.backup", type=VolumeType.BACKUP
                )
            case "clone_read_write":
                here.clone_volume(volume, volume_id=OTHER_ID, name="w", type=VolumeType.READ_WRITE)
            case "pack":
                collect_all(volume)
            case "move_back":
                move(volume, there, rounds=1)
    if scenario == "move_back":
        set_aside(here, SOURCE_ID)
        with closing(there.open_volume(SOURCE_ID, clock_ns=WallClock())) as volume:
            do(volume, SetVolumeFields(in_transit=False))
            change(volume, 3)
            move(volume, here, rounds=1)


# --- how it is killed -----------------------------------------------------------------------------


class Killer:
    """Counts what is asked of the disk, and dies just before the n-th."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.count = 0

    def step(self) -> None:
        """One more; does not return from the n-th."""
        self.count += 1
        if self.count == self._at:
            os.kill(os.getpid(), signal.SIGKILL)

    def attach(self) -> None:
        """Begins to count: system calls by name, and every commit and checkpoint of SQLite."""
        for name in _STEPS:
            setattr(os, name, self._counted(getattr(os, name)))
        connect = sqlite_schema.connect

        def connected(path: Path) -> sqlite3.Connection:
            connection = connect(path)
            connection.set_trace_callback(self._hear)
            return connection

        sqlite_schema.connect = connected

    def _hear(self, statement: str) -> None:
        if statement.startswith(("COMMIT", "PRAGMA wal_checkpoint", "PRAGMA journal_mode")):
            self.step()

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **keywords: Any) -> Any:
            self.step()
            return function(*args, **keywords)

        return call


def main() -> None:
    """Forks and kills, as told."""
    scenario = sys.argv[1]
    make_packs_small()
    for line in sys.stdin:
        folder, number = line.split("\t")
        # No thread has been started here: the forked one starts its own.
        child = os.fork()
        if not child:
            Killer(int(number)).attach()
            play(scenario, Path(folder))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            answer = "killed"
        else:
            answer = "done" if status == 0 else f"failed {status}"
        sys.stdout.write(answer + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
