"""Finds the volume that somebody means, and tells of it."""

from __future__ import annotations

from dataclasses import dataclass

from afs.errors import AfsCode, AfsError
from afs.types import VolumeHeader, VolumeType
from afs.v1 import fssync_pb2, types_pb2, vol_server_pb2
from afs.volume.partition import Partition
from volserverd.disk import Disk
from volserverd.fssync_client import FssyncClient
from volserverd.vldb.entry import Entry, kept_backup_id, kept_read_only_id
from volserverd.vldb.names import parse_reference
from volserverd.work_order import VolumeServices


@dataclass(frozen=True, slots=True)
class FoundVolume:
    """A volume of ours. `entry` None: on disk only. `on_disk` False: in the VLDB only."""

    volume_id: int
    name: str
    partition: Partition
    entry: Entry | None
    on_disk: bool

    @property
    def read_write_id(self) -> int:
        """The read-write volume's id; its own where there is no entry."""
        return self.entry.read_write_id if self.entry is not None else self.volume_id

    @property
    def type(self) -> VolumeType:
        """What kind of volume it is, as its id tells."""
        if self.volume_id == self.read_write_id:
            return VolumeType.READ_WRITE
        is_backup = self.volume_id == kept_backup_id(self.read_write_id)
        return VolumeType.BACKUP if is_backup else VolumeType.READ_ONLY


async def find_volume(services: VolumeServices, text: str) -> FoundVolume:
    """The volume that `text` means: a name, with or without .readonly or .backup, or an id.

    Raises:
        AfsError: VNOVOL if there is none; VMOVED if it is another volserver's; EINVAL for what can
            mean no volume.
    """
    reference = parse_reference(text)
    entry: Entry | None = None
    try:
        entry = await services.locations.get(reference)
    except AfsError as error:
        if error.code is not AfsCode.VNOVOL or not reference.volume_id:
            raise
    volume_id = reference.volume_id if entry is None else entry.id_of(reference)
    partition = await _partition_of(services, entry, volume_id)
    name = str(volume_id) if entry is None else entry.name_of(volume_id)
    if partition is not None:
        return FoundVolume(volume_id, name, partition, entry, on_disk=True)
    if entry is None:
        raise AfsError(AfsCode.VNOVOL, f"there is no volume {text}")
    read_only = volume_id == kept_read_only_id(entry.read_write_id)
    sites = [site for site in entry.sites if read_only == (site.type is VolumeType.READ_ONLY)]
    for site in sites:
        if services.is_our_site(site):
            mine = services.disk.partition(site.partition)
            return FoundVolume(volume_id, name, mine, entry, on_disk=False)
    if entry.sites and not sites:
        raise AfsError(
            AfsCode.VNOVOL, f"volume {name} is nowhere: only its read-only copies are left"
        )
    where = ", ".join(sorted({site.vol_server for site in sites})) or "nowhere"
    raise AfsError(AfsCode.VMOVED, f"volume {name} is not here: its volservers are {where}")


async def _partition_of(
    services: VolumeServices, entry: Entry | None, volume_id: int
) -> Partition | None:
    """The partition of ours that has the volume; during a move within the server, the right one."""
    disk = services.disk
    if entry is not None and volume_id == entry.read_write_id:
        for site in entry.sites:
            if site.type is VolumeType.READ_WRITE and services.is_our_site(site):
                partition = disk.partition(site.partition)
                if await disk.has(partition, volume_id):
                    return partition
    return await disk.find(volume_id)


async def describe(
    disk: Disk, fssync: FssyncClient, partition: Partition, volume_id: int
) -> vol_server_pb2.VolumeDetail:
    """Everything about one volume on disk. VNOVOL if it is gone."""
    info = await fssync.query(volume_id)
    return await detail_of(disk, partition, volume_id, info)


async def detail_of(
    disk: Disk, partition: Partition, volume_id: int, info: fssync_pb2.VolumeInfo | None
) -> vol_server_pb2.VolumeDetail:
    """Everything about one volume on disk, of which the fileserver says `info` (None: nothing).

    A damaged volume is told of as far as can be, in the error state.

    Raises:
        AfsError: VNOVOL if it is not on disk.
    """
    detail = vol_server_pb2.VolumeDetail(volume_id=volume_id, partition=partition.name)
    if info is not None:
        detail.state = info.state
        detail.detail = info.detail
        detail.holders = info.holders
    else:
        detail.detail = "the fileserver does not know this volume"
    try:
        header = await disk.header(partition, volume_id)
    except AfsError as error:
        if error.code is AfsCode.VNOVOL:
            raise
        detail.state = fssync_pb2.VOLUME_STATE_ERROR
        detail.detail = error.detail
        return detail
    fill_detail(detail, header)
    if header.backup_id and header.type is VolumeType.READ_WRITE:
        # The id is kept from the beginning; it is told of once there is a volume of it.
        has_backup = await disk.has(partition, header.backup_id)
        detail.backup_id = header.backup_id if has_backup else 0
    return detail


def fill_detail(detail: vol_server_pb2.VolumeDetail, header: VolumeHeader) -> None:
    """Puts into a detail what a volume's header says."""
    detail.name = header.name
    detail.type = types_pb2.VolumeType.ValueType(header.type)
    detail.read_write_id = header.read_write_id
    detail.max_quota_kib = header.max_quota_kib
    detail.used_kib = header.used_kib
    detail.file_count = header.file_count
    detail.created_ns = header.created_ns
    detail.updated_ns = header.updated_ns
    detail.cloned_ns = header.cloned_ns
    detail.change_counter = header.change_counter
    detail.incarnation = header.incarnation
    detail.in_transit = header.in_transit
