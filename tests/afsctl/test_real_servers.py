"""`afsctl vos` between the servers of a real cell: the same commands as an operator types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afsctl.cell import Cell
from tests.afsctl.conftest import Afsctl

READ_ME = "what is in it\n"


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cell]:
    """A cell of two servers with two partitions each, found by the environment."""
    monkeypatch.setenv("AFS_CELL_DIR", str(tmp_path / "cell"))
    with Cell.start(tmp_path / "cell", servers=2, partitions=2) as cell:
        yield cell


class Operator:
    """Runs commands that must succeed; answers what they print as JSON."""

    def __init__(self, afsctl: Afsctl) -> None:
        self._afsctl = afsctl

    def __call__(self, *arguments: str | Path) -> Any:
        ended = self._afsctl(*arguments, "--json")
        assert ended.status == 0, (arguments, ended.err)
        return json.loads(ended.out)

    def sites(self, volume: str) -> list[tuple[str, str, str]]:
        """Where a volume is, as the location database says."""
        return [
            (site["vol_server"], site["partition"], site["type"])
            for entry in self("vos", "listvldb")
            if entry["name"] == volume
            for site in entry["sites"]
        ]


@pytest.fixture
def operator(cell: Cell, afsctl: Afsctl, tmp_path: Path) -> Operator:
    """An operator of the cell, who has made `proj` on the first server with a file in it."""
    run = Operator(afsctl)
    (tmp_path / "readme").write_text(READ_ME)
    run("vos", "create", "proj", "--server", "afsd", "--partition", "vicepa")
    run("fs", "load", tmp_path / "readme", "/proj/readme")
    return run


def test_volume_moves_there_and_back(cell: Cell, operator: Operator, afsctl: Afsctl) -> None:
    """To the other server, to its other partition, and back: always one copy, always readable."""
    first, second = (server.vol_server for server in cell.servers)
    targets = [(second, "vicepb"), (second, "vicepa"), (first, "vicepb"), (first, "vicepa")]
    for server, partition in targets:
        moved = operator("vos", "move", "proj", "--to-server", server, "--to-partition", partition)
        assert moved["partition"] == partition
        assert operator.sites("proj") == [(server, partition, "read_write")]
        assert afsctl("fs", "cat", "/proj/readme").out == READ_ME
        volumes = operator("vos", "listvol")
        assert [(one["vol_server"], one["partition"]) for one in volumes] == [(server, partition)]
    assert operator("vos", "verify") == []


def test_copies_and_clones_are_volumes_of_their_own(
    cell: Cell, operator: Operator, afsctl: Afsctl
) -> None:
    """What is changed in one is not in the others; a new name is the old volume."""
    operator("vos", "copy", "proj", "proj.copy", "--to-server", "afsd-1")
    operator("vos", "clone", "proj", "proj.clone")
    assert afsctl("fs", "rm", "/proj/readme").status == 0
    for name in ("proj.copy", "proj.clone"):
        assert afsctl("fs", "cat", f"/{name}/readme").out == READ_ME
    (site,) = operator.sites("proj.copy")
    assert site[0] == cell.servers[1].vol_server
    assert operator("vos", "rename", "proj.clone", "proj.old")["name"] == "proj.old"
    assert afsctl("fs", "ls", "/proj.clone").status == 1
    assert afsctl("fs", "cat", "/proj.old/readme").out == READ_ME
    for name in ("proj.copy", "proj.old", "proj"):
        operator("vos", "remove", name)
    assert operator("vos", "listvol") == operator("vos", "listvldb") == []
    assert operator("vos", "verify") == []


def test_release_and_sites(cell: Cell, operator: Operator, afsctl: Afsctl) -> None:
    """Sites are filled by a release and taken away again; a server that is down is named."""
    first, second = (server.vol_server for server in cell.servers)
    operator("vos", "addsite", "proj", "--server", first, "--partition", "vicepb")
    operator("vos", "addsite", "proj", "--server", second, "--partition", "vicepb")
    released = operator("vos", "release", "proj", "--wait")
    assert [site["released"] for site in released["sites"]] == [True, True]
    assert afsctl("fs", "cat", "/proj.readonly/readme").out == READ_ME

    assert afsctl("fs", "rm", "/proj/readme").status == 0
    cell.servers[1].volserverd.kill9()
    cell.servers[1].afsd.kill9()
    ended = afsctl("vos", "release", "proj")
    assert ended.status == 1
    assert "1 of 2 sites keep their old state until the next release" in ended.err
    assert afsctl("fs", "ls", "/proj.readonly").out == ""
    ended = afsctl("vos", "listvol")
    assert ended.status == 1
    assert f"volserver {second}: nothing answers" in ended.err
    assert "proj.readonly" in ended.out

    ended = afsctl("vos", "remsite", "proj", "--server", second)
    assert (ended.status, "RX_CALL_DEAD" in ended.err) == (1, True)
    record = operator("vos", "remsite", "proj", "--server", second, "--force")
    assert "stays behind" in record["detail"]
    assert (second, "vicepb", "read_only") not in operator.sites("proj")

    cell.servers[1].afsd.restart()
    cell.servers[1].volserverd.restart()
    operator("vos", "addsite", "proj", "--server", second, "--partition", "vicepb")
    released = operator("vos", "release", "proj")
    assert all(site["released"] for site in released["sites"])
    operator("vos", "remsite", "proj", "--server", "afsd-1")
    assert (second, "vicepb", "read_only") not in operator.sites("proj")
    assert afsctl("fs", "ls", "/proj.readonly").status == 0
    assert operator("vos", "verify") == []


def test_dumps_one_on_the_other(operator: Operator, afsctl: Afsctl, tmp_path: Path) -> None:
    """A full dump and an incremental one make the volume again, on the other server."""
    full, increment = tmp_path / "full", tmp_path / "increment"
    operator("vos", "dump", "proj", full)
    (tmp_path / "more").write_text("more\n")
    operator("fs", "load", tmp_path / "more", "/proj/more")
    record = operator("vos", "dump", "proj", increment, "--incremental-from", full)
    assert record["since"] == operator("vos", "examine", "--file", full)["change_counter"]
    facts = operator("vos", "examine", "--file", increment)
    assert (facts["since"], facts["vnodes"]) == (record["since"], 2)

    other = tmp_path / "other"
    operator("vos", "create", "other")
    operator("vos", "dump", "other", other)
    ended = afsctl("vos", "dump", "proj", tmp_path / "x", "--incremental-from", other)
    assert (ended.status, "another volume" in ended.err) == (1, True)

    operator("vos", "restore", "again", full, "--server", "afsd-1")
    assert afsctl("fs", "ls", "/again").out == "readme\n"
    plan = operator("vos", "restore", "again", increment, "--overwrite", "--dry-run")["plan"]
    assert plan["steps"]
    assert afsctl("fs", "ls", "/again").out == "readme\n"
    operator("vos", "restore", "again", increment, "--overwrite")
    assert afsctl("fs", "ls", "/again").out == "more\nreadme\n"
    assert "incremental" in afsctl("vos", "restore", "new", increment).err


def test_plans_change_nothing(operator: Operator, afsctl: Afsctl, tmp_path: Path) -> None:
    """After --dry-run of a move, release, removal and restore everything is as it was."""
    operator("vos", "dump", "proj", tmp_path / "dump")
    operator("vos", "addsite", "proj", "--server", "afsd-1", "--partition", "vicepa")
    before = operator("vos", "listvldb"), operator("vos", "listvol")
    for command in (
        ("move", "proj", "--to-server", "afsd-1"),
        ("release", "proj"),
        ("remove", "proj"),
        ("restore", "fresh", tmp_path / "dump"),
    ):
        assert operator("vos", *command, "--dry-run")["plan"]["steps"], command
    entries, volumes = operator("vos", "listvldb"), operator("vos", "listvol")
    for entry in (*before[0], *entries):
        # Locking and unlocking count as changes of an entry.
        del entry["version"]
    assert (entries, volumes) == before
    assert afsctl("fs", "cat", "/proj/readme").out == READ_ME


def test_salvage_and_verify_find_damage(
    cell: Cell, operator: Operator, afsctl: Afsctl, tmp_path: Path
) -> None:
    """A chunk that is cut off is found by both, and the salvage says what it did about it."""
    (tmp_path / "big").write_bytes(bytes(range(256)) * 8000)
    operator("fs", "load", tmp_path / "big", "/proj/big")
    assert operator("vos", "salvage", "proj")["findings"] == []
    chunks = sorted(cell.partition.glob("groups/*/chunks/*/*"))
    chunks[0].chmod(0o600)
    chunks[0].write_bytes(b"cut off")
    ended = afsctl("vos", "verify", "proj", "--deep", "--json")
    assert ended.status == 1
    assert {finding["vol_server"] for finding in json.loads(ended.out)} == {cell.vol_server}
    salvaged = json.loads(afsctl("vos", "salvage", "proj", "--json").out)
    assert salvaged["findings"]
    assert afsctl("fs", "cat", "/proj/readme").out == READ_ME
