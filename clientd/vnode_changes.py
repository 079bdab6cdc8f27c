"""Changes of vnodes and names, by Fid: sent to the fileserver, then taken in by the cache.

A change whose outcome is unknown (the answer was lost, or the local program went away meanwhile)
may have happened: whatever it was about is then asked for anew before it is answered from the
cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from afs.errors import AfsError
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
from clientd.core.listing import AddName, Edit, Listing, RemoveName
from clientd.disk_cache import DiskCache
from clientd.fileserver_client import OUTCOME_UNKNOWN_S, AnswerLostError
from clientd.fileservers import FileServers
from clientd.journal import Journal
from clientd.statuses import callback_of
from clientd.volume_calls import VolumeCalls

T = TypeVar("T")


class VnodeChanges:
    """Makes, removes, renames, and sets attributes.

    Args:
        cache: takes in the outcomes.
        disk: data of removed files goes.
        servers: the time.
        journal: counts.
    """

    def __init__(
        self, cache: VnodeCache, disk: DiskCache, servers: FileServers, journal: Journal
    ) -> None:
        self._cache = cache
        self._disk = disk
        self._servers = servers
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

    # --- making ---

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

    async def make_dir(
        self, volume: VolumeCalls, parent: Fid, name: str, set_status: SetStatus
    ) -> Vnode:
        """Makes an empty directory. EEXIST if the name is taken."""
        request = pb.MakeDirRequest(
            directory=fid_to_wire(parent),
            name=check_name(name),
            set_status=set_status_to_wire(set_status),
        )
        async with self._changing(parent):
            response, ticket = await volume.call(
                lambda stub: stub.MakeDir, request, repeatable=False
            )
            vnode = volume.take_in_changed(response.status, callback_of(response), ticket)
            self._added(response.directory_status, name, vnode)
            # What is in it is known: nothing.
            now = self._servers.now()
            nothing = Listing([], vnode.data_version, complete=True)
            fresh = self._cache.ticket(ticket.server, now)
            self._cache.keep_listing(fresh, vnode.fid, nothing, now)
        return vnode

    async def make_symlink(
        self, volume: VolumeCalls, parent: Fid, name: str, target: str, set_status: SetStatus
    ) -> Vnode:
        """Makes a symbolic link. EEXIST if the name is taken."""
        request = pb.SymlinkRequest(
            directory=fid_to_wire(parent),
            name=check_name(name),
            target=check_symlink_target(target),
            set_status=set_status_to_wire(set_status),
        )
        async with self._changing(parent):
            response, ticket = await volume.call(
                lambda stub: stub.Symlink, request, repeatable=False
            )
            vnode = volume.take_in_changed(response.status, callback_of(response), ticket)
            self._added(response.directory_status, name, vnode)
        return vnode

    async def link(self, volume: VolumeCalls, parent: Fid, name: str, target: Fid) -> Vnode:
        """Gives a file one more name in its directory. EEXIST if it is taken; EXDEV elsewhere."""
        request = pb.LinkRequest(
            directory=fid_to_wire(parent), name=check_name(name), target=fid_to_wire(target)
        )
        async with self._changing(parent, target):
            response, ticket = await volume.call(lambda stub: stub.Link, request, repeatable=False)
            vnode = volume.take_in_changed(response.status, None, ticket)
            self._added(response.directory_status, name, vnode)
        return vnode

    # --- changing ---

    async def set_status(self, volume: VolumeCalls, fid: Fid, set_status: SetStatus) -> Vnode:
        """Sets attributes, the length among them; the status after that."""
        request = pb.StoreStatusRequest(
            fid=fid_to_wire(fid), set_status=set_status_to_wire(set_status)
        )
        async with self._changing(fid):
            response, ticket = await volume.call(lambda stub: stub.StoreStatus, request)
            return volume.take_in_changed(response.status, callback_of(response), ticket)

    async def rename(
        self,
        volume: VolumeCalls,
        old: tuple[Fid, str],
        new: tuple[Fid, str],
        fid: Fid,
        replaced: Fid | None,
    ) -> Vnode:
        """Moves a name; what had the new one is replaced.

        Args:
            volume: the one all this is in.
            old: directory and name.
            new: directory and name.
            fid: what is moved, as far as is known.
            replaced: what has the new name, as far as is known.
        """
        (old_parent, old_name), (new_parent, new_name) = old, new
        request = pb.RenameRequest(
            old_directory=fid_to_wire(old_parent),
            old_name=old_name,
            new_directory=fid_to_wire(new_parent),
            new_name=check_name(new_name),
        )
        fids = [old_parent, new_parent, fid, *([replaced] if replaced else [])]
        async with self._changing(*fids):
            response, ticket = await volume.call(
                lambda stub: stub.Rename, request, repeatable=False
            )
            # No promise comes with it: the status is a hint until it is asked for.
            vnode = volume.take_in_changed(response.status, None, ticket)
            remove, add = RemoveName(old_name), _added_name(new_name, vnode)
            if old_parent == new_parent:
                self._changed_directory(response.new_directory_status, [remove, add])
            else:
                self._changed_directory(response.old_directory_status, [remove])
                self._changed_directory(response.new_directory_status, [add])
            if replaced is not None:
                # The fileserver tells the others; we have to see for ourselves.
                self._cache.distrust([replaced])
        return vnode

    async def remove(
        self, volume: VolumeCalls, parent: Fid, name: str, fid: Fid, kind: VnodeType
    ) -> None:
        """Removes a name of a file or symbolic link, or an empty directory."""
        directory = fid_to_wire(parent)
        async with self._changing(parent, fid):
            if kind is VnodeType.DIRECTORY:
                gone = await volume.call(
                    lambda stub: stub.RemoveDir,
                    pb.RemoveDirRequest(directory=directory, name=name),
                    repeatable=False,
                )
                above, left = gone[0].directory_status, None
            else:
                removed = await volume.call(
                    lambda stub: stub.RemoveFile,
                    pb.RemoveFileRequest(directory=directory, name=name),
                    repeatable=False,
                )
                above, left = removed[0].directory_status, removed[0].status
            self._changed_directory(above, [RemoveName(name)])
            removed_fid = fid if left is None else fid_from_wire(left.fid)
            if removed_fid != fid:
                # Somebody put another file in this place meanwhile, and that one was removed.
                self._cache.distrust([fid])
            if left is None or left.link_count == 0:
                self._cache.forget(removed_fid)
            else:
                self._cache.distrust([removed_fid])
        if left is None or left.link_count == 0:
            await self._disk.forget([removed_fid])

    # --- within ---

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
