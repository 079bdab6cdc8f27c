"""Access lists at the fileserver: who may do what, and when a change of rights takes effect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from afs.access.acl import rights_from_letters
from afs.access.acl_text import NamedAcl, parse_named_acl
from afs.errors import AfsCode
from afs.types import Fid
from afs.v1 import (
    file_server_debug_pb2,
    file_server_debug_pb2_grpc,
    fssync_pb2,
    fssync_pb2_grpc,
    protection_pb2,
    types_pb2,
)
from afs.v1 import file_server_pb2 as pb
from afs.wire import fid_from_wire, fid_to_wire
from tests.afsd.running import ROOT, Client, RunningFileServer, fileserver, refused
from tests.guarded import SUPERUSER, GuardedCell, guarded_cell

_SYSTEM = {name: f"system:{name}" for name in ("anyuser", "authuser", "administrators")}


class Rights:
    """A fileserver that looks at access lists, and its cell."""

    def __init__(self, cell: GuardedCell, server: RunningFileServer) -> None:
        self.cell = cell
        self.server = server

    async def client(self, name: str = "") -> Client:
        """A host that calls with a user's token; "": with none."""
        return await self.server.client(shows=self.cell.shown(name))

    async def store_acl(
        self,
        client: Client,
        directory: Fid,
        negative: dict[str, str] | None = None,
        **positive: str,
    ) -> None:
        """Gives a directory a list of rights in letters or words."""
        sides = [
            {_SYSTEM.get(name, name): rights_from_letters(rights) for name, rights in side.items()}
            for side in (positive, negative or {})
        ]
        request = pb.StoreACLRequest(fid=fid_to_wire(directory), acl=NamedAcl(*sides).text())
        await client.call(client.files.StoreACL, request)

    async def fetch_acl(self, client: Client, fid: Fid) -> NamedAcl:
        """The access list of a directory, or of a file's."""
        answer = await client.call(client.files.FetchACL, pb.FetchACLRequest(fid=fid_to_wire(fid)))
        return parse_named_acl(answer.acl)


@asynccontextmanager
async def rights(root: Path, **settings: Any) -> AsyncIterator[Rights]:
    """A cell with the users alice and bob, of whom alice is in alice:friends."""
    async with guarded_cell(root) as cell, AsyncExitStack() as stack:
        for name in ("alice", "bob"):
            await cell.user(name)
        await cell.group("friends", "alice")
        running = fileserver(root, protection=cell.location, **{**cell.settings, **settings})
        with cell.as_daemon():
            server = await stack.enter_async_context(running)
        yield Rights(cell, server)


async def test_new_volume_is_the_administrators(tmp_path: Path) -> None:
    """Nobody and no user may do anything in it until an administrator says so."""
    async with rights(tmp_path) as setting:
        root = await setting.client(SUPERUSER)
        file = await root.create("f")
        for name in ("", "alice"):
            client = await setting.client(name)
            async with refused(AfsCode.EACCES):
                await client.status(ROOT)
            async with refused(AfsCode.EACCES):
                await client.status(file)
            async with refused(AfsCode.EACCES):
                await client.fetch(file)
            async with refused(AfsCode.EACCES):
                await client.create("g")
            assert client.breaks == []
        assert await root.names() == ["f"]


async def test_groups_and_negative_rights(tmp_path: Path) -> None:
    """What a group may a member may, unless it is denied to them; anyone may what anyuser may."""
    async with rights(tmp_path) as setting:
        root, alice = await setting.client(SUPERUSER), await setting.client("alice")
        bob, nobody = await setting.client("bob"), await setting.client()
        file = await root.create("f")
        await root.store(file, b"data")
        await setting.store_acl(root, ROOT, {"bob": "r"}, friends="write", anyuser="rl")
        assert (await alice.fetch(file))[1] == b"data"
        assert (await nobody.fetch(file))[1] == b"data"
        assert await bob.names() == ["f"]
        async with refused(AfsCode.EACCES):
            await bob.fetch(file)
        await alice.create("g")
        async with refused(AfsCode.EACCES):
            await bob.create("h")
        acl = await setting.fetch_acl(bob, file)
        assert set(acl.positive) == {"friends", "system:anyuser"}
        assert set(acl.negative) == {"bob"}
        async with refused(AfsCode.EACCES):
            await setting.store_acl(alice, ROOT, alice="all")


async def test_changed_rights_take_effect_on_what_is_cached(tmp_path: Path) -> None:
    """Holders of a directory and of its files are told before the change is acknowledged."""
    async with rights(tmp_path) as setting:
        root, alice = await setting.client(SUPERUSER), await setting.client("alice")
        await setting.store_acl(root, ROOT, alice="rl", administrators="all")
        file, below = await root.create("f"), await root.make_dir("d")
        deep = await root.create("deep", below)
        for fid in (ROOT, file, below, deep):
            assert (await alice.status(fid)).HasField("callback")
        await setting.store_acl(root, ROOT, bob="rl")
        told = {target for each in alice.breaks for target in each.targets}
        assert {tuple(ROOT), tuple(file)} <= told
        assert tuple(deep) not in told
        async with refused(AfsCode.EACCES):
            await alice.status(file)
        assert (await alice.status(deep)).status.fid == fid_to_wire(deep)


