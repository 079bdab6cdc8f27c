"""Mount points on the command line's own way through paths, against stand-in fileservers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.mount_points import MOUNT_POINT_MODE, MountPoint
from afs.types import SetStatus, VolumeType, root_fid
from afs.v1 import types_pb2, vol_server_pb2
from afs.volume.volume import MakeSymlink
from tests.afsctl.conftest import Afsctl, FakeCell
from tests.afsctl.fake_services import new_volume, site_at

READ_ONLY = types_pb2.VOLUME_TYPE_READ_ONLY


def add_volume(cell: FakeCell, name: str, number: int) -> vol_server_pb2.VolumeEntry:
    """Adds a volume at the second server, with a file `here` that says its name."""
    volume = new_volume(name, number)
    cell.second_file_server.volumes[number] = volume
    entry = vol_server_pb2.VolumeEntry(
        name=name, read_write_id=number, sites=[site_at(cell.second_address, "vicepa")]
    )
    cell.vldb.entries.append(entry)
    return entry


def add_read_only(cell: FakeCell, entry: vol_server_pb2.VolumeEntry, *, release: int = 1) -> None:
    """Adds a read-only site at the first server, whose volume is empty."""
    entry.read_only_id = entry.read_write_id + 1
    volume = new_volume(f"{entry.name}.readonly", entry.read_only_id, VolumeType.READ_ONLY)
    cell.file_server.volumes[entry.read_only_id] = volume
    entry.sites.append(site_at(cell.address, "vicepa", READ_ONLY, release=release))


@pytest.fixture
def tree(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FakeCell:
    """The stand-in cell with `proj` at the second server, mounted as /home.kim/work/proj."""
    monkeypatch.delenv("AFS_FILE_SERVER")
    add_volume(fake_cell, "proj", 7000)
    (tmp_path / "hello").write_text("hello\n")
    for arguments in (
        ("load", str(tmp_path / "hello"), "/proj/hello"),
        ("mkdir", "/home.kim/work"),
        ("mkmount", "/home.kim/work/proj", "proj"),
    ):
        ended = afsctl("fs", *arguments)
        assert ended.status == 0, ended.err
    return fake_cell


def test_mount_point_leads_into_the_volume(tree: FakeCell, afsctl: Afsctl) -> None:
    """What is behind a mount point is read and written at the server that has it."""
    assert afsctl("fs", "cat", "/home.kim/work/proj/hello").out == "hello\n"
    assert afsctl("fs", "mkdir", "/home.kim/work/proj/made").status == 0
    assert afsctl("fs", "ls", "/proj").out == "hello\nmade/\n"
    assert afsctl("fs", "getfid", "/home.kim/work/proj").out == "7000.1.1\n"
    (site,) = json.loads(afsctl("fs", "whereis", "/home.kim/work/proj", "--json").out)
    assert (site["volume"], site["file_server"]) == ("proj", tree.second_address)


def test_two_dots_lead_back_out(tree: FakeCell, afsctl: Afsctl) -> None:
    """Above a mounted volume's root is the directory of its mount point."""
    assert afsctl("fs", "ls", "/home.kim/work/proj/..").out == "proj/\n"
    assert afsctl("fs", "ls", "/home.kim/work/proj/../..").out == "work/\n"


def test_mount_point_is_a_link_without_execute_bits(tree: FakeCell, afsctl: Afsctl) -> None:
    """What is stored is what AFS stores."""
    status = json.loads(afsctl("fs", "stat", "--no-follow", "/home.kim/work/proj", "--json").out)
    assert (status["type"], status["mode"], status["target"]) == ("symlink", 0o644, "#proj.")


def test_link_with_execute_bits_is_no_mount_point(tree: FakeCell, afsctl: Afsctl) -> None:
    """A symbolic link that only looks like one stays a link."""
    assert afsctl("fs", "ln", "#proj.", "/home.kim/like").status == 0
    assert "no such file" in afsctl("fs", "ls", "/home.kim/like").err
    assert "is not a mount point" in afsctl("fs", "lsmount", "/home.kim/like").err


