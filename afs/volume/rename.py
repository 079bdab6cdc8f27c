"""The rules of Rename: rename(2), within the bounds of AFS."""

from __future__ import annotations

from dataclasses import replace

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_DIRECTORY_ENTRIES
from afs.types import BreakReason, Fid, Vnode, VnodeType
from afs.volume.change_set import ChangeSet
from afs.volume.rules import (
    check_directory,
    check_entry_name,
    directory_rewritten,
    entry_of,
    require_vnode,
    unlinked,
)
from afs.volume.volume import Outcome, Rename


def rename(change: ChangeSet, mutation: Rename, now_ns: int) -> Outcome:
    """Moves a name; see `Rename` for the errors.

    A rename onto itself, or onto a link to the same file, does nothing.
    """
    old_fid, new_fid = mutation.old_directory, mutation.new_directory
    old_directory = check_directory(change, old_fid)
    new_directory = check_directory(change, new_fid)
    across = old_fid != new_fid
    check_entry_name(mutation.old_name)
    check_entry_name(mutation.new_name)
    entry = change.entry(old_fid.vnode, mutation.old_name)
    if entry is None:
        raise AfsError(AfsCode.ENOENT, f"no {mutation.old_name!r} in directory {old_fid}")
    vnode = require_vnode(change, entry.fid)
    replaced_entry = change.entry(new_fid.vnode, mutation.new_name)
    replaced = require_vnode(change, replaced_entry.fid) if replaced_entry else None
    is_directory = vnode.type is VnodeType.DIRECTORY
    if replaced is not None and replaced.fid == vnode.fid:
        return Outcome(vnode, old_directory, new_directory if across else None)
    if replaced is not None and not mutation.may_replace:
        raise AfsError(
            AfsCode.EACCES,
            f"{mutation.new_name!r} in directory {new_fid} would be replaced: d is needed there",
        )
    if across:
        _check_move(change, vnode, new_directory)
    if replaced is not None:
        _check_replace(vnode, replaced)
    elif across and new_directory.length >= MAX_DIRECTORY_ENTRIES:
        raise AfsError(
            AfsCode.VLIMIT,
            f"directory {new_fid} has {new_directory.length} entries: that is the limit",
        )

    changed: list[tuple[Fid, BreakReason]] = [(old_fid, BreakReason.DATA_CHANGED)]
    if across:
        changed.append((new_fid, BreakReason.DATA_CHANGED))
        vnode = replace(vnode, parent=new_fid, server_mtime_ns=now_ns)
        change.put_vnode(vnode)
        changed.append((vnode.fid, BreakReason.STATUS_CHANGED))
    change.remove_entry(old_fid.vnode, mutation.old_name)
    change.put_entry(new_fid.vnode, entry_of(mutation.new_name, vnode))
    if replaced is not None:
        changed.append(_remove_replaced(change, replaced, now_ns))

    moved = 1 if is_directory else 0
    gone = 1 if is_directory and replaced is not None else 0
    taken = 1 if replaced is not None else 0
    if not across:
        old_directory = directory_rewritten(
            old_directory, now_ns, entries=-taken, subdirectories=-gone
        )
        change.put_vnode(old_directory)
        return Outcome(vnode, old_directory, changed=tuple(changed))
    old_directory = directory_rewritten(old_directory, now_ns, entries=-1, subdirectories=-moved)
    new_directory = directory_rewritten(
        new_directory, now_ns, entries=1 - taken, subdirectories=moved - gone
    )
    change.put_vnode(old_directory)
    change.put_vnode(new_directory)
    return Outcome(vnode, old_directory, new_directory, tuple(changed))


def _check_move(change: ChangeSet, vnode: Vnode, new_directory: Vnode) -> None:
    """EXDEV for a file with several links, EINVAL for a directory moved into itself."""
    if vnode.type is not VnodeType.DIRECTORY:
        if vnode.link_count > 1:
            raise AfsError(
                AfsCode.EXDEV,
                f"vnode {vnode.fid} has {vnode.link_count} links: they stay in one directory",
            )
        return
    ancestor = new_directory
    # The bound is the number of vnodes: a longer way up would be a loop, which only damage can make
    # (N4).
    for _ in range(change.state().header.file_count + 1):
        if ancestor.fid == vnode.fid:
            raise AfsError(
                AfsCode.EINVAL,
                f"directory {vnode.fid} cannot move into itself (through {new_directory.fid})",
            )
        if ancestor.parent == ancestor.fid:
            return
        ancestor = require_vnode(change, ancestor.parent)
    raise AfsError(
        AfsCode.EIO, f"the way up from directory {new_directory.fid} does not end at the root"
    )


def _check_replace(vnode: Vnode, replaced: Vnode) -> None:
    """EISDIR, ENOTDIR, ENOTEMPTY as rename(2)."""
    if replaced.type is not VnodeType.DIRECTORY:
        if vnode.type is VnodeType.DIRECTORY:
            raise AfsError(
                AfsCode.ENOTDIR,
                f"vnode {replaced.fid} is no directory: {vnode.fid} cannot replace it",
            )
        return
    if vnode.type is not VnodeType.DIRECTORY:
        raise AfsError(
            AfsCode.EISDIR, f"vnode {replaced.fid} is a directory: {vnode.fid} cannot replace it"
        )
    if replaced.length:
        raise AfsError(AfsCode.ENOTEMPTY, f"directory {replaced.fid} has {replaced.length} entries")


def _remove_replaced(change: ChangeSet, replaced: Vnode, now_ns: int) -> tuple[Fid, BreakReason]:
    if replaced.type is VnodeType.DIRECTORY:
        change.remove_vnode(replaced)
        return replaced.fid, BreakReason.REMOVED
    gone, reason = unlinked(change, replaced, now_ns)
    return gone.fid, reason
