"""10,000 files of 4 KiB through the mount: warm against the local disk, cold, and broken."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Final

from afs.runtime.channel import open_channel
from afs.v1 import fssync_pb2, fssync_pb2_grpc
from bench import stage
from bench.attached_host import steady_s
from bench.file_program import (
    FILE_BYTES,
    create,
    list_long,
    read_in_order,
    read_warm,
    stat_random,
    stat_warm,
    timed,
)
from bench.mounted import Mounted, mounted, passed_through
from bench.report import Report, Row, compare
from bench.small_files import fixed_loop
from bench.volume_break import volume_breaks
from bench.volumes import FILES_PER_DIRECTORY, contents

FILES: Final = 10_000
DIRECTORIES: Final = FILES // FILES_PER_DIRECTORY
ROUNDS: Final = 3
CREATED: Final = 1000
VOLUME: Final = "bench.mount"
# Files a second, and what OpenAFS's FUSE client reaches on such a machine.
LISTED_GOAL_PER_S: Final = 10_000
STATED_GOAL_PER_S: Final = 3000
READ_GOAL_PER_S: Final = 2000
BROKEN_GOAL_S: Final = 1.0


async def run() -> Report:
    """Measures everything on one cell, in turn with what it is compared to."""
    report = Report(
        "mount_small", f"{FILES:,} files of 4 KiB through the mount", "python -m bench mount_small"
    )
    with mounted() as where:
        volume = await stage.create_volume(where.cell, VOLUME)
        async with contents(where.cell.file_server, volume) as files:
            await files.fill(FILES, FILE_BYTES)
        folder = where.root / VOLUME
        await asyncio.to_thread(_fill_local, where.local)
        await asyncio.to_thread(_warm, report, folder, where.local)
        await _broken(report, where, volume, folder)
        await asyncio.to_thread(_cold, report, where, folder)
        await asyncio.to_thread(_created, report, folder, where.local)
    return report


def _fill_local(local: Path) -> None:
    for directory in range(DIRECTORIES):
        path = local / f"d{directory}"
        path.mkdir()
        for number in range(FILES_PER_DIRECTORY):
            name = directory * FILES_PER_DIRECTORY + number
            (path / f"f{name}").write_bytes(bytes(FILE_BYTES))


def _warm(report: Report, folder: Path, local: Path) -> None:
    for loop, what in ((stat_warm, "stat"), (read_warm, "read of 4 KiB")):
        ours, base = [], []
        for _ in range(ROUNDS):
            base.append(FILES / timed(loop.__name__, local))
            ours.append(FILES / timed(loop.__name__, folder))
        report.add(
            compare(
                f"warm {what}",
                ours,
                base,
                "files/s",
                at_least=0.8,
                note="compared to the same loop of the same program on the local disk",
            )
        )


async def _broken(report: Report, where: Mounted, volume: int, folder: Path) -> None:
    took = []
    async with (
        volume_breaks(where.cell) as break_callbacks,
        open_channel(where.cell.fssync) as channel,
    ):
        stub = fssync_pb2_grpc.FSSyncStub(channel)
        for _ in range(ROUNDS):
            await asyncio.to_thread(timed, stat_warm.__name__, folder)
            began = await break_callbacks(volume, None)
            watch = stub.WatchBreaks(fssync_pb2.WatchBreaksRequest(volume_id=volume))
            async for _answer in watch:
                pass
            took.append(steady_s() - began)
    report.add(
        Row(
            f"{FILES:,} files broken, until the kernel has dropped them and that is acknowledged",
            1000 * statistics.median(took),
            1000 * BROKEN_GOAL_S,
            "ms",
            statistics.median(took) / BROKEN_GOAL_S,
            at_most=1,
            note="from FSYNC_VOL_BREAKCBKS until FSSync.WatchBreaks has nobody left",
        )
    )


def _cold(report: Report, where: Mounted, folder: Path) -> None:
    loops = (
        (list_long, (), "ls -lR", LISTED_GOAL_PER_S, "4,100"),
        (
            stat_random,
            (DIRECTORIES, FILES_PER_DIRECTORY),
            "single stats in random order",
            STATED_GOAL_PER_S,
            "3,180",
        ),
        (read_in_order, (), "all files read in directory order", READ_GOAL_PER_S, "1,000"),
    )
    for loop, words, what, goal, anchor in loops:
        rates = []
        for _ in range(ROUNDS):
            where.go_cold()
            rates.append(FILES / timed(loop.__name__, folder, *words))
        rate = statistics.median(rates)
        report.add(
            Row(
                f"cold: {what}",
                rate,
                goal,
                "files/s",
                rate / goal,
                at_least=1,
                note=f"OpenAFS's FUSE client on such a machine: {anchor}",
            )
        )
    loop_s = min(fixed_loop() for _ in range(ROUNDS))
    report.add(
        Row(
            "a fixed loop of additions in Python, for comparing machines",
            1000 * loop_s,
            1000 * loop_s,
            "ms",
            1.0,
        )
    )


def _created(report: Report, folder: Path, local: Path) -> None:
    ours, base = [], []
    with passed_through(local) as through:
        for _ in range(ROUNDS):
            other = tempfile.mkdtemp(dir=through)
            base.append(CREATED / timed(create.__name__, other, CREATED, 1))
            mine = tempfile.mkdtemp(dir=folder)
            ours.append(CREATED / timed(create.__name__, mine, CREATED, 0))
    report.add(
        compare(
            "create, write 4 KiB, close, durable",
            ours,
            base,
            "files/s",
            at_least=0.3,
            note="compared to bindfs on the local disk with an fsync before each close",
        )
    )
