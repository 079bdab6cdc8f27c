"""Copies a volume's database for a clone, or for something that is to be laid over it."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from afs.limits import MIB
from afs.runtime.files import start_writeback
from afs.volume import sqlite_schema

# Copied at a time; then the kernel begins to write it out, while the next part is copied.
_SLICE_BYTES: Final = 8 * MIB
# What a file system answers that cannot copy within the kernel.
_UNSUPPORTED: Final = frozenset({errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP})


def copy_file(source: int, target: Path) -> None:
    """Copies an open file, which does not change meanwhile, to a new one; not synced.

    Raises:
        OSError: the disk is full, or fails.
    """
    to = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(source).st_size
        done = 0
        while done < size:
            done += _copy_slice(source, to, done, min(_SLICE_BYTES, size - done))
            start_writeback(to)
    finally:
        os.close(to)


def copy_moment(source: sqlite3.Connection, target: Path) -> None:
    """Copies a database as a connection sees it to a new file; not synced.

    Slower than `copy_file`, for a database that has changes in its WAL or is in use elsewhere.
    """
    target.touch(mode=0o600, exist_ok=False)
    with contextlib.closing(sqlite_schema.open_draft(target)) as connection:
        source.backup(connection)


def _copy_slice(source: int, to: int, offset: int, size: int) -> int:
    try:
        return os.copy_file_range(source, to, size, offset, offset)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    return os.pwrite(to, os.pread(source, size, offset), offset)
