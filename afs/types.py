"""The field's values as Python values: Fid, Vnode, VolumeHeader and their kin.

Wire messages are turned into these at the edge (`afs.wire`); everything inside speaks of these
only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple


class Fid(NamedTuple):
    """Names one vnode: three unsigned 32-bit numbers. `Fid(v, 0, 0)` names the whole volume v."""

    volume: int
    vnode: int
    uniquifier: int

    def __str__(self) -> str:
        return f"{self.volume}.{self.vnode}.{self.uniquifier}"

    @property
    def is_whole_volume(self) -> bool:
        """True for `volume.0.0`, the Fid that stands for all of a volume."""
        return self.vnode == 0


def root_fid(volume: int) -> Fid:
    """The root directory of a volume: vnode 1, uniquifier 1."""
    return Fid(volume, 1, 1)


def whole_volume_fid(volume: int) -> Fid:
    """The Fid that stands for all of a volume in breaks."""
    return Fid(volume, 0, 0)


class VnodeType(IntEnum):
    """What a vnode is. Numbers as in `afs.v1.VnodeType`."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3


class VolumeType(IntEnum):
    """What a volume is. Numbers as in `afs.v1.VolumeType`."""

    READ_WRITE = 1
    READ_ONLY = 2
    BACKUP = 3


class LockType(IntEnum):
    """What a lock on a file lets others do. Numbers as in `afs.v1.LockType`."""

    READ = 1
    WRITE = 2


class BreakReason(IntEnum):
    """Why promises were broken. Numbers as in `afs.v1.BreakReason`."""

    DATA_CHANGED = 1
    STATUS_CHANGED = 2
    REMOVED = 3
    VOLUME_GIVEN_BACK = 4
    VOLUME_BREAK_REQUESTED = 5
    VOLUME_MOVED = 6
    VOLUME_DELETED = 7
    VOLUME_RELEASED = 8
    VOLUME_SALVAGED = 9
    TABLE_FULL = 10


@dataclass(frozen=True, slots=True)
class Vnode:
    """What a fileserver knows of one vnode.

    `mode` holds permission bits only (0 to 0o7777). `length` is in bytes; for a symbolic link the
    length of its target in UTF-8, for a directory the number of its entries. Times are nanoseconds
    since the Unix epoch. `parent` is the directory the vnode is in (for a hard-linked file: was
    created in); the root directory is its own parent. `acl` is a directory's access list, as
    `afs.access.acl` keeps it; "": the one that every new volume has. For files it says nothing.
    """

    fid: Fid
    type: VnodeType
    mode: int
    owner: int
    group: int
    link_count: int
    length: int
    data_version: int
    client_mtime_ns: int
    server_mtime_ns: int
    parent: Fid
    acl: str = ""


@dataclass(frozen=True, slots=True)
class SetStatus:
    """Attributes to set; None leaves one as it is.

    `length` truncates or extends (with zeroes), in bytes.
    """

    mode: int | None = None
    owner: int | None = None
    group: int | None = None
    client_mtime_ns: int | None = None
    length: int | None = None


@dataclass(frozen=True, slots=True)
class DirectoryEntry:
    """One name in a directory."""

    name: str
    fid: Fid
    type: VnodeType


@dataclass(frozen=True, slots=True)
class VolumeHeader:
    """What a volume says of itself.

    `max_quota_kib` 0 means no limit; `used_kib` counts every vnode as its length rounded up to KiB,
    at least 1. `change_counter` grows with every committed change of the volume, also changes made
    outside the fileserver; it never goes back (M5b rests on that). `incarnation` is a random text
    fixed when the volume was created; a clone that cannot be changed, and a copy that a move or a
    release made, has the incarnation and the change counter of what it shows. `in_transit` says
    that this copy is half of a move that has not ended: nobody serves it (compare OpenAFS
    `inService` and `destroyMe`). Times are nanoseconds since the Unix epoch; `cloned_ns` is 0 for a
    read-write volume.
    """

    volume_id: int
    name: str
    type: VolumeType
    read_write_id: int
    backup_id: int
    incarnation: str
    max_quota_kib: int
    used_kib: int
    file_count: int
    created_ns: int
    updated_ns: int
    cloned_ns: int
    change_counter: int
    offline_message: str
    leave_offline: bool
    in_transit: bool = False


class ChangeMark(NamedTuple):
    """Names one state of a volume: its incarnation, and its change counter in that state.

    A volume with the mark that it had before has not changed (M5b).
    """

    incarnation: str
    change_counter: int
