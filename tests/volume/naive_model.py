"""A volume as simple as can be, to compare the real ones with: objects that point at each other."""

from __future__ import annotations

from dataclasses import dataclass, field

from afs.errors import AfsCode
from afs.types import VnodeType, root_fid
from afs.volume.volume import Volume
from tests.volume.building import contents, listing


@dataclass(eq=False)
class Node:
    """One vnode."""

    type: VnodeType
    parent: Node | None
    data: bytes = b""
    entries: dict[str, Node] = field(default_factory=dict)
    links: int = 1

    @property
    def is_directory(self) -> bool:
        """Whether it is one."""
        return self.type is VnodeType.DIRECTORY

    @property
    def is_gone(self) -> bool:
        """Whether nothing leads to it any more."""
        return self.links == 0

    def lies_in(self, other: Node) -> bool:
        """Whether it is `other` or lies below it."""
        node: Node | None = self
        while node is not None:
            if node is other:
                return True
            node = node.parent
        return False


class NaiveVolume:
    """What a volume ought to hold. Every change returns the code it is refused with, or None."""

    def __init__(self) -> None:
        self.root = Node(VnodeType.DIRECTORY, None)

    def create(
        self, directory: Node, name: str, kind: VnodeType, data: bytes = b""
    ) -> AfsCode | None:
        """CreateFile, MakeDir, MakeSymlink."""
        if (code := self._no_directory(directory)) is not None:
            return code
        if name in directory.entries:
            return AfsCode.EEXIST
        directory.entries[name] = Node(kind, directory, data)
        return None

    def link(self, directory: Node, name: str, target: Node) -> AfsCode | None:
        """Link."""
        if (code := self._no_directory(directory)) is not None:
            return code
        if target.is_gone:
            return AfsCode.VNOVNODE
        if target.is_directory:
            return AfsCode.EISDIR
        if target.parent is not directory:
            return AfsCode.EXDEV
        if name in directory.entries:
            return AfsCode.EEXIST
        directory.entries[name] = target
        target.links += 1
        return None

    def remove_file(self, directory: Node, name: str) -> AfsCode | None:
        """RemoveFile."""
        if (code := self._no_directory(directory)) is not None:
            return code
        if name not in directory.entries:
            return AfsCode.ENOENT
        if directory.entries[name].is_directory:
            return AfsCode.EISDIR
        directory.entries.pop(name).links -= 1
        return None

    def remove_dir(self, directory: Node, name: str) -> AfsCode | None:
        """RemoveDir."""
        if (code := self._no_directory(directory)) is not None:
            return code
        if name not in directory.entries:
            return AfsCode.ENOENT
        if not directory.entries[name].is_directory:
            return AfsCode.ENOTDIR
        if directory.entries[name].entries:
            return AfsCode.ENOTEMPTY
        directory.entries.pop(name).links = 0
        return None

    def rename(self, source: Node, name: str, target: Node, new_name: str) -> AfsCode | None:
        """Rename."""
        for directory in (source, target):
            if (code := self._no_directory(directory)) is not None:
                return code
        if name not in source.entries:
            return AfsCode.ENOENT
        node, replaced = source.entries[name], target.entries.get(new_name)
        if replaced is node:
            return None
        if node.is_directory:
            if target.lies_in(node):
                return AfsCode.EINVAL
            if replaced is not None and not replaced.is_directory:
                return AfsCode.ENOTDIR
            if replaced is not None and replaced.entries:
                return AfsCode.ENOTEMPTY
        else:
            if source is not target and node.links > 1:
                return AfsCode.EXDEV
            if replaced is not None and replaced.is_directory:
                return AfsCode.EISDIR
        if replaced is not None:
            replaced.links -= 1
        del source.entries[name]
        target.entries[new_name] = node
        node.parent = target
        return None

    def resize(self, node: Node, length: int) -> AfsCode | None:
        """StoreStatus with a length."""
        if (code := self._no_file(node)) is not None:
            return code
        node.data = node.data[:length].ljust(length, b"\0")
        return None

    def store(
        self, node: Node, data: bytes, offset: int, truncate_to: int | None
    ) -> AfsCode | None:
        """StoreData."""
        if (code := self._no_file(node)) is not None:
            return code
        if truncate_to is not None:
            self.resize(node, truncate_to)
        if data:
            before = node.data[:offset].ljust(offset, b"\0")
            node.data = before + data + node.data[offset + len(data) :]
        return None

    def _no_directory(self, node: Node) -> AfsCode | None:
        if node.is_gone:
            return AfsCode.VNOVNODE
        return None if node.is_directory else AfsCode.ENOTDIR

    def _no_file(self, node: Node) -> AfsCode | None:
        if node.is_gone:
            return AfsCode.VNOVNODE
        if node.is_directory:
            return AfsCode.EISDIR
        return AfsCode.EINVAL if node.type is VnodeType.SYMLINK else None


def compare(volume: Volume, model: NaiveVolume) -> None:
    """Fails unless the volume holds what the model holds, and counts it rightly."""
    found = {model.root: root_fid(volume.volume_id)}
    waiting = [model.root]
    while waiting:
        node = waiting.pop()
        entries = listing(volume, found[node])
        assert set(entries) == set(node.entries)
        for name, child in node.entries.items():
            vnode = volume.lookup(found[node], name)
            assert vnode == volume.vnode(entries[name].fid)
            assert (vnode.type, vnode.parent) == (child.type, found[node])
            assert entries[name].type is child.type
            if child in found:
                assert found[child] == vnode.fid
                continue
            found[child] = vnode.fid
            if child.is_directory:
                subdirectories = sum(inner.is_directory for inner in child.entries.values())
                assert (vnode.length, vnode.link_count) == (len(child.entries), 2 + subdirectories)
                waiting.append(child)
                continue
            assert (vnode.length, vnode.link_count) == (len(child.data), child.links)
            if child.type is VnodeType.SYMLINK:
                assert volume.read_link(vnode.fid).encode() == child.data
            else:
                assert contents(volume, vnode.fid) == child.data
    header = volume.header()
    assert header.file_count == len(found)
    assert header.used_kib == sum(
        max(1, -(-volume.vnode(fid).length // 1024)) for fid in found.values()
    )
