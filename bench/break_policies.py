"""The mail as a measurement: the same give-backs under each of its four designs.

Eight volumes are given back in a row. Each has a holder of its own that never acknowledges (frozen,
dead, cut off), and four live holders. Measured for each: how long the volserver waits for its ack,
how long its *next* FSSYNC call takes, and how long until every live client has been told.
"""

from __future__ import annotations

import asyncio
import statistics
from contextlib import AsyncExitStack
from typing import Final

from afs.limits import BREAK_DEADLINE_S
from afs.runtime.channel import open_channel
from afs.types import root_fid
from afs.v1 import fssync_pb2, fssync_pb2_grpc
from afsctl.cell import Cell
from afsd.core.policy import POLICIES
from bench import stage
from bench.attached_host import AttachedHost, steady_s
from bench.report import RESULTS, Report, Row
from bench.svg import chart

GIVE_BACKS: Final = 8
LIVE: Final = 4
_PANELS: Final = ("until the ack", "the next FSSYNC call", "until live clients are told")


async def _tell_the_story(cell: Cell) -> dict[str, list[float]]:
    """Milliseconds of every give-back, by panel."""
    found: dict[str, list[float]] = {panel: [] for panel in _PANELS}
    volumes = [await stage.create_volume(cell, f"bench.{n}") for n in range(GIVE_BACKS)]
    idle = await stage.create_volume(cell, "bench.idle")
    async with AsyncExitStack() as stack:
        live = [
            await stack.enter_async_context(AttachedHost(cell.file_server)) for _ in range(LIVE)
        ]
        for volume in volumes:
            frozen = await stack.enter_async_context(AttachedHost(cell.file_server, acks=False))
            for host in (frozen, *live):
                await host.take_promise(root_fid(volume))
        channel = await stack.enter_async_context(open_channel(cell.fssync))
        fssync = fssync_pb2_grpc.FSSyncStub(channel)

        async def break_callbacks(volume: int) -> float:
            began = steady_s()
            request = fssync_pb2.VolumeOpRequest(
                command=fssync_pb2.FSYNC_VOL_BREAKCBKS, volume_id=volume, program="bench"
            )
            await fssync.VolumeOp(request)
            return (steady_s() - began) * 1e3

        for volume in volumes:
            began = steady_s()
            found[_PANELS[0]].append(await break_callbacks(volume))
            found[_PANELS[1]].append(await break_callbacks(idle))
            told = await asyncio.gather(*(host.told_of(volume) for host in live))
            found[_PANELS[2]].append((max(told) - began) * 1e3)
    return found


async def run() -> Report:
    """Measures each policy in a cell of its own; also draws the plot."""
    report = Report(
        "break_policies",
        f"{GIVE_BACKS} give-backs in a row, each with one dead and {LIVE} live holders",
        "python -m bench break_policies",
    )
    stories: dict[str, dict[str, list[float]]] = {}
    for policy in POLICIES:
        with stage.cell(break_policy=policy) as cell:
            stories[policy] = await _tell_the_story(cell)
    deadline_ms = BREAK_DEADLINE_S * 1e3
    for policy, found in stories.items():
        for panel, values in found.items():
            median, worst = statistics.median(values), max(values)
            goal = 0.25 if policy == "later" else None
            report.add(
                Row(
                    f"{policy}: {panel}, worst (median {median:,.1f})",
                    worst,
                    deadline_ms,
                    "ms",
                    worst / deadline_ms,
                    at_most=goal,
                )
            )
    RESULTS.mkdir(exist_ok=True)
    drawn = chart(
        "Eight give-backs in a row, a dead client among the holders of each",
        "give-back",
        {panel: {policy: stories[policy][panel] for policy in stories} for panel in _PANELS},
        [str(number + 1) for number in range(GIVE_BACKS)],
    )
    (RESULTS / "break_policies.svg").write_text(drawn)
    return report
