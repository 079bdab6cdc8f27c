"""Makes a locked location entry say what is on disk, and unlocks it.

Every operation that changes an entry ends with this, whether it succeeded, was undone or, after a
crash, is taken up by recovery: so there is one way in which entry and disk come to agree.
"""

from __future__ import annotations

from dataclasses import replace

from afs.errors import AfsCode, AfsError
from afs.types import VolumeType
from afs.volume.partition import Partition
from volserverd.disk import Disk
from volserverd.locations import Locations
from volserverd.vldb.entry import Entry, Site, kept_backup_id
from volserverd.vldb.names import VolumeReference


def partition_of(disk: Disk, entry: Entry) -> Partition | None:
    """The partition of ours that an entry is about; None if it is about none."""
    for site in entry.sites:
        if site.partition in disk.partitions:
            return disk.partition(site.partition)
    return None


async def settle(disk: Disk, locations: Locations, entry: Entry) -> Entry | None:
    """The entry as it is now, unlocked; None if none of its volumes is there and it was deleted.

    Args:
        disk: where its volumes are.
        locations: where the entry is.
        entry: as it was locked; read again here.

    Raises:
        AfsError: what disk or location database answer; the entry then stays locked, and recovery
            takes it up.
    """
    reference = VolumeReference(entry.name, volume_id=entry.read_write_id)
    entry = await locations.get(reference)
    partition = partition_of(disk, entry)
    if partition is None:
        raise AfsError(AfsCode.VNOVOL, f"volume {entry.name} is on no partition of ours")
    on_disk = set(await disk.ids(partition))
    backup_id = kept_backup_id(entry.read_write_id)
    if not on_disk & {entry.read_write_id, backup_id}:
        await locations.delete(entry.read_write_id, entry.locked_for)
        return None
    settled = replace(
        entry,
        backup_id=backup_id if backup_id in on_disk else 0,
        sites=_sites(entry, partition.name, has_backup=backup_id in on_disk),
    )
    if settled != entry:
        settled = await locations.replace(settled)
    await locations.unlock(settled.read_write_id)
    return replace(settled, locked_for="", version=settled.version + 1)


def _sites(entry: Entry, partition: str, *, has_backup: bool) -> tuple[Site, ...]:
    """The entry's sites, with that of the backup volume, beside the read-write one, if any."""
    others = tuple(site for site in entry.sites if site.type is not VolumeType.BACKUP)
    if not has_backup:
        return others
    mine = next((site for site in others if site.partition == partition), None)
    return others if mine is None else (*others, replace(mine, type=VolumeType.BACKUP))
