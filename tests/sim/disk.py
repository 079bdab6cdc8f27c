"""What survives a crash: volumes, who has them open, known hosts, the last epoch, callback state.

Only what is here is durable. A change is in memory until its commit has been synced; a crash loses
it, or, if the disk was faster than the answer, does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from afs.types import ChangeMark, Fid, Vnode, VnodeType, root_fid

# The version of a vnode that is gone: newer than all it had.
GONE = 1_000_000_000


def new_vnode(fid: Fid, type: VnodeType, parent: Fid) -> Vnode:
    """A vnode at its first DataVersion."""
    return Vnode(fid, type, 0o644, 0, 0, 1, 0, 1, 0, 0, parent)


@dataclass
class DiskVolume:
    """One volume on disk: a root directory with files in it.

    `holder` names the program that has it open. `versions` has the DataVersion of every vnode that
    ever was, GONE for those that are no more.
    """

    volume_id: int
    incarnation: str
    change_counter: int = 1
    holder: str | None = None
    vnodes: dict[Fid, Vnode] = field(default_factory=dict)
    names: dict[str, Fid] = field(default_factory=dict)
    versions: dict[Fid, int] = field(default_factory=dict)
    listings: dict[int, frozenset[str]] = field(default_factory=dict)
    next_vnode: int = 2

    @classmethod
    def create(cls, volume_id: int, files: int) -> DiskVolume:
        """A volume with so many files in its root directory."""
        volume = cls(volume_id, f"incarnation-{volume_id}")
        root = root_fid(volume_id)
        volume.vnodes[root] = new_vnode(root, VnodeType.DIRECTORY, root)
        for number in range(files):
            volume.make_file(f"f{number}")
        return volume

    @property
    def root(self) -> Fid:
        """The root directory."""
        return root_fid(self.volume_id)

    @property
    def mark(self) -> ChangeMark:
        """What proves that it did not change."""
        return ChangeMark(self.incarnation, self.change_counter)

    def write(self, fid: Fid) -> Vnode:
        """New data in a file."""
        vnode = self.vnodes[fid]
        self._put(replace(vnode, data_version=vnode.data_version + 1))
        self.change_counter += 1
        return self.vnodes[fid]

    def make_file(self, name: str) -> Vnode:
        """A file of that name, which must not be there."""
        fid = Fid(self.volume_id, self.next_vnode, self.next_vnode)
        self.next_vnode += 2
        self.names[name] = fid
        self._put(new_vnode(fid, VnodeType.FILE, self.root))
        self._directory_changed()
        return self.vnodes[fid]

    def remove_file(self, name: str) -> Fid:
        """The file of that name is no more."""
        fid = self.names.pop(name)
        del self.vnodes[fid]
        self.versions[fid] = GONE
        self._directory_changed()
        return fid

    def _directory_changed(self) -> None:
        root = self.vnodes[self.root]
        self._put(replace(root, data_version=root.data_version + 1, length=len(self.names)))
        self.listings[root.data_version + 1] = frozenset(self.names)
        self.change_counter += 1

    def _put(self, vnode: Vnode) -> None:
        self.vnodes[vnode.fid] = vnode
        self.versions[vnode.fid] = vnode.data_version


@dataclass
class Disk:
    """The disk of the fileserver's machine."""

    volumes: dict[int, DiskVolume] = field(default_factory=dict)
    known_hosts: set[str] = field(default_factory=set)
    last_epoch: int = 0
    # The file that a fileserver which stops leaves to its next life.
    callback_state: bytes | None = None
