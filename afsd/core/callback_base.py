"""What the parts of the callback machine share: hosts, promises, and how instructions go out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from afs.limits import PROMISE_SWEEP_S
from afsd.core.break_later import BreakLater
from afsd.core.deliveries import Deliveries, SweepDue
from afsd.core.doubts import EVERYTHING
from afsd.core.hosts import Host
from afsd.core.instructions import DownCause, Instruction
from afsd.core.promises import PromiseTable
from afsd.core.settings import CallBackSettings


class CallBackBase:
    """The state of the callback machine, which its parts work on."""

    def __init__(
        self,
        settings: CallBackSettings,
        now: float,
        known_hosts: Iterable[str] = (),
        epoch: int = 0,
    ) -> None:
        """Starts with no promises.

        Args:
            settings: deadlines, leases and bounds.
            now: steady seconds.
            known_hosts: UUIDs that may hold promises of an earlier life of this fileserver:
                VENUSDOWN until they are reset (I9).
            epoch: which life this is; larger than that of every earlier one.
        """
        self.settings: Final = settings
        self.table: Final = PromiseTable()
        self.deliveries: Final = Deliveries(settings, self.table, epoch)
        self.later: Final = BreakLater(self.table, self.deliveries)
        self._sequence = 1
        # Channels end because of us: see `planned_restart`.
        self._stopping = False
        for uuid in known_hosts:
            host = self.deliveries.add_host(uuid, now)
            host.session.lease_end = now + settings.stretched_lease_s
            self.deliveries.mark_down(host, DownCause.SERVER_RESTARTED, now)
            self.deliveries.doubt(host, (EVERYTHING,), host.session.lease_end)
        self.deliveries.deadlines.add(now + PROMISE_SWEEP_S, SweepDue())

    @property
    def hosts(self) -> dict[str, Host]:
        """All hosts, by UUID."""
        return self.deliveries.hosts

    @property
    def counters(self) -> Counter[str]:
        """How often things happened."""
        return self.deliveries.counters

    @property
    def sequence(self) -> int:
        """The place in the break sequence that a promise given now would carry."""
        return self._sequence

    def _advance(self) -> int:
        """Moves the break sequence on; the place up to which promises are concerned."""
        through = self._sequence
        self._sequence += 1
        return through

    def _take_out(self) -> list[Instruction]:
        out = self.deliveries.out
        self.deliveries.out = []
        return out
