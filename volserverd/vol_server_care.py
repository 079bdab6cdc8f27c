"""VolServer methods that look after volumes: Salvage, Verify."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from afs.v1 import vol_server_pb2
from afs.volume.salvage_case import SalvageOptions
from volserverd.core.care_steps import salvage_steps
from volserverd.core.step import Role, Step
from volserverd.finding import find_volume
from volserverd.operations import Operation
from volserverd.salvage_work import SalvageWish, SalvageWork
from volserverd.verification import Verification, finding_to_wire
from volserverd.vol_server_parts import VolServerParts, check_is_here, hung_up
from volserverd.volume_work import VolumeWork


class CaringMethods(VolServerParts):
    """Methods that check and repair."""

    async def Salvage(
        self, request: vol_server_pb2.SalvageRequest, _: Any
    ) -> AsyncIterator[vol_server_pb2.SalvageResponse]:
        """Checks a volume through and through, and repairs what can be repaired.

        The volume is out of service meanwhile, also for a dry run, and clients are told if anything
        changed. A volume in the error state goes into service again. EAGAIN for half of a move,
        VSALVAGE if it is beyond repair: it is then as it was.
        """
        wish = SalvageWish(
            request.dry_run,
            SalvageOptions(
                remove_orphans=request.remove_orphans,
                remove_damaged=request.remove_damaged,
                deep=not request.quick,
            ),
        )
        operation, task = self.begin("salvage", self._salvage_of(request.volume, wish))
        try:
            while (progress := await operation.next_progress()) is not None:
                yield vol_server_pb2.SalvageResponse(progress=progress)
            work = await self.outcome(operation, task)
            assert isinstance(work, SalvageWork) and work.report is not None, "it has succeeded"
            for finding in work.report.findings:
                yield vol_server_pb2.SalvageResponse(
                    finding=finding_to_wire(finding, work.partition.name)
                )
            yield vol_server_pb2.SalvageResponse(
                volume=await self.detail(work.partition, work.ids[Role.MAIN]),
                unrepaired=work.report.unrepaired,
                changed=work.report.changed,
            )
        finally:
            operation.ask_to_end(hung_up())

    async def salvage_by_itself(self, volume_id: int) -> SalvageWork:
        """Salvages a volume that nobody asked for; as Salvage. Chunks are not read, to be quick."""
        wish = SalvageWish(options=SalvageOptions(deep=False))
        work = await self.operate("salvage", self._salvage_of(str(volume_id), wish))
        assert isinstance(work, SalvageWork)
        return work

    def _salvage_of(self, volume: str, wish: SalvageWish) -> Any:
        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            found = await self.claim(operation, volume)
            check_is_here(found)
            return SalvageWork(self.services, operation, found, wish), salvage_steps()

        return prepare

    async def Verify(
        self, request: vol_server_pb2.VerifyRequest, _: Any
    ) -> AsyncIterator[vol_server_pb2.VerifyResponse]:
        """Compares this server's volumes with the location database, and with their chunks.

        Reads only, while volumes are in use; what an operation is working on at this moment is not
        compared with the location database. VNOVOL for a volume that is nowhere.
        """
        await self.recovery.ready()
        only: int | None = None
        if request.volume:
            only = (await find_volume(self.services, request.volume)).volume_id
        verification = Verification(
            self.services, self.fssync, self.operations, only=only, deep=request.deep
        )
        try:
            async for response in verification.run():
                yield response
        finally:
            verification.stop()
