"""What the cache knows of one vnode."""

from __future__ import annotations

from dataclasses import dataclass, field

from afs.types import BreakReason, Fid, Vnode
from clientd.core.listing import Edit, Listing
from clientd.core.promise import Promise


@dataclass(frozen=True, slots=True)
class EarlyChange:
    """What a change of our own made of a directory, told before an earlier one's outcome was."""

    vnode: Vnode
    edits: tuple[Edit, ...]


@dataclass(slots=True)
class CacheEntry:
    """One vnode.

    `status` is what the fileserver said last; without a promise it is only a hint, to compare
    DataVersions with. `listing` and `symlink_target` are right if their DataVersion is the status'.
    `broken_for` says why the last promise was broken, None if it was not. `early` holds our own
    changes that wait for an earlier one's outcome, by DataVersion: while there are any, the entry
    is not relied on.
    """

    fid: Fid
    status: Vnode
    promise: Promise | None = None
    broken_for: BreakReason | None = None
    listing: Listing | None = None
    symlink_target: str | None = None
    symlink_version: int = -1
    early: dict[int, EarlyChange] = field(default_factory=dict)

    def current_listing(self) -> Listing | None:
        """The listing, if it is of the status' DataVersion."""
        if self.listing is not None and self.listing.data_version == self.status.data_version:
            return self.listing
        return None

    def current_target(self) -> str | None:
        """The symbolic link's target, if it is of the status' DataVersion."""
        return self.symlink_target if self.symlink_version == self.status.data_version else None
