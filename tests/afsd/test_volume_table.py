"""The volume table when opening and closing volumes goes wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afsd.core.volume_rules import FsyncCommand, FsyncReason, FsyncResponse, VolumeState
from afsd.core.volume_state import Decision
from tests.afsd.gated import VOLUME, Rig, rig
from tests.afsd.running import refused
from tests.conftest import LogEvents


async def operate(at: Rig, command: FsyncCommand) -> Decision:
    """A command of the volserver."""
    return await at.table.operate(VOLUME, command, FsyncReason.NONE, "volserver", "")


async def test_a_volume_that_cannot_be_closed_is_in_error(
    tmp_path: Path, log_events: LogEvents
) -> None:
    """NEEDVOLUME fails, nobody gets the volume, and it is not served until it is attached."""
    async with rig(tmp_path) as at:
        at.volume.close_error = AfsError(AfsCode.VDISKFULL, "no room")
        decision = await operate(at, FsyncCommand.NEEDVOLUME)
        assert decision.response is FsyncResponse.FAILED
        assert log_events.named("volume.detach_failed")[0]["code"] == "VDISKFULL"
        async with refused(AfsCode.VSALVAGE):
            at.table.use(VOLUME)
        decision = await operate(at, FsyncCommand.VOL_ATTACH)
        assert decision.response is FsyncResponse.OK
        assert at.table.use(VOLUME).online


async def test_a_bug_while_closing_leaves_nothing_changing(tmp_path: Path) -> None:
    """The volume is in ERROR: neither CHANGING for ever nor ONLINE without being attached."""
    async with rig(tmp_path) as at:
        at.volume.close_error = RuntimeError("bug")
        with pytest.raises(RuntimeError, match="bug"):
            await operate(at, FsyncCommand.VOL_OFF)
        assert at.table.entry(VOLUME).state is VolumeState.ERROR
        await operate(at, FsyncCommand.VOL_ATTACH)
        assert at.table.use(VOLUME).online


async def test_a_bug_while_opening_leaves_the_volume_where_it_was(tmp_path: Path) -> None:
    """It is still its taker's, who can try again."""
    async with rig(tmp_path) as at:
        await operate(at, FsyncCommand.NEEDVOLUME)
        at.partition.open_error = RuntimeError("bug")
        with pytest.raises(RuntimeError, match="bug"):
            await operate(at, FsyncCommand.VOL_ON)
        assert at.table.entry(VOLUME).state is VolumeState.CHECKED_OUT
        at.partition.open_error = None
        assert (await operate(at, FsyncCommand.VOL_ON)).response is FsyncResponse.OK


async def test_a_stop_goes_on_when_a_volume_cannot_be_closed(
    tmp_path: Path, log_events: LogEvents
) -> None:
    """It is logged; the others are closed all the same."""
    async with rig(tmp_path) as at:
        at.volume.close_error = AfsError(AfsCode.VIO, "disk")
        await at.table.detach_all()
        assert log_events.named("volume.detach_failed")
