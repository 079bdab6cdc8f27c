"""The lock table: who holds, who waits, who is next, and what ends a lock."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from afs.limits import LOCK_LIFE_S, LOCK_PLACE_KEPT_S, MAX_LOCK_WAIT_S, MAX_LOCK_WAITS_PER_HOST
from afs.types import Fid, LockType
from afsd.core import locks
from afsd.core.instructions import Observed
from afsd.core.locks import (
    STRETCHED_LIFE_S,
    Lock,
    LockInstruction,
    LockOutcome,
    LockSettled,
    LockTable,
    Waiter,
)

FILE = Fid(7, 2, 2)
OTHER = Fid(7, 4, 4)
ELSEWHERE = Fid(8, 2, 2)
READ, WRITE = LockType.READ, LockType.WRITE


class Rig:
    """A table, its time, and how each ticket was settled."""

    def __init__(self) -> None:
        self.table = LockTable()
        self.now = 1000.0
        self.settled: dict[int, LockOutcome] = {}
        self.seen: list[Observed] = []
        self._tickets = 0

    def ask(
        self,
        host: str,
        wanted: LockType,
        wait_s: float = 0.0,
        fid: Fid = FILE,
        *,
        holds: bool = False,
    ) -> int:
        """SetLock; its ticket."""
        self._tickets += 1
        ticket = self._tickets
        self.take(self.table.set_lock(host, fid, wanted, ticket, self.now, wait_s, holds=holds))
        return ticket

    def set(
        self, host: str, wanted: LockType, wait_s: float = 0.0, fid: Fid = FILE
    ) -> LockOutcome | None:
        """SetLock; its outcome, None if it waits."""
        return self.settled.get(self.ask(host, wanted, wait_s, fid))

    def release(self, host: str, fid: Fid = FILE) -> bool:
        """ReleaseLock."""
        released, out = self.table.release(host, fid, self.now)
        self.take(out)
        return released

    def advance(self, seconds: float) -> None:
        """Time goes by; what is due happens when it is due."""
        end = self.now + seconds
        while (due := self.table.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.take(self.table.tick(self.now))
        self.now = end

    def take(self, out: Sequence[LockInstruction]) -> None:
        """Notes what came out, and checks the invariants."""
        for instruction in out:
            if isinstance(instruction, LockSettled):
                assert instruction.ticket not in self.settled, "settled exactly once"
                self.settled[instruction.ticket] = instruction.outcome
            else:
                self.seen.append(instruction)
        self.table.check()

    def holders(self, fid: Fid = FILE) -> dict[str, LockType]:
        """Who holds a file."""
        return {
            each.host: each.type
            for each in self.table.all()
            if isinstance(each, Lock) and each.fid == fid
        }


@pytest.fixture
def rig() -> Rig:
    """An empty table."""
    return Rig()


def test_one_writes_or_many_read(rig: Rig) -> None:
    """Readers share a file, a writer has it alone, and other files are other files."""
    assert rig.set("a", READ) is LockOutcome.GRANTED
    assert rig.set("b", READ) is LockOutcome.GRANTED
    assert rig.set("c", WRITE) is LockOutcome.HELD
    assert rig.set("c", WRITE, fid=OTHER) is LockOutcome.GRANTED
    assert rig.set("a", READ, fid=OTHER) is LockOutcome.HELD
    assert rig.holders() == {"a": READ, "b": READ}


def test_asking_again_extends(rig: Rig) -> None:
    """A repeated request is granted and begins the life anew: a lost answer costs nothing."""
    rig.set("a", WRITE)
    rig.advance(LOCK_LIFE_S - 1)
    assert rig.set("a", WRITE) is LockOutcome.GRANTED
    rig.advance(LOCK_LIFE_S - 1)
    assert rig.holders() == {"a": WRITE}
    assert len(rig.table) == 1


def test_a_reader_that_is_alone_may_write(rig: Rig) -> None:
    """An upgrade needs the file alone; refused, it leaves the read lock as it was."""
    rig.set("a", READ)
    rig.set("b", READ)
    assert rig.set("a", WRITE) is LockOutcome.HELD
    assert rig.holders() == {"a": READ, "b": READ}
    rig.release("b")
    assert rig.set("a", WRITE) is LockOutcome.GRANTED
    assert rig.holders() == {"a": WRITE}


def test_a_writer_that_goes_on_reading_lets_readers_in(rig: Rig) -> None:
    """A downgrade is granted at once, and readers in line come to their turn with it."""
    rig.set("a", WRITE)
    waiting = rig.ask("b", READ, 5)
    assert rig.set("a", READ) is LockOutcome.GRANTED
    assert rig.settled[waiting] is LockOutcome.GRANTED
    assert rig.holders() == {"a": READ, "b": READ}


def test_those_who_wait_are_granted_in_order(rig: Rig) -> None:
    """First come, first served; readers behind each other together."""
    rig.set("a", WRITE)
    tickets = [rig.ask(host, type_, 5) for host, type_ in (("b", READ), ("c", READ), ("d", WRITE))]
    assert not any(ticket in rig.settled for ticket in tickets)
    rig.release("a")
    assert rig.holders() == {"b": READ, "c": READ}
    rig.release("b")
    assert tickets[2] not in rig.settled
    rig.release("c")
    assert rig.holders() == {"d": WRITE}


def test_a_writer_is_not_starved_by_readers_that_wait_as_well(rig: Rig) -> None:
    """A reader that is ready to wait stands behind the writer; one that is not is just answered."""
    rig.set("a", READ)
    rig.ask("w", WRITE, 5)
    reading = rig.ask("b", READ, 5)
    assert reading not in rig.settled
    assert rig.set("c", READ) is LockOutcome.GRANTED
    rig.release("a")
    rig.release("c")
    assert rig.holders() == {"w": WRITE}


def test_a_wait_ends_and_its_place_is_kept_for_a_moment(rig: Rig) -> None:
    """Who comes back at once is where it was; while it is away nobody waits for it."""
    rig.set("a", WRITE)
    first = rig.ask("b", WRITE, 5)
    rig.advance(1)
    rig.ask("c", WRITE, 15)
    rig.advance(4)
    assert rig.settled[first] is LockOutcome.HELD
    again = rig.ask("b", WRITE, 5)
    rig.release("a")
    assert rig.settled[again] is LockOutcome.GRANTED
    rig.release("b")
    assert rig.holders() == {"c": WRITE}
    assert rig.table.counters["lock_waits_in_vain"] == 1


def test_nobody_waits_for_who_is_away(rig: Rig) -> None:
    """A kept place holds up no one, and is gone after its time."""
    rig.set("a", WRITE)
    rig.ask("b", WRITE, 5)
    rig.advance(5)
    behind = rig.ask("c", WRITE, 15)
    rig.release("a")
    assert rig.settled[behind] is LockOutcome.GRANTED
    rig.advance(LOCK_PLACE_KEPT_S)
    rig.release("c")
    assert not list(rig.table.all())
    assert rig.set("d", WRITE, 5) is LockOutcome.GRANTED


def test_a_kept_place_is_nobody_in_front(rig: Rig) -> None:
    """A newcomer is granted past it; who comes back waits a whole new wait."""
    rig.set("a", WRITE)
    rig.ask("b", WRITE, 5)
    rig.advance(5)
    rig.release("a")
    assert rig.set("c", WRITE, 5) is LockOutcome.GRANTED
    again = rig.ask("b", WRITE, 5)
    rig.advance(LOCK_PLACE_KEPT_S + 1)
    assert again not in rig.settled
    rig.release("c")
    assert rig.settled[again] is LockOutcome.GRANTED


def test_who_comes_back_to_a_free_file_has_it(rig: Rig) -> None:
    """A kept place is given up with the grant, also when nothing else is left of the file."""
    rig.set("a", WRITE)
    rig.ask("b", WRITE, 5)
    rig.advance(5)
    rig.release("a")
    assert rig.set("b", WRITE, 5) is LockOutcome.GRANTED
    rig.release("b")
    rig.advance(LOCK_PLACE_KEPT_S)
    assert rig.table.next_deadline() is None


def test_a_wait_that_is_over_lets_those_behind_in(rig: Rig) -> None:
    """A reader behind a writer that waited in vain beside readers is granted then."""
    rig.set("a", READ)
    rig.ask("w", WRITE, 5)
    behind = rig.ask("b", READ, 15)
    rig.advance(5)
    assert rig.settled[behind] is LockOutcome.GRANTED


def test_who_hangs_up_leaves_the_line(rig: Rig) -> None:
    """An abandoned wait holds up nobody and is never granted."""
    rig.set("a", READ)
    gone = rig.ask("w", WRITE, 5)
    behind = rig.ask("b", READ, 5)
    rig.take(rig.table.abandon(gone, rig.now))
    assert rig.settled[behind] is LockOutcome.GRANTED
    rig.release("a")
    rig.release("b")
    assert gone not in rig.settled
    rig.take(rig.table.abandon(behind, rig.now))
    rig.advance(5)
    assert rig.table.next_deadline() is None


def test_waits_are_bounded_in_time_and_number(rig: Rig) -> None:
    """No call waits longer than MAX_LOCK_WAIT_S, and a host's calls beyond the limit not at all."""
    rig.set("a", WRITE)
    tickets = [rig.ask("b", WRITE, 1e9) for _ in range(MAX_LOCK_WAITS_PER_HOST)]
    assert rig.set("b", WRITE, 1e9) is LockOutcome.HELD
    assert rig.set("b", WRITE, 1e9, fid=OTHER) is LockOutcome.GRANTED
    rig.advance(MAX_LOCK_WAIT_S)
    assert all(rig.settled[ticket] is LockOutcome.HELD for ticket in tickets)


