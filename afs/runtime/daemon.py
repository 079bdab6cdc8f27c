"""Runs a daemon from first to last: event loop, signals, graceful stop, exit status."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import structlog
import uvloop

from afs.errors import AfsError
from afs.runtime.config import DaemonConfig
from afs.runtime.logs import configure_logging
from afs.runtime.malloc import tune_malloc
from afs.runtime.outgoing import show_tokens, token_source
from afs.runtime.tls import tls_files, use_tls

FAILURE_STATUS: Final = 1

_log = structlog.get_logger(__name__)


class Daemon(Protocol):
    """A running daemon."""

    async def stop(self) -> None:
        """Drains for at most DRAIN_S, makes all durable, lets go of sockets, files and locks."""
        ...


def run_daemon(prog: str, config: DaemonConfig, start: Callable[[], Awaitable[Daemon]]) -> int:
    """Runs a daemon until SIGTERM or SIGINT; a second one ends the process at once.

    Args:
        prog: the program's name, as it stands in messages.
        config: how to log.
        start: starts the daemon, and returns it when it serves.

    Returns:
        The exit status: 0 after a graceful stop; 1 after one line on standard error, if it could
        not start.
    """
    configure_logging(config.log_level, config.log_format)
    tune_malloc()
    try:
        use_tls(tls_files(config))
        show_tokens(token_source(config))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(prog, start))
    except AfsError as error:
        return _failed(prog, error.detail)
    except OSError as error:
        return _failed(prog, str(error))
    return 0


async def _run(prog: str, start: Callable[[], Awaitable[Daemon]]) -> None:
    """Starts, waits for a signal, stops."""
    loop = asyncio.get_running_loop()
    asked: asyncio.Future[str] = loop.create_future()

    def ask(number: signal.Signals) -> None:
        if asked.done():
            # What was acknowledged is on disk; whoever asks twice does not want to wait.
            os._exit(128 + number)
        asked.set_result(number.name)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask, number)
    starting: asyncio.Future[Daemon] = asyncio.ensure_future(start())
    # A signal during a slow start must not wait for it.
    either: list[asyncio.Future[Any]] = [starting, asked]
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        await asyncio.wait([starting])
        if starting.cancelled():
            return
    daemon = await starting
    _log.info("daemon.started", prog=prog, pid=os.getpid())
    reason = await asked
    _log.info("daemon.stop_began", prog=prog, reason=reason)
    await daemon.stop()
    _log.info("daemon.stopped", prog=prog)


def _failed(prog: str, message: str) -> int:
    """Says in one line why the daemon did not start."""
    print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
    return FAILURE_STATUS
