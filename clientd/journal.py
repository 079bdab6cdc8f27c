"""What the client counts and tells: counters for GetStatus, events for Watch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from afs.runtime.clock import Clock
from afs.runtime.watch import WatchHub
from afs.types import BreakReason, Fid


@dataclass(frozen=True, slots=True)
class ClientEvent:
    """One thing that happened: `event` is `noun.verb_past`, `time_ns` Unix time."""

    event: str
    time_ns: int
    server: str = ""
    fids: tuple[Fid, ...] = ()
    reason: BreakReason | None = None
    sequence: int = 0
    count: int = 0


# Shown as 0 until they happen, so that who reads GetStatus need not guess their names.
COUNTERS = (
    "fetch_status_calls",
    "bulk_status_calls",
    "fetch_data_calls",
    "bulk_fetch_calls",
    "files_fetched_in_bulk",
    "volume_status_calls",
    "read_dir_calls",
    "lookup_calls",
    "store_data_calls",
    "change_calls",
    "location_calls",
    "locations_looked_up_again",
    "sites_left",
    "bytes_fetched",
    "bytes_stored",
    "cache_hits",
    "cache_misses",
    "revalidated",
    "breaks_received",
    "promises_broken",
    "resets_received",
    "resumptions",
    "replies_overtaken_by_breaks",
    "channels_lost",
    "lease_renewals",
    "stalls",
    "retries",
    "stores_kept",
    "stores_sent",
    "stores_conflicted",
    "stores_given_up",
    "pieces_damaged",
    "pieces_evicted",
    "cache_write_failures",
    "kernel_epochs",
    "kernel_waits_given_up",
    "lock_calls",
    "locks_lost",
)


class Journal:
    """Counts, and hands events to those who watch.

    Args:
        clock: for the time of events.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self.hub: WatchHub[ClientEvent] = WatchHub()

    def count(self, name: str, by: int = 1) -> None:
        """Adds to a counter."""
        self._counters[name] += by

    def counters(self) -> dict[str, int]:
        """All counters, as of now."""
        return dict(self._counters) | {"watch_events_dropped": self.hub.dropped_events}

    def tell(
        self,
        event: str,
        *,
        server: str = "",
        fids: Sequence[Fid] = (),
        reason: BreakReason | None = None,
        sequence: int = 0,
        count: int = 0,
    ) -> None:
        """Publishes an event; costs next to nothing while nobody watches."""
        if self.hub.watched:
            self.hub.publish(
                ClientEvent(
                    event, self._clock.wall_ns(), server, tuple(fids), reason, sequence, count
                )
            )
