"""From paths to vnodes: "/dir/file", symbolic links followed, mount points crossed.

Theory of operation
    Where a walk stands is a trail of steps, from the cell's root directory down to here, through as
    many volumes as were crossed. A mount point adds the root directory of the volume it leads to
    as a step of the mount point's name, so `..` leads out of a volume the way it was come into.

    "/" is the root directory of the volume `root.cell`. A first name that it does not have stands
    for the volume of that name. A cell without `root.cell` has an empty trail at "/": there the
    volumes themselves are the names.

    Each step was right at a moment after the question. No step is bounded by a count but symbolic
    links: a path has an end, also in a tree that holds itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar

from afs.errors import AfsCode, AfsError
from afs.limits import MAX_SYMLINKS_FOLLOWED
from afs.mount_points import MountPoint, may_be_mount_point, parse_mount_point
from afs.types import Fid, VnodeType, root_fid
from afs.v1 import file_server_pb2 as pb
from afs.wire import check_name, fid_to_wire
from clientd.core.cache import VnodeCache
from clientd.directories import Directories
from clientd.statuses import Source, Statuses, callback_of
from clientd.volume_calls import VolumeCalls
from clientd.volume_location import VolumeGoneError
from clientd.volumes import Volumes

# Source: POSIX PATH_MAX is 4,096 bytes; a path here may well be longer, but is bounded.
MAX_PATH_BYTES: Final = 32 * 1024
MAX_ATTEMPTS: Final = 3
# What is said of a name that no volume has, or can have.
_NO_SUCH_VOLUME: Final = frozenset({AfsCode.VNOVOL, AfsCode.EINVAL, AfsCode.ENAMETOOLONG})

T = TypeVar("T")


class Last(Enum):
    """What the last name of a path stands for.

    FOLLOW: what a symbolic link points to, or the volume of a mount point. CROSS: a symbolic link
    itself, but the volume of a mount point. ITSELF: a mount point itself as well.
    """

    FOLLOW = "follow"
    CROSS = "cross"
    ITSELF = "itself"


@dataclass(frozen=True, slots=True)
class Mounted:
    """The mount point by which a volume's root directory was reached: the link and its target."""

    fid: Fid
    target: str


@dataclass(frozen=True, slots=True)
class Place:
    """A vnode found by a path.

    `name` is its last name and `parent` the directory that has it; a volume's root directory has
    itself. `source` says where the steps' answers came from. `mounted` is set for a volume's root
    directory that a mount point led to.
    """

    volume: VolumeCalls
    fid: Fid
    type: VnodeType
    parent: Fid
    name: str
    source: Source
    mounted: Mounted | None = None

    @property
    def is_volume_root(self) -> bool:
        """True for the root directory of a volume, which has no name in any directory."""
        return self.fid == root_fid(self.fid.volume)


@dataclass(frozen=True, slots=True)
class Absent:
    """A name that its directory does not have: where something can be made."""

    volume: VolumeCalls
    parent: Fid
    name: str
    source: Source


