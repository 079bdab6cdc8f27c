"""Changes that local programs ask for by path (`vnode_changes` makes them)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.types import Fid, SetStatus, Vnode, VnodeType
from clientd.directories import Directories
from clientd.path_walk import Absent, CellRoot, Last, PathWalk, Place
from clientd.vnode_changes import VnodeChanges
from clientd.volume_calls import VolumeCalls

# Removals under way at a time within one recursive removal.
REMOVALS_AT_A_TIME: Final = 16

GONE: Final = frozenset({AfsCode.ENOENT, AfsCode.VNOVNODE})


class Changes:
    """Makes, removes and renames what paths name.

    Args:
        vnodes: makes the changes.
        walk: finds the places.
        directories: lists what is to be removed.
    """

    def __init__(self, vnodes: VnodeChanges, walk: PathWalk, directories: Directories) -> None:
        self._vnodes = vnodes
        self._walk = walk
        self._directories = directories

    async def make_dir(self, path: str, set_status: SetStatus) -> Vnode:
        """Makes an empty directory. EEXIST if the path names something."""
        place = await self._absent(path)
        return await self._vnodes.make_dir(place.volume, place.parent, place.name, set_status)

    async def make_symlink(self, path: str, target: str, set_status: SetStatus) -> Vnode:
        """Makes a symbolic link. EEXIST if the path names something."""
        place = await self._absent(path)
        return await self._vnodes.make_symlink(
            place.volume, place.parent, place.name, target, set_status
        )

    async def remove(self, path: str, *, recursive: bool) -> None:
        """Removes a file, a symbolic link or a directory. ENOTEMPTY unless `recursive`."""
        place = await self._walk.find(path, last=Last.ITSELF)
        if isinstance(place, CellRoot) or place.is_volume_root:
            raise AfsError(AfsCode.EINVAL, f"{path}: a volume is removed with vos, not by its path")
        if place.type is VnodeType.DIRECTORY and recursive:
            await self._remove_all_in(place.volume, place.fid)
        await self._remove(place)

    async def rename(self, old_path: str, new_path: str) -> Vnode:
        """Moves a name as POSIX does: what had the new one is replaced."""
        old = await self._walk.find(old_path, last=Last.ITSELF)
        new = await self._walk.find_or_absent(new_path, last=Last.ITSELF)
        for found, path in ((old, old_path), (new, new_path)):
            if isinstance(found, CellRoot) or (isinstance(found, Place) and found.is_volume_root):
                raise AfsError(AfsCode.EINVAL, f"{path}: a volume is renamed with vos")
        assert isinstance(old, Place) and not isinstance(new, CellRoot)
        if old.fid.volume != new.parent.volume:
            raise AfsError(AfsCode.EXDEV, f"{old_path} and {new_path} are in different volumes")
        replaced = new.fid if isinstance(new, Place) and new.fid != old.fid else None
        return await self._vnodes.rename(
            old.volume, (old.parent, old.name), (new.parent, new.name), old.fid, replaced
        )

    # --- within ---

    async def _remove(self, place: Place) -> None:
        await self._vnodes.remove(place.volume, place.parent, place.name, place.fid, place.type)

    async def _remove_all_in(self, volume: VolumeCalls, top: Fid) -> None:
        """Removes what is in a directory; what others remove meanwhile is no matter."""
        directories: list[Place] = []
        to_list = [top]
        while to_list:
            directory = to_list.pop()
            try:
                listed = await self._directories.list_all(volume, directory)
            except AfsError as error:
                if error.code not in GONE:
                    raise
                continue
            places = [
                Place(volume, entry.fid, entry.type, directory, entry.name, listed.source)
                for entry in listed.listing.in_order()
            ]
            inner = [place for place in places if place.type is VnodeType.DIRECTORY]
            directories += inner
            to_list += [place.fid for place in inner]
            await _for_each(
                [place for place in places if place.type is not VnodeType.DIRECTORY],
                self._remove_if_there,
            )
        # Every directory was noted after the one it is in.
        for place in reversed(directories):
            await self._remove_if_there(place)

    async def _remove_if_there(self, place: Place) -> None:
        try:
            await self._remove(place)
        except AfsError as error:
            if error.code not in GONE:
                raise

    async def _absent(self, path: str) -> Absent:
        """The place for something new."""
        found = await self._walk.find_or_absent(path, last=Last.ITSELF)
        if not isinstance(found, Absent):
            raise AfsError(AfsCode.EEXIST, f"{path} exists")
        return found


async def _for_each(places: Sequence[Place], work: Callable[[Place], Awaitable[None]]) -> None:
    """Does the work on every place, a few at a time; the first error ends it."""
    to_do = iter(places)

    async def worker() -> None:
        for place in to_do:
            await work(place)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(REMOVALS_AT_A_TIME, len(places))):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
