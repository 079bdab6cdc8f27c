"""Which vnodes are asked about along with one that has to be: those that will be asked about next.

Theory of operation
    When a whole volume's promises end (it was released, moved, or given back changed; or the
    channel was lost), everything cached of it has to be asked about again, and most of it has not
    changed. Whoever goes through a directory then would pay one call for each file.

    So the second one in a directory that has to be asked about takes others of that directory
    along, the third one more of them: only such as are cached and have no promise, in the order of
    their names, from where the last batch ended. What nobody ever used is not asked about, so all
    that can be wasted is a promise on something that was used before.

    Who goes through a directory for the first time (`directory` says so, the mount does) meets
    vnodes of which nothing is cached; then those are taken along as well.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from afs.types import Fid
from clientd.core.cache import VnodeCache
from clientd.core.entry import CacheEntry

# The first batch, and the largest: about 10 ms of work for either side.
FIRST_BATCH: Final = 8
LARGEST_BATCH: Final = 256
# A batch is that many times larger than the one before.
GROWTH: Final = 4
# Names looked at for one batch, so that a large directory does not hold up the event loop.
MAX_LOOKED_AT: Final = 4000
# Directories remembered; those longest unused start anew.
MAX_DIRECTORIES: Final = 1000


@dataclass(slots=True)
class _Progress:
    """How far one directory has been gone through."""

    batch: int = FIRST_BATCH
    position: int = 0


class Companions:
    """Chooses them.

    Args:
        cache: what is remembered.
    """

    def __init__(self, cache: VnodeCache) -> None:
        self._cache = cache
        self._progress: OrderedDict[Fid, _Progress] = OrderedDict()

    def of(self, fid: Fid, now: float, directory: Fid | None = None) -> list[Fid]:
        """Vnodes of the same volume to ask about along with this one; may be empty.

        Args:
            fid: what has to be asked about anyway.
            now: steady seconds.
            directory: where it was found, by somebody who goes through that.
        """
        first_time = directory is not None
        entry = self._cache.peek(fid)
        if directory is None and entry is not None:
            directory = entry.status.parent
        above = self._cache.peek(directory) if directory is not None else None
        listing = above.current_listing() if above is not None else None
        if above is None or listing is None or above.fid == fid:
            return []
        progress = self._progress.get(above.fid)
        if progress is None:
            self._progress[above.fid] = _Progress()
            if len(self._progress) > MAX_DIRECTORIES:
                self._progress.popitem(last=False)
            return []
        self._progress.move_to_end(above.fid)
        entries = listing.in_order()
        found: list[Fid] = []
        for looked_at in range(min(len(entries), MAX_LOOKED_AT)):
            position = (progress.position + looked_at) % len(entries)
            if len(found) == progress.batch:
                progress.position = position
                break
            companion_fid = entries[position].fid
            companion = self._cache.peek(companion_fid)
            wanted = first_time if companion is None else _has_no_promise(companion, now)
            if wanted and companion_fid != fid:
                found.append(companion_fid)
        else:
            progress.position += MAX_LOOKED_AT
        progress.batch = min(progress.batch * GROWTH, LARGEST_BATCH)
        if not found:
            del self._progress[above.fid]
        return found


def _has_no_promise(entry: CacheEntry, now: float) -> bool:
    """True for what has to be asked about before it is answered.

    A promise that is not relied on at this moment (the lease does not run) may be so again soon.
    """
    return entry.promise is None or now >= entry.promise.expires_at
