"""Ed25519 keys that sign tokens, and the public halves as a JWKS (RFC 7517, RFC 8037)."""

from __future__ import annotations

import base64
import hashlib
import json
import stat
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from afs.errors import AfsCode, AfsError
from afs.runtime.files import write_durably

PRIVATE_MODE: Final = 0o600


def save_signing_key(path: Path, key: Ed25519PrivateKey) -> None:
    """Writes a private key, readable by its owner alone, durably."""
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    write_durably(path, pem, PRIVATE_MODE)


def load_signing_key(path: Path) -> Ed25519PrivateKey:
    """A private key from its file.

    Raises:
        AfsError: EACCES for one that others than its owner can read; EINVAL for a file that holds
            no Ed25519 key; VIO for one that cannot be read.
    """
    try:
        check_private(path)
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise AfsError(AfsCode.VIO, f"signing key {path}: {error.strerror}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise AfsError(AfsCode.EINVAL, f"{path} holds no Ed25519 key: expected PEM (PKCS 8)")
    return key


def check_private(path: Path) -> None:
    """EACCES for a file that others than its owner can read; OSError if it is not there."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise AfsError(
            AfsCode.EACCES,
            f"{path} has mode {mode:04o}: expected {PRIVATE_MODE:04o}, for its owner alone",
        )


def key_id(key: Ed25519PublicKey) -> str:
    """The name of a key: its thumbprint (RFC 7638)."""
    required = json.dumps(_required(key), separators=(",", ":"), sort_keys=True)
    return _base64(hashlib.sha256(required.encode()).digest())


def jwks(*keys: Ed25519PublicKey) -> str:
    """The key set that verifiers read, as JSON."""
    described = [
        {**_required(key), "kid": key_id(key), "alg": "EdDSA", "use": "sig"} for key in keys
    ]
    return json.dumps({"keys": described}, indent=2) + "\n"


def _required(key: Ed25519PublicKey) -> dict[str, Any]:
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return {"crv": "Ed25519", "kty": "OKP", "x": _base64(raw)}


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
