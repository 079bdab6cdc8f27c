"""VolServer methods that make, delete and switch volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_QUOTA_KIB
from afs.types import VolumeType
from afs.v1 import fssync_pb2, vol_server_pb2
from afs.volume.volume import SetVolumeFields
from volserverd.core import site_steps, steps
from volserverd.core.step import Role, Step
from volserverd.finding import FoundVolume, find_volume
from volserverd.fssync_client import check
from volserverd.operations import Operation
from volserverd.vldb.entry import Entry, Site, kept_backup_id
from volserverd.vldb.names import check_volume_name
from volserverd.vol_server_parts import VolServerParts, check_is_here
from volserverd.volume_work import VolumeWork
from volserverd.work_order import WorkOrder


class ChangingMethods(VolServerParts):
    """Methods that change which volumes there are, and their state."""

    async def Create(
        self, request: vol_server_pb2.CreateRequest, _: Any
    ) -> vol_server_pb2.CreateResponse:
        """Makes an empty read-write volume and puts it into service; all or nothing.

        VVOLEXISTS, EINVAL and ENAMETOOLONG for what no volume can have, VDISKFULL.
        """
        check_volume_name(request.name)
        check_quota(request.max_quota_kib)
        partition = self.services.disk.partition(request.partition)

        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            order = WorkOrder(
                partition,
                fssync_pb2.FSYNC_FOR_OPERATOR,
                {Role.MAIN: request.volume_id},
                name=request.name,
                max_quota_kib=request.max_quota_kib,
            )
            return VolumeWork(self.services, operation, order), steps.create_steps()

        work = await self.operate("create", prepare)
        return vol_server_pb2.CreateResponse(
            volume=await self.detail(partition, work.ids[Role.MAIN])
        )

    async def Delete(
        self, request: vol_server_pb2.DeleteRequest, _: Any
    ) -> vol_server_pb2.DeleteResponse:
        """Deletes a volume, with its backup volume if it is a read-write one, and its entry.

        Also what is left of a volume that is only on disk, or only in the location database. A
        read-only volume: the copy here, and its site. Read-only copies outlive their read-write
        volume, and its entry with them.
        """
        if request.dry_run:
            found = await find_volume(self.services, request.volume)
            plan = await self._deletion_plan(found, await self._deletion(found))
            return vol_server_pb2.DeleteResponse(volume_id=found.volume_id, plan=plan)

        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            found = await self.claim(operation, request.volume, whole_group=True)
            order = await self._deletion(found)
            if order.site is not None:
                plan = site_steps.remove_site_steps(on_disk=found.on_disk)
                return VolumeWork(self.services, operation, order), plan
            return VolumeWork(self.services, operation, order), steps.delete_steps(
                main=Role.MAIN in order.ids,
                backup=Role.BACKUP in order.ids,
                entry=found.entry is not None,
            )

        work = await self.operate("delete", prepare)
        return vol_server_pb2.DeleteResponse(volume_id=work.deleted_id)

    async def _deletion(self, found: FoundVolume) -> WorkOrder:
        """Which volumes there are to delete."""
        disk, ids = self.services.disk, dict[Role, int]()
        backup_id = kept_backup_id(found.read_write_id)
        site = self._read_only_site(found)
        if site is not None:
            ids[Role.READ_ONLY] = found.volume_id
        elif found.on_disk:
            ids[Role.BACKUP if found.type is VolumeType.BACKUP else Role.MAIN] = found.volume_id
        if found.type is VolumeType.READ_WRITE and await disk.has(found.partition, backup_id):
            ids[Role.BACKUP] = backup_id
        if not ids and found.type is not VolumeType.READ_WRITE:
            check_is_here(found)
        return WorkOrder(
            found.partition,
            fssync_pb2.FSYNC_FOR_DELETE,
            ids,
            name=found.name,
            entry=found.entry,
            asked_id=found.volume_id,
            site=site,
        )

    async def _deletion_plan(
        self, found: FoundVolume, order: WorkOrder
    ) -> vol_server_pb2.OperationPlan:
        """What a deletion would do."""
        plan = vol_server_pb2.OperationPlan()
        for volume_id in sorted(order.ids.values(), reverse=True):
            if not await self.services.disk.has(order.partition, volume_id):
                continue
            name = found.name if found.entry is None else found.entry.name_of(volume_id)
            info = await self.fssync.query(volume_id)
            plan.clients_to_tell += info.holders if info is not None else 0
            plan.steps.append(
                f"delete volume {name} ({volume_id}) on partition {order.partition.name}"
            )
        if found.entry is not None:
            plan.steps.append(self._what_becomes_of(found.entry, found, order))
        return plan

    def _what_becomes_of(self, entry: Entry, found: FoundVolume, order: WorkOrder) -> str:
        """One line on the entry of a volume that is deleted."""
        if order.site is not None:
            left = [site for site in entry.sites if site != order.site]
        elif found.type is VolumeType.BACKUP:
            left = list(entry.sites_of(VolumeType.READ_WRITE))
        else:
            left = [site for site in entry.sites_of(VolumeType.READ_ONLY) if site.release]
        if not left:
            return f"delete the location entry of {entry.name}"
        places = ", ".join(dict.fromkeys(f"{site.vol_server} {site.partition}" for site in left))
        return f"keep the location entry of {entry.name}, which is left at {places}"

    def _read_only_site(self, found: FoundVolume) -> Site | None:
        """The site of a read-only copy of ours that is in its entry."""
        if found.entry is None or found.type is not VolumeType.READ_ONLY:
            return None
        sites = found.entry.sites_of(VolumeType.READ_ONLY)
        mine = replace(self.services.site(found.partition.name), type=VolumeType.READ_ONLY)
        return next((site for site in sites if replace(site, release=0) == mine), None)

    async def Offline(
        self, request: vol_server_pb2.OfflineRequest, _: Any
    ) -> vol_server_pb2.OfflineResponse:
        """Takes a volume out of service until Online, also across restarts of the fileserver."""
        work = await self._set_fields(
            "offline", request.volume, SetVolumeFields(leave_offline=True), steps.offline_steps()
        )
        return vol_server_pb2.OfflineResponse(volume=await self._detail_of(work))

    async def Online(
        self, request: vol_server_pb2.OnlineRequest, _: Any
    ) -> vol_server_pb2.OnlineResponse:
        """Puts a volume into service; one in the error state is looked at anew.

        VSALVAGE if it is still damaged.
        """
        work = await self._set_fields(
            "online", request.volume, SetVolumeFields(leave_offline=False), steps.set_fields_steps()
        )
        return vol_server_pb2.OnlineResponse(
            volume=await self._detail_of(work), give_back_s=work.give_back_s
        )

    async def SetFields(
        self, request: vol_server_pb2.SetFieldsRequest, _: Any
    ) -> vol_server_pb2.SetFieldsResponse:
        """Changes a volume's quota; EINVAL for one that cannot be. Nothing to set: nothing done."""
        quota_kib = request.max_quota_kib if request.HasField("max_quota_kib") else None
        if quota_kib is not None:
            check_quota(quota_kib)
        work = await self._set_fields(
            "setfields",
            request.volume,
            SetVolumeFields(max_quota_kib=quota_kib),
            steps.set_fields_steps(),
        )
        return vol_server_pb2.SetFieldsResponse(volume=await self._detail_of(work))

    async def _set_fields(
        self, name: str, volume: str, fields: SetVolumeFields, plan: Sequence[Step]
    ) -> VolumeWork:
        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            found = await self.claim(operation, volume)
            check_is_here(found)
            if fields.leave_offline is False:
                await self._leave_error_state(found)
            order = WorkOrder(
                found.partition,
                fssync_pb2.FSYNC_FOR_OPERATOR,
                {Role.MAIN: found.volume_id},
                name=found.name,
                entry=found.entry,
                fields=fields,
            )
            return VolumeWork(self.services, operation, order), plan

        return await self.operate(name, prepare)

    async def _leave_error_state(self, found: FoundVolume) -> None:
        """Has the fileserver look again at a volume it holds for damaged, or does not know."""
        info = await self.fssync.query(found.volume_id)
        if info is None or info.state == fssync_pb2.VOLUME_STATE_ERROR:
            answer = await self.fssync.command(
                fssync_pb2.FSYNC_VOL_ATTACH, found.volume_id, found.partition.name
            )
            check(answer, found.volume_id)

    async def _detail_of(self, work: VolumeWork) -> vol_server_pb2.VolumeDetail:
        return await self.detail(work.partition, work.ids[Role.MAIN])


def check_quota(max_quota_kib: int) -> None:
    """EINVAL for a quota beyond MAX_QUOTA_KIB."""
    if max_quota_kib > MAX_QUOTA_KIB:
        raise AfsError(
            AfsCode.EINVAL,
            f"max_quota_kib {max_quota_kib}: expected at most {MAX_QUOTA_KIB}; 0 is no limit",
        )
