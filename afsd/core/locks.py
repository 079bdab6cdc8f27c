"""File locks: which host holds which file, and who waits for it.

Theory of operation
    A lock is on a whole file and belongs to a host, by its UUID, as in AFS: one host may write, or
    any number read. What programs of one machine want of each other is that machine's business
    (`clientd.locks`). The table is in memory only.

    1. A lock ends by itself after LOCK_LIFE_S unless it is extended. That alone is what takes it
       from a host that went away: one that is VENUSDOWN, was reset or has given up its callbacks
       may still be there, behind a network that comes back, and relies on its lock until its own
       clock says that the life is over. The server counts the life from when it answered,
       stretched by the clocks' rate error, the client from when it asked; so the client knows
       first.
    2. Asking is idempotent: for what is held already it extends, for less (a read lock instead of a
       write lock) it is granted at once and lets others in, for more it needs the file alone. So
       whoever lost an answer asks again, or releases. Who relies on having a lock says so
       (`holds`): it must not be given anew what it lost meanwhile without noticing.
    3. Who does not wait is answered by who holds the file. Who waits stands in line: no one behind
       is granted before the one in front, so a writer is not starved by readers that come and go.
       A host that waited in vain keeps its place for LOCK_PLACE_KEPT_S, but while it is not there
       nobody waits for it.
    4. A reader that wants to write goes to the head of the line: nobody behind it could be granted
       anyway while it holds the file. Two such would wait for each other for ever: the second is
       told so (DEADLOCK). Circles over several files are not looked for, as with NFS.
    5. Locks end with what they are on: when a file is removed, and when a volume's promises are
       broken because it is not, or may not be, what it was (moved, deleted, restored, released,
       salvaged). Extending then says that there is no lock. A volume that is out for a moment and
       comes back unchanged (a clone, a dump) keeps them, and so does one that is off-line, as long
       as they live.
    6. A planned restart keeps them, as it keeps promises: programs that hold a lock over minutes do
       not notice. After a crash they are gone. A client notices either by the fileserver's epoch,
       and asks by extending.

Time comes in as `now` (steady seconds) and goes out as `next_deadline`. Each call that waits has a
ticket, which is settled exactly once.

Invariants: a file has one writer and no reader, or readers only; what waits could not be granted
when the line last moved; counts are what they count (`check`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Final

from afs.limits import (
    CLOCK_RATE_ERROR_PPM,
    LOCK_LIFE_S,
    LOCK_PLACE_KEPT_S,
    MAX_LOCK_WAIT_S,
    MAX_LOCK_WAITS_PER_HOST,
    MAX_LOCKS,
    MAX_LOCKS_PER_HOST,
)
from afs.types import Fid, LockType
from afsd.core.deadlines import Deadlines
from afsd.core.instructions import Observed

# How long the server keeps what it said would live LOCK_LIFE_S.
STRETCHED_LIFE_S: Final = LOCK_LIFE_S * (1 + CLOCK_RATE_ERROR_PPM / 1e6)


@unique
class LockOutcome(Enum):
    """How a request for a lock ended."""

    GRANTED = "granted"
    HELD = "held"
    DEADLOCK = "deadlock"
    TOO_MANY = "too_many"
    GONE = "gone"
    NOT_HELD = "not_held"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class LockSettled:
    """The request with this ticket is answered."""

    ticket: int
    outcome: LockOutcome


LockInstruction = LockSettled | Observed


@dataclass(slots=True, eq=False)
class Lock:
    """What one host holds on one file, until `expires_at` (steady seconds)."""

    fid: Fid
    host: str
    type: LockType
    expires_at: float


@dataclass(slots=True, eq=False)
class Waiter:
    """A place in a file's line; without a ticket its host is not there, and has it until then.

    One that `holds` is granted only on top of the lock that its host has.
    """

    fid: Fid
    host: str
    type: LockType
    until: float
    ticket: int | None
    holds: bool


@dataclass(frozen=True, slots=True)
class SavedLock:
    """A lock as a planned restart keeps it; `expires_at` in steady seconds."""

    fid: Fid
    host: str
    type: LockType
    expires_at: float


@dataclass(slots=True)
class _File:
    """The locks on one file, by host, and the line of those who wait."""

    holders: dict[str, Lock] = field(default_factory=dict)
    line: list[Waiter] = field(default_factory=list)

    def allows(self, host: str, wanted: LockType) -> bool:
        """True if no other host's lock stands in the way."""
        return all(
            other == host or wanted is lock.type is LockType.READ
            for other, lock in self.holders.items()
        )

    def ahead_of(self, waiter: Waiter | None) -> bool:
        """True if somebody is there who came before this place (None: before a newcomer)."""
        for other in self.line:
            if other is waiter:
                return False
            if other.ticket is not None:
                return True
        return False


