"""10,000 files of 4 KiB: the same that was measured on OpenAFS."""

from __future__ import annotations

import time
from typing import Final

from bench import stage
from bench.report import Report, Row
from bench.volumes import contents, vol_server

FILES: Final = 10_000
FILE_BYTES: Final = 4096
ROUNDS: Final = 3
# Seconds; the goals of the issue, beside OpenAFS's figures on such a machine.
CLONE_GOAL_S: Final = 0.05
COPY_GOAL_S: Final = 2.0
# Additions of the loop by which machines compare.
LOOP: Final = 5_000_000


async def run() -> Report:
    """Clones, dumps, restores and moves a volume; the medians."""
    report = Report(
        "small_files", f"A volume of {FILES:,} files of 4 KiB", "python -m bench small_files"
    )
    took: dict[str, list[float]] = {"clone": [], "dump": [], "restore": [], "move": [], "loop": []}
    with stage.cell(servers=2) as cell:
        here, there = cell.servers
        async with vol_server(here.vol_server) as volumes, vol_server(there.vol_server) as others:
            volume = await volumes.create("bench.small")
            async with contents(here.file_server, volume) as files:
                await files.fill(FILES, FILE_BYTES)
            dump = cell.directory / "dump"
            for number in range(ROUNDS):
                took["loop"].append(fixed_loop())
                took["clone"].append(await volumes.clone("bench.small", f"clone.{number}"))
                took["dump"].append(await volumes.dump("bench.small", dump))
                took["restore"].append(await volumes.restore(f"restored.{number}", dump))
                began = time.perf_counter()
                await volumes.move(f"restored.{number}", there.vol_server, "vicepa")
                took["move"].append(time.perf_counter() - began)
                await others.remove(f"restored.{number}")
                await volumes.remove(f"clone.{number}")
    loop = min(took["loop"])
    goals = {"clone": CLONE_GOAL_S, "dump": None, "restore": COPY_GOAL_S, "move": COPY_GOAL_S}
    anchors = {"clone": "13 ms", "dump": "", "restore": "4.0 s", "move": "4.7 s"}
    for what, goal in goals.items():
        seconds = sorted(took[what])[ROUNDS // 2]
        note = f"the whole call; OpenAFS on such a machine: {anchors[what]}" if goal else ""
        report.add(
            Row(
                f"vos {what}",
                1000 * seconds,
                1000 * (goal or loop),
                "ms",
                seconds / (goal or loop),
                at_most=1 if goal else None,
                note=note or "compared to the loop below",
            )
        )
    report.add(
        Row(
            f"a loop of {LOOP:,} additions in Python, for comparing machines",
            1000 * loop,
            1000 * loop,
            "ms",
            1.0,
        )
    )
    return report


def fixed_loop() -> float:
    """Seconds of a fixed piece of work."""
    began = time.perf_counter()
    total = 0
    for number in range(LOOP):
        total += number
    assert total == LOOP * (LOOP - 1) // 2
    return time.perf_counter() - began
