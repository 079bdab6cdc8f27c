"""What the protection database says of callers, remembered for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import structlog

from afs.errors import AfsCode, AfsError
from afs.limits import MEMBERSHIP_LIFETIME_S, MEMBERSHIP_STALE_S, MEMBERSHIPS_KEPT

_log = structlog.get_logger(__name__)


class Membership(NamedTuple):
    """A user's number (0: there is none of this name), and all ids that count for their rights."""

    user_id: int
    ids: frozenset[int]


class _Remembered(NamedTuple):
    membership: Membership
    asked_at: float


class Memberships:
    """Memberships by name, each asked for at most once in a lifetime.

    While the database cannot be reached, what it said at most MEMBERSHIP_STALE_S ago counts on.

    Args:
        ask: asks the database about one user.
        now: the steady clock.
        lifetime_s: how long an answer counts; less than 0: it is asked every time, which a daemon
            that has the database does.
    """

    def __init__(
        self,
        ask: Callable[[str], Awaitable[Membership]],
        now: Callable[[], float],
        lifetime_s: float = MEMBERSHIP_LIFETIME_S,
    ) -> None:
        self._ask = ask
        self._now = now
        self._lifetime_s = lifetime_s
        self._known: dict[str, _Remembered] = {}
        self._asking: dict[str, asyncio.Future[Membership]] = {}

    def known(self, name: str) -> Membership | None:
        """What was said of a user lately; None if that is to be asked."""
        found = self._known.get(name)
        if found is None or self._now() - found.asked_at > self._lifetime_s:
            return None
        return found.membership

    async def of(self, name: str) -> Membership:
        """What the database says of a user.

        Raises:
            AfsError: VBUSY if it does not answer, and said nothing of this user lately.
        """
        known = self.known(name)
        if known is not None:
            return known
        asking = self._asking.get(name)
        if asking is None:
            asking = asyncio.ensure_future(self._asked(name))
            self._asking[name] = asking
            asking.add_done_callback(lambda asked: self._answered(name, asked))
        # One question for all who wait; whoever hangs up does not end it for the others.
        return await asyncio.shield(asking)

    def _answered(self, name: str, asked: asyncio.Future[Membership]) -> None:
        del self._asking[name]
        if not asked.cancelled():
            # Marks it as seen: whoever wanted to know may have hung up.
            asked.exception()

    async def _asked(self, name: str) -> Membership:
        try:
            membership = await self._ask(name)
        except AfsError as error:
            stale = self._known.get(name)
            if stale is not None and self._now() - stale.asked_at <= MEMBERSHIP_STALE_S:
                _log.warning("protection.not_reached", name=name, reason=error.detail)
                return stale.membership
            raise AfsError(
                AfsCode.VBUSY,
                f"the protection database does not tell who {name} is: {error.detail}",
            ) from None
        self._known.pop(name, None)
        if len(self._known) >= MEMBERSHIPS_KEPT:
            del self._known[next(iter(self._known))]
        self._known[name] = _Remembered(membership, self._now())
        return membership