async def test_bulk_calls_answer_each_file_by_itself(tmp_path: Path) -> None:
    """What the caller may not see has its own error, and no promise; the rest is answered."""
    async with rights(tmp_path) as setting:
        root, alice = await setting.client(SUPERUSER), await setting.client("alice")
        open_to_alice, closed = await root.make_dir("open"), await root.make_dir("closed")
        await setting.store_acl(root, open_to_alice, alice="rl", administrators="all")
        fids = [await root.create("f", directory) for directory in (open_to_alice, closed)]
        request = pb.BulkStatusRequest(fids=map(fid_to_wire, fids))
        results = (await alice.call(alice.files.BulkStatus, request)).results
        assert [result.abort_code for result in results] == [0, AfsCode.EACCES]
        assert [result.HasField("callback") for result in results] == [True, False]
        fetch = pb.BulkFetchRequest(fids=map(fid_to_wire, fids))
        [answer] = await alice.stream(alice.files.BulkFetch, fetch)
        assert [result.abort_code for result in answer.results] == [0, AfsCode.EACCES]
        assert [result.HasField("status") for result in answer.results] == [True, False]


async def test_new_things_belong_to_their_maker(tmp_path: Path) -> None:
    """Whatever owner a client sends; an administrator may say whose it is, and give it away."""
    async with rights(tmp_path) as setting:
        root, alice = await setting.client(SUPERUSER), await setting.client("alice")
        await setting.store_acl(root, ROOT, alice="write", anyuser="li", administrators="all")
        status = types_pb2.SetStatus(owner=4711, mode=0o600)
        request = pb.CreateFileRequest(directory=fid_to_wire(ROOT), name="f", set_status=status)
        made = (await alice.call(alice.files.CreateFile, request)).status
        assert (made.owner, made.mode) == (1, 0o600)
        request.name = "g"
        assert (await root.call(root.files.CreateFile, request)).status.owner == 4711

        def store(**attributes: int) -> pb.StoreStatusRequest:
            return pb.StoreStatusRequest(fid=made.fid, set_status=types_pb2.SetStatus(**attributes))

        await alice.call(alice.files.StoreStatus, store(owner=1, mode=0o640))
        for attributes in ({"owner": 2}, {"mode": 0o4755}):
            async with refused(AfsCode.EPERM):
                await alice.call(alice.files.StoreStatus, store(**attributes))
        fid = fid_from_wire(made.fid)
        along = types_pb2.SetStatus(owner=2, mode=0o4711)
        stored = (await alice.store(fid, b"x", set_status=along)).status
        assert (stored.owner, stored.mode) == (1, 0o711)
        await root.call(root.files.StoreStatus, store(owner=2, mode=0o4755))
        request = pb.CreateFileRequest(directory=fid_to_wire(ROOT), name="h")
        nobody = await setting.client()
        assert (await nobody.call(nobody.files.CreateFile, request)).status.owner == 32766


async def test_who_may_insert_writes_what_they_made(tmp_path: Path) -> None:
    """A directory to drop files into: the maker fills the file, and others' stay as they are."""
    async with rights(tmp_path) as setting:
        root, alice = await setting.client(SUPERUSER), await setting.client("alice")
        bob, nobody = await setting.client("bob"), await setting.client()
        await setting.store_acl(root, ROOT, authuser="li", anyuser="i", administrators="all")
        mine, theirs = await alice.create("mine"), await bob.create("theirs")
        await alice.store(mine, b"data")
        async with refused(AfsCode.EACCES):
            await alice.store(theirs, b"data")
        async with refused(AfsCode.EACCES):
            await alice.fetch(mine)
        dropped = await nobody.create("dropped")
        async with refused(AfsCode.EACCES):
            await nobody.store(dropped, b"data")

        def rename(old: str, new: str) -> pb.RenameRequest:
            directory = fid_to_wire(ROOT)
            return pb.RenameRequest(
                old_directory=directory, old_name=old, new_directory=directory, new_name=new
            )

        async with refused(AfsCode.EACCES):
            await alice.call(alice.files.Rename, rename("mine", "theirs"))
        below = await root.make_dir("below")
        await setting.store_acl(root, below, alice="lidw")
        moved = await alice.create("moved", below)
        await alice.store(moved, b"moved")
        request = rename("moved", "theirs")
        request.old_directory.CopyFrom(fid_to_wire(below))
        async with refused(AfsCode.EACCES):
            await alice.call(alice.files.Rename, request)
        request.new_name = "beside"
        await alice.call(alice.files.Rename, request)


