"""Where volumes are: look-ups in the VolumeLocation service, remembered until they prove wrong."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

import grpc
import grpc.aio
import structlog

from afs.errors import AfsCode, AfsError
from afs.mount_points import ROOT_VOLUME, MountPoint, leads_to
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.runtime.clock import Clock
from afs.types import VolumeType
from afs.v1 import vol_server_pb2, volume_location_pb2, volume_location_pb2_grpc
from afs.volume_sites import (
    full_volume_name,
    is_released,
    sites_to_use,
    split_volume_name,
    type_in,
    volume_id_of,
    volume_number,
)
from clientd.journal import Journal
from clientd.single_flight import SingleFlight

# A volume that is renamed or gets another site keeps answering under its old entry, so entries are
# looked at anew after this long. VNOVOL, VMOVED and breaks of moved volumes do it at once.
LOCATION_LIFETIME_S: Final = 300.0
# A read-only site that a release did not reach serves the old state, and its fileserver does not
# know that there is a newer one: only the entry tells.
RELEASED_LIFETIME_S: Final = 30.0
# A cell without `root.cell` is looked at anew after this long. Listing "/" does it at once.
ROOTLESS_LIFETIME_S: Final = 10.0
LOOK_UP_TIMEOUT_S: Final = 10.0
# A look-up that is to show whether something changed waits no longer: what is known may do.
LOOK_AGAIN_TIMEOUT_S: Final = 2.0
# Entries in one ListEntries answer.
LIST_LIMIT: Final = 1000

_NOT_THERE: Final = frozenset({AfsCode.VNOVOL, AfsCode.ENOENT})

_log = structlog.get_logger(__name__)

Request = TypeVar("Request")
Response = TypeVar("Response")


class VolumeGoneError(AfsError):
    """VNOVOL: the location database does not know the volume of this id any more."""


@dataclass(frozen=True, slots=True)
class Located:
    """A volume, and the fileservers that serve it, at least one."""

    name: str
    volume_id: int
    type: VolumeType
    file_servers: tuple[str, ...]


class _Known:
    """An entry as it was last seen; a stale one is looked at again before it is used.

    Args:
        entry: what the service said.
        until: when it is to be confirmed, steady seconds.
    """

    def __init__(self, entry: vol_server_pb2.VolumeEntry, until: float) -> None:
        self.entry = entry
        self.until = until
        self.stale = False
        self.released = is_released(entry)
        self._located: dict[VolumeType, Located] = {}

    def serves(self, kind: VolumeType) -> bool:
        """True if the entry has a site for this one of its volumes."""
        return kind in self._located or bool(sites_to_use(self.entry, kind))

    def located(self, kind: VolumeType) -> Located:
        """One of the entry's volumes; AfsError(VNOVOL) if nobody serves it."""
        found = self._located.get(kind)
        if found is None:
            name = full_volume_name(self.entry.name, kind)
            sites = tuple(site.file_server for site in sites_to_use(self.entry, kind))
            if not sites:
                raise AfsError(AfsCode.VNOVOL, f"volume {name!r} has no site that serves it")
            found = Located(name, volume_id_of(self.entry, kind), kind, sites)
            self._located[kind] = found
        return found

    def of_id(self, volume_id: int) -> Located:
        """The entry's volume of this id; VolumeGoneError if it has none (any more)."""
        for kind in VolumeType:
            if volume_id_of(self.entry, kind) == volume_id:
                try:
                    return self.located(kind)
                except AfsError as error:
                    raise VolumeGoneError(error.code, error.detail) from None
        raise VolumeGoneError(AfsCode.VNOVOL, f"there is no volume {volume_id}")


def _key(name: str) -> str | int:
    """What the location service is asked for: a number, or the name without its suffix."""
    number = volume_number(name)
    if name.isdigit() and not number:
        raise AfsError(AfsCode.VNOVOL, f"there is no volume {name[:32]!r}")
    return number or split_volume_name(name).base


