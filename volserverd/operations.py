"""Runs operations: each is a transaction with a plan, and outlives the call that began it.

Theory of operation
    An operation runs in a task of its own. A client that hangs up asks it to end, as do an operator
    (EndTransaction), the idle limit and a stop of the daemon; asked, it undoes what it has begun,
    gives its volumes back, and ends. Nothing cancels the task itself: a volume half taken would be
    nobody's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, Protocol, TypeVar

import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_STREAMING_TRANSACTIONS
from afs.runtime.clock import Clock
from afs.runtime.driver import Driver
from afs.v1 import vol_server_pb2
from volserverd.core.plan import Ending, Perform, Plan
from volserverd.core.step import Step
from volserverd.core.transaction import Transaction, TransactionTable

_log = structlog.get_logger(__name__)

T = TypeVar("T")

_PROGRESS_KEPT: Final = 100
# Operations that hold a thread as long as their peer likes.
_STREAMING: Final = ("dump", "restore", "receive", "move", "copy", "release")
# No answer came, or we failed ourselves: nobody knows what was done.
_MAY_HAVE_HAPPENED: Final = frozenset({AfsCode.RX_CALL_DEAD, AfsCode.VNOSERVICE})


class Worker(Protocol):
    """Does the steps of one operation."""

    async def perform(self, step: Step) -> None:
        """Does one step; AfsError if it cannot."""

    def interrupt(self, error: AfsError) -> None:
        """Ends a step that waits for a peer, with this error."""


class Operation:
    """One running operation. Made by `Operations.begin`.

    Attributes:
        left_something: it has ended, and some step of it that had to be done could not be.
    """

    def __init__(self, operations: Operations, transaction: Transaction) -> None:
        self._operations = operations
        self._transaction = transaction
        self._worker: Worker | None = None
        self._plan: Plan | None = None
        self._asked: AfsError | None = None
        self._interruptible = False
        self.left_something = False
        self._ended = False
        self._progress: asyncio.Queue[vol_server_pb2.Progress | None] = asyncio.Queue(
            _PROGRESS_KEPT
        )

    @property
    def name(self) -> str:
        """What is done, as people know it: "backup"."""
        return self._transaction.operation

    @property
    def is_going_back(self) -> bool:
        """True once the operation is being undone."""
        return self._plan is not None and self._plan.going_back

    def claim(self, volume_ids: Collection[int], name: str) -> None:
        """Keeps everybody else from the volumes until the operation ends.

        Raises:
            AfsError: VBUSY, naming the operation that has one of them (R8).
        """
        table, now = self._operations.table, self._operations.clock.now()
        refusal = table.claim(self._transaction.transaction_id, volume_ids, now)
        if refusal is not None:
            raise AfsError(
                AfsCode.VBUSY,
                f"volume {name} is busy: {refusal.operation} of volume {refusal.volume_id} has been"
                f" running for {refusal.age_s:.1f} s ({refusal.step}; transaction"
                f" {refusal.transaction_id})",
            )

    def now(self) -> float:
        """Steady seconds."""
        return self._operations.clock.now()

    def touch(self) -> None:
        """The client showed a sign of life."""
        self._operations.table.touch(self._transaction.transaction_id, self._operations.clock.now())

    def report(self, step: str, done: int, total: int, unit: str) -> None:
        """Tells the client how far it is; nobody waits, and old news give way to new ones."""
        if self._progress.full():
            self._progress.get_nowait()
        self._progress.put_nowait(
            vol_server_pb2.Progress(step=step, done=done, total=total, unit=unit)
        )

    async def next_progress(self) -> vol_server_pb2.Progress | None:
        """The next news; None when the operation has ended."""
        return await self._progress.get()

    def ask_to_end(self, error: AfsError) -> None:
        """Has the operation undone, unless it is past its point of no return."""
        if self._asked is not None or self._ended:
            return
        self._asked = error
        _log.info("operation.asked_to_end", operation=self.name, detail=error.detail)
        if self._plan is not None:
            self._plan.cancel()
        if self._worker is not None and self._interruptible:
            self._worker.interrupt(error)

    async def work(self, worker: Worker, steps: Sequence[Step]) -> None:
        """Works through the steps; returns when all are done.

        Raises:
            AfsError: why not; what was begun has been undone, or the detail says what was not.
        """
        self._worker = worker
        plan = self._plan = Plan(steps)
        if self._asked is not None:
            plan.cancel()
        first: AfsError | None = None
        not_undone: list[str] = []
        instruction = plan.start()
        while isinstance(instruction, Perform):
            error = await self._perform(worker, instruction)
            if error is None:
                instruction = plan.succeeded()
                continue
            first = first or error
            if instruction.undoing:
                not_undone.append(f"{instruction.step.kind.value}: {error.detail}")
            instruction = plan.failed(may_have_happened=error.code in _MAY_HAVE_HAPPENED)
        await self._end(plan, instruction.ending, first, not_undone)

    async def _end(
        self, plan: Plan, ending: Ending, first: AfsError | None, not_undone: Sequence[str]
    ) -> None:
        """Raises unless all is done."""
        self.left_something = ending in (Ending.DONE_WITH_FAILURES, Ending.UNDONE_WITH_FAILURES)
        if ending is Ending.DONE:
            return
        error = self._asked if plan.going_back and self._asked is not None else first
        assert error is not None, f"{self.name} ended {ending.name} without a failure"
        _log.info(
            "operation.failed",
            operation=self.name,
            ending=ending.name,
            code=error.code.name,
            detail=error.detail,
            not_undone=list(not_undone),
        )
        if ending is Ending.DONE_WITH_FAILURES:
            raise AfsError(error.code, f"{self.name} is done, but: {error.detail}")
        if ending is Ending.UNDONE_WITH_FAILURES:
            detail = f"{error.detail}; left for later: {'; '.join(not_undone)}"
            raise AfsError(error.code, detail)
        raise error

    async def _perform(self, worker: Worker, instruction: Perform) -> AfsError | None:
        """Does one step; what went wrong, if anything."""
        step = instruction.step
        waits = step.waits_for_client and not instruction.undoing
        self._interruptible = step.interruptible and not instruction.undoing
        self._operations.table.step(
            self._transaction.transaction_id,
            step.kind.value,
            self._operations.clock.now(),
            waits_for_client=waits,
        )
        self._operations.driver.poke()
        if not instruction.undoing:
            self.report(step.kind.value, instruction.number - 1, instruction.total, "steps")
        began = self.now()
        try:
            await worker.perform(step)
        except AfsError as error:
            return error
        except Exception as error:
            # A bug of ours must not keep the volume: it fails the step as any other failure does.
            _log.exception("operation.step_failed", operation=self.name, step=step.kind.name)
            return AfsError(AfsCode.VNOSERVICE, f"internal error: {type(error).__name__}")
        finally:
            _log.debug(
                "operation.step_ended",
                operation=self.name,
                step=step.kind.name,
                seconds=round(self.now() - began, 4),
            )
        return None

    def ended(self) -> None:
        """Tells it that it has ended: no more news, and nothing to be asked."""
        self._ended = True
        if self._progress.full():
            self._progress.get_nowait()
        self._progress.put_nowait(None)


class Operations:
    """All running operations.

    Args:
        clock: steady time.
        idle_limit_s: an operation whose client is silent this long is ended.

    Attributes:
        table: the transactions.
        stopping: no operation begins any more.
    """

    def __init__(self, clock: Clock, idle_limit_s: float) -> None:
        self.clock = clock
        self.table = TransactionTable(idle_limit_s)
        self.driver = Driver(deadline=self.table.deadline, tick=self._expire, clock=clock)
        self._running: dict[int, Operation] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.stopping = False

    def start(
        self, name: str, run: Callable[[Operation], Awaitable[T]], *, streams: bool = False
    ) -> tuple[Operation, asyncio.Task[T]]:
        """Starts an operation: a transaction that ends when `run` does.

        Args:
            name: what people call it.
            run: what it does; gets the operation, ends with an AfsError if it fails.
            streams: it holds a thread as long as its client likes; of these there are only so many.

        Raises:
            AfsError: VRESTARTING while the daemon stops; VLIMIT for too many streams.
        """
        if self.stopping:
            raise AfsError(AfsCode.VRESTARTING, "the volserver is stopping")
        if streams and self._streaming() >= MAX_STREAMING_TRANSACTIONS:
            raise AfsError(
                AfsCode.VLIMIT,
                f"{MAX_STREAMING_TRANSACTIONS} dumps, restores and transfers are running:"
                " try again later",
            )
        transaction = self.table.begin(name, self.clock.now())
        operation = Operation(self, transaction)
        self._running[transaction.transaction_id] = operation
        task = asyncio.create_task(self._run(transaction.transaction_id, operation, run))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return operation, task

    async def _run(
        self,
        transaction_id: int,
        operation: Operation,
        run: Callable[[Operation], Awaitable[T]],
    ) -> T:
        try:
            return await run(operation)
        finally:
            del self._running[transaction_id]
            self.table.end(transaction_id)
            self.driver.poke()
            operation.ended()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Marks it as seen: the client may have hung up.
            task.exception()

    def _streaming(self) -> int:
        return sum(operation.name in _STREAMING for operation in self._running.values())

    def ask_to_end(self, transaction_id: int, reason: str) -> None:
        """Asks one operation to end; VNOVOL if there is none. A second time does nothing."""
        if self.table.get(transaction_id) is None:
            raise AfsError(AfsCode.VNOVOL, f"no transaction {transaction_id} is running")
        if self.table.ask_to_end(transaction_id, reason):
            self._running[transaction_id].ask_to_end(AfsError(AfsCode.EAGAIN, reason))

    def _expire(self, now: float) -> None:
        for transaction_id in self.table.expire(now):
            transaction = self.table.get(transaction_id)
            assert transaction is not None and transaction.asked_to_end is not None
            self._running[transaction_id].ask_to_end(
                AfsError(
                    AfsCode.EAGAIN, f"{transaction.operation} ended: {transaction.asked_to_end}"
                )
            )

    async def stop(self) -> None:
        """Has all operations end, and waits until they have given their volumes back."""
        self.stopping = True
        for operation in self._running.values():
            operation.ask_to_end(AfsError(AfsCode.VRESTARTING, "the volserver is stopping"))
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.driver.close()
