"""Runs afsctl on a pseudo-terminal, as a person sees it."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Sequence
from dataclasses import dataclass

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


@dataclass(frozen=True, slots=True)
class Screen:
    """What a command wrote to a terminal.

    `raw` is all of it; `lines` are the lines without colours, as they stood when the command ended.
    """

    status: int
    raw: str
    lines: list[str]


def run_on_terminal(arguments: Sequence[str], columns: int = 80) -> Screen:
    """Runs afsctl as a process of its own on a terminal of that many columns."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    with subprocess.Popen(
        [sys.executable, "-m", "afsctl", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        raw = _read_all(ours)
    os.close(ours)
    text = _CONTROL.sub("", raw).replace("\r\n", "\n")
    # A progress bar is redrawn after a carriage return; what counts is the last state of a line.
    lines = [line.rpartition("\r")[2] for line in text.splitlines()]
    return Screen(process.returncode, raw, lines)


def _read_all(descriptor: int) -> str:
    pieces = []
    while True:
        try:
            piece = os.read(descriptor, 65536)
        except OSError:
            # The kernel says EIO when the other end of a terminal is closed.
            break
        if not piece:
            break
        pieces.append(piece)
    return b"".join(pieces).decode()
