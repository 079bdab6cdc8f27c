"""What a volserver finds that its predecessor left behind, and how it clears that up.

At the start, before any operation:
1.  Volumes that the fileserver says we have: nobody of us works on them any more, so they go back.
2.  Temporary clones, known by their ids: deleted.
3.  Entries that tell of our volumes by addresses that we had before: corrected.
4.  Location entries locked by our operations: whatever of their volumes is on disk goes into
    service, and the entry is made to say so. An operation that never answered thus either happened
    or did not (R7). A read-only copy whose site is no longer in its entry is deleted.
    A release that was cut short is run again, after all this.
5.  Halves of moves and copies: left to `halves`, which goes on after this.
6.  Volumes on disk that the fileserver does not know: put into service.

This needs the fileserver; it is tried until that answers. Operations wait for it a little, and are
then refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import (
    FSSYNC_UNREACHABLE_S,
    GIVE_BACK_RETRY_FIRST_S,
    GIVE_BACK_RETRY_MAX_S,
)
from afs.types import VolumeType
from afs.v1 import fssync_pb2
from afs.volume.partition import Partition
from volserverd.deeds.site_deeds import rename_elsewhere, rename_volume
from volserverd.fssync_client import FssyncClient, check
from volserverd.halves import Halves, is_move_lock
from volserverd.identity import read_addresses, write_addresses
from volserverd.settling import settle
from volserverd.vldb.entry import Entry, Site, kept_backup_id, kept_read_only_id
from volserverd.vldb.names import FIRST_TEMPORARY_ID
from volserverd.work_order import VolumeServices

_log = structlog.get_logger(__name__)


class Recovery:
    """Clears up once, in the background. See the module's text."""

    def __init__(self, services: VolumeServices, fssync: FssyncClient, halves: Halves) -> None:
        self.halves = halves
        self._services = services
        self._fssync = fssync
        self._done = asyncio.Event()
        self._last_error: AfsError | None = None
        self._task: asyncio.Task[None] | None = None
        self._releases: set[int] = set()
        # Runs the release of a volume again; set before the start.
        self.release_again: Callable[[int], Awaitable[None]] | None = None

    def start(self) -> None:
        """Begins; returns at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends it, done or not."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def ready(self) -> None:
        """Returns when everything is cleared up.

        Raises:
            AfsError: why it is not, after FSSYNC_UNREACHABLE_S: usually that no fileserver answers.
        """
        try:
            async with asyncio.timeout(FSSYNC_UNREACHABLE_S):
                await self._done.wait()
        except TimeoutError:
            raise self._last_error or AfsError(
                AfsCode.VRESTARTING, "the volserver is starting: try again"
            ) from None

    async def _run(self) -> None:
        wait_s = GIVE_BACK_RETRY_FIRST_S
        while True:
            try:
                await self._recover()
            except AfsError as error:
                if self._last_error is None or self._last_error.detail != error.detail:
                    _log.warning("recovery.delayed", code=error.code.name, detail=error.detail)
                self._last_error = error
            except Exception:
                _log.exception("recovery.failed")
            else:
                self._done.set()
                break
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, GIVE_BACK_RETRY_MAX_S)
        for volume_id in sorted(self._releases):
            if self.release_again is not None:
                await self.release_again(volume_id)

    async def _recover(self) -> None:
        known = {volume.volume_id: volume for volume in await self._fssync.volumes()}
        for volume in known.values():
            if volume.state == fssync_pb2.VOLUME_STATE_CHECKED_OUT and volume.program in (
                "",
                self._fssync.program,
            ):
                await self._give_back(volume)
        await self._delete_temporaries(known)
        home = next(iter(self._services.disk.partitions.values())).path
        former = await self._services.disk.run(read_addresses, home)
        present = frozenset({self._services.vol_server})
        if former is not None and former != present:
            # Until all entries are corrected, any of these may be in one.
            await self._services.disk.run(write_addresses, home, former | present)
        for entry in await self._entries():
            corrected = await self._correct_addresses(entry, former)
            if self._services.is_ours(corrected.locked_for):
                if is_move_lock(corrected.locked_for):
                    await self.halves.take_up(corrected)
                else:
                    await self._take_up(corrected, known)
        if former != present:
            await self._services.disk.run(write_addresses, home, present)
        await self.halves.find()
        await self._introduce_unknown()

    async def _give_back(self, volume: fssync_pb2.VolumeInfo) -> None:
        """Gives back what our predecessor had taken, as its header wants it."""
        disk, volume_id = self._services.disk, volume.volume_id
        if volume.partition not in disk.partitions or volume_id >= FIRST_TEMPORARY_ID:
            return
        command = fssync_pb2.FSYNC_VOL_ON
        try:
            header = await disk.header(disk.partition(volume.partition), volume_id)
            if header.in_transit:
                return
            if header.leave_offline:
                command = fssync_pb2.FSYNC_VOL_LEAVE_OFF
        except AfsError as error:
            if error.code is AfsCode.VNOVOL:
                command = fssync_pb2.FSYNC_VOL_DONE
        answer = await self._fssync.command(command, volume_id, volume.partition)
        try:
            check(answer, volume_id)
        except AfsError as error:
            # A volume that cannot be served (or that a third program has) must not keep all others.
            _log.warning("volume.give_back_refused", volume=volume_id, detail=error.detail)
        else:
            _log.info(
                "volume.given_back",
                volume=volume_id,
                command=fssync_pb2.FsyncCommand.Name(command),
                taken_for=fssync_pb2.FsyncReason.Name(volume.taken_for),
            )

    async def _delete_temporaries(self, known: dict[int, fssync_pb2.VolumeInfo]) -> None:
        disk = self._services.disk
        for partition in disk.partitions.values():
            for volume_id in await disk.ids(partition):
                if volume_id < FIRST_TEMPORARY_ID:
                    continue
                await self._delete(partition, volume_id, known)

    async def _delete(
        self, partition: Partition, volume_id: int, known: dict[int, fssync_pb2.VolumeInfo]
    ) -> None:
        if volume_id in known:
            await self._fssync.command(
                fssync_pb2.FSYNC_NEEDVOLUME,
                volume_id,
                partition.name,
                fssync_pb2.FSYNC_FOR_DELETE,
            )
        await self._services.disk.delete(partition, volume_id)
        if volume_id in known:
            await self._fssync.command(fssync_pb2.FSYNC_VOL_DONE, volume_id, partition.name)
        _log.info("volume.leftover_deleted", volume=volume_id, partition=partition.name)

    async def _entries(self) -> list[Entry]:
        entries: list[Entry] = []
        while True:
            page = await self._services.locations.entries(entries[-1].name if entries else "", 0)
            if not page:
                return entries
            entries += page

    async def _take_up(self, entry: Entry, known: dict[int, fssync_pb2.VolumeInfo]) -> None:
        """Ends what an operation left: what is there is served, and the entry says so."""
        services, disk = self._services, self._services.disk
        if entry.locked_for.startswith("release by "):
            self._releases.add(entry.read_write_id)
        read_only_id = kept_read_only_id(entry.read_write_id)
        mine = [site for site in entry.sites if services.is_our_site(site)]
        for name in dict.fromkeys(site.partition for site in mine):
            partition = disk.partition(name)
            there = await disk.ids(partition)
            kept = {entry.read_write_id, kept_backup_id(entry.read_write_id)}
            if any(site.type is VolumeType.READ_ONLY for site in mine if site.partition == name):
                kept.add(read_only_id)
            for volume_id in kept.intersection(there).difference(known):
                await self._introduce(volume_id, partition)
            for volume_id in kept.intersection(there):
                await self._give_name(entry, volume_id, partition)
        for partition in disk.partitions.values():
            if read_only_id in await disk.ids(partition) and not any(
                (site.partition, site.type) == (partition.name, VolumeType.READ_ONLY)
                for site in mine
            ):
                await self._delete(partition, read_only_id, known)
        if entry.locked_for.startswith("rename by "):
            await self._rename_elsewhere(entry)
        settled = await settle(services, entry)
        _log.info(
            "entry.taken_up",
            name=entry.name,
            operation=entry.locked_for,
            outcome="deleted" if settled is None else "kept",
        )

    async def _give_name(self, entry: Entry, volume_id: int, partition: Partition) -> None:
        """Ends a renaming, of which the entry has the new name already."""
        name = entry.name_of(volume_id)
        try:
            header = await self._services.disk.header(partition, volume_id)
            if header.name != name:
                await rename_volume(self._services, partition.name, volume_id, name)
        except AfsError as error:
            # A damaged volume, or one that another program has, must not keep all others.
            _log.warning("volume.not_renamed", volume=volume_id, detail=error.detail)

    async def _rename_elsewhere(self, entry: Entry) -> None:
        """Has other volservers rename their copies; one that does not answer must not keep us."""
        for site in entry.sites_of(VolumeType.READ_ONLY):
            if site.release and not self._services.is_our_site(site):
                try:
                    await rename_elsewhere(entry, site)
                except AfsError as error:
                    _log.info("volume.not_renamed", site=site.vol_server, detail=error.detail)

    async def _introduce_unknown(self) -> None:
        """Has the fileserver serve what it does not know: moved here, and cut short before that."""
        known = {volume.volume_id for volume in await self._fssync.volumes()}
        disk = self._services.disk
        for partition in disk.partitions.values():
            for volume_id in await disk.ids(partition):
                if volume_id not in known and volume_id not in self.halves.waiting:
                    await self._introduce(volume_id, partition)

    async def _introduce(self, volume_id: int, partition: Partition) -> None:
        answer = await self._fssync.command(fssync_pb2.FSYNC_VOL_ON, volume_id, partition.name)
        try:
            check(answer, volume_id)
        except AfsError as error:
            _log.warning("volume.attach_refused", volume=volume_id, detail=error.detail)

    async def _correct_addresses(self, entry: Entry, former: frozenset[str] | None) -> Entry:
        """Has an entry tell of our present addresses where it told of former ones."""
        services = self._services
        sites: tuple[Site, ...] = ()
        for site in entry.sites:
            ours = await self._was_ours(entry, site, former)
            mine = replace(site, file_server=services.file_server, vol_server=services.vol_server)
            sites += (mine if ours else site,)
        if sites == entry.sites:
            return entry
        corrected = await services.locations.replace(replace(entry, sites=sites))
        _log.info("entry.addresses_corrected", name=entry.name)
        return corrected

    async def _was_ours(self, entry: Entry, site: Site, former: frozenset[str] | None) -> bool:
        """True for a site of ours, by whatever address.

        One that we had may be another's by now, so the volume must be here too; an entry that an
        operation of ours has locked may be of a volume that is not there yet.
        """
        services = self._services
        if services.is_our_site(site):
            return True
        if site.partition not in services.disk.partitions or any(
            services.is_our_site(other)
            and (other.partition, other.type) == (site.partition, site.type)
            for other in entry.sites
        ):
            return False
        if former is not None and site.vol_server not in former:
            return False
        if former is not None and services.is_ours(entry.locked_for):
            return True
        volume_id = {
            VolumeType.READ_WRITE: entry.read_write_id,
            VolumeType.READ_ONLY: kept_read_only_id(entry.read_write_id),
            VolumeType.BACKUP: kept_backup_id(entry.read_write_id),
        }[site.type]
        return await services.disk.has(services.disk.partition(site.partition), volume_id)
