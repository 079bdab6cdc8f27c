"""Access lists of directories: who has which of the seven rights of AFS, and who has them not.

An access list is kept and compared as a text, `+ID:BITS …  -ID:BITS …`, sorted by id, so that equal
lists are one text and a list that was read once need not be read again. Ids are those of the
protection database: a renamed group keeps its rights, and a new one does not get a dead one's.

Theory of operation
    A caller has the rights that the list gives to any of their ids (their own, their groups',
    system:anyuser, system:authuser), less those that it denies to any of them. A directory without
    a list of its own (text "") has the one that every new volume has: system:administrators have
    all rights.

    Members of system:administrators, and the owner of the volume (of its root directory), may
    always look and may always change the list. Who owns a file and may insert into its directory
    may write that file: that is how one drops files into a directory where one may not write.

Source: OpenAFS acl.h, prs_fs.h, afsfileprocs.c (Check_PermissionRights).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntFlag
from functools import lru_cache
from typing import Final

from afs.access.caller import ADMINISTRATORS_ID, Caller
from afs.errors import AfsCode, AfsError
from afs.limits import MAX_ACL_ENTRIES


class Right(IntFlag):
    """Rights on a directory and the files in it. Source: OpenAFS prs_fs.h."""

    NONE = 0
    READ = 1
    WRITE = 2
    INSERT = 4
    LOOKUP = 8
    DELETE = 16
    LOCK = 32
    ADMINISTER = 64


# In the order in which they are written. Source: `fs listacl`.
LETTERS: Final = {
    "r": Right.READ,
    "l": Right.LOOKUP,
    "i": Right.INSERT,
    "d": Right.DELETE,
    "w": Right.WRITE,
    "k": Right.LOCK,
    "a": Right.ADMINISTER,
}
ALL_RIGHTS: Final = Right(127)
# Words for the usual ones. Source: `fs setacl`.
WORDS: Final = {
    "all": ALL_RIGHTS,
    "none": Right.NONE,
    "read": Right.READ | Right.LOOKUP,
    "write": ALL_RIGHTS & ~Right.ADMINISTER,
}
# The text of a list without entries; the empty text stands for the list of a new volume.
_NOBODY: Final = "none"
# What administrators and the owner of the volume have whatever the list says.
_ALWAYS: Final = Right.LOOKUP | Right.ADMINISTER


@dataclass(frozen=True, slots=True)
class AccessList:
    """Rights by id, those given and those denied. Neither holds Right.NONE."""

    positive: Mapping[int, Right] = field(default_factory=dict)
    negative: Mapping[int, Right] = field(default_factory=dict)

    def rights_of(self, ids: Iterable[int]) -> Right:
        """What the list gives to somebody with these ids."""
        given = denied = Right.NONE
        for each in ids:
            given |= self.positive.get(each, Right.NONE)
            denied |= self.negative.get(each, Right.NONE)
        return given & ~denied

    def text(self) -> str:
        """The list as it is kept."""
        words = [
            f"{sign}{each}:{int(rights)}"
            for sign, side in (("+", self.positive), ("-", self.negative))
            for each, rights in sorted(side.items())
        ]
        return " ".join(words) or _NOBODY


DEFAULT_LIST: Final = AccessList({ADMINISTRATORS_ID: ALL_RIGHTS})


@lru_cache(maxsize=4096)
def parse_acl(text: str) -> AccessList:
    """The access list of a text as it is kept; that of a new volume for the empty text.

    Raises:
        AfsError: EINVAL for a text that `AccessList.text` does not write.
    """
    if not text:
        return DEFAULT_LIST
    if text == _NOBODY:
        return AccessList()
    positive: dict[int, Right] = {}
    negative: dict[int, Right] = {}
    try:
        for word in text.split(" "):
            each, bits = word[1:].split(":")
            {"+": positive, "-": negative}[word[:1]][int(each)] = Right(int(bits))
    except (KeyError, ValueError):
        raise _bad(text) from None
    found = AccessList(positive, negative)
    if found.text() != text:
        raise _bad(text)
    return check_acl(found)


def check_acl(acl: AccessList) -> AccessList:
    """The list, if a directory can have it; EINVAL for unknown rights or too many entries."""
    sides = (acl.positive, acl.negative)
    if sum(map(len, sides)) > MAX_ACL_ENTRIES:
        raise AfsError(
            AfsCode.EINVAL,
            f"access list of {sum(map(len, sides))} entries: expected at most {MAX_ACL_ENTRIES}",
        )
    for side in sides:
        for each, rights in side.items():
            if not -(2**31) <= each < 2**31 or not 0 < int(rights) <= int(ALL_RIGHTS):
                raise AfsError(
                    AfsCode.EINVAL, f"access list: id {each} with rights {int(rights)}: no such"
                )
    return acl


def rights_on(acl: str, caller: Caller, *, volume_owner: int) -> Right:
    """What a caller may do in a directory with this access list.

    Args:
        acl: as it is kept; "" for a directory without one of its own.
        caller: who asks.
        volume_owner: id of the owner of the volume's root directory; 0: nobody.
    """
    return Right(bits_on(acl, caller, volume_owner=volume_owner))


def bits_on(acl: str, caller: Caller, *, volume_owner: int) -> int:
    """`rights_on` as a number, for who asks with every call: flags are slow."""
    owns_volume = volume_owner != 0 and volume_owner == caller.user_id
    return _bits(acl, caller.ids, caller.is_administrator, owns_volume)


@lru_cache(maxsize=65536)
def _bits(acl: str, ids: frozenset[int], is_administrator: bool, owns_volume: bool) -> int:  # noqa: FBT001
    parsed = parse_acl(acl)
    rights = parsed.rights_of(ids)
    if is_administrator:
        # A superuser by configuration need not be a member of the group.
        rights |= parsed.rights_of((ADMINISTRATORS_ID,))
    if is_administrator or owns_volume:
        rights |= _ALWAYS
    return int(rights)


def letters(rights: Right) -> str:
    """The rights as people write them: "rlidwk"; empty for none."""
    return "".join(letter for letter, right in LETTERS.items() if rights & right)


def rights_from_letters(text: str) -> Right:
    """The rights that letters ("rl") or a word ("write") stand for; EINVAL for anything else."""
    if text in WORDS:
        return WORDS[text]
    rights = Right.NONE
    for letter in text:
        if letter not in LETTERS:
            raise AfsError(
                AfsCode.EINVAL,
                f"rights {text!r}: expected letters of {''.join(LETTERS)},"
                f" or one of {', '.join(WORDS)}",
            )
        rights |= LETTERS[letter]
    return rights


def _bad(text: str) -> AfsError:
    return AfsError(AfsCode.EINVAL, f"access list {text[:80]!r}: expected +ID:BITS and -ID:BITS")
