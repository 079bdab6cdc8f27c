"""`afsd`, the fileserver."""

from __future__ import annotations

import sys

from afs.runtime.config import load_config
from afs.runtime.daemon import run_daemon
from afsd.app import FileServerDaemon
from afsd.config import AfsdConfig


def main() -> int:
    """Runs the fileserver until SIGTERM; the exit status."""
    config = load_config(
        AfsdConfig,
        sys.argv[1:],
        "afsd",
        "The fileserver: serves files, and calls clients back when what they cached changes.",
    )
    return run_daemon("afsd", config, lambda: FileServerDaemon.start(config))


if __name__ == "__main__":
    sys.exit(main())
