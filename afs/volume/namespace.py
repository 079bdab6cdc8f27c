"""The rules of every change to a volume, written once over `ChangeSet` for both stores.

Theory of operation
    `perform` tries one change on a change set of its own and returns its Outcome, or raises
    AfsError and leaves nothing behind. Every rule checks first and writes last.

    N1  Directories have odd vnode numbers, files and symbolic links even ones; no Fid is given
        twice.
    N2  A directory's length is the number of its entries, its link count 2 + the number of its
        subdirectories.
    N3  A file's link count is the number of names it has, all of them in its parent directory.
    N4  Following `parent` from any directory ends at the root.
    N5  A DataVersion grows with every change of the data (of a directory: of its entries), and
        never goes back.
    N6  used_kib never grows beyond a quota.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from afs.access.acl import parse_acl
from afs.errors import AfsCode, AfsError
from afs.limits import (
    ACL_FILES_TOLD_MAX,
    MAX_DIRECTORY_ENTRIES,
    MAX_FILE_BYTES,
    MAX_UINT32,
)
from afs.types import (
    BreakReason,
    Fid,
    SetStatus,
    Vnode,
    VnodeType,
    VolumeHeader,
    VolumeType,
    whole_volume_fid,
)
from afs.volume.change_set import ChangeSet, Tables, VnodeData
from afs.volume.file_data import FileEdit, GridStagedData, resized, stored
from afs.volume.rename import rename
from afs.volume.rules import (
    check_directory,
    check_entry_name,
    check_file,
    check_link_target,
    entry_of,
    grown_directory,
    require_vnode,
    shrunk_directory,
    status_applied,
    unlinked,
)
from afs.volume.volume import (
    CreateFile,
    Link,
    MakeDir,
    MakeSymlink,
    Mutation,
    Outcome,
    RemoveDir,
    RemoveFile,
    Rename,
    SetVolumeFields,
    StoreAcl,
    StoreData,
    StoreStatus,
)
from afs.volume.volume_header import check_volume_name

_DEFAULT_MODE: Final = {VnodeType.FILE: 0o644, VnodeType.DIRECTORY: 0o755, VnodeType.SYMLINK: 0o777}


def perform(batch: ChangeSet, mutation: Mutation, now_ns: int) -> Outcome:
    """Does one change and folds it into the batch.

    Args:
        batch: what was done so far.
        mutation: the change.
        now_ns: the server's wall clock, in nanoseconds since the Unix epoch.

    Raises:
        AfsError: as the change's own docstring says, EROFS, VOVERQUOTA; the batch is then as it
        was.
    """
    before = batch.state().header
    if before.type is not VolumeType.READ_WRITE and not isinstance(mutation, SetVolumeFields):
        raise AfsError(
            AfsCode.EROFS, f"volume {before.volume_id} is {before.type.name}: it cannot be changed"
        )
    change = ChangeSet(batch)
    outcome = _dispatch(change, mutation, now_ns)
    after = change.state().header
    if after.used_kib > before.used_kib and 0 < after.max_quota_kib < after.used_kib:
        raise AfsError(
            AfsCode.VOVERQUOTA,
            f"volume {after.volume_id} would use {after.used_kib} KiB:"
            f" its quota is {after.max_quota_kib} KiB",
        )
    if change.vnodes or _counts(mutation, before):
        updated_ns = now_ns if change.vnodes else after.updated_ns
        change.put_header(
            replace(after, change_counter=after.change_counter + 1, updated_ns=updated_ns)
        )
    batch.fold(change)
    return outcome


def _dispatch(change: ChangeSet, mutation: Mutation, now_ns: int) -> Outcome:
    match mutation:
        case CreateFile(directory, name, status):
            return _create(change, directory, name, VnodeType.FILE, b"", status, now_ns)
        case MakeDir(directory, name, status):
            return _create(change, directory, name, VnodeType.DIRECTORY, None, status, now_ns)
        case MakeSymlink(directory, name, target, status):
            data = check_link_target(target)
            return _create(change, directory, name, VnodeType.SYMLINK, data, status, now_ns)
        case Link():
            return _link(change, mutation, now_ns)
        case RemoveFile(directory, name):
            return _remove_file(change, directory, name, now_ns)
        case RemoveDir(directory, name):
            return _remove_dir(change, directory, name, now_ns)
        case Rename():
            return rename(change, mutation, now_ns)
        case StoreStatus(fid, status):
            return _store_status(change, fid, status, now_ns)
        case StoreAcl(directory, acl):
            return _store_acl(change, directory, acl, now_ns)
        case StoreData():
            return _store_data(change, mutation, now_ns)
        case SetVolumeFields():
            return _set_volume_fields(change, mutation)


def _create(
    change: ChangeSet,
    directory: Fid,
    name: str,
    kind: VnodeType,
    data: bytes | None,
    status: SetStatus,
    now_ns: int,
) -> Outcome:
    parent = check_directory(change, directory)
    check_entry_name(name)
    if change.entry(directory.vnode, name) is not None:
        raise AfsError(AfsCode.EEXIST, f"name {name!r} is taken in directory {directory}")
    if parent.length >= MAX_DIRECTORY_ENTRIES:
        raise AfsError(
            AfsCode.VLIMIT, f"directory {directory} has {parent.length} entries: that is the limit"
        )
    if status.length is not None and kind is not VnodeType.FILE:
        raise AfsError(
            AfsCode.EINVAL, f"length {status.length} cannot be set for a {kind.name.lower()}"
        )
    fid = change.new_fid(kind)
    vnode = Vnode(
        fid=fid,
        type=kind,
        mode=_DEFAULT_MODE[kind],
        owner=0,
        group=0,
        link_count=2 if kind is VnodeType.DIRECTORY else 1,
        length=len(data or b""),
        data_version=1,
        client_mtime_ns=now_ns,
        server_mtime_ns=now_ns,
        parent=directory,
        # A new directory has the list of the one that it is in.
        acl=parent.acl if kind is VnodeType.DIRECTORY else "",
    )
    vnode = status_applied(vnode, status, now_ns)
    if data is not None:
        change.edit_data(fid.vnode, FileEdit(inline=data))
    if status.length:
        _check_length(status.length)
        change.edit_data(fid.vnode, resized(VnodeData(change, vnode), status.length))
        vnode = replace(vnode, length=status.length)
    change.put_vnode(vnode)
    change.put_entry(directory.vnode, entry_of(name, vnode))
    parent = grown_directory(parent, now_ns, subdirectories=1 if kind is VnodeType.DIRECTORY else 0)
    change.put_vnode(parent)
    return Outcome(vnode, parent, changed=((directory, BreakReason.DATA_CHANGED),))


def _link(change: ChangeSet, mutation: Link, now_ns: int) -> Outcome:
    directory, name = mutation.directory, mutation.name
    parent = check_directory(change, directory)
    check_entry_name(name)
    target = require_vnode(change, mutation.target)
    if target.type is VnodeType.DIRECTORY:
        raise AfsError(AfsCode.EISDIR, f"vnode {target.fid} is a directory: it has one name only")
    if target.parent != directory:
        raise AfsError(
            AfsCode.EXDEV,
            f"vnode {target.fid} lies in {target.parent}: its links do too, not in {directory}",
        )
    if change.entry(directory.vnode, name) is not None:
        raise AfsError(AfsCode.EEXIST, f"name {name!r} is taken in directory {directory}")
    if parent.length >= MAX_DIRECTORY_ENTRIES:
        raise AfsError(
            AfsCode.VLIMIT, f"directory {directory} has {parent.length} entries: that is the limit"
        )
    target = replace(target, link_count=target.link_count + 1, server_mtime_ns=now_ns)
    change.put_vnode(target)
    change.put_entry(directory.vnode, entry_of(name, target))
    parent = grown_directory(parent, now_ns)
    change.put_vnode(parent)
    return Outcome(
        target,
        parent,
        changed=((directory, BreakReason.DATA_CHANGED), (target.fid, BreakReason.STATUS_CHANGED)),
    )


def _remove_file(change: ChangeSet, directory: Fid, name: str, now_ns: int) -> Outcome:
    parent = check_directory(change, directory)
    vnode = _named(change, directory, name)
    if vnode.type is VnodeType.DIRECTORY:
        raise AfsError(
            AfsCode.EISDIR, f"{name!r} in {directory} is a directory: RemoveDir removes it"
        )
    change.remove_entry(directory.vnode, name)
    parent = shrunk_directory(parent, now_ns)
    change.put_vnode(parent)
    vnode, reason = unlinked(change, vnode, now_ns)
    return Outcome(
        vnode, parent, changed=((directory, BreakReason.DATA_CHANGED), (vnode.fid, reason))
    )


def _remove_dir(change: ChangeSet, directory: Fid, name: str, now_ns: int) -> Outcome:
    parent = check_directory(change, directory)
    vnode = _named(change, directory, name)
    if vnode.type is not VnodeType.DIRECTORY:
        raise AfsError(
            AfsCode.ENOTDIR, f"{name!r} in {directory} is no directory: RemoveFile removes it"
        )
    if vnode.length:
        raise AfsError(
            AfsCode.ENOTEMPTY, f"directory {name!r} in {directory} has {vnode.length} entries"
        )
    change.remove_entry(directory.vnode, name)
    parent = shrunk_directory(parent, now_ns, subdirectories=1)
    change.put_vnode(parent)
    change.remove_vnode(vnode)
    return Outcome(
        replace(vnode, link_count=0, server_mtime_ns=now_ns),
        parent,
        changed=((directory, BreakReason.DATA_CHANGED), (vnode.fid, BreakReason.REMOVED)),
    )


def _store_status(change: ChangeSet, fid: Fid, status: SetStatus, now_ns: int) -> Outcome:
    vnode = require_vnode(change, fid)
    reason = BreakReason.STATUS_CHANGED
    if status.length is not None:
        check_file(vnode)
        _check_length(status.length)
        change.edit_data(fid.vnode, resized(VnodeData(change, vnode), status.length))
        vnode = replace(
            vnode, length=status.length, data_version=vnode.data_version + 1, client_mtime_ns=now_ns
        )
        reason = BreakReason.DATA_CHANGED
    vnode = status_applied(vnode, status, now_ns)
    change.put_vnode(vnode)
    return Outcome(vnode, changed=((fid, reason),))


def _store_acl(change: ChangeSet, fid: Fid, acl: str, now_ns: int) -> Outcome:
    vnode = check_directory(change, fid)
    parse_acl(acl)
    vnode = replace(vnode, acl=acl, server_mtime_ns=now_ns)
    change.put_vnode(vnode)
    return Outcome(vnode, changed=((fid, BreakReason.STATUS_CHANGED), *_files_in(change, vnode)))


def _files_in(change: ChangeSet, directory: Vnode) -> list[tuple[Fid, BreakReason]]:
    """Whose rights change with a directory's list: the files in it, or the volume if too many."""
    if directory.length > ACL_FILES_TOLD_MAX:
        whole = whole_volume_fid(directory.fid.volume)
        return [(whole, BreakReason.VOLUME_BREAK_REQUESTED)]
    entries = change.entries(directory.fid.vnode, directory.length).values()
    files = {entry.fid for entry in entries if entry.type is not VnodeType.DIRECTORY}
    return [(fid, BreakReason.STATUS_CHANGED) for fid in sorted(files)]


