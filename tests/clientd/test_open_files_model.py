"""Handles against a model: whatever is written, truncated, stored, evicted, every byte is right."""

from __future__ import annotations

import random

import pytest

from afs.limits import MIB
from tests.clientd.fake_fileserver import FakeFileServer
from tests.clientd.local_program import LocalProgram
from tests.clientd.open_handles import opened

STEPS = 120
# Where things go wrong, if they do.
PLACES = [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB - 7, 3 * MIB]
SIZES = [1, 10, 4096, 100_000, MIB, MIB + 1]


@pytest.mark.parametrize("seed", range(4))
async def test_every_byte_is_right(
    seed: int, server: FakeFileServer, program: LocalProgram
) -> None:
    """Reads see the model at every step; stores leave the fileserver and the cache with it."""
    chance = random.Random(seed)
    view = bytearray(chance.randbytes(chance.choice([0, 5000, 2 * MIB + 3])))
    fid = server.add("f", bytes(view))
    services = program.client.services
    # So little that pieces go to files and come back all the time.
    services.open_files._memory.limit_bytes = MIB + MIB // 2
    async with opened(program, fid) as one, opened(program, fid) as two:
        for _ in range(STEPS):
            handle = chance.choice([one, two])
            match chance.randrange(10):
                case 0 | 1 | 2 | 3:
                    at, size = chance.choice(PLACES), chance.choice(SIZES)
                    data = chance.randbytes(size)
                    if handle.write_now(at, data) is None:
                        await handle.write(at, data)
                    view += bytes(max(0, at - len(view)))
                    view[at : at + size] = data
                case 4:
                    length = chance.choice(PLACES) + chance.choice([0, 0, 10])
                    await handle.truncate(length)
                    del view[length:]
                    view += bytes(length - len(view))
                case 5 | 6:
                    at, size = chance.choice(PLACES), chance.choice(SIZES)
                    assert await handle.read(at, size) == view[at : at + size]
                case 7 | 8:
                    await handle.flush()
                    assert server.nodes[fid].data == view
                case _:
                    what = chance.choice(["evict", "break", "others"])
                    if what == "evict":
                        await services.disk.forget([fid])
                    elif what == "break":
                        await server.break_and_wait([fid])
                    elif not services.open_files.is_dirty(fid):
                        view = bytearray(chance.randbytes(chance.choice([0, MIB + 9])))
                        server.change(fid, bytes(view))
                        await server.break_and_wait([fid])
            assert (await handle.status()).length == len(view)
        assert await one.read(0, 5 * MIB) == view
    assert server.nodes[fid].data == view
    assert (await program.read("/home/f")).data == view
    await services.disk.settle()
    assert services.disk._table.reserved_bytes == 0
    assert services.open_files._memory.used_bytes == 0
