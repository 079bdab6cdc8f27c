"""What ends promises, and what becomes of replies that were under way when it came."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.types import BreakReason, root_fid, whole_volume_fid
from clientd.core.stall import TURN_S
from tests.clientd.fake_fileserver import VOLUME, FakeFileServer
from tests.clientd.local_program import CACHE, REVALIDATED, LocalProgram, running_client
from tests.fakes import FakeClock


async def test_volume_break_makes_every_file_of_it_fresh(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """One message for volume.0.0 ends the promises on all its files and directories (T23)."""
    fids = [server.add(f"f{number}", b"old") for number in range(20)]
    for number in range(20):
        await program.read(f"/home/f{number}")
    await program.until_leased()
    assert (await program.status()).promises == 21
    for fid in fids:
        server.change(fid, b"new")
    await server.break_and_wait([whole_volume_fid(VOLUME)], BreakReason.VOLUME_GIVEN_BACK)
    assert (await program.status()).promises == 0
    for number in range(20):
        assert (await program.read(f"/home/f{number}")).data == b"new"


async def test_break_that_arrives_during_a_fetch_wins(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A status fetched before the change and delivered after the break is not trusted (R10)."""
    fid = server.add("f", b"old")
    await program.list("/home")
    await program.until_leased()
    gate = server.hold("FetchStatus")
    asked_before = asyncio.create_task(program.stat("/home/f"))
    await gate.reached.wait()
    server.change(fid, b"newer")
    await server.break_and_wait([fid])
    latecomer = asyncio.create_task(program.stat("/home/f"))
    joined = program.client.services.statuses
    await program.until(lambda: joined.waiting(fid) == 2)
    server.let_go("FetchStatus")
    assert (await asked_before).status.length == 3, "it asked before the change was made known"
    assert (await latecomer).status.length == 5, "it asked after the break was acknowledged"
    assert (await program.read("/home/f")).data == b"newer"
    assert (await program.counters())["replies_overtaken_by_breaks"] == 1


