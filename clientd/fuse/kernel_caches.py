"""What the kernel has cached of ours, and how it learns that it is stale.

Theory of operation
    1. The kernel answers programs from what we told it: names, attributes, data. With each answer
       goes a time until when it may be relied on (`trust`): the end of the promise or of the lease,
       whichever comes first; nothing where there is no promise. So the kernel trusts no longer than
       we do, also when this process is stopped or cut off and can tell it nothing (I8). The times
       are counted in the moment of the answer, in one step with it: a break that is taken in later
       finds the node marked, one that came before has ended the promise.
    2. Data has no such time. The kernel asks for attributes before it reads from its cache once
       they have run out (FUSE_AUTO_INVAL_DATA), and it asks us to open a file: whoever answers with
       another DataVersion than `node.data_version` first has the kernel drop its data (`refresh`),
       or says that it is not to be kept. So data of a file that nobody has open may stay; it is
       used again if it is still right. Of an open file it is dropped by what follows, because
       mapped pages ask nobody.
    3. Whatever ends a promise, or changes a vnode or a name through another door of this client,
       tells `stale`, `changed` or `names_changed`. `settle` then tells the kernel. For a break it
       is called, and waited for, before the break is acknowledged. Attributes are told at once, in
       the loop; names, and everything of open files, in a thread (see `notifier`).
    4. Where that gets stuck: names. A request that holds the directory's lock is under way with us
       (`node.busy`), or comes in between. Then the epoch of the whole mount is increased, which
       takes no lock: every name is looked up before it is next used. Kernels before 6.16 cannot do
       that; there the acknowledgement leaves without, and the name is stale as long as that
       request takes.
       Data: a READ is under way. Attributes are stale already, so every read(2) asks for them; that
       question is not answered before the batch is done (`node.settling`). Mapped pages may be seen
       for as long as the READ takes.
    5. What the mount itself changes, the kernel changes in its own caches: such names are
       `expected`.
    6. The kernel protects itself against answers that it takes in after an invalidation that was
       sent after them: attributes carry a version, a new name is answered under the directory's
       lock. One case it does not: a name that had run out and was looked up again, by a thread
       that was not run between our answer and the invalidation. So names told of within the last
       RECENT_S are invalidated once more after as long; the acknowledgement does not wait for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from afs.errors import AfsError
from afs.types import Fid, Vnode
from clientd.core.entry import CacheEntry
from clientd.fileservers import FileServers
from clientd.fuse import abi
from clientd.fuse.nodes import NO_DATA, Node, Nodes
from clientd.fuse.notifier import Notifier
from clientd.fuse.session import Session
from clientd.journal import Journal

_log = structlog.get_logger(__name__)

# Inodes told of in one turn of the loop: about a millisecond.
SLICE: Final = 256
# A thread that was answered is run within so many seconds, on a busy machine too.
RECENT_S: Final = 1.0
# Names remembered of a directory before those that have run out are looked for.
SWEEP_NAMES: Final = 1024


@dataclass(slots=True)
class _Batch:
    """Notifications that may block.

    Attributes:
        messages: they.
        opened: files among them whose data is dropped.
        has_names: whether there are names among them.
        needs_epoch: whether there are names that only a new epoch can tell of.
        writing: done when they are written; None before that has begun.
    """

    messages: list[bytes] = field(default_factory=list)
    opened: list[Node] = field(default_factory=list)
    has_names: bool = False
    needs_epoch: bool = False
    writing: asyncio.Future[None] | None = None


class KernelCaches:
    """Knows what the kernel relies on, and tells it what is stale. Used in the event loop only.

    Args:
        nodes: the inodes.
        session: where notifications go.
        notifier: where those go that may block.
        servers: tell until when what is cached may be relied on.
        journal: counts.
    """

    def __init__(
        self,
        nodes: Nodes,
        session: Session,
        notifier: Notifier,
        servers: FileServers,
        journal: Journal,
    ) -> None:
        self._nodes = nodes
        self._session = session
        self._notifier = notifier
        self._servers = servers
        self._journal = journal
        self._stale: set[Fid] = set()
        self._stale_names: dict[Fid, set[bytes]] = {}
        self._expected: set[tuple[Fid, bytes]] = set()
        self._scheduled = False
        self._tasks: set[asyncio.Task[Any]] = set()
        # What the kernel is being told at this moment.
        self._settling: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._closing: asyncio.Future[None] = self._loop.create_future()

    # --- what the kernel may rely on ---

    def trust(self, fid: Fid) -> tuple[CacheEntry | None, float]:
        """What is cached of a vnode, and for how many seconds it may be relied on; None and 0."""
        return self._servers.trusted_for(fid)

    def note_attributes(self, node: Node, seconds: float) -> None:
        """The kernel is told attributes that it may rely on for so long."""
        until = self._servers.now() + seconds
        if until > node.told_until:
            node.told_until = until

    def note_name(self, node: Node, name: bytes, seconds: float) -> None:
        """The kernel is told of a name in a directory, or that it is not there."""
        if seconds <= 0:
            return
        node.named_at = now = self._servers.now()
        names = node.names
        if names is None:
            names = node.names = {}
        elif len(names) >= SWEEP_NAMES and not len(names) & (len(names) - 1):
            for old in [old for old, until in names.items() if until <= now]:
                del names[old]
        names[name] = now + seconds

    async def refresh(self, node: Node, vnode: Vnode) -> None:
        """Before an answer with this status: the kernel's data is of its DataVersion, or gone."""
        while node.settling is not None:
            await asyncio.wait([node.settling])
        if node.data_version not in (NO_DATA, vnode.data_version):
            node.data_version = NO_DATA
            await self._begin([abi.inval_inode(node.id, data=True)], [node])

    def mixed(self, node: Node) -> None:
        """The kernel gets data of another version than what it has: it drops all of it."""
        _ = self._begin([abi.inval_inode(node.id, data=True)], [node])

    def refused(self, fid: Fid) -> None:
        """What was written to a file is given up: the kernel has data that nobody else will."""
        for node in self._nodes.of(fid):
            node.data_version = NO_DATA
            self._attributes_stale(node)
            if node.opens:
                self.mixed(node)

    def moved(self, old: tuple[Node, bytes], new: tuple[Node, bytes], trust_s: float) -> None:
        """The kernel moved a name, and relies on it as long as it did on the old one.

        Args:
            old: directory and name.
            new: directory and name.
            trust_s: for how long it may, from now on.
        """
        until = (old[0].names or {}).pop(old[1], 0.0)
        now = self._servers.now()
        if until <= now:
            return
        self.note_name(*new, until - now)
        if trust_s < until - now:
            self.names_changed(new[0].fid, [new[1].decode()])

    # --- what is stale ---

    def stale(self, fid: Fid) -> None:
        """The vnode's promise ended; of a directory, its names are stale as well."""
        if self._nodes.of(fid):
            self._stale.add(fid)
            self._schedule()

    def changed(self, fid: Fid) -> None:
        """A change of our own: attributes are stale; data, if it is not what was written here."""
        entry = self._servers.known(fid)
        for node in self._nodes.of(fid):
            self._attributes_stale(node)
            same = entry is not None and entry.status.data_version == node.data_version
            if node.opens and not same and not node.files and node.data_version != NO_DATA:
                node.data_version = NO_DATA
                self.mixed(node)

    def names_changed(self, directory: Fid, names: Iterable[str]) -> None:
        """These names in a directory changed by our own doing; its promise stands."""
        nodes = self._nodes.of(directory)
        for node in nodes:
            self._attributes_stale(node)
        if not any(node.names for node in nodes):
            return
        encoded = {name.encode("utf-8", "surrogatepass") for name in names}
        changed = {name for name in encoded if (directory, name) not in self._expected}
        if changed:
            self._stale_names.setdefault(directory, set()).update(changed)
            self._schedule()

    def all_stale(self) -> None:
        """Nothing that was cached is relied on (a lost channel, a stall)."""
        now = self._servers.now()
        self._stale.update(
            node.fid for node in self._nodes if node.told_until > now or node.names or node.opens
        )
        if self._stale:
            self._schedule()

    @contextmanager
    def expected(self, *names: tuple[Fid, bytes]) -> Iterator[None]:
        """Around a change of names that the kernel asked for, and will know of by its answer."""
        self._expected.update(names)
        try:
            yield
        finally:
            self._expected.difference_update(names)

    def settle(self) -> asyncio.Future[None] | None:
        """Tells the kernel what is stale.

        Returns:
            None if it knows; else done when it does, or as good as that (see the module). That is
            about everything that became stale before, whoever began to tell it.
        """
        fids, self._stale = list(self._stale), set()
        names, self._stale_names = self._stale_names, {}
        batch = _Batch()
        self._tell(fids[:SLICE], batch)
        for directory, changed in names.items():
            for node in self._nodes.of(directory):
                self._names(node, changed, batch)
        waits = self._begin_batch(batch)
        if waits is not None or len(fids) > SLICE:
            task = self._begin_task(self._settle_rest(fids[SLICE:], waits))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)
        if not self._settling:
            return None
        if len(self._settling) == 1:
            return next(iter(self._settling))
        return self._begin_task(_all_of(list(self._settling)))

    async def close(self) -> None:
        """Ends; nothing is told any more."""
        self._closing.set_result(None)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- within ---

    def _schedule(self) -> None:
        """What is stale is told in the loop's next turn, unless somebody settles before."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        self.settle()

    async def _settle_rest(self, fids: Sequence[Fid], waits: _Batch | None) -> None:
        """Waits for what has begun, and tells the rest of what was stale, in slices."""
        if waits is not None:
            await self._wait(waits)
        for at in range(0, len(fids), SLICE):
            await asyncio.sleep(0)
            batch = _Batch()
            self._tell(fids[at : at + SLICE], batch)
            waits = self._begin_batch(batch)
            if waits is not None:
                await self._wait(waits)

    def _tell(self, fids: Sequence[Fid], batch: _Batch) -> None:
        """Tells at once what cannot block, and adds the rest to the batch."""
        now = self._servers.now()
        for fid in fids:
            for node in self._nodes.of(fid):
                if node.opens and node.data_version != NO_DATA:
                    # This tells of its attributes as well.
                    node.told_until = 0.0
                    node.data_version = NO_DATA
                    batch.messages.append(abi.inval_inode(node.id, data=True))
                    batch.opened.append(node)
                elif node.told_until > now:
                    self._attributes_stale(node, batch.messages)
                if node.names:
                    self._names(node, None, batch)

    def _attributes_stale(self, node: Node, may_block: list[bytes] | None = None) -> None:
        """Tells of a node's attributes: in the loop, unless the file is open (see `notifier`)."""
        if not node.told_until:
            return
        node.told_until = 0.0
        message = abi.inval_inode(node.id, data=False)
        if not node.opens:
            self._session.tell(message)
        elif may_block is not None:
            may_block.append(message)
        else:
            _ = self._begin([message], [])

    def _names(self, node: Node, changed: Iterable[bytes] | None, batch: _Batch) -> None:
        """Names of a directory are stale: these, or all."""
        names = node.names or {}
        now = self._servers.now()
        relied_on = [
            name
            for name in (list(names) if changed is None else changed)
            if names.pop(name, 0.0) > now
        ]
        if not relied_on:
            return
        if node.busy and self._session.minor >= abi.INC_EPOCH_MINOR:
            batch.needs_epoch = True
            return
        expire_only = self._session.minor >= abi.EXPIRE_ONLY_MINOR
        messages = [abi.inval_entry(node.id, name, expire_only=expire_only) for name in relied_on]
        batch.messages += messages
        batch.has_names = True
        if now - node.named_at < RECENT_S:
            self.run(self._once_more(messages))

    async def _once_more(self, messages: list[bytes]) -> None:
        await asyncio.wait([self._closing], timeout=RECENT_S)
        if not self._closing.done():
            await self._begin(messages, [])

    def _increase_epoch(self) -> None:
        self._journal.count("kernel_epochs")
        self._session.tell(abi.inc_epoch())

    def _begin_batch(self, batch: _Batch) -> _Batch | None:
        """Begins to tell what may block; the batch if it is to be waited for."""
        if batch.needs_epoch:
            self._increase_epoch()
        if not batch.messages:
            return None
        batch.writing = self._begin(batch.messages, batch.opened)
        return batch

    async def _wait(self, batch: _Batch) -> None:
        """Waits for a batch; goes on without, when that takes too long."""
        assert batch.writing is not None
        if not await self._notifier.done_soon(batch.writing, len(batch.messages)):
            self._journal.count("kernel_waits_given_up")
            if batch.has_names and self._session.minor >= abi.INC_EPOCH_MINOR:
                self._increase_epoch()

    def _begin(self, messages: list[bytes], opened: Sequence[Node]) -> asyncio.Future[None]:
        """Begins to write; until it is done no status is told of the files among it."""
        writing = self._notifier.begin(messages)
        for node in opened:
            node.settling = writing
        writing.add_done_callback(partial(_settled, opened))
        return writing

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Does something that the mount waits for when it ends, but nobody else; it may fail."""
        self._begin_task(work).add_done_callback(_look_at_end)

    def _begin_task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _look_at_end(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, AfsError):
        _log.error("fuse.background_failed", exc_info=error)


async def _all_of(tasks: Sequence[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks)


def _settled(opened: Sequence[Node], writing: asyncio.Future[None]) -> None:
    for node in opened:
        if node.settling is writing:
            node.settling = None
