"""FileServer: what a POSIX mount needs of it, call by call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from afs.errors import AfsCode
from afs.limits import MAX_NAME_BYTES, MAX_SYMLINK_BYTES
from afs.types import Fid
from afs.v1 import file_server_pb2 as pb
from afs.v1 import types_pb2
from afs.wire import fid_from_wire, fid_to_wire
from tests.afsd.running import ROOT, SECOND_VOLUME, VOLUME, Client, fileserver, refused


class Program:
    """System calls, as calls of FileServer."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def stat(self, fid: Fid) -> Any:
        """As the system call."""
        return (await self.client.status(fid)).status

    async def set(self, fid: Fid, **attributes: Any) -> Any:
        """chmod(2), chown(2), utimensat(2), truncate(2)."""
        request = pb.StoreStatusRequest(
            fid=fid_to_wire(fid), set_status=types_pb2.SetStatus(**attributes)
        )
        return (await self.client.call(self.client.files.StoreStatus, request)).status

    async def rename(
        self, old: str, new: str, old_directory: Fid = ROOT, new_directory: Fid = ROOT
    ) -> Any:
        """As the system call."""
        request = pb.RenameRequest(
            old_directory=fid_to_wire(old_directory),
            old_name=old,
            new_directory=fid_to_wire(new_directory),
            new_name=new,
        )
        return await self.client.call(self.client.files.Rename, request)

    async def link(self, target: Fid, name: str, directory: Fid = ROOT) -> Any:
        """As the system call."""
        request = pb.LinkRequest(
            directory=fid_to_wire(directory), name=name, target=fid_to_wire(target)
        )
        return await self.client.call(self.client.files.Link, request)

    async def unlink(self, name: str, directory: Fid = ROOT) -> Any:
        """As the system call."""
        request = pb.RemoveFileRequest(directory=fid_to_wire(directory), name=name)
        return await self.client.call(self.client.files.RemoveFile, request)

    async def symlink(self, target: str, name: str) -> Fid:
        """As the system call."""
        request = pb.SymlinkRequest(directory=fid_to_wire(ROOT), name=name, target=target)
        answer = await self.client.call(self.client.files.Symlink, request)
        return fid_from_wire(answer.status.fid)

    async def readlink(self, fid: Fid) -> str:
        """As the system call."""
        request = pb.ReadLinkRequest(fid=fid_to_wire(fid))
        target: str = (await self.client.call(self.client.files.ReadLink, request)).target
        return target

    async def statfs(self) -> Any:
        """As the system call."""
        request = pb.GetVolumeStatusRequest(volume=VOLUME)
        return (await self.client.call(self.client.files.GetVolumeStatus, request)).status


@pytest.fixture
async def program(tmp_path: Path) -> AsyncIterator[Program]:
    """A program of an attached client."""
    async with fileserver(tmp_path) as running:
        yield Program(await running.client())


# --- attributes -----------------------------------------------------------------------------------


async def test_all_mode_bits_are_kept(program: Program) -> None:
    """Set-user-ID, set-group-ID and sticky too, of files and of directories."""
    for fid in (await program.client.create("f"), await program.client.make_dir("d")):
        for mode in (0, 0o644, 0o1777, 0o2755, 0o4755, 0o7777):
            assert (await program.set(fid, mode=mode)).mode == mode
            assert (await program.stat(fid)).mode == mode


async def test_each_attribute_is_set_by_itself(program: Program) -> None:
    """Owner, group, mode and time leave each other alone; times are to the nanosecond."""
    fid = await program.client.create("f")
    for attributes in (
        {"owner": 1000},
        {"group": 2**32 - 2},
        {"mode": 0o600},
        {"client_mtime_ns": 1_234_567_890_123_456_789},
        {"client_mtime_ns": -1},
    ):
        before = await program.stat(fid)
        after = await program.set(fid, **attributes)
        for name, value in attributes.items():
            assert getattr(after, name) == value
        for name in {"owner", "group", "mode", "client_mtime_ns", "length"} - set(attributes):
            assert getattr(after, name) == getattr(before, name)
        assert after.data_version == before.data_version, "the data is the same"


async def test_the_time_of_change_follows_every_change(program: Program) -> None:
    """The server's time is ctime: attributes, data, links and a move move it, never the client."""
    client = program.client
    fid = await client.create("f")
    directory = await client.make_dir("d")
    last = (await program.stat(fid)).server_mtime_ns

    async def moved() -> bool:
        nonlocal last
        before, last = last, (await program.stat(fid)).server_mtime_ns
        return bool(last > before)

    await program.set(fid, mode=0o600)
    assert await moved()
    await program.set(fid, client_mtime_ns=0)
    assert await moved()
    await client.store(fid, b"data")
    assert await moved()
    await program.set(fid, length=2)
    assert await moved()
    await program.link(fid, "g")
    assert await moved()
    await program.unlink("g")
    assert await moved()
    await program.rename("f", "f", ROOT, directory)
    assert await moved()
    await client.fetch(fid)
    await program.stat(fid)
    assert not await moved()


