"""The callback channel's state: generations, lease, stalls, when it is left."""

from __future__ import annotations

import math

import pytest

from clientd.core.channel import (
    ATTACH_DEADLINE_S,
    MIN_PATIENCE_S,
    MIN_RENEWAL_INTERVAL_S,
    ChannelPhase,
    ChannelState,
    Reattach,
    ReattachReason,
    SendAck,
    SendRenewLease,
)


def attached(now: float = 100.0, lease_s: float = 9.0) -> ChannelState:
    """A channel whose first renewal, number 1, is under way."""
    channel = ChannelState()
    channel.on_opened(now)
    assert channel.on_init(11, 5, lease_s, now) == [SendAck(11), SendRenewLease(1)]
    return channel


def test_detached_channel_does_nothing() -> None:
    """Before anything was opened there is nothing to trust, to wait for or to send."""
    channel = ChannelState()
    assert channel.deadline() is None
    assert channel.describe(0) == "detached"
    assert channel.lease_remaining_s(0) == 0.0
    assert channel.on_tick(1e9) == []
    assert channel.on_init(1, 1, 1.0, 0) == []
    assert channel.on_break(1) == []
    assert channel.on_probe(1, 0, 0) == []
    assert channel.on_stall(0) == []
    assert channel.on_epoch_seen(3) == []
    assert channel.on_held_down() == []
    generation = channel.generation
    channel.on_closed()
    assert channel.generation == generation


def test_lease_runs_from_when_its_renewal_was_sent() -> None:
    """The answer's time of arrival does not count (I8)."""
    channel = attached(100.0, lease_s=9.0)
    assert channel.describe(100.0) == "suspect"
    assert channel.on_probe(0, 1, 104.0) == []
    assert channel.describe(104.0) == "attached"
    assert channel.lease_remaining_s(104.0) == 5.0
    assert channel.trusts(108.9)
    assert not channel.trusts(109.0)


def test_renewals_go_out_every_third_of_a_lease() -> None:
    """One that is lost costs nothing; an answer to a later one counts for those before."""
    channel = attached(100.0, lease_s=9.0)
    assert channel.deadline() == 103.0
    assert channel.on_tick(102.9) == []
    assert channel.on_tick(103.0) == [SendRenewLease(2)]
    assert channel.on_tick(106.0) == [SendRenewLease(3)]
    channel.on_probe(0, 3, 106.5)
    assert channel.lease_remaining_s(106.5) == 8.5
    # The answer to the second comes late, and takes nothing back.
    channel.on_probe(0, 2, 107.0)
    assert channel.lease_remaining_s(107.0) == 8.0


def test_silent_channel_is_left_after_a_lease() -> None:
    """A fileserver that answers no renewal is looked for anew."""
    channel = attached(100.0, lease_s=9.0)
    generation = channel.generation
    assert channel.on_tick(109.0) == [Reattach(ReattachReason.LEASE_NOT_RENEWED)]
    assert channel.phase is ChannelPhase.DETACHED
    assert channel.generation > generation


def test_fileserver_that_does_not_greet_is_left() -> None:
    """No InitCallBackState within ATTACH_DEADLINE_S."""
    channel = ChannelState()
    channel.on_opened(100.0)
    assert channel.describe(100.0) == "detached"
    assert channel.deadline() == 100.0 + ATTACH_DEADLINE_S
    assert channel.on_stall(101.0) == []
    assert channel.on_tick(101.0) == []
    assert channel.on_tick(105.0) == [Reattach(ReattachReason.NO_ANSWER_TO_HELLO)]


def test_stall_voids_the_lease_until_a_fresh_renewal() -> None:
    """An answer to a renewal from before the stall starts no lease."""
    channel = attached(100.0, lease_s=9.0)
    channel.on_probe(0, 1, 100.0)
    assert channel.on_tick(103.0) == [SendRenewLease(2)]
    assert channel.on_stall(105.0) == [SendRenewLease(3)]
    assert not channel.trusts(105.0)
    channel.on_probe(0, 2, 105.1)
    assert not channel.trusts(105.1)
    channel.on_probe(0, 3, 105.2)
    assert channel.lease_remaining_s(105.2) == pytest.approx(8.8)


def test_second_init_begins_another_generation() -> None:
    """The fileserver may reset a host on a channel that stands."""
    channel = attached(100.0)
    channel.on_probe(0, 1, 100.0)
    generation = channel.generation
    assert channel.on_init(12, 5, 9.0, 101.0) == [SendAck(12), SendRenewLease(2)]
    assert channel.generation == generation + 1
    assert not channel.trusts(101.0)


def test_messages_before_init_are_out_of_order() -> None:
    """A break or a probe that comes first is a fileserver's bug: the channel is left."""
    channel = ChannelState()
    channel.on_opened(0.0)
    assert channel.on_break(1) == [Reattach(ReattachReason.OUT_OF_ORDER)]
    assert channel.on_break(1) == []
    channel.on_opened(0.0)
    assert channel.on_probe(1, 0, 0.0) == [Reattach(ReattachReason.OUT_OF_ORDER)]
    channel.on_opened(0.0)
    assert channel.on_probe(0, 1, 0.0) == [Reattach(ReattachReason.OUT_OF_ORDER)]


def test_breaks_and_probes_are_acknowledged() -> None:
    """Each by its sequence; the answer to a renewal is not."""
    channel = attached()
    assert channel.on_break(21) == [SendAck(21)]
    assert channel.on_probe(22, 0, 100.0) == [SendAck(22)]
    assert channel.on_probe(0, 99, 100.0) == []
    assert not channel.trusts(100.0), "nobody asked for renewal 99"


def test_other_epoch_in_a_reply_means_a_restart() -> None:
    """The own epoch means nothing, another one that the channel is dead."""
    channel = attached()
    assert channel.on_epoch_seen(5) == []
    assert channel.on_epoch_seen(6) == [Reattach(ReattachReason.FILE_SERVER_RESTARTED)]


def test_host_that_is_held_down_leaves_its_channel() -> None:
    """Only a new channel brings it up again."""
    channel = attached()
    assert channel.on_held_down() == [Reattach(ReattachReason.HELD_DOWN)]
    assert channel.deadline() is None


@pytest.mark.parametrize("lease_s", [0.0, -1.0, math.inf, math.nan])
def test_absurd_leases_grant_no_trust_and_no_spin(lease_s: float) -> None:
    """A lease that is none is never trusted, and renewed no faster than the least interval."""
    channel = attached(100.0, lease_s)
    channel.on_probe(0, 1, 100.0)
    assert not channel.trusts(100.0)
    assert channel.deadline() == 100.0 + MIN_RENEWAL_INTERVAL_S
    assert channel.on_tick(100.0 + MIN_PATIENCE_S) == [Reattach(ReattachReason.LEASE_NOT_RENEWED)]


def test_closed_stream_detaches() -> None:
    """Whoever closed it, its generation is over."""
    channel = attached()
    generation = channel.generation
    channel.on_closed()
    assert channel.phase is ChannelPhase.DETACHED
    assert channel.generation == generation + 1