class CellRoot:
    """The path "/" of a cell without `root.cell`: the volumes, which no fileserver lists."""


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of a walk: a vnode, and the name and mount point by which it was reached."""

    volume: VolumeCalls
    fid: Fid
    type: VnodeType
    name: str
    mounted: Mounted | None = None


@dataclass(slots=True)
class _Walk:
    """A walk under way: the steps done, the names to go, and what that took."""

    path: str
    to_go: deque[str]
    last: Last
    root: VolumeCalls | None
    trail: list[_Step] = field(default_factory=list)
    source: Source = Source.CACHE
    links: int = 0

    def to_root(self) -> None:
        """Stands at "/"."""
        self.trail = [_root_step(self.root, "")] if self.root is not None else []

    def up(self) -> None:
        """One directory up; above "/" is "/"."""
        if len(self.trail) > (self.root is not None):
            self.trail.pop()

    def follow(self, target: str) -> None:
        """Goes where a symbolic link points to."""
        self.links += 1
        if self.links > MAX_SYMLINKS_FOLLOWED:
            raise AfsError(
                AfsCode.ELOOP,
                f"{self.path}: more than {MAX_SYMLINKS_FOLLOWED} symbolic links to follow",
            )
        self.to_go.extendleft(reversed([part for part in target.split("/") if part]))
        if target.startswith("/"):
            self.to_root()

    def place(self) -> Place:
        """Where the walk stands."""
        here = self.trail[-1]
        is_root = here.fid == root_fid(here.fid.volume)
        parent = here.fid if is_root else self.trail[-2].fid
        return Place(here.volume, here.fid, here.type, parent, here.name, self.source, here.mounted)


class PathWalk:
    """Finds vnodes by paths.

    Args:
        cache: keeps symbolic links' targets.
        volumes: finds volumes.
        statuses: tells statuses.
        directories: tells names.
    """

    def __init__(
        self,
        cache: VnodeCache,
        volumes: Volumes,
        statuses: Statuses,
        directories: Directories,
    ) -> None:
        self._cache = cache
        self._volumes = volumes
        self._statuses = statuses
        self._directories = directories

    async def find(self, path: str, *, last: Last = Last.FOLLOW) -> Place | CellRoot:
        """What the path names.

        Args:
            path: begins with `/`.
            last: what a symbolic link or mount point at the end stands for.

        Raises:
            AfsError: ENOENT, ENOTDIR, ELOOP, EINVAL for a path that is none, VNOVOL for an unknown
                volume; else as the fileserver says.
        """
        found = await self.find_or_absent(path, last=last)
        if isinstance(found, Absent):
            raise AfsError(AfsCode.ENOENT, f"{path}: there is no {found.name!r}")
        return found

    async def find_or_absent(
        self, path: str, *, last: Last = Last.FOLLOW
    ) -> Place | Absent | CellRoot:
        """As `find`; where only the last name is missing, the place where it could be made."""
        names = split_path(path)
        # Who asks what "/" is sees a `root.cell` that was just made.
        root = await self._volumes.root(fresh=not names)
        walk = _Walk(path, deque(names), last, root)
        walk.to_root()
        while walk.to_go:
            name = walk.to_go.popleft()
            if name == "..":
                walk.up()
            elif name != ".":
                absent = await self._step(walk, name)
                if absent is not None:
                    return absent
        return walk.place() if walk.trail else CellRoot()

    async def attempt(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does something with paths; anew if a volume is gone, another may have its name by now.

        Raises:
            AfsError: as `work` does.
        """
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await work()
            except VolumeGoneError:
                pass
        return await work()

    async def target(self, volume: VolumeCalls, fid: Fid) -> str:
        """Where a symbolic link points to."""
        known = await self._statuses.status(volume, fid)
        entry = self._cache.get(fid)
        if entry is not None and entry.symlink_version == known.vnode.data_version:
            assert entry.symlink_target is not None
            return entry.symlink_target
        request = pb.ReadLinkRequest(fid=fid_to_wire(fid))
        response, ticket = await volume.call(lambda stub: stub.ReadLink, request)
        vnode, _ = volume.take_in(response.status, callback_of(response), ticket)
        entry = self._cache.get(fid)
        if entry is not None:
            entry.symlink_target = response.target
            entry.symlink_version = vnode.data_version
        return response.target

    # --- within ---

    async def _step(self, walk: _Walk, name: str) -> Absent | None:
        """Goes on by one name; an Absent if it is the last one and not there."""
        if not walk.trail:
            volume = await self._volume_at_root(walk, name)
            walk.trail.append(_root_step(volume, "" if volume is walk.root else name))
            return None
        here = walk.trail[-1]
        if here.type is not VnodeType.DIRECTORY:
            raise AfsError(AfsCode.ENOTDIR, f"{walk.path}: {here.name!r} is no directory")
        found = await self._directories.find(here.volume, here.fid, check_name(name))
        walk.source = max(walk.source, found.source)
        entry = found.entry
        if entry is None:
            return await self._missing(walk, name)
        if entry.type is VnodeType.SYMLINK:
            await self._link(walk, _Step(here.volume, entry.fid, entry.type, name))
        else:
            walk.trail.append(_Step(here.volume, entry.fid, entry.type, name))
        return None

    async def _volume_at_root(self, walk: _Walk, name: str) -> VolumeCalls:
        """The volume that a first name stands for in a cell without `root.cell`.

        If there is none, the cell may have got a `root.cell` meanwhile, which has the name.
        """
        try:
            return await self._volumes.named(name)
        except AfsError as error:
            if error.code not in _NO_SUCH_VOLUME:
                raise
            walk.root = await self._volumes.root(fresh=True)
            if walk.root is None:
                raise
        walk.to_go.appendleft(name)
        return walk.root

    async def _missing(self, walk: _Walk, name: str) -> Absent | None:
        """A directory does not have the name; in "/" it may stand for a volume."""
        here = walk.trail[-1]
        if walk.root is not None and len(walk.trail) == 1:
            try:
                volume = await self._volumes.named(name)
            except AfsError as error:
                if error.code not in _NO_SUCH_VOLUME:
                    raise
            else:
                walk.trail.append(_root_step(volume, name))
                return None
        if walk.to_go:
            raise AfsError(AfsCode.ENOENT, f"{walk.path}: there is no {name!r}")
        return Absent(here.volume, here.fid, name, walk.source)

    async def _link(self, walk: _Walk, link: _Step) -> None:
        """Goes on at a symbolic link: through it, across it if it is a mount point, or not."""
        if walk.last is Last.ITSELF and not walk.to_go:
            walk.trail.append(link)
            return
        known = await self._statuses.status(link.volume, link.fid)
        walk.source = max(walk.source, known.source)
        if may_be_mount_point(known.vnode.mode):
            target = await self.target(link.volume, link.fid)
            mount = parse_mount_point(known.vnode.mode, target)
            if mount is not None:
                volume = await self._mounted(walk, link, mount)
                walk.trail.append(_root_step(volume, link.name, Mounted(link.fid, target)))
                return
        if walk.last is Last.FOLLOW or walk.to_go:
            walk.follow(await self.target(link.volume, link.fid))
        else:
            walk.trail.append(link)

    async def _mounted(self, walk: _Walk, link: _Step, mount: MountPoint) -> VolumeCalls:
        """The volume that a mount point leads to."""
        try:
            return await self._volumes.mounted(mount, link.volume.type)
        except AfsError as error:
            raise AfsError(
                error.code,
                f"{walk.path}: mount point {link.name!r} ({mount.target}): {error.detail}",
            ) from None


def _root_step(volume: VolumeCalls, name: str, mounted: Mounted | None = None) -> _Step:
    """The step to a volume's root directory."""
    return _Step(volume, root_fid(volume.volume_id), VnodeType.DIRECTORY, name, mounted)


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
