"""Stand-in services over a volume in memory, for real gRPC: the protocol without the daemons."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from afs.errors import AfsCode, AfsError
from afs.types import Fid, SetStatus, Vnode, VnodeType, VolumeType
from afs.v1 import (
    file_server_pb2,
    file_server_pb2_grpc,
    fssync_pb2,
    fssync_pb2_grpc,
    types_pb2,
    vol_server_pb2,
    volume_location_pb2,
    volume_location_pb2_grpc,
)
from afs.volume.memory_store import MemoryVolume
from afs.volume.volume import (
    CreateFile,
    MakeDir,
    MakeSymlink,
    Mutation,
    Outcome,
    RemoveDir,
    RemoveFile,
    Rename,
    SetVolumeFields,
    StoreData,
    StoreStatus,
)
from afs.wire import entries_to_wire, fid_from_wire, set_status_from_wire, status_to_wire

VOLUME_ID = 536870913


class FakeFileServer(file_server_pb2_grpc.FileServerServicer):
    """The FileServer methods that afsctl calls, on volumes in memory.

    `volumes` are those it has, by id, and `moved` the ids of those that it had. `failures` holds
    errors for the next calls of a method, by its name; each is used once.
    """

    def __init__(self, *volumes: MemoryVolume) -> None:
        self.volumes = {volume.volume_id: volume for volume in volumes}
        self.moved: set[int] = set()
        self.failures: dict[str, list[AfsError]] = {}
        self.stores_running = 0
        self.most_stores_running = 0

    def _of(self, volume_id: int) -> MemoryVolume:
        if volume_id in self.moved:
            raise AfsError(AfsCode.VMOVED, f"volume {volume_id} has moved")
        if volume_id not in self.volumes:
            raise AfsError(AfsCode.VNOVOL, f"no volume {volume_id}")
        return self.volumes[volume_id]

    def _apply(self, method: str, volume_id: int, mutation: Mutation) -> Outcome:
        self._fail(method)
        (answer,) = self._of(volume_id).apply([mutation])
        if isinstance(answer, AfsError):
            raise answer
        return answer

    def _fail(self, method: str) -> None:
        if self.failures.get(method):
            raise self.failures[method].pop(0)

    def _vnode(self, mutation: Outcome) -> types_pb2.FileStatus:
        assert mutation.vnode is not None
        return status_to_wire(mutation.vnode)

    async def FetchStatus(self, request: Any, context: Any) -> file_server_pb2.FetchStatusResponse:
        vnode = self._of(request.fid.volume).vnode(fid_from_wire(request.fid))
        return file_server_pb2.FetchStatusResponse(status=status_to_wire(vnode))

    async def BulkStatus(self, request: Any, context: Any) -> file_server_pb2.BulkStatusResponse:
        return file_server_pb2.BulkStatusResponse(
            results=[
                file_server_pb2.BulkStatusResult(
                    status=status_to_wire(self._of(fid.volume).vnode(fid_from_wire(fid)))
                )
                for fid in request.fids
            ]
        )

    async def Lookup(self, request: Any, context: Any) -> file_server_pb2.LookupResponse:
        vnode = self._of(request.directory.volume).lookup(
            fid_from_wire(request.directory), request.name
        )
        return file_server_pb2.LookupResponse(status=status_to_wire(vnode))

    async def ReadDir(
        self, request: Any, context: Any
    ) -> AsyncIterator[file_server_pb2.ReadDirResponse]:
        directory = fid_from_wire(request.directory)
        status = status_to_wire(self._of(directory.volume).vnode(directory))
        yield file_server_pb2.ReadDirResponse(directory_status=status)
        after = ""
        while entries := self._of(directory.volume).entries(directory, after, 3):
            yield file_server_pb2.ReadDirResponse(entries=entries_to_wire(entries))
            after = entries[-1].name

    async def ReadLink(self, request: Any, context: Any) -> file_server_pb2.ReadLinkResponse:
        fid = fid_from_wire(request.fid)
        return file_server_pb2.ReadLinkResponse(
            target=self._of(fid.volume).read_link(fid),
            status=status_to_wire(self._of(fid.volume).vnode(fid)),
        )

    async def FetchData(
        self, request: Any, context: Any
    ) -> AsyncIterator[file_server_pb2.FetchDataResponse]:
        self._fail("FetchData")
        with self._of(request.fid.volume).snapshot(fid_from_wire(request.fid)) as snapshot:
            yield file_server_pb2.FetchDataResponse(status=status_to_wire(snapshot.vnode))
            offset = request.offset
            while data := snapshot.read(offset, 1024 * 1024):
                yield file_server_pb2.FetchDataResponse(data=data)
                offset += len(data)
                self._fail("FetchData in the middle")

    async def StoreData(
        self, requests: AsyncIterator[Any], context: Any
    ) -> file_server_pb2.StoreDataResponse:
        self.stores_running += 1
        self.most_stores_running = max(self.stores_running, self.most_stores_running)
        try:
            first = await anext(requests, None)
            if first is None:
                raise AfsError(AfsCode.EINVAL, "the caller left before it said what to store")
            fid = fid_from_wire(first.open.fid)
            staged = self._of(fid.volume).stage(fid, first.open.offset)
            staged.write(first.data)
            self._fail("StoreData in the middle")
            async for request in requests:
                staged.write(request.data)
            staged.finish()
            truncate_to = first.open.truncate_to if first.open.HasField("truncate_to") else None
            set_status = set_status_from_wire(first.open.set_status)
            change = StoreData(fid, staged, truncate_to, set_status)
            return file_server_pb2.StoreDataResponse(
                status=self._vnode(self._apply("StoreData", fid.volume, change))
            )
        finally:
            self.stores_running -= 1

    async def StoreStatus(self, request: Any, context: Any) -> file_server_pb2.StoreStatusResponse:
        change = StoreStatus(fid_from_wire(request.fid), set_status_from_wire(request.set_status))
        return file_server_pb2.StoreStatusResponse(
            status=self._vnode(self._apply("StoreStatus", request.fid.volume, change))
        )

    async def CreateFile(self, request: Any, context: Any) -> file_server_pb2.CreateFileResponse:
        change = CreateFile(*_new_entry(request))
        return file_server_pb2.CreateFileResponse(
            status=self._vnode(self._apply("CreateFile", request.directory.volume, change))
        )

    async def MakeDir(self, request: Any, context: Any) -> file_server_pb2.MakeDirResponse:
        change = MakeDir(*_new_entry(request))
        return file_server_pb2.MakeDirResponse(
            status=self._vnode(self._apply("MakeDir", request.directory.volume, change))
        )

    async def Symlink(self, request: Any, context: Any) -> file_server_pb2.SymlinkResponse:
        directory, name, set_status = _new_entry(request)
        change = MakeSymlink(directory, name, request.target, set_status)
        return file_server_pb2.SymlinkResponse(
            status=self._vnode(self._apply("Symlink", request.directory.volume, change))
        )

    async def RemoveFile(self, request: Any, context: Any) -> file_server_pb2.RemoveFileResponse:
        change = RemoveFile(fid_from_wire(request.directory), request.name)
        self._apply("RemoveFile", request.directory.volume, change)
        return file_server_pb2.RemoveFileResponse()

    async def RemoveDir(self, request: Any, context: Any) -> file_server_pb2.RemoveDirResponse:
        change = RemoveDir(fid_from_wire(request.directory), request.name)
        self._apply("RemoveDir", request.directory.volume, change)
        return file_server_pb2.RemoveDirResponse()

    async def Rename(self, request: Any, context: Any) -> file_server_pb2.RenameResponse:
        change = Rename(
            fid_from_wire(request.old_directory),
            request.old_name,
            fid_from_wire(request.new_directory),
            request.new_name,
        )
        self._apply("Rename", request.old_directory.volume, change)
        return file_server_pb2.RenameResponse()

    async def GetVolumeStatus(
        self, request: Any, context: Any
    ) -> file_server_pb2.GetVolumeStatusResponse:
        return file_server_pb2.GetVolumeStatusResponse(status=self._volume_status(request.volume))

    async def SetVolumeStatus(
        self, request: Any, context: Any
    ) -> file_server_pb2.SetVolumeStatusResponse:
        change = SetVolumeFields(max_quota_kib=request.max_quota_kib)
        self._apply("SetVolumeStatus", request.volume, change)
        return file_server_pb2.SetVolumeStatusResponse(status=self._volume_status(request.volume))

    def _volume_status(self, volume_id: int) -> file_server_pb2.VolumeStatus:
        header = self._of(volume_id).header()
        return file_server_pb2.VolumeStatus(
            volume=header.volume_id,
            name=header.name,
            type=types_pb2.VOLUME_TYPE_READ_WRITE,
            online=True,
            max_quota_kib=header.max_quota_kib,
            used_kib=header.used_kib,
            file_count=header.file_count,
            partition_free_kib=1024 * 1024,
            partition_size_kib=2 * 1024 * 1024,
        )


class FakeVolumeLocation(volume_location_pb2_grpc.VolumeLocationServicer):
    """A VLDB with the entries it is given."""

    def __init__(self, *entries: vol_server_pb2.VolumeEntry) -> None:
        self.entries = list(entries)

    async def GetEntry(self, request: Any, context: Any) -> volume_location_pb2.GetEntryResponse:
        base = request.name.removesuffix(".backup").removesuffix(".readonly")
        for entry in self.entries:
            ids = (entry.read_write_id, entry.read_only_id, entry.backup_id)
            if entry.name == base or (request.volume_id and request.volume_id in ids):
                return volume_location_pb2.GetEntryResponse(entry=entry)
        raise AfsError(AfsCode.VNOVOL, f"no entry {request.name or request.volume_id}")

    async def ListEntries(
        self, request: Any, context: Any
    ) -> volume_location_pb2.ListEntriesResponse:
        entries = [entry for entry in self.entries if entry.name > request.after]
        return volume_location_pb2.ListEntriesResponse(entries=entries)


class FakeFSSync(fssync_pb2_grpc.FSSyncServicer):
    """The fileserver's side of FSSync with one volume; `requests` is what it was asked."""

    def __init__(self) -> None:
        self.requests: list[fssync_pb2.VolumeOpRequest] = []
        self.info = fssync_pb2.VolumeInfo(
            volume_id=VOLUME_ID,
            name="home.kim",
            partition="vicepa",
            state=fssync_pb2.VOLUME_STATE_CHECKED_OUT,
            type=types_pb2.VOLUME_TYPE_READ_WRITE,
            program="volserver",
        )

    async def VolumeOp(self, request: Any, context: Any) -> fssync_pb2.VolumeOpResponse:
        self.requests.append(request)
        if request.command == fssync_pb2.FSYNC_VOL_LISTVOLUMES:
            return fssync_pb2.VolumeOpResponse(response=fssync_pb2.FSYNC_OK, volumes=[self.info])
        if request.volume_id != VOLUME_ID:
            return fssync_pb2.VolumeOpResponse(
                response=fssync_pb2.FSYNC_UNKNOWN_VOLUME, detail="there is no such volume"
            )
        if request.command == fssync_pb2.FSYNC_NEEDVOLUME:
            return fssync_pb2.VolumeOpResponse(
                response=fssync_pb2.FSYNC_DENIED,
                reason=fssync_pb2.FSYNC_EXCLUSIVE,
                detail="volserver has it",
            )
        return fssync_pb2.VolumeOpResponse(
            response=fssync_pb2.FSYNC_OK, volume=self.info, callbacks_marked=12
        )


