"""Which small files are fetched along with one that is read: those that will be read next.

Theory of operation
    Whoever reads the files of a directory one after the other, in the order in which it lists them
    (tar, grep -r, a copy, a compiler), would pay one call for each. So the second file that is read
    after one before it takes others along, the next batch is larger, and a new one is asked for
    when half of what was brought is read. A file that is read out of order ends it: the next two in
    order begin anew.

    Files between two that are read may be skipped, up to SKIP names: directories, larger files, and
    those that are here already are not read from the fileserver either. What is known to be larger
    than a bulk fetch brings is not asked for; of what nobody looked at yet the size is unknown, and
    then the fileserver decides.

    So what can be wasted is half a batch at the end, and a batch is bounded in files and bytes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from afs.limits import MAX_BULK_FETCH_FIDS, MAX_BULK_FILE_BYTES, MIB
from afs.types import Fid, VnodeType
from clientd.core.cache import VnodeCache

# The first batch, and how many times larger each next one is.
FIRST_BATCH: Final = 8
GROWTH: Final = 4
# Bytes of one batch, as far as they are known: below what one answer has.
BATCH_BYTES: Final = 2 * MIB
# Names that may be skipped between two files that are read in order.
SKIP: Final = 8
# Names looked at for one batch, so that a large directory does not hold up the event loop.
MAX_LOOKED_AT: Final = 4000
# Directories remembered; those longest unused begin anew.
MAX_DIRECTORIES: Final = 16


@dataclass(slots=True)
class _Walk:
    """How far the files of one directory have been read.

    `places` has their places in `files`. `last` is that of the one read last, `brought` that of the
    first one that nobody asked for yet, `more_at` that of the one at which more are asked for.
    `batch` is 0 until two were read in order.
    """

    files: list[Fid]
    places: dict[Fid, int]
    last: int
    brought: int = 0
    more_at: int = 0
    batch: int = 0


class ReadingOrder:
    """Chooses them.

    Args:
        cache: what is remembered.
        is_here: True for a file whose data need not be fetched, or is under way.
    """

    def __init__(self, cache: VnodeCache, is_here: Callable[[Fid], bool]) -> None:
        self._cache = cache
        self._is_here = is_here
        self._walks: OrderedDict[Fid, _Walk] = OrderedDict()

    def read(self, fid: Fid) -> list[Fid]:
        """Notes that a file is about to be read; what to fetch for it and the next ones.

        Itself among them if it is not here; nothing if it is read out of order, or if it is the
        only one.
        """
        walk = self._walk_of(fid)
        if walk is None:
            return []
        place = walk.places[fid]
        step, walk.last = place - walk.last, place
        if step == 0:
            return []
        if not 0 < step <= SKIP:
            walk.batch = 0
            return []
        if not walk.batch:
            walk.batch, walk.brought, walk.more_at = FIRST_BATCH, place, place
        here = self._is_here(fid)
        if here and place < walk.more_at:
            return []
        start = max(place, walk.brought) if here else place
        found = self._choose(walk, start)
        walk.more_at = (start + walk.brought) // 2
        walk.batch = min(walk.batch * GROWTH, MAX_BULK_FETCH_FIDS)
        return [] if found == [fid] else found

    def _walk_of(self, fid: Fid) -> _Walk | None:
        """The walk through the file's directory; one begins where a file is not here."""
        entry = self._cache.peek(fid)
        if entry is None:
            # Nobody knows where it is, unless it is one of a directory that is being read.
            return next((walk for walk in self._walks.values() if fid in walk.places), None)
        parent = entry.status.parent
        walk = self._walks.get(parent)
        if walk is not None and fid in walk.places:
            self._walks.move_to_end(parent)
            return walk
        if not self._is_here(fid):
            self._begin(parent, fid)
        return None

    def _begin(self, directory: Fid, fid: Fid) -> None:
        above = self._cache.peek(directory)
        listing = above.current_listing() if above is not None else None
        if listing is None:
            return
        files = [each.fid for each in listing.in_order() if each.type is VnodeType.FILE]
        places = {each: place for place, each in enumerate(files)}
        if fid in places:
            self._walks[directory] = _Walk(files, places, places[fid])
            self._walks.move_to_end(directory)
            if len(self._walks) > MAX_DIRECTORIES:
                self._walks.popitem(last=False)

    def _choose(self, walk: _Walk, start: int) -> list[Fid]:
        """The next files that are not here, as many as a batch has."""
        found: list[Fid] = []
        size = 0
        end = min(len(walk.files), start + MAX_LOOKED_AT)
        for place in range(start, end):
            fid = walk.files[place]
            entry = self._cache.peek(fid)
            length = 0 if entry is None else entry.status.length
            if length > MAX_BULK_FILE_BYTES or self._is_here(fid):
                continue
            if len(found) == walk.batch or size + length > BATCH_BYTES:
                walk.brought = place
                return found
            found.append(fid)
            size += length
        walk.brought = end
        return found
