"""Does the steps of a release: every read-only site is brought the new state, then shows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.types import ChangeMark, VolumeType
from afs.v1 import vol_server_pb2
from afs.volume.sqlite_store import SqliteVolume
from volserverd.core.step import Role, Step, StepKind
from volserverd.deeds.work_state import Deeds
from volserverd.operations import Operation
from volserverd.site_release import CloneSite, SiteRelease, TransferSite
from volserverd.vldb.entry import Entry, Site, kept_read_only_id
from volserverd.volume_work import VolumeWork
from volserverd.work_order import VolumeServices, WorkOrder

# What is left out if every site shows the present state already.
_LEFT_OUT: Final = frozenset(
    {
        StepKind.TAKE,
        StepKind.CLONE_TEMPORARY,
        StepKind.GIVE_BACK,
        StepKind.STAGE_AT_SITES,
        StepKind.SHOW_AT_SITES,
        StepKind.NOTE_RELEASE,
    }
)


class ReleaseWork(VolumeWork):
    """The worker of one release.

    Attributes:
        sites: every read-only site of the entry.
        mark: the state that is released.
        unchanged: every site showed the present state already; nothing was done.
    """

    def __init__(
        self,
        services: VolumeServices,
        operation: Operation,
        order: WorkOrder,
        *,
        dry_run: bool = False,
    ) -> None:
        super().__init__(services, operation, order)
        self._dry_run = dry_run
        self.sites: list[SiteRelease] = []
        self.mark = ChangeMark("", 0)
        self.unchanged = False

    def deeds(self) -> Deeds:
        """Those of this file."""
        return {
            **super().deeds(),
            StepKind.OPEN_SITES: self._open_sites,
            StepKind.CLOSE_SITES: self._close_sites,
            StepKind.STAGE_AT_SITES: self._stage_at_sites,
            StepKind.SHOW_AT_SITES: self._show_at_sites,
            StepKind.NOTE_RELEASE: self._note_release,
        }

    async def perform(self, step: Step) -> None:
        """Does one step; AfsError if it cannot."""
        if not (self.unchanged and step.kind in _LEFT_OUT):
            await super().perform(step)

    def interrupt(self, error: AfsError) -> None:
        """Ends a step that waits for the sites."""
        super().interrupt(error)
        for site in self.sites:
            site.interrupt(error)

    def outcomes(self) -> list[vol_server_pb2.SiteOutcome]:
        """How it ended at each site."""
        return [site.outcome(self.mark) for site in self.sites]

    # --- the steps --------------------------------------------------------------------------------

    async def _open_sites(self, _: Role) -> None:
        entry = self._entry
        assert entry is not None
        now = self._operation.now
        for site in entry.sites_of(VolumeType.READ_ONLY):
            if self._services.is_our_site(site) and site.partition == self._partition.name:
                self.sites.append(CloneSite(self._services, entry, site, now))
            else:
                sent = TransferSite(self._services, entry, site, now)
                sent.dry_run = self._dry_run
                self.sites.append(sent)
        await _all(site.open() for site in self.sites)
        self._check_any("can be reached")
        header = await self._services.disk.header(self._partition, self.ids[Role.MAIN])
        self.mark = ChangeMark(header.incarnation, header.change_counter)
        self.unchanged = not any(
            site.needs(self.mark)
            or (site.failure is None and site.site.release != self.mark.change_counter)
            for site in self.sites
        )

    async def _close_sites(self, _: Role) -> None:
        await _all(site.end() for site in self.sites)

    async def _stage_at_sites(self, _: Role) -> None:
        async with self._clone_opened() as source:
            header = await self._services.disk.run(source.header)
            self.mark = ChangeMark(header.incarnation, header.change_counter)
            progress = _Progress(self._operation, len(self.sites))
            await _all(
                site.stage(source, self.mark, partial(progress.note, number))
                for number, site in enumerate(self.sites)
            )
        self._check_any("could take the new state")

    @asynccontextmanager
    async def _clone_opened(self) -> AsyncIterator[SqliteVolume]:
        """The temporary clone, open for reading."""
        disk, clone_id = self._services.disk, self.ids[Role.TEMPORARY]
        opening = partial(self._partition.open_volume, clone_id)
        try:
            clone = await disk.run(opening)
        except AfsError as error:
            if error.code is not AfsCode.VBUSY:
                raise
            # A fileserver that was restarted meanwhile has it open, as it opens all there is.
            await self._take(Role.TEMPORARY)
            clone = await disk.run(opening)
        try:
            yield clone
        finally:
            await disk.run(clone.close)

    async def _show_at_sites(self, _: Role) -> None:
        clone_id = self.ids[Role.TEMPORARY]
        await _all(site.show(clone_id, self.mark) for site in self.sites)
        self._check_any("shows the new state")

    async def _note_release(self, _: Role) -> None:
        """The entry sends clients to the sites that show it."""
        shown = {site.site for site in self.sites if site.shows == self.mark}

        def noted(site: Site) -> Site:
            if site in shown:
                return replace(site, release=self.mark.change_counter)
            # Of a volume that has begun to count anew (its header was lost, and salvaged).
            is_ahead = site.release > self.mark.change_counter
            return replace(site, release=0) if is_ahead else site

        def change(entry: Entry) -> Entry:
            return replace(
                entry,
                sites=tuple(noted(site) for site in entry.sites),
                read_only_id=kept_read_only_id(entry.read_write_id),
            )

        await self._change_entry(change)

    def _check_any(self, what: str) -> None:
        """Fails if no site is left."""
        if not self.sites:
            raise no_sites(self._order.name)
        failures = [site for site in self.sites if site.failure is not None]
        if len(failures) < len(self.sites):
            return
        first = failures[0].failure
        assert first is not None
        told = "; ".join(
            f"{site.site.vol_server} {site.site.partition}: {site.failure.detail}"
            for site in failures
            if site.failure is not None
        )
        raise AfsError(first.code, f"no site {what}: {told}")


def no_sites(name: str) -> AfsError:
    """What a release of a volume without read-only sites is refused with."""
    return AfsError(
        AfsCode.EINVAL, f"volume {name} has no read-only sites to release to: add one first"
    )


class _Progress:
    """How far all sites are together."""

    def __init__(self, operation: Operation, sites: int) -> None:
        self._operation = operation
        self._done = [0] * sites
        self._total = [0] * sites

    def note(self, number: int, done: int, total: int) -> None:
        """One site has come so far; a total of 0 is not known yet."""
        self._done[number], self._total[number] = done, total
        known = all(self._total[at] for at, each in enumerate(self._done) if each)
        self._operation.report(
            StepKind.STAGE_AT_SITES.value,
            sum(self._done),
            sum(self._total) if known else 0,
            "bytes",
        )


async def _all(doings: Iterable[Awaitable[None]]) -> None:
    """Does all at the same time; returns when the last has ended, also if one has failed."""
    results = await asyncio.gather(*doings, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
