"""The volumes the client deals with, each with its calls, made when first needed."""

from __future__ import annotations

from afs.mount_points import MountPoint
from afs.runtime.clock import Clock
from afs.types import VolumeType
from clientd.core.cache import VnodeCache
from clientd.fileservers import FileServers
from clientd.journal import Journal
from clientd.outage import OutagePolicy
from clientd.volume_calls import VolumeCalls
from clientd.volume_identity import VolumeIdentity
from clientd.volume_location import Located, VolumeLocation


class Volumes:
    """Volumes by name, by mount point, and the one whose root directory is "/".

    Args:
        cache: takes in statuses and promises.
        location: finds volumes.
        servers: fileservers by address.
        identity: tells volumes from others of the same id.
        outage: how long to wait for a fileserver that is away.
        clock: steady time.
        journal: counts and tells.
    """

    def __init__(
        self,
        *,
        cache: VnodeCache,
        location: VolumeLocation,
        servers: FileServers,
        identity: VolumeIdentity,
        outage: OutagePolicy,
        clock: Clock,
        journal: Journal,
    ) -> None:
        self._cache = cache
        self._location = location
        self._servers = servers
        self._identity = identity
        self._outage = outage
        self._clock = clock
        self._journal = journal
        self._volumes: dict[int, VolumeCalls] = {}

    async def named(self, name: str) -> VolumeCalls:
        """The volume of a name or number.

        Raises:
            AfsError: as `VolumeLocation.find`.
        """
        return self._of(await self._location.find(name))

    async def mounted(self, mount: MountPoint, within: VolumeType) -> VolumeCalls:
        """The volume that a mount point in a volume of this type leads to.

        Raises:
            AfsError: as `VolumeLocation.find`.
        """
        return self._of(await self._location.find_mounted(mount, within))

    async def root(self, *, fresh: bool = False) -> VolumeCalls | None:
        """The volume whose root directory is "/"; None if the cell has no `root.cell`.

        Raises:
            AfsError: as `VolumeLocation.find_root`.
        """
        located = await self._location.find_root(fresh=fresh)
        return self._of(located) if located is not None else None

    def known(self, volume_id: int) -> VolumeCalls | None:
        """The volume of a number, if it has been dealt with."""
        return self._volumes.get(volume_id)

    def _of(self, located: Located) -> VolumeCalls:
        volume = self._volumes.get(located.volume_id)
        if volume is None:
            volume = self._volumes[located.volume_id] = VolumeCalls(
                located,
                cache=self._cache,
                location=self._location,
                servers=self._servers,
                identity=self._identity,
                outage=self._outage,
                clock=self._clock,
                journal=self._journal,
            )
        else:
            volume.note(located)
        return volume