async def test_volumes_owner_can_always_change_the_list(tmp_path: Path) -> None:
    """The owner of the root directory gets out of a list that gives them nothing."""
    async with rights(tmp_path) as setting:
        root, alice = await setting.client(SUPERUSER), await setting.client("alice")
        below = await root.make_dir("below")
        async with refused(AfsCode.EACCES):
            await setting.store_acl(alice, below, alice="all")
        request = pb.StoreStatusRequest(
            fid=fid_to_wire(ROOT), set_status=types_pb2.SetStatus(owner=1)
        )
        await root.call(root.files.StoreStatus, request)
        assert await alice.names(below) == []
        await setting.store_acl(alice, below, alice="all")
        await alice.create("f", below)


async def test_lists_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    """Unknown names, files, no text of a list; what was there stays."""
    async with rights(tmp_path) as setting:
        root = await setting.client(SUPERUSER)
        file = await root.create("f")
        async with refused(AfsCode.EINVAL):
            await setting.store_acl(root, ROOT, eve="rl")
        async with refused(AfsCode.ENOTDIR):
            await setting.store_acl(root, file, alice="rl")
        for text in ("", "nonsense", "1\n0\n77\t9\n"):
            async with refused(AfsCode.EINVAL):
                request = pb.StoreACLRequest(fid=fid_to_wire(ROOT), acl=text)
                await root.call(root.files.StoreACL, request)
        assert set((await setting.fetch_acl(root, ROOT)).positive) == {"system:administrators"}


async def test_names_follow_their_ids(tmp_path: Path) -> None:
    """A renamed user keeps their rights; a deleted one's number stays, and is nobody's."""
    async with rights(tmp_path) as setting:
        root = await setting.client(SUPERUSER)
        await setting.store_acl(root, ROOT, alice="rl", bob="rl")
        shown = setting.cell.shown(SUPERUSER)
        await setting.cell.stub.Rename(
            protection_pb2.RenameProtectionEntryRequest(entry="alice", new_name="alicia"),
            metadata=shown,
        )
        await setting.cell.stub.Delete(
            protection_pb2.DeleteProtectionEntryRequest(entry="bob"), metadata=shown
        )
        alicia = await setting.client("alicia")
        assert await alicia.names() == []
        acl = await setting.fetch_acl(root, ROOT)
        assert set(acl.positive) == {"alicia", "2"}
        request = pb.StoreACLRequest(fid=fid_to_wire(ROOT), acl=acl.text())
        await root.call(root.files.StoreACL, request)
        await setting.cell.user("bob")
        bob = await setting.client("bob")
        async with refused(AfsCode.EACCES):
            await bob.names()


async def test_daemons_tables_are_the_administrators(tmp_path: Path) -> None:
    """Debug is closed to users; FSSync's socket is its owner's, and its port asks for a token."""
    async with rights(tmp_path, fssync_listen="127.0.0.1:0") as setting:
        alice = await setting.client("alice")
        debug: Any = file_server_debug_pb2_grpc.FileServerDebugStub(alice.channel)
        async with refused(AfsCode.EPERM):
            await alice.call(debug.DumpHosts, file_server_debug_pb2.DumpHostsRequest())
        root = await setting.client(SUPERUSER)
        await root.call(debug.DumpHosts, file_server_debug_pb2.DumpHostsRequest())
        assert (await setting.server.fssync("VOL_QUERY")).response == fssync_pb2.FSYNC_OK
        outside = Client(setting.server.daemon.fssync_addresses[1], anonymous=True)
        outside.metadata = setting.cell.shown("alice")
        fssync: Any = fssync_pb2_grpc.FSSyncStub(outside.channel)
        async with refused(AfsCode.EPERM):
            await outside.call(fssync.VolumeOp, fssync_pb2.VolumeOpRequest())
        await outside.close()


@pytest.mark.parametrize("protected", [True, False])
async def test_lists_where_nobody_looks_at_them(tmp_path: Path, protected: bool) -> None:
    """Without authorization lists are kept, by names if a database is there, and decide nothing."""
    async with guarded_cell(tmp_path) as cell:
        await cell.user("alice")
        settings: dict[str, Any] = {"protection": cell.location} if protected else {}
        async with fileserver(tmp_path, **settings) as server:
            setting = Rights(cell, server)
            client = await server.client()
            await setting.store_acl(client, ROOT, anyuser="rl")
            await client.create("f")
            if protected:
                await setting.store_acl(client, ROOT, alice="rl")
            else:
                async with refused(AfsCode.EINVAL):
                    await setting.store_acl(client, ROOT, alice="rl")
            expected = "alice" if protected else "system:anyuser"
            assert set((await setting.fetch_acl(client, ROOT)).positive) == {expected}
