"""Steps on sites and names, and the making of read-write clones."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from afs.errors import AfsError
from afs.types import VolumeType
from afs.v1 import fssync_pb2, vol_server_pb2
from afs.volume.volume import SetVolumeFields
from volserverd.core.step import Role, StepKind
from volserverd.deeds.entry_deeds import EntryDeeds
from volserverd.deeds.work_state import Deeds
from volserverd.peers import RENAME_DEADLINE_S, volserver_at
from volserverd.vldb.entry import Entry, Site, kept_backup_id, kept_read_only_id
from volserverd.work_order import VolumeServices


class SiteDeeds(EntryDeeds):
    """Takes sites away, renames, clones to a volume of its own.

    Attributes:
        not_renamed: one line for each copy that could not be renamed.
    """

    not_renamed: tuple[str, ...] = ()

    def deeds(self) -> Deeds:
        """Those of this file."""
        return {
            **super().deeds(),
            StepKind.CLONE_READ_WRITE: self._clone_read_write,
            StepKind.DROP_SITE: self._drop_site,
            StepKind.RENAME_ENTRY: self._rename_entry,
            StepKind.RENAME_ON_DISK: self._rename_on_disk,
            StepKind.RENAME_COPIES: self._rename_copies,
        }

    async def _clone_read_write(self, role: Role) -> None:
        disk, clone_id = self._services.disk, self.ids[role]
        await self._verified(
            [Role.SOURCE],
            lambda: disk.clone(
                self._partition,
                self.ids[Role.SOURCE],
                clone_id=clone_id,
                name=self._order.name,
                type=VolumeType.READ_WRITE,
                backup_id=kept_backup_id(clone_id),
            ),
        )
        self._created = True

    async def _drop_site(self, _: Role) -> None:
        going = self._order.site
        await self._change_entry(
            lambda entry: replace(entry, sites=tuple(s for s in entry.sites if s != going))
        )

    async def _rename_entry(self, _: Role) -> None:
        await self._change_entry(lambda entry: replace(entry, name=self._order.name))

    async def _rename_on_disk(self, role: Role) -> None:
        assert self._entry is not None
        fields = SetVolumeFields(name=self._entry.name_of(self.ids[role]))
        await self._verified(
            [role],
            lambda: self._services.disk.set_fields(self._partition, self.ids[role], fields),
        )

    async def _rename_copies(self, _: Role) -> None:
        """Does what it can: the next release brings the name to copies that were not reached."""
        entry = self._entry
        assert entry is not None
        lines = []
        for site in entry.sites_of(VolumeType.READ_ONLY):
            if not site.release:
                continue
            rename: Callable[[Entry, Site], Awaitable[None]] = rename_elsewhere
            if self._services.is_our_site(site):
                rename = self._rename_own_copy
            try:
                await rename(entry, site)
            except AfsError as error:
                lines.append(f"{site.vol_server} {site.partition}: {error.detail}")
        self.not_renamed = tuple(lines)

    async def _rename_own_copy(self, entry: Entry, site: Site) -> None:
        volume_id = kept_read_only_id(entry.read_write_id)
        await rename_volume(self._services, site.partition, volume_id, entry.name_of(volume_id))


async def rename_elsewhere(entry: Entry, site: Site) -> None:
    """Has another volserver rename its read-only copy of a volume that is renamed in the entry."""
    request = vol_server_pb2.RenameVolumeRequest(
        volume=str(kept_read_only_id(entry.read_write_id)), copies_only=True
    )
    async with volserver_at(site.vol_server) as stub:
        await stub.RenameVolume(request, timeout=RENAME_DEADLINE_S)


async def rename_volume(
    services: VolumeServices, partition_name: str, volume_id: int, name: str
) -> None:
    """Gives a volume on disk another name; it is out of service for a moment.

    Nobody is told where the volume is a clone: its contents are what they were, so its change
    counter stays, and its callbacks too (M5b).

    Raises:
        AfsError: as taking a volume and giving it back.
    """
    checkouts = services.checkouts
    await checkouts.take(volume_id, partition_name, fssync_pb2.FSYNC_FOR_OPERATOR)
    try:
        await services.disk.set_fields(
            services.disk.partition(partition_name), volume_id, SetVolumeFields(name=name)
        )
    finally:
        await checkouts.give_back(volume_id)
