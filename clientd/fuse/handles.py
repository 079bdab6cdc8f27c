"""What the kernel has open: numbers for files and directories."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from itertools import count
from typing import Generic, TypeVar

from afs.types import DirectoryEntry
from clientd.core.range_locks import LockOwner
from clientd.fuse.nodes import Node
from clientd.open_file import OpenFile


class FileHandle:
    """A file that is open; `lock_owners` are those who locked something through this handle."""

    __slots__ = ("file", "lock_owners", "node")

    def __init__(self, node: Node, file: OpenFile) -> None:
        self.node = node
        self.file = file
        self.lock_owners: set[LockOwner] = set()


class DirectoryHandle:
    """A directory that is being read; `entries` is what it had when that began."""

    __slots__ = ("entries", "node")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.entries: Sequence[DirectoryEntry] | None = None


H = TypeVar("H", FileHandle, DirectoryHandle)


class Handles(Generic[H]):
    """Handles by number; a number is never used twice."""

    def __init__(self) -> None:
        self._open: dict[int, H] = {}
        self._numbers = count(1)

    def add(self, handle: H) -> int:
        """The number of a new handle."""
        number = next(self._numbers)
        self._open[number] = handle
        return number

    def get(self, number: int) -> H:
        """The handle; EBADF if there is none of that number."""
        handle = self._open.get(number)
        if handle is None:
            raise OSError(errno.EBADF, f"no handle {number}")
        return handle

    def remove(self, number: int) -> H:
        """The handle, which has that number no more; EBADF if there is none."""
        handle = self.get(number)
        del self._open[number]
        return handle

    def numbers(self) -> list[int]:
        """Of all handles."""
        return list(self._open)
