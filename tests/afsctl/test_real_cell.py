"""The command line from end to end: a real cell in the background, worked with, and stopped."""

from __future__ import annotations

import base64
import filecmp
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from afsctl.cell import Cell
from afsctl.process import ProcessIdentity
from tests.afsctl.conftest import Afsctl

DEADLINE_S = 60.0


@pytest.fixture
def cell_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of a cell that `afsctl` finds by its environment; nothing is left running."""
    directory = tmp_path / "cell"
    monkeypatch.setenv("AFS_CELL_DIR", str(directory))
    yield directory
    cell = Cell.find(directory) if directory.exists() else None
    if cell is not None:
        cell.stop(timeout_s=0.0)


def make_tree(root: Path) -> Path:
    """A few hundred files, one of them of several pieces."""
    for number in range(300):
        path = root / f"dir{number % 7}/file{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d\n" % number * number)
    (root / "large").write_bytes(os.urandom(3_000_000))
    (root / "link").symlink_to("dir1/file1")
    return root


def same(first: Path, second: Path) -> bool:
    """True if two trees have the same files with the same data."""
    names = sorted(str(path.relative_to(first)) for path in first.rglob("*"))
    if names != sorted(str(path.relative_to(second)) for path in second.rglob("*")):
        return False
    files = [name for name in names if (first / name).is_file()]
    return filecmp.cmpfiles(first, second, files, shallow=False)[0] == files


def test_life_of_a_cell(afsctl: Afsctl, cell_dir: Path, tmp_path: Path) -> None:
    """Up, a volume made, loaded, read by a client, backed up, dumped, restored, looked at, down."""
    source = make_tree(tmp_path / "in")

    ended = afsctl("cell", "up", "--ports", "free", "--clients", "2", "--json")
    assert ended.status == 0, ended.err
    addresses = json.loads(ended.out)["addresses"]
    assert [daemon["health"] for daemon in json.loads(ended.out)["daemons"]] == ["serving"] * 4
    assert afsctl("cell", "up").status == 1

    for step in (
        ("vos", "create", "home.kim", "--quota-kib", "100000"),
        ("fs", "load", source, "/home.kim/in"),
        ("fs", "save", "/home.kim/in", tmp_path / "out"),
        ("vos", "backup", "home.kim"),
        ("vos", "dump", "home.kim", tmp_path / "dump"),
        ("fs", "rm", "-r", "/home.kim/in"),
    ):
        ended = afsctl(*step)
        assert ended.status == 0, (step, ended.err)
    assert same(source, tmp_path / "out")
    assert afsctl("fs", "cat", "/home.kim.backup/in/link").out == "1\n"

    def read(client: str, path: str) -> bytes:
        ended = afsctl("rpc", "call", client, "CacheManager/Read", json.dumps({"path": path}))
        assert ended.status == 0, ended.err
        answers = [json.loads(line) for line in ended.out.splitlines()]
        return b"".join(base64.b64decode(answer["data"]) for answer in answers)

    for client in addresses["clients"]:
        ended = afsctl("rpc", "call", client, "CacheManager/Stat", '{"path": "/home.kim/in"}')
        assert "ENOENT" in ended.err
    ended = afsctl("vos", "restore", "home.kim", tmp_path / "dump", "--overwrite")
    assert ended.status == 0, ended.err
    for client in addresses["clients"]:
        assert read(client, "/home.kim/in/large") == (source / "large").read_bytes()

    # Of the first client, whose address is the default.
    assert afsctl("fs", "flush", "/home.kim/in/large").out == "Forgot 1 vnode.\n"
    assert json.loads(afsctl("fs", "flushvolume", "/home.kim/in", "--json").out)["flushed"] >= 1

    attach = ("rpc", "call", addresses["file_server"], "CallBackChannel/Attach", "-H")
    ended = afsctl(*attach, f"afs-host-uuid={uuid.uuid4()}", '{"hello": {}}', "--max-answers", "1")
    assert "channel_lease_s" in json.loads(ended.out)["init_callback_state"]

    (volume, backup) = json.loads(afsctl("vos", "listvol", "--json").out)
    assert (volume["name"], volume["state"]) == ("home.kim", "online")
    assert (backup["name"], backup["type"]) == ("home.kim.backup", "backup")
    (entry,) = json.loads(afsctl("vos", "listvldb", "--json").out)
    assert entry["sites"][0]["file_server"] == addresses["file_server"]
    assert afsctl("fssync", "callback", "home.kim").status == 0
    assert afsctl("vos", "offline", "home.kim").status == 0
    assert "VOFFLINE" in afsctl("fs", "ls", "/home.kim").err
    assert afsctl("vos", "online", "home.kim").status == 0
    assert afsctl("vos", "remove", "home.kim").status == 0
    assert "there is no volume home.kim" in afsctl("fs", "ls", "/home.kim").err

    processes = [ProcessIdentity.of(daemon.pid) for daemon in Cell.find(cell_dir).daemons]  # type: ignore[union-attr]
    assert afsctl("cell", "down").out == "The cell is stopped.\n"
    assert not any(process.is_alive() for process in processes)
    assert afsctl("cell", "status").status == 1


def test_cell_of_two_servers_serves_volumes_of_both(afsctl: Afsctl, cell_dir: Path) -> None:
    """Both servers' volumes are in the one location database, and each is found at its server."""
    up = ("cell", "up", "--servers", "2", "--partitions", "2", "--clients", "1")
    ended = afsctl(*up, "--ports", "free", "--json")
    assert ended.status == 0, ended.err
    status = json.loads(ended.out)
    assert [daemon["health"] for daemon in status["daemons"]] == ["serving"] * 5
    second = status["servers"][1]
    assert [Path(path).name for path in second["partitions"]] == ["vicepa", "vicepb"]
    assert "afsd-1" in afsctl("cell", "status").out

    assert afsctl("vos", "create", "here").status == 0
    ended = afsctl(
        "vos", "create", "there", "--vol-server", second["vol_server"], "--partition", "vicepb"
    )
    assert ended.status == 0, ended.err
    entries = json.loads(afsctl("vos", "listvldb", "--json").out)
    assert {entry["name"]: entry["sites"][0]["file_server"] for entry in entries} == {
        "here": status["servers"][0]["file_server"],
        "there": second["file_server"],
    }
    for volume in ("here", "there"):
        assert afsctl("fs", "mkdir", f"/{volume}/made").status == 0
        assert afsctl("fs", "ls", f"/{volume}").out == "made/\n"


