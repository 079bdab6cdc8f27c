"""From a token to the caller that it stands for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from afs.access.caller import (
    ADMINISTRATORS_ID,
    ANONYMOUS,
    DAEMON_NAME,
    UNKNOWN_USER_IDS,
    Caller,
)
from afs.identity.memberships import Membership, Memberships
from afs.identity.trust import Trust

# Another daemon of the cell, or whoever may open a unix socket of ours, whose mode is 0600.
DAEMON: Final = Caller(DAEMON_NAME, 0, UNKNOWN_USER_IDS, is_administrator=True)


class Callers:
    """Tells who makes a call.

    Args:
        trust: verifies tokens.
        memberships: what groups users are in.
        superusers: names that are administrators whatever the protection database says. Source: the
            UserList of AFS servers.
    """

    def __init__(
        self, trust: Trust, memberships: Memberships, superusers: Collection[str] = ()
    ) -> None:
        self._trust = trust
        self._memberships = memberships
        self._superusers = frozenset(superusers)

    async def of(self, token: str | None) -> Caller:
        """The caller that shows this token; nobody in particular without one.

        Raises:
            AfsError: as `verify_token`; VBUSY if the protection database does not answer.
        """
        if token is None:
            return ANONYMOUS
        identity = self._trust.verify(token)
        name = identity.name
        if name == DAEMON_NAME:
            return DAEMON
        membership = self._memberships.known(name) or await self._memberships.of(name)
        return self._caller(name, membership)

    def _caller(self, name: str, membership: Membership) -> Caller:
        ids = membership.ids
        return Caller(
            name,
            membership.user_id,
            ids,
            is_administrator=ADMINISTRATORS_ID in ids or name in self._superusers,
        )
