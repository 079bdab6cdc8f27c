"""Tests of the names that users and groups can have."""

from __future__ import annotations

import pytest

from afs.access.names import MAX_NAME_CHARS, check_group_name, check_user_name
from afs.errors import AfsError


@pytest.mark.parametrize("name", ["alice", "a", "Alice_2", "alice@login", "x" * MAX_NAME_CHARS])
def test_user_names(name: str) -> None:
    """Letters, digits and a few signs."""
    assert check_user_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "a:b", "@a", "a b", "a\n", "é", "x" * (MAX_NAME_CHARS + 1), "-a", "a/b"]
)
def test_what_no_user_is_called(name: str) -> None:
    """Colons are for groups; what looks like an option, a path or a blank is nobody's."""
    with pytest.raises(AfsError, match="user name"):
        check_user_name(name)


@pytest.mark.parametrize("name", ["staff", "alice:friends", "system:anyuser"])
def test_group_names(name: str) -> None:
    """With or without an owner."""
    assert check_group_name(name) == name


@pytest.mark.parametrize("name", ["", ":", "a:", ":a", "a:b:c", "a: b", "x" * 70])
def test_what_no_group_is_called(name: str) -> None:
    """An owner and a name, each a name."""
    with pytest.raises(AfsError, match="group name"):
        check_group_name(name)
