"""Who a volserver is towards a location database that several may share: a token on its disk.

Neither its address nor its host's name will do: both may be others after a restart, and its run
directory may be called the same on another machine.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Final

from afs.runtime.files import write_durably

_FILE: Final = "volserverd.id"
_TOKEN_BYTES: Final = 8


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
