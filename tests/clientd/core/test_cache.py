"""The vnode cache: judging replies, own changes, bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from afs.types import BreakReason, DirectoryEntry, Fid, VnodeType, whole_volume_fid
from clientd.core.cache import MAX_EARLY_CHANGES
from clientd.core.listing import AddName, Listing, RemoveName
from clientd.core.validation import Verdict
from tests.clientd.core.vnodes import (
    EPOCH,
    LEASE_S,
    OTHER,
    SERVER,
    VOLUME,
    attach,
    attached_cache,
    fetch,
    longer,
    offer,
    vnode,
)

FILE = Fid(VOLUME, 2, 2)
DIRECTORY = Fid(VOLUME, 3, 3)


def listed(name: str) -> DirectoryEntry:
    """An entry."""
    return DirectoryEntry(name, FILE, VnodeType.FILE)


def test_fetched_status_is_trusted_under_its_promise() -> None:
    """Until the promise expires, counted from when the request was sent."""
    cache = attached_cache()
    ticket = cache.ticket(SERVER, 0.0)
    verdict = cache.apply_fetched(ticket, vnode(FILE), offer(expires_in_s=5.0), 1.0)
    assert verdict is Verdict.ACCEPTED
    assert cache.trusted(FILE, 4.9) is not None
    assert cache.trusted(FILE, 5.0) is None
    assert (cache.promise_count(4.9), cache.promise_count(5.0)) == (1, 0)
    assert cache.trusted(Fid(1, 1, 1), 0.0) is None
    assert list(cache.server(SERVER).promised) == [VOLUME]


def test_nothing_is_trusted_after_the_lease() -> None:
    """The promise holds still, but is not relied on (I8)."""
    cache = attached_cache()
    fetch(cache, vnode(FILE))
    assert cache.trusted(FILE, LEASE_S - 0.1) is not None
    assert cache.trusted(FILE, LEASE_S) is None
    assert cache.promise_count(LEASE_S) == 1


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        (None, Verdict.NONE_OFFERED),
        (offer(epoch=EPOCH + 1), Verdict.OTHER_EPOCH),
        (offer(expires_in_s=0.5), Verdict.EXPIRED_ON_THE_WAY),
    ],
)
def test_promise_that_is_none_is_refused(given: object, verdict: Verdict) -> None:
    """The status is kept as a hint, the entry is not trusted."""
    cache = attached_cache()
    assert cache.apply_fetched(cache.ticket(SERVER, 0.0), vnode(FILE), given, 1.0) is verdict  # type: ignore[arg-type]
    assert cache.trusted(FILE, 1.0) is None
    assert cache.get(FILE) is not None


def test_reply_from_before_a_reset_is_refused() -> None:
    """Whatever was asked on an older generation brings no promise, attached or not."""
    cache = attached_cache()
    ticket = cache.ticket(SERVER, 0.0)
    attach(cache, now=1.0)
    assert cache.apply_fetched(ticket, vnode(FILE), offer(), 1.0) is Verdict.CHANNEL_CHANGED
    ticket = cache.ticket(SERVER, 1.0)
    cache.on_lost(SERVER)
    assert cache.apply_fetched(ticket, vnode(FILE), offer(), 1.0) is Verdict.CHANNEL_CHANGED


@pytest.mark.parametrize("target", [FILE, whole_volume_fid(VOLUME)])
def test_break_during_the_fetch_wins(target: Fid) -> None:
    """The reply's promise was given before the break ended it (R10)."""
    cache = attached_cache()
    ticket = cache.ticket(SERVER, 0.0)
    assert cache.on_break(SERVER, targets=[target], through=7, reason=None) == 0
    assert cache.apply_fetched(ticket, vnode(FILE), offer(7), 0.0) is Verdict.BROKEN_ON_THE_WAY
    assert cache.trusted(FILE, 0.0) is None
    # One that was given after the break is as good as any.
    assert cache.apply_fetched(ticket, vnode(FILE), offer(8), 0.0) is Verdict.ACCEPTED


