"""Simulated time, processes that can freeze and die, and tasks that wait for one another.

Theory of operation
    There is one heap of events. An event belongs to a `Process` or to the world (the network, the
    plan). Events of a dead process vanish; those of a frozen one wait until it is thawed, and then
    run in an order that nobody promised. Real time is `Kernel.now`; a process sees it through its
    own `Clock`, which runs a little fast or slow.

    Shells are written as coroutines, as the real ones are; a `Task` runs one. What is done between
    two awaits is one step for everybody else, as in an event loop.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Cancelled(BaseException):
    """Thrown into a task that was cancelled."""


class Clock:
    """A machine's clock.

    Args:
        rate: local seconds in a real one.
        offset: local time at real time 0.
    """

    def __init__(self, rate: float, offset: float) -> None:
        self.rate = rate
        self.offset = offset
        # The wall clock is set by hand now and then; the steady one never.
        self.wall_offset = 1_700_000_000.0

    def local(self, real: float) -> float:
        """Steady seconds at a real time."""
        return self.offset + self.rate * real

    def real(self, local: float) -> float:
        """The real time at which the steady clock shows this."""
        return (local - self.offset) / self.rate


class Process:
    """Something that can freeze (SIGSTOP), be thawed, and die.

    Attributes:
        alive: False for ever once it was killed.
        frozen: True while its events only pile up.
    """

    def __init__(self, kernel: Kernel, name: str, clock: Clock) -> None:
        self.kernel = kernel
        self.name = name
        self.clock = clock
        self.alive = True
        self.frozen = False
        self.backlog: list[tuple[Callable[..., None], tuple[Any, ...]]] = []

    def now(self) -> float:
        """Steady seconds as this process sees them."""
        clock = self.clock
        return clock.offset + clock.rate * self.kernel.now

    def soon(self, function: Callable[..., None], *args: Any) -> None:
        """Has a function called in a turn of its own."""
        self.kernel.at(self.kernel.now, self, function, *args)

    def after(self, local_s: float, function: Callable[..., None], *args: Any) -> None:
        """Has a function called when so much time has passed on the local clock."""
        self.kernel.at(self.kernel.now + local_s / self.clock.rate, self, function, *args)

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> Task[T]:
        """Runs a coroutine in a task; it begins in a turn of its own."""
        return Task(self, coroutine)

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Runs a coroutine that nobody waits for."""
        _ = Task(self, coroutine)

    def freeze(self) -> None:
        """SIGSTOP."""
        self.frozen = True

    def thaw(self, rng: random.Random) -> None:
        """SIGCONT: what piled up is done at once, timers and messages in any order."""
        if not self.frozen:
            return
        self.frozen = False
        backlog, self.backlog = self.backlog, []
        rng.shuffle(backlog)
        for function, args in backlog:
            self.soon(function, *args)

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self.backlog.clear()


class Future(Generic[T]):
    """Something that will be known; done once."""

    __slots__ = ("_waiters", "done", "error", "value")

    def __init__(self) -> None:
        self.done = False
        self.value: T | None = None
        self.error: BaseException | None = None
        self._waiters: list[Callable[[], None]] = []

    def set(self, value: T) -> None:
        """It is known now; a second time is ignored."""
        if not self.done:
            self.value = value
            self._finish()

    def fail(self, error: BaseException) -> None:
        """It will never be known, for this reason."""
        if not self.done:
            self.error = error
            self._finish()

    def _finish(self) -> None:
        self.done = True
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()

    def on_done(self, waiter: Callable[[], None]) -> None:
        """Calls back at once when it is done."""
        if self.done:
            waiter()
        else:
            self._waiters.append(waiter)

    def forget(self, waiter: Callable[[], None]) -> None:
        """Calls that one back no more."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def result(self) -> T:
        """What became known."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]

    def __await__(self) -> Generator[Future[T], None, T]:
        if not self.done:
            yield self
        return self.result()


