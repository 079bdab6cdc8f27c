"""FetchStatus calls a second, against a handler that does nothing."""

from __future__ import annotations

import asyncio
import sys
from typing import Final

from afs.types import Fid
from bench import stage
from bench.report import Report, compare

ROUNDS: Final = 7
CALLS: Final = 6000
CONCURRENCY: Final = 16


async def _load(address: str, method: str, fid: Fid | None = None) -> float:
    """Calls a second that one load generator gets."""
    arguments = [address, method, str(CALLS), str(CONCURRENCY), *([str(fid)] if fid else [])]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.load", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    return float(output)


async def run() -> Report:
    """Measures in turn: the empty handler, and FetchStatus of one file."""
    report = Report(
        "fetch_status",
        "FetchStatus against an empty grpc.aio handler",
        "python -m bench fetch_status",
    )
    with stage.cell() as cell, stage.bare_server() as (bare, bare_pid):
        volume = await stage.create_volume(cell, "bench.status")
        (fid,) = await stage.create_files(cell, volume, 1)
        ours: list[float] = []
        base: list[float] = []
        our_cpu: list[float] = []
        base_cpu: list[float] = []
        for _ in range(ROUNDS):
            before = stage.cpu_s(bare_pid)
            base.append(await _load(bare, "Empty"))
            base_cpu.append((stage.cpu_s(bare_pid) - before) / CALLS * 1e6)
            before = stage.cpu_s(cell.afsd.pid)
            ours.append(await _load(cell.file_server, "FetchStatus", fid))
            our_cpu.append((stage.cpu_s(cell.afsd.pid) - before) / CALLS * 1e6)
    note = f"one load generator, {CONCURRENCY} calls at a time, {ROUNDS} rounds in turn"
    report.add(compare("FetchStatus", ours, base, "calls/s", at_least=0.6, note=note))
    report.add(compare("processor time of the server", our_cpu, base_cpu, "µs a call"))
    return report
