"""Planned restarts in the core: who keeps promises, what ends that, and that nobody is answered."""

from __future__ import annotations

from dataclasses import replace

import pytest

from afs.limits import HOST_EXPIRY_S
from afs.types import ChangeMark, whole_volume_fid
from afsd.core.hosts import SessionName
from afsd.core.instructions import Outcome, SendBreak, SendReset
from afsd.core.saved_state import unchanged_volumes
from afsd.core.settings import CallBackSettings
from tests.afsd.core.rig import Rig, fid


def holder(*fids: int, settings: CallBackSettings | None = None) -> Rig:
    """A machine with a host `a` that holds promises on these vnodes of volume 7."""
    rig = Rig(settings)
    rig.up("a")
    rig.promise("a", *(fid(vnode) for vnode in fids))
    return rig


def was_kept(rig: Rig, host: str) -> bool:
    """The host attaches, naming its session; whether its promises are kept. It acknowledges."""
    rig.attach(host, resume=True)
    message = rig.ack(host)
    assert isinstance(message, SendReset)
    return message.keeps


class TestKeeping:
    """A host that is owed nothing goes on."""

    def test_holder_keeps_its_promises(self) -> None:
        """I9: the promises are in the table of the next life, and a change of them is broken."""
        rig = holder(2, 4)
        rig.restart()
        assert rig.flags("a") == {"SUSPENDED"}
        assert was_kept(rig, "a")
        assert rig.flags("a") == {"RESETDONE"}
        assert rig.machine.table.size == 2
        ticket = rig.write(fid(2))
        assert ticket not in rig.outcomes
        assert rig.breaks("a")[0].targets == (fid(2),)
        rig.ack("a")
        assert rig.outcomes[ticket] is Outcome.CLEAR
        assert rig.machine.counters["resumptions_acked"] == 1
        assert rig.machine.counters["promises_restored"] == 2

    def test_sequence_goes_on(self) -> None:
        """A break of the next life reaches promises of the last one (through covers them)."""
        rig = Rig()
        rig.up("a", "b")
        for _ in range(3):
            rig.promise("b", fid(9))
            rig.write(fid(9))
            rig.ack("b")
        (promise,) = rig.promise("a", fid(2))
        rig.restart()
        assert was_kept(rig, "a")
        rig.write(fid(2))
        assert rig.breaks("a")[0].through >= promise.sequence
        assert rig.promise("a", fid(4))[0].sequence > promise.sequence

    def test_promises_expire_when_they_were_to(self) -> None:
        """The next life keeps the times of the last one; what has expired is not saved."""
        rig = holder(2)
        rig.promise("a", fid(4), bulk=True)
        rig.clock.advance(1800 + 180 + 1)
        rig.restart()
        assert rig.machine.table.size == 1
        rig.clock.advance(14400)
        assert was_kept(rig, "a")
        rig.write(fid(2))
        assert rig.breaks("a") == []

    def test_whole_volume_promises_and_shared_files(self) -> None:
        """Promises of several hosts on one vnode, and one on a whole volume, come back."""
        rig = Rig()
        rig.up("a", "b", "c")
        for host in ("a", "b", "c"):
            rig.promise(host, fid(2))
        rig.promise("a", fid(2, 8), ro=True)
        rig.restart()
        assert all(was_kept(rig, host) for host in ("a", "b", "c"))
        rig.write(fid(2), by="a")
        assert [len(rig.breaks(host)) for host in ("a", "b", "c")] == [0, 1, 1]
        assert rig.mark(8) == 1

    def test_two_restarts(self) -> None:
        """A host that did not come back between two planned restarts may do so after the second."""
        rig = holder(2)
        rig.restart()
        rig.restart()
        assert was_kept(rig, "a")
        rig.restart()
        assert was_kept(rig, "a")
        assert rig.held["a"].epoch == 1

    def test_lease_and_renewals_after_it(self) -> None:
        """I8: the host is up from its ack; without renewals it goes down at the end of a lease."""
        rig = holder(2)
        rig.restart()
        rig.attach("a", resume=True)
        rig.renew("a")
        assert rig.renewed == [], "nothing is answered before the ack"
        rig.ack("a")
        rig.renew("a", 2)
        assert rig.renewed == [2]
        rig.advance(11)
        assert rig.flags("a") == {"VENUSDOWN"}

    def test_host_that_held_nothing_is_forgotten(self) -> None:
        """It has nothing to keep."""
        rig = Rig()
        rig.up("a")
        assert rig.stop().hosts == ()
        assert rig.forgotten == ["a"]


