"""Does the steps of operations on volumes: all deeds put together."""

from __future__ import annotations

from afs.errors import AfsError
from afs.volume.partition import Partition
from volserverd.core.step import Step
from volserverd.deeds.clone_deeds import CloneDeeds
from volserverd.deeds.disk_deeds import DiskDeeds
from volserverd.deeds.dump_deeds import DumpDeeds
from volserverd.deeds.entry_deeds import EntryDeeds
from volserverd.operations import Operation
from volserverd.work_order import VolumeServices, WorkOrder


class VolumeWork(EntryDeeds, DiskDeeds, CloneDeeds, DumpDeeds):
    """The worker of one operation. Attributes as `WorkState`."""

    def __init__(self, services: VolumeServices, operation: Operation, order: WorkOrder) -> None:
        super().__init__(services, operation, order)
        self._deeds = self.deeds()

    async def perform(self, step: Step) -> None:
        """Does one step; AfsError if it cannot."""
        await self._deeds[step.kind](step.role)

    @property
    def partition(self) -> Partition:
        """Where the volumes are."""
        return self._partition

    @property
    def deleted_id(self) -> int:
        """The volume that was asked to be deleted."""
        return self._order.asked_id

    def interrupt(self, error: AfsError) -> None:
        """Ends a step that waits for the client."""
        self._order.pieces.abort(error)
