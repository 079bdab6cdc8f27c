"""Mount points, the cell's root volume, and the ways out of volumes again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.types import VnodeType, root_fid
from afs.v1 import cache_manager_pb2 as pb
from afs.v1 import types_pb2
from afs.wire import fid_to_wire
from tests.clientd.local_program import CACHE, LocalProgram
from tests.clientd.several_servers import Servers, clients, make_mount_point, several_servers


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    """Two fileservers, the first with the volume `home`, the second with `work`."""
    async with several_servers(tmp_path) as running:
        await running.create("home")
        await running.create("work", 1)
        yield running


@pytest.fixture
async def program(servers: Servers, tmp_path: Path) -> AsyncIterator[LocalProgram]:
    """A program with a client."""
    async with clients(tmp_path, servers) as (program,):
        yield program


async def itself(program: LocalProgram, path: str) -> pb.StatResponse:
    """Stat of a mount point itself."""
    request = pb.StatRequest(path=path, mount_point_itself=True)
    response: pb.StatResponse = await program.call(program.stub.Stat(request))
    return response


async def test_mount_point_shows_the_volume(servers: Servers, program: LocalProgram) -> None:
    """Its root directory, followed or not; files in it are at home on their own fileserver."""
    await program.write("/work/f", b"at work")
    await program.make_dir("/home/projects")
    await make_mount_point(program, "/home/projects/work", "#work.")
    assert (await program.read("/home/projects/work/f")).data == b"at work"
    assert (await program.list("/home/projects/work"))[0] == ["f"]
    root = root_fid(servers.entry("work").read_write_id)
    for no_follow in (False, True):
        answer = await program.stat("/home/projects/work", no_follow=no_follow)
        assert answer.status.fid == fid_to_wire(root)
        assert answer.status.type == types_pb2.VNODE_TYPE_DIRECTORY
        assert answer.volume.name == "work"
        assert answer.volume.file_servers == [servers.address(1)]
        assert answer.mount_target == "#work."
    assert not (await program.stat("/home/projects")).mount_target
    await program.write("/home/projects/work/new", b"x")
    assert (await program.list("/work"))[0] == ["f", "new"]


async def test_mount_point_itself_can_be_seen(servers: Servers, program: LocalProgram) -> None:
    """The symbolic link, its target, and the volume it lies in."""
    await make_mount_point(program, "/home/work", "%work.")
    answer = await itself(program, "/home/work")
    assert answer.status.type == types_pb2.VNODE_TYPE_SYMLINK
    assert answer.symlink_target == answer.mount_target == "%work."
    assert answer.mount_point == answer.status.fid
    assert answer.volume.name == "home"
    assert (await program.stat("/home/work")).mount_point == answer.status.fid
    await program.symlink("/home/plain", "#work.")
    plain = await itself(program, "/home/plain")
    assert (plain.symlink_target, plain.mount_target) == ("#work.", "")
    with pytest.raises(AfsError, match="ENOENT"):
        await program.stat("/home/plain")


async def test_mount_point_is_removed_and_renamed_without_its_volume(
    servers: Servers, program: LocalProgram
) -> None:
    """Also by a recursive removal, which does not enter the volume."""
    await program.write("/work/f", b"x")
    await program.make_dir("/home/d")
    await make_mount_point(program, "/home/d/work", "#work.")
    await program.rename("/home/d/work", "/home/d/play")
    assert (await program.read("/home/d/play/f")).data == b"x"
    await program.remove("/home/d", recursive=True)
    assert (await program.list("/home"))[0] == []
    await make_mount_point(program, "/home/again", "#work.")
    await program.remove("/home/again")
    assert (await program.list("/home"))[0] == []
    assert (await program.read("/work/f")).data == b"x"


async def test_way_up_leads_out_of_the_volume(servers: Servers, program: LocalProgram) -> None:
    """`..` of a mounted root is the directory of the mount point, also by way of links."""
    await program.write("/home/f", b"at home")
    await program.make_dir("/home/d")
    await make_mount_point(program, "/home/d/work", "#work.")
    await program.make_dir("/work/sub")
    assert (await program.read("/home/d/work/../../f")).data == b"at home"
    assert (await program.read("/home/d/work/sub/../../../f")).data == b"at home"
    await program.symlink("/work/sub/up", "../../../f")
    assert (await program.read("/home/d/work/sub/up")).data == b"at home"
    # Come into by another way, the volume is left by that.
    with pytest.raises(AfsError, match="VNOVOL"):
        await program.read("/work/sub/up")


async def test_regular_mount_point_in_a_read_only_volume(
    servers: Servers, program: LocalProgram
) -> None:
    """Leads to the read-only volume if there is one; `%` never does."""
    await program.write("/work/f", b"old")
    for name, target in (("regular", "#work."), ("written", "%work."), ("kept", "#work.readonly.")):
        await make_mount_point(program, f"/home/{name}", target)
    await servers.release("home", 0, 0)
    await program.stub.CheckVolumes(pb.CheckVolumesRequest())
    assert (await program.stat("/home.readonly/regular")).volume.name == "work"
    await servers.release("work", 1, 1)
    await program.write("/work/f", b"new")
    await program.stub.CheckVolumes(pb.CheckVolumesRequest())
    for path, content in (
        ("/home/regular/f", b"new"),
        ("/home/written/f", b"new"),
        ("/home/kept/f", b"old"),
        ("/home.readonly/regular/f", b"old"),
        ("/home.readonly/written/f", b"new"),
        ("/home.readonly/kept/f", b"old"),
    ):
        assert (await program.read(path)).data == content, path


async def test_warm_path_across_volumes_asks_nobody(
    servers: Servers, program: LocalProgram
) -> None:
    """Mount points are cached like everything else, under promises."""
    await program.write("/work/f", b"x")
    await make_mount_point(program, "/home/work", "#work.")
    await program.read("/home/work/f")
    await program.until_leased()
    await program.read("/home/work/f")
    before = await program.counters()
    assert (await program.read("/home/work/f")).source == CACHE
    after = await program.counters()
    for name in ("fetch_status_calls", "read_dir_calls", "lookup_calls", "location_calls"):
        assert after[name] == before[name]


async def test_mount_point_changed_by_another_client(
    servers: Servers, tmp_path: Path, program: LocalProgram
) -> None:
    """A break of the directory, and the path leads elsewhere."""
    await program.write("/work/f", b"at work")
    await servers.create("play")
    await program.write("/play/f", b"at play")
    await make_mount_point(program, "/home/m", "#work.")
    async with clients(servers.folders[1], servers) as (other,):
        assert (await other.read("/home/m/f")).data == b"at work"
        await program.remove("/home/m")
        await make_mount_point(program, "/home/m", "#play.")
        assert (await other.read("/home/m/f")).data == b"at play"


async def test_volume_mounted_in_itself(servers: Servers, program: LocalProgram) -> None:
    """Legal: every path is finite."""
    await program.write("/home/f", b"x")
    await make_mount_point(program, "/home/loop", "#home.")
    path = "/home" + "/loop" * 100
    assert (await program.read(f"{path}/f")).data == b"x"
    assert (await program.read(f"{path}{'/..' * 100}/f")).data == b"x"
    with pytest.raises(AfsError, match="VNOVOL"):
        await program.stat(f"{path}{'/..' * 101}/f")


async def test_symbolic_links_are_bounded_across_mount_points(
    servers: Servers, program: LocalProgram
) -> None:
    """A link that leads through a mount point to itself is ELOOP."""
    await make_mount_point(program, "/home/loop", "#home.")
    await program.symlink("/home/link", "loop/link")
    with pytest.raises(AfsError) as caught:
        await program.stat("/home/link")
    assert caught.value.code is AfsCode.ELOOP


@pytest.mark.parametrize("target", ["#nowhere.", "#work.readonly.", "#other:work."])
async def test_mount_point_that_leads_nowhere(
    servers: Servers, program: LocalProgram, target: str
) -> None:
    """The error names it; the directory it is in can be listed, and it can be removed."""
    await make_mount_point(program, "/home/m", target)
    with pytest.raises(AfsError, match="mount point 'm'") as caught:
        await program.stat("/home/m")
    assert caught.value.code is AfsCode.VNOVOL
    assert (await program.list("/home"))[0] == ["m"]
    await program.remove("/home/m")


async def test_root_volume(servers: Servers, program: LocalProgram) -> None:
    """`root.cell` is "/" as soon as somebody looks; names it does not have are volumes."""
    await program.write("/home/f", b"x")
    assert (await program.list("/"))[0] == ["home", "work"]
    assert (await program.stat("/")).volume.name == ""
    await servers.create("root.cell")
    assert (await program.list("/"))[0] == []
    await program.write("/motd", b"hello")
    await make_mount_point(program, "/users", "#home.")
    assert (await program.list("/"))[0] == ["motd", "users"]
    assert (await program.stat("/")).volume.name == "root.cell"
    assert (await program.read("/users/f")).data == b"x"
    # Not in root.cell: the volume of that name.
    assert (await program.read("/home/f")).data == b"x"
    assert (await program.read(f"/{servers.entry('home').read_write_id}/f")).data == b"x"
    for path in ("/users/../motd", "/home/../motd", "/../motd", "/home/../../motd"):
        assert (await program.read(path)).data == b"hello"
    for path in ("/nothing", "/no such volume", "/0"):
        with pytest.raises(AfsError) as caught:
            await program.read(path)
        assert caught.value.code is AfsCode.ENOENT
    with pytest.raises(AfsError, match="EINVAL"):
        await program.remove("/")
    await program.symlink("/home/absolute", "/motd")
    assert (await program.read("/users/absolute")).data == b"hello"


async def test_root_volume_made_behind_the_clients_back(
    servers: Servers, program: LocalProgram
) -> None:
    """A name that is no volume may be in a `root.cell` that was not there before."""
    await program.write("/home/f", b"x")
    await servers.create("root.cell")
    async with clients(servers.folders[1], servers) as (other,):
        await make_mount_point(other, "/users", "#home.")
    assert (await program.read("/users/f")).data == b"x"


async def test_released_root_volume(servers: Servers, program: LocalProgram) -> None:
    """Then "/" is read-only, and so is what regular mount points in it lead to."""
    await servers.create("root.cell")
    await program.write("/home/f", b"old")
    await make_mount_point(program, "/users", "#home.")
    await servers.release("home", 0, 0, 1)
    await servers.release("root.cell", 0, 0, 1)
    await program.stub.CheckVolumes(pb.CheckVolumesRequest())
    assert (await program.stat("/")).volume.name == "root.cell.readonly"
    assert (await program.stat("/users")).volume.name == "home.readonly"
    with pytest.raises(AfsError) as caught:
        await program.write("/new", b"x")
    assert caught.value.code is AfsCode.EROFS
    # The way of AFS to the volumes themselves.
    await program.write("/root.cell/new", b"x")
    await program.write("/home/f", b"new")
    assert (await program.read("/users/f")).data == b"old"


async def test_writing_to_mount_points(servers: Servers, program: LocalProgram) -> None:
    """They are directories: EISDIR, EEXIST; and names of two volumes do not mix: EXDEV."""
    await make_mount_point(program, "/home/work", "#work.")
    await program.write("/home/f", b"x")
    with pytest.raises(AfsError, match="EISDIR"):
        await program.write("/home/work", b"x")
    with pytest.raises(AfsError, match="EEXIST"):
        await program.make_dir("/home/work")
    with pytest.raises(AfsError, match="EXDEV"):
        await program.rename("/home/f", "/home/work/f")


async def test_listing_shows_the_mount_point_as_a_link(
    servers: Servers, program: LocalProgram
) -> None:
    """So whoever walks a tree by what List says stays in one volume."""
    await make_mount_point(program, "/home/work", "#work.")
    entries = [
        entry
        async for response in program.stub.List(pb.ListRequest(path="/home"))
        for entry in response.entries
    ]
    assert [(entry.name, entry.type) for entry in entries] == [("work", VnodeType.SYMLINK)]


async def test_flush_of_the_volume_behind_a_path(servers: Servers, program: LocalProgram) -> None:
    """By path, name or number: that volume is forgotten, with where it is, and no other."""
    await program.write("/home/f", b"x" * 5000)
    await program.write("/work/f", b"x" * 5000)
    await make_mount_point(program, "/home/work", "#work.")
    await program.read("/home/work/f")
    number = str(servers.entry("work").read_write_id)
    for request in (
        pb.FlushVolumeRequest(path="/home/work/f"),
        pb.FlushVolumeRequest(volume="work"),
        pb.FlushVolumeRequest(volume=number),
    ):
        asked = servers.location.asked
        assert (await program.stub.FlushVolume(request)).flushed == 2
        assert program.client.services.disk.file_count() == 1
        await program.read("/home/work/f")
        assert servers.location.asked == asked + 1
    with pytest.raises(AfsError, match="EINVAL"):
        await program.call(program.stub.FlushVolume(pb.FlushVolumeRequest(path="/")))
