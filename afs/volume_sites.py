"""Which volume of a location entry a name means, and the sites that serve it.

The rule of read-only sites: those that show the latest release are used, and no others. A site that
a release did not reach keeps its old state and its old number, until the next release repairs it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from afs.limits import MAX_UINT32
from afs.types import VolumeType
from afs.v1 import vol_server_pb2

READ_ONLY_SUFFIX: Final = ".readonly"
BACKUP_SUFFIX: Final = ".backup"

_SUFFIXES: Final = {VolumeType.READ_ONLY: READ_ONLY_SUFFIX, VolumeType.BACKUP: BACKUP_SUFFIX}


class VolumeName(NamedTuple):
    """A name as people write it: what is before the suffix, and which of its volumes is meant."""

    base: str
    type: VolumeType


def split_volume_name(name: str) -> VolumeName:
    """The parts of a name; without a suffix the read-write volume is meant."""
    for kind, suffix in _SUFFIXES.items():
        if name.endswith(suffix) and name != suffix:
            return VolumeName(name.removesuffix(suffix), kind)
    return VolumeName(name, VolumeType.READ_WRITE)


def full_volume_name(base: str, kind: VolumeType) -> str:
    """The name of one of an entry's volumes."""
    return base + _SUFFIXES.get(kind, "")


def volume_number(name: str) -> int:
    """The volume id that stands in place of a name; 0 if it is a name."""
    if not (name.isascii() and name.isdigit()) or len(name) > len(str(MAX_UINT32)):
        return 0
    number = int(name)
    return number if number <= MAX_UINT32 else 0


def volume_id_of(entry: vol_server_pb2.VolumeEntry, kind: VolumeType) -> int:
    """The id of the entry's volume of this type; 0 if it has none."""
    return {
        VolumeType.READ_WRITE: entry.read_write_id,
        VolumeType.READ_ONLY: entry.read_only_id,
        VolumeType.BACKUP: entry.backup_id,
    }[kind]


def type_in(entry: vol_server_pb2.VolumeEntry, name: str) -> VolumeType:
    """Which of an entry's volumes a name or number means, given that it means one of them."""
    number = volume_number(name)
    if not number:
        return split_volume_name(name).type
    for kind in (VolumeType.READ_ONLY, VolumeType.BACKUP):
        if volume_id_of(entry, kind) == number:
            return kind
    return VolumeType.READ_WRITE


def sites_to_use(
    entry: vol_server_pb2.VolumeEntry, kind: VolumeType
) -> tuple[vol_server_pb2.Site, ...]:
    """The sites that serve the entry's volume of this type, in the entry's order; maybe none.

    Of read-only sites those of the latest release. A backup volume lies where its volume does, and
    may or may not have a site of its own in the entry.
    """
    if not volume_id_of(entry, kind):
        return ()
    sites = [site for site in entry.sites if int(site.type) == kind and site.file_server]
    if kind is VolumeType.READ_ONLY:
        latest = max((site.release for site in sites), default=0)
        return tuple(site for site in sites if latest and site.release == latest)
    if kind is VolumeType.BACKUP and not sites:
        return sites_to_use(entry, VolumeType.READ_WRITE)
    return tuple(sites)


def is_released(entry: vol_server_pb2.VolumeEntry) -> bool:
    """True if the entry's volume has a read-only site to use."""
    return bool(sites_to_use(entry, VolumeType.READ_ONLY))
