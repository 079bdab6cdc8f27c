"""The checks and small steps that the rules of `namespace` and `rename` are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_UINT32
from afs.types import BreakReason, DirectoryEntry, Fid, SetStatus, Vnode, VnodeType
from afs.volume.change_set import ChangeSet, Tables
from afs.wire import check_name, check_symlink_target

_INT64: Final = range(-(2**63), 2**63)


def require_vnode(tables: Tables, fid: Fid) -> Vnode:
    """The vnode a Fid names; VNOVNODE if none, a wrong volume or uniquifier included."""
    vnode = tables.vnode(fid.vnode)
    if vnode is None or vnode.fid != fid:
        raise no_vnode(fid)
    return vnode


def no_vnode(fid: Fid) -> AfsError:
    """The error for a Fid that names no vnode."""
    return AfsError(AfsCode.VNOVNODE, f"Fid {fid} names no vnode: it was removed, or never was")


def check_directory(tables: Tables, fid: Fid) -> Vnode:
    """The directory a Fid names; VNOVNODE, ENOTDIR."""
    vnode = require_vnode(tables, fid)
    if vnode.type is not VnodeType.DIRECTORY:
        raise AfsError(
            AfsCode.ENOTDIR, f"vnode {fid} is a {vnode.type.name.lower()}: expected a directory"
        )
    return vnode


def check_file(vnode: Vnode) -> None:
    """EISDIR for a directory, EINVAL for a symbolic link: neither has data."""
    if vnode.type is VnodeType.DIRECTORY:
        raise AfsError(AfsCode.EISDIR, f"vnode {vnode.fid} is a directory: expected a file")
    if vnode.type is VnodeType.SYMLINK:
        raise AfsError(AfsCode.EINVAL, f"vnode {vnode.fid} is a symbolic link: expected a file")


def check_entry_name(name: str) -> str:
    """The name, if it can stand in a directory: as `check_name`, and EINVAL if not Unicode."""
    check_name(name)
    _check_unicode(name, "name")
    return name


def check_link_target(target: str) -> bytes:
    """The target of a symbolic link in UTF-8, if it can be one; EINVAL, ENAMETOOLONG."""
    check_symlink_target(target)
    return _check_unicode(target, "symbolic link target")


def status_applied(vnode: Vnode, status: SetStatus, now_ns: int) -> Vnode:
    """The vnode with the attributes set, all but the length.

    EINVAL for a value no vnode can have.
    """
    if status.mode is not None and not 0 <= status.mode <= 0o7777:
        raise AfsError(AfsCode.EINVAL, f"mode {status.mode:#o}: expected 0 to 0o7777")
    for field, number in (("owner", status.owner), ("group", status.group)):
        if number is not None and not 0 <= number <= MAX_UINT32:
            raise AfsError(AfsCode.EINVAL, f"{field} {number}: expected 0 to {MAX_UINT32}")
    if status.client_mtime_ns is not None and status.client_mtime_ns not in _INT64:
        raise AfsError(
            AfsCode.EINVAL, f"client_mtime_ns {status.client_mtime_ns}: expected 64 bits, signed"
        )
    return replace(
        vnode,
        mode=vnode.mode if status.mode is None else status.mode,
        owner=vnode.owner if status.owner is None else status.owner,
        group=vnode.group if status.group is None else status.group,
        client_mtime_ns=vnode.client_mtime_ns
        if status.client_mtime_ns is None
        else status.client_mtime_ns,
        server_mtime_ns=now_ns,
    )


def grown_directory(directory: Vnode, now_ns: int, *, subdirectories: int = 0) -> Vnode:
    """The directory with one more entry, of which `subdirectories` (0 or 1) are directories."""
    return _directory_changed(directory, now_ns, 1, subdirectories)


def shrunk_directory(directory: Vnode, now_ns: int, *, subdirectories: int = 0) -> Vnode:
    """The directory with one entry fewer."""
    return _directory_changed(directory, now_ns, -1, -subdirectories)


def directory_rewritten(
    directory: Vnode, now_ns: int, *, entries: int = 0, subdirectories: int = 0
) -> Vnode:
    """The directory with so many more entries, and so many more subdirectories among them."""
    return _directory_changed(directory, now_ns, entries, subdirectories)


def unlinked(change: ChangeSet, vnode: Vnode, now_ns: int) -> tuple[Vnode, BreakReason]:
    """Takes one name of a file or symbolic link away; the vnode afterwards, and the reason.

    With link_count 0 it is gone.
    """
    vnode = replace(vnode, link_count=vnode.link_count - 1, server_mtime_ns=now_ns)
    if vnode.link_count:
        change.put_vnode(vnode)
        return vnode, BreakReason.STATUS_CHANGED
    change.remove_vnode(vnode)
    return vnode, BreakReason.REMOVED


def entry_of(name: str, vnode: Vnode) -> DirectoryEntry:
    """The entry that gives a vnode a name."""
    return DirectoryEntry(name, vnode.fid, vnode.type)


def _directory_changed(directory: Vnode, now_ns: int, entries: int, subdirectories: int) -> Vnode:
    return replace(
        directory,
        length=directory.length + entries,
        link_count=directory.link_count + subdirectories,
        data_version=directory.data_version + 1,
        client_mtime_ns=now_ns,
        server_mtime_ns=now_ns,
    )


def _check_unicode(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise AfsError(AfsCode.EINVAL, f"{what} {text[:64]!r} is not valid Unicode") from None
