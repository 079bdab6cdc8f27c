"""What the kernel has cached of ours, and how it learns that it is stale.

Theory of operation
    1. The kernel answers programs from what we told it: names, attributes, data. With each answer
       goes a time until when it may be relied on (`trust`): the end of the promise or of the lease,
       whichever comes first; nothing where there is no promise. So the kernel trusts no longer than
       we do, also when this process is stopped or cut off and can tell it nothing (I8). The times
       are counted in the moment of the answer, in one step with it: a break that is taken in later
       finds the node marked, one that came before has ended the promise.
    2. Data has no such time. The kernel asks for attributes before it reads from its cache once
       they have run out (FUSE_AUTO_INVAL_DATA), and they tell whether the data is still that:
       whoever answers with another DataVersion than `node.data_version` first has the kernel drop
       its data (`refresh`). Mapped pages are dropped by what follows.
    3. Whatever ends a promise, or changes a vnode or a name through another door of this client,
       tells `stale` or `stale_names`. `settle` then tells the kernel. For a break it is called, and
       waited for, before the break is acknowledged. In the loop, at once: attributes, and data of
       files that nobody has open. In a thread (see `notifier`): data of open files, names.
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
from functools import partial
from typing import Any, Final

from afs.types import Fid, Vnode
from clientd.core.entry import CacheEntry
from clientd.fileservers import FileServers
from clientd.fuse import abi
from clientd.fuse.nodes import NO_DATA, Node, Nodes
from clientd.fuse.notifier import Notifier
from clientd.fuse.session import Session
from clientd.journal import Journal

# Inodes told of in one turn of the loop: about a millisecond.
SLICE: Final = 256
# Data of a closed file up to here is dropped in the loop: some 10 µs.
DROP_AT_ONCE_BYTES: Final = 1024 * 1024
# A thread that was answered is run within so many seconds, on a busy machine too.
RECENT_S: Final = 1.0
# Names remembered of a directory before those that have run out are looked for.
SWEEP_NAMES: Final = 1024


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
            await self._drop_data(node)

    def mixed(self, node: Node) -> None:
        """The kernel got data of another version than what it has: it drops all of it."""
        self.run(self._drop_data(node))

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
            same = entry is not None and entry.status.data_version == node.data_version
            if node.data_version != NO_DATA and not same and not node.files:
                self._stale.add(fid)
                self._schedule()
            elif node.told_until:
                self._attributes_stale(node)

    def names_changed(self, directory: Fid, names: Iterable[str]) -> None:
        """These names in a directory changed by our own doing; its promise stands."""
        for node in self._nodes.of(directory):
            if node.told_until:
                self._attributes_stale(node)
            if node.names:
                break
        else:
            return
        changed = {
            encoded
            for name in names
            if (directory, encoded := name.encode("utf-8", "surrogatepass")) not in self._expected
        }
        if changed:
            self._stale_names.setdefault(directory, set()).update(changed)
            self._schedule()

    def all_stale(self) -> None:
        """Nothing that was cached is relied on (a lost channel, a stall)."""
        now = self._servers.now()
        self._stale.update(node.fid for node in self._nodes if node.told_until > now or node.names)
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
            None if it knows; else done when it does, or as good as that (see the module).
        """
        if not self._stale and not self._stale_names:
            return None
        fids, self._stale = list(self._stale), set()
        names, self._stale_names = self._stale_names, {}
        may_block: list[bytes] = []
        opened: list[Node] = []
        stuck = self._tell(fids[:SLICE], may_block, opened)
        for directory, changed in names.items():
            for node in self._nodes.of(directory):
                stuck = self._names(node, changed, may_block) or stuck
        rest = fids[SLICE:]
        if stuck:
            self._increase_epoch()
        if not rest and not may_block:
            return None
        return self._begin_task(self._settle_rest(rest, may_block, opened))

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

    async def _settle_rest(
        self, fids: Sequence[Fid], may_block: list[bytes], opened: list[Node]
    ) -> None:
        """The rest of what was stale, in slices; then what may block."""
        for at in range(0, len(fids), SLICE):
            await asyncio.sleep(0)
            if self._tell(fids[at : at + SLICE], may_block, opened):
                self._increase_epoch()
        if may_block:
            await self._write(may_block, opened)

    def _tell(self, fids: Sequence[Fid], may_block: list[bytes], opened: list[Node]) -> bool:
        """Tells at once what cannot block, and adds the rest; True if names cannot be told so."""
        now = self._servers.now()
        stuck = False
        for fid in fids:
            for node in self._nodes.of(fid):
                if node.data_version != NO_DATA:
                    node.data_version = NO_DATA
                    if node.opens or self._is_large(fid):
                        may_block.append(abi.inval_inode(node.id, data=True))
                        opened.append(node)
                        self._attributes_stale(node)
                    else:
                        node.told_until = 0.0
                        self._session.tell(abi.inval_inode(node.id, data=True))
                elif node.told_until > now:
                    self._attributes_stale(node)
                if node.names:
                    stuck = self._names(node, None, may_block) or stuck
        return stuck

    def _attributes_stale(self, node: Node) -> None:
        node.told_until = 0.0
        self._session.tell(abi.inval_inode(node.id, data=False))

    def _is_large(self, fid: Fid) -> bool:
        entry = self._servers.known(fid)
        return entry is None or entry.status.length > DROP_AT_ONCE_BYTES

    def _names(self, node: Node, changed: Iterable[bytes] | None, may_block: list[bytes]) -> bool:
        """Names of a directory are stale; True if only the epoch can tell the kernel."""
        names = node.names or {}
        now = self._servers.now()
        relied_on = [
            name
            for name in (list(names) if changed is None else changed)
            if names.pop(name, 0.0) > now
        ]
        if not relied_on:
            return False
        if node.busy and self._session.minor >= abi.INC_EPOCH_MINOR:
            return True
        expire_only = self._session.minor >= abi.EXPIRE_ONLY_MINOR
        messages = [abi.inval_entry(node.id, name, expire_only=expire_only) for name in relied_on]
        may_block += messages
        if now - node.named_at < RECENT_S:
            self.run(self._once_more(messages))
        return False

    async def _once_more(self, messages: list[bytes]) -> None:
        await asyncio.wait([self._closing], timeout=RECENT_S)
        if not self._closing.done():
            await self._begin(messages, [])

    def _increase_epoch(self) -> None:
        self._journal.count("kernel_epochs")
        self._session.tell(abi.inc_epoch())

    async def _drop_data(self, node: Node) -> None:
        message = abi.inval_inode(node.id, data=True)
        await self._begin([message], [node])

    async def _write(self, messages: list[bytes], opened: Sequence[Node]) -> None:
        """Writes what may block; goes on without, when that takes too long."""
        writing = self._begin(messages, opened)
        if not await self._notifier.done_soon(writing, len(messages)):
            self._journal.count("kernel_waits_given_up")
            if len(messages) > len(opened) and self._session.minor >= abi.INC_EPOCH_MINOR:
                self._increase_epoch()

    def _begin(self, messages: list[bytes], opened: Sequence[Node]) -> asyncio.Future[None]:
        writing = self._notifier.begin(messages)
        for node in opened:
            node.settling = writing
        writing.add_done_callback(partial(_settled, opened))
        return writing

    def run(self, work: Coroutine[Any, Any, Any]) -> None:
        """Does something that the mount waits for when it ends, but nobody else."""
        _ = self._begin_task(work)

    def _begin_task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _settled(opened: Sequence[Node], writing: asyncio.Future[None]) -> None:
    for node in opened:
        if node.settling is writing:
            node.settling = None