def _store_data(change: ChangeSet, mutation: StoreData, now_ns: int) -> Outcome:
    fid = mutation.fid
    vnode = require_vnode(change, fid)
    check_file(vnode)
    expected = mutation.expected_data_version
    if expected is not None and expected != vnode.data_version:
        raise AfsError(
            AfsCode.EAGAIN,
            f"vnode {fid} has DataVersion {vnode.data_version}: the store expected {expected}",
        )
    if mutation.set_status.length is not None:
        raise AfsError(AfsCode.EINVAL, "length is set beside data: expected truncate_to instead")
    if mutation.truncate_to is not None:
        _check_length(mutation.truncate_to)
    staged = mutation.staged
    assert isinstance(staged, GridStagedData), "data is staged by the volume it is stored to"
    edit, length = stored(VnodeData(change, vnode), staged, mutation.truncate_to)
    change.edit_data(fid.vnode, edit)
    vnode = replace(
        vnode, length=length, data_version=vnode.data_version + 1, client_mtime_ns=now_ns
    )
    vnode = status_applied(vnode, mutation.set_status, now_ns)
    change.put_vnode(vnode)
    return Outcome(vnode, changed=((fid, BreakReason.DATA_CHANGED),))


def _set_volume_fields(change: ChangeSet, fields: SetVolumeFields) -> Outcome:
    header = change.state().header
    if fields.name is not None:
        header = replace(header, name=check_volume_name(fields.name))
    if fields.max_quota_kib is not None:
        if not 0 <= fields.max_quota_kib < 2**63:
            raise AfsError(
                AfsCode.EINVAL,
                f"max_quota_kib {fields.max_quota_kib}: expected 0 (no limit) or more",
            )
        header = replace(header, max_quota_kib=fields.max_quota_kib)
    if fields.backup_id is not None:
        if not 0 <= fields.backup_id <= MAX_UINT32:
            raise AfsError(
                AfsCode.EINVAL, f"backup_id {fields.backup_id}: expected 0 to {MAX_UINT32}"
            )
        header = replace(header, backup_id=fields.backup_id)
    if fields.offline_message is not None:
        header = replace(header, offline_message=fields.offline_message)
    if fields.leave_offline is not None:
        header = replace(header, leave_offline=fields.leave_offline)
    if fields.in_transit is not None:
        header = replace(header, in_transit=fields.in_transit)
    change.put_header(header)
    return Outcome(None)


def _counts(mutation: Mutation, header: VolumeHeader) -> bool:
    """Whether a change of the header advances the change counter.

    Not where the mark of a move is set or taken back: both halves keep their counter, so that a
    move within one server breaks nothing (M5b). And not for a clone: its counter is the source's,
    and a number of its own would one day be another state of the source.
    """
    if not isinstance(mutation, SetVolumeFields) or header.type is not VolumeType.READ_WRITE:
        return False
    return replace(mutation, in_transit=None) != SetVolumeFields()


def _named(change: Tables, directory: Fid, name: str) -> Vnode:
    """The vnode a name stands for; ENOENT."""
    check_entry_name(name)
    entry = change.entry(directory.vnode, name)
    if entry is None:
        raise AfsError(AfsCode.ENOENT, f"no {name!r} in directory {directory}")
    return require_vnode(change, entry.fid)


def _check_length(length: int) -> None:
    if length < 0:
        raise AfsError(
            AfsCode.EINVAL, f"length {length} is negative: expected 0 to {MAX_FILE_BYTES}"
        )
    if length > MAX_FILE_BYTES:
        raise AfsError(
            AfsCode.EFBIG, f"length {length} is too large: expected 0 to {MAX_FILE_BYTES}"
        )
