"""Who works on which volume: at most one transaction a volume.

Theory of operation
    An operation on volumes (`vos backup`, say) is one transaction. It claims every volume it will
    touch before it takes any from the fileserver; a volume that another transaction has claimed is
    refused with a `Refusal` that names the other operation (R8). While it works it reports its
    steps; while a step waits for the client (a slow reader of a dump) every sign of life is a
    `touch`.

    A transaction whose client was silent for `idle_limit_s` is asked to end, as is one that an
    operator ends. Asking is not ending: the operation undoes what it has begun, gives its volumes
    back and only then calls `end`.

Invariants
    X1  A volume is claimed by at most one transaction.
    X2  A claimed volume belongs to a transaction that has not ended.
    X3  A transaction is asked to end at most once.
    X4  Only a step that waits for the client can run into the idle limit: work on a large volume
        may take its time.

Source: OpenAFS `volser/voltrans.c`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a volume was not claimed: another transaction has it."""

    volume_id: int
    transaction_id: int
    operation: str
    step: str
    age_s: float


@dataclass(slots=True)
class Transaction:
    """One running operation. Times are steady seconds; `asked_to_end` holds the reason."""

    transaction_id: int
    operation: str
    started: float
    touched: float
    step: str = "starting"
    waits_for_client: bool = False
    asked_to_end: str | None = None
    volume_ids: list[int] = field(default_factory=list)


class TransactionTable:
    """All running transactions. See the module's theory of operation.

    Args:
        idle_limit_s: a transaction whose client is silent this long is asked to end.
    """

    def __init__(self, idle_limit_s: float) -> None:
        self._idle_limit_s = idle_limit_s
        self._transactions: dict[int, Transaction] = {}
        self._by_volume: dict[int, Transaction] = {}
        self._next_id = 1

    def begin(self, operation: str, now: float) -> Transaction:
        """A new transaction, without volumes as yet."""
        transaction = Transaction(self._next_id, operation, started=now, touched=now)
        self._next_id += 1
        self._transactions[transaction.transaction_id] = transaction
        return transaction

    def claim(self, transaction_id: int, volume_ids: Collection[int], now: float) -> Refusal | None:
        """Claims all of the volumes, or none and says who has one."""
        transaction = self._transactions[transaction_id]
        for volume_id in volume_ids:
            other = self._by_volume.get(volume_id)
            if other is not None and other is not transaction:
                age_s = now - other.started
                return Refusal(volume_id, other.transaction_id, other.operation, other.step, age_s)
        for volume_id in volume_ids:
            if volume_id not in self._by_volume:
                self._by_volume[volume_id] = transaction
                transaction.volume_ids.append(volume_id)
        transaction.touched = now
        return None

    def step(
        self, transaction_id: int, step: str, now: float, *, waits_for_client: bool = False
    ) -> None:
        """The transaction begins a step; only one that waits for the client can be idle (X4)."""
        transaction = self._transactions[transaction_id]
        transaction.step = step
        transaction.waits_for_client = waits_for_client
        transaction.touched = now

    def touch(self, transaction_id: int, now: float) -> None:
        """The transaction, or its client, showed a sign of life."""
        self._transactions[transaction_id].touched = now

    def ask_to_end(self, transaction_id: int, reason: str) -> bool:
        """Marks the transaction as asked; False if there is none or it was asked before (X3)."""
        transaction = self._transactions.get(transaction_id)
        if transaction is None or transaction.asked_to_end is not None:
            return False
        transaction.asked_to_end = reason
        return True

    def end(self, transaction_id: int) -> None:
        """Forgets the transaction; its volumes are free for others from now on."""
        transaction = self._transactions.pop(transaction_id)
        for volume_id in transaction.volume_ids:
            del self._by_volume[volume_id]

    def deadline(self) -> float | None:
        """When `expire` should run next; None: not before something changes."""
        return min((touched for touched, _ in self._idle_since()), default=None)

    def expire(self, now: float) -> list[int]:
        """Marks transactions whose client was silent too long as asked to end, and names them."""
        idle = [transaction for deadline, transaction in self._idle_since() if deadline <= now]
        for transaction in idle:
            transaction.asked_to_end = f"its client was silent for {self._idle_limit_s:g} s"
        return [transaction.transaction_id for transaction in idle]

    def get(self, transaction_id: int) -> Transaction | None:
        """The transaction; None if there is none of this id."""
        return self._transactions.get(transaction_id)

    def working_on(self, volume_id: int) -> Transaction | None:
        """The transaction that has claimed the volume; None if nobody has."""
        return self._by_volume.get(volume_id)

    def running(self) -> list[Transaction]:
        """All transactions, oldest first."""
        return list(self._transactions.values())

    def check(self) -> None:
        """Asserts X1 and X2; for tests and simulation."""
        claims = [
            (volume_id, transaction.transaction_id)
            for transaction in self._transactions.values()
            for volume_id in transaction.volume_ids
        ]
        owners = {volume_id: owner.transaction_id for volume_id, owner in self._by_volume.items()}
        assert len(claims) == len(owners), f"X1: claims {claims} do not match {owners}"
        assert dict(claims) == owners, f"X2: claims {claims} do not match {owners}"

    def _idle_since(self) -> list[tuple[float, Transaction]]:
        return [
            (transaction.touched + self._idle_limit_s, transaction)
            for transaction in self._transactions.values()
            if transaction.waits_for_client and transaction.asked_to_end is None
        ]
