"""Give-back under `later`: M1-M7, E1, E2 and the pitfalls of marks, statement by statement."""

from __future__ import annotations

from afs.limits import MAX_BREAKS_OUTSTANDING_PER_HOST, WORKER_SLICE_HOSTS, WORKER_SLICE_PROMISES
from afs.types import BreakReason, whole_volume_fid
from afsd.core.deadlines import Deadlines
from afsd.core.instructions import Outcome
from afsd.core.policy import POLICIES
from tests.afsd.core.rig import Rig, fid


def test_mark_sends_nothing_and_wakes_the_worker() -> None:
    """M1, M3, I2: the mark does no I/O; all it asks for is the worker."""
    rig = Rig()
    rig.up("a", "b")
    rig.promise("a", fid(2), fid(4))
    rig.promise("b", fid(2))
    assert rig.mark() == 3
    assert rig.wakes == 1
    assert not rig.inbox["a"]
    assert not rig.inbox["b"]


def test_marked_flags_are_visible() -> None:
    """M2: FE_LATER and CB_DELAYED on what was promised, HFE_LATER on the hosts, nothing else."""
    rig = Rig()
    rig.up("a", "b")
    rig.promise("a", fid(2))
    rig.promise("b", fid(2, 8))
    rig.mark()
    seen = {
        (one, callback.session.host.uuid, later) for one, callback, later in rig.machine.callbacks()
    }
    assert seen == {(fid(2), "a", True), (fid(2, 8), "b", False)}
    assert rig.flags("a") == {"HFE_LATER", "RESETDONE"}
    assert rig.flags("b") == {"RESETDONE"}


def test_one_message_per_host_for_the_whole_volume() -> None:
    """M4, M5: each host is told once, `volume.0.0`; the worker is told when it is done."""
    rig = Rig()
    rig.up("a", "b", "c")
    rig.promise("a", *(fid(vnode) for vnode in range(2, 50)))
    rig.promise("b", fid(2))
    rig.mark()
    assert rig.work() == 1
    rig.work_off()
    assert rig.work() == 0
    for host in ("a", "b"):
        (message,) = rig.breaks(host)
        assert message.targets == (whole_volume_fid(7),)
        assert message.reason is BreakReason.VOLUME_GIVEN_BACK
    assert not rig.inbox["c"]


def test_hfe_later_goes_with_the_ack_and_stays_after_a_failure() -> None:
    """T11, E1: cleared after success; a host that fails is VENUSDOWN and owed a reset."""
    rig = Rig()
    rig.up("a", "b")
    rig.promise("a", fid(2))
    rig.promise("b", fid(2))
    rig.mark()
    rig.work_off()
    assert "HFE_LATER" in rig.flags("a")
    rig.ack("a")
    assert rig.flags("a") == {"RESETDONE"}
    rig.advance(2)
    assert rig.flags("b") == {"VENUSDOWN"}
    assert not rig.machine.may_answer("b")


def test_marks_of_a_volume_nobody_holds() -> None:
    """T13: a break request before anybody holds anything is harmless."""
    rig = Rig()
    assert rig.mark() == 0
    assert rig.wakes == 0
    assert rig.work() == 0


def test_three_volumes_interleaved() -> None:
    """T1: each volume is broken exactly once, in the order of the marks."""
    rig = Rig()
    rig.up("a", "b")
    for volume in (7, 8, 9):
        rig.promise("a", fid(2, volume), fid(4, volume))
    rig.promise("b", fid(2, 8))
    for volume in (8, 7, 9):
        rig.mark(volume)
    rig.work_off()
    assert [message.targets[0].volume for message in rig.breaks("a")] == [8, 7, 9]
    assert [message.targets[0].volume for message in rig.breaks("b")] == [8]


def test_marks_that_come_while_the_worker_runs() -> None:
    """T3: the work ends only when nothing is left, also what came meanwhile."""
    rig = Rig()
    rig.up("a")
    for volume in (7, 8, 9):
        rig.promise("a", fid(2, volume))
    rig.mark(7)
    rig.work()
    rig.mark(8)
    rig.work()
    rig.mark(9)
    rig.work_off()
    assert [message.targets[0].volume for message in rig.breaks("a")] == [7, 8, 9]


