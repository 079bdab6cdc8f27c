"""Starts daemon processes by exec, in a session of their own, with their output in a log file."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Final

from afsctl import orphan_guard


def spawn(
    argv: Sequence[str], *, log: Path, environment: Mapping[str, str], dies_with_owner: bool
) -> subprocess.Popen[bytes]:
    """Starts a process; standard output and error are appended to `log`.

    Args:
        argv: absolute path of the program, and its arguments.
        log: made if it is not there.
        environment: the whole of it.
        dies_with_owner: the kernel kills it when this process ends, however this process ends.

    Raises:
        OSError: the program or the log cannot be opened.
    """
    if not dies_with_owner:
        return _start(argv, log, environment)
    guard = [sys.executable, "-I", "-S", orphan_guard.__file__, str(os.getpid())]
    return _long_lived_thread().run([*guard, *argv], log, environment)


def _start(
    argv: Sequence[str], log: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            # A Ctrl-C at the terminal is for the owner alone, who then stops the daemons in order.
            start_new_session=True,
        )
    _started.append(child)
    return child


# Keeps what was started: a Popen that is forgotten while its process runs takes that for a mistake,
# but the daemons of a background cell are meant to run on.
_started: Final[list[subprocess.Popen[bytes]]] = []


class _LongLivedThread:
    """One thread that starts processes and ends only with this process.

    The kernel kills a guarded process when the *thread* that started it ends. A caller may well be
    a worker thread that ends soon; this one does not.
    """

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[
            tuple[Future[subprocess.Popen[bytes]], Sequence[str], Path, Mapping[str, str]]
        ] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="spawn", daemon=True).start()

    def run(
        self, argv: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        answer: Future[subprocess.Popen[bytes]] = Future()
        self._requests.put((answer, argv, log, environment))
        return answer.result()

    def _serve(self) -> None:
        while True:
            answer, argv, log, environment = self._requests.get()
            try:
                answer.set_result(_start(argv, log, environment))
            except OSError as error:
                answer.set_exception(error)


@cache
def _long_lived_thread() -> _LongLivedThread:
    return _LongLivedThread()
