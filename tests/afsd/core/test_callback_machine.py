"""The callback machine: promises, single breaks, hosts that answer and hosts that do not."""

from __future__ import annotations

import pytest

from afs.limits import (
    HOST_EXPIRY_S,
    MAX_BREAKS_OUTSTANDING_PER_HOST,
    MAX_WAITING_CALLS_PER_HOST,
    PROMISE_GRACE_S,
    PROMISE_SWEEP_S,
    SWEEP_SLICE_PROMISES,
)
from afs.types import BreakReason
from afsd.core.callback_machine import CallBackMachine
from afsd.core.hosts import HostFlag
from afsd.core.instructions import Outcome, SendReset
from afsd.core.lifetimes import promise_lifetime_s
from afsd.core.settings import CallBackSettings
from tests.afsd.core.rig import Rig, fid


def refused(rig: Rig, host: str) -> bool:
    """True if the host gets no promise on vnode 2."""
    return rig.machine.give_promise(host, fid(2), rig.now)[0] is None


class TestPromises:
    """Who gets promises, and for how long."""

    def test_none_before_the_reset_is_acknowledged(self) -> None:
        """A host gets promises from its ack of InitCallBackState on, not before."""
        rig = Rig()
        assert refused(rig, "a")
        rig.attach("a")
        assert isinstance(rig.inbox["a"][0], SendReset)
        assert refused(rig, "a")
        rig.ack("a")
        assert not refused(rig, "a")
        assert rig.machine.table.size == 1

    @pytest.mark.parametrize(
        ("holders", "lifetime_s"),
        [
            (0, 14400),
            (7, 14400),
            (8, 3600),
            (15, 3600),
            (16, 1800),
            (24, 900),
            (40, 600),
            (64, 420),
        ],
    )
    def test_lifetime_by_holders(self, holders: int, lifetime_s: int) -> None:
        """Mechanism §5: the more holders, the shorter the promise."""
        assert promise_lifetime_s(holders, bulk=False, read_only=False) == lifetime_s

    def test_lifetime_of_bulk_and_read_only(self) -> None:
        """Mechanism §5: bulk counts as 22 more holders; a read-only volume has 2 h."""
        assert promise_lifetime_s(0, bulk=True, read_only=False) == 1800
        assert promise_lifetime_s(2, bulk=True, read_only=False) == 900
        assert promise_lifetime_s(99, bulk=True, read_only=True) == 7200

    def test_the_server_keeps_a_promise_longer_than_it_told(self) -> None:
        """Mechanism §5: 3 min of grace; after it nobody is told any more."""
        rig = Rig()
        rig.up("a")
        (promise,) = rig.promise("a", fid(2))
        host = rig.machine.hosts["a"]
        (callback,) = rig.machine.table.volumes[7].holders((2 << 32) | 2)
        assert callback.session is host.session
        assert callback.expires_at == rig.now + promise.lifetime_s + PROMISE_GRACE_S

    def test_an_expired_promise_is_not_broken(self) -> None:
        """What has expired needs no message, swept or not."""
        rig = Rig()
        rig.up("a")
        (promise,) = rig.promise("a", fid(2))
        rig.clock.advance(promise.lifetime_s + PROMISE_GRACE_S)
        assert rig.outcomes[rig.write(fid(2))] is Outcome.CLEAR
        assert not rig.inbox["a"]

    def test_sweep_frees_expired_promises_and_keeps_others(self) -> None:
        """The table returns to what is alive (I1)."""
        rig = Rig(CallBackSettings(channel_lease_s=1e6))
        rig.up("a", "b", "c")
        rig.promise("a", fid(2), fid(3), bulk=True)
        rig.promise("b", fid(3), bulk=True)
        rig.promise("c", fid(3))
        rig.advance(1800 + PROMISE_GRACE_S + 2 * PROMISE_SWEEP_S)
        assert rig.machine.table.size == 1
        assert rig.machine.hosts["c"].session.promises == 1

    def test_sweep_is_cut_into_slices(self) -> None:
        """A large table is swept in several turns (no pause of the loop)."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", *(fid(vnode) for vnode in range(1, 2 * SWEEP_SLICE_PROMISES, 1)))
        rig.clock.advance(PROMISE_SWEEP_S)
        rig.run(rig.machine.tick(rig.now))
        due = rig.machine.next_deadline()
        assert due is not None
        assert due < rig.now + 1

    def test_sweep_meets_volumes_that_went_meanwhile(self) -> None:
        """A volume that is marked between two slices is left alone."""
        rig = Rig()
        rig.up("a")
        for volume in (7, 8):
            rig.promise("a", *(fid(v, volume) for v in range(1, SWEEP_SLICE_PROMISES + 9)))
        rig.clock.advance(PROMISE_SWEEP_S)
        rig.run(rig.machine.tick(rig.now))
        rig.mark(7)
        rig.mark(8)
        rig.advance(1)
        assert rig.machine.table.size == 0

    def test_whole_volume_promise(self) -> None:
        """On a read-only volume one promise covers all; a mark breaks it."""
        rig = Rig()
        rig.up("a")
        promises = rig.promise("a", fid(2), fid(4), ro=True)
        assert all(promise.whole_volume for promise in promises)
        assert rig.machine.table.size == 1
        assert rig.mark() == 1
        rig.work_off()
        assert len(rig.breaks("a")) == 1

    def test_full_table_takes_from_the_host_that_holds_most(self) -> None:
        """Space is made fairly: the largest holder pays, oldest first, told why and counted."""
        rig = Rig(CallBackSettings(max_promises=10))
        rig.up("greedy", "modest")
        rig.promise("modest", fid(1))
        rig.promise("greedy", *(fid(v, 8) for v in range(1, 3)), *(fid(v) for v in range(1, 8)))
        (given,) = rig.promise("modest", fid(2))
        (message,) = rig.breaks("greedy")
        assert message.reason is BreakReason.TABLE_FULL
        assert message.targets == tuple(fid(v) for v in range(1, 8))
        assert message.through < given.sequence
        assert not rig.inbox["modest"]
        assert rig.machine.counters["promises_evicted"] == 7
        assert rig.machine.table.size == 4

    def test_a_host_beyond_its_quota_pays_itself(self) -> None:
        """One client cannot fill the table: past its quota it loses its own oldest promises."""
        rig = Rig(CallBackSettings(max_promises_per_host=3))
        rig.up("greedy", "modest")
        rig.promise("modest", fid(1))
        rig.promise("greedy", *(fid(v) for v in range(1, 5)))
        assert rig.machine.hosts["greedy"].session.promises == 1
        assert rig.machine.counters["evictions"] == 1
        assert not rig.inbox["modest"]

    def test_making_space_can_take_the_caller_down(self) -> None:
        """A caller that cannot be told of one more break is down, and gets no promise."""
        rig = Rig(CallBackSettings(max_promises_per_host=MAX_BREAKS_OUTSTANDING_PER_HOST + 2))
        rig.up("slow")
        rig.promise("slow", *(fid(v) for v in range(1, MAX_BREAKS_OUTSTANDING_PER_HOST + 3)))
        for vnode in range(1, MAX_BREAKS_OUTSTANDING_PER_HOST + 1):
            rig.machine.break_callbacks([(fid(vnode), BreakReason.REMOVED)], None, -vnode, rig.now)
        rig.promise("slow", *(fid(v, 8) for v in range(1, MAX_BREAKS_OUTSTANDING_PER_HOST + 1)))
        assert refused(rig, "slow")
        assert rig.flags("slow") == {"VENUSDOWN"}

    def test_too_many_hosts(self) -> None:
        """Beyond the bound a host is refused and counted."""
        rig = Rig(CallBackSettings(max_hosts=1))
        rig.up("a")
        assert rig.machine.attach("b", 99, "", "", rig.now) is None
        assert rig.machine.counters["hosts_refused"] == 1

    def test_give_up(self) -> None:
        """Promises given up are not broken any more; others of the file stay."""
        rig = Rig()
        rig.up("a", "b")
        rig.promise("a", fid(2), fid(4))
        rig.promise("b", fid(2))
        assert rig.machine.give_up("a", [fid(2), fid(6), fid(2, 8)]) == 1
        assert rig.machine.give_up("stranger", [fid(2)]) == 0
        rig.write(fid(2))
        assert not rig.inbox["a"]
        assert len(rig.breaks("b")) == 1

    def test_give_up_all_covers_marked_volumes(self) -> None:
        """A host that returned everything is owed nothing, also not by marks."""
        rig = Rig()
        rig.up("a", "b")
        rig.promise("a", fid(2), fid(3, 8))
        rig.promise("b", fid(2))
        rig.mark()
        ticket = rig.call("b")
        count, instructions = rig.machine.give_up_all("a")
        rig.run(instructions)
        assert count == 1
        rig.work_off()
        assert not rig.inbox["a"]
        rig.ack("b")
        assert rig.outcomes[ticket] is Outcome.CLEAR
        assert rig.machine.give_up_all("stranger") == (0, [])

    def test_give_up_all_with_a_break_under_way(self) -> None:
        """A break under way is still owed: a call goes on waiting for it."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.write(fid(2))
        ticket = rig.call("a")
        rig.run(rig.machine.give_up_all("a")[1])
        assert ticket not in rig.outcomes
        rig.ack("a")
        assert rig.outcomes[ticket] is Outcome.CLEAR

    def test_delete_is_silent(self) -> None:
        """A vnode that is gone leaves no promise and sends no message."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.machine.delete_promises(fid(2))
        rig.machine.delete_promises(fid(2, 9))
        assert rig.machine.table.size == 0
        assert not rig.inbox["a"]

    def test_sessions_remember_few_shared_callbacks(self) -> None:
        """Promises given at many different times still count one by one."""
        rig = Rig(CallBackSettings(channel_lease_s=1e6))
        rig.up("a")
        for vnode in range(1, 200):
            rig.promise("a", fid(vnode))
            rig.clock.advance(1)
        assert rig.machine.table.size == 199

    def test_promises_of_many_holders_one_by_one(self) -> None:
        """An entry with one, two and three holders counts each once, given anew or returned."""
        rig = Rig()
        rig.up("a", "b", "c")
        for host in ("a", "a", "b", "a", "c", "c"):
            rig.promise(host, fid(2))
        assert rig.machine.table.size == 3
        assert rig.machine.give_up("c", [fid(2)]) == 1
        assert rig.machine.give_up("c", [fid(2)]) == 0
        assert rig.machine.give_up("b", [fid(2)]) == 1
        assert rig.machine.give_up("b", [fid(2)]) == 0
        assert rig.machine.give_up("a", [fid(2)]) == 1
        rig.machine.check()
        assert not rig.machine.table.volumes


class TestSingleBreaks:
    """A writer breaks other holders' callbacks and waits, within bounds."""

    def test_exactly_the_other_holders_are_told(self) -> None:
        """T16: the writer and bystanders hear nothing; the writer keeps its promise."""
        rig = Rig()
        rig.up("writer", "holder", "bystander")
        rig.promise("writer", fid(2))
        rig.promise("holder", fid(2))
        rig.promise("bystander", fid(4))
        ticket = rig.write(fid(2), by="writer")
        assert ticket not in rig.outcomes
        (message,) = rig.breaks("holder")
        assert message.targets == (fid(2),)
        assert message.reason is BreakReason.DATA_CHANGED
        assert not rig.inbox["writer"]
        assert not rig.inbox["bystander"]
        rig.ack("holder")
        assert rig.outcomes[ticket] is Outcome.CLEAR
        assert rig.machine.table.size == 2

    def test_nobody_to_tell(self) -> None:
        """Without other holders a writer need not wait, and is told so beforehand."""
        rig = Rig()
        rig.up("writer")
        rig.promise("writer", fid(2))
        changed = [(fid(2), BreakReason.DATA_CHANGED), (fid(4), BreakReason.DATA_CHANGED)]
        assert not rig.machine.has_other_holders(changed, "writer")
        assert rig.machine.has_other_holders(changed, None)
        assert rig.outcomes[rig.write(fid(2), by="writer")] is Outcome.CLEAR
        assert not rig.machine.has_other_holders([(fid(4), BreakReason.REMOVED)], "writer")

    def test_silent_host_alone_is_down(self) -> None:
        """T9, I7: the host that fails is down, it alone; the writer waits one deadline, once."""
        rig = Rig()
        rig.up("good", "silent")
        rig.promise("good", fid(2), fid(4))
        rig.promise("silent", fid(2), fid(4))
        ticket = rig.write(fid(2))
        rig.ack("good")
        rig.advance(1.9)
        assert ticket not in rig.outcomes
        rig.advance(0.2)
        assert ticket in rig.outcomes
        assert rig.flags("silent") == {"VENUSDOWN"}
        assert rig.flags("good") == {"RESETDONE"}
        second = rig.write(fid(4))
        rig.ack("good")
        assert rig.outcomes[second] is Outcome.CLEAR
        assert len(rig.breaks("silent")) == 1, "a down host is not called (M6)"

    def test_late_ack_brings_a_reset(self) -> None:
        """M6: a down host that is heard from again is reset, and holds nothing."""
        rig = Rig()
        rig.up("late")
        rig.promise("late", fid(2), fid(4))
        rig.write(fid(2))
        rig.advance(3)
        assert rig.machine.table.size == 0, "tossed"
        rig.ack("late")
        assert rig.machine.counters["acks_unexpected"] == 1
        assert isinstance(rig.inbox["late"][0], SendReset)
        assert refused(rig, "late")
        rig.ack("late")
        assert rig.flags("late") == {"RESETDONE"}
        rig.promise("late", fid(2))

    def test_unexpected_ack_of_a_live_host_is_harmless(self) -> None:
        """An ack of something never sent changes nothing but a counter."""
        rig = Rig()
        rig.up("a")
        rig.run(rig.machine.acked("a", rig.channel("a"), 4711, rig.now))
        assert rig.flags("a") == {"RESETDONE"}
        assert not rig.inbox["a"]

    def test_acks_of_a_replaced_channel_count_for_nothing(self) -> None:
        """T18: what comes on the old channel says nothing about the new one."""
        rig = Rig()
        rig.up("a")
        old = rig.channel("a")
        rig.promise("a", fid(2))
        ticket = rig.write(fid(2))
        (message,) = rig.breaks("a")
        rig.attach("a")
        assert rig.closed == [old]
        rig.run(rig.machine.acked("a", old, message.sequence, rig.now))
        rig.run(rig.machine.channel_closed("a", old, rig.now))
        rig.run(rig.machine.lease_renewed("a", old, 1, rig.now))
        assert ticket not in rig.outcomes
        rig.ack("a")
        assert rig.outcomes[ticket] is Outcome.CLEAR, "the reset covers the break"
        assert not rig.renewed

    def test_reattaching_for_ever_holds_no_writer_beyond_the_deadline(self) -> None:
        """I7: a host that attaches again and again, and never acknowledges, costs one deadline."""
        rig = Rig()
        rig.up("evil")
        rig.promise("evil", fid(2))
        ticket = rig.write(fid(2))
        for _ in range(4):
            rig.advance(0.6)
            rig.attach("evil")
        assert rig.outcomes[ticket] is Outcome.HOST_DOWN

    def test_ack_after_the_writer_was_answered(self) -> None:
        """An ack that comes when the writer waits no more is taken all the same."""
        rig = Rig()
        rig.up("evil")
        rig.promise("evil", fid(2))
        ticket = rig.write(fid(2))
        rig.advance(1)
        rig.attach("evil")
        rig.advance(1.5)
        assert rig.outcomes[ticket] is Outcome.HOST_DOWN
        rig.ack("evil")
        assert rig.flags("evil") == {"RESETDONE"}

    def test_lost_channel_ends_the_wait(self) -> None:
        """A holder whose channel breaks is down at once; nobody waits for it."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        ticket = rig.write(fid(2))
        rig.close("a")
        assert rig.outcomes[ticket] is Outcome.CLEAR
        assert rig.flags("a") == {"VENUSDOWN"}

    def test_too_many_breaks_outstanding(self) -> None:
        """A host that lets too many pile up is reset instead of filling the memory."""
        rig = Rig()
        rig.up("slow")
        rig.promise("slow", *(fid(v) for v in range(1, MAX_BREAKS_OUTSTANDING_PER_HOST + 3)))
        for vnode in range(1, MAX_BREAKS_OUTSTANDING_PER_HOST + 1):
            rig.machine.break_callbacks([(fid(vnode), BreakReason.REMOVED)], None, -vnode, rig.now)
        last = MAX_BREAKS_OUTSTANDING_PER_HOST + 1
        rig.outcomes.clear()
        ticket = rig.write(fid(last), fid(last + 1))
        assert rig.outcomes[ticket] is Outcome.CLEAR
        assert rig.flags("slow") == {"VENUSDOWN"}
        assert rig.machine.counters["hosts_marked_down"] == 1

    def test_reasons_are_told_apart(self) -> None:
        """One change with two reasons tells a holder both, each with its Fids."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(1), fid(2))
        ticket = 500
        changed = [(fid(1), BreakReason.DATA_CHANGED), (fid(2), BreakReason.REMOVED)]
        rig.run(rig.machine.break_callbacks(changed, None, ticket, rig.now))
        assert [(m.targets, m.reason) for m in rig.breaks("a")] == [
            ((fid(1),), BreakReason.DATA_CHANGED),
            ((fid(2),), BreakReason.REMOVED),
        ]
        rig.ack("a")
        assert ticket not in rig.outcomes
        rig.ack("a")
        assert rig.outcomes[ticket] is Outcome.CLEAR

    def test_overflow_within_one_change_tells_nothing_more(self) -> None:
        """A host that went down halfway through a change is sent no second message of it."""
        rig = Rig()
        rig.up("slow")
        rig.promise("slow", *(fid(v) for v in range(1, MAX_BREAKS_OUTSTANDING_PER_HOST + 3)))
        for vnode in range(1, MAX_BREAKS_OUTSTANDING_PER_HOST + 1):
            rig.machine.break_callbacks([(fid(vnode), BreakReason.REMOVED)], None, -vnode, rig.now)
        rig.outcomes.clear()
        last = MAX_BREAKS_OUTSTANDING_PER_HOST + 1
        changed = [(fid(last), BreakReason.REMOVED), (fid(last + 1), BreakReason.DATA_CHANGED)]
        rig.run(rig.machine.break_callbacks(changed, None, 9999, rig.now))
        assert rig.outcomes[9999] is Outcome.CLEAR