def test_break_ends_what_was_given_before_it_only() -> None:
    """A promise with a higher sequence survives, and so does another fileserver's."""
    cache = attached_cache()
    attach(cache, OTHER)
    other_file = Fid(VOLUME, 8, 8)
    fetch(cache, vnode(FILE), sequence=8)
    fetch(cache, vnode(other_file), sequence=1, server=OTHER)
    reason = BreakReason.DATA_CHANGED
    assert cache.on_break(SERVER, targets=[FILE, other_file], through=7, reason=reason) == 0
    assert cache.on_break(SERVER, targets=[FILE], through=8, reason=reason) == 1
    entry = cache.get(FILE)
    assert entry is not None
    assert entry.broken_for is reason
    assert cache.trusted(other_file, 0.0) is not None
    fetch(cache, vnode(FILE), sequence=9)
    assert entry.broken_for is None


def test_reset_ends_the_promises_of_one_fileserver() -> None:
    """Another one's stand."""
    cache = attached_cache()
    attach(cache, OTHER)
    other_file = Fid(VOLUME + 1, 2, 2)
    fetch(cache, vnode(FILE))
    fetch(cache, vnode(other_file), server=OTHER)
    attach(cache, SERVER)
    assert cache.trusted(FILE, 0.0) is None
    assert cache.trusted(other_file, 0.0) is not None
    assert [server.address for server in cache.servers()] == [SERVER, OTHER]
    cache.on_lost(OTHER)
    assert cache.trusted(other_file, 0.0) is None


def test_older_reply_does_not_take_a_newer_one_back() -> None:
    """Of two replies the one read later at the fileserver stays."""
    cache = attached_cache()
    ticket = cache.ticket(SERVER, 0.0)
    fetch(cache, vnode(FILE, 4), sequence=3)
    assert cache.apply_fetched(ticket, vnode(FILE, 3), offer(3), 0.0) is Verdict.OVERTAKEN
    assert cache.apply_fetched(ticket, vnode(FILE, 4), offer(2), 0.0) is Verdict.OVERTAKEN
    # A reply without a promise takes none away.
    assert cache.apply_fetched(ticket, vnode(FILE, 3), None, 0.0) is Verdict.NONE_OFFERED
    entry = cache.trusted(FILE, 0.0)
    assert entry is not None
    assert entry.status.data_version == 4


def test_fetch_from_before_our_own_change_is_refused() -> None:
    """The fileserver does not break its writer's promise; we have to know ourselves."""
    cache = attached_cache()
    fetch(cache, vnode(FILE, 1))
    fetching, storing = cache.ticket(SERVER, 0.0), cache.ticket(SERVER, 0.0)
    assert cache.apply_changed(storing, vnode(FILE, 2), offer(), 0.0) is Verdict.ACCEPTED
    old = cache.apply_fetched(fetching, vnode(FILE, 1), offer(), 0.0)
    assert old is Verdict.CHANGED_ON_THE_WAY
    entry = cache.trusted(FILE, 0.0)
    assert entry is not None
    assert entry.status.data_version == 2


def test_two_own_changes_out_of_order() -> None:
    """The later one stays; where DataVersions cannot tell which it is, nothing is trusted."""
    cache = attached_cache()
    first, second, third = (cache.ticket(SERVER, 0.0) for _ in range(3))
    cache.apply_changed(second, vnode(FILE, 3), offer(), 0.0)
    cache.apply_changed(first, vnode(FILE, 2), offer(), 0.0)
    entry = cache.trusted(FILE, 0.0)
    assert entry is not None
    assert entry.status.data_version == 3
    changed_mode = replace(vnode(FILE, 3), mode=0o600)
    assert cache.apply_changed(third, changed_mode, offer(), 0.0) is Verdict.CHANGED_ON_THE_WAY
    assert cache.trusted(FILE, 0.0) is None


def test_change_whose_promise_was_broken_is_not_trusted() -> None:
    """Somebody else changed the file after us, and we heard of it first."""
    cache = attached_cache()
    fetch(cache, vnode(FILE, 1))
    ticket = cache.ticket(SERVER, 0.0)
    cache.on_break(SERVER, targets=[FILE], through=4, reason=None)
    assert cache.apply_changed(ticket, vnode(FILE, 2), offer(4), 0.0) is Verdict.BROKEN_ON_THE_WAY
    assert cache.trusted(FILE, 0.0) is None


