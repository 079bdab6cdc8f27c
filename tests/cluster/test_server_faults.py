"""Servers killed, restarted and filled under load: what was acknowledged is there."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import CLIENTS, DAEMONS, Cluster
from tests.cluster.stage import BREAK_DEADLINE_S, DURING_S, stage, until_connected
from tests.cluster.timeline import Trace

pytestmark = pytest.mark.blocking_ok


async def test_fileserver_killed_while_it_owes_breaks(cluster: Cluster, trace: Trace) -> None:
    """Between mark and delivery: nobody is answered before the break, or a reset (I9)."""
    async with stage(cluster, trace) as on:
        await on.do(cluster.pause, *CLIENTS)
        took = await on.give_back()
        await on.do(cluster.kill, "afsd-1")
        await on.do(cluster.unpause, *CLIENTS)
        await on.do(cluster.restart, "afsd-1")
        await on.more(2, CLIENTS)
    await on.judge()
    assert took < BREAK_DEADLINE_S, "frozen clients delayed the ack"


async def test_rolling_restart_under_load(cluster: Cluster, trace: Trace) -> None:
    """Every daemon is stopped and started, one after the other, and nothing is lost."""
    async with stage(cluster, trace) as on:
        for daemon in DAEMONS:
            await on.do(cluster.stop, daemon)
            await on.do(cluster.restart, daemon)
            await on.more(1, CLIENTS)
        took = await on.give_back()
    await on.judge()
    assert took < BREAK_DEADLINE_S


async def test_location_service_down_for_a_while(cluster: Cluster, trace: Trace) -> None:
    """Who knows where a volume is goes on; the rest wait."""
    async with stage(cluster, trace) as on:
        await on.do(cluster.kill, "location")
        await on.more(10, CLIENTS)
        await on.do(cluster.restart, "location")
        await until_connected(on.vol_servers["1"])
        took = await on.give_back()
        await on.move("1", "2")
        await on.more(2, CLIENTS)
    await on.judge(bystanders=CLIENTS)
    assert took < BREAK_DEADLINE_S


async def test_everything_killed_at_once(cluster: Cluster, trace: Trace) -> None:
    """A power cut: what was acknowledged is on disk."""
    async with stage(cluster, trace) as on:
        await on.do(cluster.kill, *DAEMONS)
        await on.do(cluster.restart, *DAEMONS)
        await on.more(2, CLIENTS)
        took = await on.give_back()
    await on.judge()
    assert took < BREAK_DEADLINE_S


async def test_disk_full_on_a_partition(cluster: Cluster, trace: Trace) -> None:
    """ENOSPC is an answer: reads go on, and so do writes when there is room again."""
    async with stage(cluster, trace, partition="vicepc", server="2") as on:
        filler = "/small/vicepc/groups/filler"
        fill = f"head -c 100m /dev/zero >{filler} 2>/dev/null; :"
        await on.do(cluster.project.execute, "afsd-2", "sh", "-c", fill)
        cluster.notes.add("vicepc is full")
        await on.until(lambda: on.history.told_of("RESOURCE_EXHAUSTED"), "a write is refused")
        reads = len(on.history.reads)
        await on.until(lambda: len(on.history.reads) > reads + 10, "reads go on")
        await on.do(cluster.project.execute, "afsd-2", "rm", filler)
        cluster.notes.add("vicepc has room")
        await on.more(3, CLIENTS)
    await on.judge()


async def test_give_backs_while_all_clients_are_frozen(cluster: Cluster, trace: Trace) -> None:
    """However many do not answer, the volserver waits for none of them."""
    async with stage(cluster, trace) as on:
        await on.do(cluster.pause, *CLIENTS)
        took = [await on.give_back() for _ in range(3)]
        await on.do(cluster.unpause, *CLIENTS)
        await on.more(2, CLIENTS)
        await on.go_on(DURING_S)
    await on.judge()
    assert max(took) < BREAK_DEADLINE_S, took
