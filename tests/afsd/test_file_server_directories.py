"""FileServer: directories and names, over real sockets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode
from afs.limits import DIRECTORY_ENTRIES_PER_MESSAGE, MAX_NAME_BYTES, MAX_SYMLINK_BYTES
from afs.types import BreakReason, Fid, VnodeType, root_fid
from afs.v1 import file_server_pb2 as pb
from afs.v1 import types_pb2
from afs.wire import fid_from_wire, fid_to_wire
from tests.afsd.running import ROOT, SECOND_VOLUME, Client, fileserver, refused

BAD_NAMES = [
    ("", AfsCode.EINVAL),
    (".", AfsCode.EINVAL),
    ("..", AfsCode.EINVAL),
    ("a/b", AfsCode.EINVAL),
    ("/", AfsCode.EINVAL),
    ("a\0b", AfsCode.EINVAL),
    ("n" * (MAX_NAME_BYTES + 1), AfsCode.ENAMETOOLONG),
    ("ä" * (MAX_NAME_BYTES // 2 + 1), AfsCode.ENAMETOOLONG),
]


async def lookup(client: Client, name: str, directory: Fid = ROOT) -> Any:
    """Lookup of a name."""
    request = pb.LookupRequest(directory=fid_to_wire(directory), name=name)
    return await client.call(client.files.Lookup, request)


@pytest.mark.parametrize(("name", "code"), BAD_NAMES)
async def test_a_name_that_cannot_stand_in_a_directory_is_refused(
    tmp_path: Path, name: str, code: AfsCode
) -> None:
    """Every method that takes a name has the same clear errors, and changes nothing."""
    directory = fid_to_wire(ROOT)
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        before = (await client.status(ROOT)).status
        requests = {
            "Lookup": pb.LookupRequest(directory=directory, name=name),
            "CreateFile": pb.CreateFileRequest(directory=directory, name=name),
            "MakeDir": pb.MakeDirRequest(directory=directory, name=name),
            "Symlink": pb.SymlinkRequest(directory=directory, name=name, target="t"),
            "Link": pb.LinkRequest(directory=directory, name=name, target=fid_to_wire(file)),
            "RemoveFile": pb.RemoveFileRequest(directory=directory, name=name),
            "RemoveDir": pb.RemoveDirRequest(directory=directory, name=name),
        }
        for method, request in requests.items():
            async with refused(code):
                await client.call(getattr(client.files, method), request)
        for old, new in ((name, "b"), ("a", name)):
            async with refused(code):
                rename = pb.RenameRequest(
                    old_directory=directory, old_name=old, new_directory=directory, new_name=new
                )
                await client.call(client.files.Rename, rename)
        if name:
            async with refused(code):
                listing = pb.ReadDirRequest(directory=directory, after=name)
                await client.stream(client.files.ReadDir, listing)
        assert (await client.status(ROOT)).status == before


async def test_names_are_made_looked_up_and_listed(tmp_path: Path) -> None:
    """Files, directories and links appear under their names, with status and promise."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        directory = await client.make_dir("d")
        file = await client.create("ü", directory)
        request = pb.SymlinkRequest(directory=fid_to_wire(directory), name="l", target="../x")
        link = await client.call(client.files.Symlink, request)
        assert link.status.type == VnodeType.SYMLINK
        assert link.HasField("callback")
        assert link.directory_status.length == 2
        found = await lookup(client, "ü", directory)
        assert fid_from_wire(found.status.fid) == file
        assert found.HasField("callback")
        assert found.HasField("directory_callback")
        assert found.directory_status == link.directory_status
        assert await client.names(directory) == ["l", "ü"]
        assert await client.names() == ["d"]
        answer = await client.call(client.files.ReadLink, pb.ReadLinkRequest(fid=link.status.fid))
        assert answer.target == "../x"
        assert answer.status == link.status
        assert answer.HasField("callback")


