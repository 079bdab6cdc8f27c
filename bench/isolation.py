"""What clients that answer nothing cost the others: writers, other volumes' holders, bystanders."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

from afs.limits import BREAK_DEADLINE_S
from afs.types import Fid
from afs.v1 import file_server_pb2
from afs.wire import fid_to_wire
from afsctl.cell import Cell
from bench import stage
from bench.attached_host import AttachedHost, steady_s
from bench.hosts import files_of, hosts, store
from bench.report import Report, compare, p99
from bench.volume_break import volume_breaks

T = TypeVar("T")

HUNG: Final = 50
WRITER_ROUNDS: Final = 5
# Promises of a volume's one holder.
PROMISES: Final = 1000
GIVE_BACK_ROUNDS: Final = 25
WRITERS: Final = 32
BYSTANDER_ROUNDS: Final = 6


async def run() -> Report:
    """Measures each in turn with hosts that answer, or with nobody in the way."""
    report = Report(
        "isolation",
        "Clients that answer nothing, and what they cost the others",
        "python -m bench isolation",
    )
    with stage.cell() as cell:
        await _writer(report, cell)
        await _two_volumes(report, cell)
        await _bystander(report, cell)
    return report


async def _writer(report: Report, cell: Cell) -> None:
    """A write to a file that 50 hung hosts hold, a second one to it, and one to a free file."""
    volume = await stage.create_volume(cell, "bench.held")
    held, free = await stage.create_files(cell, volume, 2)
    first: list[float] = []
    second: list[float] = []
    plain: list[float] = []
    async with stage.file_server(cell) as files, hosts(cell.file_server, HUNG) as holders:
        await holders.hang(HUNG)
        for _ in range(WRITER_ROUNDS):
            # The root's listing is in order of names: f0 first.
            await holders.take(volume, 1)
            first.append(await store(files, held))
            second.append(await store(files, held) * 1e3)
            plain.append(await store(files, free) * 1e3)
    assert min(first) >= BREAK_DEADLINE_S, "the hosts acknowledged: they did not hang"
    note = f"{WRITER_ROUNDS} rounds; the hosts were VENUSDOWN in between, and took promises anew"
    report.add(
        compare(
            f"a write to a file that {HUNG} hung hosts hold",
            first,
            [BREAK_DEADLINE_S],
            "s",
            at_most=1.2,
            note=f"compared to one break deadline; {note}",
        )
    )
    report.add(
        compare(
            "the next write to it",
            second,
            plain,
            "ms",
            at_most=2,
            note="compared to a write right after it to a file that nobody holds",
        )
    )


async def _two_volumes(report: Report, cell: Cell) -> None:
    """Volume A is given back and then volume B; how soon B's holder is told."""
    volumes = [await stage.create_volume(cell, f"bench.{name}") for name in "ab"]
    for volume in volumes:
        await stage.create_files(cell, volume, PROMISES)
    a, b = volumes
    healthy: list[float] = []
    frozen: list[float] = []
    async with (
        volume_breaks(cell) as break_callbacks,
        hosts(cell.file_server, 1) as holder_of_a,
        hosts(cell.file_server, 1) as holder_of_b,
    ):
        for _ in range(GIVE_BACK_ROUNDS):
            for freezes, found in ((False, healthy), (True, frozen)):
                await holder_of_a.take(a, PROMISES)
                await holder_of_b.take(b, PROMISES)
                if freezes:
                    holder_of_a.freeze()
                await break_callbacks(a, PROMISES)
                began = await break_callbacks(b, PROMISES)
                (told,) = await holder_of_b.told(b)
                found.append((told - began) * 1e3)
                if freezes:
                    holder_of_a.thaw()
                await holder_of_a.told(a)
    report.add(
        compare(
            "volume A's holder frozen, B given back after A, until B's holder is told",
            frozen,
            healthy,
            "ms",
            at_most=1.5,
            note=f"compared to the same with A's holder healthy; {GIVE_BACK_ROUNDS} rounds in turn,"
            f" {PROMISES:,} promises on each volume, holders in processes of their own, A's stopped"
            " by SIGSTOP before A is given back",
        )
    )


async def _bystander(report: Report, cell: Cell) -> None:
    """One client's calls, one after the other, while 32 writers wait for a dead one."""
    volume = await stage.create_volume(cell, "bench.hit")
    await stage.create_files(cell, volume, WRITERS + 1)
    alone = _Latencies()
    beside = _Latencies()
    async with (
        hosts(cell.file_server, 1) as dead,
        hosts(cell.file_server, WRITERS) as writers,
        AttachedHost(cell.file_server) as bystander,
    ):
        # The first files are the writers', one each.
        fid = (await files_of(bystander.files, volume))[WRITERS]
        for _ in range(BYSTANDER_ROUNDS):
            await dead.take(volume, WRITERS)
            await alone.measure(bystander, fid, asyncio.sleep(BREAK_DEADLINE_S))
            dead.freeze()
            took = await beside.measure(bystander, fid, writers.store(volume))
            assert min(took) >= BREAK_DEADLINE_S * 0.9, "every writer has to wait for the dead one"
            dead.thaw()
    for method, calls in beside.by_method_ms.items():
        without = alone.by_method_ms[method]
        report.add(
            compare(
                f"{method} of a bystander, {WRITERS} writers hit a dead client's files, p99",
                [p99(of_round) for of_round in calls],
                [p99(of_round) for of_round in without],
                "ms",
                at_most=2,
                note="compared to the same calls with nobody else about; median over"
                f" {BYSTANDER_ROUNDS} rounds each, in turn, of one break deadline each, during"
                " which all writers wait; one call at a time, in the volume that is written to",
            )
        )
        report.add(
            compare(
                f"{method} of the bystander, longest",
                [max(of_round) for of_round in calls],
                [max(of_round) for of_round in without],
                "ms",
            )
        )


class _Latencies:
    """How long calls took.

    Attributes:
        by_method_ms: milliseconds of each call, a list for each round.
    """

    def __init__(self) -> None:
        self.by_method_ms: dict[str, list[list[float]]] = {"GetTime": [], "FetchStatus": []}

    async def measure(self, host: AttachedHost, fid: Fid, meanwhile: Coroutine[Any, Any, T]) -> T:
        """One round: the host makes calls until something else has ended."""
        requests: dict[str, Any] = {
            "GetTime": file_server_pb2.GetTimeRequest(),
            "FetchStatus": file_server_pb2.FetchStatusRequest(fid=fid_to_wire(fid)),
        }
        for found in self.by_method_ms.values():
            found.append([])
        task = asyncio.create_task(meanwhile)
        while not task.done():
            for method, request in requests.items():
                began = steady_s()
                await getattr(host.files, method)(request, metadata=host.metadata)
                self.by_method_ms[method][-1].append((steady_s() - began) * 1e3)
        return await task
