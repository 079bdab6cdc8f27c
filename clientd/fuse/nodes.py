"""The inodes that the kernel knows, and which vnode each of them stands for.

Theory of operation
    The kernel names inodes by numbers that we give, and counts with us how often it was told of
    each (`lookups`): when it forgets one, the node goes. So the table is as large as the kernel's
    own cache of inodes, which the kernel bounds; numbers are never used twice.

    A directory in the kernel has one place. The same volume may be mounted in several places, and
    in itself, so a node stands for a Fid *as reached through one chain of mount points*, its
    `realm`. Crossing a mount point leads to another realm, the same one each time; everything
    below a volume's root is in the root's realm.

    `told_until`, `names` and `data_version` say what the kernel may be relying on:
    `kernel_caches` has the rules.

Invariant: a node is in the table, under its number, its key and its Fid, while and only while
`lookups` > 0; the root always is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from afs.types import Fid, Vnode, VnodeType
from clientd.fuse.abi import ROOT_ID
from clientd.fuse.attributes import attributes
from clientd.open_file import OpenFile
from clientd.volume_calls import VolumeCalls

# Of a node without any data in the kernel's cache.
NO_DATA: Final = -1
# The realm of the mount's root.
ROOT_REALM: Final = 0


class Node:
    """One inode.

    Attributes:
        id: the kernel's number for it.
        realm: see the module.
        volume: the one its vnode is in; None for "/" of a cell without `root.cell`.
        fid: its vnode; for such a "/" one that no vnode has.
        type: what it is.
        lookups: how often the kernel was told of it and has not forgotten it.
        opens: handles by which the kernel may read or write its data at this moment.
        told_until: steady seconds until when the kernel may rely on attributes it was told.
        names: of a directory: until when the kernel may rely on names it was told, there or not.
        named_at: when it was last told of one.
        data_version: of which the kernel may have data; NO_DATA if it has none.
        files: of the handles that may write, the open files.
        busy: requests under way that hold the directory's lock in the kernel.
        settling: until it is done, the kernel may have data that is stale.
    """

    __slots__ = (
        "_attributes",
        "_vnode",
        "busy",
        "data_version",
        "fid",
        "files",
        "id",
        "lookups",
        "named_at",
        "names",
        "opens",
        "realm",
        "settling",
        "told_until",
        "type",
        "volume",
    )

    def __init__(
        self, number: int, realm: int, volume: VolumeCalls | None, fid: Fid, kind: VnodeType
    ) -> None:
        self.id = number
        self.realm = realm
        self.volume = volume
        self.fid = fid
        self.type = kind
        self.lookups = 0
        self.opens = 0
        self.files: list[OpenFile] = []
        self.told_until = 0.0
        self.names: dict[bytes, float] | None = None
        self.named_at = 0.0
        self.data_version = NO_DATA
        self.busy = 0
        self.settling: asyncio.Future[None] | None = None
        self._vnode: Vnode | None = None
        self._attributes = b""

    def attributes(self, vnode: Vnode) -> bytes:
        """The vnode's status as fuse_attr; remembered, as mostly it is the same again."""
        if self._vnode is not vnode:
            self._attributes = attributes(vnode)
            self._vnode = vnode
        return self._attributes


class Nodes:
    """The table. `root` is there from the start.

    Args:
        volume: of the root, None in a cell without `root.cell`.
        fid: the root's.
    """

    def __init__(self, volume: VolumeCalls | None, fid: Fid) -> None:
        self.root = Node(ROOT_ID, ROOT_REALM, volume, fid, VnodeType.DIRECTORY)
        self.by_id: dict[int, Node] = {ROOT_ID: self.root}
        self._by_key: dict[tuple[int, Fid], Node] = {(ROOT_REALM, fid): self.root}
        self._by_fid: dict[Fid, list[Node]] = {fid: [self.root]}
        # The realm behind each mount point: by its own realm, its Fid, and the volume it leads to.
        self._realms: dict[tuple[int, Fid, int], int] = {}
        self._next_id = ROOT_ID + 1

    def __len__(self) -> int:
        return len(self.by_id)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.by_id.values())

    def of(self, fid: Fid) -> list[Node]:
        """The nodes that stand for a vnode; mostly one or none. Not to be changed."""
        return self._by_fid.get(fid, [])

    def find(self, realm: int, fid: Fid) -> Node | None:
        """The node for a vnode in a realm, if the kernel knows it."""
        return self._by_key.get((realm, fid))

    def told(self, realm: int, volume: VolumeCalls, fid: Fid, kind: VnodeType) -> Node:
        """The node for a vnode of which the kernel is being told, once more."""
        key = (realm, fid)
        node = self._by_key.get(key)
        if node is None:
            node = Node(self._next_id, realm, volume, fid, kind)
            self._next_id += 1
            self.by_id[node.id] = node
            self._by_key[key] = node
            self._by_fid.setdefault(fid, []).append(node)
        node.lookups += 1
        return node

    def realm_behind(self, realm: int, mount_point: Fid, volume_id: int) -> int:
        """The realm to which a mount point leads."""
        key = (realm, mount_point, volume_id)
        behind = self._realms.get(key)
        if behind is None:
            behind = self._realms[key] = len(self._realms) + 1
        return behind

    def forget(self, number: int, lookups: int) -> Node | None:
        """The kernel forgets so many times that it was told of a node; the node if it is gone."""
        node = self.by_id.get(number)
        if node is None or node is self.root:
            return None
        node.lookups -= lookups
        if node.lookups > 0:
            return None
        self._remove(node)
        return node

    def move_root(self, volume: VolumeCalls | None, fid: Fid) -> None:
        """The mount's root stands for another vnode from now on."""
        root = self.root
        self._remove(root)
        root.volume, root.fid = volume, fid
        self.by_id[root.id] = root
        self._by_key[(ROOT_REALM, fid)] = root
        self._by_fid.setdefault(fid, []).append(root)

    def _remove(self, node: Node) -> None:
        del self.by_id[node.id]
        del self._by_key[(node.realm, node.fid)]
        of_fid = self._by_fid[node.fid]
        of_fid.remove(node)
        if not of_fid:
            del self._by_fid[node.fid]
