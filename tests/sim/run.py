"""Runs histories, and makes of a failure something that people can read and repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from tests.sim.cell import Cell
from tests.sim.plan import Action, Plan, make_plan


@dataclass(frozen=True, slots=True)
class Failure:
    """A history that broke a rule.

    Attributes:
        plan: what happened.
        steps: at which step it broke.
        what: which rule, and how.
    """

    plan: Plan
    steps: int
    what: str

    @property
    def rule(self) -> str:
        """The rule that was broken."""
        return self.what.split(":")[0]

    @property
    def repeat(self) -> str:
        """The line that repeats it."""
        return f"make sim SEED={self.plan.seed} STEPS={self.steps}"


@dataclass(slots=True)
class Tally:
    """What was run."""

    histories: int = 0
    steps: int = 0
    reads: int = 0
    reads_excused: int = 0
    reads_kept: int = 0
    breaks: int = 0
    quiet_points: int = 0


def run_plan(plan: Plan, tally: Tally, max_steps: int = 10**9) -> Failure | None:
    """Runs one history; how it failed, or None."""
    cell = Cell(plan)
    failure = None
    try:
        cell.run(max_steps)
    except AssertionError as error:
        failure = Failure(plan, cell.kernel.steps, str(error) or "an assertion of a core")
    tally.histories += 1
    tally.steps += cell.kernel.steps
    tally.reads += cell.checker.reads
    tally.reads_excused += cell.checker.reads_excused
    tally.reads_kept += cell.checker.reads_kept
    tally.breaks += cell.checker.breaks_taken_in
    tally.quiet_points += cell.quiet_points
    return failure


def run_seeds(
    seed: int, steps: int, tally: Tally, on_history: Callable[[], None] | None = None
) -> Failure | None:
    """Runs the histories of this seed and the next ones until so many steps are done."""
    while tally.steps < steps:
        failure = run_plan(make_plan(seed), tally, steps - tally.steps)
        if failure is not None:
            return failure
        seed += 1
        if on_history is not None:
            on_history()
    return None


def shrink(failure: Failure, attempts: int = 600) -> Failure:
    """Leaves out actions for as long as the same rule is broken (delta debugging).

    Args:
        failure: what to shrink.
        attempts: histories to try at most.
    """
    before = [action for action in failure.plan.actions if action.at <= _last_moment(failure)]
    best = _fails_alike(failure, before) or failure
    chunk = max(1, len(best.plan.actions) // 2)
    while attempts > 0:
        at, shorter = 0, False
        while at < len(best.plan.actions) and attempts > 0:
            actions = best.plan.actions
            attempts -= 1
            found = _fails_alike(failure, [*actions[:at], *actions[at + chunk :]])
            if found is None:
                at += chunk
            else:
                best, shorter = found, True
        if chunk == 1 and not shorter:
            break
        chunk = max(1, chunk // 2)
    return best


def _last_moment(failure: Failure) -> float:
    cell = Cell(failure.plan)
    with suppress(AssertionError):
        cell.run()
    return cell.kernel.now


def _fails_alike(failure: Failure, actions: Sequence[Action]) -> Failure | None:
    found = run_plan(replace(failure.plan, actions=tuple(actions)), Tally())
    return found if found is not None and found.rule == failure.rule else None


def story(failure: Failure, lines: int = 120) -> str:
    """The history of a failure in words: the cell, what was done to it, what came of it."""
    log: list[str] = []
    cell = Cell(failure.plan, log)
    what = failure.what
    try:
        cell.run()
    except AssertionError as error:
        what = str(error) or what
    left_out = [f"     (… {len(log) - lines} lines before)"] if len(log) > lines else []
    plan = failure.plan
    return "\n".join(
        [
            f"coherence {'strict' if plan.strict else 'bounded'}, "
            f"policy {'later' if plan.by_worker else 'sync'}, lease {plan.lease_s:g} s, "
            f"break deadline {plan.break_deadline_s:g} s, network {plan.delay_s * 1000:g} ms, "
            f"{len(plan.actions)} actions",
            *left_out,
            *log[-lines:],
            what,
        ]
    )
