"""The table of promises: which host may rely on which vnode, and until when.

Theory of operation
    File entries are kept per volume, in a `VolumePromises` that a mark can detach whole, in
    constant time: an entry is FE_LATER, and its callbacks CB_DELAYED, because of *where it is*, not
    because somebody walked by and marked it (M2, T19, R6).

    Within a volume, entries are spread over segments of 1,024 vnode numbers. No dictionary grows
    large enough for its
    resizing, walking or freeing to stop the event loop: everything that must walk goes segment by
    segment.

    An entry with one holder is that holder's `CallBack` itself, one with more is a dictionary by
    session. Promises of
    an ended session are garbage: they count nowhere, nobody is told of their break, and `sweep`
    frees them together with the expired ones (R4).

Invariant I1 (the books balance) is checked by `check`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Final

from afs.types import Fid
from afsd.core.hosts import CallBack, Session

Holders = CallBack | dict[Session, CallBack]

_SEGMENT_SHIFT: Final = 10 + 32


def file_key(fid: Fid) -> int:
    """A vnode within its volume as one number; 0 is the whole volume."""
    return (fid.vnode << 32) | fid.uniquifier


class VolumePromises:
    """The file entries of one volume."""

    __slots__ = ("segments", "sessions", "size", "volume")

    def __init__(self, volume: int) -> None:
        self.volume = volume
        self.segments: dict[int, dict[int, Holders]] = {}
        # Promises of each live session here. Their sum is `size`.
        self.sessions: dict[Session, int] = {}
        self.size = 0

    def holders(self, key: int) -> tuple[CallBack, ...]:
        """The callbacks on one file entry, also expired ones and those of ended sessions."""
        entry = self.segments.get(key >> _SEGMENT_SHIFT, {}).get(key)
        if entry is None:
            return ()
        return (entry,) if isinstance(entry, CallBack) else tuple(entry.values())

    def holder_count(self, key: int) -> int:
        """How many callbacks are on one file entry."""
        entry = self.segments.get(key >> _SEGMENT_SHIFT, {}).get(key)
        if entry is None:
            return 0
        return 1 if isinstance(entry, CallBack) else len(entry)

    def put(self, key: int, callback: CallBack) -> bool:
        """Gives a promise, or prolongs the one its session has. True if it is a new one."""
        session = callback.session
        segment = self.segments.setdefault(key >> _SEGMENT_SHIFT, {})
        entry = segment.get(key)
        if entry is None:
            segment[key] = callback
        elif isinstance(entry, CallBack):
            if entry.session is session:
                segment[key] = callback
                return False
            segment[key] = {entry.session: entry, session: callback}
        else:
            known = session in entry
            entry[session] = callback
            if known:
                return False
        self.sessions[session] = self.sessions.get(session, 0) + 1
        session.volumes[self] = None
        session.promises += 1
        self.size += 1
        return True

    def remove(self, key: int, session: Session) -> bool:
        """Takes one session's promise away. False if it has none."""
        segment_id = key >> _SEGMENT_SHIFT
        segment = self.segments.get(segment_id, {})
        entry = segment.get(key)
        if isinstance(entry, CallBack) and entry.session is session:
            del segment[key]
        elif isinstance(entry, dict) and session in entry:
            del entry[session]
            if len(entry) == 1:
                (segment[key],) = entry.values()
        else:
            return False
        if not segment:
            del self.segments[segment_id]
        self._uncount(session)
        return True

    def _uncount(self, session: Session) -> None:
        if not session.alive:
            return
        left = self.sessions[session] - 1
        if left:
            self.sessions[session] = left
        else:
            del self.sessions[session]
            session.volumes.pop(self, None)
        session.promises -= 1
        self.size -= 1

    def end_session(self, session: Session) -> int:
        """Stops counting a session's promises here; how many there were.

        Their memory is left to `sweep`.
        """
        count = self.sessions.pop(session)
        self.size -= count
        return count

    def dismantle(self, limit: int) -> int:
        """Frees up to about `limit` entries; how many.

        For a detached set whose holders have been told.
        """
        freed = 0
        while self.segments and freed < limit:
            _, segment = self.segments.popitem()
            freed += len(segment)
        return freed

    def entries(self) -> Iterator[tuple[Fid, CallBack]]:
        """Every promise, with its Fid. Segment by segment.

        The table may change between two segments.
        """
        for segment_id in list(self.segments):
            for key in list(self.segments.get(segment_id, ())):
                fid = Fid(self.volume, key >> 32, key & 0xFFFFFFFF)
                for callback in self.holders(key):
                    yield fid, callback


