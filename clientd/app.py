"""clientd as a whole: wiring only."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import structlog

from afs.limits import DRAIN_S
from afs.runtime.clock import Clock, SystemClock
from afs.runtime.files import write_durably
from afs.runtime.server import DaemonServer
from afs.v1 import cache_manager_pb2_grpc
from clientd.cache_manager import SERVICE_NAME, CacheManager
from clientd.config import ClientdConfig
from clientd.disk_cache import DiskCache
from clientd.fuse.mounts import Mounts
from clientd.journal import Journal
from clientd.outage import OutagePolicy
from clientd.services import Services

_log = structlog.get_logger(__name__)


class Clientd:
    """A running clientd. Made by `start`.

    Attributes:
        addresses: where CacheManager is served, with the real ports.
        services: the parts; for tests that look inside.
        mounts: whether it is mounted.
    """

    def __init__(
        self, server: DaemonServer, services: Services, mounts: Mounts, addresses: list[str]
    ) -> None:
        self._server = server
        self.services = services
        self.mounts = mounts
        self.addresses = addresses

    @classmethod
    async def start(cls, config: ClientdConfig, clock: Clock | None = None) -> Clientd:
        """Opens the cache and serves.

        Raises:
            AfsError: the cache directory or an address is taken, or the mount cannot be made.
            OSError: the cache directory cannot be used.
        """
        clock = clock or SystemClock()
        journal = Journal(clock)
        disk = await asyncio.to_thread(
            DiskCache.open, config.cache_dir, config.cache_limit_bytes, clock=clock, journal=journal
        )
        try:
            await disk.fit()
            host_uuid = await asyncio.to_thread(_host_uuid, config.cache_dir)
            services = Services.wire(
                host_uuid=host_uuid,
                location_address=config.location,
                outage=OutagePolicy(config.on_outage == "wait", config.outage_patience_s),
                disk=disk,
                clock=clock,
                journal=journal,
            )
        except BaseException:
            await disk.close()
            raise
        mounts = Mounts(services, allow_other=config.mount_allow_other)
        try:
            await services.open_files.start()
            server = DaemonServer()
            server.add(
                cache_manager_pb2_grpc.add_CacheManagerServicer_to_server,
                CacheManager(services, mounts),
                SERVICE_NAME,
            )
            addresses = await server.listen(config.listen)
            if config.mount is not None:
                await mounts.mount(config.mount)
            await server.start()
        except BaseException:
            await mounts.stop()
            await services.stop()
            raise
        _log.info("client.started", listen=addresses, host_uuid=host_uuid)
        return cls(server, services, mounts, addresses)

    async def stop(self) -> None:
        """Lets running calls finish, unmounts, gives promises back, completes the cache on disk."""
        await self._server.stop(DRAIN_S)
        await self.mounts.stop()
        await self.services.stop()


def _host_uuid(folder: Path) -> str:
    """The host's UUID, kept in the cache directory; a new one where there is none."""
    path = folder / "host_uuid"
    try:
        return str(uuid.UUID(path.read_text(encoding="ascii").strip()))
    except FileNotFoundError:
        pass
    except ValueError:
        # The fileserver knows the old one at most until its promises have run out.
        _log.warning("host_uuid.replaced", path=str(path))
    made = str(uuid.uuid4())
    try:
        write_durably(path, f"{made}\n".encode())
    except OSError as error:
        # A full disk: this host is another one after the next start, which costs nothing but that.
        _log.warning("host_uuid.not_kept", path=str(path), error=str(error))
    return made
