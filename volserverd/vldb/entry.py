"""One entry of the location database as a value, and as a message."""

from __future__ import annotations

from dataclasses import dataclass

from afs.errors import AfsCode, AfsError
from afs.types import VolumeType
from afs.v1 import types_pb2, vol_server_pb2
from volserverd.vldb.names import BACKUP_SUFFIX, READ_ONLY_SUFFIX, VolumeReference


@dataclass(frozen=True, slots=True)
class Site:
    """A place that holds a volume: "host:port" of fileserver and volserver, and the partition.

    `release` is, for a read-only site, the change counter that the read-write volume had when it
    was last released to it; 0: not yet. Clients use the sites whose number is the largest.
    """

    file_server: str
    vol_server: str
    partition: str
    type: VolumeType = VolumeType.READ_WRITE
    release: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """Where the volumes of one name are.

    `read_only_id` and `backup_id` are 0 where there is no such volume. `version` grows with every
    change. `locked_for` names the operation that holds the entry's lock; empty: not locked.
    """

    name: str
    read_write_id: int = 0
    read_only_id: int = 0
    backup_id: int = 0
    sites: tuple[Site, ...] = ()
    version: int = 0
    locked_for: str = ""

    def id_of(self, reference: VolumeReference) -> int:
        """The id of the volume that is meant.

        Raises:
            AfsError: VNOVOL if the entry has no volume of that type.
        """
        if reference.volume_id:
            return reference.volume_id
        volume_id = {
            VolumeType.READ_WRITE: self.read_write_id,
            VolumeType.READ_ONLY: self.read_only_id,
            VolumeType.BACKUP: self.backup_id,
        }[reference.type]
        if not volume_id:
            kind = "read-only" if reference.type is VolumeType.READ_ONLY else "backup"
            raise AfsError(AfsCode.VNOVOL, f"volume {self.name} has no {kind} volume")
        return volume_id

    def sites_of(self, kind: VolumeType) -> tuple[Site, ...]:
        """The sites of one kind of volume, in their order."""
        return tuple(site for site in self.sites if site.type is kind)

    def name_of(self, volume_id: int) -> str:
        """The full name of one of the entry's volumes."""
        if volume_id == kept_read_only_id(self.read_write_id):
            return self.name + READ_ONLY_SUFFIX
        if volume_id == kept_backup_id(self.read_write_id):
            return self.name + BACKUP_SUFFIX
        return self.name


def kept_read_only_id(read_write_id: int) -> int:
    """The id that is kept for a volume's read-only copies from its creation on."""
    return read_write_id + 1


def kept_backup_id(read_write_id: int) -> int:
    """The id that is kept for a volume's backup from its creation on."""
    return read_write_id + 2


def entry_to_wire(entry: Entry) -> vol_server_pb2.VolumeEntry:
    """The message for an entry."""
    return vol_server_pb2.VolumeEntry(
        name=entry.name,
        read_write_id=entry.read_write_id,
        read_only_id=entry.read_only_id,
        backup_id=entry.backup_id,
        sites=[
            vol_server_pb2.Site(
                file_server=site.file_server,
                vol_server=site.vol_server,
                partition=site.partition,
                type=types_pb2.VolumeType.ValueType(site.type),
                release=site.release,
            )
            for site in entry.sites
        ],
        version=entry.version,
        locked_for=entry.locked_for,
    )


def entry_from_wire(message: vol_server_pb2.VolumeEntry) -> Entry:
    """The entry a message describes; its rules are checked by the store.

    Raises:
        AfsError: EINVAL for a site of no known type.
    """
    return Entry(
        name=message.name,
        read_write_id=message.read_write_id,
        read_only_id=message.read_only_id,
        backup_id=message.backup_id,
        sites=tuple(_site_from_wire(site) for site in message.sites),
        version=message.version,
        locked_for=message.locked_for,
    )


def _site_from_wire(message: vol_server_pb2.Site) -> Site:
    try:
        kind = VolumeType(message.type)
    except ValueError:
        raise AfsError(
            AfsCode.EINVAL, f"site type {message.type}: expected 1, 2 or 3 (read-write to backup)"
        ) from None
    return Site(message.file_server, message.vol_server, message.partition, kind, message.release)
