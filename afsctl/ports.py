"""Free TCP ports on loopback for a cell that must not meet another one."""

from __future__ import annotations

import random
import socket
from typing import Final

# Below the range the kernel takes ports of outgoing connections from (32768 up), so that a daemon
# that was killed finds its port free when it is started again; above what well-known services use.
FIRST_PORT: Final = 12000
LAST_PORT: Final = 32000
ATTEMPTS: Final = 1000


def free_ports(count: int) -> list[int]:
    """That many different ports nobody listens on, at the moment of the answer.

    Raises:
        OSError: none was found in ATTEMPTS attempts.
    """
    found: list[int] = []
    for _ in range(ATTEMPTS):
        if len(found) == count:
            return found
        port = random.randint(FIRST_PORT, LAST_PORT)  # noqa: S311 - spreads cells, hides nothing
        if port not in found and _is_free(port):
            found.append(port)
    raise OSError(
        f"found only {len(found)} of {count} free ports between {FIRST_PORT} and {LAST_PORT}"
    )


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as candidate:
        try:
            candidate.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
