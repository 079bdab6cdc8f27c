"""One life of the fileserver: the real machine and volume table rules, with simulated shells.

Each method does what its namesake under `afsd/` does, in the same order and with awaits in the same
places: `CallBacks`, `CallPreamble`, `CallBackChannelServicer`, `FileServerBase`, `FSSyncServicer`,
`VolumeTable` and `break_worker`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple

from afs.errors import AfsCode, AfsError
from afs.limits import ACK_HEAD_START_S, DRAIN_S, WORKER_TICK_S
from afs.types import BreakReason, Fid, Vnode, whole_volume_fid
from afsd import callback_state
from afsd.callback_state import KeptState
from afsd.core import saved_state, volume_state
from afsd.core.callback_machine import CallBackMachine
from afsd.core.hosts import SessionName
from afsd.core.instructions import (
    AnswerRenewal,
    CloseChannel,
    ForgetHost,
    Instruction,
    Observed,
    Outcome,
    Resolve,
    SendBreak,
    SendReset,
    WakeWorker,
)
from afsd.core.settings import CallBackSettings
from afsd.core.volume_rules import (
    PASSING_COMMANDS,
    FsyncCommand,
    FsyncReason,
    FsyncResponse,
    Step,
    VolumeState,
)
from afsd.core.volume_state import Decision, VolumeRecord
from tests.sim.checker import Change, Checker, ensure
from tests.sim.disk import Disk, DiskVolume
from tests.sim.kernel import Cancelled, Future, Level, Process, Task, sleep
from tests.sim.network import Connection

HOLDER = "fileserver"
BOOT_ID = "the only one"


class Offer(NamedTuple):
    """The CallBack in a reply."""

    expires_in_s: int
    sequence: int
    epoch: int


class Reply(NamedTuple):
    """What a method answers."""

    vnode: Vnode
    offer: Offer | None = None
    directory: Vnode | None = None
    names: dict[str, Fid] | None = None


class Hello(NamedTuple):
    """Opens a callback channel."""

    host: str
    resumes: SessionName | None = None


class Ack(NamedTuple):
    """Acknowledges a message."""

    sequence: int


class RenewLease(NamedTuple):
    """Asks for the lease to start anew."""

    number: int


class Init(NamedTuple):
    """InitCallBackState."""

    sequence: int
    epoch: int
    lease_s: float
    kept: bool = False


class Break(NamedTuple):
    """Some promises end."""

    sequence: int
    epoch: int
    targets: tuple[Fid, ...]
    reason: BreakReason
    through: int


class Probe(NamedTuple):
    """Answers a renewal."""

    renews: int


class Request(NamedTuple):
    """A call."""

    number: int
    host: str | None
    method: str
    fid: Fid
    name: str = ""


class Cancel(NamedTuple):
    """The caller hung up."""

    number: int


class Answer(NamedTuple):
    """How a call ended; `message` counts the messages of a stream."""

    number: int
    epoch: int
    reply: Reply | None
    error: AfsError | None
    outcome_unknown: bool = False


@dataclass
class Writer:
    """Who makes a change; `waits` as long as there is somebody to be answered."""

    host: str | None
    waits: bool = True


class Attached:
    """One attachment of a volume."""

    def __init__(self, volume: DiskVolume) -> None:
        self.volume = volume
        self.online = True
        self.pending: list[tuple[Callable[[], Vnode], Future[Vnode]]] = []
        self.syncing: list[tuple[Callable[[], Vnode], Future[Vnode]]] = []
        self.committing: Future[None] | None = None
        self.running = 0
        self.idle = Level()

    def check(self) -> None:
        """VBUSY once the volume is being taken away."""
        if not self.online:
            raise AfsError(AfsCode.VBUSY, "is being taken off-line")


@dataclass
class Entry:
    """A volume as the table knows it."""

    volume: DiskVolume
    record: VolumeRecord
    attached: Attached | None = None
    changing: bool = False
    lock: Level | None = None

    @property
    def state(self) -> VolumeState:
        """Where it is."""
        return VolumeState.CHANGING if self.changing else self.record.state


class Times(NamedTuple):
    """How long the fileserver's machine takes for things, seconds; a share of statuses is cold."""

    sync_s: float
    read_s: float
    cold: float


