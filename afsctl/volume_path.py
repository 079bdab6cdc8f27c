"""Paths into the cell's volumes, and what they lead to.

`/` is the root directory of the volume `root.cell`, if there is one. A first name that this does
not have, or any first name without that volume, is the name (or number) of a volume:
`/VOLUME/directory/file`. On the way symbolic links are followed (relative to their directory, or
absolute from `/`) and mount points are crossed, as the cache manager does both.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import grpc
import grpc.aio

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_SYMLINKS_FOLLOWED
from afs.mount_points import (
    ROOT_VOLUME,
    MountPoint,
    leads_to,
    may_be_mount_point,
    parse_mount_point,
)
from afs.types import VolumeType, root_fid
from afs.v1 import file_server_pb2, types_pb2, vol_server_pb2
from afs.volume_sites import is_released, split_volume_name, type_in, volume_number
from afs.wire import check_name, fid_to_wire
from afsctl.failure import CommandError, abort_code, explain
from afsctl.locations import Locations, VolumeUnknownError
from afsctl.volume_access import VolumeAccess


@dataclass(frozen=True, slots=True)
class VolumePath:
    """A path from `/`: its names, without empty ones and `.`, but with `..`."""

    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> VolumePath:
        """The path that the text says. CommandError unless it begins with `/`."""
        if not text.startswith("/"):
            raise CommandError(f"{text!r} is no path into a volume: expected /VOLUME/…")
        return cls(tuple(name for name in text.split("/") if name not in ("", ".")))

    @property
    def parent(self) -> VolumePath:
        """The path without its last name, which must be there."""
        assert self.names
        return VolumePath(self.names[:-1])

    @property
    def name(self) -> str:
        """The last name; empty for `/`."""
        return self.names[-1] if self.names else ""

    def child(self, name: str) -> VolumePath:
        """The path of an entry."""
        return VolumePath((*self.names, name))

    def __str__(self) -> str:
        return "/" + "/".join(self.names)


ROOT: Final = VolumePath(())


class NoEntryError(CommandError):
    """A directory does not have a name."""


@dataclass(frozen=True, slots=True)
class Place:
    """What a path leads to: a vnode's status, and the volume that has it."""

    path: VolumePath
    volume: VolumeAccess
    status: types_pb2.FileStatus

    @property
    def fid(self) -> types_pb2.Fid:
        """The vnode's Fid."""
        return self.status.fid

    @property
    def is_directory(self) -> bool:
        """True for a directory."""
        return self.status.type == types_pb2.VNODE_TYPE_DIRECTORY


