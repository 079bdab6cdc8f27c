"""The tree that is mounted, as answers to the kernel: nodes, statuses, and how long they hold.

Every answer about a node goes through here: what it says and how long the kernel may rely on it are
taken in one step with writing it (see `kernel_caches`), and no status leaves for a file of which
the kernel has data of another DataVersion.
"""

from __future__ import annotations

import errno
from typing import Final, NamedTuple

from afs.errors import AfsCode, AfsError
from afs.mount_points import may_be_mount_point, parse_mount_point
from afs.types import DirectoryEntry, Fid, Vnode, VnodeType, root_fid, whole_volume_fid
from clientd.core.listing import UNKNOWN, Unknown
from clientd.fuse import abi
from clientd.fuse.kernel_caches import KernelCaches
from clientd.fuse.nodes import NO_DATA, Node, Nodes
from clientd.fuse.silly_names import SillyNames
from clientd.services import Services
from clientd.volume_calls import VolumeCalls
from clientd.volume_location import VolumeGoneError

# "/" of a cell without `root.cell` is the list of volumes: no promise covers it, and a new one may
# take so long to be seen.
VOLUMES_TRUST_S: Final = 1.0
# A file that changes faster than it can be told of is told of as it was at some moment.
MAX_READINGS: Final = 10
# What a name stands for that no volume has.
NO_SUCH_VOLUME: Final = frozenset({AfsCode.VNOVOL, AfsCode.EINVAL, AfsCode.ENAMETOOLONG})
# Stands for "/" of a cell without `root.cell`.
VOLUMES_FID: Final = Fid(0, 1, 1)
NO_ENTRY: Final = whole_volume_fid(0)
_NO_ENTRY_OUT: Final = bytes(abi.ENTRY_OUT_HEAD.size + abi.ATTR.size)


class Named(NamedTuple):
    """What a name in a directory stands for.

    `entry` is what the directory says: another Fid than `fid` for a mount point, which stands for
    the root of its volume; NO_ENTRY for a volume that stands in "/" by its name.
    """

    realm: int
    volume: VolumeCalls
    fid: Fid
    type: VnodeType
    entry: Fid


