"""10,000 small files read cold through the client's parts, in directory order and in none.

In no order every file costs a call, as it did in any order before small files came ahead of need.
"""

from __future__ import annotations

import logging
import random
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import structlog

from afs.limits import MIB
from afs.runtime.clock import SystemClock
from afs.types import Fid, VnodeType, root_fid
from afsctl.cell import Cell
from bench import stage
from bench.report import Report, compare
from bench.volumes import contents, vol_server
from clientd.disk_cache import DiskCache
from clientd.journal import Journal
from clientd.outage import OutagePolicy
from clientd.services import Services

FILES: Final = 10_000
FILE_BYTES: Final = 4096
ROUNDS: Final = 3
CACHE_BYTES: Final = 256 * MIB
# Files a second: the goal of the issue, for the mount.
GOAL_PER_S: Final = 2000
AT_LEAST: Final = 2.0


async def run() -> Report:
    """Reads all files with a new cache each time, in turn in both orders; files a second."""
    report = Report(
        "read_ahead", f"{FILES:,} files of 4 KiB, read cold", "python -m bench read_ahead"
    )
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    in_order: list[_Reading] = []
    in_none: list[_Reading] = []
    with stage.cell() as cell:
        async with vol_server(cell.vol_server) as volumes:
            volume = await volumes.create("bench.small")
        async with contents(cell.file_server, volume) as files:
            await files.fill(FILES, FILE_BYTES)
        for _ in range(ROUNDS):
            in_none.append(await _read_all(cell, shuffled=True))
            in_order.append(await _read_all(cell, shuffled=False))
    report.add(
        compare(
            "files read in directory order",
            [each.files_per_s for each in in_order],
            [each.files_per_s for each in in_none],
            "files/s",
            at_least=AT_LEAST,
            note="compared to the same files in no order, where hardly any comes ahead of need",
        )
    )
    report.add(
        compare(
            "processor time of a file, client and fileserver together",
            [each.processor_us for each in in_order],
            [each.processor_us for each in in_none],
            "µs",
            at_most=1 / AT_LEAST,
            note="likewise",
        )
    )
    report.add(
        compare(
            "files read in directory order, against the goal for the mount",
            [each.files_per_s for each in in_order],
            [GOAL_PER_S] * ROUNDS,
            "files/s",
            note="through the cache manager's parts, in its process, without the kernel",
        )
    )
    return report


@dataclass(frozen=True, slots=True)
class _Reading:
    """What reading all files took."""

    files_per_s: float
    processor_us: float


async def _read_all(cell: Cell, *, shuffled: bool) -> _Reading:
    """Has a client that has nothing read all files; names are listed before."""
    async with _client(cell) as services:
        volume = await services.volumes.named("bench.small")
        fids: list[Fid] = []
        top = await services.directories.list_all(volume, root_fid(volume.volume_id))
        for entry in top.listing.in_order():
            assert entry.type is VnodeType.DIRECTORY
            listed = await services.directories.list_all(volume, entry.fid)
            fids += [each.fid for each in listed.listing.in_order()]
        if shuffled:
            random.Random(1).shuffle(fids)
        began, processor_s = time.perf_counter(), _processor_s(cell)
        await _read(services, volume.name, fids)
        return _Reading(
            len(fids) / (time.perf_counter() - began),
            1e6 * (_processor_s(cell) - processor_s) / len(fids),
        )


def _processor_s(cell: Cell) -> float:
    """Of this process, which is the client, and of the fileserver's."""
    return time.process_time() + stage.cpu_s(cell.afsd.pid)


async def _read(services: Services, volume_name: str, fids: Sequence[Fid]) -> None:
    volume = await services.volumes.named(volume_name)
    for fid in fids:
        known = await services.data.open(volume, fid, 0, FILE_BYTES)
        got = 0
        async with aclosing(services.data.read(volume, known.vnode, 0, FILE_BYTES)) as pieces:
            async for piece in pieces:
                got += len(piece)
        assert got == FILE_BYTES, f"{got} bytes came of {fid}"


@asynccontextmanager
async def _client(cell: Cell) -> AsyncIterator[Services]:
    """The parts of a client, attached, with an empty cache on the disk that holds the cell."""
    clock = SystemClock()
    journal = Journal(clock)
    with tempfile.TemporaryDirectory(dir=cell.directory) as folder:
        disk = DiskCache.open(Path(folder), CACHE_BYTES, clock=clock, journal=journal)
        services = Services.wire(
            host_uuid=str(uuid4()),
            location_address=cell.location,
            outage=OutagePolicy(),
            disk=disk,
            clock=clock,
            journal=journal,
        )
        try:
            yield services
        finally:
            await services.stop()