def test_own_change_edits_the_listing_in_place() -> None:
    """If it was the only change since, the directory stays promised and its names are right."""
    cache = attached_cache()
    directory = vnode(DIRECTORY, 5, VnodeType.DIRECTORY)
    fetch(cache, directory)
    ticket = cache.ticket(SERVER, 0.0)
    assert cache.keep_listing(ticket, DIRECTORY, Listing([listed("a")], 5, complete=True), 0.0)
    assert cache.apply_directory_changed(longer(directory), [AddName(listed("b"))], 0.0)
    entry = cache.trusted(DIRECTORY, 0.0)
    assert entry is not None
    listing = entry.current_listing()
    assert listing is not None
    assert [each.name for each in listing.in_order()] == ["a", "b"]
    # What was read before that change must not be kept any more.
    assert not cache.keep_listing(ticket, DIRECTORY, Listing([], 6, complete=True), 0.0)
    # An outcome that a later listing covers changes nothing.
    assert cache.apply_directory_changed(longer(directory), [RemoveName("a")], 0.0)
    assert listing.find("a") is not None


def test_own_changes_wait_for_earlier_ones() -> None:
    """Until the gap is filled the directory is not trusted; then all are in."""
    cache = attached_cache()
    directory = vnode(DIRECTORY, 5, VnodeType.DIRECTORY)
    fetch(cache, directory)
    ticket = cache.ticket(SERVER, 0.0)
    cache.keep_listing(ticket, DIRECTORY, Listing([], 5, complete=True), 0.0)
    assert cache.apply_directory_changed(longer(directory, 2), [AddName(listed("b"))], 0.0)
    assert cache.trusted(DIRECTORY, 0.0) is None
    late = cache.ticket(SERVER, 0.0)
    assert not cache.keep_listing(late, DIRECTORY, Listing([], 5, complete=True), 0.0)
    assert cache.apply_directory_changed(longer(directory), [AddName(listed("a"))], 0.0)
    entry = cache.trusted(DIRECTORY, 0.0)
    assert entry is not None
    listing = entry.current_listing()
    assert listing is not None
    assert [each.name for each in listing.in_order()] == ["a", "b"]


def test_changes_of_unlisted_and_unpromised_directories() -> None:
    """Without a promise nothing is kept but the hint; without an entry nothing at all."""
    cache = attached_cache()
    directory = vnode(DIRECTORY, 5, VnodeType.DIRECTORY)
    assert not cache.apply_directory_changed(directory, [], 0.0)
    fetch(cache, directory)
    assert cache.apply_directory_changed(longer(directory), [], 0.0)
    cache.on_break(SERVER, targets=[DIRECTORY], through=1, reason=None)
    assert not cache.apply_directory_changed(longer(directory, 2), [], 0.0)
    assert not cache.apply_directory_changed(directory, [], 0.0)
    entry = cache.get(DIRECTORY)
    assert entry is not None
    assert entry.status.data_version == 7


def test_too_many_early_changes_end_the_promise() -> None:
    """Rather than to wait for ever, the directory is asked about."""
    cache = attached_cache()
    directory = vnode(DIRECTORY, 1, VnodeType.DIRECTORY)
    fetch(cache, directory)
    for number in range(MAX_EARLY_CHANGES):
        assert cache.apply_directory_changed(longer(directory, number + 2), [], 0.0)
    assert not cache.apply_directory_changed(longer(directory, 5000), [], 0.0)
    entry = cache.get(DIRECTORY)
    assert entry is not None
    assert (entry.promise, entry.early) == (None, {})


def test_unknown_outcome_is_not_trusted_for_a_while() -> None:
    """Promises given while the change may yet happen are void when the while is over, too."""
    cache = attached_cache()
    fetch(cache, vnode(FILE))
    cache.distrust([FILE, DIRECTORY], until=5.0)
    assert cache.trusted(FILE, 0.0) is None
    fetch(cache, vnode(FILE), now=1.0)
    assert cache.trusted(FILE, 4.9) is None
    assert cache.trusted(FILE, 5.0) is None
    fetch(cache, vnode(FILE), now=6.0)
    assert cache.trusted(FILE, 6.0) is not None
    cache.distrust([FILE])
    assert cache.trusted(FILE, 6.0) is None
    fetch(cache, vnode(FILE), now=7.0)
    assert cache.trusted(FILE, 7.0) is not None


