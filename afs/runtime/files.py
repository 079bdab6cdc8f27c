"""Writes that are on disk when they return."""

from __future__ import annotations

import ctypes
import os
import secrets
from pathlib import Path
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
# Source: Linux fcntl.h.
_SYNC_FILE_RANGE_WRITE: Final = 2


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


class FileSystemSync:
    """Makes everything on a file system durable in one go: cheaper than many fsyncs.

    Made before the writes that it is for, so that it hears of every write that failed since then
    (Linux 5.8 and newer). What other processes wrote is synced along.

    Raises:
        OSError: the directory cannot be opened.
    """

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def sync(self) -> None:
        """Returns when all is on disk; OSError if something could not be written."""
        if _libc.syncfs(self._descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Lets go of the directory."""
        os.close(self._descriptor)


def start_writeback(descriptor: int) -> None:
    """Has the kernel begin to write a file out, so that a later sync finds little left to do.

    A hint: where it is not possible nothing happens.
    """
    _libc.sync_file_range(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


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
