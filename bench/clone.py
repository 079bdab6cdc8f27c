"""A clone copies metadata only: against SQLite's own copy of the database, and with less data."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from afs.limits import MIB
from afs.types import VolumeType
from afs.volume.partition import Partition
from bench import stage
from bench.report import Report, compare
from bench.volumes import GIB, contents, database, vol_server

FILES: Final = 10_000
LARGE_BYTES: Final = GIB // FILES
# Just more than lies in the database itself: so both volumes have chunks, one for each file.
SMALL_BYTES: Final = 16 * 1024 + 512
ROUNDS: Final = 7


async def run() -> Report:
    """Clones two volumes of as many files, one with six times the data, in turn."""
    report = Report("clone", f"Clone of {FILES:,} files", "python -m bench clone")
    ids: dict[str, int] = {}
    calls: dict[str, list[float]] = {"large": [], "small": []}
    with stage.cell() as cell:
        async with vol_server(cell.vol_server) as volumes:
            for name, size in (("large", LARGE_BYTES), ("small", SMALL_BYTES)):
                ids[name] = await volumes.create(f"bench.{name}")
                async with contents(cell.file_server, ids[name]) as files:
                    await files.fill(FILES, size)
            for number in range(ROUNDS):
                for name, took in calls.items():
                    took.append(1000 * await volumes.clone(f"bench.{name}", f"{name}.{number}"))
        await asyncio.to_thread(cell.stop)
        clones, copies = await asyncio.to_thread(_alone, cell.partition, ids["large"])
    report.add(
        compare(
            f"clone of {FILES:,} files of {LARGE_BYTES // 1024} KiB, 1 GiB in all",
            clones,
            copies,
            "ms",
            at_most=2,
            note="the volume package alone; compared to SQLite's backup of the volume's database"
            " into a new file. Both are durable at the end",
        )
    )
    report.add(
        compare(
            f"vos clone of it, against files of 16.5 KiB, {FILES * SMALL_BYTES // MIB} MiB",
            calls["large"],
            calls["small"],
            "ms",
            at_most=1.25,
            note="the whole call, location entry and fileserver included; a clone does not depend"
            " on the data's size, the 25 % are for noise",
        )
    )
    return report


def _alone(path: Path, volume_id: int) -> tuple[list[float], list[float]]:
    """Clones, and SQLite's copies of the database, in turn; milliseconds of each."""
    partition = Partition.open(path, holder="bench")
    source = database(path, volume_id)
    target = path.parent / "copy.db"
    clones, copies = list[float](), list[float]()
    volume = partition.open_volume(volume_id)
    try:
        for number in range(ROUNDS):
            copies.append(_copy(source, target))
            began = time.perf_counter()
            partition.clone_volume(
                volume, volume_id=volume_id + 1, name=f"c{number}", type=VolumeType.READ_ONLY
            )
            clones.append(1000 * (time.perf_counter() - began))
            partition.delete_volume(volume_id + 1)
    finally:
        volume.close()
        partition.close()
    return clones, copies


def _copy(source: Path, target: Path) -> float:
    """SQLite's backup of a database; milliseconds."""
    target.unlink(missing_ok=True)
    began = time.perf_counter()
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as old,
        closing(sqlite3.connect(target)) as new,
    ):
        old.backup(new)
    return 1000 * (time.perf_counter() - began)
