"""The vnodes of a volume kept in memory.

Read without a lock on the hot path, never staler than the last commit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from afs.limits import VNODE_CACHE_ENTRIES
from afs.types import Fid, Vnode

_GENERATION_ENTRIES: Final = VNODE_CACHE_ENTRIES // 2


class VnodeCache:
    """At most VNODE_CACHE_ENTRIES vnodes, in two generations.

    A vnode found in the old one moves to the young one.

    A reader that loads a vnode from the disk takes `version` before and hands it to `offer` with
    what it found; if a commit came in between, what it found may be stale and is not kept.
    """

    def __init__(self) -> None:
        self._young: dict[int, Vnode] = {}
        self._old: dict[int, Vnode] = {}
        self._lock = threading.Lock()
        self.version = 0

    def get(self, fid: Fid) -> Vnode | None:
        """The vnode if it is here. Never blocks for longer than a dictionary update."""
        vnode = self._young.get(fid.vnode)
        if vnode is None:
            if fid.vnode not in self._old:
                return None
            with self._lock:
                # Looked up again: a commit may have replaced it since.
                vnode = self._young.get(fid.vnode) or self._old.get(fid.vnode)
                if vnode is None:
                    return None
                self._put(vnode)
        return vnode if vnode.fid == fid else None

    def number(self, number: int) -> Vnode | None:
        """The vnode with this number if it is here."""
        with self._lock:
            return self._young.get(number) or self._old.get(number)

    def offer(self, vnode: Vnode, version: int) -> None:
        """Keeps a vnode that was read from the disk after `version` was taken."""
        with self._lock:
            if version == self.version:
                self._put(vnode)

    def publish(self, vnodes: Iterable[tuple[int, Vnode | None]]) -> None:
        """Takes over what a commit did: (number, vnode; None if it is gone)."""
        with self._lock:
            self.version += 1
            for number, vnode in vnodes:
                self._old.pop(number, None)
                if vnode is None:
                    self._young.pop(number, None)
                else:
                    self._put(vnode)

    def _put(self, vnode: Vnode) -> None:
        self._young[vnode.fid.vnode] = vnode
        if len(self._young) >= _GENERATION_ENTRIES:
            self._old = self._young
            self._young = {}
