"""FUSE: looking names up, making, linking, moving and removing them."""

from __future__ import annotations

import errno
import stat
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_NAME_BYTES
from afs.types import Fid, SetStatus, Vnode, VnodeType
from clientd.core.listing import UNKNOWN
from clientd.fuse import abi
from clientd.fuse.abi import Opcode
from clientd.fuse.nodes import Node
from clientd.fuse.session import Answer, Granted, Handler, Request
from clientd.fuse.silly_names import SillyNames
from clientd.fuse.tree import Named, Tree
from clientd.services import Services

_PERMISSIONS: Final = 0o7777


class NameOperations:
    """What concerns names in directories.

    Args:
        tree: nodes and answers.
        silly: keeps removed files that are open.
    """

    def __init__(self, tree: Tree, silly: SillyNames) -> None:
        self._tree = tree
        self._silly = silly

    @property
    def _services(self) -> Services:
        return self._tree.services

    def handlers(self) -> dict[int, Handler]:
        """By opcode."""
        return {
            Opcode.LOOKUP: self.lookup,
            Opcode.FORGET: self.forget,
            Opcode.BATCH_FORGET: self.batch_forget,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.SYMLINK: self.symlink,
            Opcode.LINK: self.link,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
        }

    # --- looking up ---

    def lookup(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """The node of a name; from the cache at once."""
        above = self._tree.node(request.node_id)
        raw = bytes(request.body[:-1])
        if len(raw) > MAX_NAME_BYTES:
            return errno.ENAMETOOLONG
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            # Names are texts: there is none like this.
            return errno.ENOENT
        found = self._tree.find_now(above, name)
        if found is None:
            return self._tree.no_entry(above, name)
        if found is UNKNOWN:
            return self._lookup(above, name)
        return self._tree.entry(above, name, *found)[1]

    async def _lookup(self, above: Node, name: str) -> Answer:
        with _busy(above):
            named = await self._tree.find(above, name)
            if named is None:
                return self._tree.no_entry(above, name)
            try:
                vnode, seconds = await self._tree.status_of(named, above)
            except AfsError as error:
                if error.code is AfsCode.VNOVNODE:
                    # Removed since its name was found.
                    return self._tree.no_entry(above, name)
                raise
            return self._granted(*self._tree.entry(above, name, named, vnode, seconds))

    def _granted(self, node: Node, payload: bytes) -> Granted:
        """An answer by which the kernel knows a node once more, if anybody waits for it still."""
        return Granted(payload, lambda: _forget(self._tree, node))

    def forget(self, request: Request) -> Answer:
        """The kernel does not know the node any more."""
        (lookups,) = abi.FORGET_IN.unpack_from(request.body)
        self._tree.nodes.forget(request.node_id, lookups)
        return None

    def batch_forget(self, request: Request) -> Answer:
        """The same of many."""
        count, _ = abi.BATCH_FORGET_IN.unpack_from(request.body)
        end = abi.BATCH_FORGET_IN.size + count * abi.FORGET_ONE.size
        forget = self._tree.nodes.forget
        for number, lookups in abi.FORGET_ONE.iter_unpack(
            request.body[abi.BATCH_FORGET_IN.size : end]
        ):
            forget(number, lookups)
        return None

    # --- making ---

    def mknod(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """An empty file; other kinds of nodes do not exist here."""
        mode, _, _ = abi.MKNOD_IN.unpack_from(request.body)
        if not stat.S_ISREG(mode):
            return errno.EPERM
        above, name = self.target(request, abi.MKNOD_IN.size)
        status = self.of_caller(above, request, mode)

        async def make() -> Vnode:
            volume = self._tree.volume(above)
            return await self._services.vnode_changes.make_file(volume, above.fid, name, status)

        return self._make(above, name, make())

    def mkdir(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """An empty directory."""
        mode, _ = abi.MKDIR_IN.unpack_from(request.body)
        above, name = self.target(request, abi.MKDIR_IN.size)
        status = self.of_caller(above, request, mode, directory=True)

        async def make() -> Vnode:
            volume = self._tree.volume(above)
            return await self._services.vnode_changes.make_dir(volume, above.fid, name, status)

        return self._make(above, name, make())

    def symlink(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """A symbolic link; never a mount point, whose mode differs."""
        above = self._tree.node(request.node_id)
        name, target = map(_text, abi.names_in(request.body))
        status = self.of_caller(above, request, 0o777)

        async def make() -> Vnode:
            return await self._services.vnode_changes.make_symlink(
                self._tree.volume(above), above.fid, name, target, status
            )

        return self._make(above, name, make())

    def link(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """One more name of a file, in its directory."""
        (number,) = abi.LINK_IN.unpack_from(request.body)
        node = self._tree.node(number)
        above, name = self.target(request, abi.LINK_IN.size)
        if node.realm != above.realm or node.volume is not above.volume:
            return errno.EXDEV

        async def make() -> Vnode:
            volume = self._tree.volume(above)
            return await self._services.vnode_changes.link(volume, above.fid, name, node.fid)

        return self._make(above, name, make())

    async def _make(self, above: Node, name: str, making: Coroutine[Any, Any, Vnode]) -> Answer:
        with self.changing((above, name)):
            vnode = await self._services.vnode_changes.to_the_end(making)
            return self._granted(*self.made(above, name, vnode))

    def made(self, above: Node, name: str, vnode: Vnode) -> tuple[Node, bytes]:
        """The answer for a name that was just made; to be called in one step with its outcome."""
        entry, seconds = self._tree.kernel.trust(vnode.fid)
        if entry is not None:
            vnode = entry.status
        volume = self._tree.volume(above)
        named = Named(above.realm, volume, vnode.fid, vnode.type, vnode.fid)
        return self._tree.entry(above, name, named, vnode, seconds)

    # --- removing ---

    def unlink(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Removes a name of a file or symbolic link."""
        above, name = self.target(request, 0)
        return self._remove(above, name, directory=False)

    def rmdir(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Removes an empty directory."""
        above, name = self.target(request, 0)
        return self._remove(above, name, directory=True)

    async def _remove(self, above: Node, name: str, *, directory: bool) -> Answer:
        with self.changing((above, name)):
            await self._services.vnode_changes.to_the_end(
                self._remove_it(above, name, directory=directory)
            )
            return b""

    async def _remove_it(self, above: Node, name: str, *, directory: bool) -> None:
        volume = self._tree.volume(above)
        named = await self._there(above, name)
        if named.fid != named.entry:
            raise OSError(errno.EBUSY, f"{name} is a mount point")
        if directory != (named.type is VnodeType.DIRECTORY):
            raise OSError(errno.ENOTDIR if directory else errno.EISDIR, name)
        if not directory and await self._silly.keep(volume, above.fid, name, named.fid):
            return
        await self._services.vnode_changes.remove(volume, above.fid, name, named.fid, named.type)

    # --- moving ---

    def rename(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Moves a name; what had the new one is replaced."""
        (number,) = abi.RENAME_IN.unpack_from(request.body)
        return self._rename(request, number, abi.RENAME_IN.size, flags=0)

    def rename2(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """The same with flags: of those only that nothing is to be replaced can be done."""
        number, flags = abi.RENAME2_IN.unpack_from(request.body)
        return self._rename(request, number, abi.RENAME2_IN.size, flags=flags)

    def _rename(
        self, request: Request, number: int, names_at: int, *, flags: int
    ) -> Answer | Coroutine[Any, Any, Answer]:
        if flags & ~abi.RENAME_NOREPLACE:
            return errno.EINVAL
        above, below = self._tree.node(request.node_id), self._tree.node(number)
        old, new = map(_text, abi.names_in(request.body[names_at:]))
        if above.volume is not below.volume or above.realm != below.realm:
            return errno.EXDEV
        return self._move((above, old), (below, new), replace=not flags)

    async def _move(self, old: tuple[Node, str], new: tuple[Node, str], *, replace: bool) -> Answer:
        with self.changing(old, new):
            await self._services.vnode_changes.to_the_end(self._move_it(old, new, replace=replace))
        self._tree.moved(old, new)
        return b""

    async def _move_it(
        self, old: tuple[Node, str], new: tuple[Node, str], *, replace: bool
    ) -> None:
        (above, old_name), (below, new_name) = old, new
        volume = self._tree.volume(above)
        moved = await self._there(above, old_name)
        found = await self._services.directories.find(volume, below.fid, new_name)
        replaced: Fid | None = None
        if found.entry is not None and found.entry.fid != moved.entry:
            if not replace:
                raise OSError(errno.EEXIST, new_name)
            replaced = found.entry.fid
            if found.entry.type is VnodeType.FILE:
                # What is open keeps a name of its own, beside the one that is replaced.
                await self._silly.keep_too(volume, below.fid, new_name, replaced)
        await self._services.vnode_changes.rename(
            volume, (above.fid, old_name), (below.fid, new_name), moved.entry, replaced
        )

    # --- within ---

    async def _there(self, above: Node, name: str) -> Named:
        """What a name stands for that the kernel thinks is there."""
        volume = self._tree.volume(above)
        found = await self._services.directories.find(volume, above.fid, name)
        if found.entry is None:
            raise AfsError(AfsCode.ENOENT, f"there is no {name!r}")
        return await self._tree.named(above, volume, found.entry)

    def target(self, request: Request, name_at: int) -> tuple[Node, str]:
        """The directory and the name that a request is about."""
        return self._tree.node(request.node_id), _text(bytes(request.body[name_at:-1]))

    def of_caller(
        self, above: Node, request: Request, mode: int, *, directory: bool = False
    ) -> SetStatus:
        """What a new vnode begins with: the mode asked for, and the caller as its owner.

        In a directory with the set-group-ID bit it belongs to that one's group, and a directory has
        that bit too. Source: open(2), mkdir(2).
        """
        mode &= _PERMISSIONS
        group = request.gid
        there = self._services.servers.known(above.fid)
        if there is not None and there.status.mode & stat.S_ISGID:
            group = there.status.group
            if directory:
                mode |= stat.S_ISGID
        return SetStatus(mode=mode, owner=request.uid, group=group)

    @contextmanager
    def changing(self, *names: tuple[Node, str]) -> Iterator[None]:
        """Around a change that the kernel asked for and holds the directories' locks for."""
        for above, _ in names:
            above.busy += 1
        try:
            with self._tree.kernel.expected(*((above.fid, name.encode()) for above, name in names)):
                yield
        finally:
            for above, _ in names:
                above.busy -= 1


def _text(raw: bytes) -> str:
    """A name, or a symbolic link's target; EILSEQ for what is no text."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise OSError(errno.EILSEQ, "names are UTF-8 here") from None


def _forget(tree: Tree, node: Node) -> None:
    tree.nodes.forget(node.id, 1)


@contextmanager
def _busy(above: Node) -> Iterator[None]:
    """Around a request that holds a directory's lock in the kernel."""
    above.busy += 1
    try:
        yield
    finally:
        above.busy -= 1
