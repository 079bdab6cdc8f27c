"""The protection database: users, groups, who may change them, and that ids are not given twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from afs.access.caller import (
    ADMINISTRATORS_ID,
    ANONYMOUS,
    ANYUSER_ID,
    AUTHUSER_ID,
    UNKNOWN_USER_IDS,
    Caller,
)
from afs.errors import AfsCode, AfsError
from afs.limits import GROUP_QUOTA
from volserverd.ptdb.store import ProtectionStore

NOW_NS = 10**18
ROOT = Caller("root", 0, UNKNOWN_USER_IDS, is_administrator=True)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ProtectionStore]:
    """A database with the users alice (1) and bob (2)."""
    opened = ProtectionStore.open(tmp_path / "ptdb.sqlite3")
    for name in ("alice", "bob"):
        opened.create_user(ROOT, name, 0, NOW_NS)
    yield opened
    opened.close()


def caller(store: ProtectionStore, name: str) -> Caller:
    """A user as a door would know them."""
    user_id, ids = store.membership(ROOT, name)
    return Caller(name, user_id, ids, is_administrator=ADMINISTRATORS_ID in ids)


def refused(code: AfsCode, text: str = "") -> pytest.RaisesExc[AfsError]:
    """Expects an AfsError of this code whose detail contains the text."""
    return pytest.RaisesExc(
        AfsError, check=lambda error: error.code is code and text in error.detail
    )


def names(store: ProtectionStore) -> list[str]:
    """All names, in order."""
    return [entry.principal.name for entry in store.entries("", 0)]


def test_cell_has_its_groups_from_the_start(store: ProtectionStore) -> None:
    """The three groups of every cell are there under their numbers, and stay as they are."""
    system = [name for name in names(store) if name.startswith("system:")]
    assert system == ["system:administrators", "system:anyuser", "system:authuser"]
    assert store.examine("system:administrators").principal.id == ADMINISTRATORS_ID
    for name in system:
        with refused(AfsCode.EPERM, "every cell has it"):
            store.delete(ROOT, name)
        with refused(AfsCode.EPERM):
            store.rename(ROOT, name, "system:others")


def test_membership_is_all_that_counts_for_a_users_rights(store: ProtectionStore) -> None:
    """Their own id, their groups', and the two that everybody is in; a stranger has only those."""
    group = store.create_group(ROOT, "staff", "", NOW_NS).principal
    store.add_member(ROOT, "staff", "alice")
    assert store.membership(ROOT, "alice") == (
        1,
        frozenset({1, group.id, ANYUSER_ID, AUTHUSER_ID}),
    )
    assert store.membership(ROOT, "carol") == (0, UNKNOWN_USER_IDS)
    assert store.membership(ROOT, "staff") == (0, UNKNOWN_USER_IDS)
    store.remove_member(ROOT, "staff", "1")
    assert store.membership(ROOT, "alice") == (1, frozenset({1, ANYUSER_ID, AUTHUSER_ID}))


def test_ids_are_not_given_twice(tmp_path: Path) -> None:
    """A new user does not get a dead one's rights, over a restart neither."""
    with closing(ProtectionStore.open(tmp_path / "ptdb.sqlite3")) as store:
        store.create_user(ROOT, "alice", 0, NOW_NS)
        store.create_group(ROOT, "staff", "", NOW_NS)
        store.delete(ROOT, "alice")
        store.delete(ROOT, "staff")
    with closing(ProtectionStore.open(tmp_path / "ptdb.sqlite3")) as store:
        assert store.create_user(ROOT, "alice", 0, NOW_NS).principal.id == 2
        assert store.create_group(ROOT, "staff", "", NOW_NS).principal.id == -207
        with refused(AfsCode.EEXIST, "not given twice"):
            store.create_user(ROOT, "eve", 1, NOW_NS)


