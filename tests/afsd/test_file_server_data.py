"""FileServer: FetchData and StoreData, over real sockets and on real disk."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from afs.errors import AfsCode
from afs.limits import DATA_PIECE_BYTES, INLINE_MAX_BYTES, KIB, MAX_FILE_BYTES
from afs.types import BreakReason, Fid
from afs.v1 import file_server_pb2 as pb
from afs.v1 import fssync_pb2, types_pb2
from afs.wire import fid_to_wire
from tests.afsd.running import PATIENCE_S, ROOT, fileserver, refused


def content(size: int, seed: int = 1) -> bytes:
    """Bytes that repeat nowhere."""
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        INLINE_MAX_BYTES,
        INLINE_MAX_BYTES + 1,
        DATA_PIECE_BYTES - 1,
        DATA_PIECE_BYTES,
        DATA_PIECE_BYTES + 1,
        3 * DATA_PIECE_BYTES + 17,
    ],
)
async def test_what_was_stored_is_fetched(tmp_path: Path, size: int) -> None:
    """At every size where something changes hands, also after a restart."""
    data = content(size)
    pieces = [data[at : at + 300_000] for at in range(0, size, 300_000)]
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        stored = await client.store(file, *pieces)
        assert stored.status.length == size
        first, fetched = await client.fetch(file)
        assert fetched == data
        assert first.status == stored.status
        assert first.HasField("callback")
        assert first.data == b""
    async with fileserver(tmp_path) as running:
        assert (await (await running.client()).fetch(file))[1] == data


async def test_pieces_are_bounded(tmp_path: Path) -> None:
    """No message of FetchData carries more than DATA_PIECE_BYTES, and none is empty."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        await client.store(file, *[content(DATA_PIECE_BYTES)] * 3, b"end")
        request = pb.FetchDataRequest(fid=fid_to_wire(file))
        _, *pieces = await client.stream(client.files.FetchData, request)
        sizes = [len(piece.data) for piece in pieces]
        assert max(sizes) <= DATA_PIECE_BYTES
        assert min(sizes) > 0


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 10), (5, 0), (DATA_PIECE_BYTES - 3, 6), (2 * DATA_PIECE_BYTES, 0), (9**12, 0), (3, 9**12)],
)
async def test_a_range_is_fetched(tmp_path: Path, offset: int, length: int) -> None:
    """Offset and length in bytes; length 0 and too large mean to the end."""
    data = content(DATA_PIECE_BYTES + 1000)
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        await client.store(file, data[:DATA_PIECE_BYTES], data[DATA_PIECE_BYTES:])
        _, fetched = await client.fetch(file, offset, length)
        assert fetched == data[offset : offset + length if length else None]


@pytest.mark.parametrize(
    ("offset", "length", "code"),
    [
        (-1, 0, AfsCode.EINVAL),
        (0, -1, AfsCode.EINVAL),
        (MAX_FILE_BYTES + 1, 0, AfsCode.EFBIG),
    ],
)
async def test_a_range_that_is_none_is_refused(
    tmp_path: Path, offset: int, length: int, code: AfsCode
) -> None:
    """Negative and enormous offsets and lengths have their errors."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        async with refused(code):
            await client.fetch(file, offset, length)


async def test_data_goes_in_at_an_offset(tmp_path: Path) -> None:
    """A store into the middle leaves the rest; one beyond the end fills up with zeroes."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        await client.store(file, b"0123456789")
        await client.store(file, b"ab", offset=4)
        assert (await client.fetch(file))[1] == b"0123ab6789"
        await client.store(file, b"z", offset=12)
        assert (await client.fetch(file))[1] == b"0123ab6789\0\0z"