def test_two_readers_that_wait_to_write_are_told(rig: Rig) -> None:
    """The second of them gets DEADLOCK; when it lets go, the first one writes."""
    rig.set("a", READ)
    rig.set("b", READ)
    rig.ask("w", WRITE, 15)
    first = rig.ask("a", WRITE, 15)
    assert rig.set("b", WRITE, 15) is LockOutcome.DEADLOCK
    assert rig.set("b", WRITE) is LockOutcome.HELD
    rig.release("b")
    assert rig.settled[first] is LockOutcome.GRANTED
    assert rig.holders() == {"a": WRITE}


def test_a_lock_ends_unless_it_is_extended(rig: Rig) -> None:
    """After its life, stretched by the clocks' error, it is gone, and who waits has it."""
    rig.set("a", WRITE)
    rig.advance(LOCK_LIFE_S)
    assert rig.table.extend("a", FILE, rig.now)
    rig.advance(LOCK_LIFE_S - MAX_LOCK_WAIT_S)
    waiting = rig.ask("b", READ, MAX_LOCK_WAIT_S)
    rig.advance(MAX_LOCK_WAIT_S)
    # Too early by the clocks' error.
    assert rig.settled[waiting] is LockOutcome.HELD
    waiting = rig.ask("b", READ, MAX_LOCK_WAIT_S)
    rig.advance(STRETCHED_LIFE_S - LOCK_LIFE_S)
    assert rig.settled[waiting] is LockOutcome.GRANTED
    assert not rig.table.extend("a", FILE, rig.now)
    assert not rig.release("a")
    assert rig.table.counters["locks_expired"] == 1