def test_ids_can_be_chosen(store: ProtectionStore) -> None:
    """A user can have the number that they have elsewhere; the next one is beyond it."""
    assert store.create_user(ROOT, "carol", 1000, NOW_NS).principal.id == 1000
    assert store.create_user(ROOT, "dave", 0, NOW_NS).principal.id == 1001
    for wanted in (-1, 2**31, 32766):
        with refused(AfsCode.EINVAL):
            store.create_user(ROOT, "eve", wanted, NOW_NS)
    store.create_user(ROOT, "frank", 32765, NOW_NS)
    assert store.create_user(ROOT, "grace", 0, NOW_NS).principal.id == 32767


def test_names_are_taken_once(store: ProtectionStore) -> None:
    """Of users and groups together; what no name can be is refused."""
    with refused(AfsCode.EEXIST):
        store.create_user(ROOT, "alice", 0, NOW_NS)
    with refused(AfsCode.EEXIST):
        store.create_group(ROOT, "alice", "", NOW_NS)
    for name in ("", "a:b", "afs.daemon", "x" * 64):
        with refused(AfsCode.EINVAL):
            store.create_user(ROOT, name, 0, NOW_NS)
    assert names(store)[:2] == ["alice", "bob"]


def test_users_have_groups_of_their_own(store: ProtectionStore) -> None:
    """A user makes groups under their name, and says who is in them; others do not."""
    alice, bob = caller(store, "alice"), caller(store, "bob")
    entry = store.create_group(alice, "alice:friends", "", NOW_NS)
    assert (entry.owner_name, entry.creator_id) == ("alice", 1)
    store.add_member(alice, "alice:friends", "bob")
    for name in ("friends", "bob:friends", "system:friends"):
        with refused(AfsCode.EINVAL, "expected alice:friends"):
            store.create_group(alice, name, "", NOW_NS)
    with refused(AfsCode.EPERM):
        store.create_group(alice, "bob:friends", "bob", NOW_NS)
    for change in (
        lambda: store.add_member(bob, "alice:friends", "alice"),
        lambda: store.rename(bob, "alice:friends", "bob:friends"),
        lambda: store.delete(bob, "alice:friends"),
        lambda: store.change_owner(bob, "alice:friends", "bob"),
    ):
        with refused(AfsCode.EPERM, "bob may not"):
            change()
    with refused(AfsCode.RXKADNOAUTH):
        store.add_member(ANONYMOUS, "alice:friends", "alice")


def test_members_may_leave_and_see_each_other(store: ProtectionStore) -> None:
    """A member removes themselves; members and owners see who is in a group, others do not."""
    alice, bob = caller(store, "alice"), caller(store, "bob")
    store.create_group(alice, "alice:friends", "", NOW_NS)
    with refused(AfsCode.EPERM):
        store.members(bob, "alice:friends")
    store.add_member(alice, "alice:friends", "bob")
    bob = caller(store, "bob")
    assert [each.name for each in store.members(bob, "alice:friends")] == ["bob"]
    assert [each.name for each in store.members(bob, "bob")] == ["alice:friends"]
    with refused(AfsCode.EPERM):
        store.members(alice, "bob")
    with refused(AfsCode.EPERM):
        store.membership(alice, "bob")
    store.remove_member(bob, "alice:friends", "bob")
    with refused(AfsCode.ENOENT, "not in"):
        store.remove_member(bob, "alice:friends", "bob")


def test_what_does_not_go_together_is_refused(store: ProtectionStore) -> None:
    """Groups in groups, users as groups, members of everybody, the same member twice."""
    store.create_group(ROOT, "staff", "", NOW_NS)
    store.add_member(ROOT, "staff", "alice")
    with refused(AfsCode.EEXIST):
        store.add_member(ROOT, "staff", "alice")
    for group, user in (("staff", "staff"), ("alice", "bob"), ("system:anyuser", "bob")):
        with refused(AfsCode.EINVAL):
            store.add_member(ROOT, group, user)
    with refused(AfsCode.ENOENT):
        store.add_member(ROOT, "staff", "nobody")
    for owner in ("system:anyuser", "staff"):
        with refused(AfsCode.EINVAL):
            store.change_owner(ROOT, "staff", owner)
    with refused(AfsCode.EINVAL):
        store.change_owner(ROOT, "alice", "bob")
    with refused(AfsCode.EINVAL):
        store.create_group(ROOT, "some", "system:authuser", NOW_NS)


