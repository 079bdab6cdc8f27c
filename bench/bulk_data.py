"""Bulk data through FileServer, against bare gRPC streams of the same piece size."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from afs.limits import DATA_PIECE_BYTES, MIB
from afs.runtime.channel import open_channel
from afs.types import Fid
from afs.v1 import file_server_pb2 as pb
from afs.v1 import file_server_pb2_grpc
from afs.wire import fid_to_wire
from bench import stage
from bench.bare_server import SERVICE
from bench.report import Report, Row, compare

ROUNDS: Final = 5
FILE_BYTES: Final = 256 * MIB
PIECES: Final = FILE_BYTES // DATA_PIECE_BYTES
MEMORY_GROWTH_MIB: Final = 64


class Bulk:
    """Moves one file's worth of data each way; every method answers MB/s."""

    def __init__(self, ours: Any, bare: Any) -> None:
        self._stub = file_server_pb2_grpc.FileServerStub(ours)
        self._download = bare.unary_stream(f"/{SERVICE}/Download")
        self._upload = bare.stream_unary(f"/{SERVICE}/Upload")
        # New data every time: chunks that are there already would not be written.
        self._fresh = os.urandom(DATA_PIECE_BYTES)

    def _pieces(self) -> list[bytes]:
        stamp = os.urandom(16)
        return [stamp + number.to_bytes(8, "big") + self._fresh[24:] for number in range(PIECES)]

    async def bare_read(self) -> float:
        """A bare download."""
        began = time.perf_counter()
        got = 0
        async for piece in self._download(str(PIECES).encode()):
            got += len(piece)
        return _rate(began, got)

    async def read(self, fid: Fid) -> float:
        """FetchData of the whole file."""
        began = time.perf_counter()
        got = 0
        async for message in self._stub.FetchData(pb.FetchDataRequest(fid=fid_to_wire(fid))):
            got += len(message.data)
        return _rate(began, got)

    async def bare_write(self) -> float:
        """A bare upload into one file, with fsync."""
        pieces = self._pieces()

        async def send() -> AsyncIterator[bytes]:
            for piece in pieces:
                yield piece

        began = time.perf_counter()
        await self._upload(send())
        return _rate(began, FILE_BYTES)

    async def write(self, fid: Fid) -> float:
        """StoreData of the whole file, durable when answered."""
        pieces = self._pieces()

        async def send() -> AsyncIterator[pb.StoreDataRequest]:
            yield pb.StoreDataRequest(open=pb.StoreDataOpen(fid=fid_to_wire(fid), truncate_to=0))
            for piece in pieces:
                yield pb.StoreDataRequest(data=piece)

        began = time.perf_counter()
        await self._stub.StoreData(send())
        return _rate(began, FILE_BYTES)


def _rate(began: float, size: int) -> float:
    assert size == FILE_BYTES, f"{size} bytes came, not {FILE_BYTES}"
    return size / (time.perf_counter() - began) / 1e6


async def run() -> Report:
    """Measures in turn, writes and reads of 256 MiB, and the fileserver's peak memory."""
    report = Report(
        "bulk_data", "256 MiB through FileServer against bare streams", "python -m bench bulk_data"
    )
    with stage.cell() as cell, stage.bare_server() as (bare_address, _):
        volume = await stage.create_volume(cell, "bench.bulk")
        (fid,) = await stage.create_files(cell, volume, 1)
        peak = stage.peak_memory_mib(cell.afsd.pid)
        async with open_channel(cell.file_server) as ours, open_channel(bare_address) as bare:
            bulk = Bulk(ours, bare)
            samples: dict[str, list[float]] = {"w": [], "bw": [], "r": [], "br": []}
            for _ in range(ROUNDS):
                samples["bw"].append(await bulk.bare_write())
                samples["w"].append(await bulk.write(fid))
                await asyncio.to_thread(os.sync)
                samples["br"].append(await bulk.bare_read())
                samples["r"].append(await bulk.read(fid))
        growth = stage.peak_memory_mib(cell.afsd.pid) - peak
    report.add(
        compare(
            "write of 256 MiB, durable",
            samples["w"],
            samples["bw"],
            "MB/s",
            at_least=0.4,
            note="compared to a bare stream that the receiver writes to a new file and fsyncs",
        )
    )
    report.add(
        compare(
            "read of 256 MiB",
            samples["r"],
            samples["br"],
            "MB/s",
            at_least=0.4,
            note="compared to a bare stream of the same piece size",
        )
    )
    report.add(
        Row(
            "growth of the fileserver's peak memory",
            growth,
            MEMORY_GROWTH_MIB,
            "MiB",
            growth / MEMORY_GROWTH_MIB,
            at_most=1,
            note="compared to the allowance",
        )
    )
    return report
