"""`python -m afsctl`, and the script `afsctl`."""

from __future__ import annotations

import os

# gRPC's own log lines on standard error are not for people; an error of a call is told by the
# command. It reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from afsctl.app import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
