"""Histories of fetches, breaks and resets against a naive model: no stale answer, no lost entry."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from afs.types import Fid, Vnode, whole_volume_fid
from clientd.core.cache import VnodeCache
from clientd.core.promise import PromiseOffer, Ticket
from tests.clientd.core.vnodes import EPOCH, SERVER, attach, vnode

FIDS = [Fid(volume, number, 1) for volume in (1, 2) for number in (2, 4, 6)]


class World(RuleBasedStateMachine):
    """A fileserver whose every change is broken to the client, and a client with a small cache.

    The model is naive: what the fileserver has now. A change is acknowledged once its break was
    taken in; from then on the client must not answer the old status from its cache. Replies arrive
    in any order, however late.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cache = VnodeCache(max_vnodes=4)
        attach(self.cache)
        self.truth: dict[Fid, Vnode] = {fid: vnode(fid) for fid in FIDS}
        self.sequence = 1
        self.under_way: list[tuple[Ticket, Vnode, PromiseOffer | None]] = []
        self.changes: list[tuple[Ticket, Vnode, PromiseOffer | None]] = []
        # Whether the channel is lost, and something changed since then that would have been broken.
        self.lost = False
        self.owed = False

    @rule(fid=st.sampled_from(FIDS))
    def fetch(self, fid: Fid) -> None:
        """The fileserver answers; the reply is under way."""
        ticket = self.cache.ticket(SERVER, 0.0)
        self.under_way.append((ticket, self.truth[fid], self._promise()))

    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Any reply arrives."""
        if self.under_way:
            number = data.draw(st.integers(0, len(self.under_way) - 1))
            self.cache.apply_fetched(*self.under_way.pop(number), 0.0)

    @rule(fid=st.sampled_from(FIDS), touches_data=st.booleans())
    def somebody_changes(self, fid: Fid, touches_data: bool) -> None:
        """Another client's change is committed and broken to us before it is acknowledged."""
        self._change(fid, touches_data=touches_data)
        self._break(fid)

    @rule(volume=st.sampled_from([1, 2]))
    def volume_changes(self, volume: int) -> None:
        """The whole volume changes; one break for volume.0.0 hits every cached Fid of it (T23)."""
        for fid in FIDS:
            if fid.volume == volume:
                self._change(fid, touches_data=True)
        self._break(whole_volume_fid(volume))
        for entry in self.cache.entries():
            assert self.lost or entry.fid.volume != volume or entry.promise is None

    @rule(fid=st.sampled_from(FIDS), touches_data=st.booleans())
    def we_change(self, fid: Fid, touches_data: bool) -> None:
        """Our own change is committed; nobody breaks it to us, its reply is under way."""
        ticket = self.cache.ticket(SERVER, 0.0)
        self._change(fid, touches_data=touches_data)
        self.changes.append((ticket, self.truth[fid], self._promise()))

    @rule(data=st.data())
    def deliver_change(self, data: st.DataObject) -> None:
        """The reply to any of our changes arrives; the change is acknowledged to its program."""
        if self.changes:
            number = data.draw(st.integers(0, len(self.changes) - 1))
            self.cache.apply_changed(*self.changes.pop(number), 0.0)

    @rule()
    def reset(self) -> None:
        """The channel is lost and attached anew."""
        self.cache.on_lost(SERVER)
        attach(self.cache)
        self.lost = False

    @rule()
    def planned_restart(self) -> None:
        """The fileserver ends the channel."""
        if not self.lost:
            self.cache.on_lost(SERVER)
            self.lost, self.owed = True, False

    @rule()
    def come_back(self) -> None:
        """The channel is attached again, and promises are kept if nothing was owed meanwhile."""
        if self.lost:
            attach(self.cache, kept=not self.owed)
            self.lost = False

    @invariant()
    def nothing_stale_is_trusted(self) -> None:
        """A trusted status is the truth, but for changes of our own that are not answered yet."""
        unanswered = {status.fid for _, status, _ in self.changes}
        for entry in list(self.cache.entries()):
            if entry.fid not in unanswered and self.cache.is_trusted(entry, 0.0):
                assert entry.status == self.truth[entry.fid]

    @invariant()
    def index_is_exact(self) -> None:
        """Every promise is in the index of its fileserver and volume, and nothing else is (I1)."""
        indexed = {
            (volume, fid)
            for volume, entries in self.cache.server(SERVER).promised.items()
            for fid in entries
        }
        held = {
            (entry.fid.volume, entry.fid)
            for entry in self.cache.entries()
            if entry.promise is not None
        }
        assert indexed == held

    def _promise(self) -> PromiseOffer | None:
        """A host without a channel gets none."""
        return None if self.lost else PromiseOffer(100.0, self.sequence, EPOCH)

    def _break(self, target: Fid) -> None:
        through, self.sequence = self.sequence, self.sequence + 1
        if self.lost:
            self.owed = True
        else:
            self.cache.on_break(SERVER, targets=[target], through=through, reason=None)

    def _change(self, fid: Fid, *, touches_data: bool) -> None:
        before = self.truth[fid]
        # The time of the change tells statuses apart whose DataVersion is the same.
        self.truth[fid] = replace(
            before,
            data_version=before.data_version + touches_data,
            server_mtime_ns=before.server_mtime_ns + 1,
        )


World.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestWorld = World.TestCase
