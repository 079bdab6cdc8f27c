"""How soon 100 hosts are told of a volume that was given back, also if half of them are hung."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from typing import Any, Final

from afs.runtime.channel import open_channel
from afs.v1.callback_channel_pb2 import AttachResponse
from bench import stage
from bench.attached_host import steady_s
from bench.bare_server import SERVICE
from bench.hosts import Hosts, hosts
from bench.report import Report, compare, p99
from bench.volume_break import volume_breaks

HOSTS: Final = 100
HUNG: Final = 50
PROMISES: Final = 10_000
# Taking a million promises takes most of a round.
ROUNDS: Final = 5
# Bare fan-outs and, on another volume, ours with few promises, for each of ours with all of them.
CHEAP_ROUNDS: Final = 5
# With hung hosts and without; promises of each host then: the number of hosts is what matters.
HUNG_ROUNDS: Final = 12
FEW_PROMISES: Final = 100

Break = Callable[[int, int], Awaitable[float]]


async def run() -> Report:
    """Measures in turn: a bare fan-out, few promises, all promises; then with and without hung."""
    report = Report(
        "fan_out",
        f"A volume given back, {HOSTS} hosts told",
        "python -m bench fan_out",
    )
    with stage.cell() as cell, stage.bare_server() as (bare, _):
        full = await stage.create_volume(cell, "bench.full")
        await stage.create_files(cell, full, PROMISES)
        few = await stage.create_volume(cell, "bench.few")
        await stage.create_files(cell, few, FEW_PROMISES)
        async with (
            volume_breaks(cell) as break_callbacks,
            hosts(cell.file_server, HOSTS) as clients,
            open_channel(bare) as channel,
        ):
            await clients.listen(bare)
            push: Any = channel.unary_unary(f"/{SERVICE}/Push")
            bare_ms: list[float] = []
            few_ms: list[float] = []
            full_ms: list[float] = []
            for _ in range(ROUNDS):
                await clients.take(full, PROMISES)
                for _ in range(CHEAP_ROUNDS):
                    bare_ms.append(await _bare(push, clients, full))
                    few_ms.append(max(await _ours(break_callbacks, clients, few, FEW_PROMISES)))
                full_ms.append(max(await _told(break_callbacks, clients, full, PROMISES)))
            report.add(
                compare(
                    f"{HOSTS} hosts x {PROMISES:,} promises, until the last one is told",
                    full_ms,
                    bare_ms,
                    "ms",
                    at_most=3,
                    note="from the call of BREAKCBKS on; compared to a bare grpc.aio server that"
                    f" pushes the same break to {HOSTS} streams, from the call of Push on, to the"
                    " same client process, which acknowledges ours and nothing of the bare one",
                )
            )
            report.add(
                compare(
                    f"{HOSTS} hosts x {FEW_PROMISES} promises, until the last one is told",
                    few_ms,
                    bare_ms,
                    "ms",
                )
            )
            await _with_hung(report, break_callbacks, clients, few)
    return report


async def _with_hung(report: Report, break_callbacks: Break, clients: Hosts, volume: int) -> None:
    """Measures in turn: the live half of the hosts, while the other half acknowledges and not."""
    none_hung: list[list[float]] = []
    half_hung: list[list[float]] = []
    for _ in range(HUNG_ROUNDS):
        for hung, found in ((0, none_hung), (HUNG, half_hung)):
            await clients.hang(hung)
            told = await _ours(break_callbacks, clients, volume, FEW_PROMISES)
            found.append(told[HUNG:])
    report.add(
        compare(
            f"{HOSTS - HUNG} live hosts, {HUNG} more hung, until told, p99",
            [p99(told) for told in half_hung],
            [p99(told) for told in none_hung],
            "ms",
            at_most=1.5,
            note=f"compared to the same hosts while the other {HUNG} acknowledge; median over"
            f" {HUNG_ROUNDS} rounds each, in turn; they take their promises anew for each, the hung"
            " ones after they were VENUSDOWN",
        )
    )
    report.add(
        compare(
            f"{HOSTS - HUNG} live hosts, {HUNG} more hung, until told, median",
            [statistics.median(told) for told in half_hung],
            [statistics.median(told) for told in none_hung],
            "ms",
        )
    )


async def _ours(break_callbacks: Break, clients: Hosts, volume: int, promises: int) -> list[float]:
    """Milliseconds until each host is told; all take their promises first."""
    await clients.take(volume, promises)
    return await _told(break_callbacks, clients, volume, promises)


async def _told(break_callbacks: Break, clients: Hosts, volume: int, promises: int) -> list[float]:
    began = await break_callbacks(volume, HOSTS * promises)
    return [(at - began) * 1e3 for at in await clients.told(volume)]


async def _bare(push: Any, clients: Hosts, volume: int) -> float:
    """Milliseconds until the last stream has got a break of the volume."""
    message = AttachResponse()
    told = getattr(message, "break")
    told.sequence, told.through = 1000, 1000
    told.targets.add(volume=volume)
    began = steady_s()
    await push(message.SerializeToString())
    return (max(await clients.heard()) - began) * 1e3
