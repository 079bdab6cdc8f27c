"""The client's memory of vnodes: statuses, names and promises, and everything that ends a promise.

Theory of operation
    Every reply goes through `apply_fetched` (what we asked for), `apply_changed` (a vnode that we
    changed) or `apply_directory_changed` (a directory in which we changed a name), with the ticket
    taken when the request was sent. They judge the reply by the rules of `validation`, in one step
    with storing it: status and promise never part (R10).

    `trusted` is the one question a reader asks before it answers from the cache.

    Promises are indexed by fileserver and volume, so that a break of a whole volume ends exactly
    that volume's promises (T23), and a reset those of one fileserver. An entry pushed out of the
    cache takes its promise along; the fileserver may still break it, which then finds nothing.

    A change of our own is not broken to us: the fileserver leaves the writer's promise alone. What
    a fetch under way may carry from before that change is caught by `stamp`: every outcome of our
    own gets the next number, and a reply to a request sent before it is not trusted for that vnode.

Invariants
    - An entry's promise is in the index of its fileserver and volume, and nowhere else; the index
    holds nothing more.
    - After `on_break(server, targets, through)` no covered entry holds a promise of `server` with a
      sequence <= `through`, and no reply to a request sent before can bring one back.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from afs.types import BreakReason, DirectoryEntry, Fid, Vnode
from clientd.core import validation
from clientd.core.channel import Instruction
from clientd.core.entry import CacheEntry, EarlyChange
from clientd.core.known_server import KnownServer
from clientd.core.listing import Edit, Listing
from clientd.core.marks import BreakMarks
from clientd.core.onlooker import Onlooker
from clientd.core.promise import Promise, PromiseOffer, Ticket
from clientd.core.validation import Verdict

# About 1 KiB each: bounds the memory of statuses to some 200 MiB.
MAX_CACHED_VNODES: Final = 200_000
# Names in all listings together, about 300 bytes each.
MAX_CACHED_NAMES: Final = 500_000
# Outcomes of our own that may wait for an earlier one in one directory, before it is asked for anew
# instead.
MAX_EARLY_CHANGES: Final = 1000


class VnodeCache:
    """All that is remembered of vnodes, bounded, least recently used out first.

    Args:
        max_vnodes: entries kept; at least 1.
        max_names: names kept in all listings together.
        onlooker: told of what ends or changes.
    """

    def __init__(
        self,
        max_vnodes: int = MAX_CACHED_VNODES,
        max_names: int = MAX_CACHED_NAMES,
        onlooker: Onlooker | None = None,
    ) -> None:
        assert max_vnodes >= 1
        self._onlooker = onlooker or Onlooker()
        self._max_vnodes = max_vnodes
        self._max_names = max_names
        self._servers: dict[str, KnownServer] = {}
        self._entries: OrderedDict[Fid, CacheEntry] = OrderedDict()
        self._listed: OrderedDict[Fid, int] = OrderedDict()
        self._names_held = 0
        self._stamp = 0
        # The same structure that remembers breaks remembers our own changes, by stamp.
        self._changes = BreakMarks()
        # Vnodes of whose changes the outcome is unknown, and until when they are not trusted.
        self._distrusted: dict[Fid, float] = {}

    # --- asking ---

    def server(self, address: str) -> KnownServer:
        """The fileserver at this address; known from now on if it was not."""
        known = self._servers.get(address)
        if known is None:
            known = self._servers[address] = KnownServer(address, self._onlooker)
        return known

    def servers(self) -> Iterable[KnownServer]:
        """All fileservers known."""
        return self._servers.values()

    def ticket(self, address: str, now: float) -> Ticket:
        """To be taken right before a request is sent."""
        return Ticket(address, self.server(address).channel.generation, self._stamp, now)

    def get(self, fid: Fid) -> CacheEntry | None:
        """The entry, trusted or not."""
        entry = self._entries.get(fid)
        if entry is not None:
            self._entries.move_to_end(fid)
        return entry

    def peek(self, fid: Fid) -> CacheEntry | None:
        """The entry, trusted or not, without counting as a use."""
        return self._entries.get(fid)

    def trusted(self, fid: Fid, now: float) -> CacheEntry | None:
        """The entry, if what it says may be answered without asking the fileserver."""
        entry = self.get(fid)
        if entry is None or not self.is_trusted(entry, now):
            return None
        return entry

    def is_trusted(self, entry: CacheEntry, now: float) -> bool:
        """True while the entry's promise may be relied on and no outcome of our own is missing."""
        promise = entry.promise
        return (
            promise is not None
            and not entry.early
            and not self._is_distrusted(entry, now)
            and validation.is_trusted(promise, self._servers[promise.server].channel, now)
        )

    def relied_on_until(self, promise: Promise) -> float:
        """Until when a promise of a trusted entry may be relied on if nothing more is heard."""
        return min(promise.expires_at, self._servers[promise.server].channel.lease_until)

    def entries(self) -> Iterator[CacheEntry]:
        """All entries, least recently used first. Not to be used across a change."""
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

    def promise_count(self, now: float) -> int:
        """Promises that stand at this moment, whether or not the lease runs."""
        return sum(server.standing(now) for server in self._servers.values())

    # --- replies ---

    def apply_fetched(
        self, ticket: Ticket, vnode: Vnode, offer: PromiseOffer | None, now: float
    ) -> Verdict:
        """Takes in a status we asked for.

        Returns:
            ACCEPTED or OVERTAKEN: the entry is right. Else the status is for the asker only.
        """
        entry = self._entry(vnode)
        verdict = self._judge(ticket, vnode.fid, offer, now)
        return self._settle(entry, ticket, vnode, offer, verdict, now)

    def apply_changed(
        self, ticket: Ticket, vnode: Vnode, offer: PromiseOffer | None, now: float
    ) -> Verdict:
        """Takes in the status after a change of our own, which every later answer includes."""
        entry = self._entry(vnode)
        verdict = self._judge(ticket, vnode.fid, offer, now)
        self._note_change(vnode.fid)
        if verdict is not Verdict.ACCEPTED and not self._covers(entry, vnode, now):
            self._end_promise(entry)
        return self._settle(entry, ticket, vnode, offer, verdict, now)

    def apply_directory_changed(self, vnode: Vnode, edits: Sequence[Edit], now: float) -> bool:
        """Takes in what became of a directory in which we changed a name; our promise stays.

        If ours was the only change since the status we hold (its DataVersion is the next one), the
        cached names are edited in place. The outcome of a later change of ours waits for the
        earlier one's.

        Returns:
            True if the entry holds its promise still.
        """
        self._note_change(vnode.fid)
        entry = self._entries.get(vnode.fid)
        if entry is None:
            return False
        if not self._holds(entry, now):
            self._end_promise(entry)
            if vnode.data_version > entry.status.data_version:
                entry.status = vnode
            return False
        self._onlooker.names_changed(vnode.fid, [edit.changed_name for edit in edits])
        if vnode.data_version > entry.status.data_version:
            entry.early[vnode.data_version] = EarlyChange(vnode, tuple(edits))
            self._catch_up(entry)
        if len(entry.early) > MAX_EARLY_CHANGES:
            self._end_promise(entry)
            return False
        return True

    def distrust(self, fids: Iterable[Fid], until: float | None = None) -> None:
        """A change of ours to these has an outcome that we do not know: they are asked for anew.

        Args:
            fids: what the change was about.
            until: if given, nothing said of them before this steady time is kept: the change may
                yet happen, and the fileserver would not break its writer's promise.
        """
        for fid in fids:
            self._note_change(fid)
            entry = self._entries.get(fid)
            if entry is not None:
                self._end_promise(entry)
            if until is not None:
                self._distrusted[fid] = max(until, self._distrusted.get(fid, until))

    def forget(self, fid: Fid) -> None:
        """The vnode is gone."""
        self._note_change(fid)
        self._drop(fid)

    # --- names ---

    def keep_listing(self, ticket: Ticket, directory: Fid, listing: Listing, now: float) -> bool:
        """Keeps the names of a directory if nothing changed while they were read.

        Args:
            ticket: of the request that read them.
            directory: whose they are.
            listing: the names.
            now: steady seconds.

        Returns:
            True if they were kept: the entry holds its promise, at the same DataVersion.
        """
        entry = self._listable(ticket, directory, listing.data_version, now)
        if entry is None:
            return False
        self._forget_listing(entry)
        entry.listing = listing
        self.touch_listing(entry)
        return True

    def keep_name(
        self, ticket: Ticket, directory: Vnode, found: DirectoryEntry, now: float
    ) -> bool:
        """Keeps one name that a Lookup found in a directory with this status, on these terms."""
        entry = self._listable(ticket, directory.fid, directory.data_version, now)
        if entry is None:
            return False
        listing = entry.current_listing()
        if listing is None:
            self._forget_listing(entry)
            entry.listing = Listing([found], directory.data_version, complete=False)
        else:
            listing.note(found)
        self.touch_listing(entry)
        return True

    def _listable(
        self, ticket: Ticket, directory: Fid, data_version: int, now: float
    ) -> CacheEntry | None:
        entry = self._entries.get(directory)
        if (
            entry is None
            or entry.early
            or not self._holds(entry, now)
            or entry.status.data_version != data_version
            or ticket.stamp < self._changes.high_water(directory)
        ):
            return None
        return entry

    def touch_listing(self, entry: CacheEntry) -> None:
        """The entry's listing was used or has grown: beyond the bound those longest unused go."""
        assert entry.listing is not None
        count = len(entry.listing) + 1
        self._names_held += count - self._listed.pop(entry.fid, 0)
        self._listed[entry.fid] = count
        while self._names_held > self._max_names and len(self._listed) > 1:
            self._forget_listing(self._entries[next(iter(self._listed))])

    # --- what ends promises ---

    def on_init(
        self,
        address: str,
        *,
        sequence: int,
        epoch: int,
        lease_s: float,
        now: float,
        kept: bool = False,
    ) -> list[Instruction]:
        """InitCallBackState: ends every promise of this fileserver; then says what to send.

        Promises that were suspended and are `kept` stand again instead.
        """
        server = self.server(address)
        if not server.channel.goes_on(kept=kept):
            server.end_all()
        server.marks.clear()
        return server.channel.on_init(sequence, epoch, lease_s, now, kept=kept)

    def on_break(
        self, address: str, *, targets: Iterable[Fid], through: int, reason: BreakReason | None
    ) -> int:
        """A break: ends the promises on the targets that were given at or before `through`.

        Returns:
            How many promises ended. To be acknowledged after this, never before.
        """
        ended = self.server(address).take_break(targets, through)
        for entry in ended:
            entry.broken_for = reason
        return len(ended)

    def on_lost(self, address: str) -> None:
        """The channel is gone: no promise stands, unless the fileserver says it was kept."""
        self.server(address).channel.on_closed()
        self._onlooker.all_stale()

    def end_volume(self, address: str, volume: int) -> None:
        """The volume is not asked for at this fileserver any more: its promises from there end."""
        self.server(address).end_volume(volume)

    def flush_volume(self, volume: int) -> int:
        """Forgets every vnode of a volume; returns how many."""
        fids = [fid for fid in self._entries if fid.volume == volume]
        for fid in fids:
            self.forget(fid)
        return len(fids)

    def flush_all(self) -> int:
        """Forgets every vnode; returns how many."""
        fids = list(self._entries)
        for fid in fids:
            self.forget(fid)
        return len(fids)

    # --- within ---

    def _judge(self, ticket: Ticket, fid: Fid, offer: PromiseOffer | None, now: float) -> Verdict:
        server = self.server(ticket.server)
        return validation.judge(
            ticket,
            offer,
            channel=server.channel,
            high_water=server.marks.high_water(fid),
            changed_stamp=self._changes.high_water(fid),
            now=now,
        )

    def _settle(
        self,
        entry: CacheEntry,
        ticket: Ticket,
        vnode: Vnode,
        offer: PromiseOffer | None,
        verdict: Verdict,
        now: float,
    ) -> Verdict:
        """Stores what a judged reply said, unless the entry holds something later."""
        held = self._holds(entry, now)
        if verdict is not Verdict.ACCEPTED or offer is None:
            if not held:
                self._end_promise(entry)
                entry.status = vnode
            return verdict
        if held and self._is_later(entry, vnode, offer):
            return Verdict.OVERTAKEN
        news = entry.promise is not None and entry.status != vnode
        if entry.promise is not None:
            self._servers[entry.promise.server].take_back(entry)
        entry.status = vnode
        entry.broken_for = None
        server = self._servers[ticket.server]
        server.give(entry, validation.accept(ticket, offer, server.channel.session))
        if news:
            self._onlooker.changed(vnode.fid)
        return verdict

    def _is_distrusted(self, entry: CacheEntry, now: float) -> bool:
        until = self._distrusted.get(entry.fid)
        if until is None:
            return False
        if now >= until:
            del self._distrusted[entry.fid]
            # What was accepted meanwhile may be from before the change.
            self._end_promise(entry)
        return True

    def _holds(self, entry: CacheEntry, now: float) -> bool:
        promise = entry.promise
        return promise is not None and self._servers[promise.server].holds(entry, now)

    def _covers(self, entry: CacheEntry, vnode: Vnode, now: float) -> bool:
        """True if the entry's status is later than this one, and stands."""
        return self._holds(entry, now) and vnode.data_version < entry.status.data_version

    @staticmethod
    def _is_later(entry: CacheEntry, vnode: Vnode, offer: PromiseOffer) -> bool:
        """True if the entry, which holds a promise, was read at the fileserver after this reply."""
        assert entry.promise is not None
        return (
            vnode.data_version < entry.status.data_version
            or offer.sequence < entry.promise.sequence
        )

    @staticmethod
    def _catch_up(entry: CacheEntry) -> None:
        """Takes in the waiting outcomes that come next, one DataVersion after the other."""
        while (early := entry.early.pop(entry.status.data_version + 1, None)) is not None:
            listing = entry.current_listing()
            if listing is not None:
                listing.edit(early.edits, early.vnode.data_version)
            entry.status = early.vnode

    def _note_change(self, fid: Fid) -> None:
        self._stamp += 1
        self._changes.note(fid, self._stamp)

    def _entry(self, vnode: Vnode) -> CacheEntry:
        entry = self._entries.get(vnode.fid)
        if entry is None:
            entry = self._entries[vnode.fid] = CacheEntry(vnode.fid, vnode)
            if len(self._entries) > self._max_vnodes:
                self._drop(next(iter(self._entries)))
        else:
            self._entries.move_to_end(vnode.fid)
        return entry

    def _end_promise(self, entry: CacheEntry) -> None:
        if entry.promise is not None:
            self._servers[entry.promise.server].end(entry)

    def _drop(self, fid: Fid) -> None:
        entry = self._entries.pop(fid, None)
        if entry is not None:
            self._end_promise(entry)
            self._forget_listing(entry)

    def _forget_listing(self, entry: CacheEntry) -> None:
        self._names_held -= self._listed.pop(entry.fid, 0)
        entry.listing = None
