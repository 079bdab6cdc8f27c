"""What an operator may choose about callbacks."""

from __future__ import annotations

from dataclasses import dataclass

from afs.limits import (
    BREAK_DEADLINE_S,
    CHANNEL_LEASE_S,
    CLOCK_RATE_ERROR_PPM,
    MAX_HOSTS,
    MAX_PROMISES,
    MAX_PROMISES_PER_HOST,
)


@dataclass(frozen=True, slots=True)
class CallBackSettings:
    """Deadlines and bounds; units last in the names, reasons in `afs.limits`.

    `strict`: a writer also waits until the leases of holders that did not acknowledge have run out
    (I8).
    """

    break_deadline_s: float = BREAK_DEADLINE_S
    channel_lease_s: float = CHANNEL_LEASE_S
    max_promises: int = MAX_PROMISES
    max_promises_per_host: int = MAX_PROMISES_PER_HOST
    max_hosts: int = MAX_HOSTS
    strict: bool = False

    @property
    def stretched_lease_s(self) -> float:
        """The lease as the server must count it: its clock and the client's may differ in rate."""
        return self.channel_lease_s * (1 + CLOCK_RATE_ERROR_PPM / 1e6)
