"""Whether this client is mounted: one mount at most, made and taken away on request."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from afs.errors import AfsCode, AfsError
from clientd.fuse.mount import Mount
from clientd.services import Services

_log = structlog.get_logger(__name__)


class Mounts:
    """Holds the mount, if there is one.

    Args:
        services: the client's parts.
        allow_other: whether other users than ours may use a mount.
    """

    def __init__(self, services: Services, *, allow_other: bool) -> None:
        self._services = services
        self._allow_other = allow_other
        self._mount: Mount | None = None
        self._changing = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    @property
    def current(self) -> Mount | None:
        """The mount; None if there is none."""
        return self._mount

    @property
    def path(self) -> str:
        """Where it is; "" if there is none."""
        return str(self._mount.path) if self._mount is not None else ""

    async def mount(self, path: Path) -> None:
        """Mounts the cell's root.

        Raises:
            AfsError: VBUSY if there is a mount already; else as `Mount.start`.
        """
        async with self._changing:
            if self._mount is not None:
                raise AfsError(AfsCode.VBUSY, f"already mounted at {self.path}")
            self._mount = await Mount.start(self._services, path, allow_other=self._allow_other)
            self._watching = asyncio.create_task(self._watch(self._mount))

    async def unmount(self) -> None:
        """Stores what is dirty and unmounts.

        Raises:
            AfsError: EINVAL if there is no mount.
        """
        async with self._changing:
            if self._mount is None:
                raise AfsError(AfsCode.EINVAL, "there is no mount")
            await self._stop()

    async def stop(self) -> None:
        """Unmounts, if there is a mount."""
        async with self._changing:
            await self._stop()

    async def _stop(self) -> None:
        mount, self._mount = self._mount, None
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        if mount is not None:
            await mount.stop()

    async def _watch(self, mount: Mount) -> None:
        """Lets go of a mount that somebody else unmounted."""
        await mount.ended.wait()
        _log.info("mount.ended", path=str(mount.path))
        async with self._changing:
            self._mount = None
            await mount.stop()
