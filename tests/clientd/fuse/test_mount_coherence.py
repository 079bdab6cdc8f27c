"""Two mounts of one volume: what one program did, the next call of the other sees."""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.clientd.fuse.mounted import MountedCell, do, mounted_cell, needs_fuse, run

pytestmark = [pytest.mark.root, needs_fuse]


@pytest.fixture
async def mounted(tmp_path: Path) -> AsyncIterator[MountedCell]:
    """Two mounted clients."""
    async with mounted_cell(tmp_path, clients=2) as running:
        yield running


async def test_closed_file_is_seen_by_the_next_open(mounted: MountedCell) -> None:
    """Close-to-open, again and again, with the same length each time."""
    one, other = (root / "f" for root in mounted.roots)

    def work() -> None:
        for number in range(30):
            writer, reader = (one, other) if number % 2 else (other, one)
            data = f"{number:04}".encode()
            writer.write_bytes(data)
            assert reader.read_bytes() == data
            assert reader.stat().st_mtime_ns == writer.stat().st_mtime_ns

    await do(work)


async def test_open_file_shows_what_another_client_closed(mounted: MountedCell) -> None:
    """read(2) and fstat(2) of a file that stays open, also where the times are the same."""
    one, other = (root / "f" for root in mounted.roots)

    def work() -> None:
        one.write_bytes(b"old!")
        os.utime(one, ns=(7, 7))
        with other.open("rb", buffering=0) as reader:
            assert reader.read() == b"old!"
            one.write_bytes(b"new!")
            os.utime(one, ns=(7, 7))
            reader.seek(0)
            assert reader.read() == b"new!"
            one.write_bytes(b"longer")
            assert os.fstat(reader.fileno()).st_size == 6

    await do(work)


_MAP = """
import mmap, pathlib, sys
one, other = map(pathlib.Path, sys.argv[1:])
one.write_bytes(b"a" * 8192)
with other.open("rb") as file:
    memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    assert memory[5000:5002] == b"aa"
    one.write_bytes(b"b" * 8192)
    assert memory[5000:5002] == b"bb"
"""


async def test_mapped_file_shows_what_another_client_closed(mounted: MountedCell) -> None:
    """The kernel drops mapped pages before the break is acknowledged."""
    await run(_MAP, *(root / "f" for root in mounted.roots))


async def test_missing_name_appears_and_goes(mounted: MountedCell) -> None:
    """A negative entry ends with the directory's promise."""
    one, other = (root / "d" for root in mounted.roots)

    def work() -> None:
        one.mkdir()
        for _ in range(10):
            assert not (other / "f").exists()
            assert not (other / "f").exists()
            (one / "f").touch()
            assert (other / "f").exists()
            assert os.listdir(other) == ["f"]
            (one / "f").unlink()

    await do(work)


async def test_renamed_directory_is_followed(mounted: MountedCell) -> None:
    """Its old path is gone at the other client, everything is under the new one."""
    one, other = mounted.roots

    def work() -> None:
        (one / "a/b/c").mkdir(parents=True)
        (one / "a/b/c/f").write_bytes(b"data")
        assert (other / "a/b/c/f").read_bytes() == b"data"
        here = os.open(other / "a/b/c", os.O_RDONLY)
        (one / "x").mkdir()
        (one / "a/b").rename(one / "x/y")
        assert not (other / "a/b").exists()
        assert (other / "x/y/c/f").read_bytes() == b"data"
        # What is held open is the same directory still.
        assert os.listdir(here) == ["f"]
        os.close(here)

    await do(work)


async def test_working_directory_survives_changes_beside_it(mounted: MountedCell) -> None:
    """A name is looked up anew, not cut off: whoever stands there knows where."""
    one, other = mounted.roots

    def work() -> None:
        (one / "here").mkdir()
        descriptor = os.open(other / "here", os.O_RDONLY)
        (one / "beside").touch()
        (other / "here").stat()
        assert os.readlink(f"/proc/self/fd/{descriptor}") == str(other / "here")
        os.close(descriptor)

    await do(work)


