"""A real cell of two servers that look at who calls, over TLS: people, rights, moves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from afs.v1 import file_server_pb2, file_server_pb2_grpc
from afsctl.cell import Cell
from tests.afsctl.conftest import Afsctl, Ended

ADMIN = "admin"


class People:
    """Runs commands as users of the cell; "" is nobody."""

    def __init__(
        self, cell: Cell, folder: Path, afsctl: Afsctl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.cell = cell
        self._folder = folder
        self._afsctl = afsctl
        self._monkeypatch = monkeypatch

    def run(self, name: str, *arguments: str | Path) -> Ended:
        """How a user's command ended."""
        path = self._folder / f"tokens-{name}"
        self._monkeypatch.setenv("AFS_TOKENS", str(path))
        if name and not path.exists():
            assert self._afsctl("login", name).status == 0
        return self._afsctl(*arguments)

    def do(self, name: str, *arguments: str | Path) -> str:
        """What a user's command prints; it must succeed."""
        ended = self.run(name, *arguments)
        assert ended.status == 0, ended.err
        return ended.out

    def refused(self, name: str, *arguments: str | Path) -> str:
        """What a user's command complains of; it must fail."""
        ended = self.run(name, *arguments)
        assert ended.status == 1, ended.out
        return ended.err


@pytest.fixture
def people(tmp_path: Path, afsctl: Afsctl, monkeypatch: pytest.MonkeyPatch) -> Iterator[People]:
    """The people of a cell that runs."""
    monkeypatch.setenv("AFS_CELL_DIR", str(tmp_path / "cell"))
    monkeypatch.delenv("AFS_CELL", raising=False)
    with Cell.start(
        tmp_path / "cell", servers=2, clients=1, authorization=True, tls=True
    ) as running:
        yield People(running, tmp_path, afsctl, monkeypatch)


def test_a_day_with_rights(people: People, tmp_path: Path) -> None:
    """An administrator makes people and a volume, its owner shares it, and it moves meanwhile."""
    assert "RXKADNOAUTH" in people.refused("", "vos", "create", "home")
    for name in ("alice", "bob"):
        people.do(ADMIN, "pts", "createuser", name)
    people.do(ADMIN, "vos", "create", "home")
    assert "EPERM" in people.refused("alice", "vos", "remove", "home")
    people.do(ADMIN, "fs", "setacl", "/home", "alice", "all")
    assert "EACCES" in people.refused("bob", "fs", "ls", "/home")

    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    for number in range(20):
        (tree / "sub" / f"file{number}").write_bytes(b"x" * number * 5000)
    people.do("alice", "fs", "load", tree, "/home")
    people.do("alice", "pts", "creategroup", "alice:friends")
    people.do("alice", "fs", "setacl", "/home", "alice:friends", "l")
    people.do("alice", "fs", "setacl", "/home/sub", "alice:friends", "read", "system:anyuser", "l")
    people.do("alice", "pts", "adduser", "bob", "alice:friends")
    listed = json.loads(people.do("alice", "fs", "listacl", "/home/sub", "--json"))
    assert listed[0]["positive"] == {
        "system:administrators": "rlidwka",
        "alice": "rlidwka",
        "alice:friends": "rl",
        "system:anyuser": "l",
    }

    people.do(ADMIN, "vos", "addsite", "home", "--server", "afsd-1", "--partition", "vicepa")
    people.do(ADMIN, "vos", "release", "home")
    people.do(ADMIN, "vos", "move", "home", "--to-server", "afsd-1", "--to-partition", "vicepa")
    assert "EPERM" in people.refused("alice", "vos", "release", "home")
    people.do("alice", "fs", "setacl", "/home/sub", "bob", "r", "--negative")
    text = people.do("alice", "fs", "listacl", "/home/sub/file3")
    assert text.splitlines()[-2:] == ["Negative rights:", "  bob r"]
    people.do("alice", "fs", "copyacl", "/home/sub", "/home", "--clear")
    assert "  bob r\n" in people.do("alice", "fs", "listacl", "/home")
    people.do("alice", "fs", "setacl", "/home", "alice", "all", "--clear")
    assert people.do("alice", "fs", "listacl", "/home").splitlines()[1:] == [
        "Normal rights:",
        "  alice rlidwka",
    ]
    assert people.run("alice", "fs", "setacl", "/home", "alice").status == 2
    assert people.run("alice", "fs", "setacl", "/home", "alice", "x").status == 2
    people.do("alice", "fs", "setacl", "/home/sub", "bob", "none", "--negative")
    assert "Renewed 6 certificates" in people.do("", "cell", "renew")
    client = people.cell.clients[0]
    people.do("alice", "fs", "setacl", "/home", "system:anyuser", "read")
    stat = people.do("", "rpc", "call", client, "CacheManager/Stat", '{"path": "/home"}')
    assert json.loads(stat)["status"]["type"] == "VNODE_TYPE_DIRECTORY"
    assert people.do("", "cell", "status").count("serving") == 5
    with grpc.insecure_channel(people.cell.file_server) as channel:
        stub: Any = file_server_pb2_grpc.FileServerStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.GetTime(file_server_pb2.GetTimeRequest(), timeout=20)
    assert "Negative" not in people.do("alice", "fs", "listacl", "/home/sub")
