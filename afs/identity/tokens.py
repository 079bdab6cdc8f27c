"""Signed tokens: JSON Web Tokens (RFC 7519), by default with Ed25519 (RFC 8037).

Claims: `iss` who issued it, `aud` the cell, `sub` whom it names, `iat`, `exp`, `jti` its own id;
the header's `kid` names the key. Signatures, times and audience are PyJWT's work.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from afs.errors import AfsCode, AfsError
from afs.identity.identity import Identity
from afs.identity.issuers import Issuer
from afs.identity.keys import key_id
from afs.identity.revocations import Revocations
from afs.limits import MAX_TOKEN_BYTES, MAX_TOKEN_LIFETIME_S, TOKEN_CLOCK_TOLERANCE_S

_OWN_ISSUER_PREFIX: Final = "afs://"
_REQUIRED: Final = ["iss", "aud", "sub", "iat", "exp"]


def own_issuer(cell: str) -> str:
    """The claim `iss` of the tokens that a cell issues itself."""
    return f"{_OWN_ISSUER_PREFIX}{cell}"


def issue_token(
    key: Ed25519PrivateKey, *, cell: str, name: str, now_s: float, lifetime_s: float
) -> str:
    """A token of the cell's own issuer.

    Args:
        key: signs it.
        cell: issuer and audience.
        name: whom it names.
        now_s: seconds since the Unix epoch.
        lifetime_s: how long it is good for.

    Raises:
        AfsError: EINVAL for a lifetime that no verifier accepts.
    """
    if not 0 < lifetime_s <= MAX_TOKEN_LIFETIME_S:
        raise AfsError(
            AfsCode.EINVAL,
            f"token lifetime {lifetime_s:g} s: expected 1 to {MAX_TOKEN_LIFETIME_S}",
        )
    claims = {
        "iss": own_issuer(cell),
        "aud": cell,
        "sub": name,
        "iat": int(now_s),
        "exp": int(now_s + lifetime_s),
        "jti": uuid.uuid4().hex,
    }
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": key_id(key.public_key())})


def unverified_claims(token: str) -> dict[str, Any]:
    """What a token says, believed or not: for showing its owner. EINVAL if it is none."""
    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except jwt.PyJWTError as error:
        raise AfsError(AfsCode.EINVAL, f"this is no token: {error}") from None
    return claims


def verify_token(token: str, issuers: Mapping[str, Issuer], revocations: Revocations) -> Identity:
    """What a token proves.

    Raises:
        AfsError: RXKADEXPIRED; RXKADUNKNOWNKEY for an issuer or a key that is not believed;
            RXKADBADTICKET for anything else that is wrong with it, in one line that says what.
    """
    if len(token) > MAX_TOKEN_BYTES:
        raise _bad(f"it has {len(token)} bytes: expected at most {MAX_TOKEN_BYTES}")
    try:
        kid = jwt.get_unverified_header(token).get("kid")
        claimed = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise _bad(str(error)) from None
    issuer = issuers.get(claimed) if isinstance(claimed, str) else None
    if issuer is None:
        raise AfsError(
            AfsCode.RXKADUNKNOWNKEY, f"the token's issuer {str(claimed)[:80]!r} is not known here"
        )
    key = issuer.keys.get(kid) if isinstance(kid, str) else None
    if key is None:
        raise AfsError(
            AfsCode.RXKADUNKNOWNKEY,
            f"the token's key {str(kid)[:80]!r} is none of {issuer.name}: log in again",
        )
    try:
        claims = jwt.decode(
            token,
            key.key,
            algorithms=issuer.algorithms,
            issuer=issuer.name,
            audience=issuer.audience,
            leeway=TOKEN_CLOCK_TOLERANCE_S,
            options={"require": _REQUIRED},
        )
    except jwt.ExpiredSignatureError:
        raise AfsError(AfsCode.RXKADEXPIRED, "the token has expired: log in again") from None
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
        raise _bad(str(error)) from None
    identity = _identity(issuer, claims)
    revocations.check(identity)
    return identity


def _identity(issuer: Issuer, claims: dict[str, Any]) -> Identity:
    issued_s, expires_s = float(claims["iat"]), float(claims["exp"])
    if not 0 < expires_s - issued_s <= MAX_TOKEN_LIFETIME_S:
        raise _bad(
            f"it is good for {expires_s - issued_s:g} s: expected at most {MAX_TOKEN_LIFETIME_S}"
        )
    token_id = claims.get("jti", "")
    if not isinstance(token_id, str) or (issuer.own and not token_id):
        raise _bad("its claim jti is no text")
    return Identity(issuer.name_of(claims), token_id, issued_s, expires_s, issuer.own)


def _bad(detail: str) -> AfsError:
    return AfsError(AfsCode.RXKADBADTICKET, f"the token is not valid: {' '.join(detail.split())}")
