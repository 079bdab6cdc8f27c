"""Who may change what in the protection database. Pure.

Groups belong to their owner, a user or a group; users, and what belongs to nobody any more, to the
administrators. Source: OpenAFS ptuser.c and its `pts` manual pages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from afs.access.caller import ADMINISTRATORS_ID, ANYUSER_ID, AUTHUSER_ID, Caller
from afs.errors import AfsCode, AfsError

# Everybody is in the first and every user in the second, without being told so.
IMPLICIT_GROUPS: Final = frozenset({ANYUSER_ID, AUTHUSER_ID})
# What every cell has stays as it is.
_FIXED: Final = frozenset({ADMINISTRATORS_ID, ANYUSER_ID, AUTHUSER_ID})
SYSTEM_PREFIX: Final = "system"


@dataclass(frozen=True, slots=True)
class Principal:
    """A user (positive id) or a group (negative) of the database. `owner_id` 0: administrators."""

    id: int
    name: str
    owner_id: int = 0

    @property
    def is_group(self) -> bool:
        """True for a group."""
        return self.id < 0


def owns(caller: Caller, group: Principal) -> bool:
    """Whether a caller may do with a group what its owner may."""
    return caller.is_administrator or (group.owner_id != 0 and group.owner_id in caller.ids)


def check_changes(caller: Caller, entry: Principal) -> None:
    """EPERM for a caller who may not delete, rename or give away an entry."""
    if entry.id in _FIXED:
        raise AfsError(AfsCode.EPERM, f"{entry.name} cannot be changed: every cell has it")
    if not (caller.is_administrator or (entry.is_group and owns(caller, entry))):
        raise _refused(caller, f"change {entry.name}")


def check_members(caller: Caller, group: Principal, member: Principal, *, removes: bool) -> None:
    """Refuses what does not go together, and a caller who may not add or remove members.

    Raises:
        AfsError: EINVAL where no member can be; EPERM.
    """
    if not group.is_group:
        raise AfsError(AfsCode.EINVAL, f"{group.name} is a user: expected a group")
    if member.is_group:
        raise AfsError(AfsCode.EINVAL, f"{member.name} is a group: expected a user")
    if group.id in IMPLICIT_GROUPS:
        raise AfsError(AfsCode.EINVAL, f"nobody is added to {group.name} or removed from it")
    if removes and caller.user_id == member.id:
        return
    if not owns(caller, group):
        raise _refused(caller, f"change who is in {group.name}")


def check_sees_members(caller: Caller, entry: Principal) -> None:
    """EPERM for a caller who may not know who is in a group, or what groups a user is in."""
    if entry.is_group:
        if not (owns(caller, entry) or entry.id in caller.ids):
            raise _refused(caller, f"list who is in {entry.name}")
    elif not (caller.is_administrator or caller.user_id == entry.id):
        raise _refused(caller, f"list the groups of {entry.name}")


def check_asks_about(caller: Caller, name: str) -> None:
    """EPERM for a caller who may not ask for all that counts for a user's rights."""
    if not (caller.is_administrator or caller.name == name):
        raise _refused(caller, f"ask for the groups of {name}")


def check_owner(caller: Caller, owner: Principal) -> None:
    """EPERM for a caller who may not make this user or group the owner of something."""
    if owner.id in IMPLICIT_GROUPS:
        raise AfsError(AfsCode.EINVAL, f"{owner.name} cannot own a group: it is everybody")
    if not (caller.is_administrator or owner.id in caller.ids):
        raise _refused(caller, f"have a group belong to {owner.name}")


def check_group_belongs(caller: Caller, name: str, owner: Principal) -> None:
    """Refuses a group's name that does not tell its owner.

    Administrators may also give names without a colon.

    Raises:
        AfsError: EINVAL, saying what was expected.
    """
    prefix, colon, rest = name.rpartition(":")
    if not colon and caller.is_administrator:
        return
    expected = prefix_of(owner)
    if prefix != expected:
        raise AfsError(
            AfsCode.EINVAL,
            f"group name {name!r}: expected {expected}:{rest}, since it belongs to {owner.name}",
        )


def prefix_of(owner: Principal) -> str:
    """What stands before the colon in the names of groups that this owner has."""
    return owner.name.partition(":")[0]


def _refused(caller: Caller, deed: str) -> AfsError:
    if caller.is_anonymous:
        return AfsError(AfsCode.RXKADNOAUTH, f"a token is needed to {deed}: log in first")
    return AfsError(AfsCode.EPERM, f"{caller.name} may not {deed}")
