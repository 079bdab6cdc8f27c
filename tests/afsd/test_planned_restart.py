"""Planned restarts over real sockets and on real disk: who is told that its promises are kept."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode
from afs.types import Fid
from afs.v1 import file_server_pb2 as pb
from afs.volume.partition import Partition
from afs.volume.volume import SetVolumeFields
from afs.wire import fid_to_wire
from afsd.app import FileServerDaemon
from afsd.callback_state import FILE, SET_ASIDE
from tests.afsd.running import (
    PATIENCE_S,
    ROOT,
    SECOND_VOLUME,
    VOLUME,
    Client,
    RunningFileServer,
    fileserver,
    refused,
)
from tests.afsd.test_app import config
from tests.conftest import LogEvents


@asynccontextmanager
async def life(root: Path, **settings: Any) -> AsyncIterator[RunningFileServer]:
    """One life of a fileserver, that stops before its clients hang up."""
    async with fileserver(root, **settings) as running:
        yield running
        await running.daemon.stop()


async def holder_of(running: RunningFileServer, *names: str) -> tuple[Client, list[Fid]]:
    """A client with promises on the root and on these files, and the files."""
    client = await running.client()
    files = [await client.create(name) for name in names]
    for file in (ROOT, *files):
        assert (await client.status(file)).HasField("callback")
    return client, files


async def test_holder_is_told_that_its_promises_are_kept(tmp_path: Path) -> None:
    """I9: not reset; what it keeps is broken by the next change; the file is gone meanwhile."""
    async with life(tmp_path) as running:
        first, (file, other) = await holder_of(running, "a", "b")
        await running.daemon.stop()
        assert (tmp_path / "run" / FILE).exists()
    async with life(tmp_path) as running:
        assert not (tmp_path / "run" / FILE).exists()
        again = await first.of_next_life(running.daemon.addresses[0]).attach()
        assert (again.kept, again.resets) == (1, 0)
        writer = await running.client()
        await writer.store(file, b"new")
        assert [told.targets for told in again.breaks] == [(tuple(file),)]
        await writer.store(other, b"new")
        assert len(again.breaks) == 2
        await again.close()


async def test_change_before_the_holder_is_back(tmp_path: Path) -> None:
    """I3: a second writer comes first; the holder is reset, and reads the new data."""
    async with life(tmp_path) as running:
        first, (file,) = await holder_of(running, "a")
    async with life(tmp_path) as running:
        writer = await running.client()
        async with asyncio.timeout(PATIENCE_S):
            await writer.store(file, b"new")
        again = await first.of_next_life(running.daemon.addresses[0]).attach()
        assert (again.kept, again.resets) == (0, 1)
        assert (await again.fetch(file))[1] == b"new"
        await again.close()


async def test_change_that_touches_somebody_else(tmp_path: Path) -> None:
    """A holder of other files is not concerned."""
    async with life(tmp_path) as running:
        first, _ = await holder_of(running, "a")
        file = await (await running.client()).create("b", directory=Fid(SECOND_VOLUME, 1, 1))
    async with life(tmp_path) as running:
        await (await running.client()).store(file, b"new")
        again = await first.of_next_life(running.daemon.addresses[0]).attach()
        assert (again.kept, again.resets) == (1, 0)
        await again.close()


async def test_nobody_is_answered_before_it_was_told(tmp_path: Path) -> None:
    """I9: without a channel a known host's calls fail, whatever it may hold."""
    async with life(tmp_path) as running:
        first, (file,) = await holder_of(running, "a")
    async with life(tmp_path, break_deadline_s=0.2) as running:
        again = first.of_next_life(running.daemon.addresses[0])
        async with refused(AfsCode.RX_CALL_DEAD):
            await again.status(file)
        await again.attach()
        assert again.kept == 1
        assert (await again.status(file)).HasField("callback")
        await again.close()


async def test_client_that_holds_nothing_any_more_is_reset(tmp_path: Path) -> None:
    """A client that was started anew names no session."""
    async with life(tmp_path) as running:
        first, _ = await holder_of(running, "a")
    async with life(tmp_path) as running:
        again = first.of_next_life(running.daemon.addresses[0])
        again.session = None
        await again.attach()
        assert (again.kept, again.resets) == (0, 1)
        await again.close()


async def test_volume_that_changed_while_the_fileserver_was_away(tmp_path: Path) -> None:
    """Its holders are reset; those of the other volume keep what they hold (M5b)."""
    async with life(tmp_path) as running:
        first, _ = await holder_of(running, "a")
        second = await running.client()
        await second.status(Fid(SECOND_VOLUME, 1, 1))

    def change() -> None:
        partition = Partition.open(tmp_path / "vicepa", holder="test")
        volume = partition.open_volume(VOLUME)
        volume.apply([SetVolumeFields(offline_message="changed")])
        volume.close()
        partition.close()

    await asyncio.to_thread(change)
    async with life(tmp_path) as running:
        for client, kept in ((first, 0), (second, 1)):
            again = await client.of_next_life(running.daemon.addresses[0]).attach()
            assert (again.kept, again.resets) == (kept, 1 - kept)
            await again.close()


