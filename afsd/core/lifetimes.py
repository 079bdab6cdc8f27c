"""How long a promise lasts. Source: mechanism §5, which has it from AFS."""

from __future__ import annotations

from afs.limits import (
    BULK_STATUS_EXTRA_HOLDERS,
    PROMISE_LIFETIMES_S,
    READ_ONLY_PROMISE_LIFETIME_S,
)


def promise_lifetime_s(holders: int, *, bulk: bool, read_only: bool) -> int:
    """Seconds that a client may rely on a new promise.

    Args:
        holders: promises on the file now, the new one not counted.
        bulk: the promise is one of many given by BulkStatus, which counts as 22 more holders.
        read_only: the promise is for a whole read-only volume.
    """
    if read_only:
        return READ_ONLY_PROMISE_LIFETIME_S
    counted = holders + (BULK_STATUS_EXTRA_HOLDERS if bulk else 0)
    return next(seconds for at_least, seconds in PROMISE_LIFETIMES_S if counted >= at_least)
