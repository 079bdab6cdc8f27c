"""The steps of every operation, in order, each with the step that undoes it.

Why these orders
    create   The location entry comes first, because it gives the id; it stays locked until the
             volume is served, so that a crash in between is recognised (`settle` makes the entry
             say what is on disk).
    delete   The entry goes last: as long as anything is left of the volume it can be found by its
             name.
    backup   The backup volume is taken before the read-write one, and given back after it: the
             read-write volume is out of service for the copying of its metadata only.
    dump     The bytes are read from a temporary clone, with the volume back in service.
    restore  The whole dump is received and checked before anything is touched (R9); then one swap.
    offline  The mark in the header outlives the fileserver.
"""

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
    SWAP = "putting the received contents in place"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a plan, and the step that undoes it (None: nothing to undo).

    `no_return`: once it has succeeded there is no way back. `waits_for_client`: the client's
    silence counts.
    """

    kind: StepKind
    role: Role = Role.MAIN
    undo: Step | None = None
    no_return: bool = False
    waits_for_client: bool = False


_UNDO: Final[Mapping[StepKind, StepKind]] = {
    StepKind.CREATE_ENTRY: StepKind.SETTLE_ENTRY,
    StepKind.LOCK_ENTRY: StepKind.SETTLE_ENTRY,
    StepKind.CREATE_ON_DISK: StepKind.REMOVE_CREATED,
    StepKind.TAKE: StepKind.GIVE_BACK,
    StepKind.INTRODUCE: StepKind.WITHDRAW,
    StepKind.SET_FIELDS: StepKind.RESET_FIELDS,
    StepKind.CLONE_TEMPORARY: StepKind.DELETE_TEMPORARY,
    StepKind.RECEIVE: StepKind.DISCARD_RECEIVED,
}


def _step(
    kind: StepKind,
    role: Role = Role.MAIN,
    *,
    no_return: bool = False,
    waits_for_client: bool = False,
) -> Step:
    undo = None if no_return or kind not in _UNDO else Step(_UNDO[kind], role)
    return Step(kind, role, undo, no_return, waits_for_client)


def create_steps() -> list[Step]:
    """A new volume."""
    return [
        _step(StepKind.CREATE_ENTRY),
        _step(StepKind.CREATE_ON_DISK),
        _step(StepKind.INTRODUCE),
        _step(StepKind.SETTLE_ENTRY),
    ]


def delete_steps(*, main: bool, backup: bool, entry: bool) -> list[Step]:
    """A volume is deleted with its backup, or that alone; what does not exist is left out."""
    roles = [role for role, there in ((Role.BACKUP, backup), (Role.MAIN, main)) if there]
    return [
        *([_step(StepKind.LOCK_ENTRY)] if entry else []),
        *(_step(StepKind.TAKE, role) for role in roles),
        *(
            _step(kind, role, no_return=kind is StepKind.DELETE_ON_DISK)
            for role in roles
            for kind in (StepKind.DELETE_ON_DISK, StepKind.FORGET)
        ),
        *([_step(StepKind.SETTLE_ENTRY)] if entry else []),
    ]


def backup_steps(*, has_backup: bool) -> list[Step]:
    """The read-write volume is cloned to its backup volume."""
    return [
        _step(StepKind.LOCK_ENTRY),
        *([_step(StepKind.TAKE, Role.BACKUP)] if has_backup else []),
        _step(StepKind.TAKE),
        _step(StepKind.CLONE, no_return=True),
        _step(StepKind.GIVE_BACK),
        _step(StepKind.GIVE_BACK if has_backup else StepKind.INTRODUCE, Role.BACKUP),
        _step(StepKind.SETTLE_ENTRY),
    ]


def dump_steps() -> list[Step]:
    """The volume's contents go to the client, from a temporary clone."""
    return [
        _step(StepKind.TAKE),
        _step(StepKind.CLONE_TEMPORARY),
        _step(StepKind.GIVE_BACK),
        _step(StepKind.SEND, Role.TEMPORARY, waits_for_client=True),
        _step(StepKind.DELETE_TEMPORARY, Role.TEMPORARY),
    ]


def restore_over_steps() -> list[Step]:
    """A volume's contents are replaced by those of a dump."""
    return [
        _step(StepKind.RECEIVE, waits_for_client=True),
        _step(StepKind.TAKE),
        _step(StepKind.SWAP, no_return=True),
        _step(StepKind.GIVE_BACK),
        _step(StepKind.DISCARD_RECEIVED),
    ]


def restore_new_steps() -> list[Step]:
    """A new volume with the contents of a dump."""
    return [
        _step(StepKind.CREATE_ENTRY),
        _step(StepKind.RECEIVE, waits_for_client=True),
        _step(StepKind.CREATE_ON_DISK),
        _step(StepKind.INTRODUCE),
        _step(StepKind.SETTLE_ENTRY),
        _step(StepKind.DISCARD_RECEIVED),
    ]


def offline_steps() -> list[Step]:
    """The volume goes off-line and stays so."""
    return [_step(StepKind.TAKE), _step(StepKind.SET_FIELDS), _step(StepKind.LEAVE_OFF)]


def set_fields_steps() -> list[Step]:
    """The header changes; also how a volume goes on-line again."""
    return [_step(StepKind.TAKE), _step(StepKind.SET_FIELDS), _step(StepKind.GIVE_BACK)]
