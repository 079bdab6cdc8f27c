"""`python -m clientd.fuse.guard PATH`: takes a mount away whose clientd has died.

A clientd that is killed cannot unmount, and what it leaves answers ENOTCONN to everybody. So it
keeps a guard beside it, which holds the other end of a pipe as its standard input, and tells it the
device of its mount. When the pipe closes, the guard looks whether that very mount is still at PATH,
and if so cuts it off; without asking it anything, since it may be that nobody ever answers. A
clientd that ends by itself unmounts first; then the guard finds nothing. Signals that a terminal or
a service manager sends to all of clientd's processes must not end the guard before clientd.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final

from clientd.fuse.mount_table import is_dead, mounted_at, unmount

_STANDARD_INPUT: Final = 0


def main() -> None:
    """Waits for the end of clientd, then looks after what it left."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    path = Path(sys.argv[1])
    told = b""
    while more := os.read(_STANDARD_INPUT, 4096):
        told += more
    mounted = mounted_at(path)
    if mounted is None:
        return
    # Without a device it died while it was mounting.
    if mounted.device == told.decode() if told else is_dead(path):
        unmount(path)


if __name__ == "__main__":
    main()
