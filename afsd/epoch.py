"""The epoch of a fileserver: which of its lives this is, larger than that of every earlier one."""

from __future__ import annotations

from pathlib import Path

import structlog

from afs.runtime.files import write_durably

_log = structlog.get_logger(__name__)

_NS_PER_MS = 1_000_000
_FILE = "epoch"


def next_epoch(run_dir: Path, wall_ns: int) -> int:
    """The epoch of the life that begins now; on disk when this returns. Blocks on the disk.

    It is the wall clock's milliseconds, or one more than the last one where the clock went back.
    Either of the two is enough: a lost file costs nothing while the clock is right.

    Args:
        run_dir: where the last epoch is kept.
        wall_ns: nanoseconds since the Unix epoch.
    """
    path = run_dir / _FILE
    epoch = max(last_epoch(run_dir) + 1, wall_ns // _NS_PER_MS)
    write_durably(path, f"{epoch}\n".encode())
    return epoch


def last_epoch(run_dir: Path) -> int:
    """The epoch of the last life that began; 0 if there was none, or nobody knows."""
    path = run_dir / _FILE
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except ValueError:
        _log.warning("epoch.set_aside", path=str(path), reason="the file holds no number")
        return 0
