"""The one lock that this machine has on a file at its fileserver: asked for, kept, let go of, lost.

Theory of operation
    1. The fileserver is asked for more when a program here needs it, and told to hold less when
       none does any more. While a question is under way only what is certainly held counts, and
       questions come one after the other (`_talking`). A question whose answer was lost leaves the
       lock `unsure`, and is followed by one that settles it (`settle`).
    2. Who waits for another machine stands in line at the fileserver, one question for all of this
       machine. If something here is let go of meanwhile, that question is taken back, so that the
       fileserver hears of it at once, and asked again.
    3. A lock is extended at a third of its life, and at once when there is reason to doubt it: the
       fileserver has another epoch or channel, or broke all promises on the volume. If it says that
       there is no lock, or the life has run out unanswered, the lock is lost. The life counts from
       when the question was sent: the fileserver, which counts from when it answered, gives the
       lock to nobody else before.
    4. A file that is removed is nobody else's business: its lock is here alone. So is one in a
       volume that cannot change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import LOCK_EXTENSIONS_PER_LIFE, LOCK_LIFE_S, MAX_LOCK_WAIT_S
from afs.runtime.clock import Clock
from afs.types import Fid, LockType, VolumeType, whole_volume_fid
from afs.v1 import file_server_pb2 as pb
from afs.wire import fid_to_wire
from clientd.core.cache import VnodeCache
from clientd.journal import Journal
from clientd.volume_calls import VolumeCalls

# An extension, or a release, that failed is tried again after so many seconds.
AGAIN_S: Final = 5.0
# Pause before a fileserver that did not let us stand in line is asked again.
ASK_AGAIN_S: Final = 0.5
# Answers of SetLock that leave things as they were.
_NOTHING_DONE: Final = frozenset(
    {AfsCode.EAGAIN, AfsCode.EDEADLK, AfsCode.VLIMIT, AfsCode.RXGEN_OPCODE}
)

_log = structlog.get_logger(__name__)

# Starts a task; it is cancelled when the client stops.
Start: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class ServerLock:
    """One file's lock at the fileserver.

    Args:
        volume: the one the file is in.
        fid: the file.
        needed: what the programs here need at this moment; None for nothing.
        on_lost: told why, when what they need is not theirs any more.
        start: starts a task.
        cache: tells of fileservers' channels and breaks.
        clock: steady time.
        journal: counts.
    """

    def __init__(
        self,
        volume: VolumeCalls,
        fid: Fid,
        *,
        needed: Callable[[], LockType | None],
        on_lost: Callable[[str], None],
        start: Start,
        cache: VnodeCache,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._volume = volume
        self._fid = fid
        self._needed = needed
        self._on_lost = on_lost
        self._start = start
        self._cache = cache
        self._clock = clock
        self._journal = journal
        # What is certainly held, and whether something else may be.
        self._held: LockType | None = None
        self._unsure = False
        # No other machine can have the file.
        self._alone = volume.type is not VolumeType.READ_WRITE
        # When the last question was sent that was answered with yes, or the first one that may have
        # been; how the fileserver looked then; and how long that is good for.
        self._confirmed_at = 0.0
        self._sign: object = None
        self._life_s = LOCK_LIFE_S
        self._failed_at: float | None = None
        self._talking = asyncio.Lock()
        self._asking: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None

    def suffices(self, wanted: LockType) -> bool:
        """True if the fileserver need not be asked."""
        return self._alone or (self._held is not None and self._held >= wanted and not self._unsure)

    @property
    def may_be_held(self) -> bool:
        """True if the fileserver may hold it for us."""
        return not self._alone and (self._held is not None or self._unsure)

    @property
    def is_settled(self) -> bool:
        """True if the fileserver certainly holds what is needed, and no more."""
        return self._alone or (self._held == self._needed() and not self._unsure)

    # --- asking for more --------------------------------------------------------------------------

    async def obtain(self, wanted: LockType) -> None:
        """Has the fileserver hold enough; waits in line. It may have to be done again.

        Raises:
            AfsError: EDEADLK; ENOLCK if the fileserver keeps no locks, or has too many; else as the
                fileserver says.
        """
        began = self._clock.now()
        async with self._talking:
            if self.suffices(wanted):
                return
            asking = self._asking = asyncio.create_task(self._ask(wanted, MAX_LOCK_WAIT_S))
            try:
                await asyncio.wait([asking])
                if not asking.cancelled():
                    asking.result()
                return
            except AfsError as error:
                if error.code is not AfsCode.EAGAIN:
                    raise
            finally:
                asking.cancel()
                self._asking = None
                if self._unsure:
                    self._tend(self.settle())
        if self._clock.now() - began < MAX_LOCK_WAIT_S / 2:
            await asyncio.sleep(ASK_AGAIN_S)

    async def obtain_now(self, wanted: LockType) -> bool:
        """Has the fileserver hold enough without waiting; False if another machine has the file.

        Raises:
            AfsError: as `obtain`.
        """
        if self._asking is not None:
            # Somebody here waits for it, so it is not to be had.
            return False
        async with self._talking:
            try:
                if not self.suffices(wanted):
                    await self._ask(wanted, 0)
            except AfsError as error:
                if error.code is AfsCode.EAGAIN:
                    return False
                raise
            return True

    async def _ask(self, wanted: LockType, wait_s: float) -> None:
        """SetLock; while `_talking`."""
        request = pb.SetLockRequest(
            fid=fid_to_wire(self._fid),
            type=pb.LockType.ValueType(wanted),
            wait_s=wait_s,
            holds=self._needed() is not None,
        )
        self._journal.count("lock_calls")
        sign = self._sign_now()
        if self._held is None:
            self._confirmed_at = self._clock.now()
        was_unsure, self._unsure = self._unsure, True
        try:
            response, ticket = await self._volume.call(lambda stub: stub.SetLock, request)
        except AfsError as error:
            if error.code in _NOTHING_DONE:
                self._unsure = was_unsure
            if error.code is AfsCode.VNOVNODE:
                self._alone = True
                return
            if error.code is AfsCode.ENOLCK:
                self._lose("gone")
                return
            if error.code in (AfsCode.VLIMIT, AfsCode.RXGEN_OPCODE):
                raise AfsError(AfsCode.ENOLCK, error.detail) from None
            raise
        self._held, self._unsure = wanted, False
        self._confirmed(ticket.sent_at, sign, response.life_s)

    # --- letting go -------------------------------------------------------------------------------

    async def let_go(self, patience_s: float) -> None:
        """Has the fileserver hold no more than is needed; waits for that, not longer than this."""
        if self.is_settled:
            return
        if self._asking is not None:
            self._asking.cancel()
        await asyncio.wait([self._start(self.settle())], timeout=patience_s)

    async def settle(self) -> None:
        """Has the fileserver hold what is needed, and is sure of it; a failure leaves it unsure."""
        async with self._talking:
            if self.is_settled:
                return
            needed = self._needed()
            try:
                if needed is None:
                    await self._release()
                else:
                    # From here on no more than this counts as held.
                    self._held = needed
                    await self._ask(needed, 0)
            except AfsError as error:
                if error.code is AfsCode.EAGAIN:
                    self._lose("taken")
                else:
                    self._failed("lock.not_settled", error)

    async def _release(self) -> None:
        self._held, self._unsure = None, True
        self._journal.count("lock_calls")
        request = pb.ReleaseLockRequest(fid=fid_to_wire(self._fid))
        try:
            await self._volume.call(lambda stub: stub.ReleaseLock, request)
        except AfsError as error:
            if error.code not in (AfsCode.ENOLCK, AfsCode.VNOVNODE, AfsCode.VNOVOL):
                raise
        self._unsure = False

    # --- keeping it -------------------------------------------------------------------------------

    def look_after(self) -> None:
        """Extends the lock if that is due, settles what is unsure; to be called every second."""
        self.lose_if_over()
        now = self._clock.now()
        if not self.may_be_held or (self._tending is not None and not self._tending.done()):
            return
        if self._failed_at is not None and now < self._failed_at + AGAIN_S:
            return
        if self._unsure or self._needed() is None:
            self._tend(self.settle())
        elif (
            now >= self._confirmed_at + self._life_s / LOCK_EXTENSIONS_PER_LIFE
            or self._sign != self._sign_now()
        ):
            self._tend(self._extend())

    def lose_if_over(self) -> None:
        """By our clock the life of what is held may be over: then it is lost."""
        if self.may_be_held and self._clock.now() >= self._confirmed_at + self._life_s:
            self._lose("not_extended")

    def _tend(self, work: Coroutine[Any, Any, None]) -> None:
        self._tending = self._start(work)

    async def _extend(self) -> None:
        async with self._talking:
            if self._held is None or self._unsure:
                return
            sign = self._sign_now()
            self._journal.count("lock_calls")
            request = pb.ExtendLockRequest(fid=fid_to_wire(self._fid))
            try:
                response, ticket = await self._volume.call(lambda stub: stub.ExtendLock, request)
            except AfsError as error:
                if error.code is AfsCode.VNOVNODE:
                    self._alone = True
                elif error.code in (AfsCode.ENOLCK, AfsCode.VNOVOL):
                    self._lose("gone")
                else:
                    self._failed("lock.not_extended", error)
            else:
                self._confirmed(ticket.sent_at, sign, response.life_s)

    def _confirmed(self, sent_at: float, sign: object, life_s: float) -> None:
        self._confirmed_at, self._sign, self._life_s = sent_at, sign, life_s
        self._failed_at = None

    def _failed(self, event: str, error: AfsError) -> None:
        self._failed_at = self._clock.now()
        _log.info(event, fid=str(self._fid), error=str(error))

    def _lose(self, why: str) -> None:
        self._held, self._unsure = None, False
        self._on_lost(why)

    def _sign_now(self) -> object:
        """Changes when there is reason to ask whether the lock is still there."""
        address = self._volume.in_use
        if not address:
            return None
        server = self._cache.server(address)
        return (
            address,
            server.channel.epoch,
            server.channel.generation,
            server.marks.high_water(whole_volume_fid(self._fid.volume)),
        )