class VolumeLocation:
    """Finds volumes by name, number and mount point. Used in the event loop only.

    Args:
        address: of the VolumeLocation service.
        clock: steady time.
        journal: counts.
    """

    def __init__(self, address: str, *, clock: Clock, journal: Journal) -> None:
        self._address = address
        self._clock = clock
        self._journal = journal
        self._channel = open_channel(address)
        self._stub: volume_location_pb2_grpc.VolumeLocationAsyncStub = (
            volume_location_pb2_grpc.VolumeLocationStub(self._channel)
        )
        # By each of the volume's ids, and the read-write id by name.
        self._known: dict[int, _Known] = {}
        self._names: dict[str, int] = {}
        # Set while the cell is known to have no `root.cell`; to be confirmed after that.
        self._rootless_until: float | None = None
        self._flights: SingleFlight[str | int, _Known] = SingleFlight()
        self._confirming: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Closes the connection."""
        for task in self._confirming:
            task.cancel()
        await asyncio.gather(*self._confirming, return_exceptions=True)
        await self._channel.close()

    # --- asking ---

    async def find(self, name: str) -> Located:
        """The volume of that name.

        Args:
            name: with or without `.readonly` or `.backup`; a volume's number does as well.

        Raises:
            AfsError: VNOVOL if there is none; RX_CALL_DEAD if the service cannot be reached and the
                volume was not looked up before.
        """
        known = await self._entry(name)
        return await self._located(name, known, type_in(known.entry, name))

    async def find_mounted(self, mount: MountPoint, within: VolumeType) -> Located:
        """The volume that a mount point leads to.

        Args:
            mount: what the mount point says.
            within: the type of the volume it lies in.

        Raises:
            AfsError: as `find`.
        """
        known = await self._entry(mount.volume)
        kind = type_in(known.entry, mount.volume)
        if kind is VolumeType.READ_WRITE and not volume_number(mount.volume):
            kind = leads_to(mount, within, released=known.released)
        return await self._located(mount.volume, known, kind)

    async def find_root(self, *, fresh: bool = False) -> Located | None:
        """The volume whose root directory is "/"; None if the cell has no `root.cell`.

        Args:
            fresh: whether to look again for one that was not there.

        Raises:
            AfsError: RX_CALL_DEAD if the service cannot be reached and was never asked before.
        """
        if self._rootless_until is None:
            return await self._look_for_root()
        if fresh or self._rootless_until == -math.inf:
            with suppress(AfsError):
                return await self._look_for_root()
        now = self._clock.now()
        if now >= self._rootless_until:
            self._rootless_until = now + ROOTLESS_LIFETIME_S
            self._begin(self._look_for_root)
        return None

    async def at(self, volume_id: int) -> Located:
        """The volume of that id, as far as is known.

        Raises:
            AfsError: VolumeGoneError if there is none; else as `find`.
        """
        known = self._known.get(volume_id)
        if known is None or known.stale:
            known = await self._look_again(volume_id, known)
        return known.of_id(volume_id)

    async def look_again(self, volume_id: int) -> None:
        """Looks the volume up anew; where the service does not answer, what is known remains.

        Raises:
            AfsError: VolumeGoneError if there is no such volume any more.
        """
        self._journal.count("locations_looked_up_again")
        await self._look_again(volume_id, self._known.get(volume_id))

    async def list_volumes(self) -> list[tuple[str, int]]:
        """Names and ids of all read-write volumes of the cell, in order of their names."""
        volumes: list[tuple[str, int]] = []
        after = ""
        while True:
            self._journal.count("location_calls")
            request = volume_location_pb2.ListEntriesRequest(after=after, limit=LIST_LIMIT)
            response = await self._ask(self._stub.ListEntries, request, LOOK_UP_TIMEOUT_S)
            volumes += [
                (entry.name, entry.read_write_id)
                for entry in response.entries
                if entry.read_write_id
            ]
            if len(response.entries) < LIST_LIMIT or response.entries[-1].name <= after:
                return volumes
            after = response.entries[-1].name

    # --- what proves wrong ---

    def forget(self, volume_id: int) -> None:
        """The volume is not where it was thought to be: it is looked up before it is used."""
        known = self._known.get(volume_id)
        if known is not None:
            known.stale = True

    def forget_all(self) -> None:
        """Looks every volume up anew when it is next needed, `root.cell` included."""
        if self._rootless_until is not None:
            self._rootless_until = -math.inf
        for known in self._known.values():
            known.stale = True

    async def confirmed(self) -> None:
        """Waits for the confirmations under way."""
        await asyncio.gather(*self._confirming)

    # --- within ---

    async def _entry(self, name: str) -> _Known:
        """The entry that a name or number means, confirmed behind the caller's back if it is old.

        What was right minutes ago most likely is; if not, the fileserver will say so.
        """
        key = _key(name)
        known = self._known.get(self._names.get(key, 0) if isinstance(key, str) else key)
        if known is None:
            return (await self._flights.run(key, lambda: self._look_up(key))).value
        if known.stale:
            return await self._look_again(key, known)
        if self._clock.now() >= known.until:
            known.until = self._clock.now() + LOCATION_LIFETIME_S
            self._begin(lambda: self._look_again(key, known))
        return known

    async def _located(self, name: str, known: _Known, kind: VolumeType) -> Located:
        """One of an entry's volumes; looked for again if the entry had no such volume."""
        if not known.serves(kind):
            # A first backup or release changes nothing for those who use the volume itself, so
            # nothing else tells of it.
            known = await self._look_again(_key(name), known)
        return known.located(kind)

    async def _look_again(self, key: str | int, known: _Known | None) -> _Known:
        timeout_s = LOOK_UP_TIMEOUT_S if known is None else LOOK_AGAIN_TIMEOUT_S
        try:
            return (await self._flights.run(key, lambda: self._look_up(key, timeout_s))).value
        except AfsError as error:
            if known is None or error.code is AfsCode.VNOVOL:
                raise
            # If it is wrong, a fileserver will say so; if not, the work goes on.
            _log.info("location.not_confirmed", volume=str(key), error=str(error))
            known.stale = False
            known.until = self._clock.now() + RELEASED_LIFETIME_S
            return known

    async def _look_for_root(self) -> Located | None:
        try:
            known = await self._entry(ROOT_VOLUME)
            found = known.located(VolumeType.READ_ONLY if known.released else VolumeType.READ_WRITE)
        except AfsError as error:
            if error.code is not AfsCode.VNOVOL:
                raise
            self._rootless_until = self._clock.now() + ROOTLESS_LIFETIME_S
            return None
        self._rootless_until = None
        return found

    def _begin(self, work: Callable[[], Awaitable[object]]) -> None:
        """Does something that nobody waits for."""

        async def do_it() -> None:
            try:
                await work()
            except AfsError as error:
                _log.info("location.not_confirmed", error=str(error))

        task = asyncio.create_task(do_it())
        self._confirming.add(task)
        task.add_done_callback(self._confirming.discard)

    async def _look_up(self, key: str | int, timeout_s: float = LOOK_UP_TIMEOUT_S) -> _Known:
        self._journal.count("location_calls")
        request = (
            volume_location_pb2.GetEntryRequest(name=key)
            if isinstance(key, str)
            else volume_location_pb2.GetEntryRequest(volume_id=key)
        )
        try:
            response = await self._ask(self._stub.GetEntry, request, timeout_s)
        except AfsError as error:
            if error.code not in _NOT_THERE:
                raise
            self._gone(key)
            kind = AfsError if isinstance(key, str) else VolumeGoneError
            raise kind(AfsCode.VNOVOL, f"there is no volume {key!r}") from None
        return self._keep(response.entry)

    def _keep(self, entry: vol_server_pb2.VolumeEntry) -> _Known:
        """What is known of the volume, under whatever name or number it is asked for."""
        lifetime_s = (
            RELEASED_LIFETIME_S
            if len(sites_to_use(entry, VolumeType.READ_ONLY)) > 1
            else LOCATION_LIFETIME_S
        )
        before = self._known.get(entry.read_write_id)
        if before is not None:
            for kind in VolumeType:
                self._known.pop(volume_id_of(before.entry, kind), None)
            if self._names.get(before.entry.name) == entry.read_write_id:
                del self._names[before.entry.name]
        known = _Known(entry, self._clock.now() + lifetime_s)
        for kind in VolumeType:
            if volume_id := volume_id_of(entry, kind):
                self._known[volume_id] = known
        self._names[entry.name] = entry.read_write_id
        return known

    def _gone(self, key: str | int) -> None:
        """The service does not know this name or number."""
        if isinstance(key, str):
            self._names.pop(key, None)
        else:
            self._known.pop(key, None)

    async def _ask(
        self,
        method: grpc.aio.UnaryUnaryMultiCallable[Request, Response],
        request: Request,
        timeout_s: float,
    ) -> Response:
        """What the service answers; asked again once if the connection turns out to be dead.

        That of a machine whose address has changed is, and only a call finds out.
        """
        for attempts_left in (1, 0):
            try:
                return await method(request, timeout=timeout_s, wait_for_ready=True)
            except grpc.aio.AioRpcError as rpc_error:
                if rpc_error.code() is grpc.StatusCode.UNAVAILABLE and attempts_left:
                    continue
                error = afs_error_from_rpc(rpc_error)
                text = f"VolumeLocation at {self._address}: {error.detail}"
                raise AfsError(error.code, text) from None
        raise AssertionError("the last attempt returns or raises")
