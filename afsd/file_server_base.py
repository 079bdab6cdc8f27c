"""What the methods of FileServer share: the order of promise, reading, change and break.

Theory of operation
    Reading: the promise is registered first, the status is read after it. A change that is
    committed in between is then followed by a break of that promise, so the client never keeps an
    old status under a live promise. Where more than the status is read (entries, a link's target, a
    name), the status comes before it: contents newer than the DataVersion they are filed under are
    refetched at the next validation, older ones would be kept.

    Changing: commit, then break the callbacks of everyone else and wait for their acks (bounded by
    the break deadline), then answer with the status the commit left behind. Commit and break run in
    a task of their own: a writer who hangs up in between must not cost the others their break (I4).

    The writer keeps the promise it has on what it changes, because the answer tells it the new
    status. A writer that has hung up before the commit gets no answer: its promise is broken like
    all others. One whose answer is lost later knows that its outcome is unknown, and whatever it
    asks for after that is what the commit left.

    The writer's own promise comes last, and only if the vnode still is what the reply says: another
    writer may have changed it while we waited for acks, and its break cannot end a promise that is
    not given yet.

    Nothing is awaited between `VolumeTable.use` and `CallBacks.promise`: a promise is only ever
    registered while its volume is online, before any mark of a later give-back.

    Rights: a method names the right that the table of methods asks for (`file_server_rights`), and
    who has not got it is refused before a promise is registered or a change is begun. A right that
    is lost while a change waits for its commit does not stop it: it was asked for in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from afs.access.acl import Right
from afs.errors import AfsError
from afs.runtime.clock import Clock
from afs.types import BreakReason, Fid, Vnode
from afs.v1 import file_server_pb2, file_server_pb2_grpc, types_pb2
from afs.volume.volume import Mutation, Outcome, Volume
from afsd import access
from afsd.attached_volume import AttachedVolume
from afsd.call_preamble import calling_host
from afsd.callbacks import CallBacks
from afsd.fssync_lane import Turn
from afsd.incoming_data import IncomingData
from afsd.principal_names import PrincipalNames
from afsd.volume_table import VolumeTable

# UUID of the calling host; None for one without a name.
Caller: TypeAlias = "str | None"


@dataclass(slots=True)
class _Writer:
    """Who makes a change; `waits` as long as there is somebody to be answered."""

    host: Caller
    waits: bool = True


class FileServerBase(file_server_pb2_grpc.FileServerServicer):
    """The parts of the fileserver that its methods work with.

    Args:
        volumes: the volumes served.
        callbacks: the promises.
        names: of users and groups.
        clock: for GetTime.
        capabilities: the answer of GetCapabilities.
    """

    def __init__(
        self,
        volumes: VolumeTable,
        callbacks: CallBacks,
        names: PrincipalNames,
        clock: Clock,
        capabilities: file_server_pb2.GetCapabilitiesResponse,
    ) -> None:
        self._volumes = volumes
        self._callbacks = callbacks
        self._locks = callbacks.locks
        self._names = names
        self._clock = clock
        self._capabilities = capabilities
        self._changes: set[asyncio.Task[Outcome]] = set()

    async def finish(self) -> None:
        """Waits for the changes whose callers hung up."""
        while self._changes:
            await asyncio.wait(self._changes)

    async def _status(
        self,
        attached: AttachedVolume,
        fid: Fid,
        caller: Caller,
        needs: Right,
        *,
        bulk: bool = False,
    ) -> tuple[Vnode, types_pb2.CallBack | None]:
        """Status and promise of a vnode; the promise is None for a caller without a channel.

        EACCES for a caller who has not the right that it `needs`.
        """
        volume = attached.volume
        if volume.cached_vnode(fid) is None:
            # Brings it into memory, or raises if there is none: no promise is registered for
            # nothing.
            await attached.read(volume.vnode, fid)
            attached.check()
        await access.require(attached, fid, needs)
        callback = self._callbacks.promise(fid, caller, bulk=bulk, read_only=attached.read_only)
        # Read anew: what came before the promise may be past.
        vnode = volume.cached_vnode(fid)
        if vnode is None:
            vnode = await attached.read(volume.vnode, fid)
        return vnode, callback

    async def _change(
        self, attached: AttachedVolume, mutation: Mutation, incoming: IncomingData | None = None
    ) -> Outcome:
        """Commits a change and breaks the callbacks it ends; returns when both are done.

        Args:
            attached: the volume.
            mutation: the change.
            incoming: the data it takes along; belongs to the change from here on.
        """
        writer = _Writer(calling_host.get())
        task = asyncio.ensure_future(self._commit_and_break(attached, mutation, incoming, writer))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            writer.waits = False
            raise

    async def _commit_and_break(
        self,
        attached: AttachedVolume,
        mutation: Mutation,
        incoming: IncomingData | None,
        writer: _Writer,
    ) -> Outcome:
        try:
            outcome = await attached.submit(mutation)
        except BaseException:
            if incoming is not None:
                incoming.discard()
            raise
        if incoming is not None:
            incoming.applied()
        if outcome.changed:
            keeps = writer.host if writer.waits else None
            await self._callbacks.break_callbacks(outcome.changed, writer=keeps)
            await self._break_whole_volumes(outcome)
            for fid, reason in outcome.changed:
                if reason is BreakReason.REMOVED:
                    self._callbacks.drop(fid)
        return outcome

    async def _break_whole_volumes(self, outcome: Outcome) -> None:
        """Has the worker break what a change could not name one by one."""
        for fid, reason in outcome.changed:
            if fid.is_whole_volume:
                await self._callbacks.volume_changed(fid.volume, reason, Turn())

    def _writers_promise(self, attached: AttachedVolume, vnode: Vnode) -> types_pb2.CallBack | None:
        """A promise on a vnode as a change left it, for the reply; None if that is past already."""
        if not attached.online or attached.volume.cached_vnode(vnode.fid) != vnode:
            return None
        return self._callbacks.promise(vnode.fid, calling_host.get())


def load_vnodes(volume: Volume, fids: Sequence[Fid]) -> list[AfsError | None]:
    """Brings vnodes into memory, each by itself; in a thread."""
    failures: list[AfsError | None] = []
    for fid in fids:
        try:
            volume.vnode(fid)
            failures.append(None)
        except AfsError as error:
            failures.append(error)
    return failures
