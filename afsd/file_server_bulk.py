"""FileServer: many small files in one call.

The order of promise and reading is FetchData's (see `file_server_base`), for a slice of the files
at a time: all its promises, then all its data in one visit to a thread. Each message is looked at
by CallPreamble before it leaves, and each slice sees whether the volume is still there.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final, TypeAlias

from afs.access.requirements import file_server_rights
from afs.errors import AfsCode, AfsError
from afs.limits import MAX_BULK_FETCH_BYTES, MAX_BULK_FETCH_FIDS, MAX_BULK_FILE_BYTES
from afs.runtime.interceptors import Context
from afs.types import Fid, Vnode
from afs.v1 import file_server_pb2 as pb
from afs.volume.rules import check_file
from afs.volume.volume import Volume
from afs.wire import fid_from_wire, status_to_wire
from afsd import access
from afsd.attached_volume import AttachedVolume
from afsd.call_preamble import calling_host
from afsd.file_server_base import Caller, FileServerBase, load_vnodes

# Files of one message: with MAX_BULK_FILE_BYTES each it stays below what a message may have.
_SLICE_FIDS: Final = 32

# A file with its data; None: it is larger than what was asked for.
_Read: TypeAlias = "tuple[Vnode, bytes | None] | AfsError"


class BulkMethods(FileServerBase):
    """BulkFetch."""

    async def BulkFetch(
        self,
        request: pb.BulkFetchRequest,
        _context: Context,
    ) -> AsyncIterator[pb.BulkFetchResponse]:
        """Status, promise and data of small files, each answered by itself, in order.

        Ends early once MAX_BULK_FETCH_BYTES of data were sent.

        Raises:
            AfsError: EINVAL for none, for more than MAX_BULK_FETCH_FIDS, and for files of several
                volumes; VBUSY, VMOVED … if the volume is taken away meanwhile: what was answered
                before is right.
        """
        fids = _fids(request)
        limit = min(request.max_file_bytes or MAX_BULK_FILE_BYTES, MAX_BULK_FILE_BYTES)
        attached = self._volumes.use(fids[0].volume)
        caller = calling_host.get()
        sent = 0
        for start in range(0, len(fids), _SLICE_FIDS):
            some = fids[start : start + _SLICE_FIDS]
            results = await self._fetch_all(attached, some, limit, caller)
            yield pb.BulkFetchResponse(results=results)
            sent += sum(len(result.data) for result in results)
            if sent >= MAX_BULK_FETCH_BYTES:
                return

    async def _fetch_all(
        self, attached: AttachedVolume, fids: Sequence[Fid], limit: int, caller: Caller
    ) -> list[pb.BulkFetchResult]:
        volume = attached.volume
        attached.check()
        missing = [fid for fid in fids if volume.cached_vnode(fid) is None]
        failures: dict[Fid, AfsError] = {}
        if missing:
            loaded = await attached.read(load_vnodes, volume, missing)
            failures = {
                fid: error for fid, error in zip(missing, loaded, strict=True) if error is not None
            }
            attached.check()
        for fid in fids:
            if fid not in failures:
                try:
                    await access.require(attached, fid, file_server_rights("BulkFetch"))
                except AfsError as error:
                    failures[fid] = error
        attached.check()
        callbacks = {
            fid: self._callbacks.promise(fid, caller, bulk=True, read_only=attached.read_only)
            for fid in fids
            if fid not in failures
        }
        reads: list[_Read] = await attached.read(_read_all, volume, list(callbacks), limit)
        read = dict(zip(callbacks, reads, strict=True)) | failures
        results: list[pb.BulkFetchResult] = []
        for fid in fids:
            outcome = read[fid]
            if isinstance(outcome, AfsError):
                results.append(pb.BulkFetchResult(abort_code=int(outcome.code)))
                continue
            vnode, data = outcome
            results.append(
                pb.BulkFetchResult(
                    status=status_to_wire(vnode),
                    callback=callbacks[fid],
                    data=data or b"",
                    too_large=data is None,
                )
            )
        return results


def _fids(request: pb.BulkFetchRequest) -> list[Fid]:
    """What is asked for, if it makes sense; else AfsError(EINVAL)."""
    if not 0 < len(request.fids) <= MAX_BULK_FETCH_FIDS:
        raise AfsError(
            AfsCode.EINVAL,
            f"{len(request.fids)} fids in one call: expected 1 to {MAX_BULK_FETCH_FIDS}",
        )
    fids = [fid_from_wire(message) for message in request.fids]
    volumes = {fid.volume for fid in fids}
    if len(volumes) > 1:
        raise AfsError(AfsCode.EINVAL, f"fids of {len(volumes)} volumes: expected those of one")
    return fids


def _read_all(volume: Volume, fids: Sequence[Fid], limit: int) -> list[_Read]:
    """Reads small files, each by itself; in a thread."""
    outcomes: list[_Read] = []
    for fid in fids:
        try:
            outcomes.append(_read(volume, fid, limit))
        except AfsError as error:
            outcomes.append(error)
    return outcomes


def _read(volume: Volume, fid: Fid, limit: int) -> tuple[Vnode, bytes | None]:
    vnode = volume.vnode(fid)
    check_file(vnode)
    if vnode.length > limit:
        return vnode, None
    with volume.snapshot(fid) as snapshot:
        # It may have grown since.
        if snapshot.vnode.length > limit:
            return snapshot.vnode, None
        return snapshot.vnode, snapshot.read(0, limit)