def test_foreground_cell_ends_with_ctrl_c(cell_dir: Path) -> None:
    """A foreground cell stops in order on Ctrl-C, with exit status 0 and no process left."""
    with subprocess.Popen(
        [sys.executable, "-m", "afsctl", "cell", "up", "--foreground", "--ports", "free"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        for line in owner.stdout:
            if line == "Ctrl-C stops the cell.\n":
                break
        cell = Cell.find(cell_dir)
        assert cell is not None
        processes = [daemon.process for daemon in cell.daemons if daemon.process is not None]
        assert len(processes) == 3
        owner.send_signal(signal.SIGINT)
        out, errors = owner.communicate(timeout=DEADLINE_S)
    assert (owner.returncode, out, errors) == (0, "The cell is stopped.\n", "")
    assert not any(process.is_alive() for process in processes)


def test_interrupted_start_leaves_nothing(cell_dir: Path) -> None:
    """Ctrl-C while a background cell starts stops what had started: one line, exit status 130."""
    pid_file = cell_dir / "run/afsd.pid"
    with subprocess.Popen(
        [sys.executable, "-m", "afsctl", "cell", "up", "--ports", "free"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as starter:
        deadline = time.monotonic() + DEADLINE_S
        while not pid_file.exists() or not pid_file.read_text().endswith("\n"):
            assert time.monotonic() < deadline
            threading.Event().wait(0.01)
        afsd = ProcessIdentity.of(int(pid_file.read_text()))
        starter.send_signal(signal.SIGINT)
        out, errors = starter.communicate(timeout=DEADLINE_S)
    assert (starter.returncode, out, errors) == (130, "", "afsctl: interrupted\n")
    assert not afsd.is_alive()
    assert Cell.find(cell_dir) is None


def test_second_daemon_on_a_taken_port_is_refused(
    afsctl: Afsctl, cell_dir: Path, tmp_path: Path
) -> None:
    """The daemon's own clear line comes through, and nothing of the second cell is left."""
    assert afsctl("cell", "up", "--ports", "free", "--clients", "0").status == 0
    first = Cell.find(cell_dir)
    assert first is not None
    ended = afsctl(
        "cell", "up", "--ports", "free", "--dir", tmp_path / "other",
        "--set", f"afsd.listen={first.file_server}",
    )  # fmt: skip
    assert ended.status == 1
    assert ended.err.startswith("afsctl: afsd did not start: afsd: ")
    assert first.file_server in ended.err
    assert Cell.find(tmp_path / "other") is None


def test_killed_fileserver_restarts(afsctl: Afsctl, cell_dir: Path) -> None:
    """What was acknowledged before kill -9 is there after the restart."""
    assert afsctl("cell", "up", "--ports", "free").status == 0
    assert afsctl("vos", "create", "home.kim").status == 0
    assert afsctl("fs", "mkdir", "/home.kim/kept").status == 0
    assert afsctl("cell", "kill", "afsd").status == 0
    assert afsctl("cell", "status").status == 1
    assert afsctl("cell", "restart", "afsd").status == 0
    assert afsctl("fs", "ls", "/home.kim").out == "kept/\n"
    assert afsctl("cell", "status").status == 0
