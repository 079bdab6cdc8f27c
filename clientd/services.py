"""The parts of the client that its servicers use, made once and wired together."""

from __future__ import annotations

from dataclasses import dataclass

from afs.runtime.clock import Clock
from clientd.ahead import Ahead
from clientd.changes import Changes
from clientd.core.cache import VnodeCache
from clientd.directories import Directories
from clientd.disk_cache import DiskCache
from clientd.file_data import FileData
from clientd.fileservers import FileServers
from clientd.journal import Journal
from clientd.kernel_door import KernelDoor
from clientd.locks import Locks
from clientd.open_files import OpenFiles
from clientd.outage import OutagePolicy
from clientd.path_walk import PathWalk
from clientd.resending import Resending
from clientd.statuses import Statuses
from clientd.vnode_changes import VnodeChanges
from clientd.volume_identity import VolumeIdentity
from clientd.volume_location import VolumeLocation
from clientd.volumes import Volumes
from clientd.writing import Writing


@dataclass(frozen=True, slots=True)
class Services:
    """Everything behind the servicers; made in the event loop."""

    host_uuid: str
    clock: Clock
    journal: Journal
    kernel: KernelDoor
    cache: VnodeCache
    disk: DiskCache
    location: VolumeLocation
    servers: FileServers
    volumes: Volumes
    statuses: Statuses
    directories: Directories
    ahead: Ahead
    data: FileData
    walk: PathWalk
    vnode_changes: VnodeChanges
    changes: Changes
    writing: Writing
    open_files: OpenFiles
    resending: Resending
    locks: Locks

    @classmethod
    def wire(
        cls,
        *,
        host_uuid: str,
        location_address: str,
        outage: OutagePolicy,
        disk: DiskCache,
        clock: Clock,
        journal: Journal,
    ) -> Services:
        """Makes all parts around a disk cache."""
        kernel = KernelDoor()
        cache = VnodeCache(onlooker=kernel)
        location = VolumeLocation(location_address, clock=clock, journal=journal)
        servers = FileServers(
            host_uuid=host_uuid,
            cache=cache,
            location=location,
            kernel=kernel,
            clock=clock,
            journal=journal,
        )
        statuses = Statuses(cache, servers, journal)
        directories = Directories(cache, servers, statuses, journal)
        identity = VolumeIdentity(cache, disk, journal)
        volumes = Volumes(
            cache=cache,
            location=location,
            servers=servers,
            identity=identity,
            outage=outage,
            clock=clock,
            journal=journal,
        )
        walk = PathWalk(cache, volumes, statuses, directories)
        vnode_changes = VnodeChanges(cache, disk, servers, journal)
        changes = Changes(vnode_changes, walk, directories)
        ahead = Ahead(cache, disk, journal)
        data = FileData(disk, statuses, ahead, journal)
        open_files = OpenFiles(
            cache=cache,
            disk=disk,
            volumes=volumes,
            servers=servers,
            statuses=statuses,
            data=data,
            onlooker=kernel,
            clock=clock,
            journal=journal,
        )
        return cls(
            host_uuid=host_uuid,
            clock=clock,
            journal=journal,
            kernel=kernel,
            cache=cache,
            disk=disk,
            location=location,
            servers=servers,
            volumes=volumes,
            statuses=statuses,
            directories=directories,
            ahead=ahead,
            data=data,
            walk=walk,
            vnode_changes=vnode_changes,
            changes=changes,
            writing=Writing(cache, disk, walk, statuses, servers, vnode_changes, journal),
            open_files=open_files,
            resending=Resending(open_files, volumes, clock),
            locks=Locks(cache, clock, journal),
        )

    async def stop(self) -> None:
        """Stops everything, in the order of use; the cache is complete on disk afterwards."""
        await self.resending.stop()
        await self.open_files.stop()
        await self.locks.stop()
        await self.vnode_changes.stop()
        await self.data.stop()
        await self.servers.stop()
        await self.location.close()
        self.journal.hub.close()
        await self.disk.close()
