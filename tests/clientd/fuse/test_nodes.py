"""The table of inodes."""

from __future__ import annotations

from typing import Any, cast

from afs.types import Fid, VnodeType, root_fid
from clientd.fuse.abi import ROOT_ID
from clientd.fuse.nodes import ROOT_REALM, Nodes
from clientd.volume_calls import VolumeCalls

VOLUME = cast(VolumeCalls, cast(Any, "the volume"))
ROOT = root_fid(1)
FILE = Fid(1, 2, 2)


def table() -> Nodes:
    """A table with its root."""
    return Nodes(VOLUME, ROOT)


def told(nodes: Nodes, fid: Fid = FILE, realm: int = ROOT_REALM) -> int:
    """The kernel is told of a file."""
    return nodes.told(realm, VOLUME, fid, VnodeType.FILE).id


def test_node_lives_as_long_as_the_kernel_knows_it() -> None:
    """Each telling counts, and each forgetting."""
    nodes = table()
    number = told(nodes)
    assert told(nodes) == number
    assert nodes.forget(number, 1) is None
    assert nodes.of(FILE)
    assert nodes.forget(number, 1) is not None
    assert not nodes.of(FILE)
    assert nodes.find(ROOT_REALM, FILE) is None
    assert nodes.forget(number, 1) is None
    assert len(nodes) == 1


def test_numbers_are_never_used_twice() -> None:
    """What the kernel was told of an old one cannot hit a new one."""
    nodes = table()
    first = told(nodes)
    nodes.forget(first, 1)
    assert told(nodes) > first


def test_root_is_never_forgotten() -> None:
    """The kernel forgets it with the mount only."""
    nodes = table()
    assert nodes.forget(ROOT_ID, 1) is None
    assert nodes.of(ROOT) == [nodes.root]


def test_volume_reached_two_ways_has_two_nodes_for_each_vnode() -> None:
    """A directory has one place in the kernel; both are found by its Fid."""
    nodes = table()
    mount_point = Fid(1, 5, 5)
    realm = nodes.realm_behind(ROOT_REALM, mount_point, 1)
    assert realm == nodes.realm_behind(ROOT_REALM, mount_point, 1)
    # The volume is mounted in itself: one realm further each time.
    assert nodes.realm_behind(realm, mount_point, 1) not in (realm, ROOT_REALM)
    # The mount point leads elsewhere now.
    assert nodes.realm_behind(ROOT_REALM, mount_point, 2) != realm
    first, second = told(nodes), told(nodes, realm=realm)
    assert first != second
    assert [node.id for node in nodes.of(FILE)] == [first, second]
    nodes.forget(first, 1)
    assert [node.id for node in nodes.of(FILE)] == [second]


def test_root_can_become_another_vnode() -> None:
    """A `root.cell` was made after the mount."""
    nodes = table()
    nodes.move_root(VOLUME, root_fid(9))
    assert nodes.root.id == ROOT_ID
    assert nodes.root.fid == root_fid(9)
    assert nodes.of(root_fid(9)) == [nodes.root]
    assert not nodes.of(ROOT)
