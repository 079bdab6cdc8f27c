"""`afsctl login`, `logout`, `tokens`, and the keys of a cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from afs.errors import AfsError
from afs.identity.cell_files import CellFiles
from afs.identity.issuers import load_issuers
from afs.identity.revocations import load_revocations
from afs.identity.tokens import verify_token
from tests.afsctl.conftest import Afsctl, FakeCell

pytestmark = pytest.mark.usefixtures("own_tokens")


@pytest.fixture
def own_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No tokens yet, and a cell directory of our own."""
    monkeypatch.setenv("AFS_TOKENS", str(tmp_path / "tokens"))
    monkeypatch.setenv("AFS_CELL_DIR", str(tmp_path / "cell"))
    monkeypatch.delenv("AFS_CELL", raising=False)


def test_login_is_believed_by_the_cell(afsctl: Afsctl, tmp_path: Path) -> None:
    """An operator logs in by name; the token is good for the cell, and readable by nobody else."""
    assert afsctl("cell", "init", "--name", "example.org").status == 0
    assert afsctl("login", "alice").status == 0
    (record,) = json.loads(afsctl("tokens", "--json").out)
    assert (record["cell"], record["name"], record["state"]) == ("example.org", "alice", "good")
    assert (tmp_path / "tokens").stat().st_mode & 0o777 == 0o600
    files = CellFiles(tmp_path / "cell" / "identity")
    printed = afsctl("login", "bob", "--print").out.strip()
    issuers = load_issuers(files.issuers, "example.org")
    revocations = load_revocations(files.revocations)
    assert verify_token(printed, issuers, revocations).name == "bob"


def test_second_init_keeps_the_key(afsctl: Afsctl, tmp_path: Path) -> None:
    """The key of a cell is never replaced: all that it signed would be void."""
    afsctl("cell", "init")
    key = CellFiles(tmp_path / "cell" / "identity").signing_key
    before = key.read_bytes()
    ended = afsctl("cell", "init")
    assert (ended.status, ended.err.count("\n")) == (1, 1)
    assert "has its key" in ended.err
    assert key.read_bytes() == before


def test_token_that_was_issued_elsewhere(afsctl: Afsctl, tmp_path: Path) -> None:
    """Who has no key brings a token in a file; what is none is refused."""
    afsctl("cell", "init", "--name", "example.org")
    (tmp_path / "mine").write_text(afsctl("login", "carol", "--print").out)
    assert afsctl("login", "--token", tmp_path / "mine").status == 0
    assert json.loads(afsctl("tokens", "--json").out)[0]["name"] == "carol"
    (tmp_path / "mine").write_text("nonsense")
    assert afsctl("login", "--token", tmp_path / "mine").status == 1
    assert afsctl("login").status == 2


def test_logout_throws_the_token_away(afsctl: Afsctl, tmp_path: Path) -> None:
    """After it there is no token, and no file; once more is an error."""
    afsctl("cell", "init")
    afsctl("login", "alice")
    assert afsctl("logout").status == 0
    assert not (tmp_path / "tokens").exists()
    assert "no tokens" in afsctl("tokens").out
    assert afsctl("logout").status == 1


def test_tokens_that_others_can_read_are_not_used(afsctl: Afsctl, tmp_path: Path) -> None:
    """A file whose mode lets others in is told of."""
    afsctl("cell", "init")
    afsctl("login", "alice")
    (tmp_path / "tokens").chmod(0o644)
    ended = afsctl("tokens")
    assert (ended.status, "0644" in ended.err) == (1, True)


def test_revoked_token_counts_no_more(afsctl: Afsctl, tmp_path: Path) -> None:
    """One token by its id, or all of a user."""
    afsctl("cell", "init", "--name", "example.org")
    afsctl("login", "alice")
    (record,) = json.loads(afsctl("tokens", "--json").out)
    of_bob = afsctl("login", "bob", "--print").out.strip()
    assert afsctl("cell", "revoke", record["token_id"]).status == 0
    assert afsctl("cell", "revoke", "--user", "bob").status == 0
    files = CellFiles(tmp_path / "cell" / "identity")
    revocations = load_revocations(files.revocations)
    issuers = load_issuers(files.issuers, "example.org")
    token = json.loads((tmp_path / "tokens").read_text())["tokens"]["example.org"]
    for revoked in (token, of_bob):
        with pytest.raises(AfsError, match="revoked"):
            verify_token(revoked, issuers, revocations)
    assert afsctl("cell", "revoke").status == 2


def test_commands_show_the_token(afsctl: Afsctl, fake_cell: FakeCell, tmp_path: Path) -> None:
    """Both kinds of command, those that ask once and those that are coroutines, show the token."""
    seen = fake_cell.seen_metadata
    afsctl("cell", "init", "--dir", tmp_path / "cell")
    afsctl("login", "alice", "--cell", tmp_path / "cell")
    token = json.loads((tmp_path / "tokens").read_text())["tokens"]["laterfs"]
    for command in (
        ("rpc", "call", fake_cell.address, "afs.v1.VolumeLocation/ListEntries"),
        ("vos", "listvldb"),
        ("fs", "ls", "/home.kim"),
    ):
        seen.clear()
        assert afsctl(*command).status == 0
        assert seen
        assert {value for _, value in seen} == {f"Bearer {token}"}
    afsctl("logout")
    seen.clear()
    assert afsctl("fs", "ls", "/home.kim").status == 0
    assert {value for _, value in seen} == {None}
