"""A clone copies metadata only: against SQLite's own copy of the database, and with less data."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from afs.limits import MIB
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
    report = Report(
        "clone",
        f"Clone of {FILES:,} files",
        "python -m bench clone",
    )
    with stage.cell() as cell:
        async with vol_server(cell.vol_server) as volumes:
            ids = {}
            for name, size in (("large", LARGE_BYTES), ("small", SMALL_BYTES)):
                ids[name] = await volumes.create(f"bench.{name}")
                async with contents(cell.file_server, ids[name]) as files:
                    await files.fill(FILES, size)
            large, small, copies = list[float](), list[float](), list[float]()
            source = database(cell.partition, ids["large"])
            target = cell.directory / "copy.db"
            for number in range(ROUNDS):
                copies.append(await asyncio.to_thread(_copy, source, target))
                large.append(1000 * await volumes.clone("bench.large", f"large.{number}"))
                small.append(1000 * await volumes.clone("bench.small", f"small.{number}"))
    report.add(
        compare(
            f"vos clone, {FILES:,} files of {LARGE_BYTES // 1024} KiB, 1 GiB in all",
            large,
            copies,
            "ms",
            at_most=2,
            note="the whole call, location entry included; compared to SQLite's backup of the"
            " volume's database into a new file",
        )
    )
    report.add(
        compare(
            f"the same against {FILES:,} files of 16.5 KiB, {FILES * SMALL_BYTES // MIB} MiB",
            large,
            small,
            "ms",
            at_most=1.25,
            note="a clone does not depend on the data's size; the 25 % are for noise",
        )
    )
    return report


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