class TestNotKeeping:
    """Everybody else is reset."""

    def test_crash(self) -> None:
        """Nothing was saved: reset, as ever."""
        rig = holder(2)
        rig.start(None)
        assert rig.flags("a") == {"VENUSDOWN"}
        assert not was_kept(rig, "a")

    @pytest.mark.parametrize("claim", [None, SessionName(1, 99), SessionName(2, 1)])
    def test_other_claims(self, claim: SessionName | None) -> None:
        """A client that restarted, or holds another session, is reset; what was kept is tossed."""
        rig = holder(2)
        rig.restart()
        rig.held.pop("a")
        if claim is not None:
            rig.held["a"] = claim
        assert not was_kept(rig, "a")
        assert rig.machine.table.size == 0
        assert rig.machine.counters["suspensions_ended"] == 1

    def test_owed_host(self) -> None:
        """A host with a break under way, or marked, is not saved (I4)."""
        rig = Rig()
        rig.up("a", "b", "c")
        for host in ("a", "b"):
            rig.promise(host, fid(2, 7), fid(2, 8))
        rig.promise("c", fid(4, 7))
        rig.write(fid(2, 7), by="b")
        rig.mark(8)
        rig.restart()
        assert [was_kept(rig, host) for host in ("a", "b", "c")] == [False, False, True]

    def test_down_host_and_one_before_its_reset(self) -> None:
        """VENUSDOWN, or not yet up: reset."""
        rig = Rig(known_hosts=("down",))
        rig.attach("new")
        assert rig.stop().hosts == ()

    def test_changed_volume(self) -> None:
        """Holders of a volume that is not as it was are VENUSDOWN; others are not (M5b)."""
        rig = Rig()
        rig.up("a", "b")
        rig.promise("a", fid(2, 7), fid(2, 8))
        rig.promise("b", fid(2, 8))
        rig.restart(unchanged=[8])
        assert rig.flags("a") == {"VENUSDOWN"}
        assert rig.machine.table.size == 1
        assert not was_kept(rig, "a")
        assert was_kept(rig, "b")

    def test_room_for_fewer(self) -> None:
        """A table or a number of hosts that was made smaller takes in what fits."""
        rig = Rig()
        rig.up("a", "b")
        rig.promise("a", fid(2), fid(4))
        rig.promise("b", fid(2))
        saved = rig.stop()
        rig.start(saved, settings=CallBackSettings(max_promises=2))
        assert [was_kept(rig, host) for host in ("a", "b")] == [True, False]
        stranger = replace(saved, hosts=(replace(saved.hosts[0], uuid="x"),))
        rig.start(stranger, settings=CallBackSettings(max_hosts=2))
        assert "x" not in rig.machine.hosts
        rig.start(stranger, settings=CallBackSettings(max_hosts=3))
        assert rig.flags("x") == {"SUSPENDED"}

    @pytest.mark.parametrize(
        ("now", "unchanged"),
        [
            (ChangeMark("i", 5), {7}),
            (ChangeMark("i", 6), set()),
            (ChangeMark("j", 5), set()),
            (None, set()),
        ],
    )
    def test_what_proves_that_a_volume_is_as_it_was(
        self, now: ChangeMark | None, unchanged: set[int]
    ) -> None:
        """The same incarnation and change counter, seen on both sides."""
        marks = {} if now is None else {7: now}
        assert unchanged_volumes({7: ChangeMark("i", 5)}, marks) == unchanged
        assert unchanged_volumes({}, marks) == set()


