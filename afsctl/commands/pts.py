"""`afsctl pts`: users and groups of the cell. Source: the commands of AFS's `pts`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from afs.v1 import protection_pb2 as pb
from afs.v1 import protection_pb2_grpc
from afsctl.addresses import (
    DEFAULT_CELL_DIR,
    CellDirOption,
    Door,
    LocationOption,
    find_address,
)
from afsctl.channels import channel_to
from afsctl.output import Column, JsonOption, print_details, print_json, print_listing, show_time

app = typer.Typer(help="Users and groups of the cell.", no_args_is_help=True)

EntryArgument = Annotated[str, typer.Argument(help="A user or group: name or id.")]
UserArgument = Annotated[str, typer.Argument(help="Name or id of a user.")]
GroupArgument = Annotated[str, typer.Argument(help="Name or id of a group.")]

_ENTRY_COLUMNS = [
    Column("NAME", "name"),
    Column("ID", "id", right=True),
    Column("OWNER", "owner"),
    Column("MEMBERS", "members", right=True),
    Column("CREATED", "created_ns", show_time),
]
_NAME_COLUMNS = [Column("NAME", "name"), Column("ID", "id", right=True)]


@app.command()
def whoami(
    *,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show whom the cell takes you for."""
    with _protection(location, cell) as protection:
        answer = protection.WhoAmI(pb.WhoAmIRequest())
    record = {
        "name": answer.name,
        "id": answer.id,
        "is_administrator": answer.is_administrator,
        "groups": [group.name for group in answer.groups],
    }
    columns = [
        Column("Name", "name"),
        Column("Id", "id"),
        Column("Administrator", "is_administrator", lambda yes: "yes" if yes else "no"),
        Column("Groups", "groups", ", ".join),
    ]
    print_details(columns, record, as_json=as_json)


@app.command()
def createuser(
    name: Annotated[str, typer.Argument(help="Name of the new user.")],
    *,
    user_id: Annotated[int, typer.Option("--id", help="Default: the next free one.")] = 0,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Add a user."""
    with _protection(location, cell) as protection:
        entry = protection.CreateUser(pb.CreateUserRequest(name=name, id=user_id)).entry
    _print_entry("User", entry, as_json=as_json)


@app.command()
def creategroup(
    name: Annotated[str, typer.Argument(help="OWNER:NAME of the new group.")],
    *,
    owner: Annotated[str, typer.Option(help="A user or group; default: you.")] = "",
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Add a group."""
    with _protection(location, cell) as protection:
        entry = protection.CreateGroup(pb.CreateGroupRequest(name=name, owner=owner)).entry
    _print_entry("Group", entry, as_json=as_json)


@app.command()
def adduser(
    user: UserArgument,
    group: GroupArgument,
    *,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Add a user to a group."""
    with _protection(location, cell) as protection:
        protection.AddMember(pb.AddMemberRequest(group=group, user=user))
    _print_done({"user": user, "group": group}, f"{user} is in {group}.", as_json=as_json)


@app.command()
def removeuser(
    user: UserArgument,
    group: GroupArgument,
    *,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Remove a user from a group."""
    with _protection(location, cell) as protection:
        protection.RemoveMember(pb.RemoveMemberRequest(group=group, user=user))
    _print_done({"user": user, "group": group}, f"{user} is not in {group}.", as_json=as_json)


@app.command()
def membership(
    entry: EntryArgument,
    *,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List the members of a group, or the groups of a user."""
    with _protection(location, cell) as protection:
        members = protection.ListMembers(pb.ListMembersRequest(entry=entry)).members
    records = [{"name": member.name, "id": member.id} for member in members]
    print_listing(_NAME_COLUMNS, records, as_json=as_json, empty=f"Nothing is listed for {entry}.")


@app.command()
def delete(
    entries: Annotated[list[str], typer.Argument(help="Users or groups: names or ids.")],
    *,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Delete users or groups; access lists give nothing to them any more, and never will."""
    with _protection(location, cell) as protection:
        for entry in entries:
            protection.Delete(pb.DeleteProtectionEntryRequest(entry=entry))
    _print_done({"deleted": entries}, f"Deleted {', '.join(entries)}.", as_json=as_json)


@app.command()
def examine(
    entry: EntryArgument,
    *,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Show a user or group."""
    with _protection(location, cell) as protection:
        found = protection.Examine(pb.ExamineEntryRequest(entry=entry)).entry
    columns = [Column(column.heading.title(), column.key, column.show) for column in _ENTRY_COLUMNS]
    print_details(columns, _record(found), as_json=as_json)


@app.command()
def listentries(
    *,
    users: Annotated[bool, typer.Option("--users", help="Users only.")] = False,
    groups: Annotated[bool, typer.Option("--groups", help="Groups only.")] = False,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """List users and groups."""
    records: list[dict[str, Any]] = []
    with _protection(location, cell) as protection:
        after = ""
        while True:
            request = pb.ListProtectionEntriesRequest(after=after)
            entries = protection.ListEntries(request).entries
            if not entries:
                break
            after = entries[-1].name
            records += map(_record, entries)
    if users != groups:
        records = [record for record in records if (record["id"] > 0) == users]
    print_listing(_ENTRY_COLUMNS, records, as_json=as_json, empty="There are none.")


@app.command()
def rename(
    entry: EntryArgument,
    new_name: Annotated[str, typer.Argument()],
    *,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Rename a user or group; rights and memberships stay."""
    with _protection(location, cell) as protection:
        request = pb.RenameProtectionEntryRequest(entry=entry, new_name=new_name)
        renamed = protection.Rename(request).entry
    _print_entry("Renamed:", renamed, as_json=as_json)


@app.command()
def chown(
    group: GroupArgument,
    owner: Annotated[str, typer.Argument(help="A user or group: name or id.")],
    *,
    as_json: JsonOption = False,
    location: LocationOption = None,
    cell: CellDirOption = DEFAULT_CELL_DIR,
) -> None:
    """Give a group another owner; OWNER:NAME is renamed along."""
    with _protection(location, cell) as protection:
        changed = protection.ChangeOwner(pb.ChangeOwnerRequest(group=group, owner=owner)).entry
    _print_entry("Group", changed, as_json=as_json)


@contextmanager
def _protection(location: str | None, cell: Path) -> Iterator[protection_pb2_grpc.ProtectionStub]:
    """The protection database, which is served where the location database is."""
    with channel_to(find_address(Door.LOCATION, location, cell)) as channel:
        yield protection_pb2_grpc.ProtectionStub(channel)


def _record(entry: pb.ProtectionEntry) -> dict[str, Any]:
    return {
        "name": entry.name,
        "id": entry.id,
        "owner": entry.owner_name,
        "owner_id": entry.owner_id,
        "creator_id": entry.creator_id,
        "created_ns": entry.created_ns,
        "members": entry.member_count,
    }


def _print_entry(what: str, entry: pb.ProtectionEntry, *, as_json: bool) -> None:
    owner = f", owned by {entry.owner_name}" if entry.owner_name else ""
    _print_done(_record(entry), f"{what} {entry.name} has id {entry.id}{owner}.", as_json=as_json)


def _print_done(record: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        print(sentence)
