"""What the deeds of one operation share: what it is about, and how far it has come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from afs.errors import AfsCode, AfsError
from afs.volume.restore import Restore
from afs.volume.volume import SetVolumeFields
from volserverd.core.step import Role, StepKind
from volserverd.operations import Operation
from volserverd.work_order import VolumeServices, WorkOrder

T = TypeVar("T")
# What does a step, by its kind; the argument says which volume it is about.
Deeds = dict[StepKind, Callable[[Role], Awaitable[None]]]

# A fileserver that is restarted this often within one step is in more trouble than we are.
_ATTEMPTS: Final = 3


class WorkState:
    """One operation's state. Deeds are in classes that inherit this, by theme.

    Undoing deeds do nothing where there is nothing to undo, so that a step of which nobody knows
    whether it happened can be undone too.

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

    def deeds(self) -> Deeds:
        """What there is to do each kind of step."""
        return {}

    def interrupt(self, error: AfsError) -> None:
        """Ends a step that waits for a peer."""
        self._order.pieces.abort(error)

    async def _on_disk(self, role: Role) -> bool:
        return await self._services.disk.has(self._partition, self.ids[role])

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
