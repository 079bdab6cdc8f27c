"""Strict coherence (I8): no read is older than an acknowledged write, whatever happened before it.

A change, a give-back or a host's going down takes a promise out of the table long before its client
has taken that in. A later writer of the same file is then not answered either.
"""

from __future__ import annotations

from afs.limits import PROMISE_SWEEP_S
from afs.types import BreakReason
from afsd.core.instructions import Outcome
from afsd.core.settings import CallBackSettings
from tests.afsd.core.rig import Rig, fid


def strict(*known_hosts: str) -> Rig:
    """A rig with strict coherence; leases run ten seconds."""
    return Rig(CallBackSettings(strict=True), known_hosts)


def waits(rig: Rig, ticket: int) -> bool:
    """True if that writer is not answered yet."""
    return ticket not in rig.outcomes


def test_second_writer_waits_for_the_break_of_the_first() -> None:
    """I8: a's promise went with the first write; a has not taken that in at the second."""
    rig = strict()
    rig.up("a", "b")
    rig.promise("a", fid(2), fid(4))
    first = rig.write(fid(2), by="b")
    assert rig.machine.has_other_holders([(fid(2), BreakReason.DATA_CHANGED)], "b")
    assert not rig.machine.has_other_holders([(fid(6), BreakReason.DATA_CHANGED)], "b")
    second = rig.write(fid(2), by="b")
    assert rig.outcomes.get(rig.write(fid(6), by="b")) is Outcome.CLEAR, "another file"
    assert len(rig.breaks("a")) == 1, "I6"
    assert waits(rig, second)
    rig.ack("a")
    assert rig.outcomes[first] is rig.outcomes[second] is Outcome.CLEAR


def test_second_writer_waits_for_the_lease_too() -> None:
    """I8: a never acknowledged the first write; the second comes after the break deadline."""
    rig = strict()
    rig.up("a", "b")
    rig.promise("a", fid(2))
    rig.write(fid(2), by="b")
    rig.advance(3)
    assert rig.flags("a") == {"VENUSDOWN"}
    rig.renew("b")
    second = rig.write(fid(2), by="b")
    assert waits(rig, second)
    rig.advance(7.1)
    assert rig.outcomes[second] is Outcome.CLEAR
    rig.renew("b")
    assert not waits(rig, rig.write(fid(2), by="b")), "the lease is over"


def test_write_after_a_give_back_waits_for_its_hosts() -> None:
    """I8: the volume was marked and its holder not told; the give-back waited for nobody."""
    rig = strict()
    rig.up("a", "b")
    rig.promise("a", fid(2))
    rig.promise("b", fid(2, 8))
    rig.mark(8)
    rig.mark(7)
    ticket = rig.write(fid(2), by="b")
    assert waits(rig, ticket)
    assert len(rig.breaks("a")) == 1
    rig.work_off()
    assert len(rig.breaks("a")) == 1, "I6"
    rig.ack("a")
    assert not waits(rig, ticket)


def test_write_after_a_give_back_and_a_lost_holder() -> None:
    """I8: a host went down when it had not been told of the volume, or before it was marked."""
    for lost_first in (False, True):
        rig = strict()
        rig.up("a", "b")
        rig.promise("a", fid(2))
        if lost_first:
            rig.close("a")
        rig.mark(7)
        if not lost_first:
            rig.close("a")
        rig.work_off()
        ticket = rig.write(fid(2), by="b")
        assert waits(rig, ticket)
        assert not waits(rig, rig.write(fid(2, 8), by="b")), "another volume"
        rig.advance(10.1)
        assert not waits(rig, ticket)


def test_second_writer_after_a_lost_channel() -> None:
    """I8: the first write found the tossed promise and took it away; the second waits as well."""
    rig = strict()
    rig.up("a", "b")
    rig.promise("a", fid(2))
    rig.close("a")
    tickets = [rig.write(fid(2), by="b"), rig.write(fid(2), by="b")]
    assert all(waits(rig, ticket) for ticket in tickets)
    rig.advance(10.1)
    assert not any(waits(rig, ticket) for ticket in tickets)


def test_host_that_came_back_is_not_waited_for() -> None:
    """A host that attached, or was reset on its channel, trusts nothing of before."""
    rig = strict()
    rig.up("a", "b")
    rig.promise("a", fid(2))
    rig.mark(7)
    rig.close("a")
    rig.up("a")
    assert not waits(rig, rig.write(fid(2), by="b"))
    rig.promise("a", fid(2))
    rig.write(fid(2), by="b")
    rig.advance(3)
    rig.renew("b")
    rig.inbox["a"].clear()
    rig.call("a")
    rig.ack("a")
    assert not waits(rig, rig.write(fid(2), by="b"))


def test_writer_does_not_wait_for_itself() -> None:
    """A host that is owed the break of a file may change it; what it trusts itself does no harm."""
    rig = strict()
    rig.up("a", "b")
    rig.promise("a", fid(2))
    rig.write(fid(2), by="b")
    assert not waits(rig, rig.write(fid(2), by="a"))


def test_after_a_restart_anything_may_be_trusted() -> None:
    """I8, I9: hosts of an earlier life are waited for until they came back or their lease ended."""
    rig = strict("a")
    rig.up("b")
    ticket = rig.write(fid(2), by="b")
    assert waits(rig, ticket)
    rig.advance(9)
    rig.renew("b")
    rig.advance(1.1)
    assert not waits(rig, ticket)


def test_doubts_do_not_stay() -> None:
    """What is over takes no memory."""
    rig = strict()
    rig.up("a", "c", "b")
    rig.promise("a", fid(2), fid(4))
    rig.promise("c", fid(2))
    rig.write(fid(2), by="b")
    rig.ack("c")
    rig.close("a")
    doubts = rig.machine.deliveries.doubts
    assert not doubts._under_way
    assert doubts._leases
    assert doubts._held
    rig.advance(PROMISE_SWEEP_S + 1)
    assert not doubts._leases
    assert not doubts._held
