"""FileServer: locks on files. The rules are in `core.locks`."""

from __future__ import annotations

from afs.access.requirements import file_server_rights
from afs.errors import AfsCode, AfsError
from afs.limits import LOCK_LIFE_S
from afs.runtime.interceptors import Context
from afs.types import Fid, LockType
from afs.v1 import file_server_pb2 as pb
from afs.wire import fid_from_wire, status_to_wire
from afsd import access
from afsd.attached_volume import AttachedVolume
from afsd.call_preamble import calling_host
from afsd.file_server_base import FileServerBase


class LockMethods(FileServerBase):
    """SetLock, ExtendLock, ReleaseLock."""

    async def SetLock(
        self,
        request: pb.SetLockRequest,
        _context: Context,
    ) -> pb.SetLockResponse:
        """Locks a file for the calling host; the answer has the file's status under the lock.

        What another host changed while it held the lock was broken before it was answered, and no
        answer leaves before the breaks that its host is owed (I3): whoever has the lock sees it.

        Raises:
            AfsError: EAGAIN if another host has the file locked; EDEADLK; VLIMIT; ENOLCK for a host
                that relies on a lock it has not any more; EROFS for a volume that is not
                read-write: what cannot change needs no lock.
        """
        host = _caller("SetLock")
        fid = fid_from_wire(request.fid)
        wanted = _lock_type(request.type)
        if not request.wait_s >= 0:
            raise AfsError(AfsCode.EINVAL, f"wait_s {request.wait_s}: expected 0 or more")
        attached = self._volumes.use(fid.volume)
        if attached.read_only:
            raise AfsError(AfsCode.EROFS, f"volume {fid.volume} is read-only: it needs no locks")
        await self._check_there(attached, fid)
        await access.require(attached, fid, file_server_rights("SetLock"))
        await self._locks.set_lock(host, fid, wanted, request.wait_s, holds=request.holds)
        attached.check()
        vnode = await attached.read(attached.volume.vnode, fid)
        return pb.SetLockResponse(status=status_to_wire(vnode), life_s=LOCK_LIFE_S)

    async def ExtendLock(
        self,
        request: pb.ExtendLockRequest,
        _context: Context,
    ) -> pb.ExtendLockResponse:
        """The calling host's lock lives anew.

        Raises:
            AfsError: ENOLCK if it has none (any more); VNOVNODE if the file is gone.
        """
        host = _caller("ExtendLock")
        fid = fid_from_wire(request.fid)
        attached = self._volumes.use(fid.volume)
        await self._check_there(attached, fid)
        await access.require(attached, fid, file_server_rights("ExtendLock"))
        if not self._locks.extend(host, fid):
            raise _no_lock(host, fid)
        return pb.ExtendLockResponse(life_s=LOCK_LIFE_S)

    async def ReleaseLock(
        self,
        request: pb.ReleaseLockRequest,
        _context: Context,
    ) -> pb.ReleaseLockResponse:
        """The calling host lets go of its lock.

        Also while the volume is out: it keeps its locks then, and others may wait for this one.

        Raises:
            AfsError: ENOLCK if it has none.
        """
        host = _caller("ReleaseLock")
        fid = fid_from_wire(request.fid)
        if not self._locks.release(host, fid):
            # A volume that has moved is told of as such: the lock, if any, is there.
            self._volumes.use(fid.volume)
            raise _no_lock(host, fid)
        return pb.ReleaseLockResponse()

    async def _check_there(self, attached: AttachedVolume, fid: Fid) -> None:
        """Returns while the volume is online; VNOVNODE for a file that is not there."""
        if attached.volume.cached_vnode(fid) is None:
            await attached.read(attached.volume.vnode, fid)
            attached.check()


def _caller(method: str) -> str:
    host = calling_host.get()
    if host is None:
        raise AfsError(
            AfsCode.EINVAL, f"{method} without afs-host-uuid: a lock belongs to a host, by its UUID"
        )
    return host


def _lock_type(value: int) -> LockType:
    try:
        return LockType(value)
    except ValueError:
        raise AfsError(
            AfsCode.EINVAL, f"lock type {value}: expected 1 (read) or 2 (write)"
        ) from None


def _no_lock(host: str, fid: Fid) -> AfsError:
    return AfsError(AfsCode.ENOLCK, f"host {host} has no lock on {fid}: it ended, or never was")
