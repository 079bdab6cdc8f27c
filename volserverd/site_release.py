"""One read-only site's way through a release: asked, staged, shown.

Theory of operation
    A site on the read-write volume's own partition shares its chunks, so showing the new state
    there is one more clone, made of the release's temporary one. Every other site, also one on
    another partition of this server, is sent it by a transfer, of which it says first what it has.

    A site that fails is out of this release: it keeps the state it had, and the number of that
    state in the location entry. Nothing here raises because of a site; `failure` says what is
    wrong with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.limits import FSSYNC_GIVE_BACK_DEADLINE_S, FSSYNC_TAKE_DEADLINE_S
from afs.types import ChangeMark, VolumeType
from afs.v1 import fssync_pb2, types_pb2, vol_server_pb2
from afs.v1 import vol_transfer_pb2 as pb
from afs.volume.partition import Partition
from afs.volume.sqlite_store import SqliteVolume
from volserverd.transfer_client import OutgoingTransfer, Progress
from volserverd.vldb.entry import Entry, Site, entry_to_wire, kept_read_only_id
from volserverd.work_order import VolumeServices

# To take the volume, swap it and give it back: under the break policies of 2002 the fileserver
# waits for clients then.
_SHOW_DEADLINE_S: Final = FSSYNC_TAKE_DEADLINE_S + FSSYNC_GIVE_BACK_DEADLINE_S
# A fileserver that is restarted this often while a volume is swapped is in more trouble than we.
_ATTEMPTS: Final = 3


class SiteRelease(ABC):
    """One site. Made for an entry; asked (`open`), then `stage`, `show` and `end`.

    Args:
        services: what work on volumes needs.
        entry: of the volume.
        site: the read-only site.
        now: steady seconds.

    Attributes:
        site: as given.
        base: the state that the site has; None: none that it can build on.
        failure: why the site is out of this release; None: it is not.
        shows: the state that it shows for all we know.
        sent: what was sent to it; with a dry run, what would be.
    """

    def __init__(
        self, services: VolumeServices, entry: Entry, site: Site, now: Callable[[], float]
    ) -> None:
        self._services = services
        self._now = now
        self._began = now()
        self._volume_id = kept_read_only_id(entry.read_write_id)
        self._name = entry.name_of(self._volume_id)
        self._read_write_id = entry.read_write_id
        self.site = site
        self.base: ChangeMark | None = None
        self.failure: AfsError | None = None
        self.shows: ChangeMark | None = None
        self.sent = vol_server_pb2.Sent()

    def needs(self, mark: ChangeMark) -> bool:
        """True for a site that is to be brought this state."""
        return self.failure is None and self.shows != mark

    async def open(self) -> None:
        """Finds out what the site has."""
        await self._guarded(self._open())
        self.shows = self.base

    async def stage(self, source: SqliteVolume, mark: ChangeMark, progress: Progress) -> None:
        """Brings the new state to the site; what it shows stays as it is."""
        if self.needs(mark):
            await self._guarded(self._stage(source, progress))

    async def show(self, clone_id: int, mark: ChangeMark) -> None:
        """Has the site show the new state; `clone_id` is the temporary clone that has it."""
        if not self.needs(mark):
            return
        await self._guarded(self._show(clone_id))
        if self.failure is None:
            self.shows = mark
        self.sent.total_s = self._now() - self._began

    async def _guarded(self, doing: Awaitable[None]) -> None:
        try:
            await doing
        except AfsError as error:
            self.failure = error

    def outcome(self, mark: ChangeMark) -> vol_server_pb2.SiteOutcome:
        """How it ended here."""
        detail = "" if self.failure is None else self.failure.detail
        outcome = vol_server_pb2.SiteOutcome(
            released=self.failure is None and self.shows == mark, detail=detail, sent=self.sent
        )
        outcome.site.CopyFrom(entry_to_wire(Entry("", sites=(self.site,))).sites[0])
        return outcome

    @abstractmethod
    def plan(self) -> str:
        """One line on what a release would do here, after a dry run."""

    @abstractmethod
    async def _open(self) -> None: ...

    @abstractmethod
    async def _stage(self, source: SqliteVolume, progress: Progress) -> None: ...

    @abstractmethod
    async def _show(self, clone_id: int) -> None: ...

    @abstractmethod
    async def end(self) -> None:
        """Lets go of what was staged and is not shown. Never raises."""

    @abstractmethod
    def interrupt(self, error: AfsError) -> None:
        """Ends what it waits for; it must be ended all the same."""


class CloneSite(SiteRelease):
    """The site on the read-write volume's own partition."""

    @property
    def _partition(self) -> Partition:
        return self._services.disk.partition(self.site.partition)

    def plan(self) -> str:
        """One line on what a release would do here, after a dry run."""
        return f"make the copy on {self.site.partition} beside the volume, which shares its data"

    async def _open(self) -> None:
        disk = self._services.disk
        # Nothing there, or damaged: made anew.
        with suppress(AfsError):
            header = await disk.header(self._partition, self._volume_id)
            if header.type is VolumeType.READ_ONLY:
                self.base = ChangeMark(header.incarnation, header.change_counter)

    async def _stage(self, source: SqliteVolume, progress: Progress) -> None:
        """Nothing to bring: the clone's data is here."""

    async def _show(self, clone_id: int) -> None:
        checkouts, disk = self._services.checkouts, self._services.disk
        volume_id, partition = self._volume_id, self._partition
        clone = partial(
            disk.clone,
            partition,
            clone_id,
            clone_id=volume_id,
            name=self._name,
            type=VolumeType.READ_ONLY,
        )
        began = self._now()
        try:
            await self._taken(clone_id, clone)
        except AfsError:
            with suppress(AfsError):
                await checkouts.give_back(volume_id)
            raise
        if checkouts.holds(volume_id):
            await checkouts.give_back(volume_id)
        else:
            await checkouts.introduce(volume_id, partition.name)
        self.sent.exclusive_s = self._now() - began

    async def _taken(self, clone_id: int, act: Callable[[], Awaitable[None]]) -> None:
        """Does something to the read-only volume, taken if the fileserver knows it (T24).

        A fileserver that is restarted meanwhile opens all there is again, which the locks tell: the
        temporary clone too.
        """
        checkouts, partition = self._services.checkouts, self._partition
        to_take = [self._volume_id]
        for attempts_left in reversed(range(_ATTEMPTS)):
            for volume_id in to_take:
                try:
                    await checkouts.take(volume_id, partition.name, fssync_pb2.FSYNC_FOR_RELEASE)
                except AfsError as error:
                    if error.code is not AfsCode.VNOVOL:
                        raise
            try:
                await act()
                return
            except AfsError as error:
                if error.code is not AfsCode.VBUSY or not attempts_left:
                    raise
            to_take = [self._volume_id, clone_id]

    async def end(self) -> None:
        """Nothing was staged."""

    def interrupt(self, error: AfsError) -> None:
        """It waits for nobody but our own fileserver."""


