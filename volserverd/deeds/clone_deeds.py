"""Steps that clone volumes, and delete temporary clones."""

from __future__ import annotations

from functools import partial

from afs.errors import AfsCode, AfsError
from afs.v1 import fssync_pb2
from afs.volume.volume import SetVolumeFields
from volserverd.core.step import Role, StepKind
from volserverd.deeds.work_state import Deeds, WorkState
from volserverd.vldb.names import BACKUP_SUFFIX


class CloneDeeds(WorkState):
    """Clones, for good or for a while."""

    def deeds(self) -> Deeds:
        """Those of this file."""
        return {
            **super().deeds(),
            StepKind.CLONE: self._clone,
            StepKind.CLONE_TEMPORARY: self._clone_temporary,
            StepKind.DELETE_TEMPORARY: self._delete_temporary,
        }

    async def _clone(self, _: Role) -> None:
        assert self._entry is not None
        clone = partial(
            self._services.disk.clone,
            self._partition,
            self.ids[Role.MAIN],
            clone_id=self.ids[Role.BACKUP],
            name=self._entry.name + BACKUP_SUFFIX,
            # There from the volume's creation on: only a volume made otherwise lacks it.
            source_fields=SetVolumeFields(backup_id=self.ids[Role.BACKUP]),
        )
        await self._verified([Role.BACKUP, Role.MAIN], clone)

    async def _clone_temporary(self, _: Role) -> None:
        disk, main = self._services.disk, self.ids[Role.MAIN]
        self.ids[Role.TEMPORARY] = await self._verified(
            [Role.MAIN], lambda: disk.clone_temporary(self._partition, main)
        )

    async def _delete_temporary(self, _: Role) -> None:
        clone_id = self.ids.pop(Role.TEMPORARY, 0)
        if not clone_id:
            return
        checkouts = self._services.checkouts
        try:
            # A fileserver that was restarted meanwhile serves it, as it serves all there is.
            await checkouts.take(clone_id, self._partition.name, fssync_pb2.FSYNC_FOR_DELETE)
        except AfsError as error:
            if error.code not in (AfsCode.VNOVOL, AfsCode.RX_CALL_DEAD):
                raise
        await self._services.disk.delete_temporary(self._partition, clone_id)
        if checkouts.holds(clone_id):
            checkouts.deleted(clone_id)
            await checkouts.give_back(clone_id)
