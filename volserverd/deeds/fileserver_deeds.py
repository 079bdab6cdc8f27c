"""Steps that take volumes from the fileserver and give them back."""

from __future__ import annotations

from typing import Final

from afs.errors import AfsCode, AfsError
from afs.v1 import fssync_pb2
from volserverd.core.step import Role, StepKind
from volserverd.deeds.work_state import Deeds, WorkState

# Work for which a volume that is on disk need not be known to the fileserver.
_UNKNOWN_IS_FINE: Final = frozenset(
    {fssync_pb2.FSYNC_FOR_DELETE, fssync_pb2.FSYNC_FOR_RESTORE, fssync_pb2.FSYNC_SALVAGE}
)


class FileserverDeeds(WorkState):
    """Takes and gives back."""

    def deeds(self) -> Deeds:
        """Those of this file."""
        return {
            **super().deeds(),
            StepKind.TAKE: self._take,
            StepKind.GIVE_BACK: self._give_back,
            StepKind.FORGET: self._give_back,
            StepKind.LEAVE_OFF: self._give_back,
            StepKind.INTRODUCE: self._introduce,
            StepKind.WITHDRAW: self._withdraw,
        }

    async def _take(self, role: Role) -> None:
        try:
            await self._services.checkouts.take(
                self.ids[role], self._partition.name, self._order.reason
            )
        except AfsError as error:
            # On disk, but not known to the fileserver: nobody serves it, and its lock keeps it so.
            lenient = role is Role.BACKUP or self._order.reason in _UNKNOWN_IS_FINE
            known = error.code is not AfsCode.VNOVOL or not await self._on_disk(role)
            if known or not lenient:
                raise

    async def _give_back(self, role: Role) -> None:
        checkouts, volume_id = self._services.checkouts, self.ids[role]
        seconds = 0.0
        if checkouts.holds(volume_id):
            seconds = await checkouts.give_back(volume_id)
        elif not self._operation.is_going_back and await self._on_disk(role):
            # It was taken though the fileserver did not know it; now it shall.
            seconds = await checkouts.introduce(volume_id, self._partition.name)
        if role is Role.MAIN:
            self.give_back_s = seconds

    async def _introduce(self, role: Role) -> None:
        await self._services.checkouts.introduce(self.ids[role], self._partition.name)

    async def _withdraw(self, role: Role) -> None:
        try:
            await self._services.checkouts.take(
                self.ids[role], self._partition.name, fssync_pb2.FSYNC_FOR_DELETE
            )
        except AfsError as error:
            if error.code is not AfsCode.VNOVOL:
                raise
