"""Tests of the table of methods and rights."""

from __future__ import annotations

import pytest

from afs.access.acl import Right
from afs.access.caller import ANONYMOUS, ANYUSER_ID, AUTHUSER_ID, Caller
from afs.access.requirements import REQUIREMENTS, Requirement, Who, file_server_rights
from afs.errors import AfsCode, AfsError

ALICE = Caller("alice", 1, frozenset({1, ANYUSER_ID, AUTHUSER_ID}))
ROOT = Caller("root", 0, frozenset({ANYUSER_ID, AUTHUSER_ID}), is_administrator=True)


@pytest.mark.parametrize(
    ("who", "caller", "code"),
    [
        (Who.ANYONE, ANONYMOUS, None),
        (Who.ACCESS_LIST, ANONYMOUS, None),
        (Who.OWN, ANONYMOUS, None),
        (Who.AUTHENTICATED, ANONYMOUS, AfsCode.RXKADNOAUTH),
        (Who.AUTHENTICATED, ALICE, None),
        (Who.ADMINISTRATOR, ANONYMOUS, AfsCode.RXKADNOAUTH),
        (Who.ADMINISTRATOR, ALICE, AfsCode.EPERM),
        (Who.ADMINISTRATOR, ROOT, None),
    ],
)
def test_who_may_call(who: Who, caller: Caller, code: AfsCode | None) -> None:
    """Nobody is told to log in, a user that a method is not for them; the rest is the method's."""
    requirement = Requirement(who)
    if code is None:
        requirement.check(caller, "/x/Y")
        return
    with pytest.raises(AfsError, match="Y") as caught:
        requirement.check(caller, "/x/Y")
    assert caught.value.code is code


def test_rights_are_asked_for_where_access_lists_decide() -> None:
    """A method decided by access lists names a right, and no other does."""
    for method, requirement in REQUIREMENTS.items():
        assert bool(requirement.rights) == (requirement.who is Who.ACCESS_LIST), method
    assert file_server_rights("FetchData") is Right.READ
