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

from volserverd.core.step import Role, Step, StepKind, step


def create_steps() -> list[Step]:
    """A new volume."""
    return [
        step(StepKind.CREATE_ENTRY),
        step(StepKind.CREATE_ON_DISK),
        step(StepKind.INTRODUCE),
        step(StepKind.SETTLE_ENTRY),
    ]


def delete_steps(*, main: bool, backup: bool, entry: bool) -> list[Step]:
    """A volume is deleted with its backup, or that alone; what does not exist is left out."""
    roles = [role for role, there in ((Role.BACKUP, backup), (Role.MAIN, main)) if there]
    return [
        *([step(StepKind.LOCK_ENTRY)] if entry else []),
        *(step(StepKind.TAKE, role) for role in roles),
        *(
            step(kind, role, no_return=kind is StepKind.DELETE_ON_DISK)
            for role in roles
            for kind in (StepKind.DELETE_ON_DISK, StepKind.FORGET)
        ),
        *([step(StepKind.SETTLE_ENTRY)] if entry else []),
    ]


def backup_steps(*, has_backup: bool) -> list[Step]:
    """The read-write volume is cloned to its backup volume."""
    return [
        step(StepKind.LOCK_ENTRY),
        *([step(StepKind.TAKE, Role.BACKUP)] if has_backup else []),
        step(StepKind.TAKE),
        step(StepKind.CLONE, no_return=True),
        step(StepKind.GIVE_BACK),
        step(StepKind.GIVE_BACK if has_backup else StepKind.INTRODUCE, Role.BACKUP),
        step(StepKind.SETTLE_ENTRY),
    ]


def dump_steps() -> list[Step]:
    """The volume's contents go to the client, from a temporary clone."""
    return [
        step(StepKind.TAKE),
        step(StepKind.CLONE_TEMPORARY),
        step(StepKind.GIVE_BACK),
        step(StepKind.SEND, Role.TEMPORARY, waits_for_client=True),
        step(StepKind.DELETE_TEMPORARY, Role.TEMPORARY),
    ]


def restore_over_steps() -> list[Step]:
    """A volume's contents are replaced by those of a dump."""
    return [
        step(StepKind.RECEIVE, waits_for_client=True),
        step(StepKind.TAKE),
        step(StepKind.SWAP, no_return=True),
        step(StepKind.GIVE_BACK),
        step(StepKind.DISCARD_RECEIVED),
    ]


def restore_new_steps() -> list[Step]:
    """A new volume with the contents of a dump."""
    return [
        step(StepKind.CREATE_ENTRY),
        step(StepKind.RECEIVE, waits_for_client=True),
        step(StepKind.CREATE_ON_DISK),
        step(StepKind.INTRODUCE),
        step(StepKind.SETTLE_ENTRY),
        step(StepKind.DISCARD_RECEIVED),
    ]


def restore_plan_steps(role: Role) -> list[Step]:
    """A dump is received and checked, and that is all.

    As `role`, MAIN: over that volume; TEMPORARY: as if for a new one.
    """
    made_up = role is Role.TEMPORARY
    return [
        *([step(StepKind.RESERVE_TEMPORARY_ID, role)] if made_up else []),
        step(StepKind.RECEIVE, role, waits_for_client=True),
        step(StepKind.DISCARD_RECEIVED, role),
        *([step(StepKind.FREE_TEMPORARY_ID, role)] if made_up else []),
    ]


def offline_steps() -> list[Step]:
    """The volume goes off-line and stays so."""
    return [step(StepKind.TAKE), step(StepKind.SET_FIELDS), step(StepKind.LEAVE_OFF)]


def set_fields_steps() -> list[Step]:
    """The header changes; also how a volume goes on-line again."""
    return [step(StepKind.TAKE), step(StepKind.SET_FIELDS), step(StepKind.GIVE_BACK)]
