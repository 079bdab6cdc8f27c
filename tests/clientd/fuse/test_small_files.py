"""Small files of a directory come ahead of the program that reads them through the mount."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clientd.fuse.mounted import do, mounted_cell, needs_fuse

pytestmark = [pytest.mark.root, needs_fuse]

FILES = 60


async def test_files_read_in_order_come_ahead_and_are_never_old(tmp_path: Path) -> None:
    """In a few calls; what another machine changes after it came is read as it is then."""

    def write(root: Path) -> None:
        (root / "d").mkdir()
        for number in range(FILES):
            (root / f"d/f{number:02}").write_bytes(b"%02d" % number)

    def read(root: Path, first: int, last: int) -> list[bytes]:
        return [(root / f"d/f{number:02}").read_bytes() for number in range(first, last)]

    async with mounted_cell(tmp_path, clients=2) as mounted:
        here, there = mounted.roots
        await do(write, here)
        expected = [b"%02d" % number for number in range(FILES)]
        assert await do(read, there, 0, 2) == expected[:2]
        await do((here / "d/f05").write_bytes, b"new")
        expected[5] = b"new"
        assert await do(read, there, 2, FILES) == expected[2:]
        counters = await mounted.programs[1].counters()
        assert counters["fetch_data_calls"] <= 2
        assert counters["files_fetched_in_bulk"] >= FILES - 1
        assert counters["bulk_fetch_calls"] <= 5
