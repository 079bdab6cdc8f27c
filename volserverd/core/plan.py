"""How an operation goes forward step by step, and back when something fails.

Theory of operation
    A plan is a list of steps. The shell performs the step it is told to and reports how it ended:
    `succeeded` or `failed`. A step that failed, or a wish to cancel (looked at between steps),
    turns the plan round: the undoing steps of everything done so far are performed in reverse
    order, and the plan ends.

    A step may be a point of no return: once it has succeeded, there is nothing to go back to (the
    volume is deleted; the dump is swapped in), so the plan goes forward to its end whatever fails
    and whoever cancels, and every later step is tried.

    A failure may leave open whether the step happened (the fileserver died before it answered).
    Then the step itself is undone too; so undoing steps do nothing where there is nothing to undo.

Transitions
    state     event                      next state
    forward   succeeded, more to do      forward: the next step
    forward   succeeded, nothing left    ended: DONE, or DONE_WITH_FAILURES after failures
    forward   succeeded, cancelled       back, unless past the point of no return
    forward   failed                     back; past the point of no return: forward, the next step
    back      succeeded or failed        back: the next undoing step; none left: ended UNDONE or
              UNDONE_WITH_FAILURES

Invariants
    P1  Every step that succeeded, or may have, is undone exactly once, in reverse order, unless
        the plan ends forward.
    P2  Past the point of no return no step is undone and none is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from volserverd.core.step import Step


class Ending(Enum):
    """How a plan ended."""

    DONE = auto()
    # Past the point of no return; some later step failed.
    DONE_WITH_FAILURES = auto()
    UNDONE = auto()
    # Something could not be undone; recovery takes it up.
    UNDONE_WITH_FAILURES = auto()


@dataclass(frozen=True, slots=True)
class Perform:
    """Perform this step and report how it ended; `number` of `total` steps, from 1."""

    step: Step
    undoing: bool
    number: int
    total: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing more to do."""

    ending: Ending


class Plan:
    """One operation's way through its steps. See the module's theory of operation."""

    def __init__(self, steps: Sequence[Step]) -> None:
        assert steps, "a plan without steps has nothing to do"
        self._steps = tuple(steps)
        self._at = 0
        self._to_undo: list[Step] = []
        self._going_back = False
        self._no_return = False
        self._cancelled = False
        self._failures = 0

    @property
    def going_back(self) -> bool:
        """True once the plan has turned round."""
        return self._going_back

    @property
    def past_no_return(self) -> bool:
        """True once a point of no return has been passed."""
        return self._no_return

    def start(self) -> Perform | Ended:
        """The first step; nothing at all if the plan was cancelled before."""
        return self._turn_round() if self._cancelled else self._forward()

    def cancel(self) -> None:
        """The plan should not go on; seen when the step that runs has ended."""
        self._cancelled = True

    def succeeded(self) -> Perform | Ended:
        """The step has been performed."""
        if self._going_back:
            return self._back()
        step = self._steps[self._at]
        self._at += 1
        self._no_return = self._no_return or step.no_return
        if step.undo is not None:
            self._to_undo.append(step.undo)
        if self._cancelled and not self._no_return and self._at < len(self._steps):
            return self._turn_round()
        return self._forward()

    def failed(self, *, may_have_happened: bool = False) -> Perform | Ended:
        """The step was not performed, or, with `may_have_happened`, nobody knows."""
        self._failures += 1
        if self._going_back:
            return self._back()
        step = self._steps[self._at]
        self._at += 1
        if self._no_return:
            return self._forward()
        if may_have_happened and step.undo is not None:
            self._to_undo.append(step.undo)
        return self._turn_round()

    def _forward(self) -> Perform | Ended:
        if self._at < len(self._steps):
            return Perform(
                self._steps[self._at], undoing=False, number=self._at + 1, total=len(self._steps)
            )
        return Ended(Ending.DONE_WITH_FAILURES if self._failures else Ending.DONE)

    def _turn_round(self) -> Perform | Ended:
        self._going_back = True
        self._failures = 0
        return self._back()

    def _back(self) -> Perform | Ended:
        if self._to_undo:
            return Perform(
                self._to_undo.pop(), undoing=True, number=self._at, total=len(self._steps)
            )
        return Ended(Ending.UNDONE_WITH_FAILURES if self._failures else Ending.UNDONE)
