"""CacheManager: Stat, List and Read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, Final

from afs.errors import AfsCode, AfsError
from afs.limits import DIRECTORY_ENTRIES_PER_MESSAGE, MAX_FILE_BYTES
from afs.mount_points import parse_mount_point
from afs.types import DirectoryEntry, Vnode, VnodeType, root_fid
from afs.v1 import cache_manager_pb2 as pb
from afs.v1 import types_pb2
from afs.wire import check_length, entries_to_wire, fid_to_wire, status_to_wire
from clientd.path_walk import CellRoot, Last, Mounted, Place
from clientd.services import Services
from clientd.statuses import Source
from clientd.volume_calls import VolumeCalls

# A file that changes faster than it can be opened is given up on.
MAX_OPENINGS: Final = 10


class ReadMethods:
    """What answers from the cache.

    Args:
        services: the client's parts.
    """

    def __init__(self, services: Services) -> None:
        self._services = services

    async def Stat(self, request: pb.StatRequest, context: Any) -> pb.StatResponse:  # noqa: ARG002
        """The status of what the path names."""
        services = self._services

        async def stat() -> pb.StatResponse:
            place = await services.walk.find(request.path, last=_last(request))
            if isinstance(place, CellRoot):
                return pb.StatResponse(
                    status=_root_status(len(await services.location.list_volumes())),
                    source=pb.ANSWER_SOURCE_FILE_SERVER,
                )
            target = ""
            if place.type is VnodeType.SYMLINK:
                target = await services.walk.target(place.volume, place.fid)
            known = await services.statuses.status(place.volume, place.fid)
            mounted = place.mounted
            if parse_mount_point(known.vnode.mode, target) is not None:
                mounted = Mounted(place.fid, target)
            return pb.StatResponse(
                status=status_to_wire(known.vnode),
                source=self._counted(_of_answer(place.source, known.source)),
                symlink_target=target,
                volume=_in_use(place.volume),
                mount_point=fid_to_wire(mounted.fid) if mounted is not None else None,
                mount_target=mounted.target if mounted is not None else "",
            )

        return await services.walk.attempt(stat)

    async def List(self, request: pb.ListRequest, context: Any) -> AsyncIterator[pb.ListResponse]:  # noqa: ARG002
        """The entries of a directory, in order of their names; status and source come first."""
        services = self._services

        async def list_it() -> tuple[list[DirectoryEntry], types_pb2.FileStatus, Source]:
            place = await services.walk.find(request.path)
            if isinstance(place, CellRoot):
                volumes = [
                    DirectoryEntry(name, root_fid(volume), VnodeType.DIRECTORY)
                    for name, volume in await services.location.list_volumes()
                ]
                return volumes, _root_status(len(volumes)), Source.FILE_SERVER
            if place.type is not VnodeType.DIRECTORY:
                raise AfsError(AfsCode.ENOTDIR, f"{request.path} is not a directory")
            listed = await services.directories.list_all(place.volume, place.fid)
            return (
                list(listed.listing.in_order()),
                status_to_wire(listed.vnode),
                _of_answer(place.source, listed.source),
            )

        entries, status, source = await services.walk.attempt(list_it)
        yield pb.ListResponse(
            entries=entries_to_wire(entries[:DIRECTORY_ENTRIES_PER_MESSAGE]),
            directory_status=status,
            source=self._counted(source),
        )
        for at in range(DIRECTORY_ENTRIES_PER_MESSAGE, len(entries), DIRECTORY_ENTRIES_PER_MESSAGE):
            page = entries[at : at + DIRECTORY_ENTRIES_PER_MESSAGE]
            yield pb.ListResponse(entries=entries_to_wire(page))

    async def Read(self, request: pb.ReadRequest, context: Any) -> AsyncIterator[pb.ReadResponse]:  # noqa: ARG002
        """A file's data, all of one DataVersion.

        EAGAIN if the file changes so under way that the rest of that version cannot be had.
        """
        offset = check_length(request.offset, "offset")
        length = check_length(request.length, "length") or MAX_FILE_BYTES
        for attempt in range(MAX_OPENINGS):
            begun = False
            try:
                async with aclosing(self._read(request.path, offset, length)) as responses:
                    async for response in responses:
                        begun = True
                        yield response
                return
            except AfsError as error:
                # As long as nothing was answered, another version will do as well.
                if error.code is not AfsCode.EAGAIN or begun or attempt + 1 == MAX_OPENINGS:
                    raise

    async def _read(
        self, path: str, offset: int, length: int
    ) -> AsyncGenerator[pb.ReadResponse, None]:
        services = self._services
        place, vnode, source = await services.walk.attempt(lambda: self._open(path, offset, length))
        await services.disk.keep_only(vnode.fid, vnode.data_version)
        if not services.data.is_cached(vnode, offset, length):
            source = Source.FILE_SERVER
        async with aclosing(services.data.read(place.volume, vnode, offset, length)) as pieces:
            piece = await anext(pieces, None)
            if source is Source.CACHE:
                # The disk took its time; a break or a stall may have come in between.
                entry = services.servers.trusted(vnode.fid)
                if entry is None or entry.status.data_version != vnode.data_version:
                    raise AfsError(AfsCode.EAGAIN, f"{path} is changing")
            yield pb.ReadResponse(status=status_to_wire(vnode), source=self._counted(source))
            while piece is not None:
                yield pb.ReadResponse(data=piece)
                piece = await anext(pieces, None)

    async def _open(self, path: str, offset: int, length: int) -> tuple[Place, Vnode, Source]:
        """The file, its status, and where its data comes from if all of it is here."""
        services = self._services
        place = await services.walk.find(path)
        if isinstance(place, CellRoot) or place.type is VnodeType.DIRECTORY:
            raise AfsError(AfsCode.EISDIR, f"{path} is a directory")
        known = await services.data.open(place.volume, place.fid, offset, length)
        return place, known.vnode, _of_answer(place.source, known.source)

    def _counted(self, source: Source) -> pb.AnswerSource.ValueType:
        self._services.journal.count("cache_hits" if source is Source.CACHE else "cache_misses")
        return pb.AnswerSource.ValueType(source)


def _last(request: pb.StatRequest) -> Last:
    """What the last name of the path asked about stands for."""
    if request.mount_point_itself:
        return Last.ITSELF
    return Last.CROSS if request.no_follow else Last.FOLLOW


def _in_use(volume: VolumeCalls) -> pb.VolumeInUse:
    return pb.VolumeInUse(
        name=volume.name,
        volume_id=volume.volume_id,
        type=types_pb2.VolumeType.ValueType(volume.type),
        file_servers=volume.file_servers,
        in_use=volume.in_use,
    )


def _of_answer(walk: Source, answer: Source) -> Source:
    """Where an answer came from that a walk led to: not from the cache if anybody was asked."""
    return answer if walk is Source.CACHE else max(answer, Source.REVALIDATED)


def _root_status(volumes: int) -> types_pb2.FileStatus:
    """The status of "/", which no fileserver has."""
    return types_pb2.FileStatus(
        type=types_pb2.VNODE_TYPE_DIRECTORY, mode=0o555, link_count=2, length=volumes
    )
