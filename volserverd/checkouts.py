"""The volumes we have taken from the fileserver, and how each goes back.

Theory of operation
    A volume is held from the moment NEEDVOLUME is sent: if the answer is lost, the fileserver may
    have let go of it all the same. It is held until the fileserver has answered a give-back. A
    give-back that got no answer becomes a debt: it is tried again until the fileserver answers,
    whatever becomes of the operation that took the volume.

    A fileserver that was restarted remembers no checkout. So whoever is about to change a volume on
    disk `verify`s first: NEEDVOLUME once more. It is answered OK to the program that has the volume
    already, and takes it anew from a fileserver that has forgotten (T24).

    A volume that was off-line before it was taken goes back off-line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import (
    FSSYNC_UNREACHABLE_S,
    GIVE_BACK_RETRY_FIRST_S,
    GIVE_BACK_RETRY_MAX_S,
)
from afs.v1 import fssync_pb2
from volserverd.fssync_client import FssyncClient, FssyncUnreachableError, check

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Checkout:
    """One volume we hold.

    `left_off`: it goes back off-line. `gone`: it was deleted on disk. `moved`: it lives elsewhere
    now.
    """

    volume_id: int
    partition: str
    reason: fssync_pb2.FsyncReason.ValueType
    left_off: bool = False
    gone: bool = False
    moved: bool = False


@dataclass(slots=True)
class _Debt:
    """A give-back that is tried until it is answered; `hurry` has it tried now."""

    task: asyncio.Task[None]
    hurry: asyncio.Event


class Checkouts:
    """All volumes this volserver holds. See the module's theory of operation.

    Args:
        fssync: the fileserver.
        now: steady seconds.
    """

    def __init__(self, fssync: FssyncClient, now: Callable[[], float]) -> None:
        self._fssync = fssync
        self._now = now
        self._held: dict[int, Checkout] = {}
        self._debts: dict[int, _Debt] = {}

    def holds(self, volume_id: int) -> bool:
        """True while the volume is taken by us, or may be."""
        return volume_id in self._held

    @property
    def debts(self) -> list[int]:
        """The volumes whose give-back has not been answered yet."""
        return sorted(self._debts)

    async def take(
        self, volume_id: int, partition: str, reason: fssync_pb2.FsyncReason.ValueType
    ) -> fssync_pb2.VolumeInfo:
        """Takes a volume out of service, for us alone.

        Raises:
            AfsError: VNOVOL if the fileserver does not know it; VBUSY if another program has it;
                VSALVAGE for a damaged one; FssyncUnreachableError: it may be taken.
        """
        before = await self._fssync.query(volume_id)
        if volume_id in self._debts:
            await self._settled(volume_id)
            before = await self._fssync.query(volume_id)
        if before is None:
            raise AfsError(AfsCode.VNOVOL, f"the fileserver has no volume {volume_id}")
        checkout = self._held.setdefault(volume_id, Checkout(volume_id, partition, reason))
        checkout.reason = reason
        if before.state == fssync_pb2.VOLUME_STATE_OFFLINE:
            checkout.left_off = True
        try:
            return await self._need(checkout)
        except FssyncUnreachableError:
            raise
        except AfsError:
            del self._held[volume_id]
            raise

    async def _settled(self, volume_id: int) -> None:
        """Has a debt settled at once: a give-back still under way must not undo our taking."""
        debt = self._debts[volume_id]
        debt.hurry.set()
        done, _ = await asyncio.wait([debt.task], timeout=FSSYNC_UNREACHABLE_S)
        if not done:
            raise AfsError(
                AfsCode.VBUSY, f"volume {volume_id} is still being given back to the fileserver"
            )

    async def verify(self, volume_id: int) -> None:
        """Makes sure that the volume is still ours (T24); errors as `take`.

        It counts as held all the same: giving back what is not ours is refused, and harmless.
        """
        await self._need(self._held[volume_id])

    async def _need(self, checkout: Checkout) -> fssync_pb2.VolumeInfo:
        answer = await self._fssync.command(
            fssync_pb2.FSYNC_NEEDVOLUME, checkout.volume_id, checkout.partition, checkout.reason
        )
        check(answer, checkout.volume_id)
        return answer.volume

    async def break_promises(self, volume_id: int) -> None:
        """Has the fileserver break the promises on a volume; errors as `take`.

        Nobody gets a new one while we have it.
        """
        checkout = self._held[volume_id]
        answer = await self._fssync.command(
            fssync_pb2.FSYNC_VOL_BREAKCBKS, volume_id, checkout.partition
        )
        check(answer, volume_id)

    def leave_off(self, volume_id: int, *, left_off: bool) -> None:
        """Says how a held volume goes back: off-line, or into service."""
        self._held[volume_id].left_off = left_off

    def deleted(self, volume_id: int) -> None:
        """Says that a held volume is gone from the disk: giving it back means saying so."""
        self._held[volume_id].gone = True

    def moved(self, volume_id: int) -> None:
        """Says that a held volume lives at another fileserver: clients are to be told VMOVED."""
        self._held[volume_id].moved = True

    async def remind_moved(self, volume_id: int, partition: str) -> None:
        """Says once more that a volume moved away, to a fileserver that forgot it in a restart.

        Called when the volume is gone from the disk: later restarts do not find it any more.
        """
        info = await self._fssync.query(volume_id)
        if (
            info is not None
            and info.partition == partition
            and info.state == fssync_pb2.VOLUME_STATE_CHECKED_OUT
        ):
            command = fssync_pb2.FSYNC_VOL_MOVE
            check(await self._fssync.command(command, volume_id, partition), volume_id)

    def forget(self, volume_id: int) -> None:
        """Says that the fileserver has a volume back already, from another partition."""
        self._held.pop(volume_id, None)

    async def give_back(self, volume_id: int) -> float:
        """Gives a volume back; nothing is done if we do not hold it.

        Returns:
            Seconds until the fileserver acknowledged.

        Raises:
            AfsError: VSALVAGE, VIO … if the fileserver could not attach it: then it is in the error
                state there. FssyncUnreachableError: it is tried again until there is an answer.
        """
        checkout = self._held.get(volume_id)
        if checkout is None:
            return 0.0
        began = self._now()
        try:
            await self._return(checkout)
        except AfsError:
            if volume_id in self._held:
                self._owe(checkout)
            raise
        return self._now() - began

    async def introduce(self, volume_id: int, partition: str) -> float:
        """Has the fileserver serve a volume it does not know yet; seconds until it acknowledged.

        Raises:
            AfsError: what the fileserver found wrong; FssyncUnreachableError: it may serve it.
        """
        began = self._now()
        answer = await self._fssync.command(fssync_pb2.FSYNC_VOL_ON, volume_id, partition)
        check(answer, volume_id)
        return self._now() - began

    async def _return(self, checkout: Checkout) -> None:
        volume_id = checkout.volume_id
        command = fssync_pb2.FSYNC_VOL_ON
        if checkout.moved:
            command = fssync_pb2.FSYNC_VOL_MOVE
        elif checkout.gone:
            command = fssync_pb2.FSYNC_VOL_DONE
        elif checkout.left_off:
            command = fssync_pb2.FSYNC_VOL_LEAVE_OFF
        answer = await self._fssync.command(command, volume_id, checkout.partition)
        if checkout.gone and answer.reason == fssync_pb2.FSYNC_WRONG_OWNER:
            # A fileserver that was restarted while the volume was being deleted holds it for
            # damaged. It lets go of such a volume to who comes to delete it.
            await self._fssync.command(
                fssync_pb2.FSYNC_NEEDVOLUME,
                volume_id,
                checkout.partition,
                fssync_pb2.FSYNC_FOR_DELETE,
            )
            answer = await self._fssync.command(command, volume_id, checkout.partition)
        try:
            check(answer, volume_id)
        except AfsError as error:
            if (checkout.gone or checkout.moved) and error.code is AfsCode.VNOVOL:
                self._held.pop(volume_id, None)
                return
            if not await self._is_still_ours(volume_id):
                self._held.pop(volume_id, None)
            _log.warning(
                "volume.give_back_refused",
                volume=volume_id,
                code=error.code.name,
                detail=error.detail,
            )
            raise
        self._held.pop(volume_id, None)

    async def _is_still_ours(self, volume_id: int) -> bool:
        """True if the fileserver waits for the volume although it refused to have it back."""
        info = await self._fssync.query(volume_id)
        return (
            info is not None
            and info.state == fssync_pb2.VOLUME_STATE_CHECKED_OUT
            and info.program in ("", self._fssync.program)
        )

    def _owe(self, checkout: Checkout) -> None:
        if checkout.volume_id not in self._debts:
            _log.warning("volume.give_back_delayed", volume=checkout.volume_id)
            hurry = asyncio.Event()
            task = asyncio.create_task(self._settle(checkout, hurry))
            self._debts[checkout.volume_id] = _Debt(task, hurry)

    async def _settle(self, checkout: Checkout, hurry: asyncio.Event) -> None:
        """Tries to give back until the fileserver answers."""
        wait_s = GIVE_BACK_RETRY_FIRST_S
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(hurry.wait(), wait_s)
            hurry.clear()
            wait_s = min(2 * wait_s, GIVE_BACK_RETRY_MAX_S)
            try:
                await self._return(checkout)
            except AfsError:
                if checkout.volume_id in self._held:
                    continue
            else:
                _log.info("volume.given_back", volume=checkout.volume_id)
            self._debts.pop(checkout.volume_id, None)
            return

    async def close(self) -> None:
        """Stops trying; what is still owed is given back by the next start."""
        tasks = [debt.task for debt in self._debts.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
