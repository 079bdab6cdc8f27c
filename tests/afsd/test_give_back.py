"""The story of 2002 over real sockets: give-back, break, CallPreamble, reset, under each policy."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from afs.errors import ABORT_CODE_TRAILER, AfsCode
from afs.types import BreakReason, root_fid, whole_volume_fid
from afs.v1 import file_server_debug_pb2, file_server_debug_pb2_grpc
from afs.v1 import file_server_pb2 as pb
from afs.wire import fid_to_wire
from afsd import break_worker
from afsd.host_journal import HostJournal
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


def debug(client: Client) -> Any:
    """The debug service, through a client's connection."""
    return file_server_debug_pb2_grpc.FileServerDebugStub(client.channel)


async def flags_of(client: Client) -> set[str]:
    """The flags that DumpHosts shows for a client's host."""
    answer = await debug(client).DumpHosts(file_server_debug_pb2.DumpHostsRequest())
    (host,) = [host for host in answer.hosts if host.uuid == client.uuid]
    return set(host.flags)


async def counters(client: Client) -> dict[str, int]:
    """GetCounters."""
    answer = await debug(client).GetCounters(file_server_debug_pb2.GetCountersRequest())
    return dict(answer.counters)


async def hung_client(server: RunningFileServer) -> Client:
    """A client that holds a promise on the root and acknowledges no break."""
    client = await server.client()
    assert (await client.status(ROOT)).HasField("callback")
    client.acks = False
    return client


async def test_break_request_reaches_every_holder_once(tmp_path: Path) -> None:
    """M5, T26: BREAKCBKS is told as `volume.0.0`, once to each holder; counted on both sides."""
    async with fileserver(tmp_path) as server:
        holders = [await server.client() for _ in range(3)]
        bystander = await server.client()
        for holder in holders:
            await holder.status(ROOT)
        answer = await server.fssync("VOL_BREAKCBKS")
        assert answer.callbacks_marked == 3
        for holder in holders:
            told = await holder.broken(whole_volume_fid(VOLUME))
            assert told.reason == BreakReason.VOLUME_BREAK_REQUESTED
            await holder.status(ROOT)
        assert [len(holder.breaks) for holder in holders] == [1, 1, 1]
        assert not bystander.breaks
        counted = await counters(bystander)
        assert counted["breaks_sent"] == counted["breaks_acked"] == 3
        assert counted.get("worker_ticks_that_found_work", 0) == 0, "I5"


async def test_ack_waits_for_no_client_and_live_ones_hear_at_once(tmp_path: Path) -> None:
    """I2, I7: a hung holder delays neither the ack, nor the next operation, nor a live client."""
    async with fileserver(tmp_path, break_deadline_s=PATIENCE_S) as server:
        hung = await hung_client(server)
        live = await server.client()
        await live.status(ROOT)
        await live.status(root_fid(SECOND_VOLUME))
        # All of this is over long before the deadline of the hung client, or the test times out.
        async with asyncio.timeout(PATIENCE_S / 2):
            await server.fssync("VOL_BREAKCBKS")
            await live.broken(whole_volume_fid(VOLUME))
            await server.fssync("VOL_BREAKCBKS", SECOND_VOLUME)
            await live.broken(whole_volume_fid(SECOND_VOLUME))
            await live.status(ROOT)
        assert await flags_of(hung) == {"HFE_LATER", "RESETDONE"}


async def test_hung_host_is_not_answered_before_it_has_acknowledged(tmp_path: Path) -> None:
    """M7, I3, R3: its call waits for the break in flight, and goes on with the ack."""
    async with fileserver(tmp_path, break_deadline_s=PATIENCE_S) as server:
        hung = await hung_client(server)
        await server.fssync("VOL_BREAKCBKS")
        told = await hung.broken(whole_volume_fid(VOLUME))
        call = asyncio.ensure_future(hung.status(ROOT))
        other = await server.client()
        await other.status(ROOT)
        while (await counters(other)).get("calls_delayed", 0) == 0:
            await asyncio.sleep(0)
        assert not call.done()
        await hung.ack(told.sequence)
        assert (await call).HasField("callback")
        assert await flags_of(hung) == {"RESETDONE"}


