"""A volume moves to another server while somebody writes to it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import grpc.aio

from afs.limits import DATA_PIECE_BYTES, MIB
from afs.runtime.channel import open_channel
from afs.v1 import cache_manager_pb2, cache_manager_pb2_grpc
from bench import stage
from bench.bare_server import SERVICE
from bench.report import Report, Row, compare
from bench.volumes import GIB, contents, vol_server

FILES: Final = 256
FILE_BYTES: Final = 4 * MIB
ROUNDS: Final = 3
EXCLUSIVE_GOAL_MS: Final = 250
# Part of the files that change before the volume goes back.
CHANGED: Final = 0.01
# A writer that appends like a log does: small, often.
WRITE_PAUSE_S: Final = 0.02


class Writer:
    """A program that writes through a client, again and again, for as long as it is entered.

    Attributes:
        waits: seconds that each write took.
        errors: what went wrong.
    """

    def __init__(self, client: str, path: str) -> None:
        self._channel = open_channel(client)
        self._stub: Any = cache_manager_pb2_grpc.CacheManagerStub(self._channel)
        self._path = path
        self.waits: list[float] = []
        self.errors: list[str] = []

    async def __aenter__(self) -> Writer:
        self._task = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._channel.close()

    async def _write(self) -> None:
        while True:
            began = time.perf_counter()
            try:
                await self._stub.Write(self._requests())
            except grpc.aio.AioRpcError as error:
                self.errors.append(f"{error.code().name}: {error.details()}")
            self.waits.append(time.perf_counter() - began)
            await asyncio.sleep(WRITE_PAUSE_S)

    async def _requests(self) -> AsyncIterator[cache_manager_pb2.WriteRequest]:
        opening = cache_manager_pb2.WriteOpen(path=self._path, create=True)
        yield cache_manager_pb2.WriteRequest(open=opening, data=os.urandom(512))


async def run() -> Report:
    """Moves 1 GiB to another server and, 1 % changed, back; each time with a fresh volume."""
    report = Report("move", "1 GiB moved between two servers", "python -m bench move")
    rates, bare = list[float](), list[float]()
    exclusive, longest, back = list[float](), list[float](), list[float]()
    errors: list[str] = []
    with stage.cell(servers=2, clients=1) as cell, stage.bare_server() as (address, _):
        there, here = cell.servers[1], cell.servers[0]
        async with (
            open_channel(address) as channel,
            vol_server(here.vol_server) as source,
            vol_server(there.vol_server) as target,
        ):
            upload: Any = channel.stream_unary(f"/{SERVICE}/Upload")
            for number in range(ROUNDS):
                name = f"bench.{number}"
                volume = await source.create(name)
                async with contents(here.file_server, volume) as files:
                    fids = await files.fill(FILES, FILE_BYTES)
                await asyncio.to_thread(os.sync)
                bare.append(await _bare(upload))
                await asyncio.to_thread(os.sync)
                async with Writer(cell.clients[0], f"/{name}/log") as writer:
                    began = time.perf_counter()
                    sent = await source.move(name, there.vol_server, "vicepa")
                    rates.append(GIB / (time.perf_counter() - began) / 1e6)
                exclusive.append(1000 * sent.exclusive_s)
                longest.append(1000 * max(writer.waits))
                errors += writer.errors
                async with contents(there.file_server, volume) as files:
                    await files.change(fids[: max(1, int(FILES * CHANGED))], FILE_BYTES)
                sent = await target.move(name, here.vol_server, "vicepa")
                back.append(100 * sent.bytes / GIB)
                await source.remove(name)
    assert not errors, f"the writer saw errors: {errors[:3]}"
    report.add(
        compare(
            "move of 1 GiB, with a writer",
            rates,
            bare,
            "MB/s",
            at_least=0.5,
            note="the whole call; compared to a bare gRPC stream of 1 GiB in pieces of"
            f" {DATA_PIECE_BYTES // 1024} KiB, written to a new file and fsynced",
        )
    )
    for what, samples, note in (
        ("the volume is out of service", exclusive, "as the volserver measures it; the worst"),
        ("longest write of the writer, which saw no error", longest, "through a client; the worst"),
    ):
        goal = 1.0 if samples is exclusive else None
        worst = max(samples)
        ratio = worst / EXCLUSIVE_GOAL_MS
        report.add(Row(what, worst, EXCLUSIVE_GOAL_MS, "ms", ratio, at_most=goal, note=note))
    part = max(back)
    report.add(
        Row(
            "bytes sent to move it back, 1 % changed",
            part,
            100,
            "% of 1 GiB",
            part / 100,
            at_most=0.05,
        )
    )
    return report


async def _bare(upload: Any) -> float:
    """A bare upload of as many bytes; MB/s."""
    fresh = os.urandom(DATA_PIECE_BYTES)

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(GIB // DATA_PIECE_BYTES):
            yield number.to_bytes(8, "big") + fresh[8:]

    began = time.perf_counter()
    await upload(pieces())
    return GIB / (time.perf_counter() - began) / 1e6
