"""Salvages volumes by itself that the fileserver holds for damaged, and puts them on again.

At the start, and then every SALVAGE_POLL_S, it asks the fileserver for its volumes. One in the
error state is opened: if it is damaged it is salvaged. (One that an operator has put into that
state is not, and stays there.) What cannot be put into service in SALVAGES_MAX tries is left to an
operator, until somebody brings it on-line or the volserver starts again.

Source: OpenAFS's demand attach and its salvageserver.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import SALVAGE_POLL_S, SALVAGES_MAX
from afs.v1 import fssync_pb2
from afs.volume.partition import Partition
from volserverd.fssync_client import FssyncClient, FssyncUnreachableError
from volserverd.work_order import VolumeServices

_log = structlog.get_logger(__name__)


class DemandSalvage:
    """Looks for damaged volumes in the background.

    Args:
        services: where they are.
        fssync: the fileserver, which says which they may be.
        ready: returns when recovery has cleared up.
        salvage: salvages one volume, and gives it back; AfsError if it cannot.
        poll_s: how often it looks.

    Attributes:
        tries: how often each volume was salvaged since it was last in service.
    """

    def __init__(
        self,
        services: VolumeServices,
        fssync: FssyncClient,
        ready: Callable[[], Awaitable[None]],
        salvage: Callable[[int], Awaitable[object]],
        poll_s: float = SALVAGE_POLL_S,
    ) -> None:
        self._services = services
        self._fssync = fssync
        self._ready = ready
        self._salvage = salvage
        self._poll_s = poll_s
        self._sound: set[int] = set()
        self._task: asyncio.Task[None] | None = None
        self.tries: Counter[int] = Counter()

    def start(self) -> None:
        """Begins; returns at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends it; a salvage that runs is ended by whoever ends operations."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def look(self) -> None:
        """Salvages, one after the other, what is damaged now.

        Raises:
            AfsError: if the fileserver or the recovery does not answer.
        """
        await self._ready()
        volumes = await self._fssync.volumes()
        faulty = {
            volume.volume_id: volume
            for volume in volumes
            if volume.state == fssync_pb2.VOLUME_STATE_ERROR
            and volume.partition in self._services.disk.partitions
        }
        self._forget_mended({volume.volume_id: volume.state for volume in volumes})
        for volume_id, volume in faulty.items():
            partition = self._services.disk.partition(volume.partition)
            if self.tries[volume_id] < SALVAGES_MAX and await self._is_damaged(
                partition, volume_id
            ):
                await self._try(volume_id)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except AfsError as error:
                # No fileserver: there is nothing to salvage for; recovery says so.
                _log.debug("salvage.delayed", code=error.code.name, detail=error.detail)
            except Exception:
                _log.exception("salvage.failed")
            await asyncio.sleep(self._poll_s)

    def _forget_mended(self, states: dict[int, int]) -> None:
        """What is in service starts anew; what is checked out may be in the middle of a try."""
        for volume_id in {*self.tries, *self._sound}:
            state = states.get(volume_id)
            if state != fssync_pb2.VOLUME_STATE_ERROR:
                self._sound.discard(volume_id)
            if state in (None, fssync_pb2.VOLUME_STATE_ONLINE, fssync_pb2.VOLUME_STATE_OFFLINE):
                self.tries.pop(volume_id, None)

    async def _is_damaged(self, partition: Partition, volume_id: int) -> bool:
        """True unless the volume can be opened, or somebody has it; a sound one is opened once."""
        if volume_id in self._sound:
            return False
        try:
            await self._services.disk.run(_open_and_close, partition, volume_id)
        except AfsError as error:
            return error.code is AfsCode.VSALVAGE
        self._sound.add(volume_id)
        return False

    async def _try(self, volume_id: int) -> None:
        self.tries[volume_id] += 1
        last = self.tries[volume_id] == SALVAGES_MAX
        _log.info("volume.salvage_begun", volume=volume_id, attempt=self.tries[volume_id])
        try:
            await self._salvage(volume_id)
        except FssyncUnreachableError:
            # That says nothing of the volume.
            self.tries[volume_id] -= 1
            raise
        except AfsError as error:
            if error.code is AfsCode.VBUSY:
                # An operator was quicker.
                self.tries[volume_id] -= 1
                return
            _log.warning(
                "volume.salvage_given_up" if last else "volume.salvage_failed",
                volume=volume_id,
                code=error.code.name,
                detail=error.detail,
            )


def _open_and_close(partition: Partition, volume_id: int) -> None:
    partition.open_volume(volume_id).close()
