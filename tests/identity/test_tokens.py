"""Tests of signed tokens: what is believed, and how what is not is told."""

from __future__ import annotations

import base64
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from afs.access.caller import DAEMON_NAME
from afs.errors import AfsCode, AfsError
from afs.identity.issuers import Issuer, load_issuers
from afs.identity.keys import jwks, key_id, load_signing_key, save_signing_key
from afs.identity.revocations import Revocations, load_revocations, revoke_token, revoke_user
from afs.identity.tokens import issue_token, own_issuer, unverified_claims, verify_token
from afs.limits import MAX_TOKEN_BYTES, MAX_TOKEN_LIFETIME_S, TOKEN_CLOCK_TOLERANCE_S

CELL = "example.org"
KEY = Ed25519PrivateKey.generate()
OTHER_KEY = Ed25519PrivateKey.generate()
OUTSIDE = "https://login.example.com"


@pytest.fixture
def issuers(tmp_path: Path) -> dict[str, Issuer]:
    """The cell's own issuer, and one outside that names people by their mail addresses."""
    (tmp_path / "cell.json").write_text(jwks(KEY.public_key()))
    (tmp_path / "outside.json").write_text(jwks(OTHER_KEY.public_key()))
    (tmp_path / "issuers.toml").write_text(f"""
        [[issuer]]
        issuer = "{own_issuer(CELL)}"
        keys = "cell.json"
        own = true

        [[issuer]]
        issuer = "{OUTSIDE}"
        keys = "outside.json"
        audience = "laterfs"
        name_claim = "email"
        names = {{ "alice@example.com" = "alice", "root@example.com" = "{DAEMON_NAME}" }}
        suffix = "@login"
    """)
    return load_issuers(tmp_path / "issuers.toml", CELL)


def token(key: Ed25519PrivateKey = KEY, **changed: Any) -> str:
    """A token of the cell for alice, with some claims changed or (None) left out."""
    now = int(time.time())
    claims = {
        "iss": own_issuer(CELL),
        "aud": CELL,
        "sub": "alice",
        "iat": now,
        "exp": now + 60,
        "jti": "1",
    }
    claims |= changed
    return jwt.encode(
        {name: value for name, value in claims.items() if value is not None},
        key,
        algorithm="EdDSA",
        headers={"kid": key_id(key.public_key())},
    )


def refused(code: AfsCode, text: str = "") -> pytest.RaisesExc[AfsError]:
    """Expects an AfsError of this code in one line that contains the text."""
    return pytest.RaisesExc(
        AfsError,
        check=lambda error: (
            error.code is code and text in error.detail and "\n" not in error.detail
        ),
    )


def test_token_names_its_user(issuers: dict[str, Issuer]) -> None:
    """A token that the cell issued proves the name it was issued for, until it expires."""
    made = issue_token(KEY, cell=CELL, name="alice", now_s=time.time(), lifetime_s=60)
    identity = verify_token(made, issuers, Revocations())
    assert (identity.name, identity.own) == ("alice", True)
    assert identity.expires_s - identity.issued_s == 60


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"exp": -int(TOKEN_CLOCK_TOLERANCE_S) - 60}, AfsCode.RXKADEXPIRED),
        ({"iat": int(TOKEN_CLOCK_TOLERANCE_S) + 60}, AfsCode.RXKADBADTICKET),
        ({"exp": MAX_TOKEN_LIFETIME_S + 60}, AfsCode.RXKADBADTICKET),
        ({"nbf": int(TOKEN_CLOCK_TOLERANCE_S) + 60}, AfsCode.RXKADBADTICKET),
        ({"exp": None}, AfsCode.RXKADBADTICKET),
        ({"exp": "tomorrow"}, AfsCode.RXKADBADTICKET),
        ({"aud": "another.cell"}, AfsCode.RXKADBADTICKET),
        ({"aud": None}, AfsCode.RXKADBADTICKET),
        ({"sub": None}, AfsCode.RXKADBADTICKET),
        ({"sub": "system:administrators"}, AfsCode.RXKADBADTICKET),
        ({"sub": ""}, AfsCode.RXKADBADTICKET),
        ({"jti": None}, AfsCode.RXKADBADTICKET),
        ({"jti": 7}, AfsCode.RXKADBADTICKET),
        ({"iss": "afs://another.cell"}, AfsCode.RXKADUNKNOWNKEY),
        ({"iss": None}, AfsCode.RXKADUNKNOWNKEY),
    ],
    ids=str,
)
def test_token_with_a_wrong_claim_is_refused(
    issuers: dict[str, Issuer], changed: dict[str, Any], code: AfsCode
) -> None:
    """Every claim is looked at, and what is wrong is told in one line."""
    now = int(time.time())
    for name in {"iat", "exp", "nbf"} & changed.keys():
        # Times are given as seconds from now.
        if isinstance(changed[name], int):
            changed = {**changed, name: now + changed[name]}
    with refused(code):
        verify_token(token(**changed), issuers, Revocations())


