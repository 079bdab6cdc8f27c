"""The protection database: users and groups by name and id, durable when answered.

Synchronous; used by one thread at a time. What a caller may do is decided in the transaction that
does it (`volserverd.core.protection_rules`). Errors of the disk as of `EmbeddedDatabase`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from afs.access.caller import (
    ADMINISTRATORS_ID,
    ANONYMOUS_ID,
    DAEMON_NAME,
    UNKNOWN_USER_IDS,
    Caller,
)
from afs.access.names import check_group_name, check_user_name
from afs.errors import AfsCode, AfsError
from afs.limits import (
    GROUP_QUOTA,
    MAX_GROUPS_OF_USER,
    MAX_MEMBERS_OF_GROUP,
    MAX_PROTECTION_ENTRIES,
)
from volserverd.core import protection_rules as rules
from volserverd.core.protection_rules import Principal
from volserverd.embedded_database import EmbeddedDatabase
from volserverd.ptdb.schema import FIRST_GROUP_ID, PROTECTION_DATABASE

_MAX_ID: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class ProtectionEntry:
    """A user or group as it is shown.

    `owner_name` is "" where administrators own it; `member_count` counts a group's members, or a
    user's groups. `created_ns` counts from the Unix epoch.
    """

    principal: Principal
    owner_name: str
    creator_id: int
    created_ns: int
    member_count: int


class ProtectionStore:
    """The protection database in one SQLite file.

    Args:
        database: the open file.
    """

    def __init__(self, database: EmbeddedDatabase) -> None:
        self._database = database
        self._connection = database.connection
        self._one, self._execute = database.one, database.execute

    @classmethod
    def open(cls, path: Path) -> ProtectionStore:
        """Opens the database file, made anew if there is none; errors as `EmbeddedDatabase`."""
        return cls(EmbeddedDatabase(PROTECTION_DATABASE, path))

    def close(self) -> None:
        """Lets go of the file."""
        self._database.close()

    # --- asking -----------------------------------------------------------------------------------

    def examine(self, text: str) -> ProtectionEntry:
        """A user or group by name or id. ENOENT."""
        with self._database.reading():
            return self._shown(self._find(text))

    def entries(self, after: str, limit: int) -> list[ProtectionEntry]:
        """Up to `limit` entries whose names sort after `after`, by their bytes.

        Raises:
            AfsError: EINVAL for a limit outside 0 to MAX_PROTECTION_ENTRIES; 0 means that many.
        """
        if not 0 <= limit <= MAX_PROTECTION_ENTRIES:
            raise AfsError(AfsCode.EINVAL, f"limit {limit}: expected 0 to {MAX_PROTECTION_ENTRIES}")
        with self._database.reading():
            rows = self._connection.execute(
                "SELECT id, name, owner_id FROM entries WHERE name > ? ORDER BY name LIMIT ?",
                (after, limit or MAX_PROTECTION_ENTRIES),
            ).fetchall()
            return [self._shown(Principal(*row)) for row in rows]

    def translate(self, names: Sequence[str], ids: Sequence[int]) -> list[Principal]:
        """The entries of these names and ids, as far as there are any."""
        if len(names) + len(ids) > MAX_PROTECTION_ENTRIES:
            raise AfsError(
                AfsCode.EINVAL,
                f"{len(names) + len(ids)} names and ids: expected <= {MAX_PROTECTION_ENTRIES}",
            )
        found: dict[int, Principal] = {}
        with self._database.reading():
            for column, values in (("name", names), ("id", ids)):
                for value in values:
                    principal = self._by(column, value)
                    if principal is not None:
                        found[principal.id] = principal
        return list(found.values())

    def membership(self, caller: Caller, name: str) -> tuple[int, frozenset[int]]:
        """A user's id, and all ids that count for their rights; 0 where there is no such user."""
        rules.check_asks_about(caller, name)
        with self._database.reading():
            user = self._by("name", name)
            if user is None or user.is_group:
                return 0, UNKNOWN_USER_IDS
            groups = self._groups_of(user)
        return user.id, UNKNOWN_USER_IDS | {user.id, *(group.id for group in groups)}

    def members(self, caller: Caller, text: str) -> list[Principal]:
        """The members of a group, or the groups of a user, in order of their names."""
        with self._database.reading():
            entry = self._find(text)
            rules.check_sees_members(caller, entry)
            return self._members_of(entry) if entry.is_group else self._groups_of(entry)

    # --- changing ---------------------------------------------------------------------------------

    def create_user(self, caller: Caller, name: str, wanted: int, now_ns: int) -> ProtectionEntry:
        """Adds a user; with `wanted` 0 the id is the next one.

        Raises:
            AfsError: EEXIST for a name or an id that is or was taken; EINVAL for what none can be.
        """
        check_user_name(name)
        if name == DAEMON_NAME:
            raise AfsError(AfsCode.EINVAL, f"user name {name!r}: it is the cell's daemons'")
        if wanted in (ANONYMOUS_ID,) or not 0 <= wanted <= _MAX_ID:
            raise AfsError(
                AfsCode.EINVAL, f"user id {wanted}: expected 1 to {_MAX_ID}, not {ANONYMOUS_ID}"
            )
        with self._database.changing():
            number = wanted or self._next_user_id()
            return self._add(caller, Principal(number, name), now_ns)

    def create_group(self, caller: Caller, name: str, owner: str, now_ns: int) -> ProtectionEntry:
        """Adds a group; an empty `owner` is the caller.

        Raises:
            AfsError: EEXIST; EINVAL for a name that is not the owner's; ENOENT, EPERM for the
                owner; VLIMIT beyond the caller's GROUP_QUOTA.
        """
        check_group_name(name)
        with self._database.changing():
            owned_by = self._owner(caller, owner)
            rules.check_owner(caller, owned_by)
            rules.check_group_belongs(caller, name, owned_by)
            if not caller.is_administrator:
                self._check_quota(owned_by)
            lowest = self._one("SELECT min(id) FROM ids")
            assert lowest is not None, "every cell has groups"
            number = min(lowest[0] - 1, FIRST_GROUP_ID)
            return self._add(caller, Principal(number, name, owned_by.id), now_ns)

    def delete(self, caller: Caller, text: str) -> None:
        """Deletes a user or group; what it owned is the administrators' from then on."""
        with self._database.changing():
            entry = self._find(text)
            rules.check_changes(caller, entry)
            self._execute("UPDATE entries SET owner_id = 0 WHERE owner_id = ?", entry.id)
            self._execute("DELETE FROM entries WHERE id = ?", entry.id)

    def add_member(self, caller: Caller, group: str, user: str) -> None:
        """Adds a user to a group. EEXIST; VLIMIT for too many of either."""
        with self._database.changing():
            into, member = self._find(group), self._find(user)
            rules.check_members(caller, into, member, removes=False)
            for column, entry, most in (
                ("group_id", into, MAX_MEMBERS_OF_GROUP),
                ("user_id", member, MAX_GROUPS_OF_USER),
            ):
                if self._count(column, entry.id) >= most:
                    raise AfsError(AfsCode.VLIMIT, f"{entry.name} has {most}: that is the limit")
            if self._is_member(into, member):
                raise AfsError(AfsCode.EEXIST, f"{member.name} is in {into.name}")
            self._execute("INSERT INTO members VALUES (?, ?)", into.id, member.id)

    def remove_member(self, caller: Caller, group: str, user: str) -> None:
        """Removes a user from a group. ENOENT if they are not in it."""
        with self._database.changing():
            out_of, member = self._find(group), self._find(user)
            rules.check_members(caller, out_of, member, removes=True)
            if not self._is_member(out_of, member):
                raise AfsError(AfsCode.ENOENT, f"{member.name} is not in {out_of.name}")
            self._execute(
                "DELETE FROM members WHERE group_id = ? AND user_id = ?", out_of.id, member.id
            )

    def rename(self, caller: Caller, text: str, new_name: str) -> ProtectionEntry:
        """Renames a user or group, and what has the name in front of its own along. EEXIST."""
        with self._database.changing():
            entry = self._find(text)
            rules.check_changes(caller, entry)
            if entry.is_group:
                check_group_name(new_name)
                if not caller.is_administrator:
                    rules.check_group_belongs(caller, new_name, self._owner_of(entry))
            else:
                check_user_name(new_name)
            self._set_name(entry, new_name)
            renamed = Principal(entry.id, new_name, entry.owner_id)
            self._rename_owned(renamed)
            return self._shown(renamed)

    def change_owner(self, caller: Caller, text: str, owner: str) -> ProtectionEntry:
        """Gives a group another owner, and the owner's name in front of its own."""
        with self._database.changing():
            group = self._find(text)
            if not group.is_group:
                raise AfsError(AfsCode.EINVAL, f"{group.name} is a user: expected a group")
            rules.check_changes(caller, group)
            # Whoever owns it may give it to anybody. Source: pts_chown(1).
            owned_by = self._find(owner)
            if owned_by.id in rules.IMPLICIT_GROUPS or owned_by.id == group.id:
                raise AfsError(AfsCode.EINVAL, f"{owned_by.name} cannot own {group.name}")
            self._execute("UPDATE entries SET owner_id = ? WHERE id = ?", owned_by.id, group.id)
            name = group.name
            if ":" in name:
                name = f"{rules.prefix_of(owned_by)}:{name.rpartition(':')[2]}"
                self._set_name(group, name)
            changed = Principal(group.id, name, owned_by.id)
            self._rename_owned(changed)
            return self._shown(changed)

    # --- inside a transaction ---------------------------------------------------------------------

    def _find(self, text: str) -> Principal:
        try:
            found = self._by("id", int(text))
        except (ValueError, OverflowError):
            found = self._by("name", text)
        if found is None:
            raise AfsError(AfsCode.ENOENT, f"the cell has no user or group {text[:80]!r}")
        return found

    def _by(self, column: str, value: object) -> Principal | None:
        row = self._one(
            f"SELECT id, name, owner_id FROM entries WHERE {column} = ?",  # noqa: S608 ours
            value,
        )
        return None if row is None else Principal(*row)

    def _owner(self, caller: Caller, text: str) -> Principal:
        """Whom a new group is to belong to."""
        if text:
            return self._find(text)
        if caller.user_id > 0:
            return self._find(str(caller.user_id))
        if caller.is_administrator:
            return self._find(str(ADMINISTRATORS_ID))
        raise AfsError(AfsCode.EPERM, f"{caller.name} is not in the protection database")

    def _owner_of(self, group: Principal) -> Principal:
        return self._find(str(group.owner_id or ADMINISTRATORS_ID))

    def _check_quota(self, owner: Principal) -> None:
        row = self._one("SELECT count(*) FROM entries WHERE owner_id = ?", owner.id)
        if row is not None and row[0] >= GROUP_QUOTA:
            raise AfsError(AfsCode.VLIMIT, f"{owner.name} owns {row[0]} groups: that is the limit")

    def _next_user_id(self) -> int:
        row = self._one("SELECT max(id) FROM ids WHERE id > 0")
        number = (row[0] or 0) + 1 if row is not None else 1
        number += number == ANONYMOUS_ID
        if number > _MAX_ID:
            raise AfsError(AfsCode.VLIMIT, "all user ids were given")
        return int(number)

    def _add(self, caller: Caller, entry: Principal, now_ns: int) -> ProtectionEntry:
        self._check_free(entry.name)
        if self._one("SELECT 1 FROM ids WHERE id = ?", entry.id):
            raise AfsError(
                AfsCode.EEXIST, f"id {entry.id} was given before: ids are not given twice"
            )
        self._execute("INSERT INTO ids VALUES (?)", entry.id)
        self._execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?)",
            entry.id,
            entry.name,
            entry.owner_id,
            caller.user_id,
            now_ns,
        )
        return self._shown(entry)

    def _check_free(self, name: str) -> None:
        if self._one("SELECT 1 FROM entries WHERE name = ?", name):
            raise AfsError(AfsCode.EEXIST, f"{name} exists")

    def _set_name(self, entry: Principal, name: str) -> None:
        if name != entry.name:
            self._check_free(name)
            self._execute("UPDATE entries SET name = ? WHERE id = ?", name, entry.id)

    def _rename_owned(self, owner: Principal) -> None:
        """Gives the groups of an owner the owner's name in front, and theirs in turn."""
        prefix = rules.prefix_of(owner)
        rows = self._connection.execute(
            "SELECT id, name, owner_id FROM entries WHERE owner_id = ? AND id <> ?",
            (owner.id, owner.id),
        ).fetchall()
        for group in (Principal(*row) for row in rows):
            before, colon, rest = group.name.rpartition(":")
            if colon and before != prefix:
                name = check_group_name(f"{prefix}:{rest}")
                self._set_name(group, name)
                self._rename_owned(Principal(group.id, name, group.owner_id))

    def _is_member(self, group: Principal, user: Principal) -> bool:
        return bool(
            self._one("SELECT 1 FROM members WHERE group_id = ? AND user_id = ?", group.id, user.id)
        )

    def _count(self, column: str, number: int) -> int:
        row: Any = self._one(
            f"SELECT count(*) FROM members WHERE {column} = ?",  # noqa: S608 ours
            number,
        )
        return int(row[0])

    def _members_of(self, group: Principal) -> list[Principal]:
        return self._joined("user_id", "group_id", group.id)

    def _groups_of(self, user: Principal) -> list[Principal]:
        return self._joined("group_id", "user_id", user.id)

    def _joined(self, shown: str, given: str, number: int) -> list[Principal]:
        rows = self._connection.execute(
            "SELECT entries.id, name, owner_id FROM members"  # noqa: S608 ours
            f" JOIN entries ON entries.id = members.{shown} WHERE {given} = ? ORDER BY name",
            (number,),
        )
        return [Principal(*row) for row in rows]

    def _shown(self, entry: Principal) -> ProtectionEntry:
        row = self._one("SELECT creator_id, created_ns FROM entries WHERE id = ?", entry.id)
        assert row is not None, "the entry was read in the same transaction"
        owner = self._by("id", entry.owner_id)
        column = "group_id" if entry.is_group else "user_id"
        return ProtectionEntry(
            entry,
            "" if owner is None else owner.name,
            creator_id=row[0],
            created_ns=row[1],
            member_count=self._count(column, entry.id),
        )
