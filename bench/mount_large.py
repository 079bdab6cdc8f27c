"""256 MiB and a source tree through the mount, against bare streams, the local disk and bindfs."""

from __future__ import annotations

import asyncio
import os
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from afs.limits import DATA_PIECE_BYTES, MIB
from afs.runtime.channel import open_channel
from bench import stage
from bench.bare_server import SERVICE
from bench.file_program import read_through, timed, unpack, write_through
from bench.mounted import Mounted, mounted, passed_through
from bench.report import Report, compare

ROUNDS: Final = 3
FILE_BYTES: Final = 256 * MIB
PIECES: Final = FILE_BYTES // DATA_PIECE_BYTES
VOLUME: Final = "bench.mount"
# Files of the archive: what a source tarball of a large program has.
MEMBERS: Final = 5000


async def run() -> Report:
    """Measures everything on one cell, in turn with what it is compared to."""
    report = Report(
        "mount_large", "256 MiB and a source tree through the mount", "python -m bench mount_large"
    )
    with mounted() as where, stage.bare_server() as (address, _):
        await stage.create_volume(where.cell, VOLUME)
        async with open_channel(address) as channel:
            await _streams(report, where, channel)
        await asyncio.to_thread(_warm_read, report, where)
        await asyncio.to_thread(_unpacked, report, where)
    return report


async def _streams(report: Report, where: Mounted, channel: Any) -> None:
    """Writes and cold reads, in turn with bare streams."""
    samples: dict[str, list[float]] = {"w": [], "bw": [], "r": [], "br": []}
    for number in range(ROUNDS):
        path = where.root / VOLUME / f"large.{number}"
        samples["bw"].append(await _bare_write(channel))
        samples["w"].append(
            _rate(await asyncio.to_thread(timed, write_through.__name__, path, PIECES))
        )
        await asyncio.to_thread(where.go_cold)
        samples["br"].append(await _bare_read(channel))
        samples["r"].append(_rate(await asyncio.to_thread(timed, read_through.__name__, path)))
    report.add(
        compare(
            "sequential write of 256 MiB with close",
            samples["w"],
            samples["bw"],
            "MB/s",
            at_least=0.4,
            note="compared to a bare stream that the receiver writes to a new file and fsyncs",
        )
    )
    report.add(
        compare(
            "cold sequential read of 256 MiB",
            samples["r"],
            samples["br"],
            "MB/s",
            at_least=0.4,
            note="compared to a bare stream of the same piece size",
        )
    )


def _warm_read(report: Report, where: Mounted) -> None:
    ours, base = [], []
    mine, other = where.root / VOLUME / "large.0", where.local / "large"
    timed(write_through.__name__, other, PIECES)
    for path in (mine, other):
        timed(read_through.__name__, path)
    for _ in range(ROUNDS):
        base.append(_rate(timed(read_through.__name__, other)))
        ours.append(_rate(timed(read_through.__name__, mine)))
    report.add(
        compare(
            "warm sequential read of 256 MiB",
            ours,
            base,
            "MB/s",
            at_least=0.8,
            note="compared to the same loop on the local disk's page cache",
        )
    )


def _unpacked(report: Report, where: Mounted) -> None:
    archive = where.local / "source.tar"
    _make_archive(archive)
    ours, base = [], []
    with passed_through(where.local) as through:
        for _ in range(ROUNDS):
            other = tempfile.mkdtemp(dir=through)
            base.append(timed(unpack.__name__, archive, other, 1))
            mine = tempfile.mkdtemp(dir=where.root / VOLUME)
            ours.append(timed(unpack.__name__, archive, mine, 0))
    report.add(
        compare(
            f"a source tree of {MEMBERS:,} files unpacked",
            ours,
            base,
            "s",
            at_most=3,
            note="compared to bindfs on the local disk with an fsync before each close",
        )
    )


def _make_archive(path: Path) -> None:
    """The first files of Python's own library, with their directories."""
    root = Path(sysconfig.get_path("stdlib"))
    left = MEMBERS
    with tarfile.open(path, "w") as tar:
        for folder, directories, names in os.walk(root):
            directories.sort()
            if folder != str(root):
                tar.add(folder, Path(folder).relative_to(root), recursive=False)
            for name in sorted(names)[:left]:
                file = Path(folder, name)
                if file.is_file() and not file.is_symlink():
                    tar.add(file, file.relative_to(root), recursive=False)
                    left -= 1
            if not left:
                return
    raise RuntimeError(f"{root} has {MEMBERS - left} files: expected at least {MEMBERS}")


async def _bare_write(channel: Any) -> float:
    """MB/s of a stream that is written to a file at the other end."""
    piece = os.urandom(DATA_PIECE_BYTES)

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(PIECES):
            yield number.to_bytes(8, "big") + piece[8:]

    began = time.perf_counter()
    await channel.stream_unary(f"/{SERVICE}/Upload")(pieces())
    return _rate(time.perf_counter() - began)


async def _bare_read(channel: Any) -> float:
    """MB/s of a stream that nobody keeps."""
    began = time.perf_counter()
    async for _ in channel.unary_stream(f"/{SERVICE}/Download")(str(PIECES).encode()):
        pass
    return _rate(time.perf_counter() - began)


def _rate(seconds: float) -> float:
    return FILE_BYTES / seconds / 1e6
