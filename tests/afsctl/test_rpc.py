"""`afsctl rpc`, against real gRPC servers known only by reflection."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from tests.afsctl.conftest import Afsctl, FakeCell
from tests.afsctl.fake_services import VOLUME_ID

ROOT = {"volume": VOLUME_ID, "vnode": 1, "uniquifier": 1}


def test_list_shows_the_services(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Every service is listed, those of the project and those of gRPC."""
    ended = afsctl("rpc", "list", fake_cell.address, "--json")
    assert ended.status == 0
    names = {record["service"] for record in json.loads(ended.out)}
    assert {"afs.v1.FileServer", "afs.v1.FSSync", "grpc.health.v1.Health"} <= names


def test_list_shows_the_methods_of_a_service(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """A service's methods are listed with what they take and give, by short name too."""
    ended = afsctl("rpc", "list", fake_cell.address, "FileServer")
    assert ended.status == 0
    line = next(line for line in ended.out.splitlines() if line.startswith("FetchData"))
    assert line.split() == ["FetchData", "FetchDataRequest", "stream", "of", "FetchDataResponse"]


def test_unary_call(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """A call takes one JSON object and prints one, with the protocol's field names."""
    request = json.dumps({"fid": ROOT})
    ended = afsctl("rpc", "call", fake_cell.address, "afs.v1.FileServer/FetchStatus", request)
    assert ended.status == 0
    assert json.loads(ended.out)["status"]["fid"] == ROOT
    assert json.loads(ended.out)["status"]["link_count"] == 2


def test_call_without_a_request_sends_an_empty_one(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """The request may be left out."""
    ended = afsctl("rpc", "call", fake_cell.address, "VolServer/ListPartitions")
    assert len(json.loads(ended.out)["partitions"]) == 3


def test_stream_of_answers_is_one_line_each(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """Each answer of a stream is a JSON object on its own line; --max-answers ends it early."""
    request = json.dumps({"volume": "home.kim"})
    arguments = ("rpc", "call", fake_cell.address, "VolServer/Dump", request)
    ended = afsctl(*arguments)
    assert [json.loads(line) for line in ended.out.splitlines()] == [
        {"data": "ZHVtcCBvZiA="},
        {"data": "YSB2b2x1bWU="},
    ]
    assert len(afsctl(*arguments, "--max-answers", "1").out.splitlines()) == 1


def test_stream_of_requests(
    fake_cell: FakeCell, afsctl: Afsctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client stream takes several objects: as arguments, as an array, or on standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO('{"data": "Zg=="}\n [{"data": "Zw=="}]\n'))
    opening = json.dumps({"open": {"name": "x"}})
    ended = afsctl("rpc", "call", fake_cell.address, "VolServer/Restore", opening, "-")
    assert ended.status == 0
    assert fake_cell.vol_server.restored[0].open.name == "x"
    assert [request.data for request in fake_cell.vol_server.restored] == [b"", b"f", b"g"]


def test_failed_call_tells_status_and_abort_code(fake_cell: FakeCell, afsctl: Afsctl) -> None:
    """A failure is one line with gRPC status and AFS code, and exit status 1."""
    request = json.dumps({"fid": {**ROOT, "volume": 77}})
    ended = afsctl("rpc", "call", fake_cell.address, "FileServer/FetchStatus", request)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == ("afsctl: no volume 77 (VNOVOL, afs-abort-code 103, gRPC NOT_FOUND)\n")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["FileServer/FetchStatus", "{"], 2, "no JSON"),
        (["FileServer/FetchStatus", "7"], 2, "7 is no JSON object"),
        (["FileServer/FetchStatus", '{"fud": 1}'], 1, "fud"),
        (["FileServer/FetchStatus", '{"fid": {"volume": -1}}'], 1, "volume"),
        (["FileServer/FetchStatus", "{}", "{}"], 1, "takes one request, not 2"),
        (["VolServer/Restore", "{}", '{"fud": 1}'], 1, "fud"),
        (["FileServer/Nothing"], 1, "has no method Nothing: it has"),
        (["Nothing/FetchStatus"], 1, "no service is named Nothing: there are afs.v1.FSSync"),
        (["FetchStatus"], 1, "expected SERVICE/METHOD"),
        (["FileServer/FetchStatus", "--header", "x"], 2, "expected NAME=VALUE"),
    ],
)
def test_call_that_makes_no_sense(
    fake_cell: FakeCell, afsctl: Afsctl, arguments: list[str], status: int, words: str
) -> None:
    """What is wrong with a call is told in one line."""
    ended = afsctl("rpc", "call", fake_cell.address, *arguments)
    assert ended.status == status
    assert words in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/nonexistent/socket"])
def test_nobody_there(afsctl: Afsctl, address: str) -> None:
    """An address where nobody listens is one clear line."""
    ended = afsctl("rpc", "list", address)
    assert ended.status == 1
    assert ended.err.startswith(f"afsctl: nothing answers at {address.removeprefix('unix:')}: ")
    assert len(ended.err.splitlines()) == 1


def test_stream_talked_to_by_hand(fake_cell: FakeCell) -> None:
    """Requests on standard input are sent as they come, and answers are printed as they come."""
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "afsctl", "rpc", "call", fake_cell.address),
            *("ServerReflection/ServerReflectionInfo", "-"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write('{"list_services": ""}\n')
            process.stdin.flush()
            assert "list_services_response" in json.loads(process.stdout.readline())
        process.stdin.close()
    assert process.returncode == 0
