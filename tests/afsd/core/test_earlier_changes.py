"""A writer waits for holders who have not taken in what came before, in both modes of coherence.

With strict coherence also for leases: `test_strict_writers`.
"""

from __future__ import annotations

import pytest

from afs.types import BreakReason
from afsd.core import deliveries
from afsd.core.instructions import Outcome
from afsd.core.settings import CallBackSettings
from tests.afsd.core.rig import Rig, fid

BOTH = pytest.mark.parametrize("strict", [False, True], ids=["bounded", "strict"])


def rig(*, strict: bool) -> Rig:
    """A rig; leases run ten seconds, the break deadline is two."""
    at = Rig(CallBackSettings(strict=strict))
    at.up("a", "b", "c")
    return at


def must_wait(at: Rig, *vnodes: int) -> bool:
    """True if a write of host b would have somebody to wait for."""
    changed = [(fid(vnode), BreakReason.DATA_CHANGED) for vnode in vnodes]
    return at.machine.has_other_holders(changed, "b")


@BOTH
def test_a_second_writer_waits_for_the_break_of_the_first(*, strict: bool) -> None:
    """I8: the first write took the promise away; its holder has not taken that in."""
    at = rig(strict=strict)
    at.promise("a", fid(2))
    first = at.write(fid(2), by="b")
    assert must_wait(at, 2)
    assert not must_wait(at, 4)
    second = at.write(fid(4), fid(2), by="c")
    assert len(at.breaks("a")) == 1, "I6"
    assert not {first, second} & set(at.outcomes)
    at.ack("a")
    assert at.outcomes[first] is at.outcomes[second] is Outcome.CLEAR
    assert not must_wait(at, 2)


def test_a_bounded_writer_waits_no_longer_than_the_deadline() -> None:
    """I7, I8: also for the break of an earlier writer, and not for the lease after it."""
    at = rig(strict=False)
    at.promise("a", fid(2))
    first = at.write(fid(2), by="b")
    at.advance(1.5)
    second = at.write(fid(2), by="c")
    at.advance(0.6)
    assert at.flags("a") == {"VENUSDOWN"}
    assert {first, second} <= set(at.outcomes), "the deadline of the first one's break"
    third = at.write(fid(2), by="c")
    assert third in at.outcomes
    assert not must_wait(at, 2)


@BOTH
def test_a_writer_after_a_give_back_tells_who_holds_its_file(*, strict: bool) -> None:
    """I8, I6: those it waits for are told at once and once; other holders by the worker."""
    at = rig(strict=strict)
    at.promise("a", fid(2))
    at.promise("b", fid(2))
    at.promise("c", fid(4))
    at.mark(8)
    at.mark(7)
    assert must_wait(at, 2)
    ticket = at.write(fid(2), by="b")
    assert ticket not in at.outcomes
    assert len(at.breaks("a")) == 1
    assert at.breaks("b") == at.breaks("c") == []
    at.ack("a")
    assert at.outcomes[ticket] is Outcome.CLEAR
    at.work_off()
    assert at.inbox["a"] == []
    assert len(at.breaks("b")) == len(at.breaks("c")) == 1


@BOTH
def test_a_writer_after_a_give_back_waits_for_breaks_under_way(*, strict: bool) -> None:
    """I8: which vnodes a host held is not known any more once it was told of the volume."""
    at = rig(strict=strict)
    at.promise("a", fid(2))
    at.mark(7)
    at.work_off()
    ticket = at.write(fid(2), by="b")
    assert ticket not in at.outcomes
    at.ack("a")
    assert at.outcomes[ticket] is Outcome.CLEAR


@BOTH
def test_a_writer_on_another_volume_waits_for_nobody(*, strict: bool) -> None:
    """I7: a give-back is nothing to the files of another volume."""
    at = rig(strict=strict)
    at.promise("a", fid(2))
    at.mark(7)
    ticket = at.write(fid(2, 8), by="b")
    assert at.outcomes[ticket] is Outcome.CLEAR
    at.work_off()
    assert at.write(fid(2, 8), by="b") in at.outcomes


@BOTH
def test_a_writer_does_not_wait_for_its_own_host(*, strict: bool) -> None:
    """What it trusts itself does no harm; its answer waits for its ack by I3."""
    at = rig(strict=strict)
    at.promise("b", fid(2))
    at.mark(7)
    assert not must_wait(at, 2)
    assert at.write(fid(2), by="b") in at.outcomes
    assert not at.machine.may_answer("b")


def test_holder_that_goes_down_while_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is on two marks of the volume, and telling it of the first one is too much for it."""
    monkeypatch.setattr(deliveries, "MAX_BREAKS_OUTSTANDING_PER_HOST", 1)
    at = Rig()
    at.up("a")
    for _ in range(2):
        at.promise("a", fid(2))
        at.mark()
    at.promise("a", fid(4, 8))
    at.write(fid(4, 8))
    ticket = at.write(fid(2))
    assert at.flags("a") == {"VENUSDOWN"}
    at.advance(2)
    assert ticket in at.outcomes