def test_lsmount_and_rmmount(tree: FakeCell, afsctl: Afsctl) -> None:
    """They show and remove the mount point itself, and never touch the volume."""
    path = "/home.kim/work/proj"
    assert afsctl("fs", "lsmount", path).out == f"{path} is a mount point for volume proj.\n"
    record = json.loads(afsctl("fs", "lsmount", path, "--json").out)
    assert record == {"path": path, "volume": "proj", "read_write": False, "target": "#proj."}
    assert afsctl("fs", "rmmount", path).out == f"Removed the mount point {path} of volume proj.\n"
    assert afsctl("fs", "ls", "/home.kim/work").out == ""
    assert afsctl("fs", "cat", "/proj/hello").out == "hello\n"
    for command in ("rmmount", "lsmount"):
        ended = afsctl("fs", command, "/home.kim/work")
        assert ended.status == 1
        assert ended.err == "afsctl: /home.kim/work is not a mount point\n"


def test_mount_point_for_nothing(tree: FakeCell, afsctl: Afsctl) -> None:
    """A volume that does not exist is refused unless asked for, and named when it is met."""
    ended = afsctl("fs", "mkmount", "/home.kim/none", "nobody")
    assert ended.status == 1
    assert "there is no volume nobody" in ended.err
    assert afsctl("fs", "mkmount", "/home.kim/none", "nobody", "--unchecked").status == 0
    ended = afsctl("fs", "ls", "/home.kim/none")
    assert "/home.kim/none is a mount point for a volume that does not exist" in ended.err
    assert afsctl("fs", "lsmount", "/home.kim/none").status == 0
    assert afsctl("fs", "rmmount", "/home.kim/none").status == 0


def test_second_mount_point_of_a_name_is_refused(tree: FakeCell, afsctl: Afsctl) -> None:
    """What is there is never replaced."""
    ended = afsctl("fs", "mkmount", "/home.kim/work", "proj")
    assert (ended.status, "EEXIST" in ended.err) == (1, True)


def test_removing_a_tree_stays_in_its_volume(tree: FakeCell, afsctl: Afsctl) -> None:
    """`rm -r` removes the mount point and nothing of the volume behind it."""
    assert afsctl("fs", "rm", "-r", "/home.kim/work").status == 0
    assert afsctl("fs", "cat", "/proj/hello").out == "hello\n"


def test_saving_a_tree_leaves_mounted_volumes_out(
    tree: FakeCell, afsctl: Afsctl, tmp_path: Path
) -> None:
    """They are counted, and no file of theirs, nor a useless link, is written."""
    ended = afsctl("fs", "save", "/home.kim", tmp_path / "out")
    assert ended.status == 0
    assert "Left out 1 mount points of other volumes." in ended.out
    assert list((tmp_path / "out/work").iterdir()) == []


def test_mount_point_that_says_which(tree: FakeCell, afsctl: Afsctl) -> None:
    """NAME.readonly leads to the read-only volume, from wherever; a number to that volume."""
    entry = tree.vldb.entries[-1]
    add_read_only(tree, entry)
    assert afsctl("fs", "mkmount", "/home.kim/ro", "proj.readonly").status == 0
    assert afsctl("fs", "mkmount", "/home.kim/number", "7001").status == 0
    for path in ("/home.kim/ro", "/home.kim/number"):
        assert afsctl("fs", "getfid", path).out == "7001.1.1\n"
    assert afsctl("fs", "getfid", "/home.kim/work/proj").out == "7000.1.1\n"


def test_root_volume(tree: FakeCell, afsctl: Afsctl) -> None:
    """With a root.cell "/" is its root; other volumes are still reached by their names."""
    add_volume(tree, "root.cell", 8000)
    assert afsctl("fs", "mkmount", "/home", "home.kim").status == 0
    assert afsctl("fs", "ls", "/").out == "home/\n"
    assert afsctl("fs", "ls", "/home/work/proj").out == "hello\n"
    assert afsctl("fs", "ls", "/proj").out == "hello\n"
    assert afsctl("fs", "ls", "/home/..").out == "home/\n"
    assert "/nobody: no such file or directory" in afsctl("fs", "ls", "/nobody").err
    assert afsctl("fs", "rmmount", "/home").status == 0
    assert afsctl("fs", "ls", "/").out == ""


