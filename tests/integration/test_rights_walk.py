"""Every method of every service, called as nobody, stranger, reader, writer, owner, administrator.

What comes out is compared with the table of methods and rights (`afs.access.requirements`). A
method that is missing there, or here, fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from afs.access.acl import ALL_RIGHTS, Right, rights_from_letters
from afs.access.acl_text import NamedAcl
from afs.access.requirements import REQUIREMENTS, Requirement, Who
from afs.errors import AfsCode
from afs.runtime.channel import afs_error_from_rpc, open_channel
from afs.types import Fid
from afs.v1 import (
    cache_manager_pb2,
    callback_channel_pb2,
    file_server_debug_pb2,
    file_server_pb2,
    fssync_pb2,
    protection_pb2,
    types_pb2,
    vol_server_pb2,
    vol_transfer_pb2,
    volume_location_pb2,
)
from afs.wire import fid_to_wire
from tests.afsd.running import PATIENCE_S, ROOT, VOLUME, Client, RunningFileServer, fileserver
from tests.guarded import SUPERUSER, GuardedCell, guarded_cell
from volserverd.app import VolserverDaemon
from volserverd.config import VolserverdConfig

ROLES: Final = ("nobody", "stranger", "reader", "writer", "owner", "administrator")
# What the access lists here give them. The owner is that of the volume; administrators stand in
# the list, as they do in a new volume's.
RIGHTS: Final = {
    "nobody": Right.NONE,
    "stranger": Right.NONE,
    "reader": rights_from_letters("read"),
    "writer": rights_from_letters("write"),
    "owner": rights_from_letters("la"),
    "administrator": ALL_RIGHTS,
}
REFUSALS: Final = frozenset({AfsCode.EACCES, AfsCode.EPERM, AfsCode.RXKADNOAUTH})
MODULES: Final = (
    cache_manager_pb2,
    callback_channel_pb2,
    file_server_debug_pb2,
    file_server_pb2,
    fssync_pb2,
    protection_pb2,
    vol_server_pb2,
    vol_transfer_pb2,
    volume_location_pb2,
)
HOST = ("afs-host-uuid", "a8a9f2a6-5b9e-4b6c-9d3c-3b1e5b1f4b11")
# Whom the methods are for that look at what they are asked about themselves: here `reader` asks
# about themselves, and owns the group that is asked about.
OWN: Final = {
    "FileServer/ReleaseLock": ROLES,
    "FileServer/GiveUpCallBacks": ROLES,
    "FileServer/GiveUpAllCallBacks": ROLES,
    "CallBackChannel/Attach": ROLES,
    **{
        f"Protection/{method}": ("reader", "administrator")
        for method in (
            "GetMembership",
            "ListMembers",
            "Delete",
            "AddMember",
            "Rename",
            "ChangeOwner",
        )
    },
    # The stranger may leave.
    "Protection/RemoveMember": ("stranger", "reader", "administrator"),
}


def services() -> Iterator[ServiceDescriptor]:
    """Every service of the protocol, and those that every daemon has."""
    for module in MODULES:
        yield from module.DESCRIPTOR.services_by_name.values()
    yield health_pb2.DESCRIPTOR.services_by_name["Health"]
    yield reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


def test_every_module_with_a_service_is_walked() -> None:
    """A new service of the protocol is walked too."""
    sources = Path(__file__).parents[2] / "proto" / "afs" / "v1"
    with_service = {
        path.stem for path in sources.glob("*.proto") if "\nservice " in path.read_text()
    }
    assert {Path(module.DESCRIPTOR.name).stem for module in MODULES} == with_service


def test_every_method_is_in_the_table() -> None:
    """A method that nobody decided about is refused, and does not get as far as a release."""
    methods = {
        f"/{service.full_name}/{method.name}"
        for service in services()
        for method in service.methods
    }
    # The same as v1alpha, under its newer name.
    newer = {method for method in REQUIREMENTS if method.startswith("/grpc.reflection.v1.")}
    assert methods == REQUIREMENTS.keys() - newer


class Walk:
    """The daemons of a cell, and what is called at them."""

    def __init__(
        self, cell: GuardedCell, files: RunningFileServer, volserver: VolserverDaemon
    ) -> None:
        self.cell = cell
        self.files = files
        self.addresses = {
            "afs.v1.FileServer": files.daemon.addresses[0],
            "afs.v1.CallBackChannel": files.daemon.addresses[0],
            "afs.v1.FileServerDebug": files.daemon.addresses[0],
            "afs.v1.FSSync": files.daemon.fssync_addresses[1],
            "afs.v1.VolServer": volserver.addresses[0],
            "afs.v1.VolTransfer": volserver.addresses[0],
            "afs.v1.VolumeLocation": cell.location,
            "afs.v1.Protection": cell.location,
            "grpc.health.v1.Health": files.daemon.addresses[0],
            "grpc.reflection.v1alpha.ServerReflection": files.daemon.addresses[0],
        }
        self.names = count(1)
        self.shown = {
            role: cell.shown({"nobody": "", "administrator": SUPERUSER}.get(role, role))
            for role in ROLES
        }
        self.root: Client
        self._channels: dict[str, grpc.aio.Channel] = {}

    def channel(self, service: str) -> grpc.aio.Channel:
        """One to each daemon."""
        address = self.addresses[service]
        if address not in self._channels:
            self._channels[address] = open_channel(address)
        return self._channels[address]

    async def close(self) -> None:
        """Hangs up."""
        for channel in self._channels.values():
            await channel.close()

    async def start(self) -> None:
        """People, the volume's owner, and the access list of its root directory."""
        for role in ROLES[1:-1]:
            await self.cell.user(role)
        self.root = await self.files.client(shows=self.shown["administrator"])
        acl = NamedAcl(
            {
                "reader": RIGHTS["reader"],
                "writer": RIGHTS["writer"],
                "system:administrators": ALL_RIGHTS,
            }
        )
        await self.root.call(
            self.root.files.StoreACL,
            file_server_pb2.StoreACLRequest(fid=fid_to_wire(ROOT), acl=acl.text()),
        )
        entry = await self.cell.stub.Examine(
            protection_pb2.ExamineEntryRequest(entry="owner"), metadata=self.shown["administrator"]
        )
        await self.root.call(
            self.root.files.StoreStatus,
            file_server_pb2.StoreStatusRequest(
                fid=fid_to_wire(ROOT), set_status=types_pb2.SetStatus(owner=entry.entry.id)
            ),
        )

    async def request(self, method: MethodDescriptor) -> Any:
        """A request that the administrator, at least, is not refused."""
        key = f"{method.containing_service.name}/{method.name}"
        make = REQUESTS.get(key)
        if make is not None:
            return await make(self)
        request = GetMessageClass(method.input_type)()
        if method.containing_service.name == "VolServer":
            # There is no such volume: who is let in is told so.
            for field in ("volume", "name"):
                if field in method.input_type.fields_by_name:
                    setattr(request, field, "no.such.volume")
        return request

    async def outcome(self, method: MethodDescriptor, role: str, request: Any) -> AfsCode | None:
        """How a call ended: the code it failed with; None for an answer, or a stream that began."""
        service = method.containing_service.full_name
        channel = self.channel(service)
        kind: Any = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }[method.client_streaming, method.server_streaming]
        stub = kind(
            f"/{service}/{method.name}",
            request_serializer=GetMessageClass(method.input_type).SerializeToString,
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        call = stub(
            iter([request]) if method.client_streaming else request,
            metadata=(HOST, *self.shown[role]),
            timeout=PATIENCE_S,
        )
        try:
            answer = await (call.read() if method.server_streaming else call)
        except grpc.aio.AioRpcError as error:
            return afs_error_from_rpc(error).code
        finally:
            call.cancel()
        return self.answered(answer)

    @staticmethod
    def answered(answer: Any) -> AfsCode | None:
        """The code in the answer of a bulk call, if it has one."""
        for result in getattr(answer, "results", ()):
            if result.abort_code:
                return AfsCode(result.abort_code)
        return None

    async def place(self) -> tuple[Fid, Fid, str]:
        """A new directory with the root's list, a file in it, and the file's name."""
        directory = await self.root.make_dir(f"d{next(self.names)}")
        return directory, await self.root.create("f", directory), "f"


Make = Callable[[Walk], Any]


def _file(make: Callable[[Any], Any]) -> Make:
    """A request about a file."""

    async def request(walk: Walk) -> Any:
        _, file, _ = await walk.place()
        return make(fid_to_wire(file))

    return request


def _directory(make: Callable[[Any], Any]) -> Make:
    """A request about a directory that has a file `f` in it."""

    async def request(walk: Walk) -> Any:
        directory, _, _ = await walk.place()
        return make(fid_to_wire(directory))

    return request


async def _read_link(walk: Walk) -> Any:
    directory, _, _ = await walk.place()
    request = pb.SymlinkRequest(directory=fid_to_wire(directory), name="s", target="f")
    made = await walk.root.call(walk.root.files.Symlink, request)
    return pb.ReadLinkRequest(fid=made.status.fid)


async def _link(walk: Walk) -> Any:
    directory, file, _ = await walk.place()
    return pb.LinkRequest(directory=fid_to_wire(directory), name="g", target=fid_to_wire(file))


async def _remove_dir(walk: Walk) -> Any:
    directory, _, _ = await walk.place()
    await walk.root.make_dir("s", directory)
    return pb.RemoveDirRequest(directory=fid_to_wire(directory), name="s")


async def _rename(walk: Walk) -> Any:
    directory, _, name = await walk.place()
    where = fid_to_wire(directory)
    return pb.RenameRequest(old_directory=where, old_name=name, new_directory=where, new_name="g")


def _group(make: Callable[[str], Any], *, member: bool = True) -> Make:
    """A request about a group that `reader` owns."""

    async def request(walk: Walk) -> Any:
        name = f"reader:{next(walk.names)}"
        shown = walk.shown["administrator"]
        await walk.cell.stub.CreateGroup(
            protection_pb2.CreateGroupRequest(name=name, owner="reader"), metadata=shown
        )
        if member:
            await walk.cell.add(name, "writer")
        return make(name)

    return request


async def _create_user(walk: Walk) -> Any:
    return protection_pb2.CreateUserRequest(name=f"u{next(walk.names)}")


async def _membership(_walk: Walk) -> Any:
    return protection_pb2.GetMembershipRequest(name="reader")


async def _reflection(_walk: Walk) -> Any:
    return reflection_pb2.ServerReflectionRequest(list_services="")


pb: Final = file_server_pb2
_LIST: Final = NamedAcl(
    {"reader": RIGHTS["reader"], "writer": RIGHTS["writer"], "system:administrators": ALL_RIGHTS}
).text()
REQUESTS: Final[dict[str, Make]] = {
    "FileServer/FetchStatus": _file(lambda fid: pb.FetchStatusRequest(fid=fid)),
    "FileServer/BulkStatus": _file(lambda fid: pb.BulkStatusRequest(fids=[fid])),
    "FileServer/FetchData": _file(lambda fid: pb.FetchDataRequest(fid=fid)),
    "FileServer/BulkFetch": _file(lambda fid: pb.BulkFetchRequest(fids=[fid])),
    "FileServer/StoreData": _file(
        lambda fid: pb.StoreDataRequest(open=pb.StoreDataOpen(fid=fid), data=b"x")
    ),
    "FileServer/StoreStatus": _file(
        lambda fid: pb.StoreStatusRequest(fid=fid, set_status=types_pb2.SetStatus(mode=0o600))
    ),
    "FileServer/Lookup": _directory(lambda fid: pb.LookupRequest(directory=fid, name="f")),
    "FileServer/ReadDir": _directory(lambda fid: pb.ReadDirRequest(directory=fid)),
    "FileServer/CreateFile": _directory(lambda fid: pb.CreateFileRequest(directory=fid, name="g")),
    "FileServer/MakeDir": _directory(lambda fid: pb.MakeDirRequest(directory=fid, name="g")),
    "FileServer/Symlink": _directory(
        lambda fid: pb.SymlinkRequest(directory=fid, name="g", target="f")
    ),
    "FileServer/ReadLink": _read_link,
    "FileServer/Link": _link,
    "FileServer/RemoveFile": _directory(lambda fid: pb.RemoveFileRequest(directory=fid, name="f")),
    "FileServer/RemoveDir": _remove_dir,
    "FileServer/Rename": _rename,
    "FileServer/FetchACL": _file(lambda fid: pb.FetchACLRequest(fid=fid)),
    "FileServer/StoreACL": _directory(lambda fid: pb.StoreACLRequest(fid=fid, acl=_LIST)),
    "FileServer/SetLock": _file(lambda fid: pb.SetLockRequest(fid=fid, type=pb.LOCK_TYPE_READ)),
    "FileServer/ExtendLock": _file(lambda fid: pb.ExtendLockRequest(fid=fid)),
    "FileServer/ReleaseLock": _file(lambda fid: pb.ReleaseLockRequest(fid=fid)),
    "FileServer/GiveUpCallBacks": _file(lambda fid: pb.GiveUpCallBacksRequest(fids=[fid])),
    "Protection/CreateUser": _create_user,
    "Protection/GetMembership": _membership,
    "Protection/ListMembers": _group(
        lambda name: protection_pb2.ListMembersRequest(entry=name), member=False
    ),
    "Protection/Delete": _group(
        lambda name: protection_pb2.DeleteProtectionEntryRequest(entry=name)
    ),
    "Protection/AddMember": _group(
        lambda name: protection_pb2.AddMemberRequest(group=name, user="stranger")
    ),
    "Protection/RemoveMember": _group(
        lambda name: protection_pb2.RemoveMemberRequest(group=name, user="stranger")
    ),
    "Protection/Rename": _group(
        lambda name: protection_pb2.RenameProtectionEntryRequest(entry=name, new_name=f"{name}x")
    ),
    "Protection/ChangeOwner": _group(
        lambda name: protection_pb2.ChangeOwnerRequest(group=name, owner="reader")
    ),
    "ServerReflection/ServerReflectionInfo": _reflection,
}


def allowed(method: MethodDescriptor, role: str, requirement: Requirement) -> bool:
    """Whether the table lets this role call this method as it is called here."""
    match requirement.who:
        case Who.ANYONE | Who.LOCAL:
            return True
        case Who.AUTHENTICATED:
            return role != "nobody"
        case Who.ADMINISTRATOR:
            return role == "administrator"
        case Who.ACCESS_LIST:
            needs = requirement.rights
            if method.name == "Rename":
                needs |= Right.INSERT
            return RIGHTS[role] & needs == needs
        case Who.OWN:
            return role in OWN[f"{method.containing_service.name}/{method.name}"]


@asynccontextmanager
async def walking(root: Path) -> AsyncIterator[Walk]:
    """A fileserver and a volserver of one partition, of a cell that looks at who calls."""
    async with guarded_cell(root) as cell, AsyncExitStack() as stack:
        running = fileserver(
            root, [VOLUME], protection=cell.location, fssync_listen="127.0.0.1:0", **cell.settings
        )
        with cell.as_daemon():
            files = await stack.enter_async_context(running)
            config = VolserverdConfig(
                listen=["127.0.0.1:0"],
                location=cell.location,
                run_dir=root / "run",
                partitions=[root / "vicepa"],
                file_server=files.daemon.addresses[0],
                salvage_poll_s=3600.0,
                **cell.settings,
            )
            volserver = await VolserverDaemon.start(config)
        stack.push_async_callback(volserver.stop)
        walk = Walk(cell, files, volserver)
        stack.push_async_callback(walk.close)
        await walk.start()
        yield walk


@pytest.mark.timeout(300)
async def test_every_method_as_everybody(tmp_path: Path) -> None:
    """Each is refused to exactly those to whom the table does not give it."""
    wrong: list[str] = []
    called = 0
    async with walking(tmp_path) as walk:
        for service in services():
            if service.full_name not in walk.addresses:
                # The client's own door, which its socket guards.
                assert service.name == "CacheManager"
                continue
            for method in service.methods:
                requirement = REQUIREMENTS[f"/{service.full_name}/{method.name}"]
                request = await walk.request(method)
                for role in ROLES:
                    code = await walk.outcome(method, role, request)
                    expected = allowed(method, role, requirement)
                    if code not in REFUSALS:
                        # What it was about may be gone.
                        request = await walk.request(method)
                    if (code not in REFUSALS) != expected:
                        wrong.append(f"{service.name}/{method.name} as {role}: {code!r}")
                    called += 1
                await asyncio.sleep(0)
    assert wrong == []
    assert called >= 6 * 70
