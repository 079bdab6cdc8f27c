"""`afsctl pts`, against a location service that looks at who calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from afs.identity.cell_files import CellFiles
from afsctl.daemon import Daemon, DaemonPlan
from afsctl.ports import free_ports
from tests.afsctl.conftest import Afsctl

USERS = ("alice", "bob")


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A location service with authorization, whose superuser is root; the environment names it."""
    files = CellFiles(tmp_path / "identity")
    files.make("example.org")
    (port,) = free_ports(1)
    flags = {
        "location-only": "true",
        "location-listen": f"127.0.0.1:{port}",
        "vldb": tmp_path / "vldb.sqlite3",
        "run-dir": tmp_path / "run",
        "cell": "example.org",
        "authorization": "on",
        "issuers": files.issuers,
        "revocations": files.revocations,
        "signing-key": files.signing_key,
        "superusers": "root",
    }
    argv = [sys.executable, "-m", "volserverd"]
    argv += [part for name, value in flags.items() for part in (f"--{name}", str(value))]
    plan = DaemonPlan("volserverd", tuple(argv), f"127.0.0.1:{port}", tmp_path / "log")
    daemon = Daemon(plan, process=None, dies_with_owner=True, changed=lambda: None)
    daemon.start()
    monkeypatch.setenv("AFS_LOCATION", plan.address)
    monkeypatch.setenv("AFS_CELL_DIR", str(tmp_path))
    monkeypatch.delenv("AFS_CELL", raising=False)
    try:
        yield tmp_path
    finally:
        daemon.stop()


@pytest.fixture
def as_user(guarded: Path, afsctl: Afsctl, monkeypatch: pytest.MonkeyPatch) -> Afsctl:
    """Runs a command as a user: their name comes first; "" is nobody."""

    def command(name: str, *arguments: str | Path) -> object:
        monkeypatch.setenv("AFS_TOKENS", str(guarded / f"tokens-{name}"))
        if name and not (guarded / f"tokens-{name}").exists():
            assert afsctl("login", name).status == 0
        return afsctl(*arguments)

    return command  # type: ignore[return-value]


def test_people_and_their_groups(as_user: Afsctl) -> None:
    """Administrators make users, users make groups of their own, and each sees what is theirs."""
    assert as_user("alice", "pts", "createuser", "alice").status == 1
    for user in USERS:
        assert as_user("root", "pts", "createuser", user).status == 0
    ended = as_user("alice", "pts", "creategroup", "alice:friends", "--json")
    assert json.loads(ended.out)["owner"] == "alice"
    assert as_user("alice", "pts", "adduser", "bob", "alice:friends").status == 0
    members = json.loads(as_user("alice", "pts", "membership", "alice:friends", "--json").out)
    assert [member["name"] for member in members] == ["bob"]
    ended = as_user("", "pts", "membership", "alice:friends")
    assert (ended.status, "log in" in ended.err) == (1, True)
    who = json.loads(as_user("bob", "pts", "whoami", "--json").out)
    assert (who["name"], who["is_administrator"]) == ("bob", False)
    assert "system:authuser" in who["groups"]
    assert "Administrator  yes" in as_user("root", "pts", "whoami").out
    assert as_user("", "pts", "whoami").out.startswith("Name           system:anyuser")
    assert as_user("bob", "pts", "listentries").status == 1
    listed = as_user("root", "pts", "listentries", "--users", "--json").out
    assert [entry["name"] for entry in json.loads(listed)] == list(USERS)
    assert as_user("root", "pts", "rename", "alice", "alicia").status == 0
    assert "alicia:friends" in as_user("root", "pts", "listentries", "--groups").out
    assert as_user("root", "pts", "chown", "alicia:friends", "bob").status == 0
    assert "Owner" in as_user("", "pts", "examine", "bob:friends").out
    assert as_user("bob", "pts", "removeuser", "bob", "bob:friends").status == 0
    assert as_user("bob", "pts", "delete", "bob:friends").status == 0
    assert as_user("root", "pts", "delete", "alicia", "bob").status == 0


def test_location_database_is_the_administrators(as_user: Afsctl, guarded: Path) -> None:
    """Anyone looks volumes up; a user changes no entry, and is told why; a bad token is told of."""
    address = os.environ["AFS_LOCATION"]
    lock = ("rpc", "call", address, "afs.v1.VolumeLocation/Lock", '{"read_write_id": 1}')
    assert as_user("", "vos", "listvldb").status == 0
    for user, code in (("", "RXKADNOAUTH"), ("alice", "EPERM"), ("root", "EINVAL")):
        ended = as_user(user, *lock)
        assert (ended.status, code in ended.err) == (1, True), ended.err
    ended = as_user(
        "", "rpc", "call", "-H", "authorization=Bearer x", address, "afs.v1.VolumeLocation/Unlock"
    )
    assert "RXKADBADTICKET" in ended.err
    log = (guarded / "log").read_text()
    assert log.count("call.refused") >= 3


def test_daemon_without_issuers_does_not_start(tmp_path: Path) -> None:
    """Authorization without anybody to believe is a mistake that is told at once."""
    ended = subprocess.run(
        [sys.executable, "-m", "volserverd", "--authorization", "on"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert "issuers" in ended.stderr
