"""Between wire messages and the types of `afs.types`; checks what comes from outside."""

from __future__ import annotations

from collections.abc import Iterable

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_FILE_BYTES, MAX_NAME_BYTES, MAX_SYMLINK_BYTES
from afs.types import DirectoryEntry, Fid, SetStatus, Vnode, VnodeType
from afs.v1 import types_pb2


def fid_to_wire(fid: Fid) -> types_pb2.Fid:
    """The message for a Fid."""
    return types_pb2.Fid(volume=fid.volume, vnode=fid.vnode, uniquifier=fid.uniquifier)


def fid_from_wire(message: types_pb2.Fid, field: str = "fid") -> Fid:
    """The Fid of one vnode.

    Raises:
        AfsError: EINVAL where a part is missing or 0, or for a whole-volume Fid.
    """
    if not (message.volume and message.vnode and message.uniquifier):
        raise AfsError(
            AfsCode.EINVAL,
            f"{field} {message.volume}.{message.vnode}.{message.uniquifier} names no vnode:"
            " expected three numbers from 1 to 4294967295",
        )
    return Fid(message.volume, message.vnode, message.uniquifier)


def status_to_wire(vnode: Vnode) -> types_pb2.FileStatus:
    """The message for a vnode's status."""
    return types_pb2.FileStatus(
        fid=fid_to_wire(vnode.fid),
        type=types_pb2.VnodeType.ValueType(vnode.type),
        mode=vnode.mode,
        owner=vnode.owner,
        group=vnode.group,
        link_count=vnode.link_count,
        length=vnode.length,
        data_version=vnode.data_version,
        client_mtime_ns=vnode.client_mtime_ns,
        server_mtime_ns=vnode.server_mtime_ns,
        parent=fid_to_wire(vnode.parent),
    )


def status_from_wire(message: types_pb2.FileStatus) -> Vnode:
    """The vnode a fileserver told of.

    Raises:
        AfsError: EINVAL for a message that describes no vnode.
    """
    try:
        kind = VnodeType(message.type)
    except ValueError:
        raise AfsError(
            AfsCode.EINVAL, f"type {message.type} is no vnode type: expected 1, 2 or 3"
        ) from None
    return Vnode(
        fid=fid_from_wire(message.fid),
        type=kind,
        mode=message.mode,
        owner=message.owner,
        group=message.group,
        link_count=message.link_count,
        length=message.length,
        data_version=message.data_version,
        client_mtime_ns=message.client_mtime_ns,
        server_mtime_ns=message.server_mtime_ns,
        parent=fid_from_wire(message.parent, "parent"),
    )


def set_status_from_wire(message: types_pb2.SetStatus) -> SetStatus:
    """The attributes to set.

    Raises:
        AfsError: EINVAL for a mode outside 0 to 0o7777; EFBIG for a length beyond MAX_FILE_BYTES.
    """
    if message.HasField("mode") and message.mode > 0o7777:
        raise AfsError(AfsCode.EINVAL, f"mode {message.mode:#o} is outside 0 to 0o7777")
    if message.HasField("length"):
        check_length(message.length, "length")
    return SetStatus(
        mode=message.mode if message.HasField("mode") else None,
        owner=message.owner if message.HasField("owner") else None,
        group=message.group if message.HasField("group") else None,
        client_mtime_ns=message.client_mtime_ns if message.HasField("client_mtime_ns") else None,
        length=message.length if message.HasField("length") else None,
    )


def set_status_to_wire(status: SetStatus) -> types_pb2.SetStatus:
    """The message for attributes to set."""
    return types_pb2.SetStatus(
        mode=status.mode,
        owner=status.owner,
        group=status.group,
        client_mtime_ns=status.client_mtime_ns,
        length=status.length,
    )


def entries_to_wire(entries: Iterable[DirectoryEntry]) -> list[types_pb2.DirectoryEntry]:
    """The messages for directory entries."""
    return [
        types_pb2.DirectoryEntry(
            name=entry.name,
            fid=fid_to_wire(entry.fid),
            type=types_pb2.VnodeType.ValueType(entry.type),
        )
        for entry in entries
    ]


def entry_from_wire(message: types_pb2.DirectoryEntry) -> DirectoryEntry:
    """A directory entry a fileserver told of; EINVAL if it is none."""
    try:
        kind = VnodeType(message.type)
    except ValueError:
        raise AfsError(
            AfsCode.EINVAL, f"type {message.type} is no vnode type: expected 1, 2 or 3"
        ) from None
    return DirectoryEntry(check_name(message.name), fid_from_wire(message.fid), kind)


def check_name(name: str) -> str:
    """The name, if it can stand in a directory.

    Raises:
        AfsError: EINVAL for an empty name, `.`, `..`, a `/` or a NUL in it; ENAMETOOLONG beyond
            MAX_NAME_BYTES.
    """
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise AfsError(
            AfsCode.EINVAL,
            f"name {name!r} cannot stand in a directory: expected no '/', NUL, '.' or '..'",
        )
    if len(size := name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise AfsError(
            AfsCode.ENAMETOOLONG,
            f"name {name[:32]!r}… has {len(size)} bytes: expected at most {MAX_NAME_BYTES}",
        )
    return name


def check_symlink_target(target: str) -> str:
    """The target, if a symbolic link can hold it; else AfsError EINVAL or ENAMETOOLONG."""
    if not target or "\0" in target:
        raise AfsError(
            AfsCode.EINVAL,
            f"symbolic link target {target!r}: expected a text without NUL, not empty",
        )
    if (size := len(target.encode("utf-8", "surrogatepass"))) > MAX_SYMLINK_BYTES:
        raise AfsError(
            AfsCode.ENAMETOOLONG,
            f"symbolic link target {target[:32]!r}… has {size} bytes:"
            f" expected at most {MAX_SYMLINK_BYTES}",
        )
    return target


def check_length(value: int, field: str) -> int:
    """A length or offset in bytes, if it is one.

    Else AfsError EINVAL (negative) or EFBIG (beyond MAX_FILE_BYTES).
    """
    if value < 0:
        raise AfsError(
            AfsCode.EINVAL, f"{field} {value} is negative: expected 0 to {MAX_FILE_BYTES}"
        )
    if value > MAX_FILE_BYTES:
        raise AfsError(
            AfsCode.EFBIG, f"{field} {value} is too large: expected 0 to {MAX_FILE_BYTES}"
        )
    return value