def test_clocks_may_differ_a_little(issuers: dict[str, Issuer]) -> None:
    """A token that expired within the tolerance still counts: clocks of two machines differ."""
    late = token(exp=int(time.time() - TOKEN_CLOCK_TOLERANCE_S / 2), iat=int(time.time()) - 600)
    assert verify_token(late, issuers, Revocations()).name == "alice"


def test_signature_is_looked_at(issuers: dict[str, Issuer]) -> None:
    """A token whose text was changed, or that another key signed under the same id, is refused."""
    header, payload, signature = token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    forged = base64.urlsafe_b64encode(json.dumps(claims | {"sub": "bob"}).encode()).decode()
    with refused(AfsCode.RXKADBADTICKET):
        verify_token(f"{header}.{forged.rstrip('=')}.{signature}", issuers, Revocations())
    claims = unverified_claims(token())
    signed = jwt.encode(
        claims, OTHER_KEY, algorithm="EdDSA", headers={"kid": key_id(KEY.public_key())}
    )
    with refused(AfsCode.RXKADBADTICKET):
        verify_token(signed, issuers, Revocations())
    with refused(AfsCode.RXKADUNKNOWNKEY, "log in again"):
        verify_token(token(OTHER_KEY), issuers, Revocations())


def test_algorithm_cannot_be_chosen_by_the_token(issuers: dict[str, Issuer]) -> None:
    """Neither `none`, nor a shared secret, nor another kind of key counts."""
    kid = {"kid": key_id(KEY.public_key())}
    claims = unverified_claims(token())
    unsigned = jwt.encode(claims, "", algorithm="none", headers=kid)
    secret = jwt.encode(claims, "x" * 64, algorithm="HS256", headers=kid)
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    signed = jwt.encode(claims, other, algorithm="RS256", headers=kid)
    for each in (unsigned, secret, signed):
        with refused(AfsCode.RXKADBADTICKET):
            verify_token(each, issuers, Revocations())


def test_outside_names_cannot_be_ours(issuers: dict[str, Issuer]) -> None:
    """An outside issuer's users have the names that the file gives, or its suffix; no daemon's."""

    def named(email: object) -> str:
        made = token(OTHER_KEY, iss=OUTSIDE, aud="laterfs", jti=None, email=email)
        return verify_token(made, issuers, Revocations()).name

    assert named("alice@example.com") == "alice"
    assert named("admin") == "admin@login"
    for email in ("root@example.com", "a:b", None, 5, ["alice"]):
        with refused(AfsCode.RXKADBADTICKET):
            named(email)


def test_revoked_tokens_are_refused(issuers: dict[str, Issuer], tmp_path: Path) -> None:
    """One token by its id, or all that a user was given before a moment; later ones count."""
    path = tmp_path / "revoked"
    assert load_revocations(path) == Revocations()
    first = token(jti="first")
    revoke_token(path, "first")
    with refused(AfsCode.RXKADBADTICKET, "revoked"):
        verify_token(first, issuers, load_revocations(path))
    assert verify_token(token(jti="second"), issuers, load_revocations(path)).name == "alice"
    now = int(time.time())
    revoke_user(path, "alice", now)
    with refused(AfsCode.RXKADBADTICKET, "revoked"):
        verify_token(token(jti="third", iat=now - 1), issuers, load_revocations(path))
    later = token(jti="fourth", iat=now)
    assert verify_token(later, issuers, load_revocations(path)).token_id == "fourth"


