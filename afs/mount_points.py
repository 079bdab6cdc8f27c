"""Mount points: how a volume hangs in a directory of another one.

A mount point is a symbolic link without execute permission whose target is `#NAME.` (regular) or
`%NAME.` (always the read-write volume). NAME may end in `.readonly` or `.backup`, and may be a
volume's number. Whoever walks a path and comes to one goes on at the root directory of the volume
it leads to. Source: OpenAFS `afs_vnop_symlink.c` and `afs_lookup.c` (EvalMountPoint).

That makes it legal for a tree to hold itself: a volume may be mounted in one of its own
directories. Each step along a path is then right, and a path is finite; but who walks a whole tree
stays in one volume, or remembers which it has been in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from afs.types import VolumeType

# Permission bits that `fs mkmount` gives: no execute bit is what tells it from a symbolic link.
MOUNT_POINT_MODE: Final = 0o644
# If the cell has a volume of this name, its root directory is "/".
ROOT_VOLUME: Final = "root.cell"

_REGULAR: Final = "#"
_READ_WRITE: Final = "%"
_END: Final = "."
_EXECUTE: Final = 0o111


@dataclass(frozen=True, slots=True)
class MountPoint:
    """What a mount point says.

    Attributes:
        volume: a name, with or without `.readonly` or `.backup`, or a number.
        read_write: leads to the read-write volume wherever it lies.
    """

    volume: str
    read_write: bool = False

    @property
    def target(self) -> str:
        """The target of the symbolic link."""
        return (_READ_WRITE if self.read_write else _REGULAR) + self.volume + _END


def may_be_mount_point(mode: int) -> bool:
    """True if a symbolic link with these permission bits can be a mount point."""
    return not mode & _EXECUTE


def parse_mount_point(mode: int, target: str) -> MountPoint | None:
    """What a symbolic link says as a mount point; None if it is a plain symbolic link.

    Args:
        mode: its permission bits.
        target: where it points to.
    """
    if not may_be_mount_point(mode) or not target.endswith(_END):
        return None
    volume = target[1:-1]
    if target[0] not in (_REGULAR, _READ_WRITE) or not volume or "/" in volume:
        return None
    return MountPoint(volume, read_write=target[0] == _READ_WRITE)


def leads_to(mount: MountPoint, within: VolumeType, *, released: bool) -> VolumeType:
    """Which volume of its name a mount point without suffix leads to.

    A regular one that lies in a read-only or backup volume leads to the read-only volume, if there
    is one: so a whole read-only tree hangs together.

    Args:
        mount: says `.readonly` or `.backup` itself, or not: that is looked at elsewhere.
        within: the type of the volume it lies in.
        released: whether the volume it leads to has a read-only site to use.
    """
    if mount.read_write or within is VolumeType.READ_WRITE or not released:
        return VolumeType.READ_WRITE
    return VolumeType.READ_ONLY
