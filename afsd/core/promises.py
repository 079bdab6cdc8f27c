"""The table of promises: which host may rely on which vnode, and until when.

Theory of operation
    File entries are kept per volume, in a `VolumePromises` that a mark can detach whole, in
    constant time: an entry is FE_LATER, and its callbacks CB_DELAYED, because of *where it is*, not
    because somebody walked by and marked it (M2, T19, R6).

    What a host holds between two resets is a `Session`. Ending it tosses all of its promises at
    once, whatever their number; `sweep` then frees their memory, and that of expired ones, in
    slices (R4).

Invariant I1 (the books balance) is checked by `check`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice

from afs.types import Fid
from afsd.core.hosts import CallBack, Host, Session
from afsd.core.volume_promises import VolumePromises, file_key


class PromiseTable:
    """The promises on all volumes that are not marked.

    Attributes:
        volumes: by volume number; none of them is empty.
        size: promises of live sessions.
    """

    def __init__(self) -> None:
        self.volumes: dict[int, VolumePromises] = {}
        self.size = 0
        self._sessions: dict[int, Session] = {}
        self._numbers = count(1)

    def open_session(self, host: Host, lease_end: float) -> Session:
        """Begins a session of a host."""
        session = Session(next(self._numbers), host, lease_end)
        self._sessions[session.number] = session
        return session

    def end_session(self, session: Session) -> int:
        """Tosses all promises of a session in one step; how many there were."""
        session.alive = False
        tossed = sum(volume.end_session(session) for volume in session.volumes)
        session.volumes.clear()
        session.promises = 0
        self.size -= tossed
        return tossed

    def holder_count(self, fid: Fid) -> int:
        """How many hosts hold a promise on this vnode."""
        volume = self.volumes.get(fid.volume)
        return 0 if volume is None else volume.holder_count(file_key(fid))

    def give(self, fid: Fid, session: Session, expires_at: int) -> None:
        """Gives a promise on a vnode (or a whole volume), or prolongs the one the session has."""
        if self._volume(fid.volume).put(file_key(fid), session, expires_at):
            self.size += 1

    def restore(
        self, volume: int, session: Session, keys: Sequence[int], expires_at: Sequence[int]
    ) -> None:
        """Gives promises on a volume to a session that has none there; at least one."""
        self.size += self._volume(volume).put_all(session, keys, expires_at)

    def _volume(self, volume_id: int) -> VolumePromises:
        """The promises on a volume, which is not to stay empty."""
        volume = self.volumes.get(volume_id)
        if volume is None:
            volume = self.volumes[volume_id] = VolumePromises(volume_id, self._sessions)
        return volume

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

    def _remove(self, volume: VolumePromises, key: int, session: Session) -> bool:
        before = volume.size
        removed = volume.remove(key, session)
        self.size -= before - volume.size
        if not volume.segments:
            del self.volumes[volume.volume]
        return removed

    def detach(self, volume_id: int) -> VolumePromises | None:
        """Takes all promises on a volume out of the table; None if nobody holds any.

        Costs no more than its hosts.
        """
        volume = self.volumes.pop(volume_id, None)
        if volume is None:
            return None
        self.size -= volume.size
        for session, promises in volume.sessions.items():
            session.promises -= promises
            session.volumes.pop(volume, None)
        return volume

    def has_holder_but(self, fid: Fid, keep: Session | None) -> bool:
        """True if somebody other than that session is on a vnode's entry."""
        volume = self.volumes.get(fid.volume)
        if volume is None:
            return False
        return any(callback.session is not keep for callback in volume.holders(file_key(fid)))

    def sweep(self, now: float) -> Iterator[int]:
        """Frees expired promises and those of ended sessions, one segment a step.

        Yields how many it looked at.
        """
        for session in list(self._sessions.values()):
            # Nobody waits for the lease of an ended session any more: what is left is garbage.
            if not session.alive and session.lease_end <= now:
                del self._sessions[session.number]
        for volume in list(self.volumes.values()):
            for segment_id in list(volume.segments):
                if self.volumes.get(volume.volume) is not volume:
                    break
                before = volume.size
                looked_at = volume.sweep_segment(segment_id, now)
                self.size -= before - volume.size
                if not volume.segments:
                    del self.volumes[volume.volume]
                yield looked_at

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