class LockTable:
    """All file locks of one fileserver. See the module's theory of operation."""

    def __init__(self) -> None:
        self.counters: Final[Counter[str]] = Counter()
        self.observing = False
        self._volumes: dict[int, dict[Fid, _File]] = {}
        # All locks in the order in which they end, which is that of their last extension.
        self._locks: OrderedDict[Lock, None] = OrderedDict()
        self._held_by: Counter[str] = Counter()
        self._waiters: dict[int, Waiter] = {}
        self._waits_of: Counter[str] = Counter()
        self._waits_over: Deadlines[Waiter] = Deadlines()
        self._stopping = False
        self._out: list[LockInstruction] = []

    def __len__(self) -> int:
        return len(self._locks)

    # --- what hosts ask ---------------------------------------------------------------------------

    def set_lock(
        self,
        host: str,
        fid: Fid,
        wanted: LockType,
        ticket: int,
        now: float,
        wait_s: float = 0.0,
        *,
        holds: bool = False,
    ) -> list[LockInstruction]:
        """A host asks for a lock; the ticket is settled now or, if it waits, later.

        Args:
            host: its UUID.
            fid: the file, which is there.
            wanted: what to hold it for.
            ticket: names the request.
            now: steady seconds.
            wait_s: how long to wait for others to let go.
            holds: the host relies on having a lock already.
        """
        file = self._volumes.setdefault(fid.volume, {}).setdefault(fid, _File())
        held = file.holders.get(host)
        wait_s = min(wait_s, MAX_LOCK_WAIT_S)
        place = next(
            (each for each in file.line if each.host == host and each.ticket is None), None
        )
        if holds and held is None:
            self._settle(ticket, LockOutcome.NOT_HELD)
        elif held is not None and held.type >= wanted:
            self._settle(ticket, self._grant(file, fid, host, wanted, now))
            self._move_on(file, now)
        elif file.allows(host, wanted) and not (wait_s and held is None and file.ahead_of(place)):
            if place is not None:
                file.line.remove(place)
            self._settle(ticket, self._grant(file, fid, host, wanted, now))
        elif held is not None and wait_s and self._upgrades(file, host):
            self.counters["lock_deadlocks"] += 1
            self._settle(ticket, LockOutcome.DEADLOCK)
        elif not wait_s or self._waits_of[host] >= MAX_LOCK_WAITS_PER_HOST:
            self.counters["locks_refused"] += 1
            self._settle(ticket, LockOutcome.HELD)
        elif self._stopping:
            self._settle(ticket, LockOutcome.STOPPING)
        else:
            waiter = place or Waiter(fid, host, wanted, now, None, holds)
            waiter.type, waiter.holds, waiter.until = wanted, holds, now + wait_s
            self._wait(file, waiter, ticket)
        self._tidy(fid, file)
        return self._take_out()

    def extend(self, host: str, fid: Fid, now: float) -> bool:
        """The host's lock lives anew; False if it has none."""
        lock = self._lock(host, fid)
        if lock is None:
            self.counters["lock_extensions_refused"] += 1
            return False
        self._renew(lock, now)
        self.counters["locks_extended"] += 1
        return True

    def release(self, host: str, fid: Fid, now: float) -> tuple[bool, list[LockInstruction]]:
        """The host lets go; False if it has no lock. Those in line come to their turn."""
        lock = self._lock(host, fid)
        if lock is None:
            return False, []
        self._end(lock, "released")
        file = self._volumes[fid.volume][fid]
        self._move_on(file, now)
        self._tidy(fid, file)
        return True, self._take_out()

    def abandon(self, ticket: int, now: float) -> list[LockInstruction]:
        """Whoever waited with this ticket has gone; a no-op if it was settled."""
        waiter = self._waiters.get(ticket)
        if waiter is not None:
            self._leave(waiter)
            file = self._volumes[waiter.fid.volume][waiter.fid]
            file.line.remove(waiter)
            self._move_on(file, now)
            self._tidy(waiter.fid, file)
        return self._take_out()

    # --- what ends locks --------------------------------------------------------------------------

    def end_file(self, fid: Fid) -> list[LockInstruction]:
        """The file is gone, and its locks with it."""
        if fid in self._volumes.get(fid.volume, ()):
            self._end_all(fid, "file_removed")
        return self._take_out()

    def end_volume(self, volume: int) -> tuple[int, list[LockInstruction]]:
        """The volume is not what it was: its locks end. How many there were."""
        before = len(self._locks)
        for fid in list(self._volumes.get(volume, ())):
            self._end_all(fid, "volume_changed")
        return before - len(self._locks), self._take_out()

    def next_deadline(self) -> float | None:
        """Steady time at which `tick` wants to be called; None if nothing is due ever."""
        first = next(iter(self._locks), None)
        dues = [self._waits_over.next(), None if first is None else first.expires_at]
        return min((due for due in dues if due is not None), default=None)

    def tick(self, now: float) -> list[LockInstruction]:
        """Ends locks whose life is over, and waits."""
        while (lock := next(iter(self._locks), None)) is not None and lock.expires_at <= now:
            self._end(lock, "expired")
            self.counters["locks_expired"] += 1
            file = self._volumes[lock.fid.volume][lock.fid]
            self._move_on(file, now)
            self._tidy(lock.fid, file)
        for waiter in self._waits_over.due(now):
            self._wait_over(waiter, now)
        return self._take_out()

    # --- planned restarts -------------------------------------------------------------------------

    def begin_stop(self) -> list[LockInstruction]:
        """The fileserver stops: nobody waits any more."""
        self._stopping = True
        for waiter in list(self._waiters.values()):
            file = self._volumes[waiter.fid.volume][waiter.fid]
            file.line.remove(waiter)
            self._settle_waiter(waiter, LockOutcome.STOPPING)
            self._tidy(waiter.fid, file)
        return self._take_out()

    def save(self) -> tuple[SavedLock, ...]:
        """What the next life needs."""
        return tuple(
            SavedLock(lock.fid, lock.host, lock.type, lock.expires_at) for lock in self._locks
        )

    def restore(self, saved: Iterable[SavedLock], unchanged: Collection[int]) -> int:
        """Takes over what the life before this one saved, of these volumes; how many there are.

        Before anything else happens. What has expired ends with the first tick.
        """
        for each in sorted(saved, key=lambda lock: lock.expires_at):
            if each.fid.volume in unchanged:
                file = self._volumes.setdefault(each.fid.volume, {}).setdefault(each.fid, _File())
                lock = Lock(each.fid, each.host, each.type, each.expires_at)
                file.holders[each.host] = lock
                self._locks[lock] = None
                self._held_by[each.host] += 1
        return len(self._locks)

    # --- for people, and tests --------------------------------------------------------------------

    def all(self) -> Iterator[Lock | Waiter]:
        """Every lock, file by file, and after it those who are there and wait."""
        for files in self._volumes.values():
            for file in files.values():
                yield from file.holders.values()
                yield from (waiter for waiter in file.line if waiter.ticket is not None)

    def check(self) -> None:
        """Asserts the invariants; for tests, after every step."""
        held: Counter[str] = Counter()
        for volume, files in self._volumes.items():
            assert files, "a volume without locks is not kept"
            for fid, file in files.items():
                assert fid.volume == volume
                assert file.holders or file.line, "a file without locks is not kept"
                types = [lock.type for lock in file.holders.values()]
                assert LockType.WRITE not in types or len(types) == 1, "one writer, no readers"
                assert all(lock in self._locks for lock in file.holders.values())
                held.update(file.holders.keys())
                present = [waiter for waiter in file.line if waiter.ticket is not None]
                assert all(self._waiters[each.ticket or 0] is each for each in present)
                if present:
                    first = present[0]
                    assert not file.allows(first.host, first.type), "whoever can be granted is"
        assert held == self._held_by
        assert held.total() == len(self._locks)
        assert Counter(waiter.host for waiter in self._waiters.values()) == self._waits_of
        ends = [lock.expires_at for lock in self._locks]
        assert ends == sorted(ends)

    # --- within -----------------------------------------------------------------------------------

    def _lock(self, host: str, fid: Fid) -> Lock | None:
        file = self._volumes.get(fid.volume, {}).get(fid)
        return None if file is None else file.holders.get(host)

    def _grant(self, file: _File, fid: Fid, host: str, wanted: LockType, now: float) -> LockOutcome:
        lock = file.holders.get(host)
        if lock is None:
            if len(self._locks) >= MAX_LOCKS or self._held_by[host] >= MAX_LOCKS_PER_HOST:
                self.counters["locks_beyond_limit"] += 1
                return LockOutcome.TOO_MANY
            lock = file.holders[host] = Lock(fid, host, wanted, now)
            self._held_by[host] += 1
        lock.type = wanted
        self._renew(lock, now)
        self.counters["locks_set"] += 1
        self._observe("lock.set", lock, wanted.name)
        return LockOutcome.GRANTED

    def _renew(self, lock: Lock, now: float) -> None:
        lock.expires_at = now + STRETCHED_LIFE_S
        self._locks[lock] = None
        self._locks.move_to_end(lock)

    def _end(self, lock: Lock, cause: str) -> None:
        del self._volumes[lock.fid.volume][lock.fid].holders[lock.host]
        del self._locks[lock]
        _one_less(self._held_by, lock.host)
        self.counters["locks_ended"] += 1
        self._observe("lock.ended", lock, cause)

    def _end_all(self, fid: Fid, cause: str) -> None:
        """All locks on a file end, and all waiting for them."""
        file = self._volumes[fid.volume][fid]
        for lock in list(file.holders.values()):
            self._end(lock, cause)
        for waiter in list(file.line):
            file.line.remove(waiter)
            self._settle_waiter(waiter, LockOutcome.GONE)
        self._tidy(fid, file)

    @staticmethod
    def _upgrades(file: _File, host: str) -> bool:
        """True if another reader waits to write."""
        return any(each.host != host and each.host in file.holders for each in file.line)

    def _wait(self, file: _File, waiter: Waiter, ticket: int) -> None:
        """Takes a place in line, or comes back to it."""
        if waiter not in file.line:
            file.line.insert(0 if waiter.host in file.holders else len(file.line), waiter)
        waiter.ticket = ticket
        self._waiters[ticket] = waiter
        self._waits_of[waiter.host] += 1
        self._waits_over.add(waiter.until, waiter)
        self.counters["lock_waits"] += 1

    def _leave(self, waiter: Waiter) -> None:
        """The waiter is not there any more; its place stays."""
        assert waiter.ticket is not None
        del self._waiters[waiter.ticket]
        _one_less(self._waits_of, waiter.host)
        waiter.ticket = None

    def _settle_waiter(self, waiter: Waiter, outcome: LockOutcome) -> None:
        if waiter.ticket is not None:
            self._settle(waiter.ticket, outcome)
            self._leave(waiter)

    def _move_on(self, file: _File, now: float) -> None:
        """Grants what those in front of the line wait for, as far as it goes."""
        for waiter in list(file.line):
            if waiter.ticket is None:
                continue
            outcome = LockOutcome.NOT_HELD
            if waiter.host in file.holders or not waiter.holds:
                if not file.allows(waiter.host, waiter.type):
                    return
                outcome = self._grant(file, waiter.fid, waiter.host, waiter.type, now)
            file.line.remove(waiter)
            self._settle_waiter(waiter, outcome)

    def _wait_over(self, waiter: Waiter, now: float) -> None:
        """A wait, or the time for which a place is kept, may be over."""
        file = self._volumes.get(waiter.fid.volume, {}).get(waiter.fid)
        if file is None or waiter not in file.line:
            return
        if waiter.until <= now:
            if waiter.ticket is None:
                file.line.remove(waiter)
                self._tidy(waiter.fid, file)
                return
            self.counters["lock_waits_in_vain"] += 1
            self._settle_waiter(waiter, LockOutcome.HELD)
            waiter.until = now + LOCK_PLACE_KEPT_S
            self._move_on(file, now)
        self._waits_over.add(waiter.until, waiter)

    def _tidy(self, fid: Fid, file: _File) -> None:
        """Forgets a file that nobody holds or waits for."""
        files = self._volumes.get(fid.volume)
        if files is not None and not file.holders and not file.line:
            files.pop(fid, None)
            if not files:
                del self._volumes[fid.volume]

    def _settle(self, ticket: int, outcome: LockOutcome) -> None:
        self._out.append(LockSettled(ticket, outcome))

    def _observe(self, event: str, lock: Lock, cause: str) -> None:
        if self.observing:
            self._out.append(Observed(event, lock.host, (lock.fid,), cause=cause))

    def _take_out(self) -> list[LockInstruction]:
        out, self._out = self._out, []
        return out


def _one_less(counts: Counter[str], host: str) -> None:
    """Counts one less of a host; what is counted no more leaves no trace."""
    counts[host] -= 1
    if not counts[host]:
        del counts[host]
