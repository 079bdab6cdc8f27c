"""CacheManager: Flush, FlushVolume, FlushAll, CheckVolumes, Mount and Unmount."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from afs.errors import AfsCode, AfsError
from afs.types import Fid
from afs.v1 import cache_manager_pb2 as pb
from clientd.fuse.mounts import Mounts
from clientd.path_walk import CellRoot, Last, Place
from clientd.services import Services


class AdminMethods:
    """What people do to the cache."""

    _services: Services
    _mounts: Mounts

    async def Flush(self, request: pb.FlushRequest, context: Any) -> pb.FlushResponse:  # noqa: ARG002
        """Forgets one vnode: its status and data, or names; says how many vnodes that were."""
        place = await self._place_of(request.path)
        return pb.FlushResponse(flushed=await self._flush(lambda fid: fid == place.fid))

    async def FlushVolume(
        self,
        request: pb.FlushVolumeRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.FlushVolumeResponse:
        """Forgets all of a volume: statuses, data, where it is; says how many vnodes that were."""
        location = self._services.location
        if request.volume:
            volume_id = (await location.find(request.volume)).volume_id
        else:
            volume_id = (await self._place_of(request.path)).volume.volume_id
        location.forget(volume_id)
        flushed = await self._flush(lambda fid: fid.volume == volume_id)
        return pb.FlushVolumeResponse(flushed=flushed)

    async def _place_of(self, path: str) -> Place:
        """What a path leads to; for a symbolic link that is its last name, the link."""
        walk = self._services.walk
        place = await walk.attempt(lambda: walk.find(path, last=Last.CROSS))
        if isinstance(place, CellRoot):
            raise AfsError(AfsCode.EINVAL, f"{path} is in no volume: the cell has no root.cell")
        return place

    async def FlushAll(self, request: pb.FlushAllRequest, context: Any) -> pb.FlushAllResponse:  # noqa: ARG002
        """Forgets everything; says how many vnodes that were."""
        self._services.location.forget_all()
        return pb.FlushAllResponse(flushed=await self._flush(lambda _fid: True))

    async def CheckVolumes(
        self,
        request: pb.CheckVolumesRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> pb.CheckVolumesResponse:
        """Looks up anew where volumes are when they are next needed."""
        self._services.location.forget_all()
        return pb.CheckVolumesResponse()

    async def _flush(self, concerned: Callable[[Fid], bool]) -> int:
        """Forgets the vnodes that are concerned; answers how many were known."""
        services = self._services
        await services.disk.settle()
        known = {entry.fid for entry in services.cache.entries() if concerned(entry.fid)}
        stored = {fid for fid in services.disk.fids() if concerned(fid)}
        for fid in known:
            services.cache.forget(fid)
        await services.disk.forget(known | stored)
        return len(known | stored)

    async def Mount(self, request: pb.MountRequest, context: Any) -> pb.MountResponse:  # noqa: ARG002
        """Mounts the cell's root at an empty directory of this machine."""
        if not request.mount_point.startswith("/"):
            raise AfsError(
                AfsCode.EINVAL, f"mount_point {request.mount_point!r}: expected an absolute path"
            )
        await self._mounts.mount(Path(request.mount_point))
        return pb.MountResponse()

    async def Unmount(self, request: pb.UnmountRequest, context: Any) -> pb.UnmountResponse:  # noqa: ARG002
        """Stores what is dirty and unmounts; programs that still use the mount get errors."""
        await self._mounts.unmount()
        return pb.UnmountResponse()