class FileServer:
    """One life of the fileserver.

    Args:
        process: its process; a new one for every life.
        disk: what survives it.
        checker: told of everything that matters.
        settings: of the machine.
        by_worker: the break policy `later`; else `sync`.
        times: how long things take.
        rng: for them.
        tell: notes one line of the history.
    """

    def __init__(
        self,
        process: Process,
        disk: Disk,
        checker: Checker,
        settings: CallBackSettings,
        *,
        by_worker: bool,
        times: Times,
        rng: random.Random,
        tell: Callable[..., None],
    ) -> None:
        self.process = process
        self.disk = disk
        self.checker = checker
        self.times = times
        self._rng = rng
        self._tell = tell
        self._by_worker = by_worker
        wall_ms = int((process.clock.wall_offset + process.now()) * 1000)
        kept = self._take_kept()
        self.epoch = disk.last_epoch = max(disk.last_epoch + 1, wall_ms)
        self.machine = CallBackMachine(
            settings, process.now(), sorted(disk.known_hosts), self.epoch
        )
        self.deadline = settings.break_deadline_s
        self.longest_wait_s = settings.break_deadline_s + (
            settings.stretched_lease_s if settings.strict else 0.0
        )
        self.worker_paused_until = 0.0
        self.marked_since: float | None = None
        self.volumes: dict[int, Entry] = {}
        self.waiting: dict[int, Future[Outcome]] = {}
        self._unsynced: dict[int, dict[Fid, Vnode]] = {}
        self.frozen_s = 0.0
        self.thawed_at = 0.0
        self._known = set(disk.known_hosts)
        self._wake_worker = Level()
        self._outboxes: dict[int, Connection] = {}
        self._hosts_of: dict[int, str] = {}
        self._channels = count(1)
        self._tickets = count(1)
        self._armed: float | None = None
        self._ends: dict[int, Future[None]] = {}
        self._calls: dict[tuple[Connection, int], Task[None]] = {}
        self.stopping = False
        self._changing = 0
        self._no_changes = Level()
        if kept is not None:
            self.machine.restore(kept.callbacks, process.now())
        self._attach_all()
        if kept is not None:
            marks = {volume_id: entry.record.mark for volume_id, entry in self.volumes.items()}
            known = {volume_id: mark for volume_id, mark in marks.items() if mark is not None}
            unchanged = saved_state.unchanged_volumes(kept.volumes, known)
            self._execute(self.machine.compare_volumes(unchanged, process.now()))
            self.disk.known_hosts.update(self.machine.hosts)
        process.start(self._work())
        self._poke()

    # --- planned restarts -------------------------------------------------------------------------

    def _take_kept(self) -> KeptState | None:
        """What the life before this one left; the file is gone when this returns."""
        data = self.disk.callback_state
        if data is None:
            return None
        self._remove_state()
        try:
            kept = callback_state.decode(data)
            callback_state.check(
                kept, last_epoch=self.disk.last_epoch, boot_id=BOOT_ID, now=self.process.now()
            )
        except callback_state.UnusableStateError as error:
            self._tell("fileserver", f"sets the callback state aside: {error}")
            return None
        self._tell("fileserver", "takes the callback state", hosts=len(kept.callbacks.hosts))
        return kept

    def _remove_state(self) -> None:
        self.disk.callback_state = None

    async def stop(self) -> None:
        """As `FileServerDaemon.stop`: channels end, calls drain, volumes go, state is written."""
        self.stopping = True
        self.machine.begin_stop()
        for ended in list(self._ends.values()):
            ended.set(None)
        drained_by = self.process.now() + DRAIN_S
        while self._calls and self.process.now() < drained_by:
            await sleep(self.process, 0.05)
        for task in self._calls.values():
            task.cancel()
        while self._changing:
            self._no_changes.clear()
            await self._no_changes.wait(self.process, 3600.0)
        marks = {}
        for volume_id, entry in self.volumes.items():
            if entry.attached is not None:
                await self._let_go(entry, entry.attached)
                entry.record = VolumeRecord(VolumeState.OFFLINE)
                marks[volume_id] = entry.volume.mark
        saved = self.machine.save(self.process.now())
        if saved.hosts:
            kept = KeptState(self.epoch, BOOT_ID, self.process.now(), saved, marks)
            self.disk.callback_state = callback_state.encode(kept)
        self._tell("fileserver", "stopped", left=[host.uuid for host in saved.hosts])

    # --- connections ------------------------------------------------------------------------------

    def accept_calls(self, connection: Connection) -> None:
        """A client connected, for calls."""
        connection.receive_at_server = lambda message: self._take_call(connection, message)
        connection.on_lost_at_server = lambda: self._calls_lost(connection)

    def _take_call(self, connection: Connection, message: Request | Cancel | None) -> None:
        if message is None:
            connection.lost_at_server = True
            self._calls_lost(connection)
        elif isinstance(message, Cancel):
            task = self._calls.pop((connection, message.number), None)
            if task is not None:
                task.cancel()
        elif not self.stopping:
            self._calls[connection, message.number] = self.process.spawn(
                self._serve(connection, message)
            )

    def _calls_lost(self, connection: Connection) -> None:
        for key in [key for key in self._calls if key[0] is connection]:
            self._calls.pop(key).cancel()

    def accept_channel(self, connection: Connection) -> None:
        """A client connected, for a callback channel."""
        hello: Future[Hello] = Future()
        ended: Future[None] = Future()
        channel: list[tuple[str, int]] = []

        def receive(message: Hello | Ack | RenewLease | None) -> None:
            match message:
                case Hello():
                    hello.set(message)
                case Ack(sequence) if channel:
                    self._step(self.machine.acked(*channel[0], sequence, self.process.now()))
                case RenewLease(number) if channel:
                    self._step(self.machine.lease_renewed(*channel[0], number, self.process.now()))
                case _:
                    ended.set(None)

        connection.receive_at_server = receive
        connection.on_lost_at_server = lambda: ended.set(None)
        self.process.start(self._attach(connection, hello, ended, channel))

    async def _attach(
        self,
        connection: Connection,
        hello: Future[Hello],
        ended: Future[None],
        channel: list[tuple[str, int]],
    ) -> None:
        """CallBackChannel.Attach, from hello to its end."""
        host, resumes = await hello
        if host not in self._known:
            await sleep(self.process, self._sync_s())
            self._known.add(host)
            self.disk.known_hosts.add(host)
        if self.stopping:
            connection.close_at_server()
            return
        number = next(self._channels)
        self._outboxes[number] = connection
        self._hosts_of[number] = host
        now = self.process.now()
        instructions = self.machine.attach(host, number, "sim", "sim", now, resumes)
        assert instructions is not None
        channel.append((host, number))
        self._ends[number] = ended
        self._step(instructions)
        await ended
        channel.clear()
        del self._outboxes[number]
        del self._ends[number]
        self._step(self.machine.channel_closed(host, number, self.process.now()))
        connection.close_at_server()

    # --- CallPreamble -----------------------------------------------------------------------------

    async def _serve(self, connection: Connection, request: Request) -> None:
        """One call, with the preamble before it and the check behind it."""
        host = request.host
        reply: Reply | None = None
        error: AfsError | None = None
        refused_by_preamble = outcome_unknown = False
        try:
            if host is not None and not self.machine.may_answer(host):
                refused_by_preamble = True
                await self._call_preamble(host)
                refused_by_preamble = False
            try:
                reply = await self._method(request)
            except AfsError as failure:
                error = failure
            if host is not None:
                refused_by_preamble = outcome_unknown = True
                await self._before_answer(host)
                refused_by_preamble = outcome_unknown = False
        except AfsError as failure:
            reply, error = None, failure
        self._calls.pop((connection, request.number), None)
        if host is not None and not refused_by_preamble:
            self.checker.answer_leaves(host, f"{request.method} {request.fid}")
        connection.down.send(Answer(request.number, self.epoch, reply, error, outcome_unknown))

    async def _before_answer(self, host: str) -> None:
        """The second look of CallPreamble, right before the answer leaves."""
        while not self.machine.may_answer(host):
            await self._call_preamble(host)

    async def _call_preamble(self, host: str) -> None:
        ticket, done = self._ticket()
        began = self.process.now()
        self._step(self.machine.call_arrived(host, ticket, self.process.now()))
        try:
            outcome = await done
        except Cancelled:
            self.machine.call_abandoned(host, ticket)
            self.waiting.pop(ticket, None)
            raise
        self._waited(f"a call of {host}", began, self.deadline)
        if outcome is Outcome.HOST_DOWN:
            raise AfsError(AfsCode.RX_CALL_DEAD, f"host {host} has not acknowledged")
        if outcome is Outcome.TOO_MANY_WAITING:
            raise AfsError(AfsCode.VLIMIT, f"host {host} has too many calls waiting")

    def _waited(self, who: str, began: float, at_most_s: float) -> None:
        """Checks that nobody waits longer than the mechanism says (I7)."""
        waited_s = self.process.now() - began
        slack_s = 0.01 + self.frozen_s
        ensure(waited_s <= at_most_s + slack_s, "I7", f"{who} waited {waited_s:.3f} s")

    # --- FileServer -------------------------------------------------------------------------------

    async def _method(self, request: Request) -> Reply:
        match request.method:
            case "FetchStatus":
                return Reply(*await self._status(self._use(request.fid), request.fid, request.host))
            case "FetchData":
                return await self._fetch_data(request)
            case "ReadDir":
                return await self._read_dir(request)
            case "StoreData":
                return await self._store_data(request)
            case "CreateFile":
                return await self._create_file(request)
            case "RemoveFile":
                return await self._remove_file(request)
            case "GiveUpAllCallBacks":
                assert request.host is not None
                _, instructions = self.machine.give_up_all(request.host)
                self.checker.given_up(request.host)
                self._tell("fileserver", f"takes all promises of {request.host} back")
                self._step(instructions)
                return Reply(next(iter(self.disk.volumes.values())).vnodes[request.fid])
            case other:
                raise AssertionError(other)

    async def _status(
        self, attached: Attached, fid: Fid, caller: str | None
    ) -> tuple[Vnode, Offer | None]:
        if self._is_cold() or fid not in attached.volume.vnodes:
            await self._read(attached)
            self._vnode(attached, fid)
            attached.check()
        offer = self._promise(fid, caller)
        if self._is_cold():
            await self._read(attached)
        return self._vnode(attached, fid), offer

    async def _fetch_data(self, request: Request) -> Reply:
        attached = self._use(request.fid)
        _, offer = await self._status(attached, request.fid, request.host)
        await self._read(attached)
        return Reply(self._vnode(attached, request.fid), offer)

    async def _read_dir(self, request: Request) -> Reply:
        attached = self._use(request.fid)
        vnode, offer = await self._status(attached, request.fid, request.host)
        await self._read(attached)
        return Reply(vnode, offer, names=dict(attached.volume.names))

    async def _store_data(self, request: Request) -> Reply:
        attached = self._use(request.fid)
        await self._read(attached)
        vnode = await self._change(
            attached,
            lambda: attached.volume.write(self._vnode(attached, request.fid).fid),
            lambda vnode: {vnode.fid: BreakReason.DATA_CHANGED},
            request.host,
        )
        return Reply(vnode, self._writers_promise(attached, vnode, request.host))

    async def _create_file(self, request: Request) -> Reply:
        attached = self._use(request.fid)
        volume = attached.volume
        directory: list[Vnode] = []

        def make() -> Vnode:
            if request.name in volume.names:
                raise AfsError(AfsCode.EEXIST, request.name)
            vnode = volume.make_file(request.name)
            directory.append(volume.vnodes[volume.root])
            return vnode

        vnode = await self._change(
            attached,
            make,
            lambda vnode: {volume.root: BreakReason.DATA_CHANGED},
            request.host,
        )
        offer = self._writers_promise(attached, vnode, request.host)
        return Reply(vnode, offer, directory[0])

    async def _remove_file(self, request: Request) -> Reply:
        attached = self._use(request.fid)
        volume = attached.volume
        directory: list[Vnode] = []

        def remove() -> Vnode:
            if request.name not in volume.names:
                raise AfsError(AfsCode.ENOENT, request.name)
            vnode = replace(volume.vnodes[volume.names[request.name]], link_count=0)
            volume.remove_file(request.name)
            directory.append(volume.vnodes[volume.root])
            return vnode

        vnode = await self._change(
            attached,
            remove,
            lambda vnode: {
                volume.root: BreakReason.DATA_CHANGED,
                vnode.fid: BreakReason.REMOVED,
            },
            request.host,
        )
        return Reply(vnode, None, directory[0])

    def _promise(self, fid: Fid, host: str | None) -> Offer | None:
        if host is None:
            return None
        promise, instructions = self.machine.give_promise(host, fid, self.process.now())
        self._execute(instructions)
        if promise is None:
            return None
        now = self.process.kernel.now
        self.checker.promised(host, fid, promise.sequence, now + promise.lifetime_s)
        self._tell("fileserver", f"promises {fid} to {host}", sequence=promise.sequence)
        return Offer(promise.lifetime_s, promise.sequence, self.epoch)

    def _writers_promise(
        self, attached: Attached, vnode: Vnode, writer: str | None
    ) -> Offer | None:
        if not attached.online or attached.volume.vnodes.get(vnode.fid) != vnode:
            return None
        return self._promise(vnode.fid, writer)

    async def _change(
        self,
        attached: Attached,
        mutate: Callable[[], Vnode],
        changed: Callable[[Vnode], dict[Fid, BreakReason]],
        writer: str | None,
    ) -> Vnode:
        """Commits a change and breaks; a task of its own, so that a caller may hang up."""
        self._changing += 1
        who = Writer(writer)
        try:
            return await self.process.spawn(self._to_the_end(attached, mutate, changed, who))
        except Cancelled:
            who.waits = False
            raise

    async def _to_the_end(
        self,
        attached: Attached,
        mutate: Callable[[], Vnode],
        changed: Callable[[Vnode], dict[Fid, BreakReason]],
        writer: Writer,
    ) -> Vnode:
        """A change that a stop waits for."""
        try:
            return await self._commit_and_break(attached, mutate, changed, writer)
        finally:
            self._change_ended()

    def _change_ended(self) -> None:
        self._changing -= 1
        if not self._changing:
            self._no_changes.set()

    async def _commit_and_break(
        self,
        attached: Attached,
        mutate: Callable[[], Vnode],
        changed: Callable[[Vnode], dict[Fid, BreakReason]],
        who: Writer,
    ) -> Vnode:
        attached.check()
        change = Change({}, by_volume=False, writer=who.host)

        def commit() -> Vnode:
            vnode = mutate()
            fids = {vnode.fid, *changed(vnode)}
            change.versions = {fid: attached.volume.versions[fid] for fid in fids}
            return vnode

        done: Future[Vnode] = Future()
        attached.pending.append((commit, done))
        if attached.committing is None:
            attached.committing = self.process.spawn(self._commit(attached))
        vnode = await done
        # One that hung up is told nothing, so it keeps nothing.
        writer = who.host if who.waits else None
        self._tell("fileserver", "committed", change=change.versions, writer=writer)
        reasons = changed(vnode)
        began = self.process.now()
        await self._break_callbacks(reasons, writer, change)
        self._waited(f"the writer {writer}", began, self.longest_wait_s)
        for fid, reason in reasons.items():
            if reason is BreakReason.REMOVED:
                self.machine.delete_promises(fid)
                self.checker.deleted(fid)
        self.checker.acked(change, self.process.kernel.now)
        self._tell("fileserver", "acknowledged", change=change.versions)
        return vnode

    async def _commit(self, attached: Attached) -> None:
        """Group commit: what came meanwhile is synced together."""
        while attached.pending:
            attached.syncing, attached.pending = attached.pending, []
            await sleep(self.process, self._sync_s())
            batch, attached.syncing = attached.syncing, []
            for commit, done in batch:
                try:
                    done.set(commit())
                except AfsError as error:
                    done.fail(error)
        attached.committing = None

    async def _break_callbacks(
        self, reasons: dict[Fid, BreakReason], writer: str | None, change: Change
    ) -> None:
        fids = list(reasons.items())
        through = self.machine.sequence
        real = self.process.kernel.now
        self.checker.must_break(tuple(reasons), writer, through, real)
        if not self.machine.has_other_holders(fids, writer):
            self._all_know(reasons, writer, through)
            return
        self.checker.broken_through(self.epoch, change, through)
        ticket, done = self._ticket()
        began = self.process.now()
        self._step(self.machine.break_callbacks(fids, writer, ticket, began))
        await done
        if self.process.now() - began < self.deadline:
            self._all_know(reasons, writer, through)

    def _all_know(self, changed: Iterable[Fid], writer: str | None, through: int) -> None:
        """Checks that a writer is answered only when live holders know of this and what was before.

        Unless it has waited for the whole break deadline.
        """
        for host, owed in self.checker.owed().items():
            known = self.machine.hosts.get(host)
            if host == writer or known is None or not known.is_up:
                continue
            for one in owed:
                ensure(
                    one.through > through or not {*one.fids} & {*changed},
                    "I8",
                    f"the writer {writer} is answered while {host}, which is up, has not taken in "
                    f"the break of {one.target}",
                )

    # --- volumes ----------------------------------------------------------------------------------

    def _use(self, fid: Fid) -> Attached:
        entry = self.volumes[fid.volume]
        if entry.state is VolumeState.ONLINE and entry.attached is not None:
            return entry.attached
        raise AfsError(AfsCode.VBUSY, f"volume {fid.volume} is {entry.state.name}")

    @staticmethod
    def _vnode(attached: Attached, fid: Fid) -> Vnode:
        vnode = attached.volume.vnodes.get(fid)
        if vnode is None:
            raise AfsError(AfsCode.VNOVNODE, f"there is no {fid}")
        return vnode

    async def _read(self, attached: Attached) -> None:
        """A visit to the disk; the volume is not let go of meanwhile."""
        attached.check()
        attached.running += 1
        # In a task of its own: a thread cannot be cancelled.
        await self.process.spawn(self._read_in_thread(attached))

    async def _read_in_thread(self, attached: Attached) -> None:
        await sleep(self.process, self._rng.uniform(0.2, 2.0) * self.times.read_s)
        attached.running -= 1
        if not attached.running:
            attached.idle.set()

    def _attach_all(self) -> None:
        for volume_id, volume in self.disk.volumes.items():
            if volume.holder not in (None, HOLDER):
                record = VolumeRecord(VolumeState.CHECKED_OUT)
                self.volumes[volume_id] = Entry(volume, record)
            else:
                volume.holder = HOLDER
                record = VolumeRecord(VolumeState.ONLINE, mark=volume.mark)
                self.volumes[volume_id] = Entry(volume, record, Attached(volume))

    async def operate(
        self,
        volume_id: int,
        command: FsyncCommand,
        reason: FsyncReason,
        program: str,
        change: Change | None = None,
    ) -> Decision:
        """FSSync.VolumeOp; `change` is what the program did to the volume, for the checker."""
        self._changing += 1
        decision = await self._decide(volume_id, command, reason, program)
        if decision.breaks is not None:
            began = self.process.now()
            await self._volume_changed(volume_id, decision.breaks, change)
            if self._by_worker:
                ensure(self.process.now() == began, "I2", f"{command.name} waited for a client")
        if change is not None and decision.response is FsyncResponse.OK:
            self.checker.acked(change, self.process.kernel.now)
        self._tell(
            "fileserver",
            f"{command.name} {volume_id}: {decision.response.name}",
            by=program,
            breaks=decision.breaks and decision.breaks.name,
        )
        self._change_ended()
        return decision

    async def _decide(
        self, volume_id: int, command: FsyncCommand, reason: FsyncReason, program: str
    ) -> Decision:
        entry = self.volumes[volume_id]
        if command in PASSING_COMMANDS:
            record = replace(entry.record, state=entry.state)
            return volume_state.decide(record, command, reason, program)
        while entry.lock is not None:
            await entry.lock.wait(self.process, 3600.0)
        entry.lock = Level()
        decision = volume_state.decide(entry.record, command, reason, program)
        entry.changing = decision.step is not Step.NOTHING
        decision = await self._carry_out(entry, decision)
        entry.changing = False
        assert decision.record is not None
        entry.record = decision.record
        lock, entry.lock = entry.lock, None
        lock.set()
        return decision

    async def _carry_out(self, entry: Entry, decision: Decision) -> Decision:
        volume = entry.volume
        if decision.step is Step.ATTACH:
            await sleep(self.process, self._sync_s())
            if volume.holder is not None:
                return volume_state.attach_failed(decision, AfsCode.VBUSY, "it is open elsewhere")
            volume.holder = HOLDER
            entry.attached = Attached(volume)
            return volume_state.attached(decision, volume.mark)
        if decision.step is Step.DETACH:
            assert entry.attached is not None
            await self._let_go(entry, entry.attached)
            return volume_state.detached(decision, volume.mark)
        return decision

    async def _let_go(self, entry: Entry, attached: Attached) -> None:
        """Detaches a volume."""
        attached.online = False
        while attached.committing is not None:
            await attached.committing
        while attached.running:
            attached.idle.clear()
            await attached.idle.wait(self.process, 3600.0)
        await sleep(self.process, self._sync_s())
        entry.attached = None
        entry.volume.holder = None

    async def _volume_changed(
        self, volume: int, reason: BreakReason, change: Change | None
    ) -> None:
        """Has all callbacks of a volume broken, as the policy says."""
        through = self.machine.sequence
        target = whole_volume_fid(volume)
        self.checker.must_break((target,), None, through, self.process.kernel.now)
        if change is not None:
            self.checker.broken_through(self.epoch, change, through)
        if self._by_worker:
            _, instructions = self.machine.break_volume_callbacks_later(volume, reason)
            self._step(instructions)
            return
        ticket, done = self._ticket()
        _, instructions = self.machine.break_volume_callbacks(
            volume, reason, ticket, self.process.now()
        )
        self._step(instructions)
        await done

    # --- the worker -------------------------------------------------------------------------------

    async def _work(self) -> None:
        """BreakLaterCallBacks, on every wake-up and every tick (M4)."""
        woken = True
        while True:
            self._wake_worker.clear()
            worked = False
            while self._break_later():
                worked = True
                await self._give_way()
            ensure(woken or not worked, "I5", "the worker's tick found work: a wake-up was lost")
            await self._give_way()
            woken = await self._wake_worker.wait(self.process, WORKER_TICK_S)
            if woken:
                await sleep(self.process, ACK_HEAD_START_S)

    def _break_later(self) -> int:
        worked, instructions = self.machine.break_later_callbacks(self.process.now())
        self._step(instructions)
        return worked

    async def _give_way(self) -> None:
        """Others have a turn; the loop may be busy with them for a while."""
        pause_s = self.worker_paused_until - self.process.kernel.now
        await sleep(self.process, max(0.0, pause_s))

    # --- inside -----------------------------------------------------------------------------------

    def _is_cold(self) -> bool:
        return self._rng.random() < self.times.cold

    def _sync_s(self) -> float:
        return self._rng.uniform(0.2, 2.0) * self.times.sync_s

    def _ticket(self) -> tuple[int, Future[Outcome]]:
        ticket = next(self._tickets)
        done = self.waiting[ticket] = Future()
        return ticket, done

    def _step(self, instructions: Sequence[Instruction]) -> None:
        self._execute(instructions)
        self._poke()

    def _poke(self) -> None:
        due = self.machine.next_deadline()
        if due is not None and (self._armed is None or due < self._armed):
            self._armed = due
            self.process.kernel.at(
                self.process.clock.real(due) + 1e-9, self.process, self._tick, due
            )

    def _tick(self, due: float) -> None:
        if self._armed == due:
            self._armed = None
            self._step(self.machine.tick(self.process.now()))

    def _execute(self, instructions: Sequence[Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case SendBreak(channel, sequence, targets, reason, through):
                    host, real = self._hosts_of[channel], self.process.kernel.now
                    self.checker.break_sent(host, self.epoch, targets, through, real)
                    self._tell(
                        "fileserver",
                        f"sends Break to {host}",
                        targets=[*map(str, targets)],
                        through=through,
                        reason=reason.name,
                    )
                    message = Break(sequence, self.epoch, targets, reason, through)
                    self._outboxes[channel].down.send(message)
                case SendReset(channel, sequence, keeps):
                    self._tell(
                        "fileserver",
                        f"sends InitCallBackState to {self._hosts_of[channel]}",
                        keeps=keeps,
                    )
                    lease_s = self.machine.settings.channel_lease_s
                    init = Init(sequence, self.epoch, lease_s, keeps)
                    self._outboxes[channel].down.send(init)
                case AnswerRenewal(channel, number):
                    self._outboxes[channel].down.send(Probe(number))
                case CloseChannel(channel):
                    if channel in self._ends:
                        self._ends[channel].set(None)
                case Resolve(ticket, outcome):
                    waiting = self.waiting.pop(ticket, None)
                    if waiting is not None:
                        waiting.set(outcome)
                case WakeWorker():
                    self._wake_worker.set()
                case ForgetHost(uuid):
                    self._known.discard(uuid)
                    if self._rng.random() < 0.5:
                        self.disk.known_hosts.discard(uuid)
                    self.checker.all_dropped(uuid)
                case Observed():
                    pass

    def lose_unsynced(self, rng: random.Random) -> None:
        """The process died: of what was being synced, the first few may be on disk all the same."""
        for entry in self.volumes.values():
            if entry.attached is None or entry.volume.holder != HOLDER:
                continue
            pending = [*entry.attached.syncing, *entry.attached.pending]
            for commit, _ in pending[: rng.randrange(len(pending) + 1)]:
                try:
                    commit()
                except AfsError:
                    continue

    def is_alive(self) -> bool:
        """False once its process was killed."""
        return self.process.alive

    def check(self) -> None:
        """I1, and that no mark is left lying about (I5)."""
        self.machine.check()
        if not self.machine.later.marked:
            self.marked_since = None
        elif self.marked_since is None:
            self.marked_since = self.process.kernel.now
        else:
            since = max(self.marked_since, self.worker_paused_until, self.thawed_at)
            waits_s = self.process.kernel.now - since
            ensure(waits_s < 5.0, "I5", f"a volume is marked and unbroken for {waits_s:.1f} s")
