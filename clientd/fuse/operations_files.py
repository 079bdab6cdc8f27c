"""FUSE: open files: their data, and what is stored when.

Theory of operation
    Data goes through `OpenFile`, which all who have a file open here share. A write is taken in and
    answered; close(2) and fsync(2) are answered when the fileserver has all of it on disk, or with
    the error why it has not.

    `node.data_version` is the version of which the kernel has data. A file that is opened keeps
    that data if it is still that version. A store of our own makes the next version, and the kernel
    has that data already, because it was written through it.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

from afs.errors import AfsCode, AfsError
from afs.types import Fid, SetStatus, Vnode, VnodeType
from clientd.core.range_locks import LockFamily, LockOwner
from clientd.fuse import abi
from clientd.fuse.abi import Opcode, OpenFlag
from clientd.fuse.handles import FileHandle, Handles
from clientd.fuse.nodes import NO_DATA, Node
from clientd.fuse.operations_names import NameOperations
from clientd.fuse.session import Answer, Granted, Handler, Request
from clientd.fuse.silly_names import SillyNames
from clientd.fuse.tree import Tree
from clientd.open_file import OpenFile
from clientd.services import Services
from clientd.volume_calls import VolumeCalls


class FileOperations:
    """What concerns open files.

    Args:
        tree: nodes and answers.
        names: makes files that are created.
        silly: told of the last close.

    Attributes:
        handles: those that are open.
    """

    def __init__(self, tree: Tree, names: NameOperations, silly: SillyNames) -> None:
        self._tree = tree
        self._names = names
        self._silly = silly
        self.handles: Handles[FileHandle] = Handles()

    @property
    def _services(self) -> Services:
        return self._tree.services

    def handlers(self) -> dict[int, Handler]:
        """By opcode."""
        return {
            Opcode.OPEN: self.open,
            Opcode.CREATE: self.create,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.FLUSH: self.flush,
            Opcode.FSYNC: self.fsync,
            Opcode.RELEASE: self.release,
        }

    # --- opening and closing ---

    def open(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Opens a file, and empties it if so asked."""
        flags, _ = abi.OPEN_IN.unpack_from(request.body)
        node = self._tree.node(request.node_id)
        if flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY:
            file = self._services.open_files.open_now(self._tree.volume(node), node.fid)
            if file is not None:
                return self._granted(node, file, flags)
        return self._open(node, flags)

    async def _open(self, node: Node, flags: int) -> Answer:
        file = await self._open_it(self._tree.volume(node), node.fid, flags)
        return self._granted(node, file, flags)

    def _granted(self, node: Node, file: OpenFile, flags: int) -> Granted:
        number, payload = self._opened(node, file, flags)
        return Granted(payload, lambda: self._take_back(number))

    async def _open_it(self, volume: VolumeCalls, fid: Fid, flags: int) -> OpenFile:
        return await self._services.open_files.open(
            volume,
            fid,
            write=flags & os.O_ACCMODE != os.O_RDONLY,
            truncate=bool(flags & os.O_TRUNC),
        )

    def _opened(self, node: Node, file: OpenFile, flags: int) -> tuple[int, bytes]:
        """A new handle's number, and what the kernel is told of it."""
        number = self.handles.add(FileHandle(node, file))
        node.opens += 1
        answer = 0
        if file.writable:
            node.files.append(file)
        else:
            # There is nothing to be stored when it is closed.
            answer |= OpenFlag.NOFLUSH
        if not flags & os.O_TRUNC and self._tree.has_right_data(node):
            answer |= OpenFlag.KEEP_CACHE
        node.data_version = file.vnode().data_version
        return number, abi.OPEN_OUT.pack(number, answer)

    def create(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Makes a file and opens it; one that is there already is opened, unless O_EXCL."""
        flags, mode, _, _ = abi.CREATE_IN.unpack_from(request.body)
        above, name = self._names.target(request, abi.CREATE_IN.size)
        status = self._names.of_caller(above, request, mode)
        return self._create(above, name, flags, status)

    async def _create(self, above: Node, name: str, flags: int, status: SetStatus) -> Answer:
        volume = self._tree.volume(above)
        changes = self._services.vnode_changes
        with self._names.changing((above, name)):
            try:
                vnode = await changes.to_the_end(changes.make_file(volume, above.fid, name, status))
            except AfsError as error:
                if error.code is not AfsCode.EEXIST or flags & os.O_EXCL:
                    raise
                # Somebody else was faster.
                vnode = await self._there(above, name)
            else:
                flags &= ~os.O_TRUNC
            file = await self._open_it(volume, vnode.fid, flags)
            # In one step with the answer: what is told from here on may be broken any moment.
            node, entry = self._names.made(above, name, vnode)
            number, opened = self._opened(node, file, flags)
            return Granted(entry + opened, lambda: self._take_back(number, node.id))

    async def _there(self, above: Node, name: str) -> Vnode:
        """The status of a file that was made by somebody else just now."""
        named = await self._tree.find(above, name)
        if named is None:
            raise AfsError(AfsCode.EAGAIN, f"{name!r} comes and goes")
        if named.type is not VnodeType.FILE:
            code = AfsCode.EISDIR if named.type is VnodeType.DIRECTORY else AfsCode.ELOOP
            raise AfsError(code, f"{name!r} is not a file")
        return (await self._tree.status_of(named, above))[0]

    def _take_back(self, number: int, node_id: int | None = None) -> None:
        """Nobody waits for the answer any more: what was opened is closed."""
        handle = self._let_go(number)
        if node_id is not None:
            self._tree.nodes.forget(node_id, 1)
        self._tree.kernel.run(self._close(handle))

    def release(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """The last user of a handle is gone."""
        number, _, _, _ = abi.RELEASE_IN.unpack_from(request.body)
        handle = self._let_go(number)
        if (
            not handle.file.writable
            and not handle.lock_owners
            and not self._silly.is_kept(handle.node.fid)
        ):
            handle.file.close_now()
            return b""
        return self._close(handle)

    def _let_go(self, number: int) -> FileHandle:
        handle = self.handles.remove(number)
        handle.node.opens -= 1
        if handle.file.writable:
            handle.node.files.remove(handle.file)
        return handle

    async def _close(self, handle: FileHandle) -> Answer:
        fid = handle.node.fid
        try:
            if self._silly.is_kept(fid) and not self.is_open(fid):
                self._services.open_files.forget(fid)
            await self._services.vnode_changes.to_the_end(handle.file.close())
            self._stored(handle)
        except AfsError:
            self._tree.kernel.refused(fid)
            raise
        finally:
            for owner in handle.lock_owners:
                if owner.family is LockFamily.FLOCK or not handle.file.writable:
                    await self._services.locks.release_owner(fid, owner)
            await self._silly.closed(fid)
        return b""

    async def stop(self) -> None:
        """Closes everything, when the kernel has been cut off and will not."""
        for number in self.handles.numbers():
            handle = self._let_go(number)
            with suppress(AfsError):
                await self._close(handle)
            for owner in handle.lock_owners:
                with suppress(AfsError):
                    await self._services.locks.release_owner(handle.node.fid, owner)

    def is_open(self, fid: Fid) -> bool:
        """True if the kernel has the file open."""
        return any(node.opens for node in self._tree.nodes.of(fid))

    # --- data ---

    def read(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Data; from memory at once."""
        number, offset, size, _, _, _ = abi.READ_IN.unpack_from(request.body)
        handle = self.handles.get(number)
        data = handle.file.read_now(offset, size)
        if data is None:
            return self._read(handle, offset, size)
        self._was_read(handle)
        return data

    async def _read(self, handle: FileHandle, offset: int, size: int) -> Answer:
        data = await handle.file.read(offset, size)
        self._was_read(handle)
        return data

    def _was_read(self, handle: FileHandle) -> None:
        """The kernel gets data of the version that the file has now."""
        node = handle.node
        version = handle.file.vnode().data_version
        if node.data_version != version:
            had_some = node.data_version != NO_DATA
            node.data_version = version
            if had_some:
                self._tree.kernel.mixed(node)

    def write(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Takes data in."""
        number, offset, size, _, _, _ = abi.WRITE_IN.unpack_from(request.body)
        handle = self.handles.get(number)
        self._services.locks.check(handle.node.fid)
        data = bytes(request.body[abi.WRITE_IN.size : abi.WRITE_IN.size + size])
        written = handle.file.write_now(offset, data)
        if written is None:
            return self._write(handle, offset, data)
        return abi.WRITE_OUT.pack(written)

    async def _write(self, handle: FileHandle, offset: int, data: bytes) -> Answer:
        return abi.WRITE_OUT.pack(await handle.file.write(offset, data))

    # --- storing ---

    def flush(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """close(2): what was written is at the fileserver when it is answered."""
        number, owned_by = abi.FLUSH_IN.unpack_from(request.body)
        owner = LockOwner(LockFamily.FCNTL, owned_by)
        handle = self.handles.get(number)
        if self._services.locks.has_locks(handle.node.fid, owner):
            return self._flush_and_unlock(handle, owner)
        return self._flush_of(handle)

    async def _flush_and_unlock(self, handle: FileHandle, owner: LockOwner) -> Answer:
        """close(2) by a process that has locked the file: its locks go."""
        try:
            self._services.locks.check(handle.node.fid)
            await handle.file.flush()
            self._stored(handle)
        finally:
            await self._services.locks.release_owner(handle.node.fid, owner)
        return b""

    def fsync(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Likewise, of a file that stays open."""
        number, _ = abi.FSYNC_IN.unpack_from(request.body)
        handle = self.handles.get(number)
        if not handle.file.writable and self._services.open_files.is_dirty(handle.node.fid):
            return self._store_for(handle.node.fid)
        return self._flush_of(handle)

    async def _store_for(self, fid: Fid) -> Answer:
        """What others wrote is stored, for one who only reads and asks for it."""
        await self.store(fid)
        return b""

    def _flush_of(self, handle: FileHandle) -> Answer | Coroutine[Any, Any, Answer]:
        if not handle.file.writable or self._silly.is_kept(handle.node.fid):
            # Nothing to store, or nobody who will ever see it.
            return b""
        self._services.locks.check(handle.node.fid)
        return self._flush(handle)

    async def _flush(self, handle: FileHandle) -> Answer:
        await handle.file.flush()
        self._stored(handle)
        return b""

    async def store(self, fid: Fid) -> None:
        """Stores what programs wrote to a file, as before a lock on it is let go of.

        Raises:
            AfsError: as StoreData.
        """
        for node in self._tree.nodes.of(fid):
            for file in list(node.files):
                await file.flush()

    def _stored(self, handle: FileHandle) -> None:
        """A store of our own made the next version, and of that the kernel has its data."""
        node = handle.node
        version = handle.file.vnode().data_version
        if node.data_version == version - 1:
            node.data_version = version
