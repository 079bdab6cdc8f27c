"""Operations by themselves: a worker that is told what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from afs.errors import AfsCode, AfsError
from tests.fakes import FakeClock
from tests.volserverd.running import refused
from volserverd.core import steps
from volserverd.core.step import Step, StepKind
from volserverd.operations import Operation, Operations


class Scripted:
    """A worker that fails at chosen steps, and waits for the client until it is interrupted."""

    def __init__(self, failures: dict[StepKind, Exception] | None = None) -> None:
        self.failures = failures or {}
        self.performed: list[StepKind] = []
        self.reached = asyncio.Event()
        self.interrupted: asyncio.Future[None] | None = None

    async def perform(self, step: Step) -> None:
        """Notes the step, and fails if told so."""
        self.performed.append(step.kind)
        if step.kind in self.failures:
            raise self.failures[step.kind]
        if step.waits_for_client:
            self.interrupted = asyncio.get_running_loop().create_future()
            self.reached.set()
            await self.interrupted

    def interrupt(self, error: AfsError) -> None:
        """The client will not answer."""
        assert self.interrupted is not None
        self.interrupted.set_exception(error)


@pytest.fixture
def clock() -> FakeClock:
    """Time that the test moves."""
    return FakeClock()


@pytest.fixture
def operations(clock: FakeClock) -> Operations:
    """No operation runs."""
    return Operations(clock, idle_limit_s=60)


async def work(operations: Operations, worker: Scripted, plan: Sequence[Step]) -> None:
    """Runs one operation to its end."""
    _, task = operations.start("test", lambda operation: operation.work(worker, plan))
    await task


@pytest.mark.expects_error_event
async def test_a_bug_in_a_step_gives_the_volume_back(operations: Operations) -> None:
    """An exception of ours is told as internal, without its text, and undone like any failure."""
    worker = Scripted({StepKind.CLONE: ZeroDivisionError("secret")})
    with refused(AfsCode.VNOSERVICE, "internal error: ZeroDivisionError"):
        await work(operations, worker, steps.backup_steps(has_backup=False))
    assert worker.performed[-2:] == [StepKind.GIVE_BACK, StepKind.SETTLE_ENTRY]
    assert operations.table.running() == []


async def test_what_could_not_be_undone_is_told(operations: Operations) -> None:
    """The client hears the first error, and what is left for later."""
    worker = Scripted(
        {
            StepKind.CLONE: AfsError(AfsCode.VDISKFULL, "no room"),
            StepKind.GIVE_BACK: AfsError(AfsCode.RX_CALL_DEAD, "no fileserver"),
        }
    )
    with refused(AfsCode.VDISKFULL, "no room; left for later: giving the volume back"):
        await work(operations, worker, steps.backup_steps(has_backup=False))


async def test_what_is_done_with_failures_is_told(operations: Operations) -> None:
    """Past the point of no return the client hears that it is done, and what failed."""
    worker = Scripted({StepKind.FORGET: AfsError(AfsCode.RX_CALL_DEAD, "no fileserver")})
    with refused(AfsCode.RX_CALL_DEAD, "test is done, but: no fileserver"):
        await work(operations, worker, steps.delete_steps(main=True, backup=False, entry=True))
    assert worker.performed[-1] is StepKind.SETTLE_ENTRY


async def test_an_operation_asked_to_end_before_it_works_does_nothing(
    operations: Operations,
) -> None:
    """A client that hangs up while its volume is looked up has nothing done to it."""
    worker, looked_up = Scripted(), asyncio.Event()

    async def run(operation: Operation) -> None:
        await looked_up.wait()
        await operation.work(worker, steps.create_steps())

    operation, task = operations.start("test", run)
    operation.ask_to_end(AfsError(AfsCode.RX_CALL_DEAD, "the client hung up"))
    looked_up.set()
    with refused(AfsCode.RX_CALL_DEAD, "hung up"):
        await task
    assert worker.performed == []


async def test_only_waiting_for_the_client_runs_out(
    operations: Operations, clock: FakeClock
) -> None:
    """X4 with the driver: silence ends the operation, a touch puts that off."""
    worker = Scripted()
    operation, task = operations.start(
        "test", lambda operation: operation.work(worker, steps.dump_steps())
    )
    await worker.reached.wait()
    clock.advance(59)
    operation.touch()
    clock.advance(59)
    operations.driver.poke()
    await asyncio.sleep(0)
    assert not task.done()
    clock.advance(1)
    operations.driver.poke()
    with refused(AfsCode.EAGAIN, "test ended: its client was silent for 60 s"):
        await task
    assert worker.performed[-2:] == [StepKind.DELETE_TEMPORARY, StepKind.GIVE_BACK]


async def test_news_that_nobody_reads_are_dropped(operations: Operations) -> None:
    """Progress never holds up the work: the oldest goes, the end of the news stays."""

    async def run(operation: Operation) -> None:
        for number in range(1000):
            operation.report("copying", number, 1000, "files")

    operation, task = operations.start("test", run)
    await task
    news = []
    while (progress := await operation.next_progress()) is not None:
        news.append(progress.done)
    assert 0 < len(news) < 1000
    assert news == sorted(news)
    assert news[-1] == 999


async def test_nothing_begins_while_stopping(operations: Operations) -> None:
    """A stop refuses what comes later, and waits for what runs."""
    worker = Scripted()
    _, task = operations.start("test", lambda o: o.work(worker, steps.dump_steps()))
    await worker.reached.wait()
    await operations.stop()
    with refused(AfsCode.VRESTARTING, "stopping"):
        operations.start("test", lambda o: o.work(worker, steps.dump_steps()))
    with refused(AfsCode.VRESTARTING, "stopping"):
        await task