def test_revocations_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    """A line that says nothing we know is an error that names it, not a revocation less."""
    path = tmp_path / "revoked"
    path.write_text("# nothing\n\nuser alice yesterday\n")
    with refused(AfsCode.EINVAL, "line 3"):
        load_revocations(path)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "issuer"),
        ("[[issuer]]\nissuer = 'x'\nkeys = 'cell.json'\n", "neither own, names nor suffix"),
        ("[[issuer]]\nissuer = 'x'\nkeys = 'none.json'\nown = true\n", "none.json"),
        ("[[issuer]]\nissuer = 'x'\nkeys = 'cell.json'\nown = true\nalgorithms = ['HS256']\n", ""),
        ("[[issuer]]\nissuer = 'x'\nkeys = 'cell.json'\nown = true\nnews = 1\n", "news"),
        ("[[issuer]]\nissuer = 'x'\nkeys = 'issuers.toml'\nown = true\n", "JWKS"),
        ("nonsense", "TOML"),
        (2 * "[[issuer]]\nissuer = 'x'\nkeys = 'cell.json'\nown = true\n", "twice"),
    ],
)
def test_issuers_that_cannot_be_used_are_refused(tmp_path: Path, text: str, part: str) -> None:
    """What a file of issuers lacks is told in one line when it is read, not when somebody calls."""
    (tmp_path / "cell.json").write_text(jwks(KEY.public_key()))
    (tmp_path / "issuers.toml").write_text(text)
    with pytest.raises(AfsError) as caught:
        load_issuers(tmp_path / "issuers.toml", CELL)
    assert part in caught.value.detail
    assert "\n" not in caught.value.detail.replace(text, "") or part == "TOML"


def test_signing_key_is_private(tmp_path: Path) -> None:
    """A key is written for its owner alone, and not used once others could have read it."""
    path = tmp_path / "key.pem"
    save_signing_key(path, KEY)
    assert path.stat().st_mode & 0o777 == 0o600
    assert key_id(load_signing_key(path).public_key()) == key_id(KEY.public_key())
    path.chmod(0o640)
    with refused(AfsCode.EACCES, "0640"):
        load_signing_key(path)
    path.write_text("nonsense")
    path.chmod(0o600)
    with refused(AfsCode.EINVAL):
        load_signing_key(path)


@given(text=st.text(max_size=200) | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*", fullmatch=True))
def test_garbage_is_told_to_be_none(text: str) -> None:
    """Whatever is sent for a token, the answer is a refusal, never another exception."""
    with pytest.raises(AfsError):
        verify_token(text, {}, Revocations())


@given(
    header=st.dictionaries(st.sampled_from(["kid", "alg", "typ", "crit", "b64", "jku"]), st.text()),
    claims=st.dictionaries(
        st.sampled_from(["iss", "aud", "sub", "exp", "iat", "nbf", "jti"]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text()),
    ),
)
def test_signed_garbage_is_told_to_be_none(header: dict[str, Any], claims: dict[str, Any]) -> None:
    """Also under a key that is believed: an issuer's mistake is no crash of ours."""
    known = jwt.PyJWKSet.from_json(jwks(KEY.public_key())).keys[0]
    issuer = Issuer("us", CELL, own=True, algorithms=("EdDSA",), keys={"us": known})
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in (header | {"kid": "us", "alg": "EdDSA"}, claims | {"iss": "us"})
    ]
    signature = base64.urlsafe_b64encode(KEY.sign(b".".join(parts))).rstrip(b"=")
    with suppress(AfsError):
        verify_token(b".".join([*parts, signature]).decode(), {"us": issuer}, Revocations())
    with pytest.raises(AfsError):
        verify_token("x" * (MAX_TOKEN_BYTES + 1), {"us": issuer}, Revocations())
