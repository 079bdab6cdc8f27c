"""Who a volserver is towards a location database that several may share: a token on its disk.

Neither its address nor its host's name will do: both may be others after a restart, and its run
directory may be called the same on another machine. Beside the token it keeps the addresses under
which the location database may tell of its volumes, to recognise them by after such a change.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from afs.runtime.files import write_durably

_FILE: Final = "volserverd.id"
_TOKEN_BYTES: Final = 8
_ADDRESSES_FILE: Final = "volserverd.addresses"


def read_identity(partition: Path) -> str:
    """The token of the volserver that holds this partition; made if there is none. Blocks.

    Raises:
        OSError: it can be neither read nor made.
    """
    path = partition / _FILE
    try:
        token = path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        token = ""
    if len(token) != 2 * _TOKEN_BYTES or not token.isalnum():
        token = secrets.token_hex(_TOKEN_BYTES)
        write_durably(path, f"{token}\n".encode())
    return token


def read_addresses(partition: Path) -> frozenset[str] | None:
    """The addresses that entries of ours may have; None if that was never noted. Blocks.

    Raises:
        OSError: they cannot be read.
    """
    try:
        text = (partition / _ADDRESSES_FILE).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    return frozenset(text.split())


def write_addresses(partition: Path, addresses: frozenset[str]) -> None:
    """Notes them, durably. Blocks.

    Raises:
        OSError: they cannot be written.
    """
    text = "".join(f"{address}\n" for address in sorted(addresses))
    write_durably(partition / _ADDRESSES_FILE, text.encode())
