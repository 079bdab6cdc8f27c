"""One attachment of a volume: the time from when the fileserver opened it until it lets go of it.

Theory of operation
    A method that serves a file asks the volume table for the attachment and works through it.
    Everything that touches the disk runs in a thread and is counted while it runs, also when the
    call that wanted it is cancelled, because the thread cannot be. `detach` first ends the
    attachment for newcomers (`online` is False from that step of the event loop on), then waits for
    what is running, closes what streams still hold open, and closes the volume. So a program that
    was given the volume over FSSync never shares it with a thread of ours.

    A stream (FetchData, StoreData, ReadDir) comes back here for each piece. Once the volume is
    being taken away it is told what has become of it: VBUSY at first, VMOVED after a move.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Protocol, TypeVar

from afs.errors import AfsError
from afs.types import VolumeHeader, VolumeType
from afs.volume.group_commit import GroupCommit
from afs.volume.partition import Partition
from afs.volume.volume import Mutation, Outcome, Volume

T = TypeVar("T")


class Closable(Protocol):
    """Something that holds on to a volume's data until it is closed."""

    def close(self) -> None:
        """Lets go; a no-op when closed."""


C = TypeVar("C", bound=Closable)


class AttachedVolume:
    """A volume while it is attached.

    Args:
        volume: the open volume.
        partition: where it is.
        commits: makes its changes.
        executor: threads for reading it.
        why_gone: what to tell those who come back to it when it is not online any more.

    Attributes:
        volume: the open volume. Only `header` and `cached_vnode` may be called on it directly, in
            the event loop.
        online: False from the moment the volume is being taken away.
        read_only: True for a volume whose promises are given for the whole of it.
    """

    def __init__(
        self,
        volume: Volume,
        partition: Partition,
        commits: GroupCommit,
        executor: Executor,
        why_gone: Callable[[], AfsError],
    ) -> None:
        self.volume = volume
        self.partition = partition
        self.online = True
        self.read_only = volume.header().type is not VolumeType.READ_WRITE
        self._commits = commits
        self._executor = executor
        self._why_gone = why_gone
        self._running: set[asyncio.Future[Any]] = set()
        self._held: set[Closable] = set()

    def check(self) -> None:
        """Raises AfsError once the volume is being taken away: VBUSY, VMOVED … as it is now."""
        if not self.online:
            raise self._why_gone()

    def start(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """Runs a function on the volume in a thread; errors as for `check`."""
        self.check()
        return self._run(function, *args)

    async def read(self, function: Callable[..., T], *args: Any) -> T:
        """What a function on the volume returns, run in a thread; errors as for `check`."""
        return await asyncio.shield(self.start(function, *args))

    async def submit(self, mutation: Mutation) -> Outcome:
        """Commits a change, in one batch with those that come at the same time; then durable."""
        self.check()
        return await self._commits.submit(mutation)

    async def open(self, opener: Callable[..., C], *args: Any) -> C:
        """Opens something that is to be given back by `release`; `detach` closes it if need be."""
        opening = self.start(opener, *args)
        # The volume may go, or the call be cancelled, while the thread runs: it is held from the
        # moment it exists.
        opening.add_done_callback(self._hold)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(self._release_opened)
            raise

    def release(self, held: Closable, after: asyncio.Future[Any] | None = None) -> None:
        """Closes what `open` gave, once `after`, which still uses it, is done. Never blocks."""
        if after is not None and not after.done():
            after.add_done_callback(lambda _: self.release(held))
        elif held in self._held:
            self._held.discard(held)
            _ = self._run(held.close)

    def forget(self, held: Closable) -> None:
        """Lets go of what `open` gave and what needs no closing any more."""
        self._held.discard(held)

    async def detach(self, executor: Executor) -> VolumeHeader:
        """Lets go of the volume.

        Args:
            executor: for closing: the threads that serve files may all be busy.

        Returns:
            The header after the last change.

        Raises:
            AfsError: if the volume could not be closed properly; it is not in use any more all the
                same.
        """
        self.online = False
        await self._commits.drain()
        while self._running:
            await asyncio.wait(self._running)
        held, self._held = list(self._held), set()
        return await asyncio.get_running_loop().run_in_executor(executor, self._close, held)

    def _close(self, held: list[Closable]) -> VolumeHeader:
        """Closes everything; in a thread."""
        for each in held:
            each.close()
        header = self.volume.header()
        self.volume.close()
        return header

    def _run(self, function: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        future = asyncio.get_running_loop().run_in_executor(self._executor, function, *args)
        self._running.add(future)
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._running.discard(future)
        if not future.cancelled():
            # Marks it as seen: whoever wanted to know may have been cancelled.
            future.exception()

    def _hold(self, opening: asyncio.Future[Any]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            self._held.add(opening.result())

    def _release_opened(self, opening: asyncio.Future[Any]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            self.release(opening.result())