class Task(Future[T]):
    """A coroutine that runs in a process."""

    __slots__ = ("_awaits", "_coroutine", "_process", "_wakes")

    def __init__(self, process: Process, coroutine: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self._process = process
        self._coroutine = coroutine
        self._awaits: Future[Any] | None = None
        # Counts waits, so that a wake-up that was overtaken by a cancellation is known as such.
        self._wakes = 0
        process.kernel.tasks[self] = None
        process.soon(self._step, 0, None)

    def cancel(self) -> None:
        """Throws Cancelled into it, in a turn of its own."""
        if not self.done:
            if self._awaits is not None:
                self._awaits.forget(self._wake)
            self._wakes += 1
            self._process.soon(self._step, self._wakes, Cancelled())

    def close(self) -> None:
        """Ends it without a word; at the end of a simulation."""
        self._coroutine.close()

    def _wake(self) -> None:
        self._process.soon(self._step, self._wakes, None)

    def _step(self, wakes: int, error: BaseException | None) -> None:
        if self.done or wakes != self._wakes:
            return
        self._wakes += 1
        self._awaits = None
        try:
            awaits = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration as stop:
            self._end()
            self.set(stop.value)
        except Cancelled as cancelled:
            self._end()
            self.fail(cancelled)
        except AssertionError:
            self._end()
            raise
        except Exception as failure:
            self._end()
            self.fail(failure)
            if not self.expected(failure):
                raise
        else:
            self._awaits = awaits
            awaits.on_done(self._wake)

    def _end(self) -> None:
        self._process.kernel.tasks.pop(self, None)

    def expected(self, failure: Exception) -> bool:
        """True for errors that whoever waits for the task gets; others are bugs."""
        return isinstance(failure, self._process.kernel.expected_errors)


class Kernel:
    """The events of one simulation, in order of real time.

    Attributes:
        now: real seconds.
        steps: events that were carried out.
        tasks: those that have not ended.
        expected_errors: exceptions with which tasks may end.
    """

    def __init__(self, expected_errors: tuple[type[Exception], ...] = ()) -> None:
        self.now = 0.0
        self.steps = 0
        self.tasks: dict[Task[Any], None] = {}
        self.expected_errors = expected_errors
        self._heap: list[
            tuple[float, int, Process | None, Callable[..., None], tuple[Any, ...]]
        ] = []
        self._order = count()

    def at(
        self, when: float, process: Process | None, function: Callable[..., None], *args: Any
    ) -> None:
        """Has a function called at a real time, on behalf of a process or of the world."""
        heapq.heappush(
            self._heap, (max(when, self.now), next(self._order), process, function, args)
        )

    def step(self, until: float) -> tuple[bool, Process | None]:
        """Carries out the next event that is due before `until`.

        Returns:
            False if there is none; and the process that the event was of.
        """
        heap = self._heap
        while heap and heap[0][0] <= until:
            when, _, process, function, args = heapq.heappop(heap)
            self.now = when
            if process is not None:
                if not process.alive:
                    continue
                if process.frozen:
                    process.backlog.append((function, args))
                    continue
            self.steps += 1
            function(*args)
            return True, process
        self.now = until
        return False, None

    def close(self) -> None:
        """Ends all tasks."""
        for task in list(self.tasks):
            task.close()
        self.tasks.clear()


class Level:
    """A flag that tasks wait for, like `asyncio.Event`: a level, not an edge."""

    def __init__(self) -> None:
        self.is_set = False
        self._raised: Future[None] = Future()

    def set(self) -> None:
        """Raises it."""
        self.is_set = True
        self._raised.set(None)

    def clear(self) -> None:
        """Lowers it."""
        self.is_set = False
        if self._raised.done:
            self._raised = Future()

    async def wait(self, process: Process, timeout_s: float) -> bool:
        """True when it is raised; False if it is not for so long."""
        if self.is_set:
            return True
        return await within(process, self._raised, timeout_s)


async def sleep(process: Process, local_s: float) -> None:
    """Returns after so much local time."""
    over: Future[None] = Future()
    process.after(local_s, over.set, None)
    await over


async def within(process: Process, future: Future[Any], timeout_s: float) -> bool:
    """Waits until a future is done, or so much local time has passed; whether it is done."""
    if future.done:
        return True
    over: Future[None] = Future()
    wake = lambda: over.set(None)  # noqa: E731
    future.on_done(wake)
    process.after(timeout_s, over.set, None)
    await over
    future.forget(wake)
    return future.done