def test_who_has_no_lock_extends_and_releases_none(rig: Rig) -> None:
    """Neither on a file that nobody locked, nor on another host's."""
    assert not rig.table.extend("a", FILE, rig.now)
    assert not rig.release("a")
    rig.set("b", READ)
    assert not rig.release("a")
    assert rig.holders() == {"b": READ}


def test_who_relies_on_a_lock_is_not_given_it_anew(rig: Rig) -> None:
    """It ended, others may have had the file: also where nobody has it now, also after a wait."""
    assert rig.settled[rig.ask("a", READ, holds=True)] is LockOutcome.NOT_HELD
    rig.set("a", READ)
    assert rig.settled[rig.ask("a", WRITE, holds=True)] is LockOutcome.GRANTED
    assert rig.settled[rig.ask("a", READ, holds=True)] is LockOutcome.GRANTED
    rig.advance(LOCK_LIFE_S)
    rig.set("b", READ)
    waiting = rig.ask("a", WRITE, 5, holds=True)
    assert waiting not in rig.settled
    rig.advance(STRETCHED_LIFE_S - LOCK_LIFE_S)
    assert rig.settled[waiting] is LockOutcome.NOT_HELD
    assert rig.holders() == {"b": READ}


def test_locks_end_with_their_file(rig: Rig) -> None:
    """A removed file has none, and who waited for one is told."""
    rig.set("a", WRITE)
    waiting = rig.ask("b", WRITE, 5)
    rig.set("a", WRITE, fid=OTHER)
    rig.take(rig.table.end_file(FILE))
    assert rig.settled[waiting] is LockOutcome.GONE
    assert rig.holders() == {}
    assert rig.holders(OTHER) == {"a": WRITE}
    rig.take(rig.table.end_file(FILE))


