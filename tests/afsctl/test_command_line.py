"""What holds for every command: exit status, the one line of an error, addresses, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from afs.errors import AfsCode, AfsError
from afsctl.cell_state import CellAddresses, CellState, DaemonRecord, ServerRecord, save_state
from afsctl.daemon import DaemonPlan
from afsctl.process import ProcessIdentity
from tests.afsctl.conftest import Afsctl, FakeCell

DEADLINE_S = 30.0


def start(*arguments: str) -> subprocess.Popen[str]:
    """Starts afsctl as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "afsctl", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def cell_state(address: str, process: ProcessIdentity) -> CellState:
    """The state of a cell with all services at one address, in one process."""
    return CellState(
        addresses=CellAddresses(address, address, address, address, ()),
        break_policy="later",
        dies_with_owner=False,
        servers=(ServerRecord(address, address, address, Path("/"), ()),),
        daemons=tuple(
            DaemonRecord(DaemonPlan(name, ("/bin/true",), address, Path("/dev/null")), process)
            for name in ("afsd", "volserverd")
        ),
    )


@pytest.mark.parametrize("group", ["cell", "vos", "fs", "fssync", "rpc"])
def test_help(afsctl: Afsctl, group: str) -> None:
    """Every group tells what it can do; without a subcommand too, and then it is a usage error."""
    ended = afsctl(group, "--help")
    assert (ended.status, ended.err) == (0, "")
    assert "Commands" in ended.out
    assert afsctl(group).status == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["vos", "creat"], "No such command 'creat'"),
        (["vos", "create"], "Missing argument"),
        (["vos", "create", "x", "--quota-kib", "-1"], "--quota-kib"),
        (["vos", "create", "x", "--nothing"], "No such option: --nothing"),
        (["cell", "up", "--set", "afsd.x"], "expected DAEMON.KEY=VALUE"),
        (["cell", "up", "--set", "nobody.x=1"], "expected DAEMON.KEY=VALUE"),
        (["cell", "up", "--clients", "many"], "--clients"),
        (["fs", "mkdir", "/v/x", "--mode", "9"], "expected an octal number"),
    ],
)
def test_usage_errors(afsctl: Afsctl, arguments: list[str], words: str) -> None:
    """A command line that makes no sense is one line and exit status 2."""
    ended = afsctl(*arguments)
    assert (ended.status, ended.out) == (2, "")
    assert words in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("command", [["vos", "listvol"], ["fssync", "list"], ["fs", "ls", "/"]])
def test_nobody_there(afsctl: Afsctl, monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    """A daemon that does not run is one clear line."""
    for name in ("FILE_SERVER", "VOL_SERVER", "LOCATION", "FSSYNC"):
        monkeypatch.setenv(f"AFS_{name}", "127.0.0.1:1")
    ended = afsctl(*command)
    assert ended.status == 1
    assert ended.err == (
        "afsctl: nothing answers at 127.0.0.1:1: Connection refused (gRPC UNAVAILABLE)\n"
    )


def test_address_of_a_running_cell_is_the_default(
    fake_cell: FakeCell, afsctl: Afsctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """cell.json of a cell that runs is used; flag and environment win; a dead cell's is not."""
    at = fake_cell.address
    for name in ("FILE_SERVER", "VOL_SERVER", "LOCATION", "FSSYNC"):
        monkeypatch.delenv(f"AFS_{name}")
    running = ProcessIdentity.of(os.getpid())
    (tmp_path / "run").mkdir()
    save_state(tmp_path, cell_state(at, running))
    monkeypatch.setenv("AFS_CELL_DIR", str(tmp_path))
    assert afsctl("vos", "listvol").status == 0
    assert "127.0.0.1:1" in afsctl("vos", "listvol", "--vol-server", "127.0.0.1:1").err
    gone = ProcessIdentity(running.pid, running.start_ticks + 1, running.boot_id)
    save_state(tmp_path, cell_state(at, gone))
    monkeypatch.setenv("AFS_VOL_SERVER", "127.0.0.1:2")
    assert "127.0.0.1:2" in afsctl("vos", "listvol").err


def test_our_own_bug_is_one_line(
    afsctl: Afsctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Even what nobody foresaw ends in one line; a variable shows where it was."""

    def fail(directory: Path) -> None:
        raise ZeroDivisionError("of a bug")

    monkeypatch.setattr("afsctl.commands.cell.Cell.find", fail)
    ended = afsctl("cell", "status", "--dir", tmp_path)
    assert (ended.status, len(ended.err.splitlines())) == (1, 1)
    assert "internal error: ZeroDivisionError: of a bug" in ended.err
    monkeypatch.setenv("AFSCTL_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        afsctl("cell", "status", "--dir", tmp_path)


def test_interrupted_call(fake_cell: FakeCell) -> None:
    """Ctrl-C ends an endless stream: one line, exit status 130."""
    with start("rpc", "call", fake_cell.address, "Health/Watch") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == '{"status": "SERVING"}\n'
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, errors) == (130, "afsctl: interrupted\n")


def test_interrupted_load(fake_cell: FakeCell, tmp_path: Path) -> None:
    """Ctrl-C ends a load in the middle likewise."""
    (tmp_path / "file").write_bytes(b"x")
    waiting = [AfsError(AfsCode.VBUSY, "being cloned")] * 1000
    fake_cell.file_server.failures["CreateFile"] = waiting
    with start("fs", "load", str(tmp_path), "/home.kim") as process:
        deadline = time.monotonic() + DEADLINE_S
        while len(waiting) == 1000 and time.monotonic() < deadline:
            threading.Event().wait(0.01)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, errors) == (130, "", "afsctl: interrupted\n")


def test_reader_that_goes_away_is_no_error_to_talk_about(fake_cell: FakeCell) -> None:
    """`afsctl … | head` ends quietly when head has seen enough."""
    with start("rpc", "list", fake_cell.address) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 1
