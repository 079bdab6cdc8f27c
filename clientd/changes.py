"""Changes that local programs ask for: sent to the fileserver at once, then taken in by the cache.

A change whose outcome is unknown (the answer was lost, or the local program went away meanwhile)
may have happened: whatever it was about is then asked for anew before it is answered from the
cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from afs.errors import AfsCode, AfsError
from afs.types import DirectoryEntry, Fid, SetStatus, Vnode, VnodeType
from afs.v1 import file_server_pb2 as pb
from afs.v1 import types_pb2
from afs.wire import (
    check_name,
    check_symlink_target,
    fid_from_wire,
    fid_to_wire,
    set_status_to_wire,
    status_from_wire,
)
from clientd.core.cache import VnodeCache
from clientd.core.listing import AddName, Edit, RemoveName
from clientd.directories import Directories
from clientd.disk_cache import DiskCache
from clientd.fileserver_client import OUTCOME_UNKNOWN_S, AnswerLostError
from clientd.fileservers import FileServers
from clientd.journal import Journal
from clientd.path_walk import Absent, CellRoot, Last, PathWalk, Place
from clientd.statuses import callback_of
from clientd.volume_calls import VolumeCalls

# Removals under way at a time within one recursive removal.
REMOVALS_AT_A_TIME: Final = 16
T = TypeVar("T")

GONE: Final = frozenset({AfsCode.ENOENT, AfsCode.VNOVNODE})


class Changes:
    """Makes, removes and renames.

    Args:
        cache: takes in the outcomes.
        disk: data of removed files goes.
        servers: the time.
        walk: finds the places.
        directories: lists what is to be removed.
        journal: counts.
    """

    def __init__(
        self,
        cache: VnodeCache,
        disk: DiskCache,
        servers: FileServers,
        walk: PathWalk,
        directories: Directories,
        journal: Journal,
    ) -> None:
        self._cache = cache
        self._disk = disk
        self._servers = servers
        self._walk = walk
        self._directories = directories
        self._journal = journal
        self._under_way: set[asyncio.Task[Any]] = set()

    async def to_the_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Makes a change whose outcome is taken in even if its caller goes away meanwhile."""
        task = asyncio.create_task(change)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """Waits for the changes under way."""
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        # Looked at here, because its caller may have gone.
        if not task.cancelled():
            task.exception()

    async def make_file(
        self, volume: VolumeCalls, parent: Fid, name: str, set_status: SetStatus
    ) -> Vnode:
        """Makes an empty file. EEXIST if the name is taken."""
        request = pb.CreateFileRequest(
            directory=fid_to_wire(parent),
            name=check_name(name),
            set_status=set_status_to_wire(set_status),
        )
        async with self._changing(parent):
            response, ticket = await volume.call(
                lambda stub: stub.CreateFile, request, repeatable=False
            )
            vnode = volume.take_in_changed(response.status, callback_of(response), ticket)
            self._added(response.directory_status, name, vnode)
        return vnode

    async def make_dir(self, path: str, set_status: SetStatus) -> Vnode:
        """Makes an empty directory. EEXIST if the path names something."""
        place = await self._absent(path)
        volume = place.volume
        request = pb.MakeDirRequest(
            directory=fid_to_wire(place.parent),
            name=check_name(place.name),
            set_status=set_status_to_wire(set_status),
        )
        async with self._changing(place.parent):
            response, ticket = await volume.call(
                lambda stub: stub.MakeDir, request, repeatable=False
            )
            vnode = volume.take_in_changed(response.status, callback_of(response), ticket)
            self._added(response.directory_status, place.name, vnode)
        return vnode

    async def make_symlink(self, path: str, target: str, set_status: SetStatus) -> Vnode:
        """Makes a symbolic link. EEXIST if the path names something."""
        place = await self._absent(path)
        volume = place.volume
        request = pb.SymlinkRequest(
            directory=fid_to_wire(place.parent),
            name=check_name(place.name),
            target=check_symlink_target(target),
            set_status=set_status_to_wire(set_status),
        )
        async with self._changing(place.parent):
            response, ticket = await volume.call(
                lambda stub: stub.Symlink, request, repeatable=False
            )
            vnode = volume.take_in_changed(response.status, callback_of(response), ticket)
            self._added(response.directory_status, place.name, vnode)
        return vnode

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
        return await self._rename(old, new, replaced)

    # --- within ---

    async def _rename(self, old: Place, new: Place | Absent, replaced: Fid | None) -> Vnode:
        volume = old.volume
        request = pb.RenameRequest(
            old_directory=fid_to_wire(old.parent),
            old_name=old.name,
            new_directory=fid_to_wire(new.parent),
            new_name=check_name(new.name),
        )
        fids = [old.parent, new.parent, old.fid, *([replaced] if replaced else [])]
        async with self._changing(*fids):
            response, ticket = await volume.call(
                lambda stub: stub.Rename, request, repeatable=False
            )
            # No promise comes with it: the status is a hint until it is asked for.
            vnode = volume.take_in_changed(response.status, None, ticket)
            remove, add = RemoveName(old.name), _added_name(new.name, vnode)
            if old.parent == new.parent:
                self._changed_directory(response.new_directory_status, [remove, add])
            else:
                self._changed_directory(response.old_directory_status, [remove])
                self._changed_directory(response.new_directory_status, [add])
            if replaced is not None:
                # The fileserver tells the others; we have to see for ourselves.
                self._cache.distrust([replaced])
        return vnode

    async def _remove(self, place: Place) -> None:
        volume = place.volume
        directory = fid_to_wire(place.parent)
        async with self._changing(place.parent, place.fid):
            if place.type is VnodeType.DIRECTORY:
                gone = await volume.call(
                    lambda stub: stub.RemoveDir,
                    pb.RemoveDirRequest(directory=directory, name=place.name),
                    repeatable=False,
                )
                above, left = gone[0].directory_status, None
            else:
                removed = await volume.call(
                    lambda stub: stub.RemoveFile,
                    pb.RemoveFileRequest(directory=directory, name=place.name),
                    repeatable=False,
                )
                above, left = removed[0].directory_status, removed[0].status
            self._changed_directory(above, [RemoveName(place.name)])
            removed_fid = place.fid if left is None else fid_from_wire(left.fid)
            if removed_fid != place.fid:
                # Somebody put another file in this place meanwhile, and that one was removed.
                self._cache.distrust([place.fid])
            if left is None or left.link_count == 0:
                self._cache.forget(removed_fid)
            else:
                self._cache.distrust([removed_fid])
        if left is None or left.link_count == 0:
            await self._disk.forget([removed_fid])

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

    @asynccontextmanager
    async def _changing(self, *fids: Fid) -> AsyncGenerator[None, None]:
        """Around a change to these: with its outcome unknown, they are not trusted for a while."""
        self._journal.count("change_calls")
        try:
            yield
        except AnswerLostError:
            self._cache.distrust(fids, self._servers.now() + OUTCOME_UNKNOWN_S)
            raise
        except AfsError:
            # The fileserver said no: nothing has happened.
            raise
        except BaseException:
            self._cache.distrust(fids, self._servers.now() + OUTCOME_UNKNOWN_S)
            raise

    def _added(self, directory: types_pb2.FileStatus, name: str, vnode: Vnode) -> None:
        self._changed_directory(directory, [_added_name(name, vnode)])

    def _changed_directory(self, status: types_pb2.FileStatus, edits: Sequence[Edit]) -> None:
        self._cache.apply_directory_changed(status_from_wire(status), edits, self._servers.now())


def _added_name(name: str, vnode: Vnode) -> AddName:
    return AddName(DirectoryEntry(name, vnode.fid, vnode.type))


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