async def test_a_listing_comes_in_messages_and_goes_on_where_asked(tmp_path: Path) -> None:
    """Status and promise first; entries in order, in bounded messages, from `after` on."""
    total = DIRECTORY_ENTRIES_PER_MESSAGE + 5
    async with fileserver(tmp_path) as running:
        client = await running.client()
        names = [f"n{number:05}" for number in range(total)]
        for name in names:
            await client.create(name)
        request = pb.ReadDirRequest(directory=fid_to_wire(ROOT))
        answers = await client.stream(client.files.ReadDir, request)
        assert answers[0].directory_status.length == total
        assert answers[0].HasField("directory_callback")
        assert [len(answer.entries) for answer in answers] == [DIRECTORY_ENTRIES_PER_MESSAGE, 5]
        assert [entry.name for answer in answers for entry in answer.entries] == names
        request.after = names[-3]
        (rest,) = await client.stream(client.files.ReadDir, request)
        assert [entry.name for entry in rest.entries] == names[-2:]


async def test_an_exactly_full_listing_ends(tmp_path: Path) -> None:
    """A directory of exactly one message's entries, and an empty one, end properly."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        empty = await client.make_dir("empty")
        full = await client.make_dir("full")
        for number in range(DIRECTORY_ENTRIES_PER_MESSAGE):
            await client.create(f"n{number}", full)
        assert await client.names(empty) == []
        assert len(await client.names(full)) == DIRECTORY_ENTRIES_PER_MESSAGE


async def test_a_lookup_promises_the_directory_for_names_that_come(tmp_path: Path) -> None:
    """Whoever looked something up hears of every change of the directory's names."""
    async with fileserver(tmp_path) as running:
        holder, writer = await running.client(), await running.client()
        await writer.create("a")
        await lookup(holder, "a")
        await writer.create("b")
        assert (await holder.broken(ROOT)).reason == BreakReason.DATA_CHANGED


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("Lookup", {"name": "none"}, AfsCode.ENOENT),
        ("CreateFile", {"name": "a"}, AfsCode.EEXIST),
        ("MakeDir", {"name": "a"}, AfsCode.EEXIST),
        ("Symlink", {"name": "a", "target": "t"}, AfsCode.EEXIST),
        ("Symlink", {"name": "s", "target": ""}, AfsCode.EINVAL),
        ("Symlink", {"name": "s", "target": "t\0"}, AfsCode.EINVAL),
        ("Symlink", {"name": "s", "target": "t" * (MAX_SYMLINK_BYTES + 1)}, AfsCode.ENAMETOOLONG),
        ("RemoveFile", {"name": "none"}, AfsCode.ENOENT),
        ("RemoveFile", {"name": "d"}, AfsCode.EISDIR),
        ("RemoveDir", {"name": "none"}, AfsCode.ENOENT),
        ("RemoveDir", {"name": "a"}, AfsCode.ENOTDIR),
        ("RemoveDir", {"name": "d"}, AfsCode.ENOTEMPTY),
    ],
)
async def test_a_change_that_cannot_be_made_has_its_error(
    tmp_path: Path, method: str, request_: dict[str, Any], code: AfsCode
) -> None:
    """As system calls would answer; nothing changes and nobody is broken."""
    async with fileserver(tmp_path) as running:
        client, holder = await running.client(), await running.client()
        await client.create("a")
        await client.create("inside", await client.make_dir("d"))
        before = (await holder.status(ROOT)).status
        request_type = getattr(pb, f"{method}Request")
        async with refused(code):
            await client.call(
                getattr(client.files, method),
                request_type(directory=fid_to_wire(ROOT), **request_),
            )
        assert (await holder.status(ROOT)).status == before
        assert holder.breaks == []