def test_read_only_root_leads_to_read_only_volumes(tree: FakeCell, afsctl: Afsctl) -> None:
    """From within a released tree a regular mount point stays in it, a read-write one leaves it."""
    root = add_volume(tree, "root.cell", 8000)
    proj = tree.vldb.entries[1]
    assert proj.name == "proj"
    add_read_only(tree, root)
    # As a release leaves it, but that a volume that can be changed is simpler to fill.
    volume = tree.file_server.volumes[8001] = new_volume("root.cell.readonly", 8001)
    for name, mount in (
        ("proj", MountPoint("proj")),
        (".proj", MountPoint("proj", read_write=True)),
    ):
        status = SetStatus(mode=MOUNT_POINT_MODE)
        volume.apply([MakeSymlink(root_fid(8001), name, mount.target, status)])
    assert afsctl("fs", "getfid", "/").out == "8001.1.1\n"
    add_read_only(tree, proj, release=0)
    assert afsctl("fs", "getfid", "/proj").out == "7000.1.1\n"
    proj.sites[-1].release = 1
    assert afsctl("fs", "getfid", "/proj").out == "7001.1.1\n"
    assert afsctl("fs", "getfid", "/.proj").out == "7000.1.1\n"


def test_volume_that_moved_is_found_again(tree: FakeCell, afsctl: Afsctl, tmp_path: Path) -> None:
    """A load that meets VMOVED goes on at the new server, and nothing is lost or said."""
    source = tmp_path / "many"
    source.mkdir()
    for number in range(30):
        (source / f"file{number}").write_bytes(b"x" * number)
    server, second = tree.file_server, tree.second_file_server
    entry = tree.vldb.entries[1]
    volume = second.volumes[7000]

    class Mover(dict[str, list[AfsError]]):
        """Moves the volume at the tenth file."""

        def get(self, key: str, default: object = None) -> None:  # type: ignore[override]
            if key == "CreateFile" and volume.header().file_count == 10:
                second.moved.add(7000)
                server.volumes[7000] = volume
                entry.sites[0].CopyFrom(site_at(tree.address, "vicepb"))

    second.failures = Mover()
    ended = afsctl("fs", "load", source, "/proj/many")
    assert (ended.status, ended.err) == (0, "")
    assert second.moved == {7000}
    assert len(afsctl("fs", "ls", "/proj/many").out.split()) == 30


def test_read_only_site_that_is_silent_is_passed_over(tree: FakeCell, afsctl: Afsctl) -> None:
    """Another site of the same release is asked; one of an older release never is."""
    entry = tree.vldb.entries[1]
    add_read_only(tree, entry, release=2)
    tree.second_file_server.volumes[7001] = new_volume("old", 7001, VolumeType.READ_ONLY)
    entry.sites.insert(0, site_at("127.0.0.1:1", "vicepa", READ_ONLY, release=2))
    entry.sites.insert(0, site_at(tree.second_address, "vicepa", READ_ONLY, release=1))
    assert afsctl("fs", "getfid", "/proj.readonly").out == "7001.1.1\n"
    del entry.sites[-1]
    ended = afsctl("fs", "getfid", "/proj.readonly")
    assert "nothing answers at 127.0.0.1:1" in ended.err


def test_volume_without_a_release_says_so(tree: FakeCell, afsctl: Afsctl) -> None:
    """A read-only site that was never released to is no place to read from."""
    add_read_only(tree, tree.vldb.entries[1], release=0)
    ended = afsctl("fs", "ls", "/proj.readonly")
    assert ended.err == (
        "afsctl: volume proj.readonly has no site to use: nothing was released yet\n"
    )


def test_volume_that_is_nowhere_is_given_up(tree: FakeCell, afsctl: Afsctl) -> None:
    """VNOVOL where the location says that it is: asked again for a moment, then told."""
    del tree.second_file_server.volumes[7000]
    ended = afsctl("fs", "ls", "/proj")
    assert ended.status == 1
    assert AfsCode.VNOVOL.name in ended.err
