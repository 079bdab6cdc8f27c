"""`clientd`: the caching client, as a program."""

from __future__ import annotations

import sys

from afs.runtime.config import load_config
from afs.runtime.daemon import run_daemon
from clientd.app import Clientd
from clientd.config import ClientdConfig


def main() -> None:
    """Runs clientd until SIGTERM or SIGINT; ends the process with its exit status."""
    config = load_config(
        ClientdConfig,
        sys.argv[1:],
        "clientd",
        "The caching client of laterfs: serves the cell's files to local programs.",
    )
    sys.exit(run_daemon("clientd", config, lambda: Clientd.start(config)))


if __name__ == "__main__":
    main()