class Volumes:
    """The cell's volumes by path. An asynchronous context.

    Args:
        location: address of the VolumeLocation.
        file_server: address of the FileServer to use whatever the VLDB says; None: where the VLDB
            says.
    """

    def __init__(self, location: str, file_server: str | None = None) -> None:
        self._locations = Locations(location)
        self._file_server = file_server

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._locations.close()

    async def entry(self, volume: str) -> vol_server_pb2.VolumeEntry:
        """The VLDB's entry of a volume given by name or id. CommandError if there is none."""
        try:
            return await self._locations.entry(volume)
        except VolumeUnknownError as error:
            raise CommandError(f"there is no volume {volume}: {error}") from None

    async def names(self) -> list[str]:
        """The names of the cell's volumes, sorted."""
        return await self._locations.names()

    async def root(self) -> Place | None:
        """The root of `root.cell`, or of what is released of it; None without such a volume."""
        try:
            entry = await self._locations.entry(ROOT_VOLUME)
        except VolumeUnknownError:
            return None
        kind = VolumeType.READ_ONLY if is_released(entry) else VolumeType.READ_WRITE
        return await self._root_of(entry, kind, ROOT)

    async def find(self, path: VolumePath, *, follow: bool = True) -> Place:
        """What the path leads to.

        Args:
            path: where to go.
            follow: also follows a symbolic link, and crosses a mount point, that is the last name.

        Raises:
            CommandError: a name on the way does not exist, or stands for no directory, or links
                lead in circles; or the path is `/` and the cell has no root volume.
            grpc.RpcError: a server does not answer, or refuses.
        """
        # From "/" to where the walk stands. Out of the root of a volume ".." leads to where that
        # was entered.
        way: list[Place] = []
        ahead = deque(path.names)
        links_followed = 0
        while ahead:
            name = ahead.popleft()
            if name == "..":
                way = way[:-1]
                continue
            place = await (self._step(way[-1], name) if way else self._first(name))
            if place.status.type != types_pb2.VNODE_TYPE_SYMLINK or not (ahead or follow):
                way.append(place)
                continue
            links_followed += 1
            if links_followed > MAX_SYMLINKS_FOLLOWED:
                raise CommandError(f"{path}: too many levels of symbolic links (ELOOP)")
            target = await self.target(place)
            mount = parse_mount_point(place.status.mode, target)
            if mount is not None:
                way.append(await self._cross(place, mount))
                continue
            if target.startswith("/"):
                way = []
            ahead.extendleft(name for name in reversed(target.split("/")) if name not in ("", "."))
        if way:
            return way[-1]
        root = await self.root()
        if root is None:
            raise CommandError(f"{path} is no place in a volume: expected /VOLUME/…")
        return root

    async def find_directory(self, path: VolumePath) -> Place:
        """What the path leads to, which must be a directory; else CommandError."""
        place = await self.find(path)
        if not place.is_directory:
            raise CommandError(f"{path} is not a directory")
        return place

    async def find_parent(self, path: VolumePath) -> Place:
        """The directory that the path's last name is, or would be, in.

        Raises:
            CommandError: the path names a volume, or the directory does not exist.
        """
        if not path.names or path.name == "..":
            raise CommandError(f"{path} names no entry of a directory")
        try:
            check_name(path.name)
        except AfsError as error:
            raise CommandError(explain(error)) from None
        if path.parent == ROOT and await self.root() is None:
            raise CommandError(f"{path} names no entry of a directory")
        return await self.find_directory(path.parent)

    async def mount_point(self, place: Place) -> MountPoint | None:
        """What a mount point says; None if the place is none."""
        status = place.status
        if status.type != types_pb2.VNODE_TYPE_SYMLINK or not may_be_mount_point(status.mode):
            return None
        return parse_mount_point(status.mode, await self.target(place))

    async def target(self, link: Place) -> str:
        """Where a symbolic link leads to."""
        request = file_server_pb2.ReadLinkRequest(fid=link.fid)
        return (await link.volume.ask(lambda server: server.ReadLink(request))).target

    async def _first(self, name: str) -> Place:
        """What a name in `/` leads to: an entry of the root volume, or else a volume."""
        root = await self.root()
        if root is not None:
            try:
                return await self._step(root, name)
            except NoEntryError as error:
                absent = error
        try:
            entry = await self._locations.entry(name)
        except VolumeUnknownError as error:
            if root is not None:
                raise absent from None
            raise CommandError(f"there is no volume {name}: {error}") from None
        return await self._root_of(entry, type_in(entry, name), VolumePath((name,)))

    async def _step(self, directory: Place, name: str) -> Place:
        path = directory.path.child(name)
        if not directory.is_directory:
            raise CommandError(f"{directory.path} is not a directory")
        request = file_server_pb2.LookupRequest(directory=directory.fid, name=name)
        try:
            answer = await directory.volume.ask(lambda server: server.Lookup(request))
        except grpc.aio.AioRpcError as error:
            if abort_code(error) == AfsCode.ENOENT:
                raise NoEntryError(f"{path}: no such file or directory") from None
            raise
        return Place(path, directory.volume, answer.status)

    async def _cross(self, place: Place, mount: MountPoint) -> Place:
        """The root directory of the volume that a mount point leads to."""
        try:
            entry = await self._locations.entry(mount.volume)
        except VolumeUnknownError as error:
            raise CommandError(
                f"{place.path} is a mount point for a volume that does not exist: {error}"
            ) from None
        said = volume_number(mount.volume) or split_volume_name(mount.volume).type != (
            VolumeType.READ_WRITE
        )
        if said:
            kind = type_in(entry, mount.volume)
        else:
            kind = leads_to(mount, place.volume.kind, released=is_released(entry))
        return await self._root_of(entry, kind, place.path)

    async def _root_of(
        self, entry: vol_server_pb2.VolumeEntry, kind: VolumeType, path: VolumePath
    ) -> Place:
        """The root directory of one of an entry's volumes, which is what is at the path."""
        volume = VolumeAccess(self._locations, entry, kind, self._file_server)
        request = file_server_pb2.FetchStatusRequest(fid=fid_to_wire(root_fid(volume.volume_id)))
        answer = await volume.ask(lambda server: server.FetchStatus(request))
        return Place(path, volume, answer.status)