async def test_promise_given_after_the_break_survives_it(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A break ends what was given up to `through`, not what was given since."""
    fid = server.add("f", b"one")
    await program.read("/home/f")
    await program.until_leased()
    given_before = server.sequence
    server.sequence += 1
    await server.break_and_wait([fid])
    await program.read("/home/f")
    server.change(fid, b"two")
    sequence = server.send_break([fid], through=given_before)
    await server.until_acked(sequence)
    assert (await program.read("/home/f")).source == CACHE


async def test_breaks_are_acknowledged_while_fetches_are_stuck(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A fetch that hangs keeps no break from being handled."""
    fid = server.add("f", b"x")
    other = server.add("g", b"y")
    await program.read("/home/g")
    await program.until_leased()
    gate = server.hold("FetchStatus")
    stuck = [asyncio.create_task(program.stat("/home/f")) for _ in range(10)]
    await gate.reached.wait()
    await server.break_and_wait([other, fid])
    assert (await program.counters())["breaks_received"] == 1
    server.let_go("FetchStatus")
    await asyncio.gather(*stuck)


async def test_reset_voids_every_promise(server: FakeFileServer, program: LocalProgram) -> None:
    """After the channel was lost and attached anew, what is cached is asked about again."""
    fid = server.add("f", b"old")
    await program.read("/home/f")
    await program.until_leased()
    server.close_channels()
    await program.until(lambda: server.calls["Attach"] == 2)
    server.change(fid, b"new")
    assert (await program.read("/home/f")).data == b"new"
    await program.until_leased()
    counters = await program.counters()
    assert (counters["resets_received"], counters["channels_lost"]) == (2, 1)


async def test_restarted_fileserver_is_noticed(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """Promises of another incarnation are void; data of the same DataVersion is kept (I9)."""
    fid = server.add("f", b"old")
    server.add("g", b"same")
    await program.read("/home/f")
    await program.read("/home/g")
    server.change(fid, b"new")
    await server.restart()
    assert (await program.read("/home/f")).data == b"new"
    assert (await program.read("/home/g")).source == REVALIDATED


async def test_no_promise_is_trusted_after_the_lease(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A fileserver that renews no lease is asked about everything (I8)."""
    server.lease_s = 0.3
    fid = server.add("f", b"old")
    await program.read("/home/f")
    await program.until_leased()
    assert (await program.read("/home/f")).source == CACHE
    server.answers_renewals = False
    await program.until(lambda: program.client.services.servers.statuses()[0].channel != "attached")
    # The break of this change is never heard.
    server.change(fid, b"new")
    assert (await program.read("/home/f")).data == b"new"
    # A channel that stays silent is left for another one.
    await program.until(lambda: server.calls["Attach"] >= 2)


async def test_expired_promise_is_asked_about(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """A promise is relied on for as long as it was given for, counted from the request."""
    server.lifetime_s = 1
    fid = server.add("f", b"old")
    await program.read("/home/f")
    server.change(fid, b"new")
    await program.until(lambda: program.client.services.servers.trusted(fid) is None)
    assert (await program.read("/home/f")).data == b"new"


async def test_stall_ends_trust_until_the_lease_is_renewed(
    server: FakeFileServer, tmp_path: Path
) -> None:
    """A process that stood still asks before it answers, however far the lease reaches (I8)."""
    clock = FakeClock()
    async with running_client(tmp_path, server.address, clock) as program:
        fid = server.add("f", b"old")
        await program.read("/home/f")
        await program.until_leased()
        assert (await program.read("/home/f")).source == CACHE
        server.answers_renewals = False
        server.change(fid, b"new")
        clock.advance(1.0)
        assert (await program.read("/home/f")).data == b"new"
        assert (await program.counters())["stalls"] == 1
        server.answers_renewals = True
        clock.advance(0.4)
        await asyncio.sleep(TURN_S)


async def test_held_down_host_attaches_anew_and_is_answered(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """RX_CALL_DEAD means the fileserver holds us to be down: a new channel, then the same call."""
    server.add("f", b"x")
    await program.list("/home")
    attached = server.calls["Attach"]
    server.fails["FetchData"] = [AfsError(AfsCode.RX_CALL_DEAD, "this host is down")]
    assert (await program.read("/home/f")).data == b"x"
    assert server.calls["Attach"] == attached + 1


async def test_busy_volume_is_asked_again(server: FakeFileServer, program: LocalProgram) -> None:
    """VBUSY and VOFFLINE pass."""
    server.add("f", b"x")
    busy = [AfsError(AfsCode.VBUSY, "restored"), AfsError(AfsCode.VOFFLINE, "taken out")]
    server.fails["FetchStatus"] = busy
    server.fails["FetchData"] = busy[:1]
    assert (await program.read("/home/f")).data == b"x"
    assert (await program.counters())["retries"] == 3


@pytest.mark.parametrize("code", [AfsCode.VNOVOL, AfsCode.VMOVED])
async def test_moved_volume_is_looked_up_again(
    server: FakeFileServer, program: LocalProgram, code: AfsCode
) -> None:
    """A volume that is not where it was is located anew."""
    server.add("f", b"x")
    await program.read("/home/f")
    await program.until_leased()
    looked_up = server.calls["GetEntry"]
    await server.break_and_wait([root_fid(VOLUME)])
    server.fails["FetchStatus"] = [AfsError(code, "gone")]
    assert (await program.read("/home/f")).data == b"x"
    assert server.calls["GetEntry"] == looked_up + 1


async def test_break_of_a_moved_volume_forgets_its_place(
    server: FakeFileServer, program: LocalProgram
) -> None:
    """The reason VOLUME_MOVED makes the client look the volume up before it asks anybody."""
    server.add("f", b"x")
    await program.read("/home/f")
    looked_up = server.calls["GetEntry"]
    await server.break_and_wait([whole_volume_fid(VOLUME)], BreakReason.VOLUME_MOVED)
    await program.read("/home/f")
    assert server.calls["GetEntry"] == looked_up + 1
