"""Whose tokens are believed: a TOML file that names issuers, their keys, and how names are made.

    [[issuer]]
    issuer = "afs://example.org"      # the claim `iss`
    keys = "cell-keys.json"           # JWKS; a relative path counts from this file
    own = true                        # the cell's own issuer: its `sub` is the name

    [[issuer]]
    issuer = "https://login.example.com"
    keys = "login-example-com.json"
    audience = "laterfs-example"      # the claim `aud`; default: the cell's name
    name_claim = "email"              # default: sub
    names = { "alice@example.com" = "alice" }
    suffix = "@login"                 # for whom `names` does not have: alice@example.com@login

An outside issuer must have `names` or a `suffix`: it could else give its users the names of ours.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import jwt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from afs.access.caller import DAEMON_NAME
from afs.access.names import check_user_name
from afs.errors import AfsCode, AfsError

# Signatures of private keys only: a secret that verifier and issuer share could be used by either.
Algorithm = Literal["EdDSA", "ES256", "ES384", "RS256", "PS256"]
_STRICT: Final = ConfigDict(extra="forbid", frozen=True)


class _IssuerRecord(BaseModel):
    """One `[[issuer]]` of the file."""

    model_config = _STRICT

    issuer: str = Field(min_length=1)
    keys: Path
    own: bool = False
    audience: str | None = Field(None, min_length=1)
    name_claim: str = Field("sub", min_length=1)
    names: dict[str, str] = {}
    suffix: str = ""
    algorithms: list[Algorithm] = Field(["EdDSA"], min_length=1)


class _IssuersFile(BaseModel):
    model_config = _STRICT

    issuer: list[_IssuerRecord] = Field(min_length=1)


@dataclass(frozen=True)
class Issuer:
    """An issuer that is believed.

    Attributes:
        name: the claim `iss`.
        audience: the claim `aud`.
        own: it is the cell's own.
        algorithms: of signatures that are accepted.
        keys: by key id.
    """

    name: str
    audience: str
    own: bool
    algorithms: tuple[str, ...]
    keys: dict[str, jwt.PyJWK]
    name_claim: str = "sub"
    names: dict[str, str] = field(default_factory=dict)
    suffix: str = ""

    def name_of(self, claims: dict[str, Any]) -> str:
        """The user's name in this cell; RXKADBADTICKET if the token gives none."""
        claimed = claims.get(self.name_claim)
        if not isinstance(claimed, str) or not claimed:
            raise _no_name(f"the token of {self.name} has no text in its claim {self.name_claim!r}")
        name = self.names.get(claimed)
        if name is None:
            if not (self.own or self.suffix):
                raise _no_name(f"{claimed[:80]!r} of {self.name} is nobody in this cell")
            name = claimed + self.suffix
        try:
            check_user_name(name)
        except AfsError as error:
            raise _no_name(f"the token of {self.name}: {error.detail}") from None
        if name == DAEMON_NAME and not self.own:
            raise _no_name(f"{self.name} cannot name the cell's daemons")
        return name


def load_issuers(path: Path, cell: str) -> dict[str, Issuer]:
    """The issuers of a file, by name; blocks on the disk.

    Args:
        path: the TOML file.
        cell: name of the cell: the audience of an issuer that names none.

    Raises:
        AfsError: EINVAL in one line for what cannot be used; VIO for what cannot be read.
    """
    try:
        found = _IssuersFile.model_validate(tomllib.loads(_read(path)))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AfsError(AfsCode.EINVAL, f"issuers {path}: {error}: expected TOML") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise AfsError(AfsCode.EINVAL, f"issuers {path}: {place}: {first['msg']}") from None
    issuers: dict[str, Issuer] = {}
    for record in found.issuer:
        if record.issuer in issuers:
            raise AfsError(AfsCode.EINVAL, f"issuers {path}: {record.issuer} comes twice")
        if not (record.own or record.names or record.suffix):
            raise AfsError(
                AfsCode.EINVAL,
                f"issuers {path}: {record.issuer} has neither own, names nor suffix:"
                " its users would have the names of ours",
            )
        issuers[record.issuer] = Issuer(
            record.issuer,
            record.audience or cell,
            record.own,
            tuple(record.algorithms),
            _load_keys(path.parent / record.keys),
            record.name_claim,
            record.names,
            record.suffix,
        )
    return issuers


def _load_keys(path: Path) -> dict[str, jwt.PyJWK]:
    try:
        keys = jwt.PyJWKSet.from_json(_read(path)).keys
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
        raise AfsError(AfsCode.EINVAL, f"keys {path}: {error}: expected a JWKS") from None
    by_id = {key.key_id: key for key in keys if key.key_id}
    if len(by_id) != len(keys):
        raise AfsError(AfsCode.EINVAL, f"keys {path}: expected each to have a `kid` of its own")
    return by_id


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise AfsError(AfsCode.VIO, f"{path}: {error.strerror}") from None


def _no_name(detail: str) -> AfsError:
    return AfsError(AfsCode.RXKADBADTICKET, detail)
