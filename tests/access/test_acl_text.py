"""Tests of access lists with names, as FetchACL and StoreACL have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afs.access.acl import AccessList, Right
from afs.access.acl_text import NamedAcl, by_id, named, parse_named_acl
from afs.errors import AfsCode, AfsError
from afs.limits import MAX_ACL_ENTRIES

_SIDES = st.dictionaries(
    st.from_regex(r"[a-z0-9:.@_-]+", fullmatch=True), st.integers(1, 127).map(Right), max_size=9
)


@given(positive=_SIDES, negative=_SIDES)
def test_text_is_read_again(positive: dict[str, Right], negative: dict[str, Right]) -> None:
    """What is written is what is read."""
    acl = NamedAcl(positive, negative)
    assert parse_named_acl(acl.text()) == acl
    assert acl.names() == {*positive, *negative}


def test_text_is_that_of_afs() -> None:
    """Two counts, and a name and its bits a line."""
    acl = NamedAcl({"system:anyuser": Right.READ | Right.LOOKUP}, {"bob": Right.READ})
    assert acl.text() == "1\n1\nsystem:anyuser\t9\nbob\t1\n"


@pytest.mark.parametrize(
    "text",
    ["", "1", "x\n0\n", "-1\n1\n", "1\n0\n", "1\n0\na 1\n", "1\n0\na\t128\n", "1\n0\na\t0\n",
     "1\n0\n\t1\n", "0\n0\na\t1\n", "2\n0\na\t1\na\t1\n", f"{MAX_ACL_ENTRIES + 1}\n0\n",
     "1\n0\na\t²\n"],
)  # fmt: skip
def test_text_that_is_none_is_refused(text: str) -> None:
    """Wrong counts, lines, rights, and names that stand there twice."""
    with pytest.raises(AfsError) as caught:
        parse_named_acl(text)
    assert caught.value.code is AfsCode.EINVAL


def test_names_and_ids() -> None:
    """Ids without a name stand there as numbers, and are found again by them."""
    acl = AccessList({1: Right.READ, -207: Right.WRITE}, {7: Right.READ})
    shown = named(acl, {1: "alice", -207: "alice:friends"})
    assert shown.positive == {"alice": Right.READ, "alice:friends": Right.WRITE}
    assert shown.negative == {"7": Right.READ}
    ids = {"alice": 1, "alice:friends": -207, "7": 7}
    assert by_id(shown, ids) == acl
    with pytest.raises(AfsError, match="has no 'eve'"):
        by_id(NamedAcl({"eve": Right.READ}), ids)
    with pytest.raises(AfsError, match="twice"):
        by_id(NamedAcl({"alice": Right.READ, "1": Right.READ}), {**ids, "1": 1})
