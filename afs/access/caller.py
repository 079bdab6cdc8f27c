"""Who makes a call: the caller as servicers and rules see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# Ids and names that every cell has. Source: OpenAFS ptserver.h.
SYSTEM_ADMINISTRATORS: Final = "system:administrators"
SYSTEM_ANYUSER: Final = "system:anyuser"
SYSTEM_AUTHUSER: Final = "system:authuser"
ADMINISTRATORS_ID: Final = -204
ANYUSER_ID: Final = -101
AUTHUSER_ID: Final = -102
# The user id of somebody who showed no token.
ANONYMOUS_ID: Final = 32766
# The name by which the daemons of a cell call each other; no person can have it.
DAEMON_NAME: Final = "afs.daemon"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, and what counts for their rights.

    Attributes:
        name: "system:anyuser" for somebody who showed no token.
        user_id: number in the protection database; ANONYMOUS_ID for nobody, 0 for a name that it
            does not have.
        ids: the user's own id and those of all groups they are in: the current protection
            subdomain (CPS) of AFS.
        is_administrator: a member of system:administrators, or a superuser by configuration.
    """

    name: str
    user_id: int
    ids: frozenset[int]
    is_administrator: bool = False

    @property
    def is_anonymous(self) -> bool:
        """True for somebody who showed no token."""
        return self.user_id == ANONYMOUS_ID


ANONYMOUS: Final = Caller(SYSTEM_ANYUSER, ANONYMOUS_ID, frozenset({ANYUSER_ID}))
# Whoever is not in the database can at least be told from nobody.
UNKNOWN_USER_IDS: Final = frozenset({ANYUSER_ID, AUTHUSER_ID})