async def test_a_store_can_truncate_and_set_attributes(tmp_path: Path) -> None:
    """Truncation, data and attributes are one step with one DataVersion."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        before = await client.store(file, b"0123456789")
        answer = await client.store(
            file, b"ab", truncate_to=0, set_status=types_pb2.SetStatus(mode=0o640, owner=7)
        )
        assert (answer.status.length, answer.status.mode, answer.status.owner) == (2, 0o640, 7)
        assert answer.status.data_version == before.status.data_version + 1
        assert (await client.fetch(file))[1] == b"ab"


async def test_a_store_over_another_version_is_refused(tmp_path: Path) -> None:
    """expected_data_version: two writers who both read version n cannot both store n+1."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        version = (await client.store(file, b"one")).status.data_version
        await client.store(file, b"two", expected_data_version=version)
        async with refused(AfsCode.EAGAIN):
            await client.store(file, b"three", expected_data_version=version)
        assert (await client.fetch(file))[1] == b"two"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"offset": -1}, AfsCode.EINVAL),
        ({"offset": MAX_FILE_BYTES + 1}, AfsCode.EFBIG),
        ({"truncate_to": MAX_FILE_BYTES + 1}, AfsCode.EFBIG),
        ({"set_status": types_pb2.SetStatus(length=3)}, AfsCode.EINVAL),
        ({"set_status": types_pb2.SetStatus(mode=0o20000)}, AfsCode.EINVAL),
        ({"offset": MAX_FILE_BYTES}, AfsCode.EFBIG),
    ],
)
async def test_a_store_that_makes_no_sense_is_refused(
    tmp_path: Path, header: dict[str, Any], code: AfsCode
) -> None:
    """Bad headers change nothing."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        await client.store(file, b"old")
        async with refused(code):
            await client.store(file, b"new", **header)
        assert (await client.fetch(file))[1] == b"old"


async def test_a_stream_must_open_first_and_once(tmp_path: Path) -> None:
    """No `open`, or two: EINVAL, and nothing changes."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        header = pb.StoreDataRequest(open=pb.StoreDataOpen(fid=fid_to_wire(file)))
        data = pb.StoreDataRequest(data=b"new")

        async def send(*messages: pb.StoreDataRequest) -> AsyncIterator[pb.StoreDataRequest]:
            for message in messages:
                yield message

        for story in ((), (data,), (data, header), (header, data, header)):
            async with refused(AfsCode.EINVAL):
                await client.call(client.files.StoreData, send(*story))
        assert (await client.fetch(file))[1] == b""