def test_locks_end_with_their_volume(rig: Rig) -> None:
    """All of it, and nothing of another one."""
    for fid in (FILE, OTHER, ELSEWHERE):
        rig.set("a", READ, fid=fid)
    rig.ask("w", WRITE, 5)
    rig.advance(5)
    ended, out = rig.table.end_volume(FILE.volume)
    rig.take(out)
    assert ended == 2
    assert rig.holders(ELSEWHERE) == {"a": READ}
    assert rig.table.end_volume(FILE.volume) == (0, [])


def test_locks_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """In all and for each host; also what is granted to those who waited."""
    monkeypatch.setattr(locks, "MAX_LOCKS", 3)
    monkeypatch.setattr(locks, "MAX_LOCKS_PER_HOST", 2)
    assert rig.set("a", WRITE) is LockOutcome.GRANTED
    waiting = rig.ask("b", WRITE, 5)
    rig.set("b", READ, fid=OTHER)
    rig.set("b", READ, fid=ELSEWHERE)
    rig.release("a")
    assert rig.settled[waiting] is LockOutcome.TOO_MANY
    assert rig.set("c", READ) is LockOutcome.GRANTED
    assert rig.set("d", READ) is LockOutcome.TOO_MANY
    assert rig.set("b", READ, fid=OTHER) is LockOutcome.GRANTED
    assert rig.table.counters["locks_beyond_limit"] == 2


def test_nobody_waits_for_a_fileserver_that_stops(rig: Rig) -> None:
    """Who waits is told, who comes to wait too; what can be answered is."""
    rig.set("a", WRITE)
    waiting = rig.ask("b", READ, 5)
    rig.take(rig.table.begin_stop())
    assert rig.settled[waiting] is LockOutcome.STOPPING
    assert rig.set("b", READ, 5) is LockOutcome.STOPPING
    assert rig.set("b", READ) is LockOutcome.HELD
    assert rig.release("a")


def test_a_planned_restart_keeps_locks(rig: Rig) -> None:
    """Of volumes that are as they were, with the life that they had left."""
    rig.set("late", READ)
    rig.set("a", WRITE, fid=OTHER)
    rig.set("a", WRITE, fid=ELSEWHERE)
    rig.advance(10)
    assert rig.table.extend("late", FILE, rig.now)
    after = Rig()
    after.now = rig.now + 1
    assert after.table.restore(rig.table.save(), {FILE.volume}) == 2
    after.table.check()
    assert after.set("b", WRITE) is LockOutcome.HELD
    assert after.holders(ELSEWHERE) == {}
    after.advance(STRETCHED_LIFE_S - 11)
    assert after.holders(OTHER) == {}
    assert after.holders() == {"late": READ}