async def test_a_file_is_no_directory(tmp_path: Path) -> None:
    """ENOTDIR for names in a file, also for a listing of it."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        async with refused(AfsCode.ENOTDIR):
            await client.create("b", file)
        async with refused(AfsCode.ENOTDIR):
            await lookup(client, "b", file)
        async with refused(AfsCode.ENOTDIR):
            await client.names(file)
        async with refused(AfsCode.EINVAL):
            await client.call(client.files.ReadLink, pb.ReadLinkRequest(fid=fid_to_wire(file)))


async def test_a_rename_tells_both_directories(tmp_path: Path) -> None:
    """Holders of both directories and of what was replaced hear of it; the statuses are new."""
    async with fileserver(tmp_path) as running:
        client, holder = await running.client(), await running.client()
        old, new = await client.make_dir("old"), await client.make_dir("new")
        moved, replaced = await client.create("a", old), await client.create("b", new)
        for fid in (old, new, moved, replaced):
            await holder.status(fid)
        request = pb.RenameRequest(
            old_directory=fid_to_wire(old),
            old_name="a",
            new_directory=fid_to_wire(new),
            new_name="b",
        )
        answer = await client.call(client.files.Rename, request)
        assert answer.old_directory_status.length == 0
        assert answer.new_directory_status.length == 1
        assert fid_from_wire(answer.status.fid) == moved
        for fid in (old, new):
            assert (await holder.broken(fid)).reason == BreakReason.DATA_CHANGED
        assert (await holder.broken(replaced)).reason == BreakReason.REMOVED
        assert await client.names(new) == ["b"]
        async with refused(AfsCode.VNOVNODE):
            await client.status(replaced)


async def test_a_rename_within_a_directory_answers_it_twice(tmp_path: Path) -> None:
    """Old and new directory are the same, and both statuses say so."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        await client.create("a")
        request = pb.RenameRequest(
            old_directory=fid_to_wire(ROOT),
            old_name="a",
            new_directory=fid_to_wire(ROOT),
            new_name="b",
        )
        answer = await client.call(client.files.Rename, request)
        assert answer.old_directory_status == answer.new_directory_status
        assert await client.names() == ["b"]


async def test_a_second_name_stays_in_the_directory_and_the_volume(tmp_path: Path) -> None:
    """Hard links: two names, one file; EXDEV for another directory or another volume."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        file = await client.create("a")
        directory = await client.make_dir("d")
        link = pb.LinkRequest(directory=fid_to_wire(ROOT), name="b", target=fid_to_wire(file))
        answer = await client.call(client.files.Link, link)
        assert answer.status.link_count == 2
        assert answer.directory_status.length == 3
        remove = pb.RemoveFileRequest(directory=fid_to_wire(ROOT), name="a")
        assert (await client.call(client.files.RemoveFile, remove)).status.link_count == 1
        assert (await client.status(file)).status.link_count == 1
        for elsewhere in (directory, root_fid(SECOND_VOLUME)):
            link.directory.CopyFrom(fid_to_wire(elsewhere))
            async with refused(AfsCode.EXDEV):
                await client.call(client.files.Link, link)
        rename = pb.RenameRequest(
            old_directory=fid_to_wire(ROOT),
            old_name="b",
            new_directory=fid_to_wire(root_fid(SECOND_VOLUME)),
            new_name="b",
        )
        async with refused(AfsCode.EXDEV):
            await client.call(client.files.Rename, rename)


async def test_a_removed_directory_is_gone(tmp_path: Path) -> None:
    """RemoveDir answers its parent; the directory's own holders hear REMOVED."""
    async with fileserver(tmp_path) as running:
        client, holder = await running.client(), await running.client()
        directory = await client.make_dir("d")
        await holder.status(directory)
        request = pb.RemoveDirRequest(directory=fid_to_wire(ROOT), name="d")
        answer = await client.call(client.files.RemoveDir, request)
        assert answer.directory_status.length == 0
        assert (await holder.broken(directory)).reason == BreakReason.REMOVED


async def test_new_vnodes_have_the_attributes_asked_for(tmp_path: Path) -> None:
    """CreateFile and MakeDir set mode, owner, group and time in the same step."""
    async with fileserver(tmp_path) as running:
        client = await running.client()
        wanted = types_pb2.SetStatus(mode=0o700, owner=5, group=6, client_mtime_ns=123)
        for method, request_type in (
            (client.files.CreateFile, pb.CreateFileRequest),
            (client.files.MakeDir, pb.MakeDirRequest),
        ):
            request = request_type(
                directory=fid_to_wire(ROOT), name=request_type.DESCRIPTOR.name, set_status=wanted
            )
            status = (await client.call(method, request)).status
            assert (status.mode, status.owner, status.group) == (0o700, 5, 6)
            assert status.client_mtime_ns == 123
