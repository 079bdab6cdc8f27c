"""Pitfalls put back into the cores and their shells, one at a time, for the simulator to find.

`make mutants` runs each until a rule is broken, and writes the table in docs/mutants.md. Nothing of
this is in the product: a mutant replaces a method while it is switched on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from afs.types import ChangeMark, Fid
from afsd import callback_state
from afsd.callback_state import KeptState
from afsd.core import saved_state, volume_state
from afsd.core.break_later import BreakLater, MarkedVolume
from afsd.core.callback_machine import CallBackMachine
from afsd.core.deliveries import Deliveries, Delivery
from afsd.core.host_events import HostEvents
from afsd.core.hosts import Host
from afsd.core.instructions import DownCause, Outcome, WakeWorker
from afsd.core.planned_restart import PlannedRestart
from afsd.core.saved_state import SavedState
from clientd.core import validation
from clientd.core.cache import VnodeCache
from clientd.core.channel import ChannelPhase, ChannelState
from clientd.core.promise import PromiseOffer, Ticket
from clientd.core.stall import StallDetector
from clientd.core.validation import Verdict
from tests.sim.cell import small_limits
from tests.sim.disk import Disk
from tests.sim.file_server import Attached, FileServer
from tests.sim.kernel import sleep
from tests.sim.plan import WEIGHTS, make_plan
from tests.sim.run import Failure, Tally, run_plan

TABLE: Final = Path(__file__).parents[2] / "docs" / "mutants.md"
# Histories in which each mutant must be caught.
HISTORIES: Final = 150
# Histories in which several volumes are marked before the worker comes: it is quick, and a writer
# has holders of its file told at once, so in ordinary ones that is rare.
MANY_MARKS: Final = {**WEIGHTS, "volume": 20, "break_volume": 10, "pause_worker": 8}
FIRST_SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Mutant:
    """One pitfall put back.

    Attributes:
        name: for the command line.
        pitfall: its number in the list of pitfalls, or the rule of the mechanism.
        broken: what was broken.
        replaced: owner, name of the attribute, what is there instead.
        weights: of the actions in the histories that are to catch it.
    """

    name: str
    pitfall: str
    broken: str
    replaced: tuple[tuple[Any, str, Any], ...]
    weights: Mapping[str, float] = field(default_factory=lambda: WEIGHTS)

    @contextmanager
    def switched_on(self) -> Generator[None, None, None]:
        """While it is open, the pitfall is there."""
        before = [(owner, name, owner.__dict__[name]) for owner, name, _ in self.replaced]
        for owner, name, instead in self.replaced:
            setattr(owner, name, instead)
        try:
            yield
        finally:
            for owner, name, value in before:
                setattr(owner, name, value)


# --- the mutated methods --------------------------------------------------------------------------


def _mark_pushes_the_last_one_out(
    original: Callable[..., MarkedVolume | None],
) -> Callable[..., MarkedVolume | None]:
    def mark(self: BreakLater, *args: Any) -> MarkedVolume | None:
        made = original(self, *args)
        if made is not None and len(self.marked) > 1:
            lost = self.marked[-2]
            for session in lost.untold:
                session.host.delayed.pop(lost, None)
            self.marked.remove(lost)
        return made

    return mark


def _slice_forgets_the_other_volumes(original: Callable[..., int]) -> Callable[..., int]:
    def break_slice(self: BreakLater, now: float) -> int:
        worked = original(self, now)
        while len(self.marked) > 1:
            lost = self.marked.pop()
            for session in lost.untold:
                session.host.delayed.pop(lost, None)
        return worked

    return break_slice


def _promise_lands_on_the_mark(original: Callable[..., Any]) -> Callable[..., Any]:
    def give_promise(self: CallBackMachine, uuid: str, fid: Fid, *args: Any, **more: Any) -> Any:
        promise, out = original(self, uuid, fid, *args, **more)
        marked = any(mark.promises.volume == fid.volume for mark in self.later.marked)
        if promise is not None and marked:
            self.table.give_up(fid, self.hosts[uuid].session)
        return promise, out

    return give_promise


def _wake_up_lost_now_and_then(original: Callable[..., Any]) -> Callable[..., Any]:
    def later(self: CallBackMachine, *args: Any) -> Any:
        size, out = original(self, *args)
        if self.counters["volumes_marked"] % 3 == 0:
            out = [each for each in out if not isinstance(each, WakeWorker)]
        return size, out

    return later


def _failure_charged_to_another(self: Deliveries, delivery: Delivery, now: float) -> None:
    host = delivery.host
    if host.outstanding.get(delivery.sequence) is not delivery:
        return
    others = [each for each in self.hosts.values() if each is not host and each.is_up]
    if others:
        del host.outstanding[delivery.sequence]
        for wait in delivery.waits:
            self.one_less(wait)
        if host.is_clear:
            self.resolve_calls(host, Outcome.CLEAR)
        host = others[0]
    self.mark_down(host, DownCause.UNACKNOWLEDGED, now)


def _clear_while_in_flight(self: Host) -> bool:
    return not (self.down or self.delayed)


def _clear_while_down(self: Host) -> bool:
    return not (self.delayed or self.outstanding)


def _clear_while_delayed(self: Host) -> bool:
    return not (self.down or self.outstanding)


async def _no_second_look(self: FileServer, host: str) -> None:
    del self, host


async def _one_second_look(self: FileServer, host: str) -> None:
    if not self.machine.may_answer(host):
        await self._call_preamble(host)


async def _status_before_promise(
    self: FileServer, attached: Attached, fid: Fid, caller: str | None
) -> Any:
    if self._is_cold() or fid not in attached.volume.vnodes:
        await self._read(attached)
    vnode = self._vnode(attached, fid)
    await self._read(attached)
    attached.check()
    return vnode, self._promise(fid, caller)


def _judge_without_marks(original: Callable[..., Verdict]) -> Callable[..., Verdict]:
    def judge(ticket: Ticket, offer: PromiseOffer | None, **more: Any) -> Verdict:
        return original(ticket, offer, **{**more, "high_water": -1})

    return judge


def _no_volume_breaks(original: Callable[..., int]) -> Callable[..., int]:
    def on_break(self: VnodeCache, address: str, *, targets: Iterable[Fid], **more: Any) -> int:
        single = [fid for fid in targets if not fid.is_whole_volume]
        return original(self, address, targets=single, **more)

    return on_break


def _writers_break_is_lost(original: Callable[..., Any]) -> Callable[..., Any]:
    def break_callbacks(self: CallBackMachine, changed: Any, writer: str | None, *args: Any) -> Any:
        # Whoever comes first in the table is left out instead of the writer.
        first = next((uuid for uuid in self.hosts if uuid != writer), None)
        return original(self, changed, first, *args)

    return break_callbacks


def _never_stalls(self: StallDetector, now: float) -> bool:
    self._last_turn = now
    return False


def _trusts_without_lease(self: ChannelState, now: float) -> bool:
    del now
    return self.generation > 0


def _every_give_back_is_unchanged(
    original: Callable[..., volume_state.Decision],
) -> Callable[..., volume_state.Decision]:
    def attached(decision: volume_state.Decision, mark: ChangeMark) -> volume_state.Decision:
        return replace(original(decision, mark), breaks=None)

    return attached


def _hosts_forgotten(original: Callable[..., None]) -> Callable[..., None]:
    def init(self: FileServer, process: Any, disk: Disk, *args: Any, **more: Any) -> None:
        disk.known_hosts.clear()
        original(self, process, disk, *args, **more)

    return init


async def _acks_before_sync(self: FileServer, attached: Attached) -> None:
    while attached.pending:
        attached.syncing, attached.pending = attached.pending, []
        shadow = {**attached.volume.vnodes}
        for commit, done in attached.syncing:
            try:
                done.set(commit())
            except Exception as error:
                done.fail(error)
        self._unsynced[attached.volume.volume_id] = shadow
        await sleep(self.process, self._sync_s())
        self._unsynced.pop(attached.volume.volume_id, None)
    attached.committing = None


def _acks_without_sync(original: Callable[..., None]) -> Callable[..., None]:
    def lose_unsynced(self: FileServer, rng: Any) -> None:
        original(self, rng)
        for volume_id, shadow in self._unsynced.items():
            volume = self.disk.volumes[volume_id]
            volume.vnodes = {fid: shadow[fid] for fid in shadow}
            for fid, vnode in shadow.items():
                volume.versions[fid] = vnode.data_version

    return lose_unsynced


def _tell_again(original: Callable[..., None]) -> Callable[..., None]:
    def all_told(self: BreakLater, mark: MarkedVolume) -> None:
        # What was promised meanwhile is broken with the rest, as long as there is something.
        for host in self._deliveries.hosts.values():
            volumes = {volume.volume for volume in host.session.volumes}
            if mark.promises.volume in volumes and host.is_up:
                self._deliveries.send_break(
                    host, (mark.target,), mark.reason, mark.through, 0.0, None
                )
        original(self, mark)

    return all_told


def _ack_waits(original: Callable[..., Any]) -> Callable[..., Any]:
    async def volume_changed(self: FileServer, volume: int, *args: Any) -> None:
        await original(self, volume, *args)
        hosts = self.machine.hosts.values()
        while any(host.delayed or host.outstanding for host in hosts):
            await sleep(self.process, 0.01)

    return volume_changed


def _deadline_never_comes(self: Deliveries, delivery: Delivery, now: float) -> None:
    """A host that is alive is waited for."""
    if delivery.host.channel is not None:
        self.deadlines.add(now + self.settings.break_deadline_s, delivery)


def _wait_without_deadline(original: Callable[..., Any]) -> Callable[..., Any]:
    def break_callbacks(self: CallBackMachine, *args: Any) -> Any:
        add = self.deliveries.deadlines.add
        self.deliveries.deadlines.add = lambda due, thing: None  # type: ignore[method-assign]
        try:
            return original(self, *args)
        finally:
            self.deliveries.deadlines.add = add  # type: ignore[method-assign]

    return break_callbacks


def _worker_waits_for_acks(original: Callable[..., int]) -> Callable[..., int]:
    def break_slice(self: BreakLater, now: float) -> int:
        if any(host.outstanding for host in self._deliveries.hosts.values()):
            return 0
        return original(self, now)

    return break_slice


def _owed_are_suspended(original: Callable[..., Any]) -> Callable[..., Any]:
    def channel_closed(self: HostEvents, uuid: str, channel: int, now: float) -> Any:
        host = self._host_of(uuid, channel)
        if host is None or not (self._stopping and host.is_up and host.session.promises):
            return original(self, uuid, channel, now)
        host.channel = None
        for wait in self.deliveries.drop_owed(host):
            self.deliveries.one_less(wait)
        self.deliveries.resolve_calls(host, Outcome.HOST_DOWN)
        self.deliveries.suspend(host, now)
        return self._take_out()

    return channel_closed


def _suspended_are_told_nothing(original: Callable[..., None]) -> Callable[..., None]:
    def send_break(self: Deliveries, host: Host, *args: Any) -> None:
        if not host.suspended:
            original(self, host, *args)

    return send_break


def _all_are_unchanged(before: Mapping[int, Any], now: Mapping[int, Any]) -> frozenset[int]:
    del now
    return frozenset(before)


def _state_stays(self: FileServer) -> None:
    del self


def _any_epoch_will_do(original: Callable[..., None]) -> Callable[..., None]:
    def check(kept: KeptState, *, last_epoch: int, **more: Any) -> None:
        del last_epoch
        original(kept, last_epoch=kept.epoch, **more)

    return check


def _sequence_begins_anew(original: Callable[..., None]) -> Callable[..., None]:
    def restore(self: PlannedRestart, saved: SavedState, now: float) -> None:
        original(self, replace(saved, sequence=1), now)

    return restore


def _always_goes_on(self: ChannelState, *, kept: bool) -> bool:
    del kept
    return self.phase is ChannelPhase.ATTACHING and self.held is not None


def _every(owner: Any, name: str, make: Callable[[Any], Any]) -> tuple[Any, str, Any]:
    return owner, name, make(owner.__dict__[name])


MUTANTS: Final = (
    Mutant(
        "mark-unlinks-the-wrong-volume",
        "T1",
        "a volume that is marked takes the one before it off the list",
        (_every(BreakLater, "mark", _mark_pushes_the_last_one_out),),
        MANY_MARKS,
    ),
    Mutant(
        "worker-unchains-all",
        "T3",
        "the worker takes all marked volumes off and breaks only the first",
        (_every(BreakLater, "break_slice", _slice_forgets_the_other_volumes),),
        MANY_MARKS,
    ),
    Mutant(
        "promise-on-a-marked-entry",
        "T6",
        "a promise given between mark and break vanishes with the mark",
        (_every(CallBackMachine, "give_promise", _promise_lands_on_the_mark),),
    ),
    Mutant(
        "wake-up-lost",
        "T8, R1",
        "every third wake-up of the worker is lost",
        (_every(CallBackMachine, "break_volume_callbacks_later", _wake_up_lost_now_and_then),),
    ),
    Mutant(
        "wrong-host-down",
        "T9",
        "a delivery that fails is charged to another host",
        ((Deliveries, "failed", _failure_charged_to_another),),
    ),
    Mutant(
        "wrong-holders",
        "T16",
        "the first host of the table is left out of a break instead of the writer",
        (_every(CallBackMachine, "break_callbacks", _writers_break_is_lost),),
    ),
    Mutant(
        "endless-breaks",
        "T14",
        "what was promised anew while the volume was pending is broken once more",
        (_every(BreakLater, "_all_told", _tell_again),),
    ),
    Mutant(
        "volume-break-finds-nothing",
        "T23",
        "the client looks for volume.0.0 itself instead of the vnodes of the volume",
        (_every(VnodeCache, "on_break", _no_volume_breaks),),
    ),
    Mutant(
        "volume-changed-outside",
        "T21",
        "no give-back breaks anything, as if no volume ever came back changed",
        (_every(volume_state, "attached", _every_give_back_is_unchanged),),
    ),
    Mutant(
        "second-writer",
        "I8",
        "a writer does not wait for the break that an earlier change sent",
        ((Deliveries, "outlive_doubts", lambda *_: None),),
    ),
    Mutant(
        "patient-with-the-living",
        "T25",
        "a host whose channel is open is waited for beyond the break deadline",
        (
            (Deliveries, "failed", _deadline_never_comes),
            _every(CallBackMachine, "break_callbacks", _wait_without_deadline),
        ),
    ),
    Mutant(
        "one-worker-for-all",
        "R5",
        "the worker tells nobody while anybody has not acknowledged",
        (_every(BreakLater, "break_slice", _worker_waits_for_acks),),
    ),
    Mutant(
        "answered-in-flight",
        "R3, I3",
        "a host is clear while its break is sent and not acknowledged",
        ((Host, "is_clear", property(_clear_while_in_flight)),),
    ),
    Mutant(
        "answered-while-delayed",
        "M7",
        "a host that is HFE_LATER is answered",
        ((Host, "is_clear", property(_clear_while_delayed)),),
    ),
    Mutant(
        "answered-while-down",
        "M6",
        "a VENUSDOWN host is answered without InitCallBackState",
        ((Host, "is_clear", property(_clear_while_down)),),
    ),
    Mutant(
        "no-second-look",
        "I3",
        "CallPreamble looks before the call only",
        ((FileServer, "_before_answer", _no_second_look),),
    ),
    Mutant(
        "one-second-look",
        "I3",
        "CallPreamble does not look again after it has waited (found by the simulator)",
        ((FileServer, "_before_answer", _one_second_look),),
    ),
    Mutant(
        "status-before-promise",
        "R10",
        "the fileserver reads the status before it gives the promise",
        ((FileServer, "_status", _status_before_promise),),
    ),
    Mutant(
        "reply-beats-break",
        "R10",
        "the client believes a promise whose break came before it",
        (_every(validation, "judge", _judge_without_marks),),
    ),
    Mutant(
        "no-lease",
        "I8",
        "the client trusts promises for as long as it believes its channel to be open",
        ((ChannelState, "trusts", _trusts_without_lease),),
    ),
    Mutant(
        "ack-waits-for-clients",
        "I2, M1",
        "the give-back is acknowledged when all have acknowledged the break",
        (_every(FileServer, "_volume_changed", _ack_waits),),
    ),
    Mutant(
        "hosts-forgotten-in-a-crash",
        "I9",
        "a restarted fileserver knows of no host that may hold promises",
        (_every(FileServer, "__init__", _hosts_forgotten),),
    ),
    Mutant(
        "acknowledged-before-synced",
        "I9",
        "a write is acknowledged before it is on disk",
        (
            (FileServer, "_commit", _acks_before_sync),
            _every(FileServer, "lose_unsynced", _acks_without_sync),
        ),
    ),
    Mutant(
        "owed-hosts-go-on",
        "I9",
        "a host that is owed a break keeps its promises over a planned restart",
        (_every(HostEvents, "channel_closed", _owed_are_suspended),),
    ),
    Mutant(
        "breaks-of-the-suspended-are-lost",
        "I9, I4",
        "a host that is suspended keeps what it should be told has changed",
        (_every(Deliveries, "send_break", _suspended_are_told_nothing),),
    ),
    Mutant(
        "volumes-not-compared",
        "I9, T21",
        "promises are kept on volumes that changed while the fileserver was away",
        ((saved_state, "unchanged_volumes", _all_are_unchanged),),
    ),
    Mutant(
        "state-found-again",
        "I9",
        "the callback state is not removed before serving, nor its epoch looked at",
        (
            (FileServer, "_remove_state", _state_stays),
            _every(callback_state, "check", _any_epoch_will_do),
        ),
    ),
    Mutant(
        "sequence-begins-anew",
        "I9",
        "the break sequence does not go on where kept promises left it",
        (_every(PlannedRestart, "restore", _sequence_begins_anew),),
    ),
    Mutant(
        "every-reset-keeps",
        "M6, I9",
        "the client keeps its promises over a lost channel whatever the fileserver says",
        ((ChannelState, "goes_on", _always_goes_on),),
    ),
)


@dataclass(frozen=True, slots=True)
class Caught:
    """How a mutant was caught: in which history, counted from 1."""

    histories: int
    failure: Failure


def hunt(mutant: Mutant, histories: int = HISTORIES) -> Caught | None:
    """Runs histories with the mutant until a rule is broken; None if none is."""
    with small_limits(), mutant.switched_on():
        for number in range(histories):
            failure = run_plan(make_plan(FIRST_SEED + number, weights=mutant.weights), Tally())
            if failure is not None:
                return Caught(number + 1, failure)
    return None


def main() -> int:
    """Hunts all mutants and writes the table; 1 if one got away."""
    lines = [
        "# Mutants: pitfalls put back, and how the simulator found them",
        "",
        "Made by `make mutants`. Each row is a pitfall of this mechanism put back into a core or",
        "its shell (`tests/sim/mutants.py`), and the first of the histories of seeds",
        f"{FIRST_SEED}, {FIRST_SEED + 1}, … in which the simulator noticed;",
        f"at most {HISTORIES} are allowed. T1 and T3 are looked for in histories with more marks",
        "than usual (`MANY_MARKS`).",
        "",
        "| pitfall | what was broken | histories | seed, step | the checker said |",
        "|---|---|---|---|---|",
    ]
    escaped = 0
    for mutant in MUTANTS:
        began = time.process_time()
        caught = hunt(mutant)
        took_s = time.process_time() - began
        if caught is None:
            escaped += 1
            lines.append(f"| {mutant.pitfall} | {mutant.broken} | not caught | | |")
            print(f"{mutant.name}: NOT CAUGHT in {HISTORIES} histories, {took_s:.1f} s")
            continue
        failure = caught.failure
        said = failure.what.replace("|", "/")
        where = f"{failure.plan.seed}, {failure.steps}"
        lines.append(
            f"| {mutant.pitfall} | {mutant.broken} | {caught.histories} | {where} | {said} |"
        )
        print(f"{mutant.name}: {caught.histories} histories, {took_s:.1f} s: {said[:100]}")
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("\n".join(lines) + "\n")
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