class Tree:
    """Nodes and answers about them.

    Args:
        services: the client's parts.
        nodes: what the kernel knows.
        kernel: what it relies on.
        silly: knows which files are open and removed.
    """

    def __init__(
        self, services: Services, nodes: Nodes, kernel: KernelCaches, silly: SillyNames
    ) -> None:
        self.services = services
        self.nodes = nodes
        self.kernel = kernel
        self._overlay = silly.overlay

    # --- nodes ---

    def node(self, number: int) -> Node:
        """The node of that number; ESTALE if there is none."""
        node = self.nodes.by_id.get(number)
        if node is None:
            raise OSError(errno.ESTALE, f"no inode {number}")
        return node

    def volume(self, node: Node) -> VolumeCalls:
        """The volume that a node is in; EROFS for "/" of a cell without `root.cell`."""
        if node.volume is None:
            raise AfsError(
                AfsCode.EROFS, "/ is the list of the cell's volumes: it has no root.cell"
            )
        return node.volume

    async def find_root(self) -> None:
        """Looks whether "/" is still what it was: a `root.cell` may have been made."""
        root = self.nodes.root
        volume = await self.services.volumes.root(fresh=root.volume is None)
        fid = root_fid(volume.volume_id) if volume is not None else VOLUMES_FID
        if fid != root.fid:
            self.kernel.stale(root.fid)
            self.kernel.settle()
            self.nodes.move_root(volume, fid)

    # --- statuses ---

    def status_now(self, node: Node) -> tuple[Vnode, float] | None:
        """The status and for how long it may be relied on; None if somebody has to be asked."""
        entry, seconds = self.kernel.trust(node.fid)
        if entry is None or not self._fits(node, entry.status):
            return None
        return self._overlay(entry.status), seconds

    async def status(self, node: Node) -> tuple[Vnode, float]:
        """The status and for how long it may be relied on; to be answered with at once.

        Raises:
            AfsError: as FetchStatus.
        """
        if node is self.nodes.root:
            await self.find_root()
        if node.volume is None:
            return await self._volumes_status(), VOLUMES_TRUST_S
        return await self._status(node.volume, node.realm, node.fid)

    async def _status(
        self, volume: VolumeCalls, realm: int, fid: Fid, directory: Fid | None = None
    ) -> tuple[Vnode, float]:
        for _ in range(MAX_READINGS):
            known = await self.services.statuses.status(volume, fid, directory=directory)
            if (node := self.nodes.find(realm, fid)) is not None:
                await self.kernel.refresh(node, known.vnode)
            entry, seconds = self.kernel.trust(fid)
            if entry is None:
                break
            node = self.nodes.find(realm, fid)
            if node is None or self._fits(node, entry.status):
                return self._overlay(entry.status), seconds
        return self._overlay(known.vnode), 0.0

    @staticmethod
    def _fits(node: Node, vnode: Vnode) -> bool:
        """True if the kernel's data is of this DataVersion, or it has none."""
        return node.settling is None and node.data_version in (NO_DATA, vnode.data_version)

    async def _volumes_status(self) -> Vnode:
        count = len(await self.services.location.list_volumes())
        return Vnode(
            fid=VOLUMES_FID,
            type=VnodeType.DIRECTORY,
            mode=0o555,
            owner=0,
            group=0,
            link_count=2,
            length=count,
            data_version=0,
            client_mtime_ns=0,
            server_mtime_ns=0,
            parent=VOLUMES_FID,
        )

    async def status_of(self, named: Named, above: Node) -> tuple[Vnode, float]:
        """As `status`, for what a name in a directory stands for."""
        return await self._status(named.volume, named.realm, named.fid, above.fid)

    def has_right_data(self, node: Node) -> bool:
        """True if what the kernel may have of a file's data may be relied on in this moment."""
        entry, _ = self.kernel.trust(node.fid)
        return (
            entry is not None
            and node.settling is None
            and node.data_version == entry.status.data_version
        )

    # --- answers ---

    def attributes(self, node: Node, vnode: Vnode, seconds: float) -> bytes:
        """The answer to GETATTR and SETATTR."""
        whole, nanoseconds = abi.split_time(seconds)
        self.kernel.note_attributes(node, seconds)
        return abi.ATTR_OUT_HEAD.pack(whole, nanoseconds) + node.attributes(vnode)

    def entry(
        self, above: Node, name: str, named: Named, vnode: Vnode, seconds: float
    ) -> tuple[Node, bytes]:
        """The answer that a name stands for a vnode, by which the kernel knows its node once more.

        Args:
            above: the directory.
            name: in it.
            named: what it stands for.
            vnode: that one's status.
            seconds: how long that may be relied on.
        """
        name_seconds = self.name_trust(above, name, named.entry)
        return self._entry(above, name.encode(), named, vnode, name_seconds, seconds)

    def listed(
        self,
        above: Node,
        name: bytes,
        named: Named,
        vnode: Vnode,
        name_seconds: float,
        seconds: float,
    ) -> bytes:
        """The same answer as part of a listing, whose names may be relied on for `name_seconds`.

        Nothing for a file of which the kernel has other data than this: it has to ask.
        """
        node = self.nodes.find(named.realm, named.fid)
        if node is not None and not self._fits(node, vnode):
            return _NO_ENTRY_OUT
        vnode = self._overlay(vnode)
        return self._entry(above, name, named, vnode, name_seconds, seconds)[1]

    def _entry(
        self,
        above: Node,
        name: bytes,
        named: Named,
        vnode: Vnode,
        name_seconds: float,
        seconds: float,
    ) -> tuple[Node, bytes]:
        node = self.nodes.told(named.realm, named.volume, named.fid, named.type)
        self.kernel.note_name(above, name, name_seconds)
        self.kernel.note_attributes(node, seconds)
        name_s, name_ns = abi.split_time(name_seconds)
        whole, nanoseconds = abi.split_time(seconds)
        head = abi.ENTRY_OUT_HEAD.pack(node.id, 0, name_s, whole, name_ns, nanoseconds)
        return node, head + node.attributes(vnode)

    def moved(self, old: tuple[Node, str], new: tuple[Node, str]) -> None:
        """A name was moved by the kernel; to be called before that is answered."""
        (above, old_name), (below, new_name) = old, new
        entry, seconds = self.kernel.trust(below.fid)
        if entry is None:
            seconds = 0.0
        self.kernel.moved((above, old_name.encode()), (below, new_name.encode()), seconds)

    def no_entry(self, above: Node, name: str) -> bytes:
        """The answer that a name is not there."""
        seconds = 0.0 if above is self.nodes.root else self.name_trust(above, name, None)
        self.kernel.note_name(above, name.encode(), seconds)
        whole, nanoseconds = abi.split_time(seconds)
        return abi.ENTRY_OUT_HEAD.pack(0, 0, whole, 0, nanoseconds, 0) + bytes(abi.ATTR.size)

    def name_trust(self, above: Node, name: str, fid: Fid | None) -> float:
        """For how long it may be relied on that a name stands for this; None: that it is not there.

        What was found before something was waited for may be wrong by now: the directory's names
        as they are known in this moment have to say the same.
        """
        if above.volume is None or fid == NO_ENTRY:
            return VOLUMES_TRUST_S
        entry, seconds = self.kernel.trust(above.fid)
        listing = entry.current_listing() if entry is not None else None
        found = listing.find(name) if listing is not None else UNKNOWN
        if found is UNKNOWN or (found.fid if found is not None else None) != fid:
            return 0.0
        return seconds

    # --- names ---

    def find_now(self, above: Node, name: str) -> tuple[Named, Vnode, float] | Unknown | None:
        """What a name stands for, with its status; None if it is not there; UNKNOWN: ask.

        UNKNOWN as well for what may be a mount point, and for names that "/" does not have.
        """
        entry, _ = self.kernel.trust(above.fid)
        volume = above.volume
        listing = entry.current_listing() if entry is not None else None
        if listing is None or volume is None:
            return UNKNOWN
        found = listing.find(name)
        if found is None:
            return UNKNOWN if above is self.nodes.root else None
        if found is UNKNOWN:
            return UNKNOWN
        child, seconds = self.kernel.trust(found.fid)
        if child is None:
            return UNKNOWN
        if found.type is VnodeType.SYMLINK and may_be_mount_point(child.status.mode):
            return UNKNOWN
        node = self.nodes.find(above.realm, found.fid)
        if node is not None and not self._fits(node, child.status):
            return UNKNOWN
        named = Named(above.realm, volume, found.fid, found.type, found.fid)
        return named, self._overlay(child.status), seconds

    async def find(self, above: Node, name: str) -> Named | None:
        """What a name in a directory stands for; None if there is none.

        Raises:
            AfsError: as Lookup, and for a mount point as finding its volume.
        """
        if above is self.nodes.root:
            await self.find_root()
        volume = above.volume
        if volume is None:
            return await self._volume_of_that_name(name)
        found = await self.services.directories.find(volume, above.fid, name)
        if found.entry is None:
            if above is self.nodes.root:
                return await self._volume_of_that_name(name)
            return None
        return await self.named(above, volume, found.entry)

    async def named(self, above: Node, volume: VolumeCalls, entry: DirectoryEntry) -> Named:
        """What an entry of a directory stands for: itself, or the volume of a mount point.

        Raises:
            AfsError: as FetchStatus, and as finding a volume.
        """
        plain = Named(above.realm, volume, entry.fid, entry.type, entry.fid)
        if entry.type is not VnodeType.SYMLINK:
            return plain
        known = await self.services.statuses.status(volume, entry.fid)
        if not may_be_mount_point(known.vnode.mode):
            return plain
        target = await self.services.walk.target(volume, entry.fid)
        mount = parse_mount_point(known.vnode.mode, target)
        if mount is None:
            return plain
        try:
            mounted = await self.services.volumes.mounted(mount, volume.type)
        except AfsError as error:
            if error.code in NO_SUCH_VOLUME:
                # As AFS clients say it: the name is there, what it leads to is not.
                raise OSError(errno.ENODEV, f"mount point {target}: {error.detail}") from None
            raise
        return self._crossed(above, entry.fid, mounted)

    async def _volume_of_that_name(self, name: str) -> Named | None:
        """In "/" a name that it does not have stands for a volume."""
        try:
            volume = await self.services.volumes.named(name)
        except VolumeGoneError:
            return None
        except AfsError as error:
            if error.code not in NO_SUCH_VOLUME:
                raise
            return None
        return self._crossed(self.nodes.root, NO_ENTRY, volume)

    def _crossed(self, above: Node, mount_point: Fid, volume: VolumeCalls) -> Named:
        realm = self.nodes.realm_behind(above.realm, mount_point, volume.volume_id)
        fid = root_fid(volume.volume_id)
        return Named(realm, volume, fid, VnodeType.DIRECTORY, mount_point)
