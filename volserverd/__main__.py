"""`volserverd`: the volume server."""

from __future__ import annotations

import sys

from afs.runtime.config import load_config
from afs.runtime.daemon import run_daemon
from volserverd.app import VolserverDaemon
from volserverd.config import VolserverdConfig

PROG = "volserverd"


def main() -> int:
    """Runs the daemon; its exit status."""
    config = load_config(
        VolserverdConfig,
        sys.argv[1:],
        PROG,
        "The volume server: works on whole volumes, and knows where volumes are.",
    )
    return run_daemon(PROG, config, lambda: VolserverDaemon.start(config))


if __name__ == "__main__":
    sys.exit(main())
