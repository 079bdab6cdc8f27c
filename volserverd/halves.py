"""Copies of ours that are half of a move or copy that has not ended, and what becomes of them.

Theory of operation
    From its last round on, a move has two copies of a volume on disk, both marked `in_transit`,
    served by nobody. Which of them lives is what the location database says, and switching the site
    in the entry is the moment that decides it. So whoever finds half of a move, after a crash of
    any of the parties, reads the entry:

    H1  It names this copy as the read-write site: the mark goes, the copy goes into service.
    H2  The entry is locked by an operation of ours that does not run any more: that operation is
        ended, forward if the site was switched, else back (`take_up`).
    H3  The entry is locked by somebody else: wait.
    H4  Else: this copy is deleted, as soon as the read-write site that the entry names, if any, has
        confirmed that it has the volume. So whatever went wrong, the last copy is never deleted.

    H5  A backup volume stays where its read-write volume is; one that is left elsewhere is deleted.

    The entry's version grows before anything is decided in H2: a replace that our predecessor sent
    and that is still on its way is then refused. As long as the location database does not answer,
    nothing is done.

    All of this is tried again until it is done; operations that run on the volume come first.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import HALF_POLL_S
from afs.types import VolumeType
from afs.v1 import fssync_pb2, vol_server_pb2
from afs.volume.partition import Partition
from afs.volume.volume import SetVolumeFields
from volserverd.fssync_client import FssyncClient
from volserverd.operations import Operation, Operations
from volserverd.peers import LOOK_DEADLINE_S, volserver_at
from volserverd.settling import settle
from volserverd.vldb.entry import Entry, Site, kept_backup_id
from volserverd.vldb.names import FIRST_TEMPORARY_ID, VolumeReference
from volserverd.work_order import VolumeServices

_log = structlog.get_logger(__name__)


class Halves:
    """Settles halves in the background. See the module's theory of operation.

    Args:
        services: where volumes and entries are.
        fssync: the fileserver.
        operations: what runs, which is left alone.
    """

    def __init__(
        self, services: VolumeServices, fssync: FssyncClient, operations: Operations
    ) -> None:
        self._services = services
        self._fssync = fssync
        self._operations = operations
        self._waiting: dict[int, str] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> list[int]:
        """The volumes that are not settled yet."""
        return sorted(self._waiting)

    def start(self) -> None:
        """Begins; returns at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends it; what is left is found by the next start."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def add(self, volume_id: int) -> None:
        """There is a half, or there may be one."""
        self._waiting.setdefault(volume_id, "")
        self._wake.set()

    async def find(self) -> None:
        """Looks for halves on all partitions."""
        disk = self._services.disk
        for partition in disk.partitions.values():
            for volume_id in await disk.ids(partition):
                if volume_id < FIRST_TEMPORARY_ID and await self._is_half(partition, volume_id):
                    self.add(volume_id)

    async def put_on(self, partition: Partition, volume_id: int) -> float:
        """Takes the mark from a copy and puts it into service: it lives.

        Returns:
            Seconds until the fileserver acknowledged.
        """
        disk, checkouts = self._services.disk, self._services.checkouts
        if (await disk.header(partition, volume_id)).in_transit:
            await disk.set_fields(partition, volume_id, SetVolumeFields(in_transit=False))
        seconds = await checkouts.introduce(volume_id, partition.name)
        # Moved within this server, it was taken from its old partition.
        checkouts.forget(volume_id)
        return seconds

    async def send_away(self, partition: Partition, volume_id: int) -> None:
        """What is left to do here after the volume has moved: clients are told, the copy goes."""
        checkouts = self._services.checkouts
        info = await self._fssync.query(volume_id)
        is_out = (
            info is not None
            and info.partition == partition.name
            and info.state == fssync_pb2.VOLUME_STATE_CHECKED_OUT
        )
        if is_out and not checkouts.holds(volume_id):
            await checkouts.take(volume_id, partition.name, fssync_pb2.FSYNC_FOR_MOVE)
        if checkouts.holds(volume_id):
            checkouts.moved(volume_id)
            await checkouts.give_back(volume_id)
        if await self._services.disk.has(partition, volume_id):
            await self._services.disk.set_aside(partition, volume_id)
        await checkouts.remind_moved(volume_id, partition.name)

    async def delete(self, partition: Partition, volume_id: int) -> None:
        """Deletes a copy, wherever it stands with the fileserver; done if there is none."""
        checkouts, disk = self._services.checkouts, self._services.disk
        info = await self._fssync.query(volume_id)
        known = info is not None and info.partition == partition.name
        if known and not checkouts.holds(volume_id):
            with suppress(AfsError):
                await checkouts.take(volume_id, partition.name, fssync_pb2.FSYNC_FOR_DELETE)
        await disk.delete(partition, volume_id)
        if known and checkouts.holds(volume_id):
            checkouts.deleted(volume_id)
            await checkouts.give_back(volume_id)
        elif info is None:
            checkouts.forget(volume_id)

    async def take_up(self, entry: Entry) -> None:
        """Ends an operation of ours that stopped in the middle: forward, or back (H2).

        Raises:
            AfsError: what entry, disk or fileserver answer; it is to be called again then.
        """
        services = self._services
        bumped = await self._bump(entry)
        if bumped is None:
            self.add(entry.read_write_id)
            return
        site, volume_id = read_write_site(bumped), bumped.read_write_id
        home = self._home(site)
        copies = await self._copies(volume_id)
        if home is not None and home in copies:
            await self.put_on(home, volume_id)
        for partition in copies:
            if partition is home:
                continue
            if site is None or home is not None:
                # A copy that was never made known, or what is left on another partition of ours.
                if await self._is_half(partition, volume_id):
                    await self.delete(partition, volume_id)
            else:
                await self.send_away(partition, volume_id)
        await self._delete_backups(bumped)
        settled = await settle(services, bumped)
        _log.info(
            "entry.taken_up",
            name=entry.name,
            operation=entry.locked_for,
            outcome="deleted" if settled is None else "forward" if home is None else "kept",
        )

    # --- inside -----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                for volume_id in list(self._waiting):
                    await self._try(volume_id)
                if self._waiting:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._wake.wait(), HALF_POLL_S)
                    self._wake.clear()

    async def _try(self, volume_id: int) -> None:
        """Settles one, if that can be done now."""

        async def run(operation: Operation) -> bool:
            operation.claim([volume_id, kept_backup_id(volume_id)], str(volume_id))
            return await self._settle(volume_id)

        try:
            _, task = self._operations.start("recover", run)
            done = await asyncio.shield(task)
        except AfsError as error:
            if error.detail != self._waiting.get(volume_id):
                _log.info("half.waits", volume=volume_id, detail=error.detail)
                self._waiting[volume_id] = error.detail
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("half.not_settled", volume=volume_id)
        else:
            if done:
                self._waiting.pop(volume_id, None)

    async def _settle(self, volume_id: int) -> bool:
        """H1 to H4; False: to be looked at again."""
        services = self._services
        entry: Entry | None = None
        try:
            reference = VolumeReference(str(volume_id), volume_id=volume_id)
            entry = await services.locations.get(reference)
        except AfsError as error:
            if error.code is not AfsCode.VNOVOL:
                raise
        if (
            entry is not None
            and services.is_ours(entry.locked_for)
            and is_move_lock(entry.locked_for)
        ):
            await self.take_up(entry)
            return True
        copies = await self._copies(volume_id)
        home = self._home(read_write_site(entry)) if entry is not None else None
        if home is not None and home in copies:
            await self.put_on(home, volume_id)
            _log.info("half.put_into_service", volume=volume_id, partition=home.name)
        elif entry is not None and (entry.locked_for or not await self._lives_elsewhere(entry)):
            return False
        for partition in copies:
            if partition is not home and await self._is_half(partition, volume_id):
                await self.delete(partition, volume_id)
                _log.info("half.deleted", volume=volume_id, partition=partition.name)
        if entry is not None and not entry.locked_for:
            await self._delete_backups(entry)
        return True

    async def _delete_backups(self, entry: Entry) -> None:
        """Deletes backup volumes that stayed behind when their read-write volume moved (H5)."""
        if read_write_site(entry) is None:
            return
        others = [site for site in entry.sites if site.type is not VolumeType.READ_ONLY]
        told_of = {self._home(site) for site in others}
        backup_id = kept_backup_id(entry.read_write_id)
        for partition in await self._copies(backup_id):
            if partition not in told_of:
                await self.delete(partition, backup_id)
                _log.info("backup.deleted", volume=backup_id, partition=partition.name)

    async def _lives_elsewhere(self, entry: Entry) -> bool:
        """True if the read-write site confirms that it has the volume; also if there is no site."""
        site = read_write_site(entry)
        if site is None:
            return True
        if self._home(site) is not None:
            return False
        async with volserver_at(site.vol_server) as stub:
            request = vol_server_pb2.ExamineRequest(volume=str(entry.read_write_id))
            answer = await stub.Examine(request, timeout=LOOK_DEADLINE_S)
        return answer.volume.partition == site.partition and not answer.volume.in_transit

    async def _bump(self, entry: Entry) -> Entry | None:
        """The entry as it is now, its version grown; None if there is none any more."""
        locations = self._services.locations
        reference = VolumeReference(entry.name, volume_id=entry.read_write_id)
        while True:
            try:
                return await locations.replace(await locations.get(reference))
            except AfsError as error:
                if error.code is AfsCode.VNOVOL:
                    return None
                if error.code is not AfsCode.EAGAIN:
                    raise

    def _home(self, site: Site | None) -> Partition | None:
        """The partition of ours that a site names; None if it is another volserver's."""
        disk = self._services.disk
        if site is None or not self._services.is_our_site(site):
            return None
        return disk.partitions.get(site.partition)

    async def _copies(self, volume_id: int) -> list[Partition]:
        disk = self._services.disk
        return [each for each in disk.partitions.values() if await disk.has(each, volume_id)]

    async def _is_half(self, partition: Partition, volume_id: int) -> bool:
        try:
            return (await self._services.disk.header(partition, volume_id)).in_transit
        except AfsError as error:
            if error.code in (AfsCode.VNOVOL, AfsCode.VSALVAGE):
                return False
            raise


def is_move_lock(lock_text: str) -> bool:
    """True for the lock of an operation whose outcome the entry's read-write site tells."""
    return lock_text.startswith(("move by ", "copy by "))


def read_write_site(entry: Entry) -> Site | None:
    """Where the read-write volume is; None if it is nowhere yet."""
    return next((site for site in entry.sites if site.type is VolumeType.READ_WRITE), None)


def switched(entry: Entry, site: Site) -> Entry:
    """The entry with another read-write site; the backup volume does not come along."""
    others = tuple(each for each in entry.sites if each.type is VolumeType.READ_ONLY)
    return replace(entry, sites=(site, *others), backup_id=0)