class TransferSite(SiteRelease):
    """A site elsewhere."""

    _transfer: OutgoingTransfer | None = None
    dry_run = False

    def plan(self) -> str:
        """One line on what a release would do here, after a dry run."""
        sent = self.sent
        what = "the whole volume" if self.base is None else "changed vnodes only"
        return (
            f"send {sent.bytes} bytes in {sent.chunks} chunks and {sent.vnodes} vnodes to"
            f" {self.site.vol_server} {self.site.partition} ({what})"
        )

    async def _open(self) -> None:
        opening = pb.TransferOpen(
            purpose=pb.TRANSFER_RELEASE,
            volume_id=self._volume_id,
            name=self._name,
            type=types_pb2.VolumeType.ValueType(VolumeType.READ_ONLY),
            read_write_id=self._read_write_id,
            partition=self.site.partition,
            dry_run=self.dry_run,
            sender=self._services.identity,
        )
        transfer = await OutgoingTransfer.open(self._services.disk, self.site.vol_server, opening)
        self._transfer, self.base = transfer, transfer.base

    async def _stage(self, source: SqliteVolume, progress: Progress) -> None:
        assert self._transfer is not None, "the site answered"
        this = await self._transfer.send_round(source, progress)
        self.sent.bytes, self.sent.chunks, self.sent.vnodes = this.bytes, this.chunks, this.vnodes

    async def _show(self, _clone_id: int) -> None:
        assert self._transfer is not None, "the site answered"
        in_place = await self._transfer.put_in_place(swap=True, deadline_s=_SHOW_DEADLINE_S)
        self.sent.exclusive_s = in_place.exclusive_s

    async def end(self) -> None:
        """The receiver throws away what it does not show."""
        if self._transfer is not None:
            transfer, self._transfer = self._transfer, None
            await transfer.end()

    def interrupt(self, error: AfsError) -> None:
        """The receiver is given up."""
        if self._transfer is not None:
            self._transfer.interrupt(error)