class TestSuspended:
    """Whatever a suspended host would have to be told ends its suspension."""

    @pytest.mark.parametrize("strict", [False, True])
    def test_write(self, strict: bool) -> None:
        """A change of what it holds: VENUSDOWN. A strict writer waits for its lease (I8)."""
        rig = holder(2, 4, settings=CallBackSettings(strict=strict))
        rig.advance(4)
        rig.restart()
        ticket = rig.write(fid(2))
        assert rig.flags("a") == {"VENUSDOWN"}
        assert (ticket in rig.outcomes) is not strict
        other = rig.write(fid(4))
        assert (other in rig.outcomes) is not strict
        rig.advance(6.01)
        assert rig.outcomes[ticket] is Outcome.CLEAR
        assert rig.outcomes[other] is Outcome.CLEAR
        assert not was_kept(rig, "a")
        assert rig.machine.counters["suspensions_ended"] == 1

    def test_strict_writer_waits_for_nobody_who_is_not_concerned(self) -> None:
        """What a suspended host holds is known: a change of anything else is answered at once."""
        rig = holder(2, settings=CallBackSettings(strict=True))
        rig.restart()
        assert rig.write(fid(4)) in rig.outcomes

    def test_mark_before_the_worker(self) -> None:
        """A host that attaches before the worker came is told on its channel, after "kept"."""
        rig = holder(2)
        rig.restart()
        assert rig.mark() == 1
        rig.attach("a", resume=True)
        rig.work_off()
        kept, told = rig.inbox["a"]
        assert isinstance(kept, SendReset)
        assert kept.keeps
        assert isinstance(told, SendBreak)
        assert told.targets == (whole_volume_fid(7),)
        rig.ack("a")
        assert not rig.machine.may_answer("a")
        rig.ack("a")
        assert rig.machine.may_answer("a")

    def test_mark_and_the_worker(self) -> None:
        """The worker finds nobody to tell: VENUSDOWN."""
        rig = holder(2)
        rig.restart()
        rig.mark()
        rig.work_off()
        assert rig.flags("a") == {"VENUSDOWN"}
        assert not was_kept(rig, "a")

    def test_eviction(self) -> None:
        """Its promises are taken to make space: VENUSDOWN."""
        rig = holder(2, 4)
        saved = rig.stop()
        rig.start(saved, settings=CallBackSettings(max_promises=2))
        rig.up("b")
        rig.promise("b", fid(2))
        assert rig.flags("a") == {"VENUSDOWN"}
        assert rig.machine.table.size == 1

    def test_host_that_never_comes_back(self) -> None:
        """After the time for which hosts are remembered it is forgotten, and its promises go."""
        rig = holder(2)
        rig.restart()
        rig.advance(HOST_EXPIRY_S + 1)
        assert rig.machine.hosts == {}
        assert rig.machine.table.size == 0
        assert not was_kept(rig, "a")

    def test_vnode_is_gone(self) -> None:
        """The silent end of promises on a removed vnode is no business of its holder."""
        rig = holder(2, 4)
        rig.restart()
        rig.machine.delete_promises(fid(2))
        assert was_kept(rig, "a")

    def test_calls_wait_for_the_word(self) -> None:
        """I3, M7: in every life, InitCallBackState is acknowledged before the first answer."""
        rig = holder(2)
        rig.restart()
        assert not rig.machine.may_answer("a")
        early, late = rig.call("a"), rig.call("a")
        rig.attach("a", resume=True)
        assert early not in rig.outcomes
        rig.ack("a")
        assert rig.outcomes[early] is rig.outcomes[late] is Outcome.CLEAR

    def test_calls_of_a_host_that_stays_away(self) -> None:
        """They fail at the break deadline."""
        rig = holder(2)
        rig.restart()
        call = rig.call("a")
        rig.advance(2)
        assert rig.outcomes[call] is Outcome.HOST_DOWN
        assert rig.flags("a") == {"SUSPENDED"}

    def test_call_of_a_marked_host(self) -> None:
        """What is owed to it ends its suspension at once; the call fails, the host is reset."""
        rig = holder(2)
        rig.restart()
        rig.mark()
        call = rig.call("a")
        assert rig.outcomes[call] is Outcome.HOST_DOWN
        assert not was_kept(rig, "a")

    def test_no_promise_without_a_channel(self) -> None:
        """A suspended host cannot be called back."""
        rig = holder(2)
        rig.restart()
        assert rig.machine.give_promise("a", fid(4), rig.now) == (None, [])


