"""Becomes another program that the kernel kills when the process that asked for it ends.

Run as a file: `python -I -S orphan_guard.py OWNER_PID PROGRAM ARGUMENT…`. The request to the kernel
    outlives exec, so this
file costs one short start of the interpreter, and the owner never has to run code between fork and
exec (which is not safe beside gRPC's threads). The kernel's "parent" is the *thread* that started
us: see `spawn`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# Source: prctl(2), linux/prctl.h.
PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Asks to be killed with the owner, and becomes the program."""
    owner_pid, program = int(arguments[0]), arguments[1:]
    # SIGKILL, because a frozen program does not hear anything else; what it acknowledged is on
    # disk.
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl(PR_SET_PDEATHSIG): {os.strerror(ctypes.get_errno())}")
    # The owner may have ended before the kernel was asked.
    if os.getppid() != owner_pid:
        sys.exit("the process that asked for this one has ended")
    os.execv(program[0], program)  # noqa: S606 - an argument list, no shell


if __name__ == "__main__":
    main(sys.argv[1:])
