"""Does a salvage: the steps of other operations, and the salvage itself in a thread."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from functools import partial

import structlog

from afs.errors import AfsCode, AfsError
from afs.types import VolumeType
from afs.v1 import fssync_pb2
from afs.volume.check_finding import Finding
from afs.volume.salvage import SalvageReport, salvage_volume
from afs.volume.salvage_case import SalvageOptions
from afs.volume.salvage_header import KnownIdentity
from volserverd.core.step import Role, StepKind
from volserverd.data_elsewhere import DataElsewhere
from volserverd.deeds.work_state import Deeds
from volserverd.finding import FoundVolume
from volserverd.halves import is_move_lock, read_write_site
from volserverd.operations import Operation
from volserverd.volume_work import VolumeWork
from volserverd.work_order import VolumeServices, WorkOrder

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SalvageWish:
    """What is wanted of a salvage."""

    dry_run: bool = False
    options: SalvageOptions = field(default_factory=SalvageOptions)


class SalvageWork(VolumeWork):
    """The worker of one salvage.

    Attributes:
        report: how it ended; None before.
    """

    def __init__(
        self,
        services: VolumeServices,
        operation: Operation,
        found: FoundVolume,
        wish: SalvageWish,
    ) -> None:
        order = WorkOrder(
            found.partition,
            fssync_pb2.FSYNC_SALVAGE,
            {Role.MAIN: found.volume_id},
            name=found.name,
            entry=found.entry,
        )
        super().__init__(services, operation, order)
        self._found = found
        self._wish = wish
        self._interrupted: AfsError | None = None
        self.report: SalvageReport | None = None

    def deeds(self) -> Deeds:
        """The salvage, and how a volume goes back that is as damaged as it was."""
        return {
            **super().deeds(),
            StepKind.SALVAGE: self._salvage,
            StepKind.GIVE_BACK: self._give_back_as_it_is,
        }

    def interrupt(self, error: AfsError) -> None:
        """Ends the salvage before it has changed anything."""
        self._interrupted = error
        super().interrupt(error)

    async def _salvage(self, role: Role) -> None:
        await self._check_is_no_half()
        services, found = self._services, self._found
        others = [each for each in services.disk.partitions.values() if each is not found.partition]
        loop = asyncio.get_running_loop()

        def progress(step: str, done: int, total: int) -> None:
            """Called in the salvage's thread."""
            if self._interrupted is not None:
                raise self._interrupted
            unit = "chunks" if total else "steps"
            loop.call_soon_threadsafe(self._operation.report, step, done, total, unit)

        salvage = partial(
            salvage_volume,
            found.partition,
            found.volume_id,
            dry_run=self._wish.dry_run,
            options=self._wish.options,
            known=known_identity(found),
            elsewhere=others,
            fetch=DataElsewhere(services, found.entry, loop),
            progress=progress,
            tell=_log_finding,
        )
        self.report = await self._verified([role], lambda: services.disk.run(salvage))
        _log.info(
            "volume.salvaged",
            volume=found.volume_id,
            findings=len(self.report.findings),
            unrepaired=self.report.unrepaired,
            changed=self.report.changed,
            dry_run=self._wish.dry_run,
        )
        if services.checkouts.holds(found.volume_id) and await self._is_to_stay_off():
            services.checkouts.leave_off(found.volume_id, left_off=True)

    async def _check_is_no_half(self) -> None:
        """EAGAIN for a volume of which a move may have made two copies, should its mark be lost."""
        entry = self._found.entry
        if entry is None or self._found.volume_id != entry.read_write_id:
            return
        site = read_write_site(entry)
        elsewhere = site is None or not (
            self._services.is_our_site(site) and site.partition == self._found.partition.name
        )
        if not elsewhere and not is_move_lock(entry.locked_for):
            return
        try:
            await self._services.disk.header(self._found.partition, self._found.volume_id)
        except AfsError as error:
            if error.code is not AfsCode.VSALVAGE:
                raise
            raise AfsError(
                AfsCode.EAGAIN,
                f"the header of volume {self._found.name} is lost, and by the location database it"
                " lives elsewhere or is being moved: it is not put into service here",
            ) from error

    async def _is_to_stay_off(self) -> bool:
        try:
            header = await self._services.disk.header(self._found.partition, self._found.volume_id)
        except AfsError:
            return False
        return header.leave_offline

    async def _give_back_as_it_is(self, role: Role) -> None:
        try:
            await self._give_back(role)
        except AfsError as error:
            mended = self.report is not None and not self._wish.dry_run
            # It goes back to the state of error it came from: that is no failure of the giving.
            if mended or error.code is not AfsCode.VSALVAGE:
                raise


def known_identity(found: FoundVolume) -> KnownIdentity:
    """What the location database says a volume is."""
    if found.entry is None:
        return KnownIdentity()
    kind = found.type
    # An id of its own that is none of the three in a row.
    in_row = found.volume_id - found.read_write_id in range(3)
    return KnownIdentity(found.name, kind if in_row else VolumeType.READ_WRITE)


def _log_finding(finding: Finding) -> None:
    _log.info(
        "volume.found_damaged",
        volume=finding.volume_id,
        kind=finding.kind.value,
        subject=finding.subject,
        path=finding.path,
        detail=finding.detail,
        action=finding.action,
        repaired=finding.repaired,
    )
