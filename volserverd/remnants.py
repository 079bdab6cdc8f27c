"""Removes what volumes left behind when they moved away, after a while.

The old copy of a moved volume is set aside (`afs.volume.remnant`): a move back then sends only what
has changed. It goes when it is `remnant_lifetime_s` old, when the volume itself is back on the
partition, and, the oldest first, when the partition is filling up.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import structlog

from afs.errors import AfsError
from afs.limits import REMNANT_SWEEP_S
from afs.volume.partition import Partition
from afs.volume.remnant import Remnant
from volserverd.disk import Disk
from volserverd.operations import Operations

_log = structlog.get_logger(__name__)

_NS_PER_S: Final = 1_000_000_000
# Below this share of free space, room is worth more than a quick move back.
_FREE_SHARE: Final = 0.1


class Remnants:
    """Looks at all remnants at the start, and then every REMNANT_SWEEP_S.

    Args:
        disk: the partitions.
        operations: a remnant of a volume that is being worked on is left alone.
        lifetime_s: how long a remnant is kept.
    """

    def __init__(self, disk: Disk, operations: Operations, lifetime_s: float) -> None:
        self._disk = disk
        self._operations = operations
        self._lifetime_s = lifetime_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins; returns at once."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def sweep(self) -> None:
        """Removes what is not to be kept any more."""
        for partition in self._disk.partitions.values():
            for remnant in await self._disk.remnants(partition):
                reason = await self._reason(partition, remnant)
                if reason and self._operations.table.working_on(remnant.volume_id) is None:
                    await self._disk.remove_remnant(partition, remnant)
                    _log.info(
                        "remnant.removed",
                        volume=remnant.volume_id,
                        partition=partition.name,
                        reason=reason,
                    )

    async def _reason(self, partition: Partition, remnant: Remnant) -> str:
        """Why a remnant goes; empty: it stays."""
        if (time.time_ns() - remnant.since_ns) / _NS_PER_S >= self._lifetime_s:
            return "its time is over"
        if await self._disk.has(partition, remnant.volume_id):
            return "the volume is back"
        usage = await self._disk.usage(partition)
        if usage.free_kib < _FREE_SHARE * usage.size_kib:
            return "the partition is filling up"
        return ""

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except AfsError as error:
                _log.warning("remnant.not_removed", code=error.code.name, detail=error.detail)
            except Exception:
                _log.exception("remnant.sweep_failed")
            await asyncio.sleep(REMNANT_SWEEP_S)
