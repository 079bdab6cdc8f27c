"""`afsctl fs load` and `save`: trees in and out, as they were, and when something is wrong."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afs.limits import DATA_PIECE_BYTES
from afs.types import VnodeType
from afsctl.copy_report import IN_FLIGHT
from tests.afsctl.conftest import Afsctl, FakeCell
from tests.afsctl.fake_services import contents, find

LONG_AGO_NS = 1_234_567_890_123_456_789


def make_tree(root: Path) -> Path:
    """A tree with all that a volume can hold."""
    (root / "sub/deeper").mkdir(parents=True)
    (root / "empty").write_bytes(b"")
    (root / "small").write_bytes(b"small")
    (root / "sub/größe").write_bytes(b"x" * 100)
    (root / "sub/large").write_bytes(os.urandom(2 * DATA_PIECE_BYTES + 17))
    (root / "sub/exact").write_bytes(b"y" * DATA_PIECE_BYTES)
    (root / "sub/script").write_bytes(b"#!/bin/sh\n")
    (root / "sub/script").chmod(0o750)
    (root / "sub/deeper/up").symlink_to("../script")
    (root / "dangling").symlink_to("nowhere/at all")
    for path in [root, *root.rglob("*")]:
        os.utime(path, ns=(LONG_AGO_NS, LONG_AGO_NS + len(path.name)), follow_symlinks=False)
    return root


def described(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything about a tree that a copy must keep."""
    description: dict[str, tuple[object, ...]] = {}
    for path in [root, *root.rglob("*")]:
        status = path.lstat()
        data: object = None
        if path.is_symlink():
            data = os.readlink(path)
        elif path.is_file():
            data = path.read_bytes()
        description[str(path.relative_to(root))] = (
            stat.S_IFMT(status.st_mode),
            None if path.is_symlink() else stat.S_IMODE(status.st_mode),
            None if path == root else status.st_mtime_ns,
            data,
        )
    return description


def test_tree_comes_back_as_it_went_in(fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path) -> None:
    """Files of every size, links, modes and times are the same after load and save."""
    source = make_tree(tmp_path / "in")
    ended = afsctl("fs", "load", source, "/home.kim/copy")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("Loaded 6 files, 2 directories, 2 links, 3.0 MiB in ")
    assert afsctl("fs", "save", "/home.kim/copy", tmp_path / "out").status == 0
    assert described(tmp_path / "out") == described(source)
    assert (tmp_path / "out").stat().st_mtime_ns == source.stat().st_mtime_ns


def test_load_keeps_what_the_volume_can_keep(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path
) -> None:
    """Mode, owner, group, time and data of a file are those of the source, seen at the volume."""
    source = make_tree(tmp_path / "in")
    afsctl("fs", "load", source, "/home.kim")
    vnode = find(fake_cell.volume, ["sub", "script"])
    status = (source / "sub/script").stat()
    assert (vnode.mode, vnode.owner, vnode.group) == (0o750, status.st_uid, status.st_gid)
    assert vnode.client_mtime_ns == status.st_mtime_ns
    assert contents(fake_cell.volume, ["sub", "größe"]) == b"x" * 100
    assert contents(fake_cell.volume, ["sub", "deeper", "up"]) == b"../script"


def test_load_again_overwrites_and_removes_nothing(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path
) -> None:
    """A shorter file replaces a longer one, a link a file and a file a link; the rest stays."""
    source = make_tree(tmp_path / "in")
    afsctl("fs", "load", source, "/home.kim")
    (source / "sub/large").write_bytes(b"short now")
    (source / "empty").unlink()
    (source / "small").unlink()
    (source / "small").symlink_to("empty")
    (source / "dangling").unlink()
    (source / "dangling").write_bytes(b"a file now")
    assert afsctl("fs", "load", source, "/home.kim").status == 0
    assert contents(fake_cell.volume, ["sub", "large"]) == b"short now"
    assert contents(fake_cell.volume, ["small"]) == b"empty"
    assert contents(fake_cell.volume, ["dangling"]) == b"a file now"
    assert contents(fake_cell.volume, ["empty"]) == b""


def test_load_of_one_file(fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path) -> None:
    """A file goes to the path itself; it comes back to a name or into a directory."""
    (tmp_path / "file").write_bytes(b"data")
    assert afsctl("fs", "load", tmp_path / "file", "/home.kim/name").status == 0
    assert contents(fake_cell.volume, ["name"]) == b"data"
    assert afsctl("fs", "save", "/home.kim/name", tmp_path / "copy").status == 0
    assert afsctl("fs", "save", "/home.kim/name", tmp_path).status == 0
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "name").read_bytes() == b"data"