def test_watchers_see_locks_come_and_go(rig: Rig) -> None:
    """While somebody watches, and only then."""
    rig.set("a", READ)
    rig.table.observing = True
    rig.set("b", READ)
    rig.release("a")
    assert [(seen.event, seen.host, seen.cause) for seen in rig.seen] == [
        ("lock.set", "b", "READ"),
        ("lock.ended", "a", "released"),
    ]


def test_people_see_who_waits(rig: Rig) -> None:
    """Those who are there; not the places that are kept."""
    rig.set("a", WRITE)
    rig.ask("b", READ, 5)
    rig.advance(5)
    rig.ask("c", READ, 5)
    assert [each.host for each in rig.table.all() if isinstance(each, Waiter)] == ["c"]


class Naive:
    """What may be granted, told from nothing but who holds what until when."""

    def __init__(self) -> None:
        self.held: dict[tuple[Fid, str], tuple[LockType, float]] = {}

    def at(self, fid: Fid, now: float) -> Iterator[tuple[str, LockType]]:
        """Who holds a file now."""
        for (where, host), (type_, until) in self.held.items():
            if where == fid and until > now:
                yield host, type_


HOSTS = st.sampled_from("abc")
FIDS = st.sampled_from([FILE, OTHER])
STEPS = st.one_of(
    st.tuples(
        st.just("set"), HOSTS, FIDS, st.sampled_from(LockType), st.sampled_from([0.0, 3.0, 20.0])
    ),
    st.tuples(st.just("release"), HOSTS, FIDS),
    st.tuples(st.just("extend"), HOSTS, FIDS),
    st.tuples(st.just("abandon"), st.integers(1, 60)),
    st.tuples(st.just("remove"), FIDS),
    st.tuples(st.just("advance"), st.sampled_from([0.5, 2.5, 150.0])),
)


@given(st.lists(STEPS, max_size=60))
def test_no_two_hosts_ever_have_what_excludes_each_other(steps: list[tuple[object, ...]]) -> None:
    """Whatever happens: grants never conflict with what is held, and every wait ends."""
    rig, naive = Rig(), Naive()
    asked: dict[int, tuple[str, Fid, LockType]] = {}
    noted = 0

    def note() -> None:
        """Takes the new grants into the naive model, which must allow them."""
        nonlocal noted
        for ticket, outcome in list(rig.settled.items())[noted:]:
            host, fid, type_ = asked[ticket]
            if outcome is LockOutcome.GRANTED:
                for other, held in naive.at(fid, rig.now):
                    assert other == host or held is type_ is LockType.READ
                naive.held[fid, host] = type_, rig.now + LOCK_LIFE_S
        noted = len(rig.settled)

    for kind, *rest in steps:
        if kind == "set":
            host, fid, type_, wait_s = rest
            asked[rig._tickets + 1] = host, fid, type_  # type: ignore[assignment]
            rig.ask(host, type_, wait_s, fid)  # type: ignore[arg-type]
        elif kind == "release":
            host, fid = rest
            naive.held.pop((fid, host), None)  # type: ignore[arg-type]
            rig.release(host, fid)  # type: ignore[arg-type]
        elif kind == "extend":
            host, fid = rest
            if rig.table.extend(host, fid, rig.now):  # type: ignore[arg-type]
                type_, _ = naive.held[fid, host]  # type: ignore[index]
                naive.held[fid, host] = type_, rig.now + LOCK_LIFE_S  # type: ignore[index]
        elif kind == "abandon":
            (ticket,) = rest
            rig.take(rig.table.abandon(ticket, rig.now))  # type: ignore[arg-type]
        elif kind == "remove":
            (fid,) = rest
            for key in [key for key in naive.held if key[0] == fid]:
                del naive.held[key]
            rig.take(rig.table.end_file(fid))  # type: ignore[arg-type]
        else:
            (seconds,) = rest
            end = rig.now + seconds  # type: ignore[operator]
            while (due := rig.table.next_deadline()) is not None and due <= end:
                rig.advance(due - rig.now)
                note()
            rig.advance(end - rig.now)
        note()
    rig.advance(2 * STRETCHED_LIFE_S)
    assert rig.table.next_deadline() is None
    assert len(rig.table) == 0
