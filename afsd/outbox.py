"""What is to be sent down one callback channel, in order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from afs.types import BreakReason, Fid
from afs.v1 import types_pb2
from afs.v1.callback_channel_pb2 import AttachResponse, Break, InitCallBackState, Probe
from afs.wire import fid_to_wire


class Outbox:
    """Messages for one channel.

    It holds no more than the machine lets be outstanding, and one answer to a lease renewal: a
    client that asks faster than it reads gets the newest answer only.

    Attributes:
        replaced: set when the host has attached anew, and this channel is to end.
    """

    def __init__(self) -> None:
        self.replaced = asyncio.Event()
        self._messages: deque[AttachResponse] = deque()
        self._renewal: AttachResponse | None = None
        self._filled = asyncio.Event()

    def send_break(
        self, sequence: int, targets: Sequence[Fid], reason: BreakReason, through: int
    ) -> None:
        """Adds a break."""
        message = Break(
            sequence=sequence,
            targets=[fid_to_wire(fid) for fid in targets],
            reason=types_pb2.BreakReason.ValueType(reason),
            through=through,
        )
        # The field's name is a keyword of Python.
        response = AttachResponse()
        getattr(response, "break").CopyFrom(message)
        self._put(response)

    def send_reset(
        self, sequence: int, epoch: int, channel_lease_s: float, *, kept: bool = False
    ) -> None:
        """Adds InitCallBackState."""
        message = InitCallBackState(
            sequence=sequence, epoch=epoch, channel_lease_s=channel_lease_s, kept=kept
        )
        self._put(AttachResponse(init_callback_state=message))

    def answer_renewal(self, number: int) -> None:
        """Has RenewLease `number` answered, after all breaks that are before it."""
        self._renewal = AttachResponse(probe=Probe(renews=number))
        self._filled.set()

    def _put(self, message: AttachResponse) -> None:
        # An answer to a renewal must not overtake a break, and may not be overtaken by one for
        # ever.
        if self._renewal is not None:
            self._messages.append(self._renewal)
            self._renewal = None
        self._messages.append(message)
        self._filled.set()

    async def next(self) -> AttachResponse:
        """The next message; waits for one."""
        while not (self._messages or self._renewal):
            self._filled.clear()
            await self._filled.wait()
        if self._messages:
            return self._messages.popleft()
        renewal, self._renewal = self._renewal, None
        assert renewal is not None, "looked at above"
        return renewal