class TestCalls:
    """CallPreamble: no answer before the break (M7, I3)."""

    def test_break_under_way_holds_the_call(self) -> None:
        """R3, I3: a call waits also for a break that was sent and is not acknowledged yet."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.write(fid(2))
        assert not rig.machine.may_answer("a")
        ticket = rig.call("a")
        assert ticket not in rig.outcomes
        rig.ack("a")
        assert rig.outcomes[ticket] is Outcome.CLEAR
        assert rig.machine.may_answer("a")

    def test_strangers_and_clear_hosts_pass(self) -> None:
        """A host that is owed nothing, or is not known, is answered at once."""
        rig = Rig()
        rig.up("a")
        assert rig.outcomes[rig.call("a")] is Outcome.CLEAR
        assert rig.outcomes[rig.call("stranger")] is Outcome.CLEAR
        assert rig.machine.may_answer("stranger")

    def test_unacknowledged_break_fails_the_call(self) -> None:
        """M7: if the host does not acknowledge, its call fails and it is down."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.write(fid(2))
        ticket = rig.call("a")
        rig.advance(2)
        assert rig.outcomes[ticket] is Outcome.HOST_DOWN
        assert rig.flags("a") == {"VENUSDOWN"}

    def test_call_of_a_down_host_is_answered_after_the_reset(self) -> None:
        """M7: InitCallBackState goes out when the host calls, and must be acknowledged first."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.write(fid(2))
        rig.advance(3)
        rig.inbox["a"].clear()
        ticket = rig.call("a")
        assert isinstance(rig.inbox["a"][0], SendReset)
        again = rig.call("a")
        assert len(rig.inbox["a"]) == 1, "one reset for all its calls"
        rig.ack("a")
        assert rig.outcomes[ticket] is rig.outcomes[again] is Outcome.CLEAR

    def test_unacknowledged_reset_fails_the_call(self) -> None:
        """T25, M7: without the ack of the reset the host stays down, whatever else it sends."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.write(fid(2))
        rig.advance(3)
        ticket = rig.call("a")
        rig.renew("a")
        rig.advance(2)
        assert rig.outcomes[ticket] is Outcome.HOST_DOWN
        assert rig.flags("a") == {"VENUSDOWN"}
        assert not rig.renewed

    def test_down_host_without_channel_must_attach(self) -> None:
        """M7: a call waits for the host to attach, no longer than the deadline."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.close("a")
        lost = rig.call("a")
        rig.advance(2)
        assert rig.outcomes[lost] is Outcome.HOST_DOWN
        ticket = rig.call("a")
        rig.up("a")
        assert rig.outcomes[ticket] is Outcome.CLEAR

    def test_too_many_waiting_calls(self) -> None:
        """T17, I7: calls that wait for their own host's ack are bounded; others are not touched."""
        rig = Rig()
        rig.up("silent", "other")
        rig.promise("silent", fid(2))
        rig.write(fid(2))
        tickets = [rig.call("silent") for _ in range(MAX_WAITING_CALLS_PER_HOST + 1)]
        assert rig.outcomes == {tickets[-1]: Outcome.TOO_MANY_WAITING}
        assert rig.machine.may_answer("other")

    def test_caller_that_hung_up(self) -> None:
        """An abandoned call leaves its place and is resolved no more."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.write(fid(2))
        ticket = rig.call("a")
        rig.machine.call_abandoned("a", ticket)
        rig.machine.call_abandoned("stranger", ticket)
        rig.ack("a")
        assert ticket not in rig.outcomes

    def test_call_outlives_its_deadline_though_the_host_acks(self) -> None:
        """A host that acknowledges but is owed ever more cannot hold its call for ever."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2), fid(4), fid(6))
        rig.write(fid(2))
        ticket = rig.call("a")
        for vnode in (4, 6):
            rig.advance(1)
            rig.write(fid(vnode))
            rig.ack("a")
        assert rig.outcomes[ticket] is Outcome.HOST_DOWN
        assert rig.flags("a") == {"RESETDONE"}


