"""Who has answers of ours cached, beyond this process, and must hear what became of them."""

from __future__ import annotations

from collections.abc import Iterable

from afs.types import Fid


class Onlooker:
    """Told by the cache, in one step with each change; here, nobody who listens.

    The cache tells of more than what was answered to anybody; who listens knows what that was.
    """

    def stale(self, fid: Fid) -> None:
        """A promise ended: nothing that was said of the vnode is to be relied on."""

    def changed(self, fid: Fid) -> None:
        """A change of our own has another status for outcome; the promise stands."""

    def names_changed(self, directory: Fid, names: Iterable[str]) -> None:
        """A change of our own made, removed or replaced these names; the promise stands."""

    def all_stale(self) -> None:
        """For now nothing is relied on: a channel is lost, or we stood still."""