def test_names_found_one_by_one_are_kept() -> None:
    """Under the directory's promise, at its DataVersion."""
    cache = attached_cache()
    directory = vnode(DIRECTORY, 5, VnodeType.DIRECTORY)
    ticket = cache.ticket(SERVER, 0.0)
    assert not cache.keep_name(ticket, directory, listed("a"), 0.0)
    fetch(cache, directory)
    assert cache.keep_name(ticket, directory, listed("a"), 0.0)
    assert cache.keep_name(ticket, directory, listed("b"), 0.0)
    entry = cache.get(DIRECTORY)
    assert entry is not None
    listing = entry.current_listing()
    assert listing is not None
    assert (len(listing), listing.complete) == (2, False)
    assert not cache.keep_name(ticket, longer(directory), listed("c"), 0.0)


def test_listing_and_target_belong_to_their_version() -> None:
    """A status of another DataVersion makes them no longer right."""
    cache = attached_cache()
    fetch(cache, vnode(FILE, 1, VnodeType.SYMLINK))
    entry = cache.get(FILE)
    assert entry is not None
    assert (entry.current_target(), entry.current_listing()) == (None, None)
    entry.symlink_target, entry.symlink_version = "there", 1
    entry.listing = Listing([], 1, complete=True)
    assert entry.current_target() == "there"
    fetch(cache, vnode(FILE, 2, VnodeType.SYMLINK), sequence=2)
    assert (entry.current_target(), entry.current_listing()) == (None, None)


def test_least_recently_used_go_first() -> None:
    """The number of vnodes is bounded; what is evicted takes its promise along."""
    cache = attached_cache(max_vnodes=2)
    fids = [Fid(VOLUME, number, 1) for number in (2, 4, 6)]
    fetch(cache, vnode(fids[0]))
    fetch(cache, vnode(fids[1]))
    cache.get(fids[0])
    fetch(cache, vnode(fids[2]))
    assert [entry.fid for entry in cache.entries()] == [fids[0], fids[2]]
    assert len(cache) == 2
    assert cache.peek(fids[1]) is None
    assert cache.promise_count(0.0) == 2


def test_names_are_bounded_over_all_listings() -> None:
    """The listing that was longest unused goes, never the one just kept."""
    cache = attached_cache(max_names=6)
    directories = [Fid(VOLUME, number, 1) for number in (3, 5, 7)]
    for directory in directories:
        fetch(cache, vnode(directory, 1, VnodeType.DIRECTORY))
        ticket = cache.ticket(SERVER, 0.0)
        names = [listed("a"), listed("b")]
        cache.keep_listing(ticket, directory, Listing(names, 1, complete=True), 0.0)
    kept = [entry.listing is not None for entry in cache.entries()]
    assert kept == [False, True, True]
    huge = Listing([listed(str(number)) for number in range(50)], 1, complete=True)
    assert cache.keep_listing(cache.ticket(SERVER, 0.0), directories[0], huge, 0.0)
    kept = [entry.listing is not None for entry in cache.entries()]
    assert kept == [True, False, False]
    entry = cache.get(directories[0])
    assert entry is not None
    cache.touch_listing(entry)


def test_flush_forgets_a_volume_or_all() -> None:
    """And replies under way do not bring it back trusted."""
    cache = attached_cache()
    other = Fid(VOLUME + 1, 2, 2)
    ticket = cache.ticket(SERVER, 0.0)
    fetch(cache, vnode(FILE))
    fetch(cache, vnode(other))
    assert cache.flush_volume(VOLUME) == 1
    assert cache.get(FILE) is None
    assert cache.apply_fetched(ticket, vnode(FILE), offer(), 0.0) is Verdict.CHANGED_ON_THE_WAY
    cache.forget(Fid(9, 9, 9))
    assert cache.flush_all() == 2
    assert len(cache) == 0


def test_left_fileserver_loses_the_promises_of_one_volume() -> None:
    """Those of other volumes, and of the volume at another fileserver, stay."""
    cache = attached_cache()
    attach(cache, OTHER)
    elsewhere, other_volume = Fid(VOLUME, 4, 4), Fid(VOLUME + 1, 2, 2)
    fetch(cache, vnode(FILE))
    fetch(cache, vnode(other_volume))
    fetch(cache, vnode(elsewhere), server=OTHER)
    cache.end_volume(SERVER, VOLUME)
    assert cache.trusted(FILE, 0.0) is None
    assert cache.get(FILE) is not None
    assert cache.trusted(other_volume, 0.0) is not None
    assert cache.trusted(elsewhere, 0.0) is not None
    cache.end_volume(SERVER, VOLUME)
