"""Dumps and restores whose clients are slow, silent, many, or gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest

from afs.errors import AfsCode
from afs.limits import MAX_STREAMING_TRANSACTIONS
from afs.runtime.channel import afs_error_from_rpc
from afs.types import root_fid
from afs.v1 import vol_server_pb2 as pb
from tests.afsd.running import fileserver
from tests.volserverd.fake_fssync import ONLINE, fake_fileserver
from tests.volserverd.running import refused, volserver
from volserverd.vldb.names import FIRST_VOLUME_ID

pytestmark = pytest.mark.blocking_ok

DEMO = FIRST_VOLUME_ID


async def silent(opening: pb.RestoreOpen, *data: bytes) -> AsyncIterator[pb.RestoreRequest]:
    """A client that begins to restore and then says nothing more."""
    yield pb.RestoreRequest(open=opening)
    for piece in data:
        yield pb.RestoreRequest(data=piece)
    await asyncio.Event().wait()


def databases(root: Path) -> list[str]:
    """The names of all files of databases, temporary ones included."""
    return sorted(path.name for path in (root / "vicepa").glob("groups/*/*.db*"))


async def test_a_silent_client_is_given_up(tmp_path: Path) -> None:
    """A restore whose client says nothing for the idle time is ended; nothing of it is left."""
    async with (
        fake_fileserver(tmp_path) as fake,
        volserver(tmp_path, transaction_idle_s=0.2) as vos,
    ):
        await vos.create("demo")
        dump = await vos.dump("demo")
        before = databases(tmp_path)
        for name in ("new", "demo"):
            call = vos.stub.Restore(silent(pb.RestoreOpen(name=name, overwrite=True), dump[:100]))
            with refused(AfsCode.EAGAIN, "silent for 0.2 s"):
                await vos.call(lambda _, call=call, **__: call, None)
        assert await vos.transactions() == []
        assert databases(tmp_path) == before
        assert [entry.name for entry in await vos.entries()] == ["demo"]
        assert fake.state(DEMO) == ONLINE


async def test_a_restore_keeps_others_from_the_volume_but_not_its_clients(tmp_path: Path) -> None:
    """While a dump comes in the volume is served (it is not taken), and no operation gets it."""
    async with fileserver(tmp_path, volumes=()) as files, volserver(tmp_path) as vos:
        await vos.create("demo")
        client = await files.client()
        call = vos.stub.Restore(silent(pb.RestoreOpen(name="demo", overwrite=True)))
        async with asyncio.timeout(20):
            while not any(t.step.startswith("receiving") for t in await vos.transactions()):
                await asyncio.sleep(0.01)
        with refused(AfsCode.VBUSY, "restore"):
            await vos.backup("demo")
        await client.create("file", root_fid(DEMO))
        call.cancel()
        await vos.idle()
        await vos.backup("demo")
        assert await client.names(root_fid(DEMO)) == ["file"]


async def test_a_dump_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C in the middle of a dump: the temporary clone goes, and the volume was never kept."""
    async with fileserver(tmp_path, volumes=()) as files, volserver(tmp_path) as vos:
        await vos.create("demo")
        client = await files.client()
        large = await client.create("large", root_fid(DEMO))
        # More than what fits into the buffers between here and there.
        await client.store(large, *[bytes([number]) * 1_000_000 for number in range(40)])
        call = vos.stub.Dump(pb.DumpRequest(volume="demo"))
        assert (await call.read()).data
        (running, *_) = await vos.transactions()
        assert (running.operation, running.step) == ("dump", "sending the dump")
        # Meanwhile the volume is in service.
        await client.create("file", root_fid(DEMO))
        call.cancel()
        await vos.idle()
        assert [name for name in databases(tmp_path) if name.endswith(".db")] == [f"{DEMO}.db"]
        await vos.backup("demo")


async def test_a_reader_that_stops_reading_is_given_up(tmp_path: Path) -> None:
    """A dump that nobody takes for the idle time is ended; its clone goes, the volume is free."""
    async with (
        fileserver(tmp_path, volumes=()) as files,
        volserver(tmp_path, transaction_idle_s=0.5) as vos,
    ):
        await vos.create("demo")
        client = await files.client()
        large = await client.create("large", root_fid(DEMO))
        # More than what fits into the buffers between here and there.
        await client.store(large, *[bytes([number]) * 1_000_000 for number in range(40)])
        call = vos.stub.Dump(pb.DumpRequest(volume="demo"))
        assert (await call.read()).data
        await vos.idle()
        assert [name for name in databases(tmp_path) if name.endswith(".db")] == [f"{DEMO}.db"]
        with refused(AfsCode.EAGAIN, "dump ended: its client was silent for 0.5 s"):
            try:
                while (await call.read()) is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError as error:
                raise afs_error_from_rpc(error) from None
        await vos.backup("demo")


async def test_there_is_a_limit_to_streams(tmp_path: Path) -> None:
    """One dump or restore too many is refused, and finds room when another has ended."""
    async with fake_fileserver(tmp_path), volserver(tmp_path) as vos:
        await vos.create("demo")
        dump = await vos.dump("demo")
        calls = [
            vos.stub.Restore(silent(pb.RestoreOpen(name=f"r{number}")))
            for number in range(MAX_STREAMING_TRANSACTIONS)
        ]
        async with asyncio.timeout(20):
            while len(await vos.transactions()) < MAX_STREAMING_TRANSACTIONS:
                await asyncio.sleep(0.01)
        with refused(AfsCode.VLIMIT, "dumps, restores and transfers"):
            await vos.dump("demo")
        with refused(AfsCode.VLIMIT, "dumps, restores and transfers"):
            await vos.restore(dump, "more")
        await vos.backup("demo")
        for call in calls:
            call.cancel()
        await vos.idle()
        await vos.restore(dump, "more")


async def test_a_restore_that_ends_early_is_a_bad_dump(tmp_path: Path) -> None:
    """A client that stops in the middle of a dump gets EINVAL, also if it was many pieces."""
    async with fake_fileserver(tmp_path), volserver(tmp_path) as vos:
        await vos.create("demo")
        dump = await vos.dump("demo")
        pieces = [dump[at : at + 10] for at in range(0, len(dump), 10)]
        with refused(AfsCode.EINVAL, "dump"):
            await vos.restore(pieces[:-1], "copy")
        assert (await vos.restore(pieces, "copy")).volume.name == "copy"


async def test_a_client_in_the_middle_of_a_bad_dump_hears_what_is_wrong(tmp_path: Path) -> None:
    """A bad beginning is answered with EINVAL, however much the client goes on to send."""
    rubbish = [b"rubbish", *[b"more rubbish" * 1000] * 3000]
    async with fake_fileserver(tmp_path), volserver(tmp_path) as vos:
        with refused(AfsCode.EINVAL, "dump"):
            await vos.restore(rubbish, "copy")
        assert await vos.entries() == []
        with refused(AfsCode.ENAMETOOLONG, "volume name"):
            await vos.restore(rubbish, "x" * 30)
