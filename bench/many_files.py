"""200,000 small files: every whole-volume operation ends, in bounded memory, in linear time."""

from __future__ import annotations

import time
from typing import Final

from bench import stage
from bench.report import Report, Row
from bench.volumes import contents, vol_server

COUNTS: Final = (20_000, 200_000)
FILE_BYTES: Final = 256
MEMORY_GOAL_MIB: Final = 300
GROWTH_GOAL: Final = 1.5


async def run() -> Report:
    """Works on volumes of 20,000 and of 200,000 files, each in a cell of its own."""
    report = Report(
        "many_files",
        f"A volume of {COUNTS[-1]:,} small files against one of {COUNTS[0]:,}",
        "python -m bench many_files",
    )
    figures = [await _measure(count) for count in COUNTS]
    few, many = (
        {what: seconds / count for what, seconds in took.items()}
        for count, (took, _) in zip(COUNTS, figures, strict=True)
    )
    for what in many:
        report.add(
            Row(
                f"{what}, time for a file",
                1e6 * many[what],
                1e6 * few[what],
                "µs",
                many[what] / few[what],
                at_most=GROWTH_GOAL,
            )
        )
    for daemon, peak in figures[-1][1].items():
        report.add(
            Row(
                f"peak memory of {daemon}",
                peak,
                MEMORY_GOAL_MIB,
                "MiB",
                peak / MEMORY_GOAL_MIB,
                at_most=1,
            )
        )
    return report


async def _measure(count: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds of each operation, and the peak memory of each daemon in MiB."""
    took: dict[str, float] = {}
    with stage.cell(servers=2) as cell:
        here, there = cell.servers
        async with vol_server(here.vol_server) as volumes:
            began = time.perf_counter()
            volume = await volumes.create("bench.many")
            async with contents(here.file_server, volume) as files:
                await files.fill(count, FILE_BYTES)
            took["create"] = time.perf_counter() - began
            dump = cell.directory / "dump"
            took["clone"] = await volumes.clone("bench.many", "bench.clone")
            took["dump"] = await volumes.dump("bench.many", dump)
            took["restore"] = await volumes.restore("bench.restored", dump)
            began = time.perf_counter()
            await volumes.move("bench.many", there.vol_server, "vicepa")
            took["move"] = time.perf_counter() - began
        peaks = {
            f"{daemon.name}": stage.peak_memory_mib(daemon.pid)
            for server in cell.servers
            for daemon in (server.afsd, server.volserverd)
        }
    return took, peaks
