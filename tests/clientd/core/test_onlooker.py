"""What the cache tells whoever has cached its answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from afs.types import BreakReason, DirectoryEntry, Fid, VnodeType, whole_volume_fid
from clientd.core.cache import VnodeCache
from clientd.core.listing import AddName, Edit, Listing, RemoveName
from clientd.core.onlooker import Onlooker
from tests.clientd.core.vnodes import (
    EPOCH,
    LEASE_S,
    SERVER,
    VOLUME,
    attached_cache,
    fetch,
    longer,
    offer,
    vnode,
)

FILE = Fid(VOLUME, 2, 2)
DIRECTORY = Fid(VOLUME, 3, 3)


class Notes(Onlooker):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, object]] = []

    def stale(self, fid: Fid) -> None:
        self.told.append(("stale", fid))

    def changed(self, fid: Fid) -> None:
        self.told.append(("changed", fid))

    def names_changed(self, directory: Fid, names: Iterable[str]) -> None:
        self.told.append(("names", (directory, tuple(names))))

    def all_stale(self) -> None:
        self.told.append(("all", None))


def watched() -> tuple[VnodeCache, Notes]:
    """A cache with a promise on a file and one on a directory with a listing, and its onlooker."""
    notes = Notes()
    cache = attached_cache(onlooker=notes)
    fetch(cache, vnode(FILE))
    fetch(cache, vnode(DIRECTORY, kind=VnodeType.DIRECTORY))
    ticket = cache.ticket(SERVER, 0.0)
    assert cache.keep_listing(ticket, DIRECTORY, Listing([], 1, complete=True), 0.0)
    assert notes.told == []
    return cache, notes


def test_broken_promises_are_told() -> None:
    """Of one vnode, and each one of a volume (T23); what had no promise is not told of."""
    cache, notes = watched()
    cache.on_break(SERVER, targets=[FILE], through=1, reason=BreakReason.DATA_CHANGED)
    assert notes.told == [("stale", FILE)]
    cache.on_break(SERVER, targets=[whole_volume_fid(VOLUME)], through=1, reason=None)
    assert notes.told == [("stale", FILE), ("stale", DIRECTORY)]


def test_reset_and_left_volume_and_eviction_are_told() -> None:
    """Whatever ends a promise."""
    cache, notes = watched()
    cache.on_init(SERVER, sequence=2, epoch=EPOCH, lease_s=LEASE_S, now=0.0)
    assert sorted(notes.told) == [("stale", FILE), ("stale", DIRECTORY)]
    cache, notes = watched()
    cache.end_volume(SERVER, VOLUME)
    assert sorted(notes.told) == [("stale", FILE), ("stale", DIRECTORY)]
    cache, notes = watched()
    cache.forget(FILE)
    cache.distrust([DIRECTORY])
    assert notes.told == [("stale", FILE), ("stale", DIRECTORY)]


def test_lost_channel_makes_all_doubtful() -> None:
    """The promises are suspended, not ended."""
    cache, notes = watched()
    cache.on_lost(SERVER)
    assert notes.told == [("all", None)]


def test_newer_promise_on_the_same_status_is_no_news() -> None:
    """A promise that takes another one's place says nothing unless the status is another one."""
    cache, notes = watched()
    fetch(cache, vnode(FILE), sequence=2)
    assert notes.told == []
    fetch(cache, longer(vnode(FILE)), sequence=3)
    assert notes.told == [("changed", FILE)]


def test_own_changes_are_told_with_their_names() -> None:
    """A directory's names one by one: its other names are right still."""
    cache, notes = watched()
    directory = vnode(DIRECTORY, kind=VnodeType.DIRECTORY)
    edits: list[Edit] = [RemoveName("old"), AddName(DirectoryEntry("new", FILE, VnodeType.FILE))]
    assert cache.apply_directory_changed(longer(directory), edits, 0.0)
    ticket = cache.ticket(SERVER, 0.0)
    cache.apply_changed(ticket, replace(vnode(FILE), mode=0o600), offer(2), 0.0)
    assert notes.told == [("names", (DIRECTORY, ("old", "new"))), ("changed", FILE)]


def test_trust_ends_with_the_promise_or_the_lease() -> None:
    """Whichever comes first says how long an answer may be relied on without hearing more (I8)."""
    cache = attached_cache()
    fetch(cache, vnode(FILE))
    entry = cache.trusted(FILE, 1.0)
    assert entry is not None
    assert entry.promise is not None
    assert cache.relied_on_until(entry.promise) == LEASE_S
    ticket = cache.ticket(SERVER, 1.0)
    cache.apply_fetched(ticket, vnode(FILE), offer(2, expires_in_s=5.0), 1.0)
    entry = cache.trusted(FILE, 2.0)
    assert entry is not None
    assert entry.promise is not None
    assert cache.relied_on_until(entry.promise) == 6.0
