"""A cache on a disk that is really full: a small tmpfs."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from afs.errors import AfsError
from afs.limits import MIB
from tests.clientd.fake_fileserver import FakeFileServer, lasting_location
from tests.clientd.local_program import PATIENCE_S, running_client
from tests.clientd.open_handles import opened

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


def fill(place: Path) -> None:
    """Takes all the room there is."""
    with suppress(OSError):
        (place / "filler").write_bytes(bytes(5 * MIB))


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
    await asyncio.to_thread(fill, small_disk)
    async with running_client(small_disk, server.address) as program:
        for _ in range(2):
            assert (await program.read("/home/f")).data == b"content"
        assert (await program.status()).cache_bytes == 0


async def test_large_file_is_written_through_a_full_disk(
    server: FakeFileServer, small_disk: Path
) -> None:
    """What fits neither in memory nor on the disk is stored ahead of the flush; nothing fails."""
    fid = server.add("f")
    data = bytes(range(256)) * 4096 * 12
    await asyncio.to_thread(fill, small_disk)
    async with running_client(small_disk, server.address) as program:
        program.client.services.open_files._memory.limit_bytes = MIB
        async with opened(program, fid, truncate=True) as handle:
            for at in range(0, len(data), MIB):
                await handle.write(at, data[at : at + MIB])
            assert await handle.read(3 * MIB - 5, 10) == data[3 * MIB - 5 : 3 * MIB + 5]
        assert server.nodes[fid].data == data
        assert (await program.read("/home/f")).data == data


async def test_unsent_store_without_room_lives_as_long_as_the_client(
    server: FakeFileServer, small_disk: Path
) -> None:
    """It says that it is not on disk, and is stored when the fileserver is back."""
    fid = server.add("f", b"old")
    await asyncio.to_thread(fill, small_disk)
    async with (
        lasting_location(server) as location,
        running_client(small_disk, location, outage_patience_s=0.3) as program,
    ):
        async with opened(program, fid) as handle:
            await server.stop()
            await handle.write(0, b"new")
            with pytest.raises(AfsError):
                await handle.flush()
        unsent = program.client.services.open_files.unsent
        (record,) = unsent.all()
        assert not record.is_on_disk
        with pytest.raises(AfsError) as caught:
            async for _ in unsent.read(record):
                pass
        assert "in memory only" in caught.value.detail
        await server.start(server.address)
        async with asyncio.timeout(PATIENCE_S):
            while unsent.all():
                program.client.services.resending.poke()
                await asyncio.sleep(0.02)
        assert server.nodes[fid].data == b"new"
