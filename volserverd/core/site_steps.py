"""The steps of operations on sites and names; `steps` says what goes for all.

Why these orders
    clone    As the creation of a volume; the source is out of service while its metadata is copied.
    remsite  The site leaves the entry first, so that nobody is sent to a copy that is going; after
             a crash in between, recovery deletes the copy that has no site.
    rename   The entry decides: a name that is taken is refused there, and after a crash in between
             recovery gives the volumes on disk the entry's name.
"""

from __future__ import annotations

from collections.abc import Sequence

from volserverd.core.step import Role, Step, StepKind, step


def clone_steps() -> list[Step]:
    """A new read-write volume with the contents of another, SOURCE."""
    return [
        step(StepKind.CREATE_ENTRY),
        step(StepKind.TAKE, Role.SOURCE),
        step(StepKind.CLONE_READ_WRITE),
        step(StepKind.GIVE_BACK, Role.SOURCE),
        step(StepKind.INTRODUCE),
        step(StepKind.SETTLE_ENTRY),
    ]


def remove_site_steps(*, on_disk: bool) -> list[Step]:
    """A read-only site goes, and the copy there if there is one."""
    role = Role.READ_ONLY
    copy = [step(StepKind.DELETE_ON_DISK, role, no_return=True), step(StepKind.FORGET, role)]
    return [
        step(StepKind.LOCK_ENTRY),
        *([step(StepKind.TAKE, role)] if on_disk else []),
        step(StepKind.DROP_SITE, no_return=True),
        *(copy if on_disk else []),
        step(StepKind.SETTLE_ENTRY),
    ]


def rename_steps(roles: Sequence[Role]) -> list[Step]:
    """The entry is renamed, and its volumes of these roles; then the copies elsewhere."""
    return [
        step(StepKind.LOCK_ENTRY),
        *(step(StepKind.TAKE, role) for role in roles),
        step(StepKind.RENAME_ENTRY, no_return=True),
        *(
            step(kind, role)
            for role in roles
            for kind in (StepKind.RENAME_ON_DISK, StepKind.GIVE_BACK)
        ),
        step(StepKind.RENAME_COPIES),
        step(StepKind.SETTLE_ENTRY),
    ]


def rename_copy_steps() -> list[Step]:
    """A read-only copy takes over the name that its entry has."""
    role = Role.READ_ONLY
    return [
        step(StepKind.TAKE, role),
        step(StepKind.RENAME_ON_DISK, role),
        step(StepKind.GIVE_BACK, role),
    ]