class TestResuming:
    """From the attach on the host is told of changes like any other."""

    @pytest.mark.parametrize("strict", [False, True])
    def test_break_follows_kept(self, strict: bool) -> None:
        """A change while "kept" is under way is told after it, and before any renewal is answered.

        So nothing that is stale is trusted in between.
        """
        rig = holder(2, settings=CallBackSettings(strict=strict))
        rig.restart()
        rig.attach("a", resume=True)
        ticket = rig.write(fid(2))
        rig.renew("a")
        kept, told = rig.inbox["a"]
        assert (kept.sequence, told.sequence) == (kept.sequence, kept.sequence + 1)
        assert rig.renewed == []
        rig.ack("a")
        assert ticket not in rig.outcomes
        assert not rig.machine.may_answer("a")
        rig.ack("a")
        assert rig.outcomes[ticket] is Outcome.CLEAR
        assert rig.machine.may_answer("a")

    def test_kept_is_not_acknowledged(self) -> None:
        """VENUSDOWN at the deadline; the ack that comes then brings a reset."""
        rig = holder(2)
        rig.restart()
        rig.attach("a", resume=True)
        rig.advance(2)
        assert rig.flags("a") == {"VENUSDOWN"}
        assert rig.machine.counters["resumptions_failed"] == 1
        rig.ack("a")
        (reset,) = rig.inbox["a"]
        assert isinstance(reset, SendReset)
        assert not reset.keeps
        rig.ack("a")
        assert rig.machine.may_answer("a")

    def test_channel_lost_meanwhile(self) -> None:
        """The fileserver does not know what the client took in: reset."""
        rig = holder(2)
        rig.restart()
        rig.attach("a", resume=True)
        rig.close("a")
        assert rig.flags("a") == {"VENUSDOWN"}
        assert not was_kept(rig, "a")

    def test_attached_once_more_meanwhile(self) -> None:
        """The same where the old channel's end was not noticed."""
        rig = holder(2)
        rig.restart()
        rig.attach("a", resume=True)
        assert not was_kept(rig, "a")

    def test_session_of_this_life_is_not_resumed(self) -> None:
        """Only planned restarts keep; a lost channel ends what the host held, as ever (M6)."""
        rig = holder(2)
        rig.close("a")
        assert rig.flags("a") == {"VENUSDOWN"}
        assert not was_kept(rig, "a")


class TestStopping:
    """Between the end of the channels and the end of the process."""

    def test_answers_under_way_leave(self) -> None:
        """I3: a suspended host of this life is owed nothing, and may be answered."""
        rig = holder(2)
        rig.stop()
        assert rig.machine.may_answer("a")
        rig.write(fid(2), by="a")
        assert rig.machine.may_answer("a")

    def test_changes_that_drain_are_not_lost(self) -> None:
        """I4: a change made after the channel ended is the end of the suspension."""
        rig = holder(2)
        rig.stop()
        ticket = rig.write(fid(2))
        assert ticket in rig.outcomes
        assert not rig.machine.may_answer("a")
        saved = rig.machine.save(rig.now)
        assert saved.hosts == ()
        rig.start(saved)
        assert not was_kept(rig, "a")

    def test_host_that_is_up_when_all_is_saved(self) -> None:
        """A channel that has not ended yet makes no difference."""
        rig = holder(2)
        rig.machine.begin_stop()
        rig.start(rig.machine.save(rig.now))
        assert was_kept(rig, "a")

    def test_events_for_people(self) -> None:
        """Who watches sees hosts being suspended and resuming."""
        rig = holder(2)
        rig.machine.deliveries.observing = True
        saved = rig.stop()
        rig.start(saved)
        rig.machine.deliveries.observing = True
        assert was_kept(rig, "a")
        events = [seen.event for seen in rig.seen]
        assert {"host.suspended", "resumption.sent", "resumption.acked"} <= set(events)
