"""One fileserver as the client knows it: its channel, its breaks' reach, its promises."""

from __future__ import annotations

from collections.abc import Iterable

from afs.types import Fid, whole_volume_fid
from clientd.core import validation
from clientd.core.channel import ChannelState
from clientd.core.entry import CacheEntry
from clientd.core.marks import BreakMarks
from clientd.core.onlooker import Onlooker
from clientd.core.promise import Promise


class KnownServer:
    """The books of one fileserver's promises, by volume (T23).

    Invariant: an entry is in the books of the fileserver that gave its promise, under its volume,
    and nowhere else.

    Attributes:
        address: host:port.
        channel: the callback channel.
        marks: how far its breaks have reached.
        promised: entries under a promise, expired ones included, by volume and Fid.
        onlooker: told whose promises end.
    """

    def __init__(self, address: str, onlooker: Onlooker) -> None:
        self.address = address
        self.onlooker = onlooker
        self.channel = ChannelState()
        self.marks = BreakMarks()
        self.promised: dict[int, dict[Fid, CacheEntry]] = {}

    def holds(self, entry: CacheEntry, now: float) -> bool:
        """True while the entry's promise, given by this fileserver, stands."""
        return validation.holds(entry.promise, self.channel, now)

    def give(self, entry: CacheEntry, promise: Promise) -> None:
        """The entry, which has none, is under this promise now."""
        assert entry.promise is None
        entry.promise = promise
        self.promised.setdefault(entry.fid.volume, {})[entry.fid] = entry

    def end(self, entry: CacheEntry) -> None:
        """The entry's promise is no more, nor what rested on it."""
        self.take_back(entry)
        self.onlooker.stale(entry.fid)

    def take_back(self, entry: CacheEntry) -> None:
        """As `end`, of a promise in whose place another one comes."""
        entry.promise = None
        entry.early.clear()
        volume = self.promised[entry.fid.volume]
        del volume[entry.fid]
        if not volume:
            del self.promised[entry.fid.volume]

    def take_break(self, targets: Iterable[Fid], through: int) -> list[CacheEntry]:
        """Ends promises on the targets given at or before `through`; returns whose they were."""
        ended: list[CacheEntry] = []
        for target in targets:
            promised = self.promised.get(target.volume, {})
            if target.is_whole_volume:
                self.marks.note(whole_volume_fid(target.volume), through)
                covered = list(promised.values())
            else:
                self.marks.note(target, through)
                covered = [promised[target]] if target in promised else []
            for entry in covered:
                assert entry.promise is not None
                if entry.promise.sequence <= through:
                    self.end(entry)
                    ended.append(entry)
        return ended

    def end_volume(self, volume: int) -> None:
        """Ends every promise on a volume."""
        for entry in list(self.promised.get(volume, {}).values()):
            self.end(entry)

    def end_all(self) -> None:
        """Ends every promise."""
        for volume in list(self.promised.values()):
            for entry in list(volume.values()):
                self.end(entry)

    def standing(self, now: float) -> int:
        """Promises that stand, whether or not the lease lets us rely on them this moment."""
        return sum(
            self.holds(entry, now) for volume in self.promised.values() for entry in volume.values()
        )
