"""afsd with a heartbeat in its event loop: `python -m bench.heartbeat_afsd FILE [afsd's flags]`.

A task sleeps for 1 ms again and again and notes by how much each sleep was longer. On SIGUSR1 what
it noted since the
last time is written to FILE as JSON: p50, p99, max in ms.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Final

from afs.runtime.config import load_config
from afs.runtime.daemon import run_daemon
from afsd.app import FileServerDaemon
from afsd.config import AfsdConfig

_BEAT_S: Final = 0.001


class Heartbeat:
    """Notes how late the loop is."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._late_ms: list[float] = []

    async def beat(self) -> None:
        """Runs for ever."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, self._write)
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_BEAT_S)
            self._late_ms.append((time.perf_counter() - began - _BEAT_S) * 1e3)

    def _write(self) -> None:
        late = sorted(self._late_ms) or [0.0]
        self._late_ms = []
        figures = {
            "p50": late[len(late) // 2],
            "p99": late[len(late) * 99 // 100],
            "max": late[-1],
            "beats": len(late),
        }
        # Renamed into place: whoever waits for the file finds it whole.
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(figures))
        temporary.rename(self._path)


def main() -> int:
    """afsd, with a heartbeat."""
    heartbeat = Heartbeat(Path(sys.argv[1]))
    config = load_config(AfsdConfig, sys.argv[2:], "afsd", "The fileserver, with a heartbeat.")
    beating: list[asyncio.Task[None]] = []

    async def start() -> FileServerDaemon:
        beating.append(asyncio.create_task(heartbeat.beat()))
        return await FileServerDaemon.start(config)

    return run_daemon("afsd", config, start)


if __name__ == "__main__":
    sys.exit(main())
