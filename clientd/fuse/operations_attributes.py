"""FUSE: attributes, symbolic links' targets, access, and what a file system says of itself."""

from __future__ import annotations

import errno
from collections.abc import Coroutine
from typing import Any, Final

from afs.limits import KIB, MAX_NAME_BYTES
from afs.types import SetStatus, VnodeType
from afs.v1 import file_server_pb2 as pb
from clientd.fuse import abi
from clientd.fuse.abi import Opcode, SetAttr
from clientd.fuse.attributes import NS_PER_S
from clientd.fuse.nodes import Node
from clientd.fuse.session import Answer, Handler, Request
from clientd.fuse.tree import Tree
from clientd.services import Services

# What f_bsize says; the blocks of statfs are of this size.
_BLOCK_BYTES: Final = 4 * KIB
_KIB_PER_BLOCK: Final = _BLOCK_BYTES // KIB
# A volume without quota in a partition of unknown size: 1 TiB, all free.
_UNKNOWN_KIB: Final = 1024 * 1024 * 1024
_PERMISSIONS: Final = 0o7777


class AttributeOperations:
    """What concerns attributes.

    Args:
        tree: nodes and answers.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree

    @property
    def _services(self) -> Services:
        return self._tree.services

    def handlers(self) -> dict[int, Handler]:
        """By opcode."""
        return {
            Opcode.GETATTR: self.getattr,
            Opcode.SETATTR: self.setattr,
            Opcode.READLINK: self.readlink,
            Opcode.STATFS: self.statfs,
        }

    def getattr(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """A node's attributes; from the cache at once."""
        node = self._tree.node(request.node_id)
        known = self._tree.status_now(node)
        if known is None:
            return self._getattr(node)
        return self._tree.attributes(node, *known)

    async def _getattr(self, node: Node) -> Answer:
        return self._tree.attributes(node, *await self._tree.status(node))

    def setattr(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Sets attributes. There is no time of access: setting it does nothing."""
        fields = abi.SETATTR_IN.unpack_from(request.body)
        valid, _, size, _, _, mtime = fields[:6]
        mtime_ns, _, mode, uid, gid = fields[8:]
        node = self._tree.node(request.node_id)
        if valid & SetAttr.MTIME_NOW:
            stored_ns: int | None = self._services.clock.wall_ns()
        elif valid & SetAttr.MTIME:
            stored_ns = mtime * NS_PER_S + mtime_ns
        else:
            stored_ns = None
        status = SetStatus(
            mode=mode & _PERMISSIONS if valid & SetAttr.MODE else None,
            owner=uid if valid & SetAttr.UID else None,
            group=gid if valid & SetAttr.GID else None,
            client_mtime_ns=stored_ns,
        )
        return self._setattr(node, size if valid & SetAttr.SIZE else None, status)

    async def _setattr(self, node: Node, length: int | None, status: SetStatus) -> Answer:
        volume = self._tree.volume(node)
        changes, open_files = self._services.vnode_changes, self._services.open_files
        if length is not None:
            await self._truncate(node, length)
        if (
            status.client_mtime_ns is not None
            and node.type is VnodeType.FILE
            and open_files.set_mtime(node.fid, status.client_mtime_ns)
        ):
            # It goes with the data.
            status = SetStatus(mode=status.mode, owner=status.owner, group=status.group)
        if status != SetStatus():
            await changes.to_the_end(changes.set_status(volume, node.fid, status))
        return self._tree.attributes(node, *await self._tree.status(node))

    async def _truncate(self, node: Node, length: int) -> None:
        """Makes a file so long; with nobody writing to it, at the fileserver at once."""
        volume = self._tree.volume(node)
        writing = next(iter(node.files), None)
        if writing is not None:
            await writing.truncate(length)
        else:
            await self._services.open_files.truncate(volume, node.fid, length)

    def readlink(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Where a symbolic link points to."""
        node = self._tree.node(request.node_id)
        entry, _ = self._tree.kernel.trust(node.fid)
        target = entry.current_target() if entry is not None else None
        return self._readlink(node) if target is None else target.encode()

    async def _readlink(self, node: Node) -> Answer:
        return (await self._services.walk.target(self._tree.volume(node), node.fid)).encode()

    def statfs(self, request: Request) -> Coroutine[Any, Any, Answer]:
        """Size and use of the volume that a node is in."""
        return self._statfs(self._tree.node(request.node_id))

    async def _statfs(self, node: Node) -> Answer:
        if node.volume is None:
            return abi.STATFS_OUT.pack(0, 0, 0, 0, 0, _BLOCK_BYTES, MAX_NAME_BYTES, _BLOCK_BYTES)
        request = pb.GetVolumeStatusRequest(volume=node.fid.volume)
        response, _ = await node.volume.call(lambda stub: stub.GetVolumeStatus, request)
        status = response.status
        room_kib = status.partition_free_kib or _UNKNOWN_KIB
        if status.max_quota_kib:
            size_kib = status.max_quota_kib
            free_kib = min(room_kib, max(0, size_kib - status.used_kib))
        else:
            size_kib, free_kib = status.used_kib + room_kib, room_kib
        free = free_kib // _KIB_PER_BLOCK
        # A file takes a KiB at least, so there is room for so many.
        return abi.STATFS_OUT.pack(
            size_kib // _KIB_PER_BLOCK,
            free,
            free,
            status.file_count + free_kib,
            free_kib,
            _BLOCK_BYTES,
            MAX_NAME_BYTES,
            _BLOCK_BYTES,
        )


def refused(number: int) -> Handler:
    """A handler that answers every request with one errno."""
    return lambda _request: number


# ENOSYS tells the kernel not to ask again; it then answers programs with what is right.
REFUSED: Final[dict[int, Handler]] = {
    Opcode.SETXATTR: refused(errno.ENOSYS),
    Opcode.GETXATTR: refused(errno.ENOSYS),
    Opcode.LISTXATTR: refused(errno.ENOSYS),
    Opcode.REMOVEXATTR: refused(errno.ENOSYS),
    Opcode.FALLOCATE: refused(errno.EOPNOTSUPP),
}
