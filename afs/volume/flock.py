"""A lock held by an open file: the kernel lets go of it when its process ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from afs.volume.chunk_store import disk_error


class FileLock:
    """An exclusive flock, held from `take` to `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> FileLock | None:
        """The lock, without waiting.

        None if somebody has it, another opening by this very process included.
        """
        while True:
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise disk_error(error, f"the lock {path.name} cannot be opened") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The file may have been removed between opening and locking; then the lock locks
                # nothing.
                if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
                    return cls(path, descriptor)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except FileNotFoundError:
                pass
            os.close(descriptor)

    def release(self, *, remove: bool = False) -> None:
        """Lets go of the lock, and removes its file if told so; a no-op when released."""
        if self._descriptor < 0:
            return
        if remove:
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)
        self._descriptor = -1
