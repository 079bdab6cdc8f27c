"""FileServer: the status of vnodes, and promises given up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from afs.access.requirements import file_server_rights
from afs.errors import AfsCode, AfsError
from afs.limits import MAX_BULK_FIDS
from afs.runtime.interceptors import Context
from afs.types import Fid, whole_volume_fid
from afs.v1 import file_server_pb2 as pb
from afs.v1 import types_pb2
from afs.volume.volume import StoreStatus
from afs.wire import fid_from_wire, set_status_from_wire, status_to_wire
from afsd import access
from afsd.attached_volume import AttachedVolume
from afsd.call_preamble import calling_host
from afsd.file_server_base import Caller, FileServerBase, load_vnodes

# Fids answered before the event loop is given back: about 1 ms of work.
_BULK_SLICE_FIDS = 64
_NOT_ANSWERED = pb.BulkStatusResult()


class StatusMethods(FileServerBase):
    """FetchStatus, BulkStatus, StoreStatus, GiveUpCallBacks, GiveUpAllCallBacks."""

    async def FetchStatus(
        self,
        request: pb.FetchStatusRequest,
        _context: Context,
    ) -> pb.FetchStatusResponse:
        """Status and promise of one vnode."""
        fid = fid_from_wire(request.fid)
        attached = self._volumes.use(fid.volume)
        vnode, callback = await self._status(
            attached, fid, calling_host.get(), file_server_rights("FetchStatus")
        )
        return pb.FetchStatusResponse(status=status_to_wire(vnode), callback=callback)

    async def BulkStatus(
        self,
        request: pb.BulkStatusRequest,
        _context: Context,
    ) -> pb.BulkStatusResponse:
        """Status and promise of many vnodes, each answered by itself, in order.

        Raises:
            AfsError: EINVAL for more than MAX_BULK_FIDS.
        """
        if len(request.fids) > MAX_BULK_FIDS:
            raise AfsError(
                AfsCode.EINVAL,
                f"{len(request.fids)} fids in one call: expected at most {MAX_BULK_FIDS}",
            )
        caller = calling_host.get()
        results = [_NOT_ANSWERED] * len(request.fids)
        missing: dict[AttachedVolume, list[tuple[int, Fid]]] = {}
        for index, message in enumerate(request.fids):
            try:
                fid = fid_from_wire(message)
                attached = self._volumes.use(fid.volume)
                if attached.volume.cached_vnode(fid) is None:
                    missing.setdefault(attached, []).append((index, fid))
                else:
                    results[index] = await self._bulk_result(attached, fid, caller)
            except AfsError as error:
                results[index] = _failure(error)
            if index % _BULK_SLICE_FIDS == _BULK_SLICE_FIDS - 1:
                await asyncio.sleep(0)
        for attached, fids in missing.items():
            await self._answer_missing(attached, fids, caller, results)
        return pb.BulkStatusResponse(results=results)

    async def _answer_missing(
        self,
        attached: AttachedVolume,
        missing: Sequence[tuple[int, Fid]],
        caller: Caller,
        results: list[pb.BulkStatusResult],
    ) -> None:
        """Answers the Fids of one volume that were not in memory, in one visit to the disk."""
        failures: Sequence[AfsError | None]
        try:
            failures = await attached.read(
                load_vnodes, attached.volume, [fid for _, fid in missing]
            )
        except AfsError as error:
            failures = [error] * len(missing)
        for (index, fid), failure in zip(missing, failures, strict=True):
            try:
                if failure is not None:
                    raise failure
                attached.check()
                results[index] = await self._bulk_result(attached, fid, caller)
            except AfsError as error:
                results[index] = _failure(error)

    async def _bulk_result(
        self, attached: AttachedVolume, fid: Fid, caller: Caller
    ) -> pb.BulkStatusResult:
        vnode, callback = await self._status(
            attached, fid, caller, file_server_rights("BulkStatus"), bulk=True
        )
        return pb.BulkStatusResult(status=status_to_wire(vnode), callback=callback)

    async def StoreStatus(
        self,
        request: pb.StoreStatusRequest,
        _context: Context,
    ) -> pb.StoreStatusResponse:
        """Sets attributes of a vnode; a set length truncates or extends a file."""
        fid = fid_from_wire(request.fid)
        set_status = set_status_from_wire(request.set_status)
        attached = self._volumes.use(fid.volume)
        await access.require(attached, fid, file_server_rights("StoreStatus"))
        await access.check_status(attached, fid, set_status)
        outcome = await self._change(attached, StoreStatus(fid, set_status))
        assert outcome.vnode is not None
        return pb.StoreStatusResponse(
            status=status_to_wire(outcome.vnode),
            callback=self._writers_promise(attached, outcome.vnode),
        )

    async def GiveUpCallBacks(
        self,
        request: pb.GiveUpCallBacksRequest,
        _context: Context,
    ) -> pb.GiveUpCallBacksResponse:
        """Forgets promises of the caller; those it does not hold are no error.

        `volume.0.0` stands for the promise on a read-only volume.
        """
        fids = [_promised_fid(message) for message in request.fids]
        caller = calling_host.get()
        given_up = 0
        if caller is not None:
            for start in range(0, len(fids), MAX_BULK_FIDS):
                given_up += self._callbacks.give_up(caller, fids[start : start + MAX_BULK_FIDS])
                await asyncio.sleep(0)
        return pb.GiveUpCallBacksResponse(given_up=given_up)

    async def GiveUpAllCallBacks(
        self,
        _request: pb.GiveUpAllCallBacksRequest,
        _context: Context,
    ) -> pb.GiveUpAllCallBacksResponse:
        """Forgets every promise of the caller."""
        caller = calling_host.get()
        given_up = 0 if caller is None else self._callbacks.give_up_all(caller)
        return pb.GiveUpAllCallBacksResponse(given_up=given_up)


def _promised_fid(message: types_pb2.Fid) -> Fid:
    """What a promise can be on: a vnode, or a whole volume."""
    if message.volume and not message.vnode and not message.uniquifier:
        return whole_volume_fid(message.volume)
    return fid_from_wire(message)


def _failure(error: AfsError) -> pb.BulkStatusResult:
    return pb.BulkStatusResult(abort_code=int(error.code))
