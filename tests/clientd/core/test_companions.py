"""Which vnodes come along when one has to be asked about."""

from __future__ import annotations

from dataclasses import replace

from afs.types import DirectoryEntry, Fid, VnodeType, root_fid, whole_volume_fid
from clientd.core import companions as module
from clientd.core.cache import VnodeCache
from clientd.core.companions import FIRST_BATCH, GROWTH, LARGEST_BATCH, Companions
from clientd.core.listing import Listing
from tests.clientd.core.vnodes import SERVER, VOLUME, attached_cache, fetch, vnode

ROOT = root_fid(VOLUME)
NOW = 1.0


def files(number: int, directory: Fid = ROOT) -> list[Fid]:
    """Fids of files in a directory."""
    first = directory.vnode * 1_000_000
    return [Fid(VOLUME, first + 2 * each, 1) for each in range(1, number + 1)]


def fill(cache: VnodeCache, fids: list[Fid], directory: Fid = ROOT) -> None:
    """The directory with its listing, and the files, all under promises."""
    fetch(cache, vnode(directory, kind=VnodeType.DIRECTORY))
    entries = [
        DirectoryEntry(f"{number:06}", fid, VnodeType.FILE) for number, fid in enumerate(fids)
    ]
    listing = Listing(entries, 1, complete=True)
    assert cache.keep_listing(cache.ticket(SERVER, 0.0), directory, listing, 0.0)
    for fid in fids:
        fetch(cache, replace(vnode(fid), parent=directory))


def break_all(cache: VnodeCache) -> None:
    """All promises of the volume end."""
    cache.on_break(SERVER, targets=[whole_volume_fid(VOLUME)], through=1, reason=None)


def test_batches_grow_and_go_through_the_directory_in_order() -> None:
    """None with the first one, then more and more, up to a bound; each vnode once."""
    cache = attached_cache()
    fids = files(600)
    fill(cache, fids)
    break_all(cache)
    companions = Companions(cache)
    assert companions.of(fids[0], NOW) == []
    fetch(cache, replace(vnode(fids[0]), parent=ROOT), sequence=2)
    asked = 1
    for size in (FIRST_BATCH, FIRST_BATCH * GROWTH, FIRST_BATCH * GROWTH**2, LARGEST_BATCH):
        found = companions.of(fids[asked], NOW)
        assert found == fids[asked + 1 : asked + 1 + size]
        for fid in [fids[asked], *found]:
            fetch(cache, replace(vnode(fid), parent=ROOT), sequence=2)
        asked += size + 1
    assert len(companions.of(fids[asked], NOW)) == 600 - asked - 1


def test_only_what_is_cached_and_has_no_promise() -> None:
    """Not what was never used, nor what is promised; an expired promise is none."""
    cache = attached_cache()
    fids = files(4)
    fill(cache, fids)
    break_all(cache)
    cache.forget(fids[1])
    fetch(cache, replace(vnode(fids[2]), parent=ROOT), sequence=2)
    companions = Companions(cache)
    companions.of(fids[0], NOW)
    assert companions.of(fids[0], NOW) == [fids[3]]
    companions.of(fids[0], NOW)
    assert companions.of(fids[0], NOW + 3600) == [fids[2], fids[3]]


def test_nothing_left_begins_anew() -> None:
    """The next time the promises end, the first one is asked about alone again."""
    cache = attached_cache()
    fids = files(3)
    fill(cache, fids)
    companions = Companions(cache)
    assert companions.of(fids[0], NOW) == []
    assert companions.of(fids[0], NOW) == []
    break_all(cache)
    assert companions.of(fids[0], NOW) == []
    assert companions.of(fids[1], NOW) == [fids[0], fids[2]]


def test_unknown_vnodes_and_directories_have_no_companions() -> None:
    """Nor has a root directory, which is its own parent."""
    cache = attached_cache()
    companions = Companions(cache)
    fids = files(3)
    assert companions.of(fids[0], NOW) == []
    fetch(cache, replace(vnode(fids[0]), parent=ROOT))
    assert companions.of(fids[0], NOW) == []
    fill(cache, fids)
    for _ in range(2):
        assert companions.of(ROOT, NOW) == []
    fetch(cache, vnode(ROOT, 2, kind=VnodeType.DIRECTORY))
    for _ in range(2):
        assert companions.of(fids[0], NOW) == []


def test_large_directory_is_looked_at_in_parts() -> None:
    """One batch looks at a bounded number of names; the next goes on behind them."""
    cache = attached_cache()
    fids = files(module.MAX_LOOKED_AT + 500)
    fill(cache, fids)
    break_all(cache)
    for fid in fids[: module.MAX_LOOKED_AT]:
        fetch(cache, replace(vnode(fid), parent=ROOT), sequence=2)
    companions = Companions(cache)
    companions.of(fids[-1], NOW)
    assert companions.of(fids[-1], NOW) == []
    cache.on_break(SERVER, targets=[fids[5]], through=2, reason=None)
    companions.of(fids[-1], NOW)
    assert companions.of(fids[-1], NOW) == [fids[5]]
    assert len(companions.of(fids[-1], NOW)) == FIRST_BATCH * GROWTH


def test_directories_are_bounded() -> None:
    """Those longest unused begin anew."""
    cache = attached_cache()
    number = module.MAX_DIRECTORIES + 1
    directories = [Fid(VOLUME, 3 + 2 * each, 1) for each in range(number)]
    inside = [files(2, directory) for directory in directories]
    for directory, fids in zip(directories, inside, strict=True):
        fill(cache, fids, directory)
    break_all(cache)
    companions = Companions(cache)
    for fids in inside:
        assert companions.of(fids[0], NOW) == []
    assert companions.of(inside[0][0], NOW) == []
    assert companions.of(inside[-1][0], NOW) == [inside[-1][1]]


def test_first_time_through_a_directory_takes_along_what_was_never_used() -> None:
    """Whoever says where something was found goes through that directory; others do not."""
    cache = attached_cache()
    fids = files(4)
    fill(cache, fids)
    for fid in fids:
        cache.forget(fid)
    companions = Companions(cache)
    assert companions.of(fids[0], NOW) == []
    assert companions.of(fids[0], NOW, ROOT) == []
    assert companions.of(fids[0], NOW, ROOT) == fids[1:]
