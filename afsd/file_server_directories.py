"""FileServer: directories and the names in them."""

from __future__ import annotations

from collections.abc import AsyncIterator

from afs.access.acl import Right
from afs.access.requirements import file_server_rights
from afs.errors import AfsCode, AfsError
from afs.limits import DIRECTORY_ENTRIES_PER_MESSAGE
from afs.runtime.interceptors import Context
from afs.types import Fid, Vnode, VnodeType
from afs.v1 import file_server_pb2 as pb
from afs.v1 import types_pb2
from afs.volume.volume import (
    CreateFile,
    Link,
    MakeDir,
    MakeSymlink,
    Mutation,
    RemoveDir,
    RemoveFile,
    Rename,
)
from afs.wire import (
    check_name,
    check_symlink_target,
    entries_to_wire,
    fid_from_wire,
    set_status_from_wire,
    status_to_wire,
)
from afsd import access
from afsd.call_preamble import calling_host
from afsd.file_server_base import FileServerBase

# A name that is replaced again and again between looking it up and reading what it stands for is
# given up on.
_LOOKUP_ATTEMPTS = 8


class DirectoryMethods(FileServerBase):
    """Names: looking them up, listing, making, moving and removing them."""

    async def Lookup(
        self,
        request: pb.LookupRequest,
        _context: Context,
    ) -> pb.LookupResponse:
        """What a name stands for, with a promise on it and one on the directory."""
        directory = fid_from_wire(request.directory, "directory")
        name = check_name(request.name)
        attached = self._volumes.use(directory.volume)
        caller = calling_host.get()
        needs = file_server_rights("Lookup")
        directory_vnode, directory_callback = await self._status(attached, directory, caller, needs)
        for _ in range(_LOOKUP_ATTEMPTS):
            found = await attached.read(attached.volume.lookup, directory, name)
            attached.check()
            try:
                vnode, callback = await self._status(attached, found.fid, caller, needs)
            except AfsError as error:
                if error.code is AfsCode.VNOVNODE:
                    # Removed, or replaced, since it was looked up.
                    continue
                raise
            return pb.LookupResponse(
                status=status_to_wire(vnode),
                callback=callback,
                directory_status=status_to_wire(directory_vnode),
                directory_callback=directory_callback,
            )
        raise AfsError(AfsCode.EAGAIN, f"name {name!r} in directory {directory} keeps changing")

    async def ReadDir(
        self,
        request: pb.ReadDirRequest,
        _context: Context,
    ) -> AsyncIterator[pb.ReadDirResponse]:
        """Status and promise of a directory first, then its entries.

        A change during the stream shows in the entries or not; it breaks the promise in any case,
        and the status, being older than all entries, tells that they are to be read again.
        """
        directory = fid_from_wire(request.directory, "directory")
        after = check_name(request.after) if request.after else ""
        attached = self._volumes.use(directory.volume)
        vnode, callback = await self._status(
            attached, directory, calling_host.get(), file_server_rights("ReadDir")
        )
        if vnode.type is not VnodeType.DIRECTORY:
            raise AfsError(AfsCode.ENOTDIR, f"{directory} is no directory")
        limit = DIRECTORY_ENTRIES_PER_MESSAGE
        entries = await attached.read(attached.volume.entries, directory, after, limit)
        yield pb.ReadDirResponse(
            directory_status=status_to_wire(vnode),
            directory_callback=callback,
            entries=entries_to_wire(entries),
        )
        while len(entries) == limit:
            entries = await attached.read(
                attached.volume.entries, directory, entries[-1].name, limit
            )
            if entries:
                yield pb.ReadDirResponse(entries=entries_to_wire(entries))

    async def ReadLink(
        self,
        request: pb.ReadLinkRequest,
        _context: Context,
    ) -> pb.ReadLinkResponse:
        """The target of a symbolic link, with its status and promise."""
        fid = fid_from_wire(request.fid)
        attached = self._volumes.use(fid.volume)
        vnode, callback = await self._status(
            attached, fid, calling_host.get(), file_server_rights("ReadLink")
        )
        target = await attached.read(attached.volume.read_link, fid)
        return pb.ReadLinkResponse(target=target, status=status_to_wire(vnode), callback=callback)

    async def CreateFile(
        self,
        request: pb.CreateFileRequest,
        _context: Context,
    ) -> pb.CreateFileResponse:
        """Makes an empty file."""
        directory = fid_from_wire(request.directory, "directory")
        set_status = access.status_of_new(set_status_from_wire(request.set_status))
        mutation = CreateFile(directory, check_name(request.name), set_status)
        status, callback, directory_status = await self._make(
            directory, mutation, file_server_rights("CreateFile")
        )
        return pb.CreateFileResponse(
            status=status, callback=callback, directory_status=directory_status
        )

    async def MakeDir(
        self,
        request: pb.MakeDirRequest,
        _context: Context,
    ) -> pb.MakeDirResponse:
        """Makes an empty directory."""
        directory = fid_from_wire(request.directory, "directory")
        set_status = access.status_of_new(set_status_from_wire(request.set_status))
        mutation = MakeDir(directory, check_name(request.name), set_status)
        status, callback, directory_status = await self._make(
            directory, mutation, file_server_rights("MakeDir")
        )
        return pb.MakeDirResponse(
            status=status, callback=callback, directory_status=directory_status
        )

    async def Symlink(
        self,
        request: pb.SymlinkRequest,
        _context: Context,
    ) -> pb.SymlinkResponse:
        """Makes a symbolic link."""
        directory = fid_from_wire(request.directory, "directory")
        mutation = MakeSymlink(
            directory,
            check_name(request.name),
            check_symlink_target(request.target),
            access.status_of_new(set_status_from_wire(request.set_status)),
        )
        status, callback, directory_status = await self._make(
            directory, mutation, file_server_rights("Symlink")
        )
        return pb.SymlinkResponse(
            status=status, callback=callback, directory_status=directory_status
        )

    async def _make(
        self, directory: Fid, mutation: Mutation, needs: Right
    ) -> tuple[types_pb2.FileStatus, types_pb2.CallBack | None, types_pb2.FileStatus]:
        """Makes a vnode: its status, the promise on it, the status of its directory."""
        attached = self._volumes.use(directory.volume)
        await access.require(attached, directory, needs)
        outcome = await self._change(attached, mutation)
        vnode = _there(outcome.vnode)
        callback = self._writers_promise(attached, vnode)
        return status_to_wire(vnode), callback, status_to_wire(_there(outcome.directory))

    async def Link(
        self,
        request: pb.LinkRequest,
        _context: Context,
    ) -> pb.LinkResponse:
        """Gives a file one more name in its directory."""
        directory = fid_from_wire(request.directory, "directory")
        target = fid_from_wire(request.target, "target")
        _check_same_volume(directory, target)
        attached = self._volumes.use(directory.volume)
        await access.require(attached, directory, file_server_rights("Link"))
        outcome = await self._change(attached, Link(directory, check_name(request.name), target))
        return pb.LinkResponse(
            status=status_to_wire(_there(outcome.vnode)),
            directory_status=status_to_wire(_there(outcome.directory)),
        )

    async def RemoveFile(
        self,
        request: pb.RemoveFileRequest,
        _context: Context,
    ) -> pb.RemoveFileResponse:
        """Takes a name of a file or symbolic link away."""
        directory = fid_from_wire(request.directory, "directory")
        name = check_name(request.name)
        attached = self._volumes.use(directory.volume)
        await access.require(attached, directory, file_server_rights("RemoveFile"))
        outcome = await self._change(attached, RemoveFile(directory, name))
        return pb.RemoveFileResponse(
            directory_status=status_to_wire(_there(outcome.directory)),
            status=status_to_wire(_there(outcome.vnode)),
        )

    async def RemoveDir(
        self,
        request: pb.RemoveDirRequest,
        _context: Context,
    ) -> pb.RemoveDirResponse:
        """Removes an empty directory."""
        directory = fid_from_wire(request.directory, "directory")
        name = check_name(request.name)
        attached = self._volumes.use(directory.volume)
        await access.require(attached, directory, file_server_rights("RemoveDir"))
        outcome = await self._change(attached, RemoveDir(directory, name))
        return pb.RemoveDirResponse(directory_status=status_to_wire(_there(outcome.directory)))

    async def Rename(
        self,
        request: pb.RenameRequest,
        _context: Context,
    ) -> pb.RenameResponse:
        """Moves a name, replacing what the new name stands for."""
        old_directory = fid_from_wire(request.old_directory, "old_directory")
        new_directory = fid_from_wire(request.new_directory, "new_directory")
        _check_same_volume(old_directory, new_directory)
        old_name, new_name = check_name(request.old_name), check_name(request.new_name)
        attached = self._volumes.use(old_directory.volume)
        needs = file_server_rights("Rename")
        await access.require(attached, old_directory, needs)
        await access.require(attached, new_directory, Right.INSERT)
        # Decided in the change itself whether something is replaced.
        may_replace = await access.has(attached, new_directory, needs)
        mutation = Rename(old_directory, old_name, new_directory, new_name, may_replace)
        outcome = await self._change(attached, mutation)
        old = _there(outcome.directory)
        return pb.RenameResponse(
            old_directory_status=status_to_wire(old),
            new_directory_status=status_to_wire(outcome.new_directory or old),
            status=status_to_wire(_there(outcome.vnode)),
        )


def _there(vnode: Vnode | None) -> Vnode:
    """The vnode of an outcome that has one by its contract."""
    assert vnode is not None
    return vnode


def _check_same_volume(first: Fid, second: Fid) -> None:
    if first.volume != second.volume:
        raise AfsError(AfsCode.EXDEV, f"{first} and {second} are in different volumes")
