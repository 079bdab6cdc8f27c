"""The files by which a cell issues its own tokens, in one folder.

    signing.pem    the private key, for its owner alone
    cell.json      the public key, as a JWKS
    issuers.toml   who is believed: the cell itself; others can be added
    revoked        tokens that count no more

All but the first may be copied to every machine of the cell; the first to those of its servers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from afs.access.names import check_user_name
from afs.errors import AfsCode, AfsError
from afs.runtime.files import write_durably

# Of a cell's directory.
IDENTITY_FOLDER: Final = "identity"
DEFAULT_CELL_NAME: Final = "laterfs"
_KEYS: Final = "cell.json"


@dataclass(frozen=True, slots=True)
class CellFiles:
    """Where the files of a folder are."""

    folder: Path

    @property
    def signing_key(self) -> Path:
        """The private key."""
        return self.folder / "signing.pem"

    @property
    def issuers(self) -> Path:
        """Who is believed."""
        return self.folder / "issuers.toml"

    @property
    def revocations(self) -> Path:
        """Tokens that count no more."""
        return self.folder / "revoked"

    @property
    def cell_name(self) -> Path:
        """The cell's name, for commands that are run beside the folder."""
        return self.folder / "name"

    def make(self, cell: str) -> None:
        """Makes the files of a new cell; blocks on the disk.

        Raises:
            AfsError: EEXIST if there is a signing key, which is never replaced; EINVAL for a name
                that no cell can have.
            OSError: the folder cannot be written.
        """
        # Only here: the cryptography takes a tenth of a second to import.
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        from afs.identity.keys import jwks, save_signing_key

        check_user_name(cell)
        if self.signing_key.exists():
            raise AfsError(AfsCode.EEXIST, f"{self.signing_key} exists: the cell has its key")
        self.folder.mkdir(parents=True, exist_ok=True)
        key = Ed25519PrivateKey.generate()
        write_durably(self.folder / _KEYS, jwks(key.public_key()).encode())
        write_durably(self.issuers, _issuers(cell).encode())
        write_durably(self.revocations, b"# token ID, or: user NAME SECONDS\n")
        write_durably(self.cell_name, f"{cell}\n".encode())
        # Last: with it the cell is complete.
        save_signing_key(self.signing_key, key)

    def read_name(self) -> str:
        """The cell's name; AfsError ENOENT where no cell was made."""
        try:
            return self.cell_name.read_text(encoding="ascii").strip()
        except OSError as error:
            raise AfsError(
                AfsCode.ENOENT,
                f"{self.cell_name}: {error.strerror}: make a cell's keys with afsctl cell init",
            ) from None


def _issuers(cell: str) -> str:
    from afs.identity.tokens import own_issuer

    return f"""# Whose tokens are believed. Others beside the cell itself, with names or a suffix:
#
# [[issuer]]
# issuer = "https://login.example.com"
# keys = "login-example-com.json"       # its JWKS
# audience = "laterfs"                  # default: the cell's name
# name_claim = "email"
# names = {{ "alice@example.com" = "alice" }}
# suffix = "@login"
# algorithms = ["RS256"]

[[issuer]]
issuer = "{own_issuer(cell)}"
keys = "{_KEYS}"
own = true
"""
