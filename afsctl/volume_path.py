"""Paths into volumes, `/VOLUME/directory/file`, and what they lead to on a fileserver.

Symbolic links are followed as the cache manager follows them: relative to their directory, or
    absolute as another
`/VOLUME/…` path.
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
from afs.runtime.channel import open_channel
from afs.types import root_fid
from afs.v1 import (
    file_server_pb2,
    file_server_pb2_grpc,
    types_pb2,
    vol_server_pb2,
    volume_location_pb2,
    volume_location_pb2_grpc,
)
from afs.wire import check_name, fid_to_wire
from afsctl.failure import CommandError, abort_code, explain

_SUFFIXES: Final = {".readonly": "read_only_id", ".backup": "backup_id"}


@dataclass(frozen=True, slots=True)
class VolumePath:
    """A path: the volume's name (or id), and the names that lead on from its root directory."""

    volume: str
    names: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> VolumePath:
        """The path that the text says. CommandError unless it begins with `/VOLUME`."""
        if not text.startswith("/"):
            raise CommandError(f"{text!r} is no path into a volume: expected /VOLUME/…")
        names = [name for name in text.split("/") if name not in ("", ".")]
        if not names:
            raise CommandError(f"{text!r} names no volume: expected /VOLUME/…")
        if names[0] == "..":
            raise CommandError(f"{text!r} names no volume: expected /VOLUME/…")
        return cls(names[0], tuple(names[1:]))

    @property
    def parent(self) -> VolumePath:
        """The path without its last name, which must be there."""
        assert self.names
        return VolumePath(self.volume, self.names[:-1])

    @property
    def name(self) -> str:
        """The last name; the volume's for its root."""
        return self.names[-1] if self.names else self.volume

    def child(self, name: str) -> VolumePath:
        """The path of an entry."""
        return VolumePath(self.volume, (*self.names, name))

    def __str__(self) -> str:
        return "/" + "/".join((self.volume, *self.names))


@dataclass(frozen=True, slots=True)
class Place:
    """What a path leads to: a vnode's status, on the fileserver that has it."""

    path: VolumePath
    server: file_server_pb2_grpc.FileServerAsyncStub
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
    """The cell's volumes by path. An asynchronous context; holds a channel to each server met.

    Args:
        location: address of the VolumeLocation.
        file_server: address of the FileServer to use whatever the VLDB says; None: where the VLDB
            says.
    """

    def __init__(self, location: str, file_server: str | None = None) -> None:
        self._location = location
        self._file_server = file_server
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def entry(self, volume: str) -> vol_server_pb2.VolumeEntry:
        """The VLDB's entry of a volume given by name or id. CommandError if there is none."""
        stub = volume_location_pb2_grpc.VolumeLocationStub(self._channel(self._location))
        request = (
            volume_location_pb2.GetEntryRequest(volume_id=int(volume))
            if volume.isdecimal()
            else volume_location_pb2.GetEntryRequest(name=volume)
        )
        try:
            return (await stub.GetEntry(request)).entry
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                raise CommandError(f"there is no volume {volume}: {explain(error)}") from None
            raise

    async def names(self) -> list[str]:
        """The names of the cell's volumes, sorted."""
        stub = volume_location_pb2_grpc.VolumeLocationStub(self._channel(self._location))
        names: list[str] = []
        while True:
            request = volume_location_pb2.ListEntriesRequest(after=names[-1] if names else "")
            entries = (await stub.ListEntries(request)).entries
            if not entries:
                return names
            names += [entry.name for entry in entries]

    async def root(self, volume: str) -> Place:
        """The root directory of a volume."""
        entry = await self.entry(volume)
        volume_id = _id_in(entry, volume)
        if self._file_server is None and not entry.sites:
            raise CommandError(f"the VLDB knows no site of volume {volume}")
        address = self._file_server or entry.sites[0].file_server
        server = file_server_pb2_grpc.FileServerStub(self._channel(address))
        request = file_server_pb2.FetchStatusRequest(fid=fid_to_wire(root_fid(volume_id)))
        answer = await server.FetchStatus(request)
        return Place(VolumePath(volume, ()), server, answer.status)

    async def find(self, path: VolumePath, *, follow: bool = True) -> Place:
        """What the path leads to.

        Args:
            path: where to go.
            follow: also follows a symbolic link that is the last name.

        Raises:
            CommandError: a name on the way does not exist, or stands for no directory, or links
                lead in circles.
            grpc.RpcError: a server does not answer, or refuses.
        """
        way = [await self.root(path.volume)]
        ahead = deque(path.names)
        links_followed = 0
        while ahead:
            name = ahead.popleft()
            if name == "..":
                if len(way) > 1:
                    way.pop()
                continue
            place = await self._step(way[-1], name)
            if place.status.type != types_pb2.VNODE_TYPE_SYMLINK or not (ahead or follow):
                way.append(place)
                continue
            links_followed += 1
            if links_followed > MAX_SYMLINKS_FOLLOWED:
                raise CommandError(f"{path}: too many levels of symbolic links (ELOOP)")
            target = await self._target(place)
            if target.startswith("/"):
                absolute = VolumePath.parse(target)
                way = [await self.root(absolute.volume)]
                ahead.extendleft(reversed(absolute.names))
            else:
                ahead.extendleft(
                    name for name in reversed(target.split("/")) if name not in ("", ".")
                )
        return way[-1]

    async def find_directory(self, path: VolumePath) -> Place:
        """What the path leads to, which must be a directory; else CommandError."""
        place = await self.find(path)
        if not place.is_directory:
            raise CommandError(f"{path} is not a directory")
        return place

    async def find_parent(self, path: VolumePath) -> Place:
        """The directory that the path's last name is, or would be, in.

        Raises:
            CommandError: the path is a volume's root, or the directory does not exist.
        """
        if not path.names or path.name == "..":
            raise CommandError(f"{path} names no entry of a directory")
        try:
            check_name(path.name)
        except AfsError as error:
            raise CommandError(explain(error)) from None
        return await self.find_directory(path.parent)

    async def _step(self, directory: Place, name: str) -> Place:
        path = directory.path.child(name)
        if not directory.is_directory:
            raise CommandError(f"{directory.path} is not a directory")
        request = file_server_pb2.LookupRequest(directory=directory.fid, name=name)
        try:
            answer = await directory.server.Lookup(request)
        except grpc.aio.AioRpcError as error:
            if abort_code(error) == AfsCode.ENOENT:
                raise CommandError(f"{path}: no such file or directory") from None
            raise
        return Place(path, directory.server, answer.status)

    async def _target(self, link: Place) -> str:
        request = file_server_pb2.ReadLinkRequest(fid=link.fid)
        return (await link.server.ReadLink(request)).target

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = open_channel(address)
        return self._channels[address]


def _id_in(entry: vol_server_pb2.VolumeEntry, volume: str) -> int:
    """Which of an entry's ids the name or number means."""
    if volume.isdecimal():
        return int(volume)
    for suffix, field in _SUFFIXES.items():
        if volume.endswith(suffix):
            volume_id = int(getattr(entry, field))
            if not volume_id:
                raise CommandError(f"there is no volume {volume}")
            return volume_id
    return entry.read_write_id
