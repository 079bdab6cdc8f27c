"""What a step is, and every kind there is. Their orders are in `steps` and its neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Role(Enum):
    """Which of the operation's volumes a step is about."""

    MAIN = "volume"
    BACKUP = "backup volume"
    TEMPORARY = "temporary clone"
    # What MAIN is cloned from.
    SOURCE = "source"
    # What MAIN is copied to, perhaps elsewhere.
    COPY = "copy"
    # The read-only copy at a site of ours.
    READ_ONLY = "read-only volume"


class StepKind(Enum):
    """What is done; the value is shown to people as the step of a transaction."""

    CREATE_ENTRY = "creating the location entry"
    LOCK_ENTRY = "locking the location entry"
    # Makes the entry say what is on disk, and unlocks it; an entry of nothing is deleted.
    SETTLE_ENTRY = "settling the location entry"
    CREATE_ON_DISK = "creating the volume on disk"
    DELETE_ON_DISK = "deleting the volume on disk"
    # Also makes the fileserver forget what was withdrawn.
    REMOVE_CREATED = "removing the half-made volume"
    TAKE = "taking the volume from the fileserver"
    GIVE_BACK = "giving the volume back to the fileserver"
    # The first VOL_ON of a volume that the fileserver does not know.
    INTRODUCE = "putting the new volume into service"
    WITHDRAW = "withdrawing the new volume from service"
    # DONE: the fileserver forgets the volume and breaks its callbacks.
    FORGET = "telling the fileserver that the volume is gone"
    LEAVE_OFF = "giving the volume back, left off-line"
    SET_FIELDS = "changing the volume's header"
    RESET_FIELDS = "changing the volume's header back"
    CLONE = "copying metadata"
    CLONE_TEMPORARY = "copying metadata to a temporary clone"
    DELETE_TEMPORARY = "deleting the temporary clone"
    SEND = "sending the dump"
    RECEIVE = "receiving and checking the dump"
    DISCARD_RECEIVED = "discarding the received dump"
    RESERVE_TEMPORARY_ID = "choosing a temporary id"
    FREE_TEMPORARY_ID = "forgetting the temporary id"
    SWAP = "putting the received contents in place"
    # A whole conversation with another volserver, which leads it.
    RECEIVE_VOLUME = "receiving a volume from another volserver"
    CREATE_COPY_ENTRY = "creating the copy's location entry"
    OPEN_TRANSFER = "asking the target what it has"
    CLOSE_TRANSFER = "ending the transfer"
    SEND_ROUND = "sending the volume"
    CATCH_UP = "sending what has changed since"
    MARK_IN_TRANSIT = "marking the volume as half of a move"
    UNMARK = "taking the mark back"
    SEND_LAST_ROUND = "sending the last changes"
    PUT_IN_PLACE_THERE = "putting the volume in place at the target"
    BREAK_PROMISES = "breaking the promises on the volume"
    # The point of no return of moves and copies.
    SWITCH_SITE = "switching the site in the location entry"
    PUT_ON_THERE = "putting the volume into service at the target"
    TELL_MOVED = "telling clients that the volume has moved"
    SET_ASIDE = "setting the old copy aside"
    CLONE_READ_WRITE = "copying metadata to the new volume"
    SALVAGE = "checking and repairing the volume"
    OPEN_SITES = "asking the sites what they have"
    CLOSE_SITES = "ending the transfers to the sites"
    STAGE_AT_SITES = "bringing the new state to the sites"
    # The point of no return of a release.
    SHOW_AT_SITES = "showing the new state at the sites"
    NOTE_RELEASE = "noting in the location entry which sites show it"
    DROP_SITE = "taking the site out of the location entry"
    RENAME_ENTRY = "renaming the location entry"
    RENAME_ON_DISK = "renaming the volume on disk"
    RENAME_COPIES = "having other sites rename their copies"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan, and the step that undoes it (None: nothing to undo).

    `no_return`: once it has succeeded there is no way back. `waits_for_client`: the client's
    silence counts. `interruptible`: the operation can be ended in the middle of it.
    """

    kind: StepKind
    role: Role = Role.MAIN
    undo: Step | None = None
    no_return: bool = False
    waits_for_client: bool = False
    interruptible: bool = False


_UNDO: Final[Mapping[StepKind, StepKind]] = {
    StepKind.CREATE_ENTRY: StepKind.SETTLE_ENTRY,
    StepKind.LOCK_ENTRY: StepKind.SETTLE_ENTRY,
    StepKind.CREATE_ON_DISK: StepKind.REMOVE_CREATED,
    StepKind.TAKE: StepKind.GIVE_BACK,
    StepKind.INTRODUCE: StepKind.WITHDRAW,
    StepKind.SET_FIELDS: StepKind.RESET_FIELDS,
    StepKind.CLONE_TEMPORARY: StepKind.DELETE_TEMPORARY,
    StepKind.RECEIVE: StepKind.DISCARD_RECEIVED,
    StepKind.CLONE_READ_WRITE: StepKind.REMOVE_CREATED,
    StepKind.OPEN_SITES: StepKind.CLOSE_SITES,
    StepKind.RESERVE_TEMPORARY_ID: StepKind.FREE_TEMPORARY_ID,
    StepKind.CREATE_COPY_ENTRY: StepKind.SETTLE_ENTRY,
    StepKind.OPEN_TRANSFER: StepKind.CLOSE_TRANSFER,
    StepKind.MARK_IN_TRANSIT: StepKind.UNMARK,
}


def step(
    kind: StepKind,
    role: Role = Role.MAIN,
    *,
    no_return: bool = False,
    waits_for_client: bool = False,
    interruptible: bool = False,
) -> Step:
    """A step with the one that undoes it; past a point of no return nothing is undone."""
    undo = None if no_return or kind not in _UNDO else Step(_UNDO[kind], role)
    return Step(kind, role, undo, no_return, waits_for_client, interruptible or waits_for_client)
