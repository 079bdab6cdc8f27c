"""The break policies: the four designs in the 2002 mail.

When, and by whom, are the callbacks of a volume broken that is given back?

All four mark in the same way and run the same break routine. A policy only says whether the FSSYNC
handler breaks itself or leaves it to the worker, whether it acknowledges first, and how many FSSYNC
listeners there are to be kept busy by it. Source: mechanism §2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class BreakPolicy:
    """One design.

    Attributes:
        name: as given to `afsd --break-policy`.
        by_worker: the BreakLaterCallBacks worker breaks; otherwise the FSSYNC handler does, on its
            own listener.
        acks_first: the volserver is answered before the breaks are done.
        listeners: FSSYNC calls that can be served at a time; a handler that breaks keeps one until
            it is done.
        what_goes_wrong: for the table that compares them.
    """

    name: str
    by_worker: bool
    acks_first: bool
    listeners: int
    what_goes_wrong: str


# The pool of the hot-thread design: enough to hide one or two dead clients, few enough to be used
# up.
HOT_THREAD_LISTENERS: Final = 4
# Under `later` a listener waits for disks only; several, so that one volume's attach delays no
# other volume's call.
LATER_LISTENERS: Final = 16

SYNC: Final = BreakPolicy(
    "sync",
    by_worker=False,
    acks_first=False,
    listeners=1,
    what_goes_wrong="the caller waits for every dead client",
)
ACK_FIRST: Final = BreakPolicy(
    "ack-first",
    by_worker=False,
    acks_first=True,
    listeners=1,
    what_goes_wrong="the next FSSYNC call waits instead",
)
HOT_THREAD: Final = BreakPolicy(
    "hot-thread",
    by_worker=False,
    acks_first=True,
    listeners=HOT_THREAD_LISTENERS,
    what_goes_wrong="enough give-backs use up the pool",
)
LATER: Final = BreakPolicy(
    "later",
    by_worker=True,
    acks_first=True,
    listeners=LATER_LISTENERS,
    what_goes_wrong="nothing: it marks, wakes the worker and acks",
)

POLICIES: Final = {policy.name: policy for policy in (LATER, SYNC, ACK_FIRST, HOT_THREAD)}
