"""One volume, at whichever fileserver serves it now: goes after it when it moves.

A volume may be away for a moment (cloned, given back, moved) and may be somewhere else afterwards.
    VBUSY           it is being worked on: the same server is asked again
    VMOVED, VNOVOL  it is not there any more: the location is looked up again; if that still says
                    the same, it is just changing, and both are asked again a little later
    no answer       of a read-only volume another site is asked
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias, TypeVar

import grpc
import grpc.aio

from afs.errors import AfsCode
from afs.limits import RETRY_FIRST_S, RETRY_MAX_S, RETRY_TOTAL_S
from afs.types import VolumeType
from afs.v1 import file_server_pb2_grpc, vol_server_pb2
from afs.volume_sites import full_volume_name, sites_to_use, volume_id_of
from afsctl.failure import CommandError, abort_code
from afsctl.locations import Locations, VolumeUnknownError

T = TypeVar("T")
Server: TypeAlias = "file_server_pb2_grpc.FileServerAsyncStub"

# How long a server may say that it does not have a volume that its location says it has.
VNOVOL_RETRY_S: Final = 2.0
# grpc.aio's words when a server answers a stream of requests before its end and the answer is lost
# under the failure of the next write. Made again, the call nearly always tells the true reason.
# Source: grpc/grpc issue 36066, open in grpcio 1.85.
_LOST_ANSWER: Final = "Internal error from Core"
_ELSEWHERE: Final = frozenset({AfsCode.VMOVED, AfsCode.VNOVOL})


class VolumeAccess:
    """The way to one volume.

    Args:
        locations: where volumes are.
        entry: of the volume.
        kind: which of the entry's volumes is meant.
        fixed: address of the fileserver to use whatever the location says; None: where it says.

    Raises:
        CommandError: the entry has no such volume, or no site that serves it.
    """

    def __init__(
        self,
        locations: Locations,
        entry: vol_server_pb2.VolumeEntry,
        kind: VolumeType,
        fixed: str | None = None,
    ) -> None:
        self.kind = kind
        self.name = full_volume_name(entry.name, kind)
        self.volume_id = volume_id_of(entry, kind)
        self._locations = locations
        self._fixed = fixed
        self._entry = entry
        # Sites of a read-only volume that did not answer.
        self._silent: set[str] = set()
        absent = not self.volume_id
        if absent or (fixed is None and not self._addresses()):
            why = ": nothing was released yet" if kind is VolumeType.READ_ONLY else ""
            what = "there is no volume {}" if absent else "volume {} has no site to use"
            raise CommandError(what.format(self.name) + why)

    async def entry(self) -> vol_server_pb2.VolumeEntry:
        """The volume's entry in the location database, as it is now."""
        return await self._locations.entry(str(self._entry.read_write_id), anew=True)

    async def ask(self, call: Callable[[Server], Awaitable[T]], *, patient: bool = False) -> T:
        """The answer to a call, made at the server that has the volume.

        Args:
            call: makes the call; made again it must be able to meet its own traces.
            patient: also waits for a volume that is off-line, and for a server that is not there.

        Raises:
            grpc.RpcError: the call failed otherwise, or for longer than the limits of waiting.
        """
        loop = asyncio.get_running_loop()
        started = loop.time()
        pause_s = RETRY_FIRST_S
        while True:
            address = self._address()
            try:
                return await call(self._locations.file_server(address))
            except grpc.aio.AioRpcError as error:
                limit_s = self._limit_s(error, patient=patient)
                if loop.time() + pause_s - started > limit_s:
                    raise
                if await self._went_elsewhere(address, error):
                    continue
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_MAX_S)

    def _limit_s(self, error: grpc.aio.AioRpcError, *, patient: bool) -> float:
        """How long to try again after such a failure; 0: not at all."""
        code = abort_code(error)
        if code in _ELSEWHERE:
            if self._fixed is not None:
                return 0.0
            return VNOVOL_RETRY_S if code == AfsCode.VNOVOL else RETRY_TOTAL_S
        if code == AfsCode.VBUSY:
            return RETRY_TOTAL_S
        if code is None and self._has_further_site(error):
            return RETRY_TOTAL_S
        lost = error.code() is grpc.StatusCode.INTERNAL and error.details() == _LOST_ANSWER
        passes = error.code() is grpc.StatusCode.UNAVAILABLE or lost
        return RETRY_TOTAL_S if patient and passes else 0.0

    async def _went_elsewhere(self, address: str, error: grpc.aio.AioRpcError) -> bool:
        """True if there is another server to ask at once."""
        if self._address() != address:
            # Another call of ours has found out meanwhile.
            return True
        code = abort_code(error)
        if code is None and self._has_further_site(error):
            self._silent.add(address)
        elif code in _ELSEWHERE:
            try:
                self._entry = await self.entry()
            except VolumeUnknownError:
                # It has been removed; the server's own answer says so best.
                raise error from None
            if not self._addresses():
                raise error
        return self._address() != address

    def _has_further_site(self, error: grpc.aio.AioRpcError) -> bool:
        """A read-only volume has another site; calls to it change nothing, so they may be lost."""
        if error.code() is not grpc.StatusCode.UNAVAILABLE or self.kind is not VolumeType.READ_ONLY:
            return False
        return len(set(self._addresses()) - self._silent) > 1

    def _address(self) -> str:
        if self._fixed is not None:
            return self._fixed
        addresses = self._addresses()
        answering = [address for address in addresses if address not in self._silent]
        return (answering or addresses)[0]

    def _addresses(self) -> list[str]:
        return [site.file_server for site in sites_to_use(self._entry, self.kind)]
