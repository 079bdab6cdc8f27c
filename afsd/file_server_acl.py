"""FileServer: the access lists of directories."""

from __future__ import annotations

from afs.access.acl import AccessList, parse_acl
from afs.access.acl_text import by_id, named, parse_named_acl
from afs.access.requirements import file_server_rights
from afs.runtime.interceptors import Context
from afs.types import Fid, Vnode, VnodeType
from afs.v1 import file_server_pb2 as pb
from afs.volume.volume import StoreAcl
from afs.wire import fid_from_wire, status_to_wire
from afsd import access
from afsd.attached_volume import AttachedVolume
from afsd.file_server_base import FileServerBase


class AclMethods(FileServerBase):
    """FetchACL and StoreACL."""

    async def FetchACL(
        self,
        request: pb.FetchACLRequest,
        _context: Context,
    ) -> pb.FetchACLResponse:
        """The access list of a directory, or of the directory that a file is in."""
        fid = fid_from_wire(request.fid)
        attached = self._volumes.use(fid.volume)
        await access.require(attached, fid, file_server_rights("FetchACL"))
        acl = parse_acl((await self._directory(attached, fid)).acl)
        return pb.FetchACLResponse(acl=named(acl, await self._names.of(_ids(acl))).text())

    async def StoreACL(
        self,
        request: pb.StoreACLRequest,
        _context: Context,
    ) -> pb.StoreACLResponse:
        """Gives a directory another access list.

        Whoever held promises on it and on the files in it has been told when this is answered, so
        that nobody goes by rights of before.

        Raises:
            AfsError: ENOTDIR for a file; EINVAL for a text that is no access list, or names that
                the cell does not have; VBUSY if the protection database does not answer.
        """
        fid = fid_from_wire(request.fid)
        wanted = parse_named_acl(request.acl)
        attached = self._volumes.use(fid.volume)
        await access.require(attached, fid, file_server_rights("StoreACL"))
        ids = await self._names.ids(wanted.names())
        # A dead one's number may stay where it stands.
        old = _ids(parse_acl((await self._directory(attached, fid)).acl))
        ids |= {str(each): each for each in old if str(each) in wanted.names()}
        outcome = await self._change(attached, StoreAcl(fid, by_id(wanted, ids).text()))
        assert outcome.vnode is not None
        return pb.StoreACLResponse(status=status_to_wire(outcome.vnode))

    async def _directory(self, attached: AttachedVolume, fid: Fid) -> Vnode:
        vnode = await attached.read(attached.volume.vnode, fid)
        if vnode.type is VnodeType.DIRECTORY:
            return vnode
        return await attached.read(attached.volume.vnode, vnode.parent)


def _ids(acl: AccessList) -> frozenset[int]:
    return frozenset({*acl.positive, *acl.negative})