class TestLeases:
    """The channel lease (I8)."""

    def test_renewals_keep_a_host_up(self) -> None:
        """A host that renews in time stays up for ever."""
        rig = Rig()
        rig.up("a")
        for number in range(1, 9):
            rig.advance(9)
            rig.renew("a", number)
        assert rig.renewed == list(range(1, 9))
        assert rig.flags("a") == {"RESETDONE"}

    def test_marked_host_is_told_before_its_renewal_is_answered(self) -> None:
        """I8: after a give-back no lease starts anew for what was marked."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.mark()
        rig.renew("a")
        assert len(rig.breaks("a")) == 1
        assert rig.renewed == [1]

    def test_quiet_host_goes_down(self) -> None:
        """After the lease the client trusts nothing, so the server tosses before a writer waits."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.advance(11)
        assert rig.flags("a") == {"VENUSDOWN"}
        assert rig.outcomes[rig.write(fid(2))] is Outcome.CLEAR

    def test_lease_watch_ends_with_the_channel(self) -> None:
        """A host that went down otherwise is not marked down again by its old lease."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.close("a")
        rig.up("a")
        rig.promise("a", fid(2))
        rig.close("a")
        rig.advance(30)
        assert rig.machine.counters["hosts_marked_down"] == 2

    def test_down_host_that_renews_is_reset(self) -> None:
        """M6: a renewal is being heard from; it is answered only after the reset."""
        rig = Rig()
        rig.up("a")
        rig.advance(11)
        rig.renew("a")
        assert not rig.renewed
        rig.ack("a")
        rig.renew("a", 2)
        assert rig.renewed == [2]

    def test_strict_writer_outlives_the_lease(self) -> None:
        """I8, strict: the answer waits until the silent holder's lease has run out."""
        rig = Rig(CallBackSettings(strict=True))
        rig.up("silent")
        rig.promise("silent", fid(2), fid(4))
        rig.advance(4)
        ticket = rig.write(fid(2))
        rig.advance(5.9)
        assert rig.flags("silent") == {"VENUSDOWN"}
        assert ticket not in rig.outcomes
        second = rig.write(fid(4))
        assert second not in rig.outcomes, "tossed promises are waited for as well"
        rig.advance(0.2)
        assert rig.outcomes[ticket] is Outcome.CLEAR
        assert rig.outcomes[second] is Outcome.CLEAR

    def test_strict_writer_is_answered_at_once_when_all_acknowledge(self) -> None:
        """I8, strict: with live holders it costs nothing."""
        rig = Rig(CallBackSettings(strict=True))
        rig.up("a")
        rig.promise("a", fid(2))
        ticket = rig.write(fid(2))
        rig.ack("a")
        assert rig.outcomes[ticket] is Outcome.CLEAR

    def test_strict_writer_and_a_lost_channel(self) -> None:
        """I8, strict: a broken channel says nothing about what its client still trusts."""
        rig = Rig(CallBackSettings(strict=True))
        rig.up("a")
        rig.promise("a", fid(2))
        rig.close("a")
        ticket = rig.write(fid(2))
        assert ticket not in rig.outcomes
        rig.advance(11)
        assert rig.outcomes[ticket] is Outcome.CLEAR

    def test_strict_overflow(self) -> None:
        """I8, strict: a holder that is reset instead of told is waited for."""
        rig = Rig(CallBackSettings(strict=True))
        rig.up("slow")
        rig.promise("slow", *(fid(v) for v in range(1, MAX_BREAKS_OUTSTANDING_PER_HOST + 2)))
        for vnode in range(1, MAX_BREAKS_OUTSTANDING_PER_HOST + 1):
            rig.machine.break_callbacks([(fid(vnode), BreakReason.REMOVED)], None, -vnode, rig.now)
        ticket = rig.write(fid(MAX_BREAKS_OUTSTANDING_PER_HOST + 1))
        assert ticket not in rig.outcomes
        rig.advance(11)
        assert rig.outcomes[ticket] is Outcome.CLEAR

    def test_strict_sweep_keeps_tossed_promises_while_a_lease_runs(self) -> None:
        """I8, strict: memory is freed only when nobody need be waited for."""
        rig = Rig(CallBackSettings(strict=True, channel_lease_s=100))
        rig.up("a")
        rig.promise("a", fid(2))
        rig.close("a")
        rig.advance(PROMISE_SWEEP_S + 1)
        assert rig.machine.table.volumes
        rig.advance(2 * PROMISE_SWEEP_S)
        assert not rig.machine.table.volumes


