"""Who waits for whose fcntl(2) lock on this machine, and whether that would be for ever.

An owner that waits is an edge to each owner in its way. A wait that would close a circle is refused
(EDEADLK), as the kernel does on a local disk. Waits for other machines are not in it: see
`afsd.core.locks` for what is noticed there.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeAlias

from clientd.core.range_locks import LockOwner

# An owner, and in whose way it does not get on.
Wait: TypeAlias = tuple[LockOwner, frozenset[LockOwner]]


class LockWaits:
    """All waits of the programs of this machine."""

    def __init__(self) -> None:
        # An owner with several threads may wait for several locks.
        self._waits: list[Wait] = []

    def __len__(self) -> int:
        return len(self._waits)

    def closes_circle(self, owner: LockOwner, others: Collection[LockOwner]) -> bool:
        """True if one of the others waits, perhaps through more of them, for this owner."""
        seen: set[LockOwner] = set()
        to_see = set(others)
        while to_see:
            if owner in to_see:
                return True
            seen |= to_see
            waited_for = (blockers for waiter, blockers in self._waits if waiter in to_see)
            to_see = set().union(*waited_for) - seen
        return False

    def begin(self, owner: LockOwner, others: Collection[LockOwner]) -> Wait:
        """The owner waits for the others from now on; what to end that with."""
        wait = owner, frozenset(others)
        self._waits.append(wait)
        return wait

    def end(self, wait: Wait) -> None:
        """It waits no longer."""
        self._waits.remove(wait)
