"""Makes a locked location entry say what is on our disks, and unlocks it.

Every operation that changes an entry ends with this, whether it succeeded, was undone or, after a
crash, is taken up by recovery: so there is one way in which entry and disk come to agree. What an
entry says of other volservers' sites is theirs to settle and stays as it is.
"""

from __future__ import annotations

from dataclasses import replace

from afs.types import VolumeType
from volserverd.vldb.entry import Entry, Site, kept_backup_id, kept_read_only_id
from volserverd.vldb.names import VolumeReference
from volserverd.work_order import VolumeServices


async def settle(services: VolumeServices, entry: Entry) -> Entry | None:
    """The entry as it is now, unlocked; None if no volume is left of it and it was deleted.

    A read-only site of ours stays also when nothing is there (any more): the next release brings
    the volume. Which site is to go, an operation says by taking it out of the entry.

    Args:
        services: where volumes and entries are.
        entry: as it was locked; read again here.

    Raises:
        AfsError: what disk or location database answer; the entry then stays locked, and recovery
            takes it up.
    """
    locations = services.locations
    reference = VolumeReference(entry.name, volume_id=entry.read_write_id)
    entry = await locations.get(reference)
    sites = await _sites(services, entry)
    if not any(site.type is not VolumeType.READ_ONLY or site.release for site in sites):
        await locations.delete(entry.read_write_id, entry.locked_for)
        return None
    settled = replace(
        entry,
        sites=sites,
        backup_id=_kept_if(VolumeType.BACKUP, sites, kept_backup_id(entry.read_write_id)),
        read_only_id=_kept_if(VolumeType.READ_ONLY, sites, kept_read_only_id(entry.read_write_id)),
    )
    if settled != entry:
        settled = await locations.replace(settled)
    await locations.unlock(settled.read_write_id)
    return replace(settled, locked_for="", version=settled.version + 1)


def _kept_if(kind: VolumeType, sites: tuple[Site, ...], kept_id: int) -> int:
    """The id kept for volumes of this kind if there is one; 0 if not."""
    there = any(
        site.type is kind and (site.release or kind is not VolumeType.READ_ONLY) for site in sites
    )
    return kept_id if there else 0


async def _sites(services: VolumeServices, entry: Entry) -> tuple[Site, ...]:
    """The entry's sites, with ours as the disks say; a backup's stands after all others."""
    read_write_id, disk = entry.read_write_id, services.disk
    sites, backups = list[Site](), list[Site]()
    for site in entry.sites:
        if not services.is_our_site(site):
            (backups if site.type is VolumeType.BACKUP else sites).append(site)
            continue
        on_disk = set(await disk.ids(disk.partition(site.partition)))
        if site.type is VolumeType.READ_ONLY:
            there = kept_read_only_id(read_write_id) in on_disk
            sites.append(site if there else replace(site, release=0))
        elif site.type is VolumeType.READ_WRITE and read_write_id in on_disk:
            sites.append(site)
        # Also where the read-write volume is gone: whatever is left can be found by its name.
        backup = replace(site, type=VolumeType.BACKUP, release=0)
        if kept_backup_id(read_write_id) in on_disk and backup not in backups:
            backups.append(backup)
    return (*sites, *backups)
