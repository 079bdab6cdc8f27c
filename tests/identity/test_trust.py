"""Tests of the files of issuers and revocations, and of what is remembered of callers."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from afs.access.caller import ADMINISTRATORS_ID, ANONYMOUS, ANYUSER_ID, DAEMON_NAME
from afs.errors import AfsCode, AfsError
from afs.identity.callers import DAEMON, Callers
from afs.identity.keys import jwks
from afs.identity.memberships import Membership, Memberships
from afs.identity.revocations import revoke_token
from afs.identity.tokens import issue_token, own_issuer, unverified_claims
from afs.identity.trust import Trust
from afs.limits import MEMBERSHIP_LIFETIME_S, MEMBERSHIP_STALE_S
from tests.fakes import FakeClock

CELL = "example.org"
KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of a cell that issues its tokens itself."""
    (tmp_path / "cell.json").write_text(jwks(KEY.public_key()))
    (tmp_path / "issuers.toml").write_text(
        f'[[issuer]]\nissuer = "{own_issuer(CELL)}"\nkeys = "cell.json"\nown = true\n'
    )
    return tmp_path


def token(name: str = "alice", lifetime_s: float = 60) -> str:
    """A token of the cell."""
    return issue_token(KEY, cell=CELL, name=name, now_s=time.time(), lifetime_s=lifetime_s)


async def test_revocation_counts_while_the_daemon_runs(folder: Path) -> None:
    """A token that was believed a moment ago is refused once its file says so; others go on."""
    trust = await Trust.open(folder / "issuers.toml", folder / "revoked", CELL)
    try:
        first, second = token(), token()
        assert trust.verify(first).name == trust.verify(second).name == "alice"
        token_id = unverified_claims(first)["jti"]
        await asyncio.to_thread(revoke_token, folder / "revoked", token_id)
        await trust.look()
        with pytest.raises(AfsError, match="revoked"):
            trust.verify(first)
        assert trust.verify(second).name == "alice"
    finally:
        await trust.close()


async def test_file_that_breaks_changes_nothing(folder: Path) -> None:
    """Half of a file leaves those believed that were, and is told of; a whole one counts."""
    trust = await Trust.open(folder / "issuers.toml", None, CELL)
    try:
        (folder / "cell.json").write_text("{")
        with pytest.raises(AfsError, match="JWKS"):
            await trust.look()
        assert trust.verify(token()).name == "alice"
        (folder / "cell.json").write_text(jwks(Ed25519PrivateKey.generate().public_key()))
        await trust.look()
        with pytest.raises(AfsError) as caught:
            trust.verify(token())
        assert caught.value.code is AfsCode.RXKADUNKNOWNKEY
    finally:
        await trust.close()


async def test_issuers_that_are_not_there_are_told_at_the_start(tmp_path: Path) -> None:
    """A daemon whose issuers cannot be read does not start."""
    with pytest.raises(AfsError, match="No such file"):
        await Trust.open(tmp_path / "issuers.toml", None, CELL)


class Database:
    """A protection database that answers, or does not."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ids = frozenset({1, ANYUSER_ID})
        self.answers = asyncio.Event()
        self.answers.set()
        self.fails = False

    async def ask(self, name: str) -> Membership:
        """What the database says of a user."""
        self.asked.append(name)
        await self.answers.wait()
        if self.fails:
            raise AfsError(AfsCode.RX_CALL_DEAD, "nobody is there")
        return Membership(1, self.ids)


async def test_groups_are_asked_for_once_in_a_while() -> None:
    """What was said counts for its lifetime, then it is asked again; all who wait ask once."""
    clock, database = FakeClock(), Database()
    memberships = Memberships(database.ask, clock.now)
    database.answers.clear()
    waiting = [asyncio.ensure_future(memberships.of("alice")) for _ in range(3)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    database.answers.set()
    assert {(await each).user_id for each in waiting} == {1}
    await memberships.of("alice")
    assert database.asked == ["alice"]
    database.ids = frozenset({1, ANYUSER_ID, ADMINISTRATORS_ID})
    clock.advance(MEMBERSHIP_LIFETIME_S + 1)
    assert ADMINISTRATORS_ID in (await memberships.of("alice")).ids
    assert database.asked == ["alice", "alice"]


async def test_silent_database_is_outlived_for_a_while() -> None:
    """While it does not answer, its last word counts, but not for ever, and strangers wait."""
    clock, database = FakeClock(), Database()
    memberships = Memberships(database.ask, clock.now)
    await memberships.of("alice")
    database.fails = True
    clock.advance(MEMBERSHIP_LIFETIME_S + 1)
    assert (await memberships.of("alice")).user_id == 1
    with pytest.raises(AfsError) as caught:
        await memberships.of("bob")
    assert caught.value.code is AfsCode.VBUSY
    clock.advance(MEMBERSHIP_STALE_S)
    with pytest.raises(AfsError) as caught:
        await memberships.of("alice")
    assert caught.value.code is AfsCode.VBUSY


async def test_callers_by_their_tokens(folder: Path) -> None:
    """Nobody, a user, a member of the administrators, a superuser, a daemon."""
    database = Database()
    trust = await Trust.open(folder / "issuers.toml", None, CELL)
    try:
        callers = Callers(trust, Memberships(database.ask, FakeClock().now), ["root"])
        assert await callers.of(None) is ANONYMOUS
        alice = await callers.of(token("alice"))
        assert (alice.name, alice.user_id, alice.is_administrator) == ("alice", 1, False)
        assert (await callers.of(token("root"))).is_administrator
        assert await callers.of(token(DAEMON_NAME)) is DAEMON
        database.ids |= {ADMINISTRATORS_ID}
        assert (await callers.of(token("bob"))).is_administrator
        with pytest.raises(AfsError):
            await callers.of("nonsense")
    finally:
        await trust.close()
