"""VolServer.Release: all read-only sites of a volume show its present state.

With `wait`, the call goes on after the release until nobody can read the state before: every site's
fileserver is asked who has not been told yet. A client is off that list when it has acknowledged
its break, or when its lease has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

import structlog

from afs.errors import AfsError
from afs.types import VolumeType
from afs.v1 import fssync_pb2
from afs.v1 import vol_server_pb2 as pb
from volserverd.core import release_steps
from volserverd.core.step import Role, Step
from volserverd.operations import Operation
from volserverd.peers import LOOK_DEADLINE_S, volserver_at
from volserverd.release_work import ReleaseWork, no_sites
from volserverd.site_release import SiteRelease
from volserverd.vldb.entry import kept_read_only_id
from volserverd.vol_server_parts import (
    EXCLUSIVE_BASE_S,
    VolServerParts,
    check_entry,
    check_is_here,
    check_read_write,
    hung_up,
)
from volserverd.volume_work import VolumeWork
from volserverd.work_order import WorkOrder

_log = structlog.get_logger(__name__)


class ReleaseMethods(VolServerParts):
    """Release."""

    async def Release(
        self, request: pb.ReleaseRequest, _: Any
    ) -> AsyncIterator[pb.ReleaseResponse]:
        """Brings every read-only site the volume's present state; only what changed is sent.

        Sites that fail are told of in the answer, and keep what they show; the next release brings
        them what they lack. If all sites show the present state already, nothing is done. EINVAL
        for a volume without read-only sites, EROFS for one that is not read-write.
        """
        operation, task = self._begin_release(request.volume, dry_run=request.dry_run)
        try:
            while (progress := await operation.next_progress()) is not None:
                yield pb.ReleaseResponse(progress=progress)
            work = await self.outcome(operation, task)
            assert isinstance(work, ReleaseWork)
            if request.dry_run:
                yield pb.ReleaseResponse(plan=await self._release_plan(work))
                return
            volume = await self.detail(work.partition, work.ids[Role.MAIN])
            yield pb.ReleaseResponse(volume=volume, sites=work.outcomes())
            if request.wait:
                async for not_told in self._not_told(work):
                    yield pb.ReleaseResponse(not_told=not_told)
                yield pb.ReleaseResponse(volume=volume, sites=work.outcomes())
        finally:
            operation.ask_to_end(hung_up())

    def _begin_release(
        self, volume: str, *, dry_run: bool = False
    ) -> tuple[Operation, asyncio.Task[VolumeWork]]:
        async def prepare(operation: Operation) -> tuple[VolumeWork, Sequence[Step]]:
            found = await self.claim(operation, volume, whole_group=True)
            check_is_here(found)
            check_read_write(found, "released")
            entry = check_entry(found)
            if not entry.sites_of(VolumeType.READ_ONLY):
                raise no_sites(found.name)
            order = WorkOrder(
                found.partition,
                fssync_pb2.FSYNC_FOR_CLONE,
                {Role.MAIN: found.volume_id},
                name=found.name,
                entry=entry,
            )
            work = ReleaseWork(self.services, operation, order, dry_run=dry_run)
            steps = release_steps.release_plan_steps if dry_run else release_steps.release_steps
            return work, steps()

        return self.begin("release", prepare, streams=True)

    async def release_again(self, read_write_id: int) -> None:
        """Runs a release that our predecessor did not end; nobody waits for how that goes."""
        try:
            operation, task = self._begin_release(str(read_write_id))
            work = await self.outcome(operation, task)
        except AfsError as error:
            _log.warning("release.not_repeated", volume=read_write_id, detail=error.detail)
            return
        assert isinstance(work, ReleaseWork)
        _log.info(
            "release.repeated",
            volume=read_write_id,
            failed=[site.detail for site in work.outcomes() if not site.released],
        )

    # --- wait -------------------------------------------------------------------------------------

    async def WatchTold(
        self, request: pb.WatchToldRequest, _: Any
    ) -> AsyncIterator[pb.WatchToldResponse]:
        """Who may still trust a state of a volume of our fileserver that is no more."""
        async for hosts in self.fssync.watch_breaks(request.volume_id):
            yield pb.WatchToldResponse(
                not_told=[
                    pb.ClientNotTold(
                        host_uuid=host.uuid,
                        address=host.address,
                        lease_remaining_s=host.lease_remaining_s,
                    )
                    for host in hosts
                ]
            )

    async def _not_told(self, work: ReleaseWork) -> AsyncIterator[list[pb.ClientNotTold]]:
        """Who may still read an older state, whenever that changes; ends when it is nobody.

        Raises:
            AfsError: a site that shows the state cannot be asked.
        """
        sites = [site for site in work.sites if site.shows == work.mark]
        volume_id = kept_read_only_id(work.ids[Role.MAIN])
        known: dict[int, Sequence[pb.ClientNotTold]] = {}
        changed = asyncio.Event()

        async def watch(number: int, site: SiteRelease) -> None:
            try:
                async for clients in self._watch(site, volume_id):
                    known[number] = clients
                    changed.set()
                known.pop(number, None)
            finally:
                changed.set()

        tasks = [asyncio.create_task(watch(number, site)) for number, site in enumerate(sites)]
        try:
            while not all(task.done() for task in tasks):
                await changed.wait()
                changed.clear()
                yield [client for clients in known.values() for client in clients]
            for task in tasks:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(
        self, site: SiteRelease, volume_id: int
    ) -> AsyncIterator[Sequence[pb.ClientNotTold]]:
        request = pb.WatchToldRequest(volume_id=volume_id)
        if self.services.is_our_site(site.site):
            async for answer in self.WatchTold(request, None):
                yield answer.not_told
            return
        async with volserver_at(site.site.vol_server) as stub:
            async for answer in stub.WatchTold(request):
                yield answer.not_told

    # --- dry run ----------------------------------------------------------------------------------

    async def _release_plan(self, work: ReleaseWork) -> pb.OperationPlan:
        """What a release would do, after a round that only counted."""
        if work.unchanged:
            return pb.OperationPlan(steps=["nothing: all sites show the present state"])
        plan = pb.OperationPlan(steps=["copy metadata to a temporary clone"])
        for site in work.sites:
            place = f"{site.site.vol_server} {site.site.partition}"
            if site.failure is not None:
                plan.steps.append(f"leave out {place}: {site.failure.detail}")
            elif not site.needs(work.mark):
                plan.steps.append(f"leave {place} as it is: it shows the present state")
            else:
                plan.steps.append(site.plan())
                plan.bytes_to_send += site.sent.bytes
                plan.chunks_to_send += site.sent.chunks
                plan.clients_to_tell += await self._holders(site, work)
                plan.exclusive_s = EXCLUSIVE_BASE_S
        plan.steps.append("show the new state at all these sites, and break their callbacks")
        plan.steps.append("note in the location entry which sites show it")
        return plan

    async def _holders(self, site: SiteRelease, work: ReleaseWork) -> int:
        """Clients that hold promises on a site's copy; 0 if there is none, or nobody says."""
        volume_id = kept_read_only_id(work.ids[Role.MAIN])
        with suppress(AfsError):
            if self.services.is_our_site(site.site):
                info = await self.fssync.query(volume_id)
                return info.holders if info is not None else 0
            async with volserver_at(site.site.vol_server) as stub:
                request = pb.ExamineRequest(volume=str(volume_id))
                answer = await stub.Examine(request, timeout=LOOK_DEADLINE_S)
                return answer.volume.holders
        return 0
