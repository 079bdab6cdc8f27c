"""What people see on a terminal of 80 columns, and what is written when there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from afs.v1 import fssync_pb2, vol_server_pb2
from afsctl.progress import metered
from tests.afsctl.conftest import Afsctl, FakeCell
from tests.afsctl.fake_services import site_at
from tests.afsctl.fake_vol_server import SENT
from tests.afsctl.terminal import run_on_terminal

# The longest that a name of a volume may be.
LONG_NAME = "home.kim.of.the.cs.dept"[:22]


@pytest.mark.parametrize(
    "command",
    ["vos listvol", "vos listvldb", "vos examine home.kim", "vos partinfo", "fssync list"],
)
def test_tables_fit(fake_cell: FakeCell, command: str) -> None:
    """No line is wider than the terminal, and nothing is cut off, even with the longest names."""
    fake_cell.vol_server.detail.name = LONG_NAME
    fake_cell.vol_server.detail.state = fssync_pb2.VOLUME_STATE_CHECKED_OUT
    fake_cell.fssync.info.name = LONG_NAME
    fake_cell.fssync.info.program = "volserver@/srv/cells/example.org/run"
    screen = run_on_terminal(command.replace("home.kim", LONG_NAME).split())
    assert screen.status == 0, screen.raw
    assert max(map(len, screen.lines)) <= 80
    assert "…" not in screen.raw


@pytest.mark.parametrize(
    "command",
    ["vos listvol", "vos partinfo", "vos status", "vos release home.kim", "fs whereis /home.kim"],
)
def test_tables_of_several_servers_fit(two_servers: FakeCell, command: str) -> None:
    """Nor with the column that tells the servers apart, nor with long addresses of sites."""
    two_servers.second.detail.name = LONG_NAME
    two_servers.second.detail.state = fssync_pb2.VOLUME_STATE_CHECKED_OUT
    two_servers.second.transactions.append(
        vol_server_pb2.TransactionInfo(
            transaction_id=1, volume_id=2, operation="release", step="bringing the new state"
        )
    )
    two_servers.vol_server.outcomes = [
        vol_server_pb2.SiteOutcome(
            site=site_at("server-one.example.org:7000", "vicepa"), released=True, sent=SENT
        )
    ]
    screen = run_on_terminal(command.split())
    assert screen.status == 0, screen.raw
    assert max(map(len, screen.lines)) <= 80
    assert "…" not in screen.raw


def test_move_is_a_bar_that_goes_away(two_servers: FakeCell) -> None:
    """The bar shows the step and its unit; what stays is the volume at its new place."""
    screen = run_on_terminal(["vos", "move", "home.kim", "--to-server", two_servers.second_address])
    assert screen.status == 0, screen.raw
    assert "1.0 KiB of 2.0 KiB" in screen.raw
    assert screen.raw.rindex("\x1b[2K") < screen.raw.index("STATE")


def test_state_stands_out(fake_cell: FakeCell) -> None:
    """A volume that is online is green, one that is off-line is not."""
    assert "\x1b[32monline" in run_on_terminal(["vos", "listvol"]).raw
    fake_cell.vol_server.detail.state = fssync_pb2.VOLUME_STATE_OFFLINE
    assert "\x1b[33moffline" in run_on_terminal(["vos", "listvol"]).raw


def test_progress_is_a_bar_that_goes_away(fake_cell: FakeCell, tmp_path: Path) -> None:
    """A bar counts while files are loaded; what stays is the one line that tells what was done."""
    for number in range(50):
        (tmp_path / f"file{number}").write_bytes(b"x" * 1000)
    screen = run_on_terminal(["fs", "load", str(tmp_path), "/home.kim"])
    assert screen.status == 0, screen.raw
    assert "━" in screen.raw
    assert re.search(r"50 of 50 files", screen.raw)
    # The cursor goes up and the bar's line is erased.
    assert screen.raw.rindex("\x1b[2K") < screen.raw.index("Loaded 50 files")
    assert len(screen.lines[-1]) <= 80


def test_dump_is_refused_on_a_terminal(fake_cell: FakeCell) -> None:
    """A terminal is spared the bytes of a dump."""
    screen = run_on_terminal(["vos", "dump", "home.kim"])
    assert screen.status == 1
    assert screen.lines == [
        "afsctl: a dump is no text for a terminal: name a file, or redirect the output"
    ]


def test_progress_elsewhere_is_a_line_for_each_step(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Without a terminal a new step is one plain line on standard error, and no control codes."""
    ended = afsctl("vos", "backup", "home.kim")
    assert ended.err == "copying metadata: 0 of 3 steps\n"
    assert "\x1b" not in ended.out + ended.err


def test_progress_lines_are_rare(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many files go by, a line is written only now and then."""
    seconds = iter(range(1000))
    monkeypatch.setattr("afsctl.progress.time.monotonic", lambda: next(seconds) / 10)
    with metered("loading", "files") as meter:
        for done in range(100):
            meter.update(done=done, total=100, size_bytes=done * 1024)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 6
    assert re.fullmatch(r"loading: \d+ of 100 files, \d+ KiB", lines[0])


def test_listing_of_a_real_message_has_every_column(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Lines for programs keep empty columns, which a table leaves out."""
    fake_cell.vol_server.detail.CopyFrom(vol_server_pb2.VolumeDetail(volume_id=7))
    header, line = afsctl("vos", "listvol").out.splitlines()
    assert header.split() == ["VOLUME", "NAME", "TYPE", "PART", "STATE", "USED", "QUOTA", "FILES"]
    assert line.split() == ["7", "0", "B", "none", "0"]