async def test_truncation_is_of_data(program: Program) -> None:
    """Shorter, longer with zeroes, and empty; each a new DataVersion, and mtime moves."""
    fid = await program.client.create("f")
    await program.client.store(fid, b"0123456789")
    for length, data in ((4, b"0123"), (6, b"0123\0\0"), (0, b""), (2, b"\0\0")):
        before = await program.stat(fid)
        after = await program.set(fid, length=length)
        assert (after.length, after.data_version) == (length, before.data_version + 1)
        assert after.client_mtime_ns > before.client_mtime_ns
        assert (await program.client.fetch(fid))[1] == data
    both = await program.set(fid, length=1, client_mtime_ns=5)
    assert (both.length, both.client_mtime_ns) == (1, 5)
    for other in (await program.client.make_dir("d"), await program.symlink("t", "s")):
        async with refused(AfsCode.EISDIR, AfsCode.EINVAL):
            await program.set(other, length=0)


async def test_a_directory_tells_of_its_entries(program: Program) -> None:
    """Length counts names, links subdirectories; both times and DataVersion move with names."""
    client = program.client
    directory = await client.make_dir("d")
    fresh = await program.stat(directory)
    assert (fresh.length, fresh.link_count) == (0, 2)
    await client.create("f", directory)
    await client.make_dir("e", directory)
    after = await program.stat(directory)
    assert (after.length, after.link_count) == (2, 3)
    assert after.client_mtime_ns > fresh.client_mtime_ns
    assert after.server_mtime_ns > fresh.server_mtime_ns
    assert after.data_version == fresh.data_version + 2


# --- names ----------------------------------------------------------------------------------------


async def test_a_name_is_any_text_without_slash(program: Program) -> None:
    """255 bytes of UTF-8, as they are: not normalized, no case folded, none reserved."""
    names = ["n" * MAX_NAME_BYTES, "ä" * 127 + "n", " ", "...", "a\nb", "\x01", "\\", "-rf", "文"]
    for name in names:
        fid = await program.client.create(name)
        request = pb.LookupRequest(directory=fid_to_wire(ROOT), name=name)
        found = await program.client.call(program.client.files.Lookup, request)
        assert fid_from_wire(found.status.fid) == fid
    assert await program.client.names() == sorted(names)


async def test_names_that_differ_in_bytes_are_different(program: Program) -> None:
    """Also those that look alike."""
    names = ["é", "e\u0301", "E", "e"]
    for name in names:
        await program.client.create(name)
    assert await program.client.names() == sorted(names)


async def test_a_name_has_255_bytes_not_characters(program: Program) -> None:
    """Counted as UTF-8."""
    async with refused(AfsCode.ENAMETOOLONG):
        await program.client.create("ä" * 128)


async def test_a_symbolic_link_keeps_its_target(program: Program) -> None:
    """Up to 4,095 bytes, as it is; its length is that of the target in bytes."""
    for number, target in enumerate(("t", "t" * MAX_SYMLINK_BYTES, "../x y\n", "ä" * 2047, "/")):
        fid = await program.symlink(target, str(number))
        assert await program.readlink(fid) == target
        status = await program.stat(fid)
        assert (status.length, status.link_count) == (len(target.encode()), 1)
        assert status.mode == 0o777


# --- links ----------------------------------------------------------------------------------------


async def test_links_are_counted(program: Program) -> None:
    """One file by several names; the last one takes it along."""
    fid = await program.client.create("a")
    assert (await program.link(fid, "b")).status.link_count == 2
    await program.client.store(fid, b"one file")
    assert (await program.unlink("a")).status.link_count == 1
    assert (await program.client.fetch(fid))[1] == b"one file"
    assert (await program.unlink("b")).status.link_count == 0
    async with refused(AfsCode.VNOVNODE):
        await program.stat(fid)


async def test_links_stay_in_their_directory(program: Program) -> None:
    """EXDEV elsewhere, as AFS has it; and for a linked file that is to move away."""
    client = program.client
    fid = await client.create("a")
    directory = await client.make_dir("d")
    async with refused(AfsCode.EXDEV):
        await program.link(fid, "b", directory)
    await program.link(fid, "b")
    async with refused(AfsCode.EXDEV):
        await program.rename("a", "a", ROOT, directory)
    await program.unlink("b")
    await program.rename("a", "a", ROOT, directory)
    async with refused(AfsCode.EXDEV):
        await program.rename("a", "a", directory, Fid(SECOND_VOLUME, 1, 1))


# --- rename ---------------------------------------------------------------------------------------


async def test_rename_replaces_a_file(program: Program) -> None:
    """In one step, within a directory and across; what was replaced is gone."""
    client = program.client
    directory = await client.make_dir("d")
    for number, (where, name) in enumerate(((ROOT, "old"), (directory, "there"))):
        replaced = await client.create(name, where)
        fid = await client.create(f"new{number}")
        answer = await program.rename(f"new{number}", name, ROOT, where)
        assert fid_from_wire(answer.status.fid) == fid
        async with refused(AfsCode.VNOVNODE):
            await program.stat(replaced)
        assert name in await client.names(where)
    assert (await program.stat(directory)).length == 1


