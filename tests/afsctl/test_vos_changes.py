"""`afsctl vos`: release, plans, salvage, and what is refused, against a stand-in volserver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from afs.v1 import vol_server_pb2
from tests.afsctl.conftest import Afsctl, FakeCell
from tests.afsctl.fake_services import VOLUME_ID, site_at
from tests.afsctl.fake_vol_server import SENT


def outcome(server: str, detail: str = "") -> vol_server_pb2.SiteOutcome:
    """How a release ended at a site; without a detail it went well."""
    site = site_at(server, "vicepa")
    return vol_server_pb2.SiteOutcome(site=site, released=not detail, detail=detail, sent=SENT)


def test_release_lists_sites(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Each site says what was sent to it."""
    fake_cell.vol_server.outcomes = [outcome("b:7000"), outcome("a:7000")]
    ended = afsctl("vos", "release", "home.kim")
    assert (ended.status, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0].split() == ["SITE", "RELEASED", "SENT", "DETAIL"]
    assert [line.split()[:2] for line in lines[1:]] == [
        ["a:7000/vicepa", "yes"],
        ["b:7000/vicepa", "yes"],
    ]
    record = json.loads(afsctl("vos", "release", "home.kim", "--json").out)
    assert [site["released"] for site in record["sites"]] == [True, True]
    assert record["not_told"] == []