def test_host_that_calls_before_the_worker_comes() -> None:
    """M7, T2, I6: BreakDelayedCallBacks tells it at once, and the worker does not tell it again."""
    rig = Rig()
    rig.up("a", "b")
    rig.promise("a", fid(2), fid(2, 8))
    rig.promise("b", fid(2))
    rig.mark(7)
    rig.mark(8)
    ticket = rig.call("a")
    assert [message.targets[0].volume for message in rig.breaks("a")] == [7, 8]
    assert not rig.inbox["b"]
    rig.work_off()
    assert len(rig.breaks("a")) == 2
    assert len(rig.breaks("b")) == 1
    rig.ack("a")
    assert ticket not in rig.outcomes
    rig.ack("a")
    assert rig.outcomes[ticket] is Outcome.CLEAR


def test_host_that_calls_while_the_worker_dismantles() -> None:
    """T2: dismantling touches nothing a calling host needs."""
    rig = Rig()
    rig.up("a")
    rig.promise("a", *(fid(vnode) for vnode in range(1, 4 * WORKER_SLICE_PROMISES)))
    rig.mark()
    rig.work()
    rig.work()
    ticket = rig.call("a")
    rig.work()
    rig.ack("a")
    assert rig.outcomes[ticket] is Outcome.CLEAR
    rig.promise("a", fid(2))
    rig.work_off()
    assert rig.machine.table.size == 1


def test_promise_after_the_mark_is_not_broken() -> None:
    """T6, E2: it is neither lost nor broken: its sequence is beyond the mark's."""
    rig = Rig()
    rig.up("a")
    (before,) = rig.promise("a", fid(2))
    rig.mark()
    (after,) = rig.promise("a", fid(2))
    rig.work_off()
    (message,) = rig.breaks("a")
    assert before.sequence <= message.through < after.sequence
    assert rig.machine.table.size == 1
    rig.ack("a")
    rig.write(fid(2))
    assert len(rig.breaks("a")) == 1, "and a later change breaks it"


def test_entry_reuse_starts_clean() -> None:
    """T5: an entry made anew after a mark is not FE_LATER."""
    rig = Rig()
    rig.up("a")
    rig.promise("a", fid(2))
    rig.mark()
    rig.promise("a", fid(2))
    assert sorted(later for *_, later in rig.machine.callbacks()) == [False, True]
    rig.work_off()
    assert [later for *_, later in rig.machine.callbacks()] == [False]


def test_eager_re_promiser() -> None:
    """T14, I6: a client that takes promises as fast as it is told hears of each change once."""
    rig = Rig()
    rig.up("eager")
    rig.promise("eager", fid(2))
    rig.mark()
    messages = 0
    for _ in range(50):
        rig.work()
        while rig.inbox["eager"]:
            rig.ack("eager")
            messages += 1
        rig.promise("eager", fid(2))
    assert messages == 1


def test_down_host_is_not_told() -> None:
    """M6: a mark after the host went down sends nothing; the reset will cover it."""
    rig = Rig()
    rig.up("down", "up")
    rig.promise("down", fid(2), fid(3, 8))
    rig.promise("up", fid(2), fid(3, 8))
    rig.mark(8)
    rig.close("down")
    rig.mark(7)
    rig.work_off()
    assert not rig.inbox["down"]
    assert len(rig.breaks("up")) == 2


def test_host_goes_while_it_is_owed() -> None:
    """T15: a host that leaves in the middle of its break leaves no loose end."""
    rig = Rig()
    rig.up("a")
    rig.promise("a", fid(2), fid(3, 8))
    rig.mark(7)
    rig.work_off()
    rig.mark(8)
    rig.close("a")
    rig.work_off()
    rig.advance(5)
    assert rig.flags("a") == {"VENUSDOWN"}
    assert not rig.machine.later.marked


def test_host_reattaches_while_it_is_owed() -> None:
    """T18: the reset on the new channel covers marks it was not told of."""
    rig = Rig()
    rig.up("a")
    rig.promise("a", fid(2))
    rig.mark()
    rig.up("a")
    rig.work_off()
    assert not rig.inbox["a"]
    assert rig.flags("a") == {"RESETDONE"}


def test_two_volumes_and_the_same_hosts_do_not_wait_for_each_other() -> None:
    """T10, R5, I7: a hung holder of one volume delays no other host and no other volume."""
    rig = Rig()
    rig.up("hung", "live")
    rig.promise("hung", fid(2, 7), fid(2, 8))
    rig.promise("live", fid(2, 8), fid(2, 7))
    rig.mark(7)
    rig.mark(8)
    rig.work_off()
    assert len(rig.breaks("live")) == 2
    rig.ack("live")
    rig.ack("live")
    assert rig.machine.may_answer("live")


def test_marking_goes_on_while_clients_hang() -> None:
    """T4: no mark waits for a client, however many hang."""
    rig = Rig()
    rig.up("hung")
    for volume in range(10, 60):
        rig.promise("hung", fid(2, volume))
        assert rig.mark(volume) == 1
        rig.work_off()
    assert len(rig.breaks("hung")) == 50


