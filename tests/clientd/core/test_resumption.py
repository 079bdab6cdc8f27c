"""What the client holds when its channel is lost: suspended, and kept or ended on the next one."""

from __future__ import annotations

import pytest

from afs.types import DirectoryEntry, Fid, VnodeType, root_fid
from clientd.core.channel import ChannelState, SessionName
from clientd.core.listing import AddName
from clientd.core.validation import Verdict
from tests.clientd.core.vnodes import (
    EPOCH,
    SERVER,
    VOLUME,
    attach,
    attached_cache,
    fetch,
    longer,
    offer,
    vnode,
)

FILE = Fid(VOLUME, 2, 1)
OTHER_FILE = Fid(VOLUME, 4, 2)
NEXT_EPOCH = EPOCH + 1


def test_kept_promises_stand_again() -> None:
    """Nothing is trusted while the channel is lost; "kept" brings the promises back, no more."""
    cache = attached_cache()
    fetch(cache, vnode(FILE))
    cache.on_lost(SERVER)
    assert cache.trusted(FILE, 1.0) is None
    assert cache.promise_count(1.0) == 0
    attach(cache, now=2.0, epoch=NEXT_EPOCH, kept=True)
    assert cache.trusted(FILE, 2.0) is not None
    assert cache.trusted(OTHER_FILE, 2.0) is None
    assert cache.promise_count(2.0) == 1
    assert cache.trusted(FILE, 3600.0) is None, "they expire when they were to"


def test_nothing_is_trusted_before_the_first_renewal_is_answered() -> None:
    """A break that follows "kept" on the channel is taken in before (I8)."""
    cache = attached_cache()
    fetch(cache, vnode(FILE), sequence=3)
    cache.on_lost(SERVER)
    cache.server(SERVER).channel.on_opened(2.0)
    cache.on_init(SERVER, sequence=9, epoch=NEXT_EPOCH, lease_s=10.0, now=2.0, kept=True)
    assert cache.trusted(FILE, 2.0) is None
    assert cache.on_break(SERVER, targets=[FILE], through=3, reason=None) == 1
    cache.server(SERVER).channel.on_probe(0, 2, 2.0)
    assert cache.trusted(FILE, 2.0) is None


def test_reset_ends_what_was_suspended() -> None:
    """A fileserver that says nothing of keeping does not."""
    cache = attached_cache()
    fetch(cache, vnode(FILE))
    cache.on_lost(SERVER)
    attach(cache, epoch=NEXT_EPOCH)
    assert cache.trusted(FILE, 0.0) is None
    assert cache.server(SERVER).promised == {}


def test_session_is_named_by_the_reset_that_began_it() -> None:
    """However often it was resumed; a new client holds none."""
    cache = attached_cache()
    channel = cache.server(SERVER).channel
    assert channel.held == SessionName(EPOCH, 1)
    for epoch in (NEXT_EPOCH, NEXT_EPOCH + 1):
        cache.on_lost(SERVER)
        attach(cache, epoch=epoch, kept=True)
        assert channel.held == SessionName(EPOCH, 1)
    attach(cache, epoch=NEXT_EPOCH + 2)
    assert channel.held == SessionName(NEXT_EPOCH + 2, 1)
    assert ChannelState().held is None


@pytest.mark.parametrize("phase", ["nothing held", "attached already"])
def test_word_of_a_fileserver_that_was_not_asked(phase: str) -> None:
    """The word "kept" counts only as the answer to a hello that named a session."""
    cache = attached_cache()
    fetch(cache, vnode(FILE))
    channel = cache.server(SERVER).channel
    if phase == "nothing held":
        channel.held = None
        cache.on_lost(SERVER)
        channel.on_opened(1.0)
    cache.on_init(SERVER, sequence=9, epoch=NEXT_EPOCH, lease_s=10.0, now=1.0, kept=True)
    assert channel.held == SessionName(NEXT_EPOCH, 9)
    assert cache.server(SERVER).promised == {}


def test_replies_from_before_the_loss_are_refused() -> None:
    """R10: a ticket is void with its channel, also if the promises are kept."""
    cache = attached_cache()
    early = cache.ticket(SERVER, 0.0)
    cache.on_lost(SERVER)
    between = cache.ticket(SERVER, 0.0)
    attach(cache, kept=True)
    for ticket in (early, between):
        verdict = cache.apply_fetched(ticket, vnode(FILE), offer(), 0.0)
        assert verdict is Verdict.CHANNEL_CHANGED
    assert cache.trusted(FILE, 0.0) is None


def test_status_that_comes_while_the_channel_is_lost_ends_the_promise() -> None:
    """It may be newer than what the promise was given on."""
    cache = attached_cache()
    fetch(cache, vnode(FILE))
    cache.on_lost(SERVER)
    cache.apply_fetched(cache.ticket(SERVER, 0.0), longer(vnode(FILE)), None, 0.0)
    attach(cache, kept=True)
    assert cache.trusted(FILE, 0.0) is None


def test_own_change_whose_outcome_is_unknown() -> None:
    """The fileserver kept the writer's promise; the client that does not know does not."""
    cache = attached_cache()
    fetch(cache, vnode(FILE))
    cache.on_lost(SERVER)
    cache.distrust([FILE], until=30.0)
    attach(cache, kept=True)
    assert cache.trusted(FILE, 0.0) is None


def test_own_change_answered_after_the_restart() -> None:
    """The promise on a directory covers our own change of it, told late: the names are right."""
    cache = attached_cache()
    directory = root_fid(VOLUME)
    status = vnode(directory, kind=VnodeType.DIRECTORY)
    fetch(cache, status)
    cache.on_lost(SERVER)
    attach(cache, kept=True)
    name = AddName(DirectoryEntry("new", FILE, VnodeType.FILE))
    assert cache.apply_directory_changed(longer(status), [name], 0.0)
    entry = cache.trusted(directory, 0.0)
    assert entry is not None
    assert entry.status == longer(status)


def test_identity_of_the_fileserver() -> None:
    """Who knows our session is the same fileserver; nobody is while the channel is lost."""
    cache = attached_cache()
    channel = cache.server(SERVER).channel
    before = channel.identity
    cache.on_lost(SERVER)
    assert channel.identity != before
    attach(cache, kept=True)
    assert channel.identity == before
    attach(cache)
    assert channel.identity != before