async def test_silent_host_goes_down_and_is_reset_when_heard_from(tmp_path: Path) -> None:
    """M6, M7: its call fails with UNAVAILABLE, it is VENUSDOWN; the reset brings it back."""
    async with fileserver(tmp_path, break_deadline_s=0.2) as server:
        hung = await hung_client(server)
        await server.fssync("VOL_BREAKCBKS")
        async with refused(AfsCode.RX_CALL_DEAD):
            await hung.status(ROOT)
        assert "VENUSDOWN" in await flags_of(hung)
        assert (await hung.status(ROOT)).HasField("callback"), "answered after the reset"
        assert hung.resets == 2
        assert await flags_of(hung) == {"RESETDONE"}


async def test_writer_waits_one_deadline_then_not_at_all(tmp_path: Path) -> None:
    """I7: the first writer marks the silent holder down; the second does not meet it any more."""
    async with fileserver(tmp_path, break_deadline_s=0.2) as server:
        hung = await hung_client(server)
        writer = await server.client()
        await writer.create("one")
        assert await flags_of(hung) == {"VENUSDOWN"}
        before = (await counters(writer))["breaks_sent"]
        await writer.create("two")
        assert (await counters(writer))["breaks_sent"] == before


async def test_holders_are_told_as_soon_as_the_ack_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M3: the worker goes by the ack itself; how long it would wait for one plays no part."""
    monkeypatch.setattr(break_worker, "ACK_HEAD_START_S", 3600.0)
    async with fileserver(tmp_path) as server:
        holder = await server.client()
        await holder.status(ROOT)
        await server.fssync("VOL_BREAKCBKS")
        await holder.broken(whole_volume_fid(VOLUME))


async def test_answer_that_is_held_back_does_not_look_like_a_refusal(tmp_path: Path) -> None:
    """I3: a change is done, then its host is owed a break it does not acknowledge: no abort code.

    A client takes an abort code for "surely not done". Found by the simulator (SEED=5257).
    """
    async with fileserver(tmp_path, break_deadline_s=0.5) as server:
        hung = await hung_client(server)
        writer = await server.client()
        await writer.status(root_fid(SECOND_VOLUME))
        writer.acks = False
        request = pb.CreateFileRequest(directory=fid_to_wire(ROOT), name="made")
        call = asyncio.ensure_future(writer.files.CreateFile(request, metadata=writer.metadata))
        # The file is made, and its writer waits for the hung holder of the directory.
        await hung.until(lambda: hung.breaks)
        await server.fssync("VOL_BREAKCBKS", SECOND_VOLUME)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        trailers = [key for key, _ in caught.value.trailing_metadata() or ()]
        assert ABORT_CODE_TRAILER not in trailers
        other = await server.client()
        assert await other.names() == ["made"]


async def test_give_back_of_an_unchanged_volume_breaks_nothing(tmp_path: Path) -> None:
    """M5b: the change counter proves that nothing happened while the volume was out."""
    async with fileserver(tmp_path) as server:
        holder = await server.client()
        await holder.status(ROOT)
        await server.fssync("NEEDVOLUME")
        answer = await server.fssync("VOL_ON")
        assert answer.callbacks_marked == 0
        await holder.status(ROOT)
        assert not holder.breaks


@pytest.mark.parametrize("policy", ["sync", "ack-first", "hot-thread", "later"])
async def test_policies_differ_in_who_waits(tmp_path: Path, policy: str) -> None:
    """Mechanism §2: `sync` holds its caller, `ack-first` the next one, the others neither."""
    async with fileserver(tmp_path, break_policy=policy, break_deadline_s=1.0) as server:
        hung = await hung_client(server)
        first = asyncio.ensure_future(server.fssync("VOL_BREAKCBKS"))
        await hung.broken(whole_volume_fid(VOLUME))
        if policy != "sync":
            await first
        second = asyncio.ensure_future(server.fssync("VOL_BREAKCBKS", SECOND_VOLUME))
        seen = held = first.done(), second.done()
        while "VENUSDOWN" not in await flags_of(hung):
            # Of a moment before the answer: the host was not down yet.
            held = seen
            seen = first.done(), second.done()
        await first
        await second
        expected = {"sync": (False, False), "ack-first": (True, False)}
        assert held == expected.get(policy, (True, True))


async def test_hot_thread_pool_is_used_up(tmp_path: Path) -> None:
    """Mechanism §2: enough give-backs with a dead client among the holders stall the next call."""
    async with fileserver(tmp_path, break_policy="hot-thread", break_deadline_s=1.0) as server:
        hung = await server.client()
        hung.acks = False
        for volume in (VOLUME, SECOND_VOLUME):
            await hung.status(root_fid(volume))
        for _ in range(2):
            await server.fssync("VOL_BREAKCBKS")
            await server.fssync("VOL_BREAKCBKS", SECOND_VOLUME)
        # Two of them had holders to wait for: two of four listeners are busy, so this one is not.
        await server.fssync("VOL_BREAKCBKS")
        assert "VENUSDOWN" not in await flags_of(hung)


async def test_restarted_fileserver_answers_no_host_before_its_reset(tmp_path: Path) -> None:
    """I9: a host of an earlier life is refused until it attaches, then it is reset first."""
    async with fileserver(tmp_path) as server:
        client = await server.client()
        await client.status(ROOT)
        uuid = client.uuid
    async with fileserver(tmp_path, break_deadline_s=0.2) as server:
        old = await server.client(anonymous=True)
        old.uuid, old.metadata = uuid, (("afs-host-uuid", uuid),)
        async with refused(AfsCode.RX_CALL_DEAD):
            await old.status(ROOT)
        await old.attach()
        assert old.resets == 1
        assert (await old.status(ROOT)).HasField("callback")


async def test_tables_and_events_show_the_mechanism(tmp_path: Path) -> None:
    """DumpCallBacks filters; Watch tells of promise, mark, wake-up, break and ack in order."""
    async with fileserver(tmp_path) as server:
        holder = await server.client()
        other = await server.client()
        watch = debug(other).Watch(file_server_debug_pb2.WatchRequest())
        await watch.initial_metadata()
        await holder.status(ROOT)
        await holder.status(root_fid(SECOND_VOLUME))
        await other.status(ROOT)
        request = file_server_debug_pb2.DumpCallBacksRequest(host_uuid=holder.uuid)
        request.fid.volume = VOLUME
        answers = await holder.stream(debug(holder).DumpCallBacks, request)
        (shown,) = [callback for answer in answers for callback in answer.callbacks]
        assert (shown.fid.volume, shown.fid.vnode) == (VOLUME, 1)
        assert shown.expires_in_s > 0
        assert list(shown.flags) == ["RESETDONE"]
        await server.fssync("VOL_BREAKCBKS", SECOND_VOLUME)
        events: list[str] = []
        async with asyncio.timeout(PATIENCE_S):
            async for message in watch:
                events.append(message.event)
                if message.event == "break.acked":
                    break
        watch.cancel()
        wanted = ["promise.given", "volume.marked", "worker.woken", "break.sent", "break.acked"]
        assert [event for event in wanted if event in events] == wanted
        assert sorted(wanted, key=events.index) == wanted
        request.host_uuid = "nobody"
        async with refused(AfsCode.EINVAL):
            await holder.stream(debug(holder).DumpCallBacks, request)


async def test_attach_without_uuid_or_hello(tmp_path: Path) -> None:
    """A channel needs a host UUID and begins with hello; anything else is one clear error."""
    async with fileserver(tmp_path) as server:
        client = await server.client(anonymous=True)
        client.metadata = (("afs-host-uuid", "not-a-uuid"),)
        async with refused(AfsCode.EINVAL):
            await client.status(ROOT)


def test_damaged_host_journal_is_set_aside(tmp_path: Path) -> None:
    """I9: a journal that cannot be read is kept, and anybody may hold promises."""
    path = tmp_path / "hosts.sqlite3"
    path.write_bytes(b"this is no database" * 100)
    journal = HostJournal(path)
    assert journal.was_damaged
    assert not journal.known
    journal.close()
    assert path.with_suffix(".damaged").exists()


async def test_host_journal_remembers_and_forgets(tmp_path: Path) -> None:
    """I9: what was remembered is on disk when `remember` returns."""
    path = tmp_path / "hosts.sqlite3"
    journal = await asyncio.to_thread(HostJournal, path)
    await journal.remember("a")
    await journal.remember("b")
    await journal.remember("b")
    rows = await asyncio.to_thread(
        lambda: sqlite3.connect(path).execute("SELECT uuid FROM host ORDER BY 1").fetchall()
    )
    assert rows == [("a",), ("b",)]
    journal.forget("a")
    journal.forget("a")
    await asyncio.to_thread(journal.close)
    again = await asyncio.to_thread(HostJournal, path)
    assert again.known == {"b"}
    await asyncio.to_thread(again.close)
