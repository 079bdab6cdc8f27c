"""The volserver: takes volumes, changes them or not, gives them back, and may die in between."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

from afsd.core.volume_rules import FsyncCommand, FsyncReason, FsyncResponse
from afsd.core.volume_state import Decision
from tests.sim.checker import Change
from tests.sim.disk import Disk
from tests.sim.kernel import Process, sleep

PROGRAM = "volserver"
# How often it tries again while the fileserver is not there.
RETRY_S = 0.3


class Fssync(Protocol):
    """FSSync.VolumeOp at the fileserver that lives now."""

    async def __call__(
        self,
        volume_id: int,
        command: FsyncCommand,
        reason: FsyncReason,
        change: Change | None = None,
    ) -> Decision | None:
        """The decision; None if the fileserver died meanwhile or is not there."""


class Volserver:
    """Whole-volume work on the fileserver's disk.

    Args:
        process: its process.
        disk: where volumes are.
        fssync: asks the fileserver.
        rng: for what it changes.
        tell: notes one line of the history.
    """

    def __init__(
        self,
        process: Process,
        disk: Disk,
        fssync: Fssync,
        rng: random.Random,
        tell: Callable[..., None],
    ) -> None:
        self._process = process
        self._disk = disk
        self._fssync = fssync
        self._rng = rng
        self._tell = tell
        self.busy: set[int] = set()

    async def work(self, volume_id: int, changes: int, work_s: float, end: FsyncCommand) -> None:
        """Takes a volume, changes so many files, and ends with VOL_ON, or VOL_LEAVE_OFF before."""
        if volume_id in self.busy:
            return
        self.busy.add(volume_id)
        await self._take_and_work(volume_id, changes, work_s, end)
        self.busy.discard(volume_id)

    async def _take_and_work(
        self, volume_id: int, changes: int, work_s: float, end: FsyncCommand
    ) -> None:
        taken = await self._fssync(volume_id, FsyncCommand.NEEDVOLUME, FsyncReason.FOR_RESTORE)
        if taken is None or taken.response is not FsyncResponse.OK:
            return
        volume = self._disk.volumes[volume_id]
        # Another program may have it: the fileserver restarted and took it back (T24).
        if volume.holder is None:
            volume.holder = PROGRAM
            await sleep(self._process, work_s)
            change = Change({}, by_volume=True)
            files = sorted(fid for fid in volume.vnodes if fid != volume.root)
            for fid in self._rng.sample(files, min(changes, len(files))):
                change.versions[fid] = volume.write(fid).data_version
            self._tell(PROGRAM, f"worked on {volume_id}", changed=change.versions)
            volume.holder = None
        else:
            change = Change({}, by_volume=True)
        if end is FsyncCommand.VOL_LEAVE_OFF:
            await self._until_answered(volume_id, end, change)
            await sleep(self._process, work_s)
        await self._until_answered(volume_id, FsyncCommand.VOL_ON, change)

    async def _until_answered(self, volume_id: int, command: FsyncCommand, change: Change) -> None:
        while await self._fssync(volume_id, command, FsyncReason.NONE, change) is None:
            await sleep(self._process, RETRY_S)

    async def break_callbacks(self, volume_id: int) -> None:
        """BREAKCBKS: all callbacks of a volume, whatever state it is in."""
        await self._fssync(volume_id, FsyncCommand.VOL_BREAKCBKS, FsyncReason.NONE)