def test_many_hosts_are_told_in_slices() -> None:
    """The worker gives the loop back between slices of hosts, and tells them all."""
    rig = Rig()
    hosts = [f"h{number}" for number in range(WORKER_SLICE_HOSTS + 5)]
    rig.up(*hosts)
    for host in hosts:
        rig.promise(host, fid(2))
    rig.mark()
    rig.work()
    assert sum(bool(rig.inbox[host]) for host in hosts) == WORKER_SLICE_HOSTS
    rig.work_off()
    assert all(len(rig.breaks(host)) == 1 for host in hosts)


def test_mark_that_is_one_too_many() -> None:
    """A host with too many breaks outstanding is reset instead of told, and nobody waits for it."""
    rig = Rig()
    rig.up("slow")
    machine, now = rig.machine, rig.now
    for volume in range(10, 10 + MAX_BREAKS_OUTSTANDING_PER_HOST + 1):
        machine.give_promise("slow", fid(2, volume), now)
        machine.break_volume_callbacks_later(volume, BreakReason.VOLUME_GIVEN_BACK)
    while machine.break_later_callbacks(now)[0]:
        pass
    machine.check()
    assert rig.flags("slow") == {"VENUSDOWN"}
    assert not machine.later.marked


def test_marked_set_with_tossed_promises_shows_only_live_ones() -> None:
    """DumpCallBacks shows neither promises of ended sessions nor volumes nobody holds."""
    rig = Rig()
    rig.up("a", "b")
    rig.promise("a", fid(2), fid(3, 8))
    rig.promise("b", fid(2))
    rig.close("a")
    assert [callback.session.host.uuid for _, callback, _ in rig.machine.callbacks()] == ["b"]
    rig.mark()
    rig.mark(8)
    assert [later for *_, later in rig.machine.callbacks()] == [True]
    assert not rig.machine.has_other_holders([(fid(2, 9), BreakReason.REMOVED)], None)


def test_a_large_entry_is_dismantled_piece_by_piece() -> None:
    """The worker's slice is in promises: many holders of few files take several slices as well."""
    rig = Rig()
    hosts = [f"h{number}" for number in range(WORKER_SLICE_PROMISES // 2)]
    for number, host in enumerate(hosts):
        rig.machine.attach(host, number, "", "", rig.now)
        rig.machine.acked(host, number, number + 1, rig.now)
        for vnode in range(1, 6):
            rig.machine.give_promise(host, fid(vnode), rig.now)
    rig.machine.break_volume_callbacks_later(7, BreakReason.VOLUME_GIVEN_BACK)
    slices = 0
    while rig.machine.break_later_callbacks(rig.now)[0]:
        slices += 1
    assert slices >= len(hosts) // WORKER_SLICE_HOSTS + 3


def test_handler_that_breaks_by_itself() -> None:
    """Other policies: the ticket ends when every holder has acknowledged or is down."""
    rig = Rig()
    rig.up("a", "silent")
    rig.promise("a", fid(2))
    rig.promise("silent", fid(2))
    marked, instructions = rig.machine.break_volume_callbacks(
        7, BreakReason.VOLUME_GIVEN_BACK, 77, rig.now
    )
    rig.run(instructions)
    assert marked == 2
    rig.ack("a")
    assert 77 not in rig.outcomes
    rig.advance(2)
    assert rig.outcomes[77] is Outcome.CLEAR
    rig.work_off()
    _, instructions = rig.machine.break_volume_callbacks(
        7, BreakReason.VOLUME_GIVEN_BACK, 78, rig.now
    )
    rig.run(instructions)
    assert rig.outcomes[78] is Outcome.CLEAR


def test_policies_are_the_four_of_the_mail() -> None:
    """Mechanism §2: `later` alone leaves the work to the worker; `sync` alone acks last."""
    assert list(POLICIES) == ["later", "sync", "ack-first", "hot-thread"]
    assert [name for name, policy in POLICIES.items() if policy.by_worker] == ["later"]
    assert [name for name, policy in POLICIES.items() if not policy.acks_first] == ["sync"]


def test_deadlines_come_in_order() -> None:
    """Equal times come in the order they were added."""
    deadlines: Deadlines[str] = Deadlines()
    assert deadlines.next() is None
    for due, thing in ((2, "c"), (1, "a"), (1, "b"), (9, "d")):
        deadlines.add(due, thing)
    assert list(deadlines.due(2)) == ["a", "b", "c"]
    assert deadlines.next() == 9
