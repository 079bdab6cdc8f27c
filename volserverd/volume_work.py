"""Does the steps of operations on volumes: takes, creates, clones, restores, deletes, gives back.

Undoing steps do nothing where there is nothing to undo, so that a step of which nobody knows
whether it happened can be undone too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

from afs.errors import AfsCode, AfsError
from afs.v1 import fssync_pb2
from afs.volume.partition import Partition
from afs.volume.restore import Restore
from afs.volume.volume import SetVolumeFields
from volserverd.core.steps import Role, Step, StepKind
from volserverd.operations import Operation
from volserverd.settling import settle
from volserverd.vldb.entry import Entry, kept_backup_id
from volserverd.vldb.names import BACKUP_SUFFIX, VolumeReference, parse_reference
from volserverd.work_order import VolumeServices, WorkOrder

T = TypeVar("T")

# A fileserver that is restarted this often within one step is in more trouble than we are.
_ATTEMPTS: Final = 3
# Work for which a volume that is on disk need not be known to the fileserver.
_UNKNOWN_IS_FINE: Final = frozenset({fssync_pb2.FSYNC_FOR_DELETE, fssync_pb2.FSYNC_FOR_RESTORE})


class VolumeWork:
    """The worker of one operation.

    Attributes:
        ids: the volumes by their roles, as far as they are known.
        give_back_s: how long the fileserver took to acknowledge the main volume's give-back.
    """

    def __init__(self, services: VolumeServices, operation: Operation, order: WorkOrder) -> None:
        self._services = services
        self._operation = operation
        self._order = order
        self._partition = order.partition
        self._lock_text = services.lock_text(operation.name)
        self._entry = order.entry
        self._locked = False
        self._created = False
        self._fields_before: SetVolumeFields | None = None
        self._restore: Restore | None = None
        self.ids = dict(order.ids)
        self.give_back_s = 0.0
        self._deeds: dict[StepKind, Callable[[Role], Awaitable[None]]] = {
            StepKind.CREATE_ENTRY: self._create_entry,
            StepKind.LOCK_ENTRY: self._lock_entry,
            StepKind.SETTLE_ENTRY: self._settle_entry,
            StepKind.CREATE_ON_DISK: self._create_on_disk,
            StepKind.DELETE_ON_DISK: self._delete_on_disk,
            StepKind.REMOVE_CREATED: self._remove_created,
            StepKind.TAKE: self._take,
            StepKind.GIVE_BACK: self._give_back,
            StepKind.INTRODUCE: self._introduce,
            StepKind.WITHDRAW: self._withdraw,
            StepKind.FORGET: self._give_back,
            StepKind.LEAVE_OFF: self._give_back,
            StepKind.SET_FIELDS: self._set_fields,
            StepKind.RESET_FIELDS: self._reset_fields,
            StepKind.CLONE: self._clone,
            StepKind.CLONE_TEMPORARY: self._clone_temporary,
            StepKind.DELETE_TEMPORARY: self._delete_temporary,
            StepKind.SEND: self._send,
            StepKind.RECEIVE: self._receive,
            StepKind.DISCARD_RECEIVED: self._discard_received,
            StepKind.SWAP: self._swap,
        }

    async def perform(self, step: Step) -> None:
        """Does one step; AfsError if it cannot."""
        await self._deeds[step.kind](step.role)

    @property
    def partition(self) -> Partition:
        """Where the volumes are."""
        return self._partition

    @property
    def deleted_id(self) -> int:
        """The volume that was asked to be deleted."""
        return self._order.asked_id

    def interrupt(self, error: AfsError) -> None:
        """Ends a step that waits for the client."""
        self._order.pieces.abort(error)

    # --- the location entry -----------------------------------------------------------------------

    async def _create_entry(self, _: Role) -> None:
        order, services = self._order, self._services
        entry = Entry(
            order.name,
            self.ids.get(Role.MAIN, 0),
            sites=(services.site(self._partition.name),),
            locked_for=self._lock_text,
        )
        try:
            self._entry = await services.locations.create(entry)
        except AfsError as error:
            if error.code is not AfsCode.VVOLEXISTS or not await self._settle_stale(order.name):
                raise
            self._entry = await services.locations.create(entry)
        self._locked = True
        self.ids[Role.MAIN] = self._entry.read_write_id
        self._operation.claim([self._entry.read_write_id], order.name)

    async def _lock_entry(self, _: Role) -> None:
        assert self._entry is not None
        locations, read_write_id = self._services.locations, self._entry.read_write_id
        try:
            self._entry = await locations.lock(read_write_id, self._lock_text)
        except AfsError as error:
            if error.code is not AfsCode.VBUSY or not await self._settle_stale(str(read_write_id)):
                raise
            self._entry = await locations.lock(read_write_id, self._lock_text)
        self._locked = True

    async def _settle_stale(self, volume: str) -> bool:
        """Settles an entry that an earlier operation of ours could not; False if it is no such one.

        That happens when another volserver's location database was away at the wrong moment.
        """
        services = self._services
        try:
            entry = await services.locations.get(parse_reference(volume))
        except AfsError as error:
            if error.code is AfsCode.VNOVOL:
                return False
            raise
        if not services.is_ours(entry.locked_for):
            return False
        # Refused if that operation is still running.
        self._operation.claim(
            [entry.read_write_id, kept_backup_id(entry.read_write_id)], entry.name
        )
        await settle(services.disk, services.locations, entry)
        return True

    async def _settle_entry(self, _: Role) -> None:
        services, entry = self._services, self._entry
        if not self._locked:
            # The answer to creating or locking was lost: what was done can be looked up.
            reference = parse_reference(self._order.name)
            if entry is not None:
                reference = VolumeReference(entry.name, volume_id=entry.read_write_id)
            try:
                entry = await services.locations.get(reference)
            except AfsError as error:
                if error.code is AfsCode.VNOVOL:
                    return
                raise
            if entry.locked_for != self._lock_text:
                return
        assert entry is not None
        self._entry = await settle(services.disk, services.locations, entry)
        self._locked = False

    # --- the fileserver ---------------------------------------------------------------------------

    async def _take(self, role: Role) -> None:
        try:
            await self._services.checkouts.take(
                self.ids[role], self._partition.name, self._order.reason
            )
        except AfsError as error:
            # On disk, but not known to the fileserver: nobody serves it, and its lock keeps it so.
            lenient = role is Role.BACKUP or self._order.reason in _UNKNOWN_IS_FINE
            known = error.code is not AfsCode.VNOVOL or not await self._on_disk(role)
            if known or not lenient:
                raise

    async def _verified(self, roles: Sequence[Role], act: Callable[[], Awaitable[T]]) -> T:
        """Does something to volumes that the fileserver confirms to be ours (T24).

        A fileserver that was restarted after the last confirmation has opened them again, which
        their locks tell: then they are taken once more.
        """
        checkouts = self._services.checkouts
        for attempts_left in reversed(range(_ATTEMPTS)):
            for role in roles:
                if checkouts.holds(self.ids[role]):
                    await checkouts.verify(self.ids[role])
            try:
                return await act()
            except AfsError as error:
                if error.code is not AfsCode.VBUSY or not attempts_left:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def _give_back(self, role: Role) -> None:
        checkouts, volume_id = self._services.checkouts, self.ids[role]
        seconds = 0.0
        if checkouts.holds(volume_id):
            seconds = await checkouts.give_back(volume_id)
        elif not self._operation.is_going_back and await self._on_disk(role):
            # It was taken though the fileserver did not know it; now it shall.
            seconds = await checkouts.introduce(volume_id, self._partition.name)
        if role is Role.MAIN:
            self.give_back_s = seconds

    async def _introduce(self, role: Role) -> None:
        await self._services.checkouts.introduce(self.ids[role], self._partition.name)

    async def _withdraw(self, role: Role) -> None:
        try:
            await self._services.checkouts.take(
                self.ids[role], self._partition.name, fssync_pb2.FSYNC_FOR_DELETE
            )
        except AfsError as error:
            if error.code is not AfsCode.VNOVOL:
                raise

    # --- the disk ---------------------------------------------------------------------------------

    async def _create_on_disk(self, role: Role) -> None:
        order, disk, volume_id = self._order, self._services.disk, self.ids[role]
        backup_id = kept_backup_id(volume_id)
        if self._restore is None:
            await disk.create(
                self._partition,
                volume_id=volume_id,
                name=order.name,
                backup_id=backup_id,
                max_quota_kib=order.max_quota_kib,
            )
            self._created = True
            return
        if await self._on_disk(role):
            raise AfsError(AfsCode.VVOLEXISTS, f"volume {volume_id} exists")
        await disk.run(self._restore.put_in_place)
        self._created = True
        await disk.set_fields(self._partition, volume_id, SetVolumeFields(backup_id=backup_id))

    async def _remove_created(self, role: Role) -> None:
        if not self._created:
            return
        checkouts, volume_id = self._services.checkouts, self.ids[role]
        try:
            await self._services.disk.delete(self._partition, volume_id)
        except AfsError as error:
            if error.code is not AfsCode.VBUSY:
                raise
            # A fileserver that was started meanwhile serves whatever it finds.
            await self._withdraw(role)
            await self._services.disk.delete(self._partition, volume_id)
        if checkouts.holds(volume_id):
            checkouts.deleted(volume_id)
            await checkouts.give_back(volume_id)

    async def _delete_on_disk(self, role: Role) -> None:
        checkouts, volume_id = self._services.checkouts, self.ids[role]
        disk = self._services.disk
        await self._verified([role], lambda: disk.delete(self._partition, volume_id))
        if checkouts.holds(volume_id):
            checkouts.deleted(volume_id)

    async def _set_fields(self, role: Role) -> None:
        fields = self._order.fields
        assert fields is not None
        disk, volume_id = self._services.disk, self.ids[role]
        before = await self._verified(
            [role], lambda: disk.set_fields(self._partition, volume_id, fields)
        )
        self._fields_before = SetVolumeFields(
            max_quota_kib=before.max_quota_kib, leave_offline=before.leave_offline
        )
        self._goes_back_as(role, fields)

    async def _reset_fields(self, role: Role) -> None:
        if self._fields_before is not None:
            await self._services.disk.set_fields(
                self._partition, self.ids[role], self._fields_before
            )
            self._goes_back_as(role, self._fields_before)

    def _goes_back_as(self, role: Role, fields: SetVolumeFields) -> None:
        if fields.leave_offline is not None and self._services.checkouts.holds(self.ids[role]):
            self._services.checkouts.leave_off(self.ids[role], left_off=fields.leave_offline)

    async def _clone(self, _: Role) -> None:
        assert self._entry is not None
        clone = partial(
            self._services.disk.clone,
            self._partition,
            self.ids[Role.MAIN],
            clone_id=self.ids[Role.BACKUP],
            name=self._entry.name + BACKUP_SUFFIX,
            # There from the volume's creation on: only a volume made otherwise lacks it.
            source_fields=SetVolumeFields(backup_id=self.ids[Role.BACKUP]),
        )
        await self._verified([Role.BACKUP, Role.MAIN], clone)

    async def _clone_temporary(self, _: Role) -> None:
        disk, main = self._services.disk, self.ids[Role.MAIN]
        self.ids[Role.TEMPORARY] = await self._verified(
            [Role.MAIN], lambda: disk.clone_temporary(self._partition, main)
        )

    async def _delete_temporary(self, _: Role) -> None:
        clone_id = self.ids.pop(Role.TEMPORARY, 0)
        if not clone_id:
            return
        checkouts = self._services.checkouts
        try:
            # A fileserver that was restarted meanwhile serves it, as it serves all there is.
            await checkouts.take(clone_id, self._partition.name, fssync_pb2.FSYNC_FOR_DELETE)
        except AfsError as error:
            if error.code not in (AfsCode.VNOVOL, AfsCode.RX_CALL_DEAD):
                raise
        await self._services.disk.delete_temporary(self._partition, clone_id)
        if checkouts.holds(clone_id):
            checkouts.deleted(clone_id)
            await checkouts.give_back(clone_id)

    async def _on_disk(self, role: Role) -> bool:
        return await self._services.disk.has(self._partition, self.ids[role])

    # --- dumps ------------------------------------------------------------------------------------

    async def _send(self, role: Role) -> None:
        disk = self._services.disk
        try:
            source = await disk.pieces(self._partition, self.ids[role])
        except AfsError as error:
            if error.code is not AfsCode.VBUSY:
                raise
            # As above: a fileserver that was restarted has it open.
            await self._take(role)
            source = await disk.pieces(self._partition, self.ids[role])
        try:
            while (piece := await disk.run(next, source, b"")) != b"":
                await self._order.pieces.put(piece)
                self._operation.touch()
            await self._order.pieces.end()
        finally:
            await disk.run(_close, source)

    async def _receive(self, role: Role) -> None:
        disk = self._services.disk
        restore = self._restore = await disk.restore(
            self._partition, self.ids[role], self._order.name
        )
        try:
            while (piece := await self._order.pieces.get()) is not None:
                await disk.run(restore.feed, piece)
                self._operation.touch()
            await disk.run(restore.finish)
        except BaseException:
            await self._discard_received(role)
            raise

    async def _discard_received(self, _: Role) -> None:
        if self._restore is not None:
            await self._services.disk.run(self._restore.close)
            self._restore = None

    async def _swap(self, role: Role) -> None:
        assert self._restore is not None
        put_in_place = self._restore.put_in_place
        await self._verified([role], lambda: self._services.disk.run(put_in_place))


def _close(source: Iterator[bytes]) -> None:
    close = getattr(source, "close", None)
    if close is not None:
        close()
