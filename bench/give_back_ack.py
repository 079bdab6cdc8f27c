"""How long FSSYNC takes to acknowledge a break of 10,000 promises held by a frozen client (I2)."""

from __future__ import annotations

import time
from typing import Final

from afs.runtime.channel import open_channel
from afs.v1 import fssync_pb2, fssync_pb2_grpc
from bench import stage
from bench.hosts import hosts
from bench.report import Report, compare

PROMISES: Final = 10_000
ROUNDS: Final = 15
# Calls without promises for each one with: they are cheap, and their median steadier.
PLAIN_CALLS: Final = 20


async def run() -> Report:
    """Measures in turn: no promises at all, and 10,000 of a client that was just frozen."""
    report = Report(
        "give_back_ack",
        "FSSYNC acknowledges without waiting for anybody",
        "python -m bench give_back_ack",
    )
    with stage.cell() as cell:
        empty = await stage.create_volume(cell, "bench.empty")
        full = await stage.create_volume(cell, "bench.full")
        await stage.create_files(cell, full, PROMISES)
        async with open_channel(cell.fssync) as channel:
            fssync = fssync_pb2_grpc.FSSyncStub(channel)

            async def break_callbacks(volume: int, expected: int) -> float:
                request = fssync_pb2.VolumeOpRequest(
                    command=fssync_pb2.FSYNC_VOL_BREAKCBKS, volume_id=volume, program="bench"
                )
                began = time.perf_counter()
                answer = await fssync.VolumeOp(request)
                took = time.perf_counter() - began
                assert answer.callbacks_marked == expected, answer
                return took * 1e6

            plain: list[float] = []
            frozen: list[float] = []
            async with hosts(cell.file_server, 1) as client:
                for _ in range(ROUNDS):
                    await client.take(full, PROMISES)
                    plain += [await break_callbacks(empty, 0) for _ in range(PLAIN_CALLS)]
                    client.freeze()
                    frozen.append(await break_callbacks(full, PROMISES))
                    client.thaw()
    report.add(
        compare(
            "BREAKCBKS, 10,000 promises of a frozen client",
            frozen,
            plain,
            "µs",
            at_most=3,
            note="compared to the same call on a volume without promises",
        )
    )
    return report
