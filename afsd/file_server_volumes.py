"""FileServer: the status of volumes, and of the server itself."""

from __future__ import annotations

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_OFFLINE_MESSAGE_BYTES, MAX_QUOTA_KIB
from afs.runtime.interceptors import Context
from afs.v1 import file_server_pb2 as pb
from afs.v1 import types_pb2
from afs.volume.volume import SetVolumeFields
from afsd.core.volume_rules import VolumeState
from afsd.file_server_base import FileServerBase
from afsd.volume_entries import VolumeEntry


class VolumeMethods(FileServerBase):
    """GetVolumeStatus, SetVolumeStatus, GetTime, GetCapabilities."""

    async def GetVolumeStatus(
        self,
        request: pb.GetVolumeStatusRequest,
        _context: Context,
    ) -> pb.GetVolumeStatusResponse:
        """What a volume says of itself; one that is not online is told as last seen.

        Raises:
            AfsError: VNOVOL; VMOVED; VSALVAGE for one that was never seen because it is damaged.
        """
        return pb.GetVolumeStatusResponse(
            status=await self._volume_status(_check_id(request.volume))
        )

    async def SetVolumeStatus(
        self,
        request: pb.SetVolumeStatusRequest,
        _context: Context,
    ) -> pb.SetVolumeStatusResponse:
        """Sets the quota and the message shown while a volume is off-line; absent fields stay."""
        volume_id = _check_id(request.volume)
        quota = request.max_quota_kib if request.HasField("max_quota_kib") else None
        message = request.offline_message if request.HasField("offline_message") else None
        if quota is not None and quota > MAX_QUOTA_KIB:
            raise AfsError(
                AfsCode.EINVAL, f"max_quota_kib {quota} is too large: expected 0 to {MAX_QUOTA_KIB}"
            )
        if message is not None and len(message.encode()) > MAX_OFFLINE_MESSAGE_BYTES:
            raise AfsError(
                AfsCode.EINVAL, f"offline_message is longer than {MAX_OFFLINE_MESSAGE_BYTES} bytes"
            )
        attached = self._volumes.use(volume_id)
        await self._change(attached, SetVolumeFields(max_quota_kib=quota, offline_message=message))
        return pb.SetVolumeStatusResponse(status=await self._volume_status(volume_id))

    async def _volume_status(self, volume_id: int) -> pb.VolumeStatus:
        entry = self._volumes.entry(volume_id)
        usage = await self._volumes.usage(entry.partition)
        return _status_to_wire(entry, usage.free_kib, usage.size_kib)

    async def GetTime(
        self,
        _request: pb.GetTimeRequest,
        _context: Context,
    ) -> pb.GetTimeResponse:
        """The server's wall clock, in nanoseconds since the Unix epoch."""
        return pb.GetTimeResponse(time_ns=self._clock.wall_ns())

    async def GetCapabilities(
        self,
        _request: pb.GetCapabilitiesRequest,
        _context: Context,
    ) -> pb.GetCapabilitiesResponse:
        """What this fileserver can do, its epoch, and the terms of its promises."""
        return self._capabilities


def _check_id(volume_id: int) -> int:
    if not volume_id:
        raise AfsError(AfsCode.EINVAL, "volume 0 names no volume: expected 1 to 4294967295")
    return volume_id


def _status_to_wire(entry: VolumeEntry, free_kib: int, size_kib: int) -> pb.VolumeStatus:
    header = entry.latest_header
    if entry.state is VolumeState.MOVED:
        raise AfsError(AfsCode.VMOVED, f"volume {entry.volume_id} has moved to another fileserver")
    if header is None:
        detail = entry.record.detail
        raise AfsError(
            AfsCode.VSALVAGE, f"volume {entry.volume_id} could not be attached: {detail}"
        )
    return pb.VolumeStatus(
        volume=entry.volume_id,
        name=header.name,
        type=types_pb2.VolumeType.ValueType(header.type),
        online=entry.state is VolumeState.ONLINE,
        offline_message=header.offline_message,
        max_quota_kib=header.max_quota_kib,
        used_kib=header.used_kib,
        file_count=header.file_count,
        partition_free_kib=free_kib,
        partition_size_kib=size_kib,
        incarnation=header.incarnation,
    )