class PromiseTable:
    """The promises on all volumes that are not marked."""

    def __init__(self) -> None:
        self.volumes: dict[int, VolumePromises] = {}
        self.size = 0

    def holder_count(self, fid: Fid) -> int:
        """How many hosts hold a promise on this vnode."""
        volume = self.volumes.get(fid.volume)
        return 0 if volume is None else volume.holder_count(file_key(fid))

    def give(self, fid: Fid, callback: CallBack) -> None:
        """Gives a promise on a vnode (or a whole volume), or prolongs the one the session has."""
        volume = self.volumes.get(fid.volume)
        if volume is None:
            volume = self.volumes[fid.volume] = VolumePromises(fid.volume)
        if volume.put(file_key(fid), callback):
            self.size += 1

    def take(self, fid: Fid, keep: Session | None) -> list[CallBack]:
        """Removes and returns every callback on a vnode but that of the session to keep."""
        volume = self.volumes.get(fid.volume)
        if volume is None:
            return []
        key = file_key(fid)
        taken = [callback for callback in volume.holders(key) if callback.session is not keep]
        for callback in taken:
            self._remove(volume, key, callback.session)
        return taken

    def give_up(self, fid: Fid, session: Session) -> bool:
        """Removes one session's promise on a vnode. False if it has none."""
        volume = self.volumes.get(fid.volume)
        return volume is not None and self._remove(volume, file_key(fid), session)

    def _remove(self, volume: VolumePromises, key: int, session: Session) -> bool:
        before = volume.size
        removed = volume.remove(key, session)
        self.size -= before - volume.size
        if not volume.segments:
            del self.volumes[volume.volume]
        return removed

    def take_oldest(self, session: Session, limit: int) -> tuple[Fid, ...]:
        """Removes up to `limit` promises of a session, from the volume where it holds most.

        Roughly those given longest ago: segments keep the order in which they came to be.
        """
        volume = max(session.volumes, key=lambda each: each.sessions[session])
        mine = (fid for fid, callback in volume.entries() if callback.session is session)
        fids = tuple(islice(mine, limit))
        for fid in fids:
            self._remove(volume, file_key(fid), session)
        return fids

    def detach(self, volume_id: int) -> VolumePromises | None:
        """Takes all promises on a volume out of the table; None if nobody holds any.

        Costs no more than its hosts.
        """
        volume = self.volumes.pop(volume_id, None)
        if volume is None:
            return None
        self.size -= volume.size
        for session, count in volume.sessions.items():
            session.promises -= count
            session.volumes.pop(volume, None)
        return volume

    def has_holder_but(self, fid: Fid, keep: Session | None) -> bool:
        """True if somebody other than that session is on a vnode's entry."""
        volume = self.volumes.get(fid.volume)
        if volume is None:
            return False
        return any(callback.session is not keep for callback in volume.holders(file_key(fid)))

    def end_session(self, session: Session) -> int:
        """Tosses all promises of a session in one step; how many there were."""
        session.alive = False
        tossed = sum(volume.end_session(session) for volume in session.volumes)
        session.volumes.clear()
        session.promises = 0
        self.size -= tossed
        return tossed

    def sweep(self, now: float) -> Iterator[int]:
        """Frees expired promises and those of ended sessions, one segment a step.

        Yields how many it looked at. A promise of an ended session stays while its client's lease
        may still run: with strict coherence a writer must know whom to wait for.
        """
        for volume_id in list(self.volumes):
            volume = self.volumes.get(volume_id)
            if volume is None:
                continue
            for segment_id in list(volume.segments):
                yield self._sweep_segment(volume, segment_id, now)

    def _sweep_segment(self, volume: VolumePromises, segment_id: int, now: float) -> int:
        looked_at = 0
        for key in list(volume.segments.get(segment_id, ())):
            for callback in volume.holders(key):
                looked_at += 1
                session = callback.session
                over = callback.expires_at <= now if session.alive else session.lease_end <= now
                if over and self.volumes.get(volume.volume) is volume:
                    self._remove(volume, key, session)
        return looked_at

    def check(self) -> None:
        """Asserts I1: counts equal what is there, on every side."""
        for volume_id, volume in self.volumes.items():
            assert volume.volume == volume_id, "a volume's entries are under its own number"
            assert volume.segments, "an empty volume is not kept"
            counted: dict[Session, int] = {}
            for fid, callback in volume.entries():
                assert fid.volume == volume_id
                if callback.session.alive:
                    counted[callback.session] = counted.get(callback.session, 0) + 1
            assert counted == volume.sessions, "promises of each session are counted"
            assert sum(counted.values()) == volume.size, "promises of a volume are counted"
            assert all(volume in session.volumes for session in counted), (
                "sessions know their volumes"
            )
        assert self.size == sum(volume.size for volume in self.volumes.values()), "all are counted"
