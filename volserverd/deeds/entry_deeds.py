"""Steps on the location entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from afs.errors import AfsCode, AfsError
from volserverd.core.step import Role, StepKind
from volserverd.deeds.work_state import Deeds, WorkState
from volserverd.halves import is_move_lock
from volserverd.settling import settle
from volserverd.vldb.entry import Entry, kept_backup_id
from volserverd.vldb.names import VolumeReference, parse_reference

# To change an entry whose location database does not answer.
_ATTEMPTS: Final = 3


class EntryDeeds(WorkState):
    """Makes, locks and settles the entry."""

    def deeds(self) -> Deeds:
        """Those of this file."""
        return {
            **super().deeds(),
            StepKind.CREATE_ENTRY: self._create_entry,
            StepKind.LOCK_ENTRY: self._lock_entry,
            StepKind.SETTLE_ENTRY: self._settle_entry,
        }

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
        if not services.is_ours(entry.locked_for) or is_move_lock(entry.locked_for):
            # What became of a move is not for the disk to say: `Halves` is at it.
            return False
        # Refused if that operation is still running.
        self._operation.claim(
            [entry.read_write_id, kept_backup_id(entry.read_write_id)], entry.name
        )
        await settle(services, entry)
        return True

    async def _change_entry(self, change: Callable[[Entry], Entry]) -> None:
        """Changes the locked entry; looks whether it happened when an answer is lost.

        An address that is corrected meanwhile changes the entry's version, also under our lock.
        """
        assert self._entry is not None
        entry, locations = self._entry, self._services.locations
        reference = VolumeReference(entry.name, volume_id=entry.read_write_id)
        for attempts_left in reversed(range(_ATTEMPTS)):
            wanted = change(entry)
            try:
                self._entry = await locations.replace(wanted)
                return
            except AfsError as error:
                if error.code not in (AfsCode.RX_CALL_DEAD, AfsCode.EAGAIN) or not attempts_left:
                    raise
            entry = await locations.get(reference)
            if entry.locked_for != self._lock_text:
                raise AfsError(
                    AfsCode.EAGAIN, f"the lock of volume {entry.name}'s entry was taken from us"
                )
            if replace(change(entry), version=0) == replace(entry, version=0):
                self._entry = entry
                return

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
        self._entry = await settle(services, entry)
        self._locked = False
