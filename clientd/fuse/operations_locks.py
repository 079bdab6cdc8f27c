"""FUSE: file locks. `clientd.locks` decides; here they get in, and go when files are closed.

Theory of operation
    fcntl(2) locks of a process go when it closes the file, which FLUSH tells. Files that are open
    for reading send no FLUSH, which would cost every reader of a file as much as its open(2); what
    was locked through such a handle goes with the handle. flock(2) locks go with theirs in any
    case.
"""

from __future__ import annotations

import fcntl
from collections.abc import Coroutine
from typing import Any, Final

from afs.types import LockType
from clientd.core.range_locks import LAST_BYTE, LockFamily, LockOwner
from clientd.fuse import abi
from clientd.fuse.abi import Opcode
from clientd.fuse.handles import FileHandle, Handles
from clientd.fuse.session import Answer, Handler, Request
from clientd.locks import Locks

_TYPES: Final = {
    fcntl.F_RDLCK: LockType.READ,
    fcntl.F_WRLCK: LockType.WRITE,
    fcntl.F_UNLCK: None,
}
_NUMBERS: Final = {kind: number for number, kind in _TYPES.items()}


class LockOperations:
    """What concerns locks.

    Args:
        handles: open files.
        locks: keeps them.
    """

    def __init__(self, handles: Handles[FileHandle], locks: Locks) -> None:
        self._handles = handles
        self._locks = locks

    def handlers(self) -> dict[int, Handler]:
        """By opcode."""
        return {
            Opcode.GETLK: self.getlk,
            Opcode.SETLK: self.setlk,
            Opcode.SETLKW: self.setlkw,
        }

    def getlk(self, request: Request) -> Coroutine[Any, Any, Answer]:
        """What stands in the way of a lock."""
        number, owner, start, end, kind, _, _ = abi.LK_IN.unpack_from(request.body)
        wanted = _TYPES[kind]
        assert wanted is not None
        return self._getlk(
            self._handles.get(number), LockOwner(LockFamily.FCNTL, owner), wanted, start, end
        )

    async def _getlk(
        self, handle: FileHandle, owner: LockOwner, wanted: LockType, start: int, end: int
    ) -> Answer:
        file = handle.file
        there = await self._locks.get_lock(file.volume, file.fid, owner, wanted, start, end)
        if there is None:
            return abi.LK_OUT.pack(start, end, fcntl.F_UNLCK, 0)
        return abi.LK_OUT.pack(there.start, there.end, _NUMBERS[there.type], there.pid)

    def setlk(self, request: Request) -> Coroutine[Any, Any, Answer]:
        """Locks or unlocks now or not at all."""
        return self._set(request, wait=False)

    def setlkw(self, request: Request) -> Coroutine[Any, Any, Answer]:
        """Locks, and waits for its turn; a signal ends that."""
        return self._set(request, wait=True)

    def _set(self, request: Request, *, wait: bool) -> Coroutine[Any, Any, Answer]:
        number, owned_by, start, end, kind, pid, flags = abi.LK_IN.unpack_from(request.body)
        family = LockFamily.FLOCK if flags & abi.LK_FLOCK else LockFamily.FCNTL
        if family is LockFamily.FLOCK:
            start, end = 0, LAST_BYTE
        handle = self._handles.get(number)
        owner = LockOwner(family, owned_by)
        handle.lock_owners.add(owner)
        return self._set_lock(handle, owner, _TYPES[kind], (start, end), pid, wait=wait)

    async def _set_lock(
        self,
        handle: FileHandle,
        owner: LockOwner,
        wanted: LockType | None,
        bytes_: tuple[int, int],
        pid: int,
        *,
        wait: bool,
    ) -> Answer:
        file = handle.file
        await self._locks.set_lock(
            file.volume, file.fid, owner, wanted, *bytes_, pid=pid, wait=wait
        )
        return b""