def test_release_of_what_is_released(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """People are told that there was nothing to do."""
    fake_cell.vol_server.outcomes = [outcome("a:7000")]
    fake_cell.vol_server.outcomes[0].ClearField("sent")
    ended = afsctl("vos", "release", "home.kim")
    assert ended.out.splitlines()[-1] == "The sites show it already: nothing was sent."


def test_release_that_fails_at_a_site(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """The site and the reason are named, and exit status 1 tells scripts."""
    fake_cell.vol_server.outcomes = [outcome("a:7000"), outcome("b:7000", "disk full")]
    ended = afsctl("vos", "release", "home.kim")
    assert ended.status == 1
    assert ended.err.splitlines() == [
        "afsctl: b:7000/vicepa: disk full",
        "afsctl: 1 of 2 sites keep their old state until the next release",
    ]


def test_release_waits_and_lists_who_is_not_told(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """While it waits it counts those who are left; with none left it is silent about them."""
    waiting = vol_server_pb2.ClientNotTold(
        host_uuid="8a", address="127.0.0.1:5", lease_remaining_s=4
    )
    fake_cell.vol_server.outcomes = [outcome("a:7000")]
    fake_cell.vol_server.not_told = [[waiting]]
    ended = afsctl("vos", "release", "home.kim", "--wait")
    assert fake_cell.vol_server.requests[-1].wait
    assert ended.err == "waiting for clients: 1 left\n"
    assert ended.out.splitlines()[-1].split() == ["8a", "127.0.0.1:5", "4.0", "s"]
    fake_cell.vol_server.not_told = [[waiting], []]
    ended = afsctl("vos", "release", "home.kim", "--wait", "--json")
    assert json.loads(ended.out)["not_told"] == []
    assert "NOT TOLD" not in afsctl("vos", "release", "home.kim", "--wait").out


@pytest.mark.parametrize(
    "command",
    [
        ["move", "home.kim", "--to-partition", "vicepb"],
        ["release", "home.kim"],
        ["remove", "home.kim"],
    ],
)
def test_dry_run_shows_the_plan(fake_cell: FakeCell, afsctl: Afsctl, command: list[str]) -> None:
    """--dry-run arrives at the server, and its plan is shown: bytes, clients, time."""
    ended = afsctl("vos", *command, "--dry-run")
    assert ended.status == 0
    assert fake_cell.vol_server.requests[-1].dry_run
    assert ended.out.splitlines() == [
        "lock the entry",
        "send the volume",
        "TO SEND             3.0 MiB",
        "CHUNKS TO SEND      3",
        "CLIENTS TO TELL     2",
        "OUT OF SERVICE FOR  about 12 ms",
        "Nothing was changed.",
    ]
    plan = json.loads(afsctl("vos", *command, "--dry-run", "--json").out)["plan"]
    assert (plan["bytes_to_send"], plan["clients_to_tell"]) == (3 * 1024 * 1024, 2)


def test_dry_run_of_a_restore_sends_the_dump(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path
) -> None:
    """The server checks the whole dump to say what it would do."""
    file = tmp_path / "dump"
    file.write_bytes(b"all of it")
    ended = afsctl("vos", "restore", "again", file, "--dry-run")
    assert ended.out.endswith("Nothing was changed.\n")
    opening, *pieces = fake_cell.vol_server.restored
    assert opening.open.dry_run
    assert b"".join(piece.data for piece in pieces) == b"all of it"


@pytest.mark.parametrize("command", ["copy", "clone"])
def test_new_volumes(fake_cell: FakeCell, afsctl: Afsctl, command: str) -> None:
    """Name and new name arrive, and the new volume is shown."""
    ended = afsctl("vos", command, "home.kim", "home.new", "--json")
    assert json.loads(ended.out)["volume_id"] == VOLUME_ID
    (request,) = fake_cell.vol_server.requests
    assert (request.volume, request.new_name) == ("home.kim", "home.new")


def test_salvage_tells_what_it_did(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Findings with what was done about each; exit status 1 only if something is left."""
    ended = afsctl("vos", "salvage", "home.kim")
    assert (ended.status, ended.out) == (0, "Nothing is wrong with it.\n")
    fake_cell.vol_server.findings.append(
        vol_server_pb2.Finding(kind="orphan", subject="7.2.5", action="attached to the root")
    )
    ended = afsctl("vos", "salvage", "home.kim", "--dry-run")
    assert ended.status == 0
    assert "attached to the root" in ended.out
    assert fake_cell.vol_server.requests[-1].dry_run
    fake_cell.vol_server.unrepaired = 1
    ended = afsctl("vos", "salvage", "home.kim", "--json", "--remove-orphans", "--quick")
    request = fake_cell.vol_server.requests[-1]
    assert (request.remove_orphans, request.remove_damaged, request.quick) == (True, False, True)
    assert ended.status == 1
    assert json.loads(ended.out)["findings"][0]["kind"] == "orphan"
    assert ended.err == "afsctl: 1 of 1 finding not repaired\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["move", "home.kim"], "expected --to-server or --to-partition"),
        (["examine"], "expected a volume or --file"),
        (["examine", "home.kim", "--file", "x"], "expected a volume or --file"),
        (["dump", "home.kim", "x", "--since", "1", "--incremental-from", "y"], "exclude each"),
        (["dump", "home.kim", "--json"], "--json needs a file"),
        (["addsite", "home.kim"], "Missing option '--server'"),
    ],
)
def test_usage(fake_cell: FakeCell, afsctl: Afsctl, arguments: list[str], words: str) -> None:
    """A command line that makes no sense is one line and exit status 2, and nothing is asked."""
    ended = afsctl("vos", *arguments)
    assert ended.status == 2
    assert words in ended.err
    assert len(ended.err.splitlines()) == 1
    assert fake_cell.vol_server.requests == []


def test_dump_since_a_counter(fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path) -> None:
    """The counter arrives, and what was written is told."""
    ended = afsctl("vos", "dump", "home.kim", tmp_path / "dump", "--since", "41", "--json")
    assert ended.status == 0, ended.err
    assert fake_cell.vol_server.requests[-1].since == 41
    assert json.loads(ended.out) == {
        "volume": "home.kim",
        "file": str(tmp_path / "dump"),
        "size_bytes": 16,
        "since": 41,
    }


@pytest.mark.parametrize(
    ("contents", "words"),
    [(b"something else altogether", "does not begin as one"), (b"laterfs", "ends too early")],
)
def test_file_that_is_no_dump(
    fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path, contents: bytes, words: str
) -> None:
    """Looked at, or meant as the base of an incremental dump, it is refused in one line (R9)."""
    file = tmp_path / "file"
    file.write_bytes(contents)
    for command in (
        ("examine", "--file", file),
        ("dump", "home.kim", tmp_path / "new", "--incremental-from", file),
    ):
        ended = afsctl("vos", *command)
        assert (ended.status, ended.out) == (1, "")
        assert words in ended.err.splitlines()[-1]
    assert fake_cell.vol_server.requests == []
    assert not (tmp_path / "new").exists()
