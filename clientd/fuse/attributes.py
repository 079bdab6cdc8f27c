"""A vnode as the kernel sees an inode."""

from __future__ import annotations

import stat
from typing import Final

from afs.types import Fid, Vnode, VnodeType
from clientd.fuse.abi import ATTR

# What programs take for the size of their buffers: each write(2) is a request to us, so not small.
BLOCK_BYTES: Final = 64 * 1024
# What st_blocks counts.
_STAT_BLOCK_BYTES: Final = 512
NS_PER_S: Final = 1_000_000_000
# Seconds before 1970 are negative.
_MASK_64: Final = 2**64 - 1

FORMAT: Final = {
    VnodeType.FILE: stat.S_IFREG,
    VnodeType.DIRECTORY: stat.S_IFDIR,
    VnodeType.SYMLINK: stat.S_IFLNK,
}
DIRENT_TYPE: Final = {kind: mode >> 12 for kind, mode in FORMAT.items()}


def inode_number(fid: Fid) -> int:
    """What programs see as st_ino: the same for a file wherever it is met.

    So `find` and its kin notice a volume that is mounted in itself.
    """
    return fid.volume << 32 | fid.vnode


def attributes(vnode: Vnode) -> bytes:
    """The structure fuse_attr; times are those that were stored, there is no time of access."""
    modified_s, modified_ns = divmod(vnode.client_mtime_ns, NS_PER_S)
    changed_s, changed_ns = divmod(vnode.server_mtime_ns, NS_PER_S)
    return ATTR.pack(
        inode_number(vnode.fid),
        vnode.length,
        -(-vnode.length // _STAT_BLOCK_BYTES),
        modified_s & _MASK_64,
        modified_s & _MASK_64,
        changed_s & _MASK_64,
        modified_ns,
        modified_ns,
        changed_ns,
        FORMAT[vnode.type] | vnode.mode,
        vnode.link_count,
        vnode.owner,
        vnode.group,
        0,
        BLOCK_BYTES,
        0,
    )