def test_groups_are_renamed_with_their_owner(store: ProtectionStore) -> None:
    """OWNER:NAME goes on telling the truth when the owner is renamed or another one."""
    alice = caller(store, "alice")
    group = store.create_group(alice, "alice:friends", "", NOW_NS).principal
    store.add_member(alice, "alice:friends", "alice")
    store.create_group(ROOT, "alice:theirs", "alice:friends", NOW_NS)
    store.rename(ROOT, "alice", "alicia")
    assert {"alicia:friends", "alicia:theirs"} <= set(names(store))
    alicia = caller(store, "alicia")
    assert store.change_owner(alicia, "alicia:friends", "bob").principal.name == "bob:friends"
    assert {"bob:friends", "bob:theirs"} <= set(names(store))
    assert store.examine(str(group.id)).principal.name == "bob:friends"
    with refused(AfsCode.EPERM):
        store.rename(alicia, "bob:friends", "alicia:friends")
    bob = caller(store, "bob")
    with refused(AfsCode.EINVAL):
        store.rename(bob, "bob:friends", "alicia:friends")
    assert store.rename(bob, "bob:friends", "bob:pals").principal.name == "bob:pals"


def test_renaming_that_would_take_a_name_changes_nothing(store: ProtectionStore) -> None:
    """Where one of the names is taken, none is changed."""
    store.create_group(ROOT, "alice:friends", "alice", NOW_NS)
    store.create_user(ROOT, "alicia", 0, NOW_NS)
    store.create_group(ROOT, "alicia:friends", "alicia", NOW_NS)
    before = names(store)
    with refused(AfsCode.EEXIST):
        store.change_owner(ROOT, "alice:friends", "alicia")
    assert names(store) == before
    assert store.examine("alice:friends").owner_name == "alice"


def test_what_the_dead_owned_is_the_administrators(store: ProtectionStore) -> None:
    """A deleted user's groups stay, for administrators to care for."""
    alice = caller(store, "alice")
    store.create_group(alice, "alice:friends", "", NOW_NS)
    with refused(AfsCode.EPERM):
        store.delete(alice, "alice")
    store.delete(ROOT, "alice")
    assert store.examine("alice:friends").owner_name == ""
    with refused(AfsCode.EPERM):
        store.delete(alice, "alice:friends")
    assert store.rename(ROOT, "alice:friends", "friends").principal.name == "friends"
    store.delete(ROOT, "friends")


def test_users_own_so_many_groups(store: ProtectionStore) -> None:
    """A user fills no database; administrators may."""
    alice = caller(store, "alice")
    for number in range(GROUP_QUOTA):
        store.create_group(alice, f"alice:{number}", "", NOW_NS)
    with refused(AfsCode.VLIMIT):
        store.create_group(alice, "alice:more", "", NOW_NS)
    store.create_group(ROOT, "alice:more", "alice", NOW_NS)
    stranger = Caller("carol", 0, UNKNOWN_USER_IDS)
    with refused(AfsCode.EPERM, "not in the protection database"):
        store.create_group(stranger, "carol:friends", "", NOW_NS)


def test_names_and_ids_are_translated(store: ProtectionStore) -> None:
    """Those that there are; too many at once are refused."""
    found = store.translate(["alice", "nobody"], [2, 77, ANYUSER_ID])
    assert {each.name for each in found} == {"alice", "bob", "system:anyuser"}
    with refused(AfsCode.EINVAL):
        store.translate(["x"] * 1001, [])
    with refused(AfsCode.EINVAL):
        store.entries("", 1001)
    assert [each.principal.name for each in store.entries("alice", 1)] == ["bob"]
