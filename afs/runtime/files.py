"""Writes that are on disk when they return."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def fsync_dir(path: Path) -> None:
    """Makes the names in a directory durable: what was created, renamed or removed in it before.

    Blocks on the disk.

    Raises:
        OSError: the directory cannot be opened or synced.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Replaces a file by one with these bytes, all or nothing, on disk when it returns.

    Blocks on the disk.
    After a crash at any moment `path` holds the old content or the new one; a file
    `.<name>.<random>.tmp` beside it may remain. `mode` is subject to the umask.

    Raises:
        OSError: the file cannot be written; `path` is as it was.
    """
    # The name is cut short, so that the temporary one never exceeds NAME_MAX where `path` does not.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)
