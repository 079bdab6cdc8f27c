"""`afsctl fs`: the small commands on files, directories and their volume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.afsctl.conftest import Afsctl, FakeCell
from tests.afsctl.fake_services import VOLUME_ID, contents, find


@pytest.fixture
def tree(fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path) -> FakeCell:
    """The stand-in cell with a few files in /home.kim."""
    source = tmp_path / "in"
    (source / "sub/deeper").mkdir(parents=True)
    (source / "hello").write_text("hello\n")
    (source / "sub/world").write_text("world\n")
    (source / "relative").symlink_to("sub/deeper/../world")
    (source / "absolute").symlink_to("/home.kim/sub")
    (source / "circle").symlink_to("circle")
    assert afsctl("fs", "load", source, "/home.kim").status == 0
    return fake_cell


def test_ls(tree: FakeCell, afsctl: Afsctl) -> None:
    """Names are sorted, one a line, and say what they stand for; '/' lists the volumes."""
    assert afsctl("fs", "ls", "/home.kim").out.split() == [
        "absolute@",
        "circle@",
        "hello",
        "relative@",
        "sub/",
    ]
    assert afsctl("fs", "ls", "/", "--json").out == '[{"name": "home.kim"}]\n'


def test_long_ls(tree: FakeCell, afsctl: Afsctl) -> None:
    """Modes and sizes are shown on request; JSON has them always."""
    lines = afsctl("fs", "ls", "-l", "/home.kim").out.splitlines()
    assert lines[0].split() == ["MODE", "LINKS", "OWNER", "SIZE", "MODIFIED", "NAME"]
    assert lines[3].startswith("-rw")
    assert lines[3].endswith("hello")
    records = json.loads(afsctl("fs", "ls", "/home.kim", "--json").out)
    assert {record["name"]: record["length"] for record in records}["hello"] == 6


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("/home.kim/hello", "hello\n"),
        (f"/{VOLUME_ID}/sub/world", "world\n"),
        ("/home.kim/relative", "world\n"),
        ("/home.kim/absolute/world", "world\n"),
        ("/home.kim/sub/../hello", "hello\n"),
        ("/home.kim/../../home.kim/hello", "hello\n"),
    ],
)
def test_cat_follows_links(tree: FakeCell, afsctl: Afsctl, path: str, data: str) -> None:
    """Links are followed, relative and absolute ones, and volumes found by name and id."""
    assert afsctl("fs", "cat", path).out == data


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cat", "/home.kim/circle"], "ELOOP"),
        (["cat", "/home.kim/sub"], "/home.kim/sub is a directory"),
        (["cat", "/home.kim/hello/x"], "/home.kim/hello is not a directory"),
        (["ls", "/home.kim/nothing"], "/home.kim/nothing: no such file or directory"),
        (["ls", "/home.kim.backup"], "there is no volume home.kim.backup"),
        (["stat", "/.."], "is no place in a volume"),
        (["mkdir", "/home.kim"], "names no entry"),
        (["mkdir", "/home.kim/hello"], "EEXIST"),
        (["mkdir", "/home.kim/" + "x" * 256], "ENAMETOOLONG"),
        (["rm", "/home.kim/sub"], "ENOTEMPTY"),
        (["rm", "/home.kim/nothing"], "ENOENT"),
    ],
)
def test_failures(tree: FakeCell, afsctl: Afsctl, arguments: list[str], words: str) -> None:
    """Each failure is one line and exit status 1."""
    ended = afsctl("fs", *arguments)
    assert (ended.status, ended.out) == (1, "")
    assert words in ended.err
    assert len(ended.err.splitlines()) == 1


def test_stat(tree: FakeCell, afsctl: Afsctl) -> None:
    """Everything the fileserver knows is shown; a link itself on request."""
    record = json.loads(afsctl("fs", "stat", "/home.kim/relative", "--json").out)
    assert (record["type"], record["length"]) == ("file", 6)
    ended = afsctl("fs", "stat", "/home.kim/relative", "--no-follow")
    assert "Target        sub/deeper/../world" in ended.out
    fid = find(tree.volume, ["sub"]).fid
    assert afsctl("fs", "getfid", "/home.kim/sub").out == f"{fid}\n"


def test_changes(tree: FakeCell, afsctl: Afsctl) -> None:
    """Directories and links are made, things renamed and removed."""
    assert afsctl("fs", "mkdir", "/home.kim/new", "--mode", "700").status == 0
    assert find(tree.volume, ["new"]).mode == 0o700
    assert afsctl("fs", "ln", "../hello", "/home.kim/new/link").status == 0
    assert contents(tree.volume, ["new", "link"]) == b"../hello"
    assert afsctl("fs", "mv", "/home.kim/hello", "/home.kim/new/moved").status == 0
    assert contents(tree.volume, ["new", "moved"]) == b"hello\n"
    assert afsctl("fs", "rm", "/home.kim/new/moved").status == 0
    assert afsctl("fs", "rm", "-r", "/home.kim/sub").status == 0
    assert afsctl("fs", "ls", "/home.kim").out.split() == [
        "absolute@",
        "circle@",
        "new/",
        "relative@",
    ]


def test_volume_of_a_path(tree: FakeCell, afsctl: Afsctl) -> None:
    """Quota, use and sites of the volume that a path is in."""
    assert afsctl("fs", "setquota", "/home.kim/sub", "100").status == 0
    record = json.loads(afsctl("fs", "examine", "/home.kim/sub", "--json").out)
    assert (record["name"], record["max_quota_kib"]) == ("home.kim", 100)
    assert "100 KiB" in afsctl("fs", "listquota", "/home.kim").out
    (site,) = json.loads(afsctl("fs", "whereis", "/home.kim/sub", "--json").out)
    assert site["file_server"] == tree.address
