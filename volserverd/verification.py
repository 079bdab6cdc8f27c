"""Looks whether location database, disks, fileserver and chunks say the same, and changes nothing.

What an operation of ours is working on, or another's has locked the entry for, is on its way from
one state to another and is not compared; its rows and chunks are looked at all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.types import VolumeHeader, VolumeType
from afs.v1 import fssync_pb2, vol_server_pb2
from afs.volume.check_finding import Finding, FindingKind
from afs.volume.check_group import check_partition
from afs.volume.partition import Partition
from volserverd.fssync_client import FssyncClient, FssyncUnreachableError
from volserverd.operations import Operations
from volserverd.vldb.entry import Entry, Site, kept_backup_id, kept_read_only_id
from volserverd.vldb.names import FIRST_TEMPORARY_ID
from volserverd.work_order import VolumeServices

# How often somebody who waits is told how far it is.
_PROGRESS_S: Final = 0.25


class _StoppedError(Exception):
    """Nobody waits for the answer any more."""


class Verification:
    """One comparison.

    Args:
        services: what is compared.
        fssync: the fileserver, which says what it serves.
        operations: what runs.
        only: the volume to look at; None: all.
        deep: also read every chunk.
    """

    def __init__(
        self,
        services: VolumeServices,
        fssync: FssyncClient,
        operations: Operations,
        *,
        only: int | None,
        deep: bool,
    ) -> None:
        self._services = services
        self._fssync = fssync
        self._operations = operations
        self._only = only
        self._deep = deep
        self._stopped = False
        self._progress = vol_server_pb2.Progress(step="comparing with the location database")

    def stop(self) -> None:
        """Ends what still runs in a thread, soon."""
        self._stopped = True

    async def run(self) -> AsyncIterator[vol_server_pb2.VerifyResponse]:
        """All that is found, and how far it is meanwhile."""
        yield vol_server_pb2.VerifyResponse(progress=self._progress)
        async for place, finding in self._compared():
            yield _response(finding, place)
        for partition in self._services.disk.partitions.values():
            found = check_partition(
                partition,
                deep=self._deep,
                only=None if self._only is None else {self._only},
                progress=self._note_progress,
            )
            async for response in self._read(found, partition):
                yield response

    # --- rows and chunks --------------------------------------------------------------------------

    async def _read(
        self, found: Iterator[Finding], partition: Partition
    ) -> AsyncIterator[vol_server_pb2.VerifyResponse]:
        """What a thread finds, one by one, so that it is never further than who reads."""
        while True:
            task = asyncio.ensure_future(self._services.disk.run(next, found, None))
            while not (await asyncio.wait([task], timeout=_PROGRESS_S))[0]:
                yield vol_server_pb2.VerifyResponse(progress=self._progress)
            finding = task.result()
            if finding is None:
                return
            if not self._is_live_clone(finding.volume_id):
                yield _response(finding, partition.name)

    def _note_progress(self, step: str, done: int) -> None:
        """Called in the thread."""
        if self._stopped:
            raise _StoppedError
        self._progress = vol_server_pb2.Progress(step=step, done=done, unit="chunks")

    def _is_live_clone(self, volume_id: int) -> bool:
        """True for a temporary clone: it comes and goes with an operation."""
        return volume_id >= FIRST_TEMPORARY_ID

    # --- location database, disks and fileserver --------------------------------------------------

    async def _compared(self) -> AsyncIterator[tuple[str, Finding]]:
        entries = await self._entries()
        on_disk = await self._on_disk()
        served: dict[int, fssync_pb2.VolumeInfo] | None = None
        try:
            served = {info.volume_id: info for info in await self._fssync.volumes()}
        except FssyncUnreachableError as error:
            yield "", Finding(0, FindingKind.NOT_SERVED, self._fssync.address, error.detail)
        by_id = {volume_id: entry for entry in entries for volume_id in _ids(entry).values()}
        for volume_id, partitions in sorted(on_disk.items()):
            if self._is_settled(volume_id, by_id.get(volume_id)):
                for partition in partitions:
                    async for finding in self._of_volume(
                        volume_id, partition, partitions, by_id.get(volume_id)
                    ):
                        yield partition.name, finding
                if served is not None and volume_id < FIRST_TEMPORARY_ID:
                    for finding in _of_service(volume_id, served.get(volume_id)):
                        yield partitions[0].name, finding
        for entry in entries:
            async for place, finding in self._of_entry(entry, on_disk):
                yield place, finding

    async def _entries(self) -> list[Entry]:
        entries: list[Entry] = []
        while page := await self._services.locations.entries(
            entries[-1].name if entries else "", 0
        ):
            entries += page
        return entries

    async def _on_disk(self) -> dict[int, list[Partition]]:
        found: dict[int, list[Partition]] = {}
        for partition in self._services.disk.partitions.values():
            for volume_id in await self._services.disk.ids(partition):
                if self._only in (None, volume_id):
                    found.setdefault(volume_id, []).append(partition)
        return found

    def _is_settled(self, volume_id: int, entry: Entry | None) -> bool:
        if entry is not None and entry.locked_for:
            return False
        return self._operations.table.working_on(volume_id) is None

    async def _of_volume(
        self, volume_id: int, partition: Partition, partitions: list[Partition], entry: Entry | None
    ) -> AsyncIterator[Finding]:
        """What is wrong with where a volume is, and what it says of itself."""
        try:
            header = await self._services.disk.header(partition, volume_id)
        except AfsError as error:
            # Gone by now; or damaged, which looking at its rows tells.
            if error.code not in (AfsCode.VNOVOL, AfsCode.VSALVAGE):
                raise
            return
        name = header.name
        if volume_id >= FIRST_TEMPORARY_ID:
            if not self._services.disk.is_temporary(volume_id):
                detail = "no operation uses it: the next start of the volserver removes it"
                yield Finding(volume_id, FindingKind.TEMPORARY, name, detail)
            return
        if header.in_transit:
            detail = "it is marked as half of a move, and no move of it is running"
            yield Finding(volume_id, FindingKind.HALF_OF_A_MOVE, name, detail)
        elif len(partitions) > 1:
            places = ", ".join(each.name for each in partitions)
            detail = f"it is on partitions {places}"
            yield Finding(volume_id, FindingKind.IN_TWO_PLACES, name, detail)
        if entry is None:
            detail = "the location database does not have it"
            yield Finding(volume_id, FindingKind.NOT_IN_LOCATION, name, detail)
            return
        for finding in self._against_entry(volume_id, partition, header, entry):
            yield finding

    def _against_entry(
        self, volume_id: int, partition: Partition, header: VolumeHeader, entry: Entry
    ) -> Iterator[Finding]:
        expected = entry.name_of(volume_id)
        if header.name != expected:
            detail = f"its header says {header.name!r}, the location database {expected!r}"
            yield Finding(volume_id, FindingKind.WRONG_NAME, expected, detail)
        kind = next(kind for kind, each in _ids(entry).items() if each == volume_id)
        if header.type is not kind:
            detail = f"its header says {header.type.name}, its id {kind.name}"
            yield Finding(volume_id, FindingKind.WRONG_TYPE, expected, detail)
        sites = [site for site in entry.sites if site.type is kind]
        if any(self._is_at(site, partition) for site in sites):
            return
        places = ", ".join(f"{site.vol_server} {site.partition}" for site in sites) or "nowhere"
        elsewhere = kind is VolumeType.READ_WRITE and bool(sites)
        yield Finding(
            volume_id,
            FindingKind.IN_TWO_PLACES if elsewhere else FindingKind.NOT_IN_LOCATION,
            expected,
            f"it is here, and by the location database {places}",
        )

    async def _of_entry(
        self, entry: Entry, on_disk: dict[int, list[Partition]]
    ) -> AsyncIterator[tuple[str, Finding]]:
        ids = _ids(entry)
        if self._only is not None and self._only not in ids.values():
            return
        volume_id = entry.read_write_id
        working = self._operations.table.working_on(volume_id)
        if self._services.is_ours(entry.locked_for) and working is None:
            detail = f"its entry is locked for {entry.locked_for!r}, which is not running"
            yield "", Finding(volume_id, FindingKind.STALE_LOCK, entry.name, detail)
        if not self._is_settled(volume_id, entry):
            return
        for site in entry.sites:
            expected = ids[site.type]
            # A read-only site that was never released to has nothing yet.
            waits = site.type is VolumeType.READ_ONLY and not site.release
            ours = self._services.is_our_site(site)
            if waits or not ours or self._only not in (None, expected):
                continue
            partition = self._services.disk.partition(site.partition)
            if partition not in on_disk.get(expected, []):
                name = entry.name_of(expected)
                detail = f"by the location database it is on partition {site.partition}"
                yield site.partition, Finding(expected, FindingKind.NOT_ON_DISK, name, detail)

    def _is_at(self, site: Site, partition: Partition) -> bool:
        return self._services.is_our_site(site) and site.partition == partition.name


def finding_to_wire(finding: Finding, partition: str) -> vol_server_pb2.Finding:
    """The message for a finding."""
    return vol_server_pb2.Finding(
        volume_id=finding.volume_id,
        partition=partition,
        kind=finding.kind.value,
        subject=finding.subject,
        detail=finding.detail,
        action=finding.action,
        repaired=finding.repaired,
        path=finding.path,
    )


def _response(finding: Finding, partition: str) -> vol_server_pb2.VerifyResponse:
    return vol_server_pb2.VerifyResponse(finding=finding_to_wire(finding, partition))


def _ids(entry: Entry) -> dict[VolumeType, int]:
    """The ids of an entry's volumes, whether or not there are any."""
    return {
        VolumeType.READ_WRITE: entry.read_write_id,
        VolumeType.READ_ONLY: kept_read_only_id(entry.read_write_id),
        VolumeType.BACKUP: kept_backup_id(entry.read_write_id),
    }


def _of_service(volume_id: int, info: fssync_pb2.VolumeInfo | None) -> Iterator[Finding]:
    if info is None:
        detail = "it is on disk, and the fileserver does not know it"
        yield Finding(volume_id, FindingKind.NOT_SERVED, str(volume_id), detail)
    elif info.state == fssync_pb2.VOLUME_STATE_ERROR:
        yield Finding(volume_id, FindingKind.NOT_SERVED, info.name or str(volume_id), info.detail)