async def test_rename_replaces_one_of_several_links(program: Program) -> None:
    """The other names keep the file, which has one link less."""
    client = program.client
    linked, fid = await client.create("a"), await client.create("new")
    await program.link(linked, "b")
    await program.rename("new", "a")
    assert (await program.stat(linked)).link_count == 1
    assert await client.names() == ["a", "b"]
    assert (await program.stat(fid)).link_count == 1


async def test_rename_of_a_link_onto_its_like_does_nothing(program: Program) -> None:
    """As POSIX has it: both names stay."""
    fid = await program.client.create("a")
    await program.link(fid, "b")
    await program.rename("a", "b")
    assert await program.client.names() == ["a", "b"]


async def test_rename_replaces_an_empty_directory(program: Program) -> None:
    """And no other; what `..` means moves along, and so do the link counts."""
    client = program.client
    one, two = await client.make_dir("one"), await client.make_dir("two")
    moved, empty = await client.make_dir("moved", one), await client.make_dir("empty", two)
    full = await client.make_dir("full", two)
    await client.create("f", full)
    async with refused(AfsCode.ENOTEMPTY):
        await program.rename("moved", "full", one, two)
    await program.rename("moved", "empty", one, two)
    assert fid_from_wire((await program.stat(moved)).parent) == two
    assert (await program.stat(one)).link_count == 2
    assert (await program.stat(two)).link_count == 4
    async with refused(AfsCode.VNOVNODE):
        await program.stat(empty)


async def test_rename_keeps_kinds_apart(program: Program) -> None:
    """A file replaces no directory, a directory no file."""
    await program.client.create("f")
    await program.client.make_dir("d")
    async with refused(AfsCode.EISDIR):
        await program.rename("f", "d")
    async with refused(AfsCode.ENOTDIR):
        await program.rename("d", "f")


async def test_a_directory_does_not_move_into_itself(program: Program) -> None:
    """Nor into what is below it: EINVAL; out of it, up and beside, it does."""
    client = program.client
    top = await client.make_dir("top")
    middle = await client.make_dir("middle", top)
    below = await client.make_dir("below", middle)
    for where in (top, middle, below):
        async with refused(AfsCode.EINVAL):
            await program.rename("top", "x", ROOT, where)
    async with refused(AfsCode.ENOTEMPTY):
        await program.rename("below", "middle", middle, top)
    await program.rename("below", "below", middle, ROOT)
    await program.rename("middle", "middle", top, below)
    assert fid_from_wire((await program.stat(middle)).parent) == below


# --- room -----------------------------------------------------------------------------------------


async def test_a_full_volume_refuses_more_and_nothing_else(tmp_path: Path) -> None:
    """VOVERQUOTA for what makes it larger; reading, shrinking, attributes and removal go on."""
    async with fileserver(tmp_path, max_quota_kib=4) as running:
        client = await running.client()
        program = Program(client)
        fid = await client.create("f")
        await client.store(fid, bytes(2000))
        await client.create("g")
        for grow in (
            client.create("h"),
            client.make_dir("h"),
            program.symlink("t", "h"),
            client.store(fid, bytes(5000)),
            client.store(fid, b"x", offset=4000),
            program.set(fid, length=5000),
        ):
            async with refused(AfsCode.VOVERQUOTA):
                await grow
        assert len((await client.fetch(fid))[1]) == 2000
        assert (await program.set(fid, mode=0o600)).mode == 0o600
        await client.store(fid, bytes(2048))
        await program.link(fid, "linked")
        await program.rename("g", "linked")
        await program.rename("linked", "g")
        status = await program.statfs()
        assert (status.max_quota_kib, status.used_kib, status.file_count) == (4, 4, 3)
        await program.set(fid, length=1)
        await client.create("h")
        await program.unlink("h")
        await program.unlink("g")
        status = await program.statfs()
        assert (status.used_kib, status.file_count) == (2, 2)


async def test_a_quota_below_what_is_used_only_stops_growth(program: Program) -> None:
    """A volume over its quota shrinks as anybody likes."""
    client = program.client
    fid = await client.create("f")
    await client.store(fid, bytes(10_000))
    request = pb.SetVolumeStatusRequest(volume=VOLUME, max_quota_kib=1)
    await client.call(client.files.SetVolumeStatus, request)
    await program.set(fid, mode=0o600)
    await client.store(fid, b"same length", offset=0)
    async with refused(AfsCode.VOVERQUOTA):
        await client.create("g")
    await program.rename("f", "renamed")
    await program.set(fid, length=5000)
    await program.unlink("renamed")


async def test_statfs_tells_of_volume_and_partition(program: Program) -> None:
    """What df(1) shows: the quota and what is used of it, and how much room the disk has."""
    before = await program.statfs()
    fid = await program.client.create("f")
    await program.client.store(fid, bytes(10_000))
    after = await program.statfs()
    assert after.used_kib - before.used_kib == 10
    assert after.file_count - before.file_count == 1
    assert after.partition_size_kib >= after.partition_free_kib > 0
