"""Volumes marked now and broken later: FE_LATER, CB_DELAYED, HFE_LATER, and BreakLaterCallBacks.

Theory of operation
    `mark` detaches all promises on a volume from the table as one `MarkedVolume`. A file entry is
    FE_LATER, and its callbacks CB_DELAYED, because they are on such a mark; a host among them is
    HFE_LATER because it has the mark in `Host.delayed`. So a mark costs in proportion to the hosts,
    not to the promises (M2, T19).

    The worker calls `break_slice` until there is nothing left. Volumes are taken in the order they
    were marked, and all their hosts are told before any entry is dismantled, so that the size of
    one volume delays no other one. A host that calls in before the worker came to it is told at
    once (`break_delayed`), and so is one that holds what somebody has just changed
    (`tell_holders`); in any case it is told once (I6), because telling takes it off the mark.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import islice

from afs.limits import WORKER_SLICE_HOSTS, WORKER_SLICE_PROMISES
from afs.types import BreakReason, Fid, whole_volume_fid
from afsd.core.deliveries import Deliveries, Wait
from afsd.core.hosts import Host, Session
from afsd.core.promises import PromiseTable
from afsd.core.volume_promises import VolumePromises, file_key


class MarkedVolume:
    """The detached file entries of one volume, and who is still to be told.

    Attributes:
        promises: the file entries.
        through: promises given at or before this point of the break sequence end; later ones are
            not concerned (E2).
        reason: why they are broken.
        untold: sessions to be told, in no order that matters: each is told on its own channel.
    """

    __slots__ = ("promises", "reason", "through", "untold")

    def __init__(self, promises: VolumePromises, through: int, reason: BreakReason) -> None:
        self.promises = promises
        self.through = through
        self.reason = reason
        self.untold: dict[Session, None] = dict.fromkeys(promises.sessions)

    @property
    def target(self) -> Fid:
        """The Fid that the break names: `volume.0.0` (M5)."""
        return whole_volume_fid(self.promises.volume)


class BreakLater:
    """The marked volumes, oldest first. Part of the callback machine."""

    def __init__(self, table: PromiseTable, deliveries: Deliveries) -> None:
        self.marked: deque[MarkedVolume] = deque()
        self._dismantling: deque[VolumePromises] = deque()
        self._table = table
        self._deliveries = deliveries

    def mark(self, volume: int, reason: BreakReason, through: int) -> MarkedVolume | None:
        """Marks all callbacks on a volume; None if nobody holds any (M2)."""
        promises = self._table.detach(volume)
        size = 0 if promises is None else promises.size
        self._deliveries.counters["volumes_marked"] += 1
        self._deliveries.counters["callbacks_marked"] += size
        self._deliveries.observe(
            "volume.marked", None, (whole_volume_fid(volume),), through, reason.name, size
        )
        if promises is None:
            return None
        mark = MarkedVolume(promises, through, reason)
        for session in mark.untold:
            session.host.delayed[mark] = None
        self.marked.append(mark)
        return mark

    def break_slice(self, now: float) -> int:
        """BreakLaterCallBacks (M5), one slice.

        1 if there was work, 0 if nothing needed breaking.
        """
        if self.marked:
            mark = self.marked[0]
            for session in list(islice(mark.untold, WORKER_SLICE_HOSTS)):
                self._tell(mark, session, now, None)
            if not mark.untold:
                self._all_told(mark)
            return 1
        if self._dismantling:
            promises = self._dismantling[0]
            promises.dismantle(WORKER_SLICE_PROMISES)
            if not promises.segments:
                self._dismantling.popleft()
            return 1
        return 0

    @property
    def work_left(self) -> int:
        """Volumes that are marked, or whose entries are not dismantled yet."""
        return len(self.marked) + len(self._dismantling)

    def break_now(self, mark: MarkedVolume, now: float, wait: Wait | None) -> None:
        """Tells all hosts of a mark at once, for policies whose FSSYNC handler does the work."""
        for session in list(mark.untold):
            self._tell(mark, session, now, wait)
        self._all_told(mark)

    def break_delayed(self, host: Host, now: float) -> None:
        """BreakDelayedCallBacks (M7): tells a calling host now what it would be told later."""
        while host.delayed:
            self._deliveries.counters["breaks_at_call"] += 1
            self._tell(next(iter(host.delayed)), host.session, now, None)

    def has_holders(self, fid: Fid, writer: str | None) -> bool:
        """True if a mark has this vnode because of a host that is still to be told."""
        return any(True for _ in self._holders(fid, writer))

    def tell_holders(self, fid: Fid, writer: str | None, now: float) -> None:
        """Tells now whoever is on a mark because of this vnode: somebody has changed it.

        The writer waits for them, and must not depend on when the worker comes to them. Others of
        the volume have nothing to do with it.
        """
        for mark, session in list(self._holders(fid, writer)):
            # A host that goes down while it is told of one mark is on no other any more.
            if session in mark.untold:
                self._tell(mark, session, now, None)

    def _holders(self, fid: Fid, writer: str | None) -> Iterator[tuple[MarkedVolume, Session]]:
        for mark in self.marked:
            if mark.promises.volume != fid.volume:
                continue
            for session, _ in mark.promises.holders(file_key(fid)):
                if session in mark.untold and session.host.uuid != writer:
                    yield mark, session

    def _tell(self, mark: MarkedVolume, session: Session, now: float, wait: Wait | None) -> None:
        host = session.host
        del mark.untold[session]
        del host.delayed[mark]
        self._deliveries.send_break(host, (mark.target,), mark.reason, mark.through, now, wait)

    def _all_told(self, mark: MarkedVolume) -> None:
        """Everybody was told, or is covered by a reset: what is left are entries to dismantle."""
        self.marked.remove(mark)
        self._dismantling.append(mark.promises)
