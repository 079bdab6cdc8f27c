"""From paths to vnodes: "/VOLUME/dir/file", symbolic links followed, each step valid then."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_SYMLINKS_FOLLOWED
from afs.types import DirectoryEntry, Fid, VnodeType, root_fid
from afs.v1 import file_server_pb2 as pb
from afs.wire import check_name, fid_to_wire
from clientd.core.cache import VnodeCache
from clientd.directories import Directories
from clientd.fileserver_client import FileServerClient
from clientd.fileservers import FileServers
from clientd.statuses import Source, Statuses, callback_of
from clientd.volume_identity import VolumeIdentity
from clientd.volume_location import VolumeLocation

# Source: POSIX PATH_MAX is 4,096 bytes; a path here may well be longer, but is bounded.
MAX_PATH_BYTES: Final = 32 * 1024
# What is told of a volume that is not there (any more): the location is looked up again.
OUTDATED: Final = frozenset({AfsCode.VNOVOL, AfsCode.VMOVED})
MAX_ATTEMPTS: Final = 3

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """A vnode found by a path.

    `name` is its last name and `parent` the directory that has it; a volume's root has the volume's
    name and itself. `source` says where the steps' answers came from.
    """

    server: FileServerClient
    fid: Fid
    type: VnodeType
    parent: Fid
    name: str
    source: Source


@dataclass(frozen=True, slots=True)
class Absent:
    """A name that its directory does not have: where something can be made."""

    server: FileServerClient
    parent: Fid
    name: str
    source: Source


class CellRoot:
    """The path "/": the directory of the cell's volumes, which no fileserver has."""


@dataclass(slots=True)
class _Step:
    """Where a walk stands: the vnodes from the volume's root down to here."""

    server: FileServerClient
    trail: list[tuple[Fid, VnodeType, str]]


class PathWalk:
    """Finds vnodes by paths.

    Args:
        cache: keeps symbolic links' targets.
        location: finds volumes.
        servers: fileservers by address.
        identity: tells volumes from others of the same id.
        statuses: tells statuses.
        directories: tells names.
    """

    def __init__(
        self,
        cache: VnodeCache,
        location: VolumeLocation,
        servers: FileServers,
        identity: VolumeIdentity,
        statuses: Statuses,
        directories: Directories,
    ) -> None:
        self._cache = cache
        self._location = location
        self._servers = servers
        self._identity = identity
        self._statuses = statuses
        self._directories = directories

    async def find(self, path: str, *, follow: bool = True) -> Place | CellRoot:
        """What the path names.

        Args:
            path: begins with `/`.
            follow: whether a symbolic link at the end stands for what it points to.

        Raises:
            AfsError: ENOENT, ENOTDIR, ELOOP, EINVAL for a path that is none, VNOVOL for an unknown
                volume; else as the fileserver says.
        """
        found = await self.find_or_absent(path, follow=follow)
        if isinstance(found, Absent):
            raise AfsError(AfsCode.ENOENT, f"{path}: there is no {found.name!r}")
        return found

    async def find_or_absent(self, path: str, *, follow: bool = True) -> Place | Absent | CellRoot:
        """As `find`; where only the last name is missing, the place where it could be made."""
        return await self._walk(path, split_path(path), follow=follow)

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does something with paths; does it anew if a volume turned out not to be where it was.

        Raises:
            AfsError: as `work` does.
        """
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await work()
            except AfsError as error:
                if error.code not in OUTDATED or not self._location.forget_all():
                    raise
        return await work()

    async def target(self, place: Place) -> str:
        """Where a symbolic link points to."""
        known = await self._statuses.status(place.server, place.fid)
        entry = self._cache.get(place.fid)
        if entry is not None and entry.symlink_version == known.vnode.data_version:
            assert entry.symlink_target is not None
            return entry.symlink_target
        request = pb.ReadLinkRequest(fid=fid_to_wire(place.fid))
        response, ticket = await place.server.call(place.server.stub.ReadLink, request)
        vnode, _ = place.server.take_in(response.status, callback_of(response), ticket)
        entry = self._cache.get(place.fid)
        if entry is not None:
            entry.symlink_target = response.target
            entry.symlink_version = vnode.data_version
        return response.target

    # --- within ---

    async def _walk(
        self, path: str, names: list[str], *, follow: bool
    ) -> Place | Absent | CellRoot:
        to_go = deque(names)
        step: _Step | None = None
        source = Source.CACHE
        links = 0
        while to_go:
            name = to_go.popleft()
            if name == ".":
                continue
            if name == "..":
                step = _up(step)
                continue
            if step is None:
                site = await self._location.find(name)
                root = root_fid(site.volume_id)
                server = self._servers.at(site.file_server)
                await self._identity.check(server, site.volume_id)
                step = _Step(server, [(root, VnodeType.DIRECTORY, name)])
                continue
            above, kind, _ = step.trail[-1]
            if kind is not VnodeType.DIRECTORY:
                raise AfsError(AfsCode.ENOTDIR, f"{path}: {step.trail[-1][2]!r} is no directory")
            found = await self._directories.find(step.server, above, check_name(name))
            source = max(source, found.source)
            entry = found.entry
            if entry is None:
                if to_go:
                    raise AfsError(AfsCode.ENOENT, f"{path}: there is no {name!r}")
                return Absent(step.server, above, name, source)
            if entry.type is VnodeType.SYMLINK and (follow or to_go):
                links += 1
                if links > MAX_SYMLINKS_FOLLOWED:
                    raise AfsError(
                        AfsCode.ELOOP,
                        f"{path}: more than {MAX_SYMLINKS_FOLLOWED} symbolic links to follow",
                    )
                target = await self._target_of(step.server, above, entry, source)
                to_go.extendleft(reversed([part for part in target.split("/") if part]))
                if target.startswith("/"):
                    step = None
                continue
            step.trail.append((entry.fid, entry.type, name))
        if step is None:
            return CellRoot()
        fid, kind, name = step.trail[-1]
        parent = step.trail[-2][0] if len(step.trail) > 1 else fid
        return Place(step.server, fid, kind, parent, name, source)

    async def _target_of(
        self, server: FileServerClient, parent: Fid, entry: DirectoryEntry, source: Source
    ) -> str:
        return await self.target(Place(server, entry.fid, entry.type, parent, entry.name, source))


def _up(step: _Step | None) -> _Step | None:
    """The directory above; above a volume's root is "/", and above that there is nothing else."""
    if step is None or len(step.trail) == 1:
        return None
    return _Step(step.server, step.trail[:-1])


def split_path(path: str) -> list[str]:
    """The names in a path, empty ones left out.

    Raises:
        AfsError: EINVAL unless it begins with `/` and is without NUL; ENAMETOOLONG beyond
            MAX_PATH_BYTES.
    """
    if not path.startswith("/") or "\0" in path:
        raise AfsError(
            AfsCode.EINVAL, f"path {path[:64]!r}: expected /VOLUME/path/in/volume, without NUL"
        )
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise AfsError(
            AfsCode.ENAMETOOLONG, f"path {path[:64]!r}… is longer than {MAX_PATH_BYTES} bytes"
        )
    return [name for name in path.split("/") if name]
