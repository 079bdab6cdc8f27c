"""Between the cache and the mount, which comes and goes: what is stale in the kernel's caches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from afs.types import Fid
from clientd.core.onlooker import Onlooker


class Kernel(Protocol):
    """What a mount does about what the kernel has cached."""

    def stale(self, fid: Fid) -> None: ...

    def changed(self, fid: Fid) -> None: ...

    def names_changed(self, directory: Fid, names: Iterable[str]) -> None: ...

    def all_stale(self) -> None: ...

    def settle(self) -> asyncio.Future[None] | None:
        """Tells the kernel what is stale; None if it knows, else done when it does."""
        ...


class KernelDoor(Onlooker):
    """Hands on what the cache tells to the mount, if there is one."""

    def __init__(self) -> None:
        self._kernel: Kernel | None = None

    def open(self, kernel: Kernel) -> None:
        """There is a mount."""
        assert self._kernel is None
        self._kernel = kernel

    def close(self) -> None:
        """The mount is gone."""
        self._kernel = None

    def stale(self, fid: Fid) -> None:
        if self._kernel is not None:
            self._kernel.stale(fid)

    def changed(self, fid: Fid) -> None:
        if self._kernel is not None:
            self._kernel.changed(fid)

    def names_changed(self, directory: Fid, names: Iterable[str]) -> None:
        if self._kernel is not None:
            self._kernel.names_changed(directory, names)

    def all_stale(self) -> None:
        if self._kernel is not None:
            self._kernel.all_stale()

    def settle(self) -> asyncio.Future[None] | None:
        """What was told so far: None if the kernel knows, else done when it does.

        A break is acknowledged after that, so that no program here sees what was broken.
        """
        return self._kernel.settle() if self._kernel is not None else None