def location_entry(name: str, address: str) -> vol_server_pb2.VolumeEntry:
    """What the VLDB has of a volume with one site."""
    return vol_server_pb2.VolumeEntry(
        name=name, read_write_id=VOLUME_ID, sites=[site_at(address, "vicepa")]
    )


def site_at(
    address: str,
    partition: str,
    kind: types_pb2.VolumeType.ValueType = types_pb2.VOLUME_TYPE_READ_WRITE,
    *,
    release: int = 0,
) -> vol_server_pb2.Site:
    """A site of a server whose fileserver and volserver are at one address."""
    return vol_server_pb2.Site(
        file_server=address, vol_server=address, partition=partition, type=kind, release=release
    )


def _new_entry(request: Any) -> tuple[Fid, str, SetStatus]:
    return (
        fid_from_wire(request.directory),
        request.name,
        set_status_from_wire(request.set_status),
    )


def new_volume(
    name: str, volume_id: int = VOLUME_ID, kind: VolumeType = VolumeType.READ_WRITE
) -> MemoryVolume:
    """An empty volume in memory."""
    return MemoryVolume.create(volume_id, name, type=kind)


def find(volume: MemoryVolume, names: Sequence[str]) -> Vnode:
    """The vnode at a path of a volume."""
    vnode = volume.vnode(Fid(volume.volume_id, 1, 1))
    for name in names:
        vnode = volume.lookup(vnode.fid, name)
    return vnode


def contents(volume: MemoryVolume, names: Sequence[str]) -> bytes:
    """The data of a file, or the target of a symbolic link, at a path of a volume."""
    vnode = find(volume, names)
    if vnode.type is VnodeType.SYMLINK:
        return volume.read_link(vnode.fid).encode()
    with volume.snapshot(vnode.fid) as snapshot:
        return snapshot.read(0, vnode.length)
