"""What each method of each service asks of its caller: the one table that is enforced and shown.

`docs/rights.md` is written from it (`python -m tools.rights_table`), and a test walks it. A method
that is not in it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from afs.access.acl import Right
from afs.access.caller import Caller
from afs.errors import AfsCode, AfsError


class Who(StrEnum):
    """Whom a method is for."""

    # Nothing is asked: system:anyuser.
    ANYONE = "anyone"
    # Whoever showed a token: system:authuser.
    AUTHENTICATED = "any user"
    # Members of system:administrators, superusers, and the cell's daemons.
    ADMINISTRATOR = "administrators"
    # The access list of a directory decides; `rights` are those asked for.
    ACCESS_LIST = "access list"
    # Whoever may open the door's socket: the machine's own affair.
    LOCAL = "whoever reaches the socket"
    # What the caller asks about must be their own, which the method itself looks at.
    OWN = "own"


@dataclass(frozen=True, slots=True)
class Requirement:
    """What one method asks of its caller.

    Attributes:
        who: whom it is for.
        rights: on the directory that the request is about, or that its file is in.
        also: what else is asked, in words, for the table.
        changes: whether a call is written down in the audit trail, whoever may make it.
    """

    who: Who
    rights: Right = Right.NONE
    also: str = ""
    changes: bool = False

    def check(self, caller: Caller, method: str) -> None:
        """Refuses a caller for whom the method is not, whatever the request says.

        Raises:
            AfsError: RXKADNOAUTH for nobody where somebody is needed; EPERM.
        """
        if self.who is Who.ADMINISTRATOR and not caller.is_administrator:
            raise _refused(caller, method, "it is for administrators")
        if self.who is Who.AUTHENTICATED and caller.is_anonymous:
            raise _refused(caller, method, "it is for users")


_ANYONE: Final = Requirement(Who.ANYONE)
# Who looks at a daemon's tables changes nothing.
_LOOKS: Final = Requirement(Who.ADMINISTRATOR)
_ADMINISTRATOR: Final = Requirement(Who.ADMINISTRATOR, changes=True)
_LOOKUP: Final = Requirement(Who.ACCESS_LIST, Right.LOOKUP)
_INSERT: Final = Requirement(Who.ACCESS_LIST, Right.INSERT)
_DELETE: Final = Requirement(Who.ACCESS_LIST, Right.DELETE)
_LOCK: Final = Requirement(Who.ACCESS_LIST, Right.LOCK)
_DROPPED: Final = "or `i` for the file's owner"
_HOST: Final = Requirement(Who.OWN, also="a host's own promises")

_FILE_SERVER: Final = {
    "FetchStatus": _LOOKUP,
    "BulkStatus": Requirement(Who.ACCESS_LIST, Right.LOOKUP, "for each Fid by itself"),
    "FetchData": Requirement(Who.ACCESS_LIST, Right.READ),
    "BulkFetch": Requirement(Who.ACCESS_LIST, Right.READ, "for each Fid by itself"),
    "StoreData": Requirement(Who.ACCESS_LIST, Right.WRITE, _DROPPED),
    "StoreStatus": Requirement(
        Who.ACCESS_LIST,
        Right.WRITE,
        f"{_DROPPED}; administrators to change the owner, or set bits 06000",
    ),
    "Lookup": Requirement(Who.ACCESS_LIST, Right.LOOKUP, "`l` also on a directory that is found"),
    "ReadDir": _LOOKUP,
    "CreateFile": _INSERT,
    "MakeDir": _INSERT,
    "Symlink": _INSERT,
    "ReadLink": _LOOKUP,
    "Link": _INSERT,
    "RemoveFile": _DELETE,
    "RemoveDir": _DELETE,
    "Rename": Requirement(
        Who.ACCESS_LIST,
        Right.DELETE,
        "`i` on the new directory, and `d` there if something is replaced",
    ),
    "FetchACL": _LOOKUP,
    "StoreACL": Requirement(Who.ACCESS_LIST, Right.ADMINISTER, changes=True),
    "SetLock": _LOCK,
    "ExtendLock": _LOCK,
    "ReleaseLock": Requirement(Who.OWN, also="a host's own lock"),
    "GiveUpCallBacks": _HOST,
    "GiveUpAllCallBacks": _HOST,
    "GetVolumeStatus": _ANYONE,
    "SetVolumeStatus": _ADMINISTRATOR,
    "GetTime": _ANYONE,
    "GetCapabilities": _ANYONE,
}
_VOL_SERVER: Final = {
    **dict.fromkeys(("Examine", "ListVolumes", "ListPartitions", "ListTransactions"), _ANYONE),
    **dict.fromkeys(
        (
            "Create",
            "Delete",
            "Clone",
            "Backup",
            "Move",
            "Copy",
            "Release",
            "AddSite",
            "RemoveSite",
            "Dump",
            "Restore",
            "Offline",
            "Online",
            "SetFields",
            "EndTransaction",
            "RenameVolume",
            "Salvage",
        ),
        _ADMINISTRATOR,
    ),
    **dict.fromkeys(("WatchTold", "Verify"), _LOOKS),
}
_VOLUME_LOCATION: Final = {
    **dict.fromkeys(("GetEntry", "ListEntries"), _ANYONE),
    **dict.fromkeys(
        ("CreateEntry", "ReplaceEntry", "DeleteEntry", "Lock", "Unlock"), _ADMINISTRATOR
    ),
}
_OWNER: Final = "the group's owner, or administrators"
_PROTECTION: Final = {
    "WhoAmI": _ANYONE,
    "Translate": _ANYONE,
    "Examine": _ANYONE,
    "GetMembership": Requirement(Who.OWN, also="a user's own, or administrators"),
    "ListMembers": Requirement(
        Who.OWN,
        also="a user's own groups; a group's members for them and its owner; administrators",
    ),
    "ListEntries": _LOOKS,
    "CreateUser": _ADMINISTRATOR,
    "CreateGroup": Requirement(
        Who.AUTHENTICATED,
        also="named after the user who owns it, except by administrators",
        changes=True,
    ),
    "Delete": Requirement(Who.OWN, also=f"{_OWNER}; users: administrators", changes=True),
    "AddMember": Requirement(Who.OWN, also=_OWNER, changes=True),
    "RemoveMember": Requirement(Who.OWN, also=f"{_OWNER}, or the member", changes=True),
    "Rename": Requirement(Who.OWN, also=f"{_OWNER}; users: administrators", changes=True),
    "ChangeOwner": Requirement(Who.OWN, also=_OWNER, changes=True),
}
_CACHE_MANAGER: Final = (
    "Stat",
    "List",
    "Read",
    "Write",
    "MakeDir",
    "Remove",
    "Rename",
    "Symlink",
    "GetStatus",
    "DumpCache",
    "Flush",
    "FlushVolume",
    "FlushAll",
    "CheckVolumes",
    "CheckServers",
    "ListUnsent",
    "ReadUnsent",
    "DiscardUnsent",
    "Mount",
    "Unmount",
    "Watch",
)

REQUIREMENTS: Final = {
    f"/{service}/{method}": requirement
    for service, methods in {
        "afs.v1.FileServer": _FILE_SERVER,
        "afs.v1.CallBackChannel": {"Attach": Requirement(Who.OWN, also="a host's own channel")},
        "afs.v1.CacheManager": dict.fromkeys(_CACHE_MANAGER, Requirement(Who.LOCAL)),
        "afs.v1.FileServerDebug": dict.fromkeys(
            ("DumpHosts", "DumpCallBacks", "DumpLocks", "GetCounters", "Watch"), _LOOKS
        ),
        "afs.v1.FSSync": dict.fromkeys(("VolumeOp", "WatchBreaks"), _ADMINISTRATOR),
        "afs.v1.VolServer": _VOL_SERVER,
        "afs.v1.VolTransfer": dict.fromkeys(("Receive", "Fetch"), _ADMINISTRATOR),
        "afs.v1.VolumeLocation": _VOLUME_LOCATION,
        "afs.v1.Protection": _PROTECTION,
        "grpc.health.v1.Health": dict.fromkeys(("Check", "List", "Watch"), _ANYONE),
        "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": _ANYONE},
        "grpc.reflection.v1.ServerReflection": {"ServerReflectionInfo": _ANYONE},
    }.items()
    for method, requirement in methods.items()
}


def file_server_rights(method: str) -> Right:
    """The rights that a method of FileServer asks for on the directory it is about."""
    return _FILE_SERVER[method].rights


def _refused(caller: Caller, method: str, why: str) -> AfsError:
    name = method.rpartition("/")[2]
    if caller.is_anonymous:
        return AfsError(AfsCode.RXKADNOAUTH, f"{name} needs a token: {why}; log in first")
    return AfsError(AfsCode.EPERM, f"{caller.name} may not call {name}: {why}")
