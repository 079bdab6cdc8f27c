"""FUSE: reading directories, with attributes where the kernel wants them.

Theory of operation
    A directory is read from a copy of its names, made when reading begins or begins anew, so that
    positions stay what they were whatever is made and removed meanwhile. Position n is where the
    n-th entry begins; "." and ".." come first.

    READDIRPLUS tells of each entry what LOOKUP would. What has no trusted status is asked about by
    BulkStatus, some hundred entries at a time, and while the kernel takes those the next ones are
    asked about. A mount point is told of without attributes; the kernel looks it up if need be.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, Final

from afs.mount_points import may_be_mount_point
from afs.types import DirectoryEntry, VnodeType, root_fid
from clientd.fuse import abi
from clientd.fuse.abi import Opcode
from clientd.fuse.attributes import DIRENT_TYPE, inode_number
from clientd.fuse.handles import DirectoryHandle, Handles
from clientd.fuse.nodes import Node
from clientd.fuse.session import Answer, Handler, Request
from clientd.fuse.tree import Named, Tree
from clientd.services import Services
from clientd.volume_calls import VolumeCalls

# Entries asked about at a time: some milliseconds of work for either side.
BATCH_ENTRIES: Final = 256
# Batches that are asked about while one is waited for, so that neither side is idle.
BATCHES_AHEAD: Final = 2
# "." and "..".
_DOTS: Final = (b".", b"..")
_DT_UNKNOWN: Final = 0
_NO_ENTRY_OUT: Final = bytes(abi.ENTRY_OUT_HEAD.size + abi.ATTR.size)


class DirectoryOperations:
    """What concerns directories that are being read.

    Args:
        tree: nodes and answers.
    """

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._handles: Handles[DirectoryHandle] = Handles()

    @property
    def _services(self) -> Services:
        return self._tree.services

    def handlers(self) -> dict[int, Handler]:
        """By opcode."""
        return {
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.READDIRPLUS: self.readdirplus,
            Opcode.RELEASEDIR: self.releasedir,
            Opcode.FSYNCDIR: self.fsyncdir,
        }

    def opendir(self, request: Request) -> Answer:
        """A handle for reading."""
        number = self._handles.add(DirectoryHandle(self._tree.node(request.node_id)))
        return abi.OPEN_OUT.pack(number, 0)

    def releasedir(self, request: Request) -> Answer:
        """The handle is not used any more."""
        number, _, _, _ = abi.RELEASE_IN.unpack_from(request.body)
        self._handles.remove(number)
        return b""

    def fsyncdir(self, _request: Request) -> Answer:
        """Names are at the fileserver, on disk, when their making is answered."""
        return b""

    def readdir(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Names and kinds from a position on."""
        number, position, size, _, _, _ = abi.READ_IN.unpack_from(request.body)
        handle = self._handles.get(number)
        entries = self._entries_now(handle, position)
        if entries is None:
            return self._readdir(handle, position, size)
        return self._plain(handle.node, entries, position, size)

    async def _readdir(self, handle: DirectoryHandle, position: int, size: int) -> Answer:
        handle.node.busy += 1
        try:
            entries = await self._entries(handle)
            return self._plain(handle.node, entries, position, size)
        finally:
            handle.node.busy -= 1

    def readdirplus(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """Names and what they stand for, from a position on."""
        number, position, size, _, _, _ = abi.READ_IN.unpack_from(request.body)
        handle = self._handles.get(number)
        entries = self._entries_now(handle, position)
        if entries is None or not self._are_known(handle.node, entries, position, size):
            return self._readdirplus(handle, position, size)
        return self._plus(handle.node, entries, position, size)

    async def _readdirplus(self, handle: DirectoryHandle, position: int, size: int) -> Answer:
        node = handle.node
        node.busy += 1
        try:
            entries = self._entries_now(handle, position)
            if entries is None:
                entries = await self._entries(handle)
            if node.volume is not None:
                at = max(position - len(_DOTS), 0)
                batch = [entry.fid for entry in entries[at : at + BATCH_ENTRIES]]
                self._bring_ahead(node.volume, entries, at + BATCH_ENTRIES)
                await self._services.statuses.bring(node.volume, batch)
            return self._plus(node, entries, position, size)
        finally:
            node.busy -= 1

    # --- within ---

    def _bring_ahead(self, volume: VolumeCalls, entries: Sequence[DirectoryEntry], at: int) -> None:
        """Asks about the entries that will be wanted next, while others are told of."""
        for start in range(
            at, min(at + BATCHES_AHEAD * BATCH_ENTRIES, len(entries)), BATCH_ENTRIES
        ):
            batch = [entry.fid for entry in entries[start : start + BATCH_ENTRIES]]
            self._tree.kernel.run(self._services.statuses.bring(volume, batch))

    def _entries_now(
        self, handle: DirectoryHandle, position: int
    ) -> Sequence[DirectoryEntry] | None:
        """What the directory has, if that is known here; read anew at the beginning."""
        if position and handle.entries is not None:
            return handle.entries
        if handle.node is self._tree.nodes.root:
            return None
        entry, _ = self._tree.kernel.trust(handle.node.fid)
        listing = entry.current_listing() if entry is not None else None
        if listing is None or not listing.complete:
            return None
        handle.entries = listing.in_order()
        return handle.entries

    async def _entries(self, handle: DirectoryHandle) -> Sequence[DirectoryEntry]:
        node = handle.node
        if node is self._tree.nodes.root:
            await self._tree.find_root()
        if node.volume is None:
            handle.entries = [
                DirectoryEntry(name, root_fid(volume), VnodeType.DIRECTORY)
                for name, volume in await self._services.location.list_volumes()
            ]
        else:
            listed = await self._services.directories.list_all(node.volume, node.fid)
            handle.entries = listed.listing.in_order()
        return handle.entries

    def _kind(self, entry: DirectoryEntry) -> int:
        """The DT_ number; unknown for what may be a mount point."""
        if entry.type is not VnodeType.SYMLINK:
            return DIRENT_TYPE[entry.type]
        known, _ = self._tree.kernel.trust(entry.fid)
        if known is None or may_be_mount_point(known.status.mode):
            return _DT_UNKNOWN
        return DIRENT_TYPE[entry.type]

    def _plain(
        self, node: Node, entries: Sequence[DirectoryEntry], position: int, size: int
    ) -> bytes:
        """As many entries as fit."""
        parts: list[bytes] = []
        for at in range(position, len(_DOTS)):
            part = _dot(node, at)
            size -= len(part)
            parts.append(part)
        for at in range(max(position - len(_DOTS), 0), len(entries)):
            entry = entries[at]
            part = abi.dirent(
                inode_number(entry.fid),
                at + len(_DOTS) + 1,
                self._kind(entry),
                entry.name.encode(),
            )
            size -= len(part)
            if size < 0:
                break
            parts.append(part)
        return b"".join(parts)

    def _plus(
        self, node: Node, entries: Sequence[DirectoryEntry], position: int, size: int
    ) -> bytes:
        """As many entries as fit, with what they stand for as far as that is known."""
        parts: list[bytes] = []
        for at in range(position, len(_DOTS)):
            parts += (_NO_ENTRY_OUT, part := _dot(node, at))
            size -= len(_NO_ENTRY_OUT) + len(part)
        trust_s = self._names_trust(node, entries)
        for at in range(max(position - len(_DOTS), 0), len(entries)):
            entry = entries[at]
            name = entry.name.encode()
            part = abi.dirent(inode_number(entry.fid), at + len(_DOTS) + 1, self._kind(entry), name)
            size -= len(_NO_ENTRY_OUT) + len(part)
            if size < 0:
                break
            parts.append(self._entry_out(node, entry, name, trust_s))
            parts.append(part)
        return b"".join(parts)

    def _entry_out(self, above: Node, entry: DirectoryEntry, name: bytes, trust_s: float) -> bytes:
        """What LOOKUP would answer, by which the kernel knows the node once more; or nothing."""
        volume = above.volume
        if volume is None:
            return _NO_ENTRY_OUT
        known, seconds = self._tree.kernel.trust(entry.fid)
        if known is None:
            return _NO_ENTRY_OUT
        if entry.type is VnodeType.SYMLINK and may_be_mount_point(known.status.mode):
            return _NO_ENTRY_OUT
        named = Named(above.realm, volume, entry.fid, entry.type, entry.fid)
        return self._tree.listed(above, name, named, known.status, trust_s, seconds)

    def _names_trust(self, node: Node, entries: Sequence[DirectoryEntry]) -> float:
        """For how long these names may be relied on: not at all if the directory has others now."""
        entry, seconds = self._tree.kernel.trust(node.fid)
        listing = entry.current_listing() if entry is not None else None
        if listing is None or not listing.complete or listing.in_order() is not entries:
            return 0.0
        return seconds

    def _are_known(
        self, node: Node, entries: Sequence[DirectoryEntry], position: int, size: int
    ) -> bool:
        """True if nobody has to be asked about the entries that will fit."""
        at = max(position - len(_DOTS), 0)
        fit = size // (len(_NO_ENTRY_OUT) + abi.DIRENT_HEAD.size) + 1
        trust = self._tree.kernel.trust
        return node.volume is None or all(
            trust(entry.fid)[0] is not None for entry in entries[at : at + fit]
        )


def _dot(node: Node, at: int) -> bytes:
    kind = DIRENT_TYPE[VnodeType.DIRECTORY]
    return abi.dirent(inode_number(node.fid), at + 1, kind, _DOTS[at])
