"""Ranges of locks, compared with a naive map of bytes; and circles of waits."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from afs.types import LockType
from clientd.core.lock_waits import LockWaits
from clientd.core.range_locks import LAST_BYTE, LockFamily, LockOwner, RangeLock, RangeLocks

READ, WRITE = LockType.READ, LockType.WRITE
A, B, C = (LockOwner(LockFamily.FCNTL, number) for number in (1, 2, 3))
FLOCK = LockOwner(LockFamily.FLOCK, 1)
BYTES = 12


def of(locks: RangeLocks, owner: LockOwner) -> list[tuple[LockType, int, int]]:
    """An owner's ranges."""
    return [(each.type, each.start, each.end) for who, each in locks.all() if who == owner]


def test_unlocking_in_the_middle_splits() -> None:
    """What is left on both sides stays."""
    locks = RangeLocks()
    locks.set(A, WRITE, 0, LAST_BYTE)
    locks.set(A, None, 10, 19)
    assert of(locks, A) == [(WRITE, 0, 9), (WRITE, 20, LAST_BYTE)]
    assert len(locks) == 2


def test_ranges_that_touch_become_one() -> None:
    """Of one type; of different types they stay two."""
    locks = RangeLocks()
    locks.set(A, READ, 0, 9)
    locks.set(A, READ, 10, 19)
    assert of(locks, A) == [(READ, 0, 19)]
    locks.set(A, WRITE, 20, 29)
    assert of(locks, A) == [(READ, 0, 19), (WRITE, 20, 29)]
    locks.set(A, READ, 20, 29)
    assert of(locks, A) == [(READ, 0, 29)]


def test_readers_share_and_writers_do_not() -> None:
    """Only what overlaps, of other owners, of the same family."""
    locks = RangeLocks()
    locks.set(A, READ, 0, 9, 77)
    assert locks.in_the_way(B, READ, 0, 9) == []
    assert locks.in_the_way(B, WRITE, 9, 20) == [(A, RangeLock(READ, 0, 9, 77))]
    assert locks.in_the_way(B, WRITE, 10, 20) == []
    assert locks.in_the_way(A, WRITE, 0, 9) == []
    assert locks.in_the_way(FLOCK, WRITE, 0, LAST_BYTE) == []


def test_the_file_is_needed_for_the_most_that_any_range_wants() -> None:
    """And for nothing when there is none."""
    assert RangeLocks().mode is None
    locks = RangeLocks()
    locks.set(A, READ, 0, 9)
    locks.set(B, WRITE, 10, 19)
    assert locks.mode == WRITE
    locks.set(B, None, 0, LAST_BYTE)
    assert locks.mode == READ
    assert B not in locks
    assert A in locks
    assert locks.take_all() == [(A, RangeLock(READ, 0, 9, 0))]
    assert len(locks) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B]),
            st.sampled_from([READ, WRITE, None]),
            st.integers(0, BYTES - 1),
            st.integers(0, BYTES - 1),
        )
    )
)
def test_ranges_say_what_was_set_last_of_every_byte(
    steps: list[tuple[LockOwner, LockType | None, int, int]],
) -> None:
    """Whatever is set over whatever; and the ranges are in order, apart and as few as can be."""
    locks = RangeLocks()
    naive: dict[tuple[LockOwner, int], LockType] = {}
    for owner, wanted, one, other in steps:
        start, end = min(one, other), max(one, other)
        locks.set(owner, wanted, start, end)
        for byte in range(start, end + 1):
            naive.pop((owner, byte), None)
            if wanted is not None:
                naive[owner, byte] = wanted
        found = {
            (who, byte): each.type
            for who, each in locks.all()
            for byte in range(each.start, each.end + 1)
        }
        assert found == naive
        for who in (A, B):
            ranges = of(locks, who)
            for (before, _, stop), (after, begin, _) in itertools.pairwise(ranges):
                assert stop < begin
                assert before is not after or stop + 1 < begin


def test_a_wait_that_closes_a_circle_is_seen() -> None:
    """Through any number of others, as long as they wait."""
    waits = LockWaits()
    assert not waits.closes_circle(A, {B})
    first = waits.begin(B, {C})
    assert not waits.closes_circle(A, {B})
    second = waits.begin(C, {A, B})
    assert waits.closes_circle(A, {B})
    assert waits.closes_circle(B, {C})
    waits.end(second)
    assert not waits.closes_circle(A, {B})
    waits.end(first)
    assert len(waits) == 0
