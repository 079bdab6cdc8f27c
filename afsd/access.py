"""Whether the caller of the moment may do what they ask for, by the access lists of directories.

Where authorization is off there is no caller, and everything is allowed.

What is needed to decide (the vnode, its directory, the root directory for the volume's owner) is
nearly always in memory; then nothing is awaited, so that a promise can follow at once (see
`file_server_base`).
"""

from __future__ import annotations

from dataclasses import replace

from afs.access.acl import Right, bits_on, letters, rights_on
from afs.access.caller import Caller
from afs.errors import AfsCode, AfsError
from afs.runtime.current_caller import current_caller
from afs.types import Fid, SetStatus, Vnode, VnodeType, root_fid
from afsd.attached_volume import AttachedVolume

# The bits of a mode that give a file's rights to whoever runs it.
_SET_ID_BITS = 0o6000


async def require(attached: AttachedVolume, fid: Fid, right: Right) -> None:
    """Refuses a caller who has not this right on a directory, or on a file's directory.

    Who owns a file and may insert into its directory may write it.

    Raises:
        AfsError: EACCES; VNOVNODE for what is not there; VBUSY … as for `AttachedVolume.read`.
    """
    caller = current_caller.get()
    if caller is None or _is_granted(attached, fid, right, caller):
        return
    vnode = await _vnode(attached, fid)
    directory = vnode if _is_directory(vnode) else await _vnode(attached, vnode.parent)
    rights = await _rights(attached, directory, caller)
    if (
        right is Right.WRITE
        and rights & Right.INSERT
        and not _is_directory(vnode)
        and _owns(caller, vnode)
    ):
        return
    if not rights & right:
        raise AfsError(
            AfsCode.EACCES,
            f"{caller.name} has no {letters(right)} right on directory {directory.fid}",
        )


def _is_granted(attached: AttachedVolume, fid: Fid, right: Right, caller: Caller) -> bool:
    """True if what is in memory says that the list gives the right; False says nothing."""
    cached = attached.volume.cached_vnode
    vnode = cached(fid)
    if vnode is None:
        return False
    directory = vnode if _is_directory(vnode) else cached(vnode.parent)
    root = cached(root_fid(fid.volume))
    if directory is None or root is None:
        return False
    return bool(bits_on(directory.acl, caller, volume_owner=root.owner) & int(right))


async def has(attached: AttachedVolume, directory: Fid, right: Right) -> bool:
    """Whether the caller has a right on a directory; errors as for `require`, less EACCES."""
    caller = current_caller.get()
    if caller is None:
        return True
    return bool(await _rights(attached, await _vnode(attached, directory), caller) & right)


def status_of_new(status: SetStatus) -> SetStatus:
    """The attributes of what the caller makes: it is theirs, unless an administrator says else."""
    caller = current_caller.get()
    if caller is None or (caller.is_administrator and status.owner is not None):
        return status
    return replace(status_along(status), owner=caller.user_id)


def status_along(status: SetStatus) -> SetStatus:
    """Of the attributes that come along with data, those that the caller may set.

    The owner that a client sends of its own accord is a number of its machine.
    """
    caller = current_caller.get()
    if caller is None or caller.is_administrator:
        return status
    mode = None if status.mode is None else status.mode & ~_SET_ID_BITS
    return replace(status, owner=None, mode=mode)


async def check_status(attached: AttachedVolume, fid: Fid, status: SetStatus) -> None:
    """EPERM for what only an administrator may ask for: another owner, set-id bits."""
    caller = current_caller.get()
    if caller is None or caller.is_administrator:
        return
    if (status.mode or 0) & _SET_ID_BITS:
        raise AfsError(
            AfsCode.EPERM, f"{caller.name} may not set mode bits 06000: it is for administrators"
        )
    if status.owner is not None and status.owner != (await _vnode(attached, fid)).owner:
        raise AfsError(
            AfsCode.EPERM, f"{caller.name} may not change the owner: it is for administrators"
        )


async def _rights(attached: AttachedVolume, directory: Vnode, caller: Caller) -> Right:
    root = await _vnode(attached, root_fid(directory.fid.volume))
    return rights_on(directory.acl, caller, volume_owner=root.owner)


async def _vnode(attached: AttachedVolume, fid: Fid) -> Vnode:
    vnode = attached.volume.cached_vnode(fid)
    if vnode is None:
        vnode = await attached.read(attached.volume.vnode, fid)
        attached.check()
    return vnode


def _is_directory(vnode: Vnode) -> bool:
    return vnode.type is VnodeType.DIRECTORY


def _owns(caller: Caller, vnode: Vnode) -> bool:
    return caller.user_id == vnode.owner != 0 and not caller.is_anonymous