async def test_replaced_file_is_another_one(mounted: MountedCell) -> None:
    """An editor's save by rename, at the other client."""
    one, other = mounted.roots

    def work() -> None:
        for number in range(10):
            (one / "new").write_bytes(b"%d" % number)
            (one / "new").rename(one / "f")
            assert (other / "f").read_bytes() == b"%d" % number

    await do(work)


async def test_attributes_are_seen(mounted: MountedCell) -> None:
    """chmod, utimens, links."""
    one, other = (root / "f" for root in mounted.roots)

    def work() -> None:
        one.write_bytes(b"x")
        assert other.stat().st_nlink == 1
        one.chmod(0o600)
        assert other.stat().st_mode & 0o777 == 0o600
        os.link(one, one.with_name("g"))
        assert other.stat().st_nlink == 2
        os.utime(one, ns=(9, 9))
        assert other.stat().st_mtime_ns == 9

    await do(work)


async def test_other_door_of_the_same_client_is_seen(mounted: MountedCell) -> None:
    """What CacheManager changed, the mount shows."""
    program, root = mounted.programs[0], mounted.roots[0]
    await program.write("/home/f", b"one!")
    assert await do((root / "f").read_bytes) == b"one!"
    assert not await do((root / "g").exists)
    await program.write("/home/f", b"two!")
    assert await do((root / "f").read_bytes) == b"two!"
    await program.rename("/home/f", "/home/g")
    assert await do((root / "g").read_bytes) == b"two!"
    assert not await do((root / "f").exists)
    await program.remove("/home/g")
    assert not await do((root / "g").exists)


async def test_lost_break_is_made_good_by_the_lease(mounted: MountedCell) -> None:
    """What the kernel was told runs out with the lease: nothing is relied on for longer (I8)."""
    root, program = mounted.roots[0], mounted.programs[0]
    await do((root / "f").write_bytes, b"x")
    await do((root / "f").stat)
    mount = program.client.mounts.current
    assert mount is not None
    now = program.client.services.clock.now()
    lease_s = next(iter(program.client.services.cache.servers())).channel.lease_s
    told = [node.told_until - now for node in mount.nodes]
    told += [until - now for node in mount.nodes for until in (node.names or {}).values()]
    assert max(told) > 0
    assert max(told) <= lease_s


async def test_many_names_made_by_both_in_one_directory(mounted: MountedCell) -> None:
    """Both hold the directory's lock in their kernels while the other's break arrives."""
    one, other = mounted.roots

    def make(root: Path, prefix: str) -> None:
        for number in range(40):
            (root / f"{prefix}{number}").write_bytes(b"x")

    def work() -> None:
        threads = [
            threading.Thread(target=make, args=(root, prefix))
            for root, prefix in ((one, "a"), (other, "b"))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = sorted(f"{prefix}{number}" for prefix in "ab" for number in range(40))
        assert sorted(os.listdir(one)) == expected
        assert sorted(os.listdir(other)) == expected

    await do(work)
    for program in mounted.programs:
        counters = program.client.services.journal.counters()
        assert counters["channels_lost"] == 0


@pytest.mark.parametrize("seed", range(2))
async def test_random_work_on_two_mounts_is_seen_at_once(mounted: MountedCell, seed: int) -> None:
    """Every answer, on either mount, is what a plain tree of names and bytes says."""
    choose = random.Random(seed)

    def step(model: dict[str, bytes]) -> None:
        root = choose.choice(mounted.roots)
        name = choose.choice("abc")
        path = root / name
        match choose.randrange(6):
            case 0 | 1:
                data = bytes(choose.choice(b"xyz") for _ in range(choose.choice((1, 5000))))
                path.write_bytes(data)
                model[name] = data
            case 2 if name in model:
                path.unlink()
                del model[name]
            case 3 if name in model:
                new = choose.choice("abc")
                path.rename(root / new)
                model[new] = model.pop(name)
            case _:
                found = path.read_bytes() if path.exists() else None
                assert found == model.get(name)
        for each in mounted.roots:
            assert sorted(n for n in os.listdir(each) if not n.startswith(".")) == sorted(model)
            for known, data in model.items():
                assert (each / known).stat().st_size == len(data)

    def work() -> None:
        model: dict[str, bytes] = {}
        for _ in range(100):
            step(model)

    await asyncio.wait_for(asyncio.to_thread(work), 60)