def test_what_no_volume_can_hold_is_skipped_and_told(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path
) -> None:
    """Names that are not UTF-8, pipes and such links are left out by name; the rest is copied."""
    source = tmp_path / "in"
    source.mkdir()
    (source / "good").write_bytes(b"good")
    (source / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    os.mkfifo(source / "pipe")
    (source / "link").symlink_to(os.fsdecode(b"\xff"))
    ended = afsctl("fs", "load", source, "/home.kim")
    assert ended.status == 1
    assert ended.err.splitlines() == [
        f"afsctl: skipped {source}/caf\\xe9: the name is not UTF-8",
        f"afsctl: skipped {source}/link: the link's target is not UTF-8",
        f"afsctl: skipped {source}/pipe: neither file, directory nor symbolic link",
        "afsctl: 3 could not be copied",
    ]
    assert contents(fake_cell.volume, ["good"]) == b"good"


def test_what_is_in_the_way_is_skipped_and_told(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path
) -> None:
    """A directory is never replaced by a file, nor a file by a directory, on either side."""
    source = tmp_path / "in"
    (source / "a").mkdir(parents=True)
    (source / "b").write_bytes(b"file")
    assert afsctl("fs", "load", source, "/home.kim").status == 0
    other = tmp_path / "other"
    (other / "b").mkdir(parents=True)
    (other / "a").write_bytes(b"file")
    ended = afsctl("fs", "load", other, "/home.kim")
    assert ended.status == 1
    assert "skipped" in ended.err
    assert find(fake_cell.volume, ["a"]).type is VnodeType.DIRECTORY
    assert contents(fake_cell.volume, ["b"]) == b"file"
    ended = afsctl("fs", "save", "/home.kim", other)
    assert ended.status == 1
    assert (other / "a").read_bytes() == b"file"
    assert (other / "b").is_dir()


def test_save_never_follows_a_link_out_of_the_destination(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path
) -> None:
    """Where the destination has a link to a directory, nothing is written through it."""
    (tmp_path / "in/sub").mkdir(parents=True)
    (tmp_path / "in/sub/file").write_bytes(b"data")
    afsctl("fs", "load", tmp_path / "in", "/home.kim")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/sub").symlink_to(elsewhere)
    assert afsctl("fs", "save", "/home.kim", tmp_path / "out").status == 1
    assert list(elsewhere.iterdir()) == []


def test_files_are_stored_many_at_a_time_but_not_all(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path
) -> None:
    """Stores overlap, and no more than IN_FLIGHT of them."""
    source = tmp_path / "in"
    source.mkdir()
    for number in range(3 * IN_FLIGHT):
        (source / f"file{number}").write_bytes(b"data")
    ended = afsctl("fs", "load", source, "/home.kim", "--json")
    assert json.loads(ended.out)["files"] == 3 * IN_FLIGHT
    assert 1 < fake_cell.file_server.most_stores_running <= IN_FLIGHT


def test_load_waits_for_a_volume_that_is_away_for_a_moment(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path
) -> None:
    """VBUSY in any step is tried again, a store of several pieces from its beginning."""
    source = make_tree(tmp_path / "in")
    busy = AfsError(AfsCode.VBUSY, "being cloned")
    for method in ("MakeDir", "CreateFile", "StoreData", "StoreStatus", "Symlink"):
        fake_cell.file_server.failures[method] = [busy, busy]
    fake_cell.file_server.failures["StoreData in the middle"] = [busy] * 4
    assert afsctl("fs", "load", source, "/home.kim/copy").status == 0
    fake_cell.file_server.failures["FetchData"] = [busy, busy]
    fake_cell.file_server.failures["FetchData in the middle"] = [busy, busy]
    assert afsctl("fs", "save", "/home.kim/copy", tmp_path / "out").status == 0
    assert described(tmp_path / "out") == described(source)


def test_full_volume_ends_the_load_with_one_line(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path
) -> None:
    """What would befall every further file is told once, not for each."""
    source = tmp_path / "in"
    source.mkdir()
    for number in range(20):
        (source / f"file{number}").write_bytes(b"x" * 10_000)
    assert afsctl("fs", "setquota", "/home.kim", "50").status == 0
    ended = afsctl("fs", "load", source, "/home.kim")
    assert ended.status == 1
    assert "VOVERQUOTA" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_broken_fetch_leaves_no_part_of_a_file(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path
) -> None:
    """A file whose data is damaged is told, and neither it nor a temporary file is there."""
    source = make_tree(tmp_path / "in")
    afsctl("fs", "load", source, "/home.kim")
    damage = AfsError(AfsCode.EIO, "chunk 1 is damaged")
    fake_cell.file_server.failures["FetchData in the middle"] = [damage]
    ended = afsctl("fs", "save", "/home.kim", tmp_path / "out")
    assert ended.status == 1
    assert "chunk 1 is damaged (EIO" in ended.err
    saved = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*")}
    wanted = {str(path.relative_to(source)) for path in source.rglob("*")}
    assert len(wanted - saved) == 1
    assert not saved - wanted


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["load", "{dir}", "home.kim"], 1, "expected /VOLUME/"),
        (["load", "{dir}", "/nobody/x"], 1, "there is no volume nobody"),
        (["load", "{dir}", "/home.kim/a/b"], 1, "/home.kim/a: no such file or directory"),
        (["load", "/nonexistent", "/home.kim"], 2, "does not exist"),
        (["save", "/home.kim/nothing", "{dir}"], 1, "no such file or directory"),
        (["save", "/home.kim", "/proc/nowhere"], 1, "No such file or directory"),
    ],
)
def test_failures(
    fake_cell: FakeCell,
    afsctl: Afsctl,
    tmp_path: Path,
    arguments: list[str],
    status: int,
    words: str,
) -> None:
    """Each failure is one line."""
    ended = afsctl("fs", *(argument.format(dir=tmp_path) for argument in arguments))
    assert ended.status == status
    assert words in ended.err
    assert len(ended.err.splitlines()) == 1
