"""Protection: the protection database over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from afs.access.caller import DAEMON_NAME, UNKNOWN_USER_IDS, Caller
from afs.identity.memberships import Membership
from afs.runtime.clock import Clock
from afs.runtime.current_caller import current_caller
from afs.v1 import protection_pb2 as pb
from afs.v1 import protection_pb2_grpc
from volserverd.core.protection_rules import Principal
from volserverd.ptdb.store import ProtectionEntry, ProtectionStore

T = TypeVar("T")

# Where authorization is off everybody may do everything.
_ANYBODY: Final = Caller(DAEMON_NAME, 0, UNKNOWN_USER_IDS, is_administrator=True)


class ProtectionDatabase:
    """Our own protection database, in one thread.

    A call that was cancelled is carried out all the same: what began in the thread ends there.
    """

    def __init__(self, store: ProtectionStore, executor: ThreadPoolExecutor) -> None:
        self._store = store
        self._executor = executor

    @classmethod
    async def open(cls, path: Path) -> ProtectionDatabase:
        """Opens the database; errors as `ProtectionStore.open`."""
        executor = ThreadPoolExecutor(1, thread_name_prefix="ptdb")
        try:
            store = await asyncio.get_running_loop().run_in_executor(
                executor, ProtectionStore.open, path
            )
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(store, executor)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """What a method of the store answers; `function` takes the store first."""
        future = asyncio.get_running_loop().run_in_executor(
            self._executor, function, self._store, *arguments
        )
        return await asyncio.shield(future)

    async def membership(self, name: str) -> Membership:
        """What counts for a user's rights; for a door of our own."""
        return Membership(*await self.run(ProtectionStore.membership, _ANYBODY, name))

    async def close(self) -> None:
        """Lets go of the file."""
        await self.run(ProtectionStore.close)
        self._executor.shutdown(wait=False)


class ProtectionServicer(protection_pb2_grpc.ProtectionServicer):
    """The servicer of `afs.v1.Protection`."""

    def __init__(self, database: ProtectionDatabase, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def WhoAmI(self, _request: pb.WhoAmIRequest, _: Any) -> pb.WhoAmIResponse:
        """Who the server takes the caller for, and their groups."""
        caller = _caller()
        groups = await self._run(
            ProtectionStore.translate, (), [each for each in caller.ids if each < 0]
        )
        return pb.WhoAmIResponse(
            name=caller.name,
            id=caller.user_id,
            is_administrator=caller.is_administrator,
            groups=_names(groups),
        )

    async def Translate(self, request: pb.TranslateRequest, _: Any) -> pb.TranslateResponse:
        """Ids of names and names of ids, as far as there are any."""
        found = await self._run(ProtectionStore.translate, list(request.names), list(request.ids))
        return pb.TranslateResponse(entries=_names(found))

    async def Examine(self, request: pb.ExamineEntryRequest, _: Any) -> pb.ExamineEntryResponse:
        """One user or group. ENOENT."""
        entry = await self._run(ProtectionStore.examine, request.entry)
        return pb.ExamineEntryResponse(entry=_to_wire(entry))

    async def GetMembership(
        self, request: pb.GetMembershipRequest, _: Any
    ) -> pb.GetMembershipResponse:
        """All ids that count for a user's rights."""
        user_id, ids = await self._run(ProtectionStore.membership, _caller(), request.name)
        return pb.GetMembershipResponse(id=user_id, ids=sorted(ids))

    async def ListMembers(self, request: pb.ListMembersRequest, _: Any) -> pb.ListMembersResponse:
        """The members of a group, or the groups of a user."""
        members = await self._run(ProtectionStore.members, _caller(), request.entry)
        return pb.ListMembersResponse(members=_names(members))

    async def ListEntries(
        self, request: pb.ListProtectionEntriesRequest, _: Any
    ) -> pb.ListProtectionEntriesResponse:
        """Users and groups in order of their names."""
        entries = await self._run(ProtectionStore.entries, request.after, request.limit)
        return pb.ListProtectionEntriesResponse(entries=map(_to_wire, entries))

    async def CreateUser(self, request: pb.CreateUserRequest, _: Any) -> pb.CreateUserResponse:
        """Adds a user. EEXIST, EINVAL."""
        entry = await self._run(
            ProtectionStore.create_user,
            _caller(),
            request.name,
            request.id,
            self._clock.wall_ns(),
        )
        return pb.CreateUserResponse(entry=_to_wire(entry))

    async def CreateGroup(self, request: pb.CreateGroupRequest, _: Any) -> pb.CreateGroupResponse:
        """Adds a group. EEXIST, EINVAL, ENOENT, EPERM, VLIMIT."""
        entry = await self._run(
            ProtectionStore.create_group,
            _caller(),
            request.name,
            request.owner,
            self._clock.wall_ns(),
        )
        return pb.CreateGroupResponse(entry=_to_wire(entry))

    async def Delete(
        self, request: pb.DeleteProtectionEntryRequest, _: Any
    ) -> pb.DeleteProtectionEntryResponse:
        """Deletes a user or group. ENOENT, EPERM."""
        await self._run(ProtectionStore.delete, _caller(), request.entry)
        return pb.DeleteProtectionEntryResponse()

    async def AddMember(self, request: pb.AddMemberRequest, _: Any) -> pb.AddMemberResponse:
        """Adds a user to a group. ENOENT, EEXIST, EINVAL, EPERM, VLIMIT."""
        await self._run(ProtectionStore.add_member, _caller(), request.group, request.user)
        return pb.AddMemberResponse()

    async def RemoveMember(
        self, request: pb.RemoveMemberRequest, _: Any
    ) -> pb.RemoveMemberResponse:
        """Removes a user from a group. ENOENT, EINVAL, EPERM."""
        await self._run(ProtectionStore.remove_member, _caller(), request.group, request.user)
        return pb.RemoveMemberResponse()

    async def Rename(
        self, request: pb.RenameProtectionEntryRequest, _: Any
    ) -> pb.RenameProtectionEntryResponse:
        """Renames a user or group. ENOENT, EEXIST, EINVAL, EPERM."""
        entry = await self._run(ProtectionStore.rename, _caller(), request.entry, request.new_name)
        return pb.RenameProtectionEntryResponse(entry=_to_wire(entry))

    async def ChangeOwner(self, request: pb.ChangeOwnerRequest, _: Any) -> pb.ChangeOwnerResponse:
        """Gives a group another owner. ENOENT, EEXIST, EINVAL, EPERM."""
        entry = await self._run(
            ProtectionStore.change_owner, _caller(), request.group, request.owner
        )
        return pb.ChangeOwnerResponse(entry=_to_wire(entry))

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await self._database.run(function, *arguments)


def _caller() -> Caller:
    return current_caller.get() or _ANYBODY


def _names(principals: Iterable[Principal]) -> list[pb.ProtectionName]:
    return [pb.ProtectionName(id=each.id, name=each.name) for each in principals]


def _to_wire(entry: ProtectionEntry) -> pb.ProtectionEntry:
    return pb.ProtectionEntry(
        id=entry.principal.id,
        name=entry.principal.name,
        owner_id=entry.principal.owner_id,
        owner_name=entry.owner_name,
        creator_id=entry.creator_id,
        created_ns=entry.created_ns,
        member_count=entry.member_count,
    )