class TestHosts:
    """Hosts come and go."""

    def test_flags_combine(self) -> None:
        """T7: flags are bits, not one status."""
        rig = Rig()
        rig.up("a")
        rig.promise("a", fid(2))
        rig.mark()
        assert rig.machine.hosts["a"].flags == HostFlag.HFE_LATER | HostFlag.RESETDONE

    def test_host_that_held_nothing_is_forgotten(self) -> None:
        """A clean leave leaves nothing behind."""
        rig = Rig()
        rig.up("a")
        rig.close("a")
        assert not rig.machine.hosts
        assert rig.forgotten == ["a"]
        rig.run(rig.machine.channel_closed("a", 1, rig.now))
        rig.run(rig.machine.acked("a", 1, 1, rig.now))

    def test_down_host_expires(self) -> None:
        """T15: a host that never comes back is forgotten, long after every lease."""
        rig = Rig()
        rig.up("a", "b")
        rig.promise("a", fid(2))
        rig.promise("b", fid(2))
        rig.close("a")
        rig.close("b")
        rig.advance(HOST_EXPIRY_S / 2)
        rig.up("b")
        rig.promise("b", fid(2))
        while rig.now < 1000 + HOST_EXPIRY_S + 1:
            rig.advance(9)
            rig.renew("b")
        assert set(rig.machine.hosts) == {"b"}
        assert rig.forgotten == ["a"]

    def test_memory_returns_after_a_down_host(self) -> None:
        """R4: the entries of a host that went down are freed, not kept for ever."""
        rig = Rig()
        rig.up("a", "b")
        rig.promise("a", *(fid(vnode) for vnode in range(1, 3000)))
        rig.promise("b", fid(1))
        rig.close("a")
        assert rig.machine.table.size == 1
        while rig.now < 1000 + PROMISE_SWEEP_S + 1:
            rig.advance(9)
            rig.renew("b")
        (volume,) = rig.machine.table.volumes.values()
        assert sum(len(segment) for segment in volume.segments.values()) == 1

    def test_restarted_fileserver_knows_its_hosts(self) -> None:
        """I9: hosts of an earlier life are down until they are reset."""
        rig = Rig(known_hosts=("a",))
        assert rig.flags("a") == {"VENUSDOWN"}
        lost = rig.call("a")
        rig.advance(2)
        assert rig.outcomes[lost] is Outcome.HOST_DOWN
        rig.up("a")
        assert rig.outcomes[rig.call("a")] is Outcome.CLEAR

    def test_reset_that_is_not_acknowledged(self) -> None:
        """A new host that never acknowledges its reset is down, and is told again when heard."""
        rig = Rig()
        rig.attach("a")
        rig.advance(2)
        assert rig.flags("a") == {"VENUSDOWN"}
        rig.renew("a")
        assert len(rig.inbox["a"]) == 2

    def test_down_host_loses_its_channel_during_a_reset(self) -> None:
        """A reset under way ends with its channel."""
        rig = Rig()
        rig.attach("a")
        rig.advance(2)
        ticket = rig.call("a")
        rig.close("a")
        assert rig.outcomes[ticket] is Outcome.HOST_DOWN
        assert rig.flags("a") == {"VENUSDOWN"}

    def test_watched_events(self) -> None:
        """People who watch see promises, marks, breaks, acks and failures."""
        rig = Rig()
        rig.machine.deliveries.observing = True
        rig.up("a")
        rig.promise("a", fid(2), fid(3, 8))
        rig.mark()
        rig.work_off()
        rig.ack("a")
        rig.write(fid(3, 8))
        rig.advance(2)
        assert [one.event for one in rig.seen] == [
            "reset.sent",
            "host.attached",
            "reset.acked",
            "promise.given",
            "promise.given",
            "volume.marked",
            "break.sent",
            "break.acked",
            "break.sent",
            "break.failed",
            "host.marked_down",
        ]

    def test_machine_without_hosts_ticks(self) -> None:
        """An idle machine has a deadline (its sweep) and survives it."""
        machine = CallBackMachine(CallBackSettings(), 0.0)
        assert machine.next_deadline() == PROMISE_SWEEP_S
        assert machine.tick(PROMISE_SWEEP_S) == []
