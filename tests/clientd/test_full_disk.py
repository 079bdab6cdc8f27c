"""A cache on a disk that is really full: a small tmpfs."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from afs.limits import MIB
from tests.clientd.fake_fileserver import FakeFileServer
from tests.clientd.local_program import running_client

pytestmark = pytest.mark.root


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


async def test_client_serves_from_a_cache_disk_that_is_too_small(
    server: FakeFileServer, small_disk: Path
) -> None:
    """The disk is smaller than the limit: what fits is cached, everything is served, no error."""
    data = {f"f{number}": bytes([number]) * MIB for number in range(8)}
    for name, content in data.items():
        server.add(name, content)
    async with running_client(small_disk, server.address) as program:
        for _ in range(2):
            for name, content in data.items():
                assert (await program.read(f"/home/{name}")).data == content
            await program.write("/home/new", bytes(3 * MIB))
            assert (await program.read("/home/new")).data == bytes(3 * MIB)
        assert (await program.counters())["cache_write_failures"] > 0


async def test_client_starts_on_a_full_disk(server: FakeFileServer, small_disk: Path) -> None:
    """Nothing can be kept, not even the index; everything is served."""
    server.add("f", b"content")

    def fill() -> None:
        with suppress(OSError):
            (small_disk / "filler").write_bytes(bytes(5 * MIB))

    await asyncio.to_thread(fill)
    async with running_client(small_disk, server.address) as program:
        for _ in range(2):
            assert (await program.read("/home/f")).data == b"content"
        assert (await program.status()).cache_bytes == 0
