"""The transaction table: exclusion, idle time, ending."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from volserverd.core.transaction import Refusal, TransactionTable

IDLE_S = 10.0


@pytest.fixture
def table() -> TransactionTable:
    """An empty table."""
    return TransactionTable(IDLE_S)


def test_second_transaction_on_a_volume_is_refused_naming_the_first(
    table: TransactionTable,
) -> None:
    """R8: two operations on one volume exclude each other, and the refusal says who has it."""
    first = table.begin("backup", now=1.0)
    assert table.claim(first.transaction_id, [7, 8], now=1.0) is None
    table.step(first.transaction_id, "copying metadata", now=2.0)
    second = table.begin("delete", now=3.0)
    refusal = table.claim(second.transaction_id, [9, 8], now=4.0)
    assert refusal == Refusal(8, first.transaction_id, "backup", "copying metadata", 3.0)
    assert table.working_on(9) is None, "a refused claim must claim nothing"
    table.check()


def test_volume_is_free_again_after_the_end(table: TransactionTable) -> None:
    """A volume can be claimed as soon as the transaction that had it has ended (X2)."""
    first = table.begin("backup", now=0.0)
    table.claim(first.transaction_id, [7], now=0.0)
    table.end(first.transaction_id)
    second = table.begin("delete", now=0.0)
    assert table.claim(second.transaction_id, [7], now=0.0) is None
    assert table.working_on(7) is second
    assert table.get(first.transaction_id) is None
    table.check()


def test_claiming_again_keeps_what_is_held(table: TransactionTable) -> None:
    """A transaction can claim more volumes, and its own ones again."""
    first = table.begin("backup", now=0.0)
    table.claim(first.transaction_id, [7], now=0.0)
    assert table.claim(first.transaction_id, [7, 8], now=1.0) is None
    assert first.volume_ids == [7, 8]
    table.check()


def test_only_a_silent_client_runs_into_the_idle_limit(table: TransactionTable) -> None:
    """X4: long work is not idleness; waiting for a client that says nothing is."""
    working = table.begin("backup", now=0.0)
    sending = table.begin("dump", now=0.0)
    assert table.deadline() is None
    table.step(working.transaction_id, "copying metadata", now=0.0)
    table.step(sending.transaction_id, "sending the dump", now=5.0, waits_for_client=True)
    assert table.deadline() == 15.0
    assert table.expire(now=14.9) == []
    table.touch(sending.transaction_id, now=8.0)
    assert table.deadline() == 18.0
    assert table.expire(now=18.0) == [sending.transaction_id]
    assert sending.asked_to_end == "its client was silent for 10 s"
    assert table.deadline() is None, "X3: asked once"
    assert table.expire(now=99.0) == []
    assert table.running() == [working, sending], "asking is not ending"


def test_an_operator_asks_once(table: TransactionTable) -> None:
    """X3: the second request to end, and one for an unknown transaction, change nothing."""
    transaction = table.begin("dump", now=0.0)
    assert table.ask_to_end(transaction.transaction_id, "an operator ended it")
    assert not table.ask_to_end(transaction.transaction_id, "again")
    assert not table.ask_to_end(99, "who?")
    assert transaction.asked_to_end == "an operator ended it"


class Transactions(RuleBasedStateMachine):
    """The table against a naive model: a list of (transaction, volumes)."""

    transactions = Bundle("transactions")

    def __init__(self) -> None:
        super().__init__()
        self.table = TransactionTable(IDLE_S)
        self.claims: dict[int, set[int]] = {}
        self.now = 0.0

    @rule(target=transactions)
    def begin(self) -> int:
        """A new transaction."""
        transaction_id = self.table.begin("work", self.now).transaction_id
        assert transaction_id not in self.claims
        self.claims[transaction_id] = set()
        return transaction_id

    @rule(transaction_id=transactions, volume_ids=st.sets(st.integers(1, 4)))
    def claim(self, transaction_id: int, volume_ids: set[int]) -> None:
        """All or none."""
        others = set[int]().union(*(v for t, v in self.claims.items() if t != transaction_id))
        refusal = self.table.claim(transaction_id, volume_ids, self.now)
        assert (refusal is None) == (not others & volume_ids)
        if refusal is None:
            self.claims[transaction_id] |= volume_ids

    @rule(transaction_id=transactions, waits=st.booleans())
    def step(self, transaction_id: int, waits: bool) -> None:
        """A step begins."""
        self.table.step(transaction_id, "a step", self.now, waits_for_client=waits)

    @rule(transaction_id=consumes(transactions))
    def end(self, transaction_id: int) -> None:
        """It ends."""
        self.table.end(transaction_id)
        del self.claims[transaction_id]

    @rule(seconds=st.floats(0, 20))
    def let_time_pass(self, seconds: float) -> None:
        """After `expire` nothing is due any more."""
        self.now += seconds
        for transaction_id in self.table.expire(self.now):
            transaction = self.table.get(transaction_id)
            assert transaction is not None
            assert transaction.waits_for_client
        deadline = self.table.deadline()
        assert deadline is None or deadline > self.now

    @invariant()
    def books_balance(self) -> None:
        """X1, X2, and the model."""
        self.table.check()
        for transaction_id, volume_ids in self.claims.items():
            transaction = self.table.get(transaction_id)
            assert transaction is not None
            assert set(transaction.volume_ids) == volume_ids


TestTransactions = Transactions.TestCase


@pytest.mark.parametrize(
    "spoil",
    [
        lambda table, transaction: transaction.volume_ids.append(9),
        lambda table, transaction: transaction.volume_ids.__setitem__(0, 9),
    ],
    ids=["one claim too many", "another volume"],
)
def test_check_sees_books_that_do_not_balance(
    table: TransactionTable, spoil: Callable[[TransactionTable, object], None]
) -> None:
    """The check itself can fail."""
    transaction = table.begin("work", now=0.0)
    table.claim(transaction.transaction_id, [1], now=0.0)
    spoil(table, transaction)
    with pytest.raises(AssertionError):
        table.check()
