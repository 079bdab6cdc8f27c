"""Plans: forward, back, and past the point of no return."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volserverd.core import move_steps, release_steps, site_steps, steps
from volserverd.core.plan import Ended, Ending, Perform, Plan
from volserverd.core.step import Role, Step, StepKind

LISTS = {
    "create": steps.create_steps(),
    "delete": steps.delete_steps(main=True, backup=False, entry=True),
    "delete with backup": steps.delete_steps(main=True, backup=True, entry=True),
    "delete the backup": steps.delete_steps(main=False, backup=True, entry=True),
    "delete without entry": steps.delete_steps(main=True, backup=False, entry=False),
    "first backup": steps.backup_steps(has_backup=False),
    "backup": steps.backup_steps(has_backup=True),
    "dump": steps.dump_steps(),
    "restore over": steps.restore_over_steps(),
    "restore new": steps.restore_new_steps(),
    "plan a restore over": steps.restore_plan_steps(Role.MAIN),
    "plan a restore": steps.restore_plan_steps(Role.TEMPORARY),
    "offline": steps.offline_steps(),
    "set fields": steps.set_fields_steps(),
    "clone": site_steps.clone_steps(),
    "remove site": site_steps.remove_site_steps(on_disk=True),
    "remove empty site": site_steps.remove_site_steps(on_disk=False),
    "rename": site_steps.rename_steps([Role.MAIN, Role.BACKUP]),
    "release": release_steps.release_steps(),
    "plan a release": release_steps.release_plan_steps(),
    "rename copy": site_steps.rename_copy_steps(),
    "move": move_steps.move_steps(has_backup=False),
    "move with backup": move_steps.move_steps(has_backup=True),
    "copy": move_steps.copy_steps(),
    "plan a move": move_steps.plan_steps(),
}


def run(
    plan_steps: list[Step], *, fail_at: int = -1, may: bool = False, cancel_at: int = -1
) -> tuple[list[tuple[str, str]], Ending]:
    """Performs a plan; the steps performed, each with its way and role, and the ending."""
    plan = Plan(plan_steps)
    performed = []
    if cancel_at == 0:
        plan.cancel()
    instruction = plan.start()
    count = 0
    while isinstance(instruction, Perform):
        count += 1
        way = "undo" if instruction.undoing else "do"
        performed.append((way, f"{instruction.step.kind.name} {instruction.step.role.name}"))
        if count == cancel_at:
            plan.cancel()
        failing = count == fail_at
        instruction = plan.failed(may_have_happened=may) if failing else plan.succeeded()
    return performed, instruction.ending


@pytest.mark.parametrize("name", LISTS)
def test_without_failures_every_step_is_performed_in_order(name: str) -> None:
    """A plan that nothing disturbs performs its steps, once each, in order."""
    performed, ending = run(LISTS[name])
    assert performed == [("do", f"{s.kind.name} {s.role.name}") for s in LISTS[name]]
    assert ending is Ending.DONE


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("may", [False, True])
def test_a_failure_anywhere_gives_every_taken_volume_back(name: str, may: bool) -> None:
    """Whatever fails (R7), every volume that was taken is given back, left off or forgotten."""
    ends = {"GIVE_BACK", "LEAVE_OFF", "FORGET", "TELL_MOVED"}
    for fail_at in range(1, len(LISTS[name]) + 1):
        performed, ending = run(LISTS[name], fail_at=fail_at, may=may)
        failed = performed[fail_at - 1][1]
        for role in Role:
            took = [i for i, (_, s) in enumerate(performed) if s == f"TAKE {role.name}"]
            if took and (may or failed != f"TAKE {role.name}"):
                later = {s.split()[0] for _, s in performed[took[0] :] if s.endswith(role.name)}
                assert later & ends, f"{name}: step {failed} failed, {role} was kept: {performed}"
        assert ending in (Ending.UNDONE, Ending.DONE_WITH_FAILURES)


@pytest.mark.parametrize("name", LISTS)
def test_a_cancelled_plan_turns_round_or_ends_forward(name: str) -> None:
    """A cancel is honoured between steps, and not past the point of no return (P2)."""
    plan_steps = LISTS[name]
    for cancel_at in range(len(plan_steps) + 1):
        performed, ending = run(plan_steps, cancel_at=cancel_at)
        done = [step for way, step in performed if way == "do"]
        past = any(step.no_return for step in plan_steps[:cancel_at])
        if past or cancel_at == len(plan_steps):
            assert ending is Ending.DONE
            assert len(done) == len(plan_steps)
        else:
            assert ending is Ending.UNDONE
            assert len(done) == cancel_at


def test_the_old_copy_goes_only_when_the_site_was_switched() -> None:
    """R7: a move that fails before is undone as a whole; one that fails after goes on."""
    plan_steps = LISTS["move with backup"]
    switch = next(i for i, step in enumerate(plan_steps, 1) if step.no_return)
    assert plan_steps[switch - 1].kind is StepKind.SWITCH_SITE
    for fail_at in range(1, len(plan_steps) + 1):
        performed, ending = run(plan_steps, fail_at=fail_at)
        names = [step for _, step in performed]
        if fail_at <= switch:
            assert ending is Ending.UNDONE
            assert not {"SET_ASIDE MAIN", "PUT_ON_THERE MAIN", "TELL_MOVED MAIN"} & set(names)
            marked = "MARK_IN_TRANSIT MAIN" in names[: fail_at - 1]
            assert ("UNMARK MAIN" in names) is marked
        else:
            assert ending is Ending.DONE_WITH_FAILURES
            assert {"SET_ASIDE MAIN", "TELL_MOVED MAIN", "SETTLE_ENTRY MAIN"} <= set(names)


def test_steps_are_undone_in_reverse_order() -> None:
    """P1, shown on the creation of a volume whose introduction to the fileserver fails."""
    assert run(steps.create_steps(), fail_at=3) == (
        [
            ("do", "CREATE_ENTRY MAIN"),
            ("do", "CREATE_ON_DISK MAIN"),
            ("do", "INTRODUCE MAIN"),
            ("undo", "REMOVE_CREATED MAIN"),
            ("undo", "SETTLE_ENTRY MAIN"),
        ],
        Ending.UNDONE,
    )


def test_a_step_that_may_have_happened_is_undone_too() -> None:
    """VOL_ON was not answered: the volume may be in service, so it is withdrawn."""
    performed, _ = run(steps.create_steps(), fail_at=3, may=True)
    assert ("undo", "WITHDRAW MAIN") in performed


def test_past_the_point_of_no_return_every_step_is_tried() -> None:
    """P2: the volume is deleted; that the fileserver cannot be told does not keep its entry."""
    performed, ending = run(LISTS["delete"], fail_at=4)
    assert [step for _, step in performed] == [
        "LOCK_ENTRY MAIN",
        "TAKE MAIN",
        "DELETE_ON_DISK MAIN",
        "FORGET MAIN",
        "SETTLE_ENTRY MAIN",
    ]
    assert ending is Ending.DONE_WITH_FAILURES


def test_going_on_back_after_an_undoing_step_failed() -> None:
    """The fileserver does not take the volume back: the rest is undone all the same."""
    plan = Plan(steps.create_steps())
    plan.start()
    plan.succeeded()
    plan.succeeded()
    assert plan.failed() == Perform(Step(StepKind.REMOVE_CREATED), undoing=True, number=3, total=4)
    assert plan.going_back
    assert not plan.past_no_return
    assert plan.failed() == Perform(Step(StepKind.SETTLE_ENTRY), undoing=True, number=3, total=4)
    assert plan.succeeded() == Ended(Ending.UNDONE_WITH_FAILURES)


def test_a_step_without_undo_leaves_nothing_to_undo() -> None:
    """A step that may have happened and cannot be undone does not stop the way back."""
    plan = Plan([Step(StepKind.GIVE_BACK), Step(StepKind.SEND)])
    plan.start()
    assert plan.failed(may_have_happened=True) == Ended(Ending.UNDONE)


@given(st.sampled_from(sorted(LISTS)), st.lists(st.sampled_from("sfmc"), min_size=1, max_size=40))
def test_plans_keep_their_invariants(name: str, events: list[str]) -> None:
    """P1 and P2 under any sequence of successes, failures, lost answers and cancels."""
    plan_steps = LISTS[name]
    plan = Plan(plan_steps)
    instruction = plan.start()
    owed: list[Step] = []
    tried = 0
    for event in events:
        if isinstance(instruction, Ended):
            break
        if event == "c":
            plan.cancel()
            continue
        step, undoing = instruction.step, instruction.undoing
        if undoing:
            assert not plan.past_no_return, "P2: nothing is undone past the point of no return"
            assert step == owed.pop(), "P1: in reverse order"
        else:
            assert step == plan_steps[tried]
            tried += 1
            if step.undo is not None and event in "sm":
                owed.append(step.undo)
        was_past = plan.past_no_return
        instruction = (
            plan.succeeded() if event == "s" else plan.failed(may_have_happened=event == "m")
        )
        if was_past:
            assert not plan.going_back
    if isinstance(instruction, Ended):
        assert plan.going_back is (
            instruction.ending in (Ending.UNDONE, Ending.UNDONE_WITH_FAILURES)
        )
        assert not plan.going_back or not owed, "P1: everything was undone"
        assert plan.going_back or tried == len(plan_steps), "P2: no step was left out"
