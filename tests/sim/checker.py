"""Judges what clients were told, knowing nothing of how the cell came to tell them.

Theory of operation
    The recorder notes, in real time, every change that was committed and when it was acknowledged,
    and every read: when it was asked and answered, and which version it told. `Checker.read` then
    looks for a change that was acknowledged before the read was asked and is newer than what it
    told. There must be none, but for one exception:

    - *bounded coherence* (I8): an answer from a client's cache may be older than a change that was
      acknowledged no longer ago than the channel lease, as the slowest clock measures it.
    - *strict coherence*: the same for changes of whole volumes, which never wait for a client; no
      exception for writes.

    No exception in any mode: for a client that has taken in the break or the reset, or that made
    the change itself (its `floor`), and for answers of the fileserver (I3).

    The second half is a ledger of what each host is owed, kept from what was sent and what clients
    took in, not from the machine's own books: no answer may leave for a host that is owed anything
    (I3), and no host is told of one change twice (I6).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from afs.types import Fid
from tests.sim.disk import GONE


class ViolationError(AssertionError):
    """The cell did what it never must."""


def ensure(condition: bool, rule: str, what: str) -> None:
    """Raises ViolationError unless the condition holds."""
    if not condition:
        raise ViolationError(f"{rule}: {what}")


@dataclass(slots=True)
class Change:
    """A committed change of some vnodes.

    `by_volume`: made by the volserver on the whole volume. `writer`: the client that made it.
    `acked_at`: real time; None while nobody was told that it is done.
    """

    versions: dict[Fid, int]
    by_volume: bool
    writer: str | None = None
    acked_at: float | None = None


@dataclass(slots=True)
class Owed:
    """A break that a host is owed, from when the change was made until its client took it in.

    `fids`: what it held promises on of what the break is about.
    """

    target: Fid
    through: int
    fids: tuple[Fid, ...]


@dataclass(slots=True)
class HostLedger:
    """What one host holds and is owed, by the recorder's own books.

    `promises`: place in the sequence and real time of the end, by Fid. `must_be_reset`: the
    fileserver ended; `ended`, `crashed`: epochs of the last life that ended, and of the last one
    whose end nobody meant.
    """

    promises: dict[Fid, tuple[int, float]] = field(default_factory=dict)
    owed: list[Owed] = field(default_factory=list)
    must_be_reset: bool = False
    ended: int = 0
    crashed: int = 0


class Checker:
    """The history and its judge.

    Args:
        strict: whether the cell promises strict coherence.
        lease_s: the channel lease.
        slowest_rate: local seconds in a real one, of the slowest clock there can be.
    """

    def __init__(self, *, strict: bool, lease_s: float, slowest_rate: float) -> None:
        self._strict = strict
        self.bound_s = lease_s / slowest_rate + 1e-6
        # Acknowledged changes of each vnode, in the order of their acknowledgement.
        self._acked: dict[Fid, list[tuple[float, int, Change]]] = defaultdict(list)
        self._floors: dict[str, dict[Fid, int]] = defaultdict(dict)
        # What was newest at each place of the break sequence, by epoch.
        self._through: dict[tuple[int, Fid], list[tuple[int, int]]] = defaultdict(list)
        self._ledgers: dict[str, HostLedger] = defaultdict(HostLedger)
        self._sent: Counter[tuple[str, int, int, Fid]] = Counter()
        self.reads = 0
        self.reads_excused = 0
        self.reads_kept = 0
        self.breaks_taken_in = 0

    # --- changes ----------------------------------------------------------------------------------

    def acked(self, change: Change, now: float) -> None:
        """A change was acknowledged: from now on it must be seen."""
        if change.acked_at is not None:
            return
        change.acked_at = now
        for fid, version in change.versions.items():
            self._acked[fid].append((now, version, change))

    def broken_through(self, epoch: int, change: Change, through: int) -> None:
        """Breaks that reach `through` cover this change."""
        for fid, version in change.versions.items():
            self._through[epoch, fid].append((through, version))

    # --- clients ----------------------------------------------------------------------------------

    def own_change(self, client: str, change: dict[Fid, int]) -> None:
        """A client was told that its own change is done."""
        self._raise_floor(client, change)

    def break_taken_in(
        self, client: str, epoch: int, targets: tuple[Fid, ...], through: int
    ) -> None:
        """A client took a break in; it acknowledges it after this."""
        self.breaks_taken_in += 1
        ledger = self._ledgers[client]
        for target in targets:
            whole = target.is_whole_volume
            fids = [
                fid
                for known_epoch, fid in self._through
                if known_epoch == epoch
                and (fid == target or (whole and fid.volume == target.volume))
            ]
            for fid in fids:
                newest = max(
                    (version for at, version in self._through[epoch, fid] if at <= through),
                    default=0,
                )
                self._raise_floor(client, {fid: newest})
            ledger.owed = [
                owed
                for owed in ledger.owed
                if not (owed.target == target and owed.through <= through)
            ]

    def reset_taken_in(self, client: str, committed: dict[Fid, int]) -> None:
        """A client dropped all its promises: whatever it tells from now on is asked for."""
        self._raise_floor(client, committed)
        self.all_dropped(client)

    def kept_taken_in(self, client: str, epoch: int) -> None:
        """A client was told that it may rely on what it holds from before a planned restart.

        What it is owed all the same must reach it before the next answer does. The word of a life
        that is over by now does no harm and no good.
        """
        ledger = self._ledgers[client]
        if epoch <= ledger.ended:
            return
        ensure(
            not ledger.crashed,
            "I9",
            f"{client} is told that its promises are kept, by a fileserver that had crashed",
        )
        ledger.must_be_reset = False

    def all_dropped(self, client: str) -> None:
        """A client relies on nothing any more: it is owed nothing."""
        self._ledgers[client] = HostLedger()

    def _raise_floor(self, client: str, versions: dict[Fid, int]) -> None:
        floor = self._floors[client]
        for fid, version in versions.items():
            if version > floor.get(fid, 0):
                floor[fid] = version

    def floor(self, client: str, fid: Fid) -> int:
        """The version that this client's reads, asked from now on, must tell at least."""
        return self._floors[client].get(fid, 0)

    def read(
        self,
        client: str,
        fid: Fid,
        version: int,
        *,
        floor: int,
        called_at: float,
        answered_at: float,
        from_cache: bool,
    ) -> None:
        """A client answered a local program.

        Args:
            client: who.
            fid: the vnode.
            version: what it told; GONE if it said that there is none.
            floor: its floor when it was asked.
            called_at: real time of the question.
            answered_at: real time of the answer.
            from_cache: True if the answer was under a promise when it was given.
        """
        self.reads += 1
        told = f"{client} asked for {fid} at {called_at:.3f} and was told version {version}"
        ensure(
            version >= floor,
            "coherence after ack",
            f"{told}, but had taken in the break (or made the change) to version {floor}",
        )
        for acked_at, newer, change in self._acked[fid]:
            # A writer's own change counts for it from when its answer has come: its floor.
            if newer <= version or acked_at > called_at or change.writer == client:
                continue
            by_volume = change.by_volume
            excusable = from_cache and (by_volume or not self._strict)
            if excusable and answered_at <= acked_at + self.bound_s:
                self.reads_excused += 1
                continue
            mode = "strict" if self._strict else "bounded"
            kind = "change of the volume" if by_volume else "write"
            how = "from its cache" if from_cache else "by the fileserver"
            raise ViolationError(
                f"{mode} coherence: {told} {how} at {answered_at:.3f}, but the {kind} to "
                f"{'its end' if newer == GONE else f'version {newer}'} was acknowledged at "
                f"{acked_at:.3f}"
            )

    # --- the ledger -------------------------------------------------------------------------------

    def promised(self, host: str, fid: Fid, sequence: int, until: float) -> None:
        """The fileserver gave a promise."""
        self._ledgers[host].promises[fid] = sequence, until

    def given_up(self, host: str) -> None:
        """The fileserver took all promises of a host back, at the host's wish."""
        self._ledgers[host].promises.clear()
        self._ledgers[host].owed.clear()

    def deleted(self, fid: Fid) -> None:
        """The vnode is gone and its holders were told: the remover's own promise ends silently."""
        for ledger in self._ledgers.values():
            ledger.promises.pop(fid, None)

    def must_break(
        self, targets: tuple[Fid, ...], writer: str | None, through: int, now: float
    ) -> None:
        """All holders but the writer are owed a break of these from now on."""
        for host, ledger in self._ledgers.items():
            if host != writer:
                self._owe(ledger, targets, through, now)

    @staticmethod
    def _owe(ledger: HostLedger, targets: tuple[Fid, ...], through: int, now: float) -> None:
        for target in targets:
            whole = target.is_whole_volume
            hit = [
                (fid, until)
                for fid, (sequence, until) in ledger.promises.items()
                if (fid == target or (whole and fid.volume == target.volume))
                and sequence <= through
            ]
            for fid, _ in hit:
                del ledger.promises[fid]
            if any(until > now for _, until in hit):
                ledger.owed.append(Owed(target, through, tuple(fid for fid, _ in hit)))

    def break_sent(
        self, host: str, epoch: int, targets: tuple[Fid, ...], through: int, now: float
    ) -> None:
        """A break goes down a channel (I6)."""
        self._owe(self._ledgers[host], targets, through, now)
        for target in targets:
            self._sent[host, epoch, through, target] += 1
            ensure(
                self._sent[host, epoch, through, target] == 1,
                "I6",
                f"{host} is told of the break of {target} through {through} a second time",
            )

    def answer_leaves(self, host: str, what: str) -> None:
        """An answer leaves for a host (I3)."""
        ledger = self._ledgers[host]
        owed = ledger.owed
        ensure(
            not ledger.must_be_reset,
            "I9",
            f"{what} is answered to {host} by a fileserver that restarted and did not reset it",
        )
        ensure(
            not owed,
            "I3",
            f"{what} is answered to {host}, which is owed the break of "
            f"{owed[0].target if owed else ''}",
        )

    def owed(self) -> dict[str, list[Owed]]:
        """What hosts are owed."""
        return {host: ledger.owed for host, ledger in self._ledgers.items() if ledger.owed}

    def server_gone(self, epoch: int, now: float) -> None:
        """The fileserver died: whoever may rely on a promise is to be reset first (I9)."""
        for ledger in self._ledgers.values():
            ledger.must_be_reset |= bool(ledger.owed) or any(
                until > now for _, until in ledger.promises.values()
            )
            ledger.ended = ledger.crashed = epoch
            ledger.owed.clear()
            ledger.promises.clear()

    def server_stopped(self, epoch: int, now: float) -> None:
        """The fileserver ended on purpose: whoever relies on promises is told first what of them.

        Unlike after a crash they may be kept, unless their host is owed something.
        """
        for ledger in self._ledgers.values():
            ledger.ended = epoch
            ledger.must_be_reset |= bool(ledger.owed) or any(
                until > now for _, until in ledger.promises.values()
            )

    def client_gone(self, client: str) -> None:
        """A client died, and with it all that it relied on."""
        self.all_dropped(client)
        self._floors.pop(client, None)
