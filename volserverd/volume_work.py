"""Does the steps of operations on volumes: all deeds put together."""

from __future__ import annotations

from afs.errors import AfsCode, AfsError
from afs.volume.partition import Partition
from volserverd.core.step import Step, StepKind
from volserverd.deeds.disk_deeds import DiskDeeds
from volserverd.deeds.dump_deeds import DumpDeeds
from volserverd.deeds.move_deeds import MoveDeeds
from volserverd.deeds.site_deeds import SiteDeeds
from volserverd.operations import Operation
from volserverd.vldb.entry import Entry
from volserverd.work_order import VolumeServices, WorkOrder


class VolumeWork(SiteDeeds, MoveDeeds, DiskDeeds, DumpDeeds):
    """The worker of one operation. Attributes as `WorkState`."""

    def __init__(self, services: VolumeServices, operation: Operation, order: WorkOrder) -> None:
        super().__init__(services, operation, order)
        self._deeds = self.deeds()

    async def perform(self, step: Step) -> None:
        """Does one step; AfsError if it cannot."""
        if self.in_doubt and step.kind is not StepKind.CLOSE_TRANSFER:
            # Going back is as wrong as going on.
            raise AfsError(AfsCode.VBUSY, "left to recovery")
        await self._deeds[step.kind](step.role)

    @property
    def partition(self) -> Partition:
        """Where the volumes are."""
        return self._partition

    @property
    def entry(self) -> Entry | None:
        """The location entry as it is now; None if there is none (any more)."""
        return self._entry

    @property
    def name(self) -> str:
        """What the volume is called, or shall be."""
        return self._order.name

    @property
    def deleted_id(self) -> int:
        """The volume that was asked to be deleted."""
        return self._order.asked_id