async def test_directories_and_links_have_no_data(tmp_path: Path) -> None:
    """EISDIR for a directory, EINVAL for a symbolic link, VNOVNODE for nothing."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        request = pb.SymlinkRequest(directory=fid_to_wire(ROOT), name="l", target="a")
        link = (await client.call(client.files.Symlink, request)).status.fid
        for fid, code in (
            (ROOT, AfsCode.EISDIR),
            (Fid(link.volume, link.vnode, link.uniquifier), AfsCode.EINVAL),
            (Fid(ROOT.volume, 8, 8), AfsCode.VNOVNODE),
        ):
            async with refused(code):
                await client.fetch(fid)
            async with refused(code):
                await client.store(fid, b"new")


async def test_a_failed_fetch_leaves_the_promise_of_an_earlier_status(tmp_path: Path) -> None:
    """A host that was promised a directory still hears of it after FetchData refused the Fid."""
    async with fileserver(tmp_path) as running:
        holder, writer = await running.client(), await running.client()
        await holder.status(ROOT)
        async with refused(AfsCode.EISDIR):
            await holder.fetch(ROOT)
        await writer.create("a")
        assert (await holder.broken(ROOT)).reason == BreakReason.DATA_CHANGED


async def test_a_file_larger_than_the_quota_is_refused(tmp_path: Path) -> None:
    """VOVERQUOTA, the old contents stay, and the volume goes on working."""
    async with fileserver(tmp_path, max_quota_kib=2048) as running:
        client = await running.client()
        file = await client.create("a")
        await client.store(file, b"old")
        async with refused(AfsCode.VOVERQUOTA):
            await client.store(file, *[content(512 * KIB, seed) for seed in range(8)])
        assert (await client.fetch(file))[1] == b"old"
        await client.store(file, content(1024 * KIB))
        assert (await client.fetch(file))[1] == content(1024 * KIB)


async def test_a_reader_sees_one_version(tmp_path: Path) -> None:
    """A file replaced while it is fetched: the reader gets the old one whole, and a break."""
    old, new = content(6 * DATA_PIECE_BYTES, 1), content(2 * DATA_PIECE_BYTES, 2)
    async with fileserver(tmp_path) as running:
        reader, writer = await running.client(), await running.client()
        file = await writer.create("a")
        await writer.store(
            file, *[old[at : at + DATA_PIECE_BYTES] for at in range(0, len(old), DATA_PIECE_BYTES)]
        )
        call = reader.files.FetchData(
            pb.FetchDataRequest(fid=fid_to_wire(file)), metadata=reader.metadata, timeout=PATIENCE_S
        )
        messages = aiter(call)
        first = await anext(messages)
        await writer.store(file, new[:DATA_PIECE_BYTES], new[DATA_PIECE_BYTES:], truncate_to=0)
        fetched = b"".join([message.data async for message in messages])
        assert fetched == old
        assert first.status.length == len(old)
        assert (await reader.broken(file)).sequence >= first.callback.sequence
        assert (await reader.fetch(file))[1] == new


async def test_a_writer_that_hangs_up_changes_nothing(tmp_path: Path) -> None:
    """All or nothing: a stream cut in the middle leaves the old file and no garbage behind."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        await client.store(file, b"old")
        arrived = asyncio.Event()

        async def endless() -> AsyncIterator[pb.StoreDataRequest]:
            yield pb.StoreDataRequest(open=pb.StoreDataOpen(fid=fid_to_wire(file)))
            for seed in range(4):
                yield pb.StoreDataRequest(data=content(DATA_PIECE_BYTES, seed))
            arrived.set()
            await asyncio.Event().wait()

        call = client.files.StoreData(endless(), metadata=client.metadata)
        await arrived.wait()
        call.cancel()
        with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
            await call
        assert (await client.fetch(file))[1] == b"old"
        await client.store(file, b"newer")
        assert (await client.fetch(file))[1] == b"newer"


async def test_a_damaged_chunk_is_reported_and_never_served(tmp_path: Path) -> None:
    """One flipped byte on disk: DATA_LOSS for that file, the others are served."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        bad, good = await client.create("bad"), await client.create("good")
        await client.store(bad, content(DATA_PIECE_BYTES, 1), content(DATA_PIECE_BYTES, 2))
        await client.store(good, content(DATA_PIECE_BYTES, 3))
        kept = {path: path.read_bytes() for path in (tmp_path / "vicepa").rglob("chunks/*/*")}
        (path,) = [path for path, data in kept.items() if content(DATA_PIECE_BYTES, 2) in data]
        path.chmod(0o600)
        path.write_bytes(kept[path][:-1] + bytes([kept[path][-1] ^ 1]))
        request = pb.FetchDataRequest(fid=fid_to_wire(bad))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            _ = [message async for message in client.files.FetchData(request)]
        assert caught.value.code() is grpc.StatusCode.DATA_LOSS
        assert (await client.fetch(good))[1] == content(DATA_PIECE_BYTES, 3)


async def test_a_damaged_row_holds_no_volume_up(tmp_path: Path) -> None:
    """After DATA_LOSS from the database the volume can be taken at once, and given back."""

    def damage() -> None:
        (database,) = (tmp_path / "vicepa").rglob(f"{ROOT.volume}.db")
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("UPDATE chunks SET checksum = zeroblob(length(checksum))")
            connection.commit()

    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        await client.store(file, content(DATA_PIECE_BYTES), content(DATA_PIECE_BYTES, 2))
        await asyncio.to_thread(damage)
        async with refused(AfsCode.EIO):
            await client.fetch(file)
        # The call's own time limit is well below the database's patience with a reader.
        assert (await running.fssync("NEEDVOLUME")).response == fssync_pb2.FSYNC_OK