async def test_volume_that_is_taken_over_the_restart(tmp_path: Path) -> None:
    """A volume that the volserver has is nowhere as it was: its holders are reset."""
    async with life(tmp_path) as running:
        first, _ = await holder_of(running, "a")
        await running.fssync("NEEDVOLUME")
    async with life(tmp_path) as running:
        again = await first.of_next_life(running.daemon.addresses[0]).attach()
        assert (again.kept, again.resets) == (0, 1)
        await again.close()


async def test_host_that_is_owed_a_break_is_reset(tmp_path: Path) -> None:
    """I4: it has not acknowledged what it was told before the stop."""
    async with life(tmp_path, break_deadline_s=30.0) as running:
        first, (file,) = await holder_of(running, "a")
        first.acks = False
        await running.fssync("VOL_BREAKCBKS")
        await first.broken((VOLUME, 0, 0))
    async with life(tmp_path) as running:
        again = await first.of_next_life(running.daemon.addresses[0]).attach()
        assert (again.kept, again.resets) == (0, 1)
        assert (await again.status(file)).HasField("callback")
        await again.close()


async def test_file_that_somebody_brought_back(tmp_path: Path, log_events: LogEvents) -> None:
    """The state of an earlier life is set aside: promises were broken since."""
    async with life(tmp_path) as running:
        first, (file,) = await holder_of(running, "a")
    old = (tmp_path / "run" / FILE).read_bytes()
    async with life(tmp_path):
        pass
    (tmp_path / "run" / FILE).write_bytes(old)
    async with life(tmp_path) as running:
        (event,) = log_events.named("callback_state.set_aside")
        assert "epoch" in event["reason"]
        assert (tmp_path / "run" / SET_ASIDE).exists()
        again = await first.of_next_life(running.daemon.addresses[0]).attach()
        assert (again.kept, again.resets) == (0, 1)
        assert (await again.status(file)).HasField("callback")
        await again.close()


async def test_start_that_fails_loses_nothing(tmp_path: Path) -> None:
    """A port that is taken: what the last life left is left to the next one."""
    async with life(tmp_path) as running:
        first, _ = await holder_of(running, "a")
    async with life(tmp_path / "other") as other:
        with pytest.raises(Exception, match="listen"):
            await FileServerDaemon.start(config(tmp_path, listen=other.daemon.addresses))
    async with life(tmp_path) as running:
        again = await first.of_next_life(running.daemon.addresses[0]).attach()
        assert (again.kept, again.resets) == (1, 0)
        await again.close()


async def test_state_that_cannot_be_written(tmp_path: Path, log_events: LogEvents) -> None:
    """The stop goes on, with an event; everybody is reset."""
    async with life(tmp_path) as running:
        first, _ = await holder_of(running, "a")
        (tmp_path / "run" / FILE).mkdir()
        (tmp_path / "run" / FILE / "something").touch()
    (event,) = log_events.named("callback_state.not_written")
    assert event["reason"]
    os.unlink(tmp_path / "run" / FILE / "something")
    async with life(tmp_path) as running:
        again = await first.of_next_life(running.daemon.addresses[0]).attach()
        assert (again.kept, again.resets) == (0, 1)
        await again.close()


async def test_answers_under_way_leave_while_the_fileserver_stops(tmp_path: Path) -> None:
    """A write that was begun before the stop is answered, though its writer's channel is gone."""
    async with life(tmp_path) as running:
        first, (file,) = await holder_of(running, "a")
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def requests() -> AsyncIterator[pb.StoreDataRequest]:
            yield pb.StoreDataRequest(open=pb.StoreDataOpen(fid=fid_to_wire(file)))
            begun.set()
            await go_on.wait()
            yield pb.StoreDataRequest(data=b"new")

        writing = asyncio.create_task(first.call(first.files.StoreData, requests()))
        await begun.wait()
        # The fileserver is in the middle of it.
        await first.status(ROOT)
        stopping = asyncio.create_task(running.daemon.stop())
        await first.until_closed()
        go_on.set()
        assert (await writing).status.length == 3
        await stopping
    async with life(tmp_path) as running:
        again = await first.of_next_life(running.daemon.addresses[0]).attach()
        assert again.kept == 1
        assert (await again.fetch(file))[1] == b"new"
        await again.close()
