"""CacheManager: FlushVolume, FlushAll, Mount and Unmount."""

from __future__ import annotations

from typing import Any

from afs.errors import AfsCode, AfsError
from afs.types import Fid
from afs.v1 import cache_manager_pb2 as pb
from clientd.services import Services


class AdminMethods:
    """What people do to the cache."""

    _services: Services

    async def FlushVolume(
        self,
        request: pb.FlushVolumeRequest,
        context: Any,  # noqa: ARG002
    ) -> pb.FlushVolumeResponse:
        """Forgets all of a volume, statuses and data; says how many vnodes that were."""
        site = await self._services.location.find(request.volume)
        return pb.FlushVolumeResponse(flushed=await self._flush(site.volume_id))

    async def FlushAll(self, request: pb.FlushAllRequest, context: Any) -> pb.FlushAllResponse:  # noqa: ARG002
        """Forgets everything; says how many vnodes that were."""
        return pb.FlushAllResponse(flushed=await self._flush(None))

    async def _flush(self, volume: int | None) -> int:
        services = self._services

        def concerned(fid: Fid) -> bool:
            return volume is None or fid.volume == volume

        await services.disk.settle()
        known = {entry.fid for entry in services.cache.entries() if concerned(entry.fid)}
        stored = {fid for fid in services.disk.fids() if concerned(fid)}
        for fid in known:
            services.cache.forget(fid)
        await services.disk.forget(stored)
        return len(known | stored)

    async def Mount(self, request: pb.MountRequest, context: Any) -> pb.MountResponse:  # noqa: ARG002
        """Not yet there: UNIMPLEMENTED."""
        raise _no_mount()

    async def Unmount(self, request: pb.UnmountRequest, context: Any) -> pb.UnmountResponse:  # noqa: ARG002
        """Not yet there: UNIMPLEMENTED."""
        raise _no_mount()


def _no_mount() -> AfsError:
    return AfsError(
        AfsCode.RXGEN_OPCODE, "this clientd cannot mount: use Read, Write and their kin"
    )
