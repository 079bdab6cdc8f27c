"""VolServer methods about sites and names: Clone, AddSite, RemoveSite, RenameVolume."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, Final

from afs.errors import AfsCode, AfsError
from afs.types import VolumeType
from afs.v1 import fssync_pb2, vol_server_pb2
from volserverd.core import site_steps
from volserverd.core.step import Role, Step
from volserverd.operations import Operation
from volserverd.peers import LOOK_DEADLINE_S, REMOVE_DEADLINE_S, volserver_at
from volserverd.vldb.entry import Entry, Site, entry_to_wire, kept_backup_id, kept_read_only_id
from volserverd.vldb.names import check_volume_name, parse_reference
from volserverd.vol_server_parts import (
    VolServerParts,
    check_entry,
    check_is_here,
    check_read_write,
    hung_up,
)
from volserverd.volume_work import VolumeWork
from volserverd.work_order import WorkOrder

# To tell a new site from one that was added meanwhile: an entry is read and replaced this often.
_ATTEMPTS: Final = 3


class SiteMethods(VolServerParts):
    """Methods that change where volumes are to be, and what they are called."""

    async def Clone(
        self, request: vol_server_pb2.CloneRequest, _: Any
    ) -> AsyncIterator[vol_server_pb2.CloneResponse]:
        """Makes a new read-write volume with the contents of another, on its partition.

        Only metadata is copied, whatever the size; the two share data until one is changed. The
        source is out of service meanwhile, and none of its callbacks is broken. EROFS for a source
        that is not read-write; VVOLEXISTS, EINVAL, ENAMETOOLONG for the new name.
        """
        check_volume_name(request.new_name)

        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            found = await self.claim(operation, request.volume)
            check_is_here(found)
            check_read_write(found, "cloned to a new volume")
            order = WorkOrder(
                found.partition,
                fssync_pb2.FSYNC_FOR_CLONE,
                {Role.SOURCE: found.volume_id},
                name=request.new_name,
            )
            return VolumeWork(self.services, operation, order), site_steps.clone_steps()

        operation, task = self.begin("clone", prepare)
        try:
            while (progress := await operation.next_progress()) is not None:
                yield vol_server_pb2.CloneResponse(progress=progress)
            work = await self.outcome(operation, task)
            yield vol_server_pb2.CloneResponse(
                volume=await self.detail(work.partition, work.ids[Role.MAIN])
            )
        finally:
            operation.ask_to_end(hung_up())

    async def AddSite(
        self, request: vol_server_pb2.AddSiteRequest, _: Any
    ) -> vol_server_pb2.AddSiteResponse:
        """Adds a place for a read-only copy to a volume's entry; the next release fills it.

        Any volserver can be asked. VBUSY while an operation has the entry; VVOLEXISTS if that
        server has a read-only site of the volume; EINVAL for a partition it does not have.
        """
        reference = parse_reference(request.volume)
        site = await self._site_at(request.server, request.partition)
        for attempts_left in reversed(range(_ATTEMPTS)):
            entry = await self.services.locations.get(reference)
            _check_unlocked(entry)
            for other in entry.sites_of(VolumeType.READ_ONLY):
                # A fileserver has one volume of an id.
                if other.file_server == site.file_server or other.vol_server == site.vol_server:
                    raise AfsError(
                        AfsCode.VVOLEXISTS,
                        f"volume {entry.name} has a read-only site at {other.vol_server} already,"
                        f" on partition {other.partition}",
                    )
            try:
                entry = await self.services.locations.replace(
                    replace(entry, sites=_with_site(entry, site))
                )
            except AfsError as error:
                if error.code is not AfsCode.EAGAIN or not attempts_left:
                    raise
            else:
                break
        return vol_server_pb2.AddSiteResponse(entry=entry_to_wire(entry))

    async def _site_at(self, server: str, partition: str) -> Site:
        """The read-only site on a partition of a volserver, this one if `server` is empty."""
        services = self.services
        if server in ("", services.vol_server):
            mine = services.site(services.disk.partition(partition).name)
            return replace(mine, type=VolumeType.READ_ONLY)
        request = vol_server_pb2.ListPartitionsRequest()
        async with volserver_at(server) as stub:
            answer = await stub.ListPartitions(request, timeout=LOOK_DEADLINE_S)
        names = [each.name for each in answer.partitions]
        if partition not in ("", *names):
            raise AfsError(
                AfsCode.EINVAL,
                f"partition {partition!r}: volserver {server} has {', '.join(names)}",
            )
        return Site(
            answer.file_server,
            answer.vol_server,
            partition or names[0],
            VolumeType.READ_ONLY,
        )

    async def RemoveSite(
        self, request: vol_server_pb2.RemoveSiteRequest, _: Any
    ) -> vol_server_pb2.RemoveSiteResponse:
        """Takes a read-only site from a volume's entry, and deletes the copy there.

        The volserver of the site does it; if another is asked, it passes the request on. VNOVOL if
        there is no such site; RX_CALL_DEAD if its volserver does not answer: then with `force` the
        entry is changed all the same.
        """
        entry = await self.services.locations.get(parse_reference(request.volume))
        site = self._site_of(entry, request)
        if self.services.is_our_site(site):
            return await self._remove_own_site(entry, site)
        if request.passed_on:
            raise AfsError(
                AfsCode.VMOVED, f"volserver {site.vol_server} is not {self.services.vol_server}"
            )
        passed_on = vol_server_pb2.RemoveSiteRequest(
            volume=str(entry.read_write_id),
            server=site.vol_server,
            partition=site.partition,
            passed_on=True,
        )
        try:
            async with volserver_at(site.vol_server) as stub:
                return await stub.RemoveSite(passed_on, timeout=REMOVE_DEADLINE_S)
        except AfsError as error:
            if not (request.force and error.code in (AfsCode.RX_CALL_DEAD, AfsCode.EINVAL)):
                raise
            answer = await self._drop_site(entry, site)
            answer.detail = f"{error.detail}: a copy on its partition {site.partition} stays behind"
            return answer

    def _site_of(self, entry: Entry, request: vol_server_pb2.RemoveSiteRequest) -> Site:
        """The read-only site that is meant; VNOVOL if there is none."""
        server = request.server or self.services.vol_server
        for site in entry.sites_of(VolumeType.READ_ONLY):
            if server in (site.vol_server, site.file_server) and request.partition in (
                "",
                site.partition,
            ):
                return site
        place = f"{server} {request.partition}".rstrip()
        raise AfsError(AfsCode.VNOVOL, f"volume {entry.name} has no read-only site at {place}")

    async def _remove_own_site(self, entry: Entry, site: Site) -> vol_server_pb2.RemoveSiteResponse:
        volume_id = kept_read_only_id(entry.read_write_id)
        partition = self.services.disk.partition(site.partition)

        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            operation.claim([volume_id], entry.name_of(volume_id))
            order = WorkOrder(
                partition,
                fssync_pb2.FSYNC_FOR_DELETE,
                {Role.READ_ONLY: volume_id},
                name=entry.name,
                entry=entry,
                site=site,
            )
            on_disk = await self.services.disk.has(partition, volume_id)
            work = VolumeWork(self.services, operation, order)
            return work, site_steps.remove_site_steps(on_disk=on_disk)

        work = await self.operate("remsite", prepare)
        answer = vol_server_pb2.RemoveSiteResponse()
        if work.entry is not None:
            answer.entry.CopyFrom(entry_to_wire(work.entry))
        return answer

    async def _drop_site(self, entry: Entry, site: Site) -> vol_server_pb2.RemoveSiteResponse:
        """Takes a site away whose volserver is gone."""
        _check_unlocked(entry)
        sites = tuple(other for other in entry.sites if other != site)
        answer = vol_server_pb2.RemoveSiteResponse()
        if not sites:
            await self.services.locations.delete(entry.read_write_id, "")
            return answer
        left = any(each.release for each in sites if each.type is VolumeType.READ_ONLY)
        changed = replace(
            entry, sites=sites, read_only_id=kept_read_only_id(entry.read_write_id) if left else 0
        )
        answer.entry.CopyFrom(entry_to_wire(await self.services.locations.replace(changed)))
        return answer

    async def RenameVolume(
        self, request: vol_server_pb2.RenameVolumeRequest, _: Any
    ) -> vol_server_pb2.RenameVolumeResponse:
        """Gives a volume, with its backup and its read-only copies, another name.

        Mount points name volumes, so those of the old name lead nowhere. A copy that cannot be
        reached is told of, and gets the name with the next release. VVOLEXISTS, EINVAL and
        ENAMETOOLONG for the new name; EROFS for a volume that is not read-write.
        """
        if request.copies_only:
            return await self._rename_copy(request.volume)
        check_volume_name(request.new_name)

        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            found = await self.claim(operation, request.volume, whole_group=True)
            check_is_here(found)
            check_read_write(found, "renamed by itself")
            entry = check_entry(found)
            await self._check_free(entry, request.new_name)
            ids = {Role.MAIN: found.volume_id}
            backup_id = kept_backup_id(found.volume_id)
            if await self.services.disk.has(found.partition, backup_id):
                ids[Role.BACKUP] = backup_id
            order = WorkOrder(
                found.partition,
                fssync_pb2.FSYNC_FOR_OPERATOR,
                ids,
                name=request.new_name,
                entry=entry,
            )
            work = VolumeWork(self.services, operation, order)
            return work, site_steps.rename_steps([*ids])

        work = await self.operate("rename", prepare)
        assert work.entry is not None, "the volume is on disk, so its entry stays"
        return vol_server_pb2.RenameVolumeResponse(
            entry=entry_to_wire(work.entry), not_renamed=work.not_renamed
        )

    async def _check_free(self, entry: Entry, name: str) -> None:
        """VVOLEXISTS for a name that is taken, before any volume is; the entry's change decides."""
        try:
            other = await self.services.locations.get(parse_reference(name))
        except AfsError as error:
            if error.code is AfsCode.VNOVOL:
                return
            raise
        text = f"volume {entry.name} has that name already"
        if other.read_write_id != entry.read_write_id:
            text = f"volume {name} exists"
        raise AfsError(AfsCode.VVOLEXISTS, text)

    async def _rename_copy(self, volume: str) -> vol_server_pb2.RenameVolumeResponse:
        """Gives a read-only copy here the name that its entry has."""

        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            found = await self.claim(operation, volume)
            check_is_here(found)
            order = WorkOrder(
                found.partition,
                fssync_pb2.FSYNC_FOR_OPERATOR,
                {Role.READ_ONLY: found.volume_id},
                name=found.name,
                entry=check_entry(found),
            )
            return VolumeWork(self.services, operation, order), site_steps.rename_copy_steps()

        await self.operate("rename", prepare)
        return vol_server_pb2.RenameVolumeResponse()


def _with_site(entry: Entry, site: Site) -> tuple[Site, ...]:
    """The entry's sites and a new one; backups stay last."""
    others = tuple(each for each in entry.sites if each.type is not VolumeType.BACKUP)
    return (*others, site, *entry.sites_of(VolumeType.BACKUP))


def _check_unlocked(entry: Entry) -> None:
    if entry.locked_for:
        raise AfsError(
            AfsCode.VBUSY, f"the entry of volume {entry.name} is locked for: {entry.locked_for}"
        )
