"""`afsctl vos`, against a stand-in volserver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.afsctl.conftest import Afsctl, FakeCell
from tests.afsctl.fake_services import VOLUME_ID
from tests.afsctl.fake_vol_server import DUMP


def test_create_takes_the_roomiest_partition(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Without --partition the volume goes where most is free; options arrive."""
    ended = afsctl("vos", "create", "new", "--quota-kib", "100", "--json")
    assert ended.status == 0
    assert json.loads(ended.out)["volume_id"] == VOLUME_ID
    (request,) = fake_cell.vol_server.created
    assert (request.name, request.partition, request.max_quota_kib) == ("new", "vicepb", 100)


def test_failure_of_the_volserver_is_one_line(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """The server's own words and code, exit status 1, nothing on standard output."""
    ended = afsctl("vos", "create", "home.kim")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == (
        "afsctl: a volume 'home.kim' exists (VVOLEXISTS, afs-abort-code 104, gRPC ALREADY_EXISTS)\n"
    )


def test_listvol_as_lines(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Elsewhere than on a terminal a listing is aligned lines, nothing cut off or wrapped."""
    ended = afsctl("vos", "listvol")
    assert ended.out.splitlines() == [
        "   VOLUME  NAME      TYPE  PART    STATE      USED    QUOTA  FILES",
        "536870913  home.kim  RW    vicepa  online  1.2 MiB  4.9 MiB     17",
    ]


@pytest.mark.parametrize("command", ["listvol", "listvldb", "partinfo", "status"])
def test_listings_as_json(fake_cell: FakeCell, afsctl: Afsctl, command: str) -> None:
    """Every listing has --json: an array of objects with plain numbers."""
    ended = afsctl("vos", command, "--json")
    assert ended.status == 0
    records = json.loads(ended.out)
    assert isinstance(records, list)
    assert all(isinstance(record, dict) for record in records)


def test_empty_listing_is_a_sentence(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """People are told that there is nothing."""
    assert afsctl("vos", "status").out == "The volserver is idle.\n"


def test_examine_shows_volume_and_sites(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Both halves are shown: the volume on disk, and the VLDB's entry."""
    ended = afsctl("vos", "examine", "home.kim")
    assert "NAME     home.kim" in ended.out
    assert "127.0.0.1:7000/vicepa RW" in ended.out
    record = json.loads(afsctl("vos", "examine", "home.kim", "--json").out)
    assert record["volume"]["state"] == "online"
    assert record["entry"]["sites"][0]["file_server"] == "127.0.0.1:7000"


def test_dump_and_restore(fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path) -> None:
    """The dump's bytes arrive in the file, and from the file at the volserver."""
    file = tmp_path / "kim.dump"
    assert afsctl("vos", "dump", "home.kim", file).status == 0
    assert file.read_bytes() == b"".join(DUMP)
    ended = afsctl("vos", "restore", "again", file, "--overwrite")
    assert ended.status == 0
    assert "GIVEN BACK IN  2.1 ms" in ended.out
    opening, *pieces = fake_cell.vol_server.restored
    assert (opening.open.name, opening.open.overwrite) == ("again", True)
    assert b"".join(piece.data for piece in pieces) == b"".join(DUMP)


def test_dump_to_standard_output(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Without a file the dump goes to standard output, and nothing else does."""
    assert afsctl("vos", "dump", "home.kim").out == b"".join(DUMP).decode()


def test_failed_dump_leaves_no_file(fake_cell: FakeCell, afsctl: Afsctl, tmp_path: Path) -> None:
    """A dump that breaks off leaves neither a part of itself nor the older file changed."""
    fake_cell.vol_server.dump_fails = True
    file = tmp_path / "kim.dump"
    file.write_text("older")
    ended = afsctl("vos", "dump", "home.kim", file)
    assert ended.status == 1
    assert "chunk 7 is damaged" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["kim.dump"]
    assert file.read_text() == "older"


def test_backup_waits_for_the_volume(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Progress is followed to the end, and the volume is shown."""
    ended = afsctl("vos", "backup", "home.kim", "--json")
    assert json.loads(ended.out)["name"] == "home.kim"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["remove", "nobody"], "there is no volume 'nobody'"),
        (["offline", "nobody"], "VNOVOL"),
        (["endtrans", "4"], "there is no transaction 4"),
        (["restore", "x", "/nonexistent/dump"], "/nonexistent/dump: No such file or directory"),
        (["dump", "home.kim", "/nonexistent/dump"], "No such file or directory"),
    ],
)
def test_failures(fake_cell: FakeCell, afsctl: Afsctl, arguments: list[str], words: str) -> None:
    """Each failure is one line and exit status 1."""
    ended = afsctl("vos", *arguments)
    assert ended.status == 1
    assert words in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("command", [["remove"], ["offline"], ["online"]])
def test_success(fake_cell: FakeCell, afsctl: Afsctl, command: list[str]) -> None:
    """What was done is said."""
    ended = afsctl("vos", *command, "home.kim")
    assert (ended.status, ended.err) == (0, "")
    assert str(VOLUME_ID) in ended.out


def test_setfields(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """The quota arrives."""
    assert afsctl("vos", "setfields", "home.kim", "--quota-kib", "7").status == 0
    assert fake_cell.vol_server.detail.max_quota_kib == 7
