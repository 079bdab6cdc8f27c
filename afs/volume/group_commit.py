"""Group commit: what arrives while one commit is under way is committed together by the next.

Theory of operation
    `submit` queues a change and waits for its outcome. One task at a time takes up to
    GROUP_COMMIT_MAX queued changes and applies them in a thread; a single writer so pays one fsync,
    and many writers share one. When the queue is empty the volume's garbage is collected, in
    slices, a new change waiting for at most one of them.

    A caller that is cancelled while it waits leaves its change queued: it may happen or not, as
    with any lost answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import ParamSpec, TypeVar

from afs.errors import AfsError
from afs.limits import GROUP_COMMIT_MAX
from afs.volume.volume import Mutation, Outcome, Volume

P = ParamSpec("P")
R = TypeVar("R")


class GroupCommit:
    """Changes to one volume from one event loop.

    Args:
        volume: the volume.
        executor: the threads its blocking calls run in.
    """

    def __init__(self, volume: Volume, executor: Executor) -> None:
        self._volume = volume
        self._executor = executor
        self._queue: deque[tuple[Mutation, asyncio.Future[Outcome]]] = deque()
        self._task: asyncio.Task[None] | None = None

    async def submit(self, mutation: Mutation) -> Outcome:
        """The outcome of a change, which is then on disk; raises the change's AfsError."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        self._queue.append((mutation, answer))
        if self._task is None or self._task.done():
            self._task = loop.create_task(
                self._run(), name=f"group-commit-{self._volume.volume_id}"
            )
        return await answer

    async def read(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What a blocking function returns, run in the executor."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))

    async def drain(self) -> None:
        """Returns when all that was submitted is committed and its garbage collected."""
        while self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._queue:
            await self._commit_some()
            while not self._queue and await self._collect_some():
                pass

    async def _commit_some(self) -> None:
        count = min(len(self._queue), GROUP_COMMIT_MAX)
        batch = [self._queue.popleft() for _ in range(count)]
        results: list[Outcome | AfsError]
        try:
            results = await self.read(self._volume.apply, [mutation for mutation, _ in batch])
        except BaseException as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for (_, answer), result in zip(batch, results, strict=True):
            if answer.done():
                continue
            if isinstance(result, AfsError):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    async def _collect_some(self) -> bool:
        try:
            return await self.read(self._volume.collect)
        except AfsError:
            # The space is freed another time; a disk that fails will tell the next change too.
            return False
