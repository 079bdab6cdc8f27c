"""Steps of moves and copies: what is sent, where it is put, and the switch between the two."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from afs.errors import AfsCode, AfsError
from afs.types import VolumeHeader, VolumeType
from afs.v1 import types_pb2, vol_server_pb2
from afs.v1 import vol_transfer_pb2 as pb
from afs.volume.sqlite_store import SqliteVolume
from afs.volume.volume import SetVolumeFields
from volserverd.core.step import Role, StepKind
from volserverd.deeds.clone_deeds import CloneDeeds
from volserverd.deeds.entry_deeds import EntryDeeds
from volserverd.deeds.fileserver_deeds import FileserverDeeds
from volserverd.deeds.work_state import Deeds
from volserverd.halves import read_write_site, switched
from volserverd.operations import Operation
from volserverd.transfer_client import OutgoingTransfer, RoundSent
from volserverd.vldb.entry import Entry, Site
from volserverd.vldb.names import VolumeReference
from volserverd.work_order import TransferOrder, VolumeServices, WorkOrder

# Rounds between the first and the last; a writer that changes more than we can send meanwhile is
# not caught up with by more of them.
_MAX_CATCH_UPS: Final = 3
# What changed during a round that took no longer than this is left to the last one.
_SHORT_ROUND_S: Final = 0.1
# Seconds for each answer of the target while the volume is out of service; then the move is undone.
_EXCLUSIVE_DEADLINE_S: Final = 30.0
# How long, and how often, a location database that left the switch open is asked what it did; then
# it is left to recovery, and the volume out of service.
_SWITCH_DEADLINE_S: Final = 30.0
_SWITCH_RETRY_S: Final = 0.2
# Errors after which the switch may have happened.
_LEFT_OPEN: Final = frozenset({AfsCode.RX_CALL_DEAD, AfsCode.VNOSERVICE, AfsCode.VIO})


@dataclass(slots=True)
class SentSoFar:
    """What was sent, and how long it took.

    `began` and `exclusive_from` are steady seconds; `exclusive_s` is the longest time that the
    volume was out of service.
    """

    began: float
    bytes: int = 0
    chunks: int = 0
    vnodes: int = 0
    exclusive_from: float | None = None
    exclusive_s: float = 0.0
    round_s: float = 0.0
    rounds: list[RoundSent] = field(default_factory=list)


class MoveDeeds(EntryDeeds, FileserverDeeds, CloneDeeds):
    """Moves and copies."""

    def __init__(self, services: VolumeServices, operation: Operation, order: WorkOrder) -> None:
        super().__init__(services, operation, order)
        self._transfer: OutgoingTransfer | None = None
        # The volume itself, open from the mark on.
        self._source: SqliteVolume | None = None
        self._source_header: VolumeHeader | None = None
        self._target: Site | None = None
        self._is_local = False
        # Nobody knows whether the site was switched: nothing may be undone.
        self._in_doubt = False
        self.incarnation_there = ""
        self.sent = SentSoFar(began=operation.now())

    def deeds(self) -> Deeds:
        """Those of this file."""
        return {
            **super().deeds(),
            StepKind.CREATE_COPY_ENTRY: self._create_copy_entry,
            StepKind.OPEN_TRANSFER: self._open_transfer,
            StepKind.CLOSE_TRANSFER: self._close_transfer,
            StepKind.SEND_ROUND: self._send_round,
            StepKind.CATCH_UP: self._catch_up,
            StepKind.MARK_IN_TRANSIT: self._mark_in_transit,
            StepKind.UNMARK: self._unmark,
            StepKind.SEND_LAST_ROUND: self._send_last_round,
            StepKind.PUT_IN_PLACE_THERE: self._put_in_place_there,
            StepKind.BREAK_PROMISES: self._break_promises,
            StepKind.SWITCH_SITE: self._switch_site,
            StepKind.PUT_ON_THERE: self._put_on_there,
            StepKind.TELL_MOVED: self._tell_moved,
            StepKind.SET_ASIDE: self._set_aside,
        }

    # --- what others read -------------------------------------------------------------------------

    @property
    def target(self) -> Site:
        """The target's site, as it names itself."""
        assert self._target is not None, "the transfer was opened"
        return self._target

    @property
    def sent_header(self) -> VolumeHeader:
        """The header of what was sent last."""
        assert self._source_header is not None, "a round was sent"
        return self._source_header

    @property
    def in_doubt(self) -> bool:
        """Nobody knows whether the site was switched."""
        return self._in_doubt

    def sent_message(self) -> vol_server_pb2.Sent:
        """What was sent, as a message."""
        sent = self.sent
        return vol_server_pb2.Sent(
            bytes=sent.bytes,
            chunks=sent.chunks,
            vnodes=sent.vnodes,
            exclusive_s=sent.exclusive_s,
            total_s=self._operation.now() - sent.began,
        )

    # --- the transfer -----------------------------------------------------------------------------

    async def _create_copy_entry(self, _: Role) -> None:
        """The copy's entry, locked, with no site yet: it has one when the copy is in its place."""
        wanted = self._wanted()
        entry = Entry(wanted.new_name, locked_for=self._lock_text)
        self._entry = await self._services.locations.create(entry)
        self._locked = True
        self.ids[Role.COPY] = self._entry.read_write_id
        self._operation.claim([self._entry.read_write_id], wanted.new_name)

    async def _open_transfer(self, _: Role) -> None:
        wanted, services = self._wanted(), self._services
        volume_id = self.ids.get(Role.COPY, self.ids[Role.MAIN])
        opening = pb.TransferOpen(
            purpose=wanted.purpose,
            volume_id=volume_id,
            name=wanted.new_name or self._order.name,
            type=types_pb2.VolumeType.ValueType(VolumeType.READ_WRITE),
            read_write_id=volume_id,
            partition=wanted.partition,
            dry_run=wanted.dry_run,
            sender=services.identity,
        )
        transfer = await OutgoingTransfer.open(services.disk, wanted.server, opening)
        self._transfer, ready = transfer, transfer.ready
        self._target = Site(ready.file_server, ready.vol_server, ready.partition)
        self._is_local = ready.identity == services.identity

    async def _close_transfer(self, _: Role) -> None:
        if self._transfer is None:
            return
        if self._operation.is_going_back:
            await self._transfer.abort(AfsError(AfsCode.EAGAIN, "the transfer was undone"))
        else:
            await self._transfer.end()

    def interrupt(self, error: AfsError) -> None:
        """Ends a step that waits for a peer."""
        super().interrupt(error)
        if self._transfer is not None:
            self._transfer.interrupt(error)

    async def _send_round(self, role: Role) -> None:
        """Sends the temporary clone."""
        disk = self._services.disk
        opening = partial(self._partition.open_volume, self.ids[role])
        try:
            clone = await disk.run(opening)
        except AfsError as error:
            if error.code is not AfsCode.VBUSY:
                raise
            # A fileserver that was restarted meanwhile has it open, as it opens all there is.
            await self._take(role)
            clone = await disk.run(opening)
        try:
            await self._send_volume(clone, StepKind.SEND_ROUND)
        finally:
            await disk.run(clone.close)

    async def _send_volume(self, source: SqliteVolume, kind: StepKind) -> None:
        transfer, sent = self._transfer, self.sent
        assert transfer is not None, "the transfer was opened"
        began = self._operation.now()

        def progress(done: int, total: int) -> None:
            self._operation.report(kind.value, done, total, "bytes")

        self._source_header = await self._services.disk.run(source.header)
        this = await transfer.send_round(source, progress)
        sent.round_s = self._operation.now() - began
        sent.bytes += this.bytes
        sent.chunks += this.chunks
        sent.vnodes += this.vnodes
        sent.rounds.append(this)

    async def _catch_up(self, _: Role) -> None:
        """Further rounds from fresh clones, as long as the last one took long."""
        disk, main = self._services.disk, self.ids[Role.MAIN]
        for _number in range(_MAX_CATCH_UPS):
            header = await disk.header(self._partition, main)
            last = self.sent.rounds[-1].mark
            if self.sent.round_s <= _SHORT_ROUND_S or header.change_counter == last.change_counter:
                return
            await self._take(Role.MAIN)
            try:
                await self._clone_temporary(Role.TEMPORARY)
            finally:
                await self._give_back(Role.MAIN)
            try:
                await self._send_round(Role.TEMPORARY)
            finally:
                await self._delete_temporary(Role.TEMPORARY)

    # --- the exclusive phase ----------------------------------------------------------------------

    async def _take(self, role: Role) -> None:
        began = self._operation.now()
        await super()._take(role)
        if role is Role.MAIN:
            self.sent.exclusive_from = began

    async def _give_back(self, role: Role) -> None:
        await super()._give_back(role)
        if role is Role.MAIN:
            self._end_of_exclusive()

    async def _mark_in_transit(self, role: Role) -> None:
        disk = self._services.disk
        opening = partial(self._partition.open_volume, self.ids[role])
        volume = self._source = await self._verified([role], lambda: disk.run(opening))
        await disk.run(_apply, volume, SetVolumeFields(in_transit=True))

    async def _unmark(self, _: Role) -> None:
        volume, self._source = self._source, None
        if volume is None:
            return
        try:
            await self._services.disk.run(_apply, volume, SetVolumeFields(in_transit=False))
        finally:
            await self._services.disk.run(volume.close)

    async def _send_last_round(self, _: Role) -> None:
        assert self._source is not None, "the volume was marked"
        async with _within(_EXCLUSIVE_DEADLINE_S):
            await self._send_volume(self._source, StepKind.SEND_LAST_ROUND)

    async def _put_in_place_there(self, _: Role) -> None:
        assert self._transfer is not None
        in_place = await self._transfer.put_in_place(
            in_transit=True, deadline_s=_EXCLUSIVE_DEADLINE_S
        )
        self.incarnation_there = in_place.incarnation

    async def _break_promises(self, role: Role) -> None:
        """No promise on the source outlives the switch, whoever dies after it.

        Not needed within a server: there the promises are on the volume, wherever it lies.
        """
        if not self._is_local:
            await self._services.checkouts.break_promises(self.ids[role])

    # --- the point of no return -------------------------------------------------------------------

    async def _switch_site(self, _: Role) -> None:
        """The entry names the target from now on.

        An answer that is lost leaves open whether it does; then the entry is asked until it tells.
        """
        assert self._entry is not None
        locations, deadline = self._services.locations, self._operation.now() + _SWITCH_DEADLINE_S
        entry, before = self._entry, read_write_site(self._entry)
        reference = VolumeReference(entry.name, volume_id=entry.read_write_id)
        left_open = False
        while True:
            try:
                self._entry = await locations.replace(switched(entry, self.target))
                return
            except AfsError as error:
                # Refused for its version, the entry had an address corrected, or was switched by
                # what we sent before.
                if error.code not in (*_LEFT_OPEN, AfsCode.EAGAIN) and not left_open:
                    raise
                left_open = left_open or error.code in _LEFT_OPEN
                why = error
            while True:
                if self._operation.now() > deadline:
                    await self._give_up_in_doubt(why)
                try:
                    entry = await locations.get(reference)
                    break
                except AfsError as error:
                    why = error
                    await asyncio.sleep(_SWITCH_RETRY_S)
            if read_write_site(entry) == self.target:
                self._entry = entry
                return
            if read_write_site(entry) != before or entry.locked_for != self._lock_text:
                raise AfsError(
                    AfsCode.EAGAIN, f"the entry of volume {entry.name} was changed by somebody else"
                )

    async def _give_up_in_doubt(self, error: AfsError) -> None:
        self._in_doubt = True
        if self._source is not None:
            await self._services.disk.run(self._source.close)
            self._source = None
        raise AfsError(
            AfsCode.RX_CALL_DEAD,
            f"nobody knows whether the location database has switched the site ({error.detail}):"
            " this is found out, and the move ended, as soon as it answers",
        )

    async def _put_on_there(self, _: Role) -> None:
        assert self._transfer is not None
        await self._transfer.put_on(_EXCLUSIVE_DEADLINE_S)
        if self._is_local:
            self._end_of_exclusive()

    async def _tell_moved(self, role: Role) -> None:
        """Clients that come here are answered VMOVED from now on."""
        if self._is_local:
            return
        checkouts, volume_id = self._services.checkouts, self.ids[role]
        if checkouts.holds(volume_id):
            checkouts.moved(volume_id)
            await checkouts.give_back(volume_id)
        self._end_of_exclusive()

    async def _set_aside(self, role: Role) -> None:
        disk = self._services.disk
        if self._source is not None:
            await disk.run(self._source.close)
            self._source = None
        await disk.set_aside(self._partition, self.ids[role])
        if not self._is_local:
            await self._services.checkouts.remind_moved(self.ids[role], self._partition.name)

    # --- inside -----------------------------------------------------------------------------------

    def _wanted(self) -> TransferOrder:
        assert self._order.transfer is not None, "a move or a copy"
        return self._order.transfer

    def _end_of_exclusive(self) -> None:
        sent = self.sent
        if sent.exclusive_from is not None:
            exclusive_s = self._operation.now() - sent.exclusive_from
            sent.exclusive_s = max(sent.exclusive_s, exclusive_s)
            sent.exclusive_from = None


@asynccontextmanager
async def _within(deadline_s: float) -> AsyncIterator[None]:
    """Ends what takes longer, as if the target were gone."""
    try:
        async with asyncio.timeout(deadline_s):
            yield
    except TimeoutError:
        raise AfsError(
            AfsCode.RX_CALL_DEAD, f"the last changes were not sent within {deadline_s:g} s"
        ) from None


def _apply(volume: SqliteVolume, fields: SetVolumeFields) -> None:
    (outcome,) = volume.apply([fields])
    if isinstance(outcome, AfsError):
        raise outcome
