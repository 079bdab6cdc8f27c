"""Steps that make and delete volumes on disk, and change their headers."""

from __future__ import annotations

from afs.errors import AfsCode, AfsError
from afs.volume.volume import SetVolumeFields
from volserverd.core.step import Role, StepKind
from volserverd.deeds.fileserver_deeds import FileserverDeeds
from volserverd.deeds.work_state import Deeds
from volserverd.vldb.entry import kept_backup_id


class DiskDeeds(FileserverDeeds):
    """Makes, deletes, changes."""

    def deeds(self) -> Deeds:
        """Those of this file."""
        return {
            **super().deeds(),
            StepKind.CREATE_ON_DISK: self._create_on_disk,
            StepKind.REMOVE_CREATED: self._remove_created,
            StepKind.DELETE_ON_DISK: self._delete_on_disk,
            StepKind.SET_FIELDS: self._set_fields,
            StepKind.RESET_FIELDS: self._reset_fields,
        }

    async def _create_on_disk(self, role: Role) -> None:
        order, disk, volume_id = self._order, self._services.disk, self.ids[role]
        backup_id = kept_backup_id(volume_id)
        if self._restore is None:
            await disk.create(
                self._partition,
                volume_id=volume_id,
                name=order.name,
                backup_id=backup_id,
                max_quota_kib=order.max_quota_kib,
            )
            self._created = True
            return
        if await self._on_disk(role):
            raise AfsError(AfsCode.VVOLEXISTS, f"volume {volume_id} exists")
        await disk.run(self._restore.put_in_place)
        self._created = True
        await disk.set_fields(self._partition, volume_id, SetVolumeFields(backup_id=backup_id))

    async def _remove_created(self, role: Role) -> None:
        if not self._created:
            return
        checkouts, volume_id = self._services.checkouts, self.ids[role]
        try:
            await self._services.disk.delete(self._partition, volume_id)
        except AfsError as error:
            if error.code is not AfsCode.VBUSY:
                raise
            # A fileserver that was started meanwhile serves whatever it finds.
            await self._withdraw(role)
            await self._services.disk.delete(self._partition, volume_id)
        if checkouts.holds(volume_id):
            checkouts.deleted(volume_id)
            await checkouts.give_back(volume_id)

    async def _delete_on_disk(self, role: Role) -> None:
        checkouts, volume_id = self._services.checkouts, self.ids[role]
        disk = self._services.disk
        await self._verified([role], lambda: disk.delete(self._partition, volume_id))
        if checkouts.holds(volume_id):
            checkouts.deleted(volume_id)

    async def _set_fields(self, role: Role) -> None:
        fields = self._order.fields
        assert fields is not None
        disk, volume_id = self._services.disk, self.ids[role]
        before = await self._verified(
            [role], lambda: disk.set_fields(self._partition, volume_id, fields)
        )
        self._fields_before = SetVolumeFields(
            max_quota_kib=before.max_quota_kib, leave_offline=before.leave_offline
        )
        self._goes_back_as(role, fields)

    async def _reset_fields(self, role: Role) -> None:
        if self._fields_before is not None:
            await self._services.disk.set_fields(
                self._partition, self.ids[role], self._fields_before
            )
            self._goes_back_as(role, self._fields_before)

    def _goes_back_as(self, role: Role, fields: SetVolumeFields) -> None:
        if fields.leave_offline is not None and self._services.checkouts.holds(self.ids[role]):
            self._services.checkouts.leave_off(self.ids[role], left_off=fields.leave_offline)
