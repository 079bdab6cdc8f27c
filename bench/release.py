"""A release sends each site what it lacks."""

from __future__ import annotations

import time
from typing import Final

from afs.limits import MIB
from bench import stage
from bench.report import Report, Row
from bench.volumes import contents, vol_server

SITES: Final = 3
FILES: Final = 200
FILE_BYTES: Final = MIB
CHANGED: Final = 2
GOAL: Final = 0.05


async def run() -> Report:
    """Releases a volume to three other servers, changes 1 % of it and releases it again."""
    report = Report(
        "release", f"Release to {SITES} sites after a change of 1 %", "python -m bench release"
    )
    with stage.cell(servers=1 + SITES) as cell:
        home, *others = cell.servers
        async with vol_server(home.vol_server) as volumes:
            volume = await volumes.create("bench.release")
            for site in others:
                await volumes.add_site("bench.release", site.vol_server, "vicepa")
            async with contents(home.file_server, volume) as files:
                fids = await files.fill(FILES, FILE_BYTES)
                seconds, sent = [0.0, 0.0], [0, 0]
                for turn in range(2):
                    if turn:
                        await files.change(fids[:CHANGED], FILE_BYTES)
                    began = time.perf_counter()
                    sites = await volumes.release("bench.release")
                    seconds[turn] = time.perf_counter() - began
                    assert len(sites) == SITES, sites
                    assert all(site.released for site in sites), sites
                    sent[turn] = max(site.sent.bytes for site in sites)
    report.add(
        Row(
            "bytes sent to a site, the most of the three",
            sent[1] / MIB,
            FILES * FILE_BYTES / MIB,
            "MiB",
            sent[1] / (FILES * FILE_BYTES),
            at_most=GOAL,
            note=f"compared to the volume; the first release sent {sent[0] / MIB:.0f} MiB to each",
        )
    )
    report.add(
        Row(
            "time of the second release against the first",
            seconds[1],
            seconds[0],
            "s",
            seconds[1] / seconds[0],
        )
    )
    return report
