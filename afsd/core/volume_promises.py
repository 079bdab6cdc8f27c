"""The promises on one volume, packed so that a million of them cost little and stop nothing.

Theory of operation
    File entries are spread over segments of 1,024 vnode numbers. No dictionary grows large enough
    for its resizing, walking or freeing to stop the event loop: whatever must walk goes segment by
    segment.

    A callback is stored as one number, made of its session's number and its time of expiry. An
    entry with one holder is that number; one with more is a dictionary by session number. Numbers
    are nothing that Python's garbage collector has to look at, and those that are equal are one
    object (`Session.packed_callback`).

    Callbacks of sessions that are no longer known are garbage: nobody sees them, they count
    nowhere, and the table's sweep frees them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from afs.types import Fid
from afsd.core.hosts import EXPIRY_BITS, CallBack, Session
from afsd.core.saved_state import HeldPromises

Holders = int | dict[int, int]

_SEGMENT_SHIFT: Final = 10 + 32
_EXPIRY_MASK: Final = (1 << EXPIRY_BITS) - 1


def file_key(fid: Fid) -> int:
    """A vnode within its volume as one number; 0 is the whole volume."""
    return fid.vnode << 32 | fid.uniquifier


class VolumePromises:
    """The file entries of one volume.

    Args:
        volume: its number.
        known: the sessions that count, by number; the table's, shared.

    Attributes:
        segments: the entries, by segment and file key.
        sessions: promises of each live session here.
        size: their sum.
    """

    __slots__ = ("_known", "segments", "sessions", "size", "volume")

    def __init__(self, volume: int, known: Mapping[int, Session]) -> None:
        self.volume = volume
        self.segments: dict[int, dict[int, Holders]] = {}
        self.sessions: dict[Session, int] = {}
        self.size = 0
        self._known = known

    def _packed(self, key: int) -> tuple[int, ...]:
        """The callbacks on one file entry, garbage included."""
        entry = self.segments.get(key >> _SEGMENT_SHIFT, {}).get(key)
        if entry is None:
            return ()
        return (entry,) if isinstance(entry, int) else tuple(entry.values())

    def holders(self, key: int) -> list[CallBack]:
        """The callbacks on one file entry, also expired ones and those of ended sessions."""
        return [
            CallBack(session, packed & _EXPIRY_MASK)
            for packed in self._packed(key)
            if (session := self._known.get(packed >> EXPIRY_BITS)) is not None
        ]

    def holder_count(self, key: int) -> int:
        """How many callbacks are on one file entry, garbage included: good enough for lifetimes."""
        entry = self.segments.get(key >> _SEGMENT_SHIFT, {}).get(key)
        if entry is None:
            return 0
        return 1 if isinstance(entry, int) else len(entry)

    def put(self, key: int, session: Session, expires_at: int) -> bool:
        """Gives a promise, or prolongs the one the session has. True if it is a new one."""
        packed = session.packed_callback(expires_at)
        segment = self.segments.setdefault(key >> _SEGMENT_SHIFT, {})
        entry = segment.get(key)
        if entry is None:
            segment[key] = packed
        elif isinstance(entry, int):
            holder = entry >> EXPIRY_BITS
            if holder == session.number:
                segment[key] = packed
                return False
            segment[key] = {holder: entry, session.number: packed}
        else:
            known = session.number in entry
            entry[session.number] = packed
            if known:
                return False
        self.sessions[session] = self.sessions.get(session, 0) + 1
        session.volumes[self] = None
        session.promises += 1
        self.size += 1
        return True

    def put_all(self, session: Session, keys: Sequence[int], expires_at: Sequence[int]) -> int:
        """Gives promises that the session does not have yet; how many."""
        packed = {second: session.number << EXPIRY_BITS | second for second in set(expires_at)}
        count = 0
        for key, second in zip(keys, expires_at, strict=True):
            segment = self.segments.setdefault(key >> _SEGMENT_SHIFT, {})
            entry = segment.get(key)
            if entry is None:
                segment[key] = packed[second]
            elif isinstance(entry, int):
                segment[key] = {entry >> EXPIRY_BITS: entry, session.number: packed[second]}
            else:
                entry[session.number] = packed[second]
            count += 1
        self.sessions[session] = self.sessions.get(session, 0) + count
        session.volumes[self] = None
        session.promises += count
        self.size += count
        return count

    def held_by(self, sessions: Collection[int], now: float) -> dict[int, HeldPromises]:
        """What these sessions hold here and is not expired, by session number."""
        columns: dict[int, tuple[list[int], list[int]]] = {}
        for segment in self.segments.values():
            for key, entry in segment.items():
                for packed in (entry,) if isinstance(entry, int) else entry.values():
                    number, second = packed >> EXPIRY_BITS, packed & _EXPIRY_MASK
                    if number in sessions and second > now:
                        keys, seconds = columns.setdefault(number, ([], []))
                        keys.append(key)
                        seconds.append(second)
        return {number: HeldPromises(*both) for number, both in columns.items()}

    def remove(self, key: int, session: Session) -> bool:
        """Takes one session's promise away. False if it has none."""
        if not self._remove_packed(key, session.number):
            return False
        if session.alive:
            left = self.sessions[session] - 1
            if left:
                self.sessions[session] = left
            else:
                del self.sessions[session]
                session.volumes.pop(self, None)
            session.promises -= 1
            self.size -= 1
        return True

    def _remove_packed(self, key: int, number: int) -> bool:
        segment_id = key >> _SEGMENT_SHIFT
        segment = self.segments.get(segment_id, {})
        entry = segment.get(key)
        if isinstance(entry, int) and entry >> EXPIRY_BITS == number:
            del segment[key]
        elif isinstance(entry, dict) and number in entry:
            del entry[number]
            if len(entry) == 1:
                (segment[key],) = entry.values()
        else:
            return False
        if not segment:
            del self.segments[segment_id]
        return True

    def end_session(self, session: Session) -> int:
        """Stops counting a session's promises here; how many there were.

        Their memory is left to the sweep.
        """
        count = self.sessions.pop(session)
        self.size -= count
        return count

    def sweep_segment(self, segment_id: int, now: float) -> int:
        """Frees what is expired or garbage in one segment; how many callbacks it looked at.

        A promise of an ended session stays while its client's lease may still run: with strict
        coherence a writer must know whom to wait for.
        """
        looked_at = 0
        for key in list(self.segments.get(segment_id, ())):
            for packed in self._packed(key):
                looked_at += 1
                session = self._known.get(packed >> EXPIRY_BITS)
                if session is None:
                    self._remove_packed(key, packed >> EXPIRY_BITS)
                elif session.alive and packed & _EXPIRY_MASK <= now:
                    self.remove(key, session)
        return looked_at

    def dismantle(self, limit: int) -> int:
        """Frees up to about `limit` promises; how many.

        For a detached set whose holders have been told.
        """
        freed = 0
        while self.segments and freed < limit:
            segment_id, segment = next(reversed(self.segments.items()))
            while segment and freed < limit:
                _, entry = segment.popitem()
                freed += 1 if isinstance(entry, int) else len(entry)
            if not segment:
                del self.segments[segment_id]
        return freed

    def entries(self) -> Iterator[tuple[Fid, CallBack]]:
        """Every promise, with its Fid.

        Segment by segment; the table may change between two segments.
        """
        for segment_id in list(self.segments):
            for key in list(self.segments.get(segment_id, ())):
                fid = Fid(self.volume, key >> 32, key & 0xFFFFFFFF)
                for callback in self.holders(key):
                    yield fid, callback
