"""`afsctl fssync`, against a stand-in fileserver."""

from __future__ import annotations

import json

import pytest

from afs.v1 import fssync_pb2
from tests.afsctl.conftest import Afsctl, FakeCell
from tests.afsctl.fake_services import VOLUME_ID


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("online", fssync_pb2.FSYNC_VOL_ON),
        ("offline", fssync_pb2.FSYNC_VOL_OFF),
        ("leaveoff", fssync_pb2.FSYNC_VOL_LEAVE_OFF),
        ("callback", fssync_pb2.FSYNC_VOL_BREAKCBKS),
        ("query", fssync_pb2.FSYNC_VOL_QUERY),
        ("detach", fssync_pb2.FSYNC_VOL_DONE),
        ("error", fssync_pb2.FSYNC_VOL_FORCE_ERROR),
    ],
)
def test_commands_reach_the_fileserver(
    fake_cell: FakeCell, afsctl: Afsctl, name: str, command: fssync_pb2.FsyncCommand.ValueType
) -> None:
    """Each subcommand is its FSSync command, for a volume by id, in the name of a program."""
    ended = afsctl("fssync", name, str(VOLUME_ID), "--program", "salvager")
    assert ended.status == 0
    (request,) = fake_cell.fssync.requests
    assert (request.command, request.volume_id) == (command, VOLUME_ID)
    assert request.program == "salvager"
    assert "CALLBACKS MARKED  12" in ended.out
    assert "checked out" in ended.out


def test_volume_by_name(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """The fileserver itself is asked which id a name has."""
    assert afsctl("fssync", "query", "home.kim").status == 0
    assert fake_cell.fssync.requests[-1].volume_id == VOLUME_ID
    ended = afsctl("fssync", "query", "nobody")
    assert (ended.status, ended.err) == (
        1,
        "afsctl: the fileserver has no volume named nobody\n",
    )


def test_refusal_is_a_failure(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """A denied command is one line with response and reason, and exit status 1."""
    ended = afsctl("fssync", "needvolume", str(VOLUME_ID))
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == "afsctl: FSYNC_DENIED: FSYNC_EXCLUSIVE: volserver has it\n"


def test_list(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Volumes are listed with state and who has them."""
    (record,) = json.loads(afsctl("fssync", "list", "--json").out)
    assert (record["state"], record["program"]) == ("checked_out", "volserver")


def test_vnode_needs_a_fid(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """What is no Fid is a usage error."""
    ended = afsctl("fssync", "vnode", "1.2")
    assert ended.status == 2
    assert "expected three numbers" in ended.err
