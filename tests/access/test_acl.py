"""Tests of access lists: what they give, what they deny, and how they are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afs.access.acl import (
    ALL_RIGHTS,
    DEFAULT_LIST,
    LETTERS,
    AccessList,
    Right,
    check_acl,
    letters,
    parse_acl,
    rights_from_letters,
    rights_on,
)
from afs.access.caller import ADMINISTRATORS_ID, ANONYMOUS, ANYUSER_ID, AUTHUSER_ID, Caller
from afs.errors import AfsCode, AfsError
from afs.limits import MAX_ACL_ENTRIES

ALICE = Caller("alice", 1, frozenset({1, -207, ANYUSER_ID, AUTHUSER_ID}))
ROOT = Caller(
    "root", 2, frozenset({2, ADMINISTRATORS_ID, ANYUSER_ID, AUTHUSER_ID}), is_administrator=True
)
SUPERUSER = Caller("super", 0, frozenset({ANYUSER_ID, AUTHUSER_ID}), is_administrator=True)

_SIDES = st.dictionaries(
    st.integers(-(2**31), 2**31 - 1), st.integers(1, 127).map(Right), max_size=20
)


def rights(acl: AccessList, caller: Caller, volume_owner: int = 0) -> str:
    """What a caller has, in letters."""
    return letters(rights_on(acl.text(), caller, volume_owner=volume_owner))


def test_rights_of_all_groups_add_up() -> None:
    """A caller has what their own entry, their groups' and system:anyuser's give together."""
    acl = AccessList({1: Right.READ, -207: Right.WRITE, ANYUSER_ID: Right.LOOKUP, 3: ALL_RIGHTS})
    assert rights(acl, ALICE) == "rlw"
    assert rights(acl, ANONYMOUS) == "l"


def test_negative_rights_win() -> None:
    """What is denied to any of the caller's ids they have not, whoever gives it."""
    acl = AccessList({AUTHUSER_ID: ALL_RIGHTS}, {-207: Right.WRITE | Right.ADMINISTER})
    assert rights(acl, ALICE) == "rlidk"
    assert rights(acl, ANONYMOUS) == ""


def test_administrators_and_the_volumes_owner_can_always_look_and_change_the_list() -> None:
    """They have l and a whatever the list says, and nothing else by that."""
    acl = AccessList({AUTHUSER_ID: Right.READ}, {1: ALL_RIGHTS, ADMINISTRATORS_ID: ALL_RIGHTS})
    assert rights(acl, ALICE) == ""
    assert rights(acl, ALICE, volume_owner=1) == "la"
    assert rights(acl, ALICE, volume_owner=2) == ""
    assert rights(acl, ROOT) == "la"
    assert rights(AccessList({3: ALL_RIGHTS}), ANONYMOUS, volume_owner=0) == ""
    assert rights(AccessList(), ALICE) == ""


def test_superuser_counts_as_an_administrator() -> None:
    """Who is one by configuration has what the list gives to system:administrators."""
    assert rights(AccessList({ADMINISTRATORS_ID: ALL_RIGHTS}), SUPERUSER) == "rlidwka"
    assert rights(AccessList({1: ALL_RIGHTS}), SUPERUSER) == "la"


def test_directory_without_a_list_is_the_administrators() -> None:
    """The empty text stands for the list of a new volume."""
    assert parse_acl("") is DEFAULT_LIST
    assert letters(rights_on("", ROOT, volume_owner=0)) == "rlidwka"
    assert letters(rights_on("", ALICE, volume_owner=0)) == ""


@given(positive=_SIDES, negative=_SIDES)
def test_list_is_kept_as_one_text(positive: dict[int, Right], negative: dict[int, Right]) -> None:
    """Whatever the order in which it was made, a list has one text, and is read from it again."""
    acl = AccessList(positive, negative)
    again = AccessList(dict(reversed(positive.items())), dict(reversed(negative.items())))
    assert acl.text() == again.text()
    assert parse_acl(acl.text()) == acl


@pytest.mark.parametrize(
    "text",
    [" ", "1:7", "+1", "+1:7 ", "+2:7 +1:7", "-1:7 +1:7", "+1:0", "+1:128", "+1:x", "+1:7:7",
     "*1:7", "+01:7", "+4294967296:7", "+1:7  +2:7", "+ 1:7", "None"],
)  # fmt: skip
def test_text_that_nobody_wrote_is_refused(text: str) -> None:
    """Only what `text` writes is read: a list that is kept has one form."""
    with pytest.raises(AfsError) as caught:
        parse_acl(text)
    assert caught.value.code is AfsCode.EINVAL


def test_list_is_bounded() -> None:
    """A directory's list has at most so many entries, positive and negative."""
    half = dict.fromkeys(range(1, MAX_ACL_ENTRIES // 2 + 1), Right.READ)
    assert check_acl(AccessList(half, half)).positive == half
    with pytest.raises(AfsError, match="entries"):
        check_acl(AccessList({**half, 0: Right.READ}, half))


@given(st.integers(0, 127).map(Right))
def test_letters_stand_for_rights(some: Right) -> None:
    """Rights are written in letters, and read again in any order."""
    assert rights_from_letters(letters(some)) == some
    assert rights_from_letters(letters(some)[::-1]) == some


def test_words_stand_for_rights() -> None:
    """The four words of AFS, and nothing else."""
    words = {word: letters(rights_from_letters(word)) for word in ("all", "none", "read", "write")}
    assert words == {"all": "".join(LETTERS), "none": "", "read": "rl", "write": "rlidwk"}
    with pytest.raises(AfsError, match="letters"):
        rights_from_letters("rx")
