"""Who has not been told yet that a volume changed, in both modes of coherence."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from afsd.core.settings import CallBackSettings
from tests.afsd.core.rig import Rig, fid

BOTH = pytest.mark.parametrize("strict", [False, True], ids=["bounded", "strict"])


def rig(*known_hosts: str, strict: bool) -> Rig:
    """A rig; leases run ten seconds, the break deadline is two."""
    return Rig(CallBackSettings(strict=strict), known_hosts)


def watch(at: Rig, volume: int = 7) -> Callable[[], list[str]]:
    """Asks now; who is still not told, whenever it is called."""
    before = at.machine.sequence
    return lambda: [host.uuid for host in at.machine.hosts_not_told(volume, before, at.now)]


@BOTH
def test_holders_are_named_until_they_have_acknowledged(*, strict: bool) -> None:
    """While marked, while the break is under way; each until its ack, and nobody else."""
    at = rig(strict=strict)
    at.up("a", "b", "c")
    at.promise("a", fid(2), fid(4))
    at.promise("b", fid(2))
    at.promise("c", fid(2, 8))
    at.mark(7)
    not_told = watch(at)
    assert not_told() == ["a", "b"]
    assert watch(at, 8)() == []
    at.work_off()
    assert not_told() == ["a", "b"]
    at.ack("b")
    assert not_told() == ["a"]
    at.ack("a")
    assert not_told() == []


@BOTH
def test_a_volume_without_promises_needs_nobody_told(*, strict: bool) -> None:
    """Nothing to wait for."""
    at = rig(strict=strict)
    at.up("a")
    at.mark(7)
    assert watch(at)() == []


@BOTH
def test_a_silent_host_is_named_until_its_lease_ends(*, strict: bool) -> None:
    """It goes down at the break deadline; its client may tell the old state until then."""
    at = rig(strict=strict)
    at.up("a")
    at.promise("a", fid(2))
    at.mark(7)
    not_told = watch(at)
    at.work_off()
    at.advance(3)
    assert at.flags("a") == {"VENUSDOWN"}
    (host,) = at.machine.hosts_not_told(7, at.machine.sequence, at.now)
    assert (host.uuid, host.address) == ("a", "ipv4:1")
    assert 6.9 < host.lease_end - at.now < 7.1
    at.advance(6.9)
    assert not_told() == ["a"]
    at.advance(0.2)
    assert not_told() == []


@BOTH
@pytest.mark.parametrize("lost_first", [False, True])
def test_a_lost_host_is_named_whenever_it_was_lost(*, strict: bool, lost_first: bool) -> None:
    """Before the volume was marked, with its promises tossed, or after, before it was told."""
    at = rig(strict=strict)
    at.up("a")
    at.promise("a", fid(2))
    if lost_first:
        at.close("a")
    at.mark(7)
    if not lost_first:
        at.close("a")
    not_told = watch(at)
    at.work_off()
    assert not_told() == ["a"]
    assert watch(at, 8)() == []
    at.advance(10.1)
    assert not_told() == []


@BOTH
def test_a_host_that_was_reset_is_not_named(*, strict: bool) -> None:
    """On a new channel, or on the old one once it has acknowledged."""
    at = rig(strict=strict)
    at.up("a", "b")
    at.promise("a", fid(2))
    at.promise("b", fid(2))
    at.mark(7)
    not_told = watch(at)
    at.work_off()
    at.advance(3)
    at.inbox["b"].clear()
    at.attach("a")
    at.call("b")
    assert not_told() == ["b"]
    at.ack("b")
    assert not_told() == []


@BOTH
def test_a_host_that_gave_everything_up_is_not_named(*, strict: bool) -> None:
    """Before it was told; what is under way it has to acknowledge all the same."""
    at = rig(strict=strict)
    at.up("a")
    at.promise("a", fid(2))
    at.mark(7)
    not_told = watch(at)
    at.run(at.machine.give_up_all("a")[1])
    assert not_told() == []


@BOTH
def test_a_promise_taken_by_an_earlier_write_counts(*, strict: bool) -> None:
    """Its break is under way when the volume is marked: the mark has nothing of that host."""
    at = rig(strict=strict)
    at.up("a", "b")
    at.promise("a", fid(2))
    at.write(fid(2), by="b")
    at.mark(7)
    not_told = watch(at)
    assert not_told() == ["a"]
    assert watch(at, 8)() == []
    at.ack("a")
    assert not_told() == []


@BOTH
def test_later_breaks_do_not_count(*, strict: bool) -> None:
    """A volume that is written to all the time is done with what was before the question."""
    at = rig(strict=strict)
    at.up("a", "b")
    at.promise("a", fid(2))
    at.mark(7)
    not_told = watch(at)
    at.work_off()
    at.ack("a")
    at.promise("a", fid(2), fid(4))
    at.write(fid(2), by="b")
    at.mark(7)
    assert not_told() == []
    assert watch(at)() == ["a"]


@BOTH
def test_hosts_of_an_earlier_life_are_named(*, strict: bool) -> None:
    """I9: what that life had marked and not broken is not known any more."""
    at = rig("a", "b", strict=strict)
    not_told = watch(at)
    assert not_told() == ["a", "b"]
    at.up("b")
    assert not_told() == ["a"]
    at.advance(10.1)
    assert not_told() == []


def test_holders_are_counted() -> None:
    """Hosts with a promise on the volume, however many promises."""
    at = rig(strict=False)
    at.up("a", "b")
    assert at.machine.holder_count(7) == 0
    at.promise("a", fid(2), fid(4))
    at.promise("b", fid(2), fid(2, 8))
    assert at.machine.holder_count(7) == 2
    at.close("a")
    assert at.machine.holder_count(7) == 1
    at.mark(7)
    assert at.machine.holder_count(7) == 0
    assert at.machine.holder_count(8) == 1
