"""A client frozen, killed, cut off or moved under load: it is never wrong, and keeps nobody up."""

from __future__ import annotations

import time

import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.stage import BREAK_DEADLINE_S, DURING_S, LEASE_S, stage
from tests.cluster.timeline import Trace

pytestmark = pytest.mark.blocking_ok

OTHERS = ("client-1", "client-2")


async def test_client_paused_during_a_give_back(cluster: Cluster, trace: Trace) -> None:
    """A frozen client delays no ack; when it goes on, its first answers are right."""
    async with stage(cluster, trace) as on:
        await on.do(cluster.pause, "client-3")
        took = [await on.give_back() for _ in range(3)]
        await on.more(5, OTHERS)
        await on.do(cluster.unpause, "client-3")
        await on.more(1, ["client-3"])
    await on.judge(bystanders=OTHERS)
    assert max(took) < BREAK_DEADLINE_S, took


async def test_client_paused_during_a_move(cluster: Cluster, trace: Trace) -> None:
    """A volume moves away and back while one that holds promises on it is frozen."""
    async with stage(cluster, trace) as on:
        await on.do(cluster.pause, "client-3")
        away = await on.move("1", "2")
        await on.more(5, OTHERS)
        await on.do(cluster.unpause, "client-3")
        await on.more(1, ["client-3"])
        await on.do(cluster.pause, "client-3")
        back = await on.move("2", "1")
        await on.do(cluster.unpause, "client-3")
        await on.more(1, ["client-3"])
    await on.judge(bystanders=OTHERS)
    assert max(away, back) < BREAK_DEADLINE_S, "a frozen client held the volume out of service"


async def test_client_paused_during_a_release(cluster: Cluster, trace: Trace) -> None:
    """A release waits for a frozen client only if asked to, and no longer than its lease."""
    async with stage(cluster, trace) as on:
        await on.add_sites()
        await on.release()
        held = len(on.history.reads)
        await on.until(
            lambda: any(
                read.client == "client-3" and read.path in on.workload.released
                for read in on.history.reads[held:]
            ),
            "client-3 reads what was released",
        )
        await on.do(cluster.pause, "client-3")
        began = time.monotonic()
        await on.release()
        assert time.monotonic() - began < LEASE_S, "a frozen client held the release up"
        answers = await on.release(wait=True)
        named = {client.address for answer in answers for client in answer.not_told}
        assert any(cluster.ip("client-3") in address for address in named), named
        assert not answers[-1].not_told
        await on.do(cluster.unpause, "client-3")
        await on.more(1, ["client-3"])
    await on.judge()


async def test_client_killed_and_started_again(cluster: Cluster, trace: Trace) -> None:
    """Its cache is on disk, its promises are not: what it answers then is revalidated."""
    async with stage(cluster, trace) as on:
        await on.do(cluster.kill, "client-3")
        await on.more(5, OTHERS)
        await on.do(cluster.restart, "client-3")
        await on.more(1, ["client-3"])
    await on.judge(bystanders=OTHERS)


@pytest.mark.parametrize("direction", ["from the client", "to the client"])
async def test_client_cut_off_in_one_direction(
    cluster: Cluster, trace: Trace, direction: str
) -> None:
    """Half a connection is none: within its lease the client stops to trust its promises (I8)."""
    source, target = ("client-3", "afsd-1") if "from" in direction else ("afsd-1", "client-3")
    async with stage(cluster, trace) as on:
        await on.do(cluster.cut, source, target)
        await on.go_on(LEASE_S + BREAK_DEADLINE_S)
        took = await on.give_back()
        await on.do(cluster.mend, source)
        await on.more(1, ["client-3"])
    await on.judge(bystanders=OTHERS)
    assert took < BREAK_DEADLINE_S, "a client that is cut off delayed an ack"


async def test_loss_of_thirty_percent(cluster: Cluster, trace: Trace) -> None:
    """With 30 % of its packets lost a client is slow, and not wrong."""
    async with stage(cluster, trace) as on:
        await on.do(cluster.lose, "client-3", 0.3)
        took = []
        for _ in range(3):
            await on.go_on(DURING_S)
            took.append(await on.give_back())
        await on.do(cluster.mend, "client-3")
        await on.more(1, ["client-3"])
    await on.judge(bystanders=OTHERS)
    assert max(took) < BREAK_DEADLINE_S, took


async def test_client_changes_its_address(cluster: Cluster, trace: Trace) -> None:
    """A host is its UUID: it attaches from its new address, and is told of breaks there."""
    async with stage(cluster, trace) as on:
        await on.do(cluster.change_address, "client-3")
        await on.client_moved("client-3")
        took = await on.give_back()
        await on.more(3, on.clients)
    await on.judge(bystanders=OTHERS)
    assert took < BREAK_DEADLINE_S
