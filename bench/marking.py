"""What a mark costs against the number of promises: the ack, and the event loop's longest pause.

One hundred hosts hold promises on the files of one volume, or of another one. BREAKCBKS is called;
measured are its ack, and by a heartbeat in the fileserver's loop how late the loop was until all
was broken and dismantled.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from afs.runtime.channel import open_channel
from afs.v1 import file_server_debug_pb2, file_server_debug_pb2_grpc, fssync_pb2, fssync_pb2_grpc
from afsctl.cell import Cell
from bench import stage
from bench.attached_host import steady_s
from bench.hosts import Hosts, hosts
from bench.report import Report, Row

HOSTS: Final = 100
# Promises of each host: 0, 1,000, 100,000 and 1,000,000 in all.
PER_HOST: Final = (0, 10, 1000, 10_000)
# Acks on the volume without promises, each time; one ack is one sample with promises.
PLAIN_CALLS: Final = 15
ROUNDS: Final = 5
# Before each pair of calls: long enough for every process to be asleep.
PAUSE_S: Final = 0.1
# Part of the promises that must be there when they are marked.
LEAST_PART: Final = 0.95
# Promises of each host in the warm-up.
WARM_UP: Final = 1000


class Stage:
    """A cell with one hundred attached hosts in a process of their own."""

    def __init__(self, cell: Cell, beats: Path, holders: Hosts, channels: Any) -> None:
        self._cell = cell
        self._beats = beats
        self.take = holders.take
        self._fssync = fssync_pb2_grpc.FSSyncStub(channels[0])
        self._debug: Any = file_server_debug_pb2_grpc.FileServerDebugStub(channels[1])

    async def break_callbacks(self, volume: int, expected: int) -> float:
        """BREAKCBKS; how long its ack took, in µs."""
        request = fssync_pb2.VolumeOpRequest(
            command=fssync_pb2.FSYNC_VOL_BREAKCBKS, volume_id=volume, program="bench"
        )
        began = steady_s()
        answer = await self._fssync.VolumeOp(request)
        took = steady_s() - began
        # On a busy machine a host may miss its lease, and with it lose its promises.
        assert answer.callbacks_marked >= LEAST_PART * expected, answer
        return took * 1e6

    async def until_all_is_broken(self) -> None:
        """Waits until every host has acknowledged and the worker has nothing left."""
        while True:
            answer = await self._debug.GetCounters(file_server_debug_pb2.GetCountersRequest())
            counters = answer.counters
            pending = counters["breaks_sent"] - counters.get("breaks_acked", 0)
            if not pending and not counters["later_work"]:
                return
            await asyncio.sleep(0.05)

    async def heartbeat(self) -> dict[str, float]:
        """How late the loop was since the last time: p50, p99, max in ms."""
        self._beats.unlink(missing_ok=True)
        os.kill(self._cell.afsd.pid, signal.SIGUSR1)
        while not self._beats.exists():  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
        figures: dict[str, float] = json.loads(self._beats.read_text())
        return figures

    def memory_mib(self) -> float:
        """What the fileserver uses now."""
        return stage.memory_mib(self._cell.afsd.pid)


async def run() -> Report:
    """Measures each number of promises in turn, and a million on another volume."""
    report = Report(
        "marking",
        "A mark costs the same, however many promises there are",
        "python -m bench marking",
    )
    with tempfile.TemporaryDirectory() as directory:
        beats = Path(directory) / "beats.json"
        program = [sys.executable, "-m", "bench.heartbeat_afsd", str(beats)]
        with stage.cell(programs={"afsd": program}) as cell:
            empty = await stage.create_volume(cell, "bench.empty")
            full = await stage.create_volume(cell, "bench.full")
            await stage.create_files(cell, full, max(PER_HOST))
            async with AsyncExitStack() as stack:
                holders = await stack.enter_async_context(hosts(cell.file_server, HOSTS))
                channels = [
                    await stack.enter_async_context(open_channel(address))
                    for address in (cell.fssync, cell.file_server)
                ]
                await _measure(report, Stage(cell, beats, holders, channels), empty, full)
    return report


async def _acks(on: Stage, empty: int, volume: int, expected: int, calls: int) -> list[float]:
    """Acks of BREAKCBKS on a volume, in µs.

    Each is measured right after an unmeasured call: one that follows a pause, as the one with
    promises must, would else pay for waking processes that a call in a row finds awake.
    """
    took: list[float] = []
    for _ in range(calls):
        await asyncio.sleep(PAUSE_S)
        await on.break_callbacks(empty, 0)
        took.append(await on.break_callbacks(volume, expected))
    return took


async def _measure(report: Report, on: Stage, empty: int, full: int) -> None:
    # What does not depend on promises is there when the baseline is taken: channels, cached vnodes.
    for _ in range(2):
        await on.take(full, WARM_UP)
        await on.break_callbacks(full, WARM_UP * HOSTS)
        await on.until_all_is_broken()
    plain = await _acks(on, empty, empty, 0, PLAIN_CALLS)
    baseline_mib = on.memory_mib()
    acks: dict[int, list[float]] = {}
    pauses: dict[int, list[dict[str, float]]] = {}
    full_mib = beside = 0.0
    for round_ in range(ROUNDS):
        for per_host in PER_HOST[1:]:
            await on.take(full, per_host)
            if per_host == PER_HOST[-1]:
                full_mib = max(full_mib, on.memory_mib())
                beside = statistics.median(await _acks(on, empty, empty, 0, PLAIN_CALLS))
            await on.heartbeat()
            count = per_host * HOSTS
            acks.setdefault(count, []).extend(await _acks(on, empty, full, count, 1))
            await on.until_all_is_broken()
            pauses.setdefault(count, []).append(await on.heartbeat())
            plain += await _acks(on, empty, empty, 0, PLAIN_CALLS)
        if round_ == 0:
            after_mib = on.memory_mib()
    base = statistics.median(plain)
    for count, samples in acks.items():
        ack = statistics.median(samples)
        goal = 1.5 if count == max(acks) else None
        what = f"ack with {count:,} promises of {HOSTS} hosts on the volume"
        report.add(Row(what, ack, base, "µs", ack / base, at_most=goal))
        worst = max(beat["max"] for beat in pauses[count])
        p50, p99 = (max(beat[part] for beat in pauses[count]) for part in ("p50", "p99"))
        what = f"loop's longest pause while {count:,} are broken"
        note = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms; the worst round of {ROUNDS} each"
        report.add(
            Row(what, worst, 10.0, "ms", worst / 10.0, at_most=1.0 if goal else None, note=note)
        )
    what = f"ack with {max(acks):,} promises on another volume"
    report.add(Row(what, beside, base, "µs", beside / base, at_most=1.5))
    per_promise = (full_mib - baseline_mib) * 2**20 / max(acks)
    note = "growth of the fileserver's resident memory over one without promises"
    report.add(
        Row(
            "memory for a promise",
            per_promise,
            200,
            "bytes",
            per_promise / 200,
            at_most=1,
            note=note,
        )
    )
    report.add(
        Row(
            "memory after they are gone",
            after_mib,
            baseline_mib,
            "MiB",
            after_mib / baseline_mib,
            at_most=1.1,
            note="resident, after the first round, against before the first promise",
        )
    )
